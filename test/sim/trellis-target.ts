/** The whole node: edits by operators on every host while everything fails; at the end nothing acknowledged is missing. */
import { decode } from '../../crdt/codec.ts';
import { hex, type Hash, type ObjectId } from '../../crdt/ids.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import { openAs } from '../../crdt/records.ts';
import { ClusterError } from '../../daemon/errors.ts';
import { AcknowledgedChecker } from './checkers/acknowledged.ts';
import { documentsDifference } from './checkers/equal-documents.ts';
import { SimCrypto } from './sim-crypto.ts';
import type { SimRandom } from './sim-random.ts';
import type { Target } from './target.ts';
import { serviceLeaves, TrellisWorld } from './trellis-world.ts';

/** Per seed: many seeds of few edits find more than few of many. */
const editsMax = 60;

export const trellisTarget: Target = {
  name: 'trellis',
  nodesMin: 1,
  nodesMax: 5,
  forMsMax: 60_000,
  make({ seed, swarm, random, print }) {
    const world = new TrellisWorld({
      seed,
      nodeCount: swarm.nodeCount,
      network: swarm.network,
      storage: swarm.storage,
      driftMax: swarm.driftMax,
      wallOffsetMsMax: swarm.wallOffsetMsMax,
      ...(print === undefined ? {} : { print }),
    });
    const workload = new Workload(world, random);
    return {
      world,
      convergeWithinMs: 120_000,
      begin: (forMs) => workload.begin(forMs),
      corruptible: (index) => workload.corruptible(index),
      judge: () => workload.judge(),
    };
  },
};

class Workload {
  readonly #world: TrellisWorld;
  readonly #random: SimRandom;
  readonly #acknowledged = new AcknowledgedChecker();
  readonly #objects: readonly ObjectId[];
  #edits = 0;

  constructor(world: TrellisWorld, random: SimRandom) {
    this.#world = world;
    this.#random = random;
    this.#objects = Array.from({ length: 2 }, () => hex(random.bytes(8)) as ObjectId);
  }

  begin(forMs: number): void {
    const [service, role] = this.#objects as [ObjectId, ObjectId];
    const spec = {
      name: 'site',
      role: 'web',
      image: 'demo',
      count: { perRole: { min: 3, max: 3 } },
    };
    this.#edit(0, serviceLeaves(spec, { service, role }));
    const everyMs = Math.max(50, forMs / editsMax);
    const next = (): void => {
      if (this.#edits >= editsMax || this.#world.nowMs > forMs) return;
      this.#act();
      this.#world.scheduler.after(this.#random.between(0, 2 * everyMs), next);
    };
    this.#world.scheduler.after(everyMs, next);
  }

  /** A file may be damaged while every acknowledged edit in it is on some other disk, too. */
  corruptible(index: number): string | null {
    const files = this.#world
      .disk(index)
      .names()
      .filter((name) => /^(log\/envelopes|file\/(document|plan)-.*)$/.test(name));
    if (files.length === 0) return null;
    const file = this.#random.pick(files);
    if (!file.startsWith('log/')) return file;
    const elsewhere = new Set<Hash>();
    for (let other = 0; other < this.#world.nodeCount; other++) {
      if (other !== index) for (const hash of this.#hashesOn(other)) elsewhere.add(hash);
    }
    return this.#hashesOn(index).every((hash) => elsewhere.has(hash)) ? file : null;
  }

  judge(): void {
    for (const index of this.#world.up())
      this.#acknowledged.check(this.#world.node(index).node, `n${index}`);
    const nodes = this.#world
      .up()
      .map((index) => ({ name: `n${index}`, node: this.#world.node(index).node }));
    const difference = documentsDifference(nodes);
    if (difference !== null) throw new Error(difference);
    // Everybody again, from its disk and alone: what it acknowledged was never only in its memory.
    for (const index of this.#world.up()) this.#world.isolate(index);
    for (const index of this.#world.up()) {
      this.#world.run({ forMs: 1_000 });
      this.#world.crash(index, 'power');
      const { node } = this.#world.start(index);
      this.#acknowledged.check(node, `n${index} after a restart alone`, { by: index });
    }
  }

  #act(): void {
    const index = this.#random.index(this.#world.nodeCount);
    if (!this.#world.isUp(index) || this.#world.isPaused(index)) return;
    if (this.#random.chance(0.1)) this.#world.node(index).apply(() => {});
    else
      this.#edit(index, [
        this.#put(index),
        ...(this.#random.chance(0.3) ? [this.#put(index)] : []),
      ]);
  }

  /**
   * Few leaves, so that concurrent edits of one leaf happen; every value is new. Only objects that this host has seen:
   * an object is made once, by whoever drew its id.
   */
  #put(index: number): LeafPut {
    const reader = this.#world.node(index).node.reader('env/prod');
    const known = this.#objects.filter((object) => reader.leaves(object).size > 0);
    const object = this.#random.pick([...known, 'settings' as const]);
    const pointer =
      object === 'settings'
        ? `/hosts/${'ab'.repeat(16)}/meta/k${this.#random.index(4)}`
        : `/env/K${this.#random.index(4)}`;
    return { object, pointer, value: `v${this.#edits}` };
  }

  #edit(index: number, puts: readonly LeafPut[]): void {
    this.#edits++;
    this.#world.node(index).edit(puts, (result) => {
      if (result instanceof ClusterError) this.#acknowledged.refused++;
      else if (result.hash !== null)
        this.#acknowledged.add({ hash: result.hash, by: index, atMs: this.#world.nowMs, puts });
    });
  }

  /** Acknowledged edits that are synced on this host's disk. */
  #hashesOn(index: number): readonly Hash[] {
    const wanted = new Set(this.#acknowledged.hashes());
    return this.#world
      .disk(index)
      .synced('log/envelopes')
      .flatMap((record) => {
        const stored = decode(record) as { s?: unknown } | null;
        const opened = stored?.s instanceof Uint8Array ? openAs('envelope', stored.s) : null;
        const hash = opened === null ? null : (hex(crypto.sha256(opened.payload)) as Hash);
        return hash !== null && wanted.has(hash) ? [hash] : [];
      });
  }
}

const crypto = new SimCrypto();
