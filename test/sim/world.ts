/**
 * N nodes made from one seed, running in virtual time on simulated clocks, links and disks. Read this file first.
 *
 *   const world = new World({ seed: 7, nodeCount: 5, factory: (ports) => new MyNode(ports) });
 *   world.startAll();
 *   world.network.partition([world.ids[4]], world.ids.slice(0, 4));
 *   world.run({ forMs: 30_000 });
 *   world.network.heal();
 *   world.converge({ withinMs: 15_000 }); // throws what is still pending
 *
 * A node is whatever `factory` returns; it is made anew at each restart and finds its disk as the crash left it.
 */
import { hex, type NodeId } from '../../crdt/ids.ts';
import type { Clock, Crypto, Log, Network, Random, Storage } from '../../daemon/ports.ts';
import { Scheduler } from './scheduler.ts';
import { SimClock } from './sim-clock.ts';
import { SimCrypto } from './sim-crypto.ts';
import { SimHost } from './sim-host.ts';
import { SimLog } from './sim-log.ts';
import { defaultNetwork, SimNetwork, type NetworkOptions } from './sim-network.ts';
import { SimRandom } from './sim-random.ts';
import { defaultStorage, SimDisk, SimStorage, type StorageOptions } from './sim-storage.ts';
import { Trace, traceKind } from './trace.ts';

export interface SimPorts {
  readonly clock: Clock;
  readonly random: Random;
  readonly network: Network;
  readonly storage: Storage;
  readonly crypto: Crypto;
  readonly log: Log;
  readonly self: NodeId;
  /** Private half of `self`, as `crypto.keyPair` takes it. */
  readonly keySeed: Uint8Array;
}

export interface SimNode {
  /** Reads the disk, registers handlers, sets timers. */
  start(): void;
  /** A graceful end. A crash never calls it. */
  stop?(): void;
  /** What is not finished yet, for people; null when this node is content. */
  pending?(): string | null;
}

export interface WorldOptions<N extends SimNode> {
  readonly seed: number;
  readonly nodeCount: number;
  factory(ports: SimPorts, index: number): N;
  /** For `converge`; by default the first node's `pending` that is not null. */
  pending?(world: World<N>): string | null;
  /** Safety: called every `checkEveryMs` and whenever a node starts or ends. Throws on a breach. */
  check?(world: World<N>): void;
  readonly checkEveryMs?: number;
  readonly network?: Partial<NetworkOptions>;
  readonly storage?: Partial<StorageOptions>;
  /** Clocks run at 1 ± this; 0.0002 is a bad quartz, 0.05 a broken virtual machine. */
  readonly driftMax?: number;
  readonly wallOffsetMsMax?: number;
  /** Default: the cheap one of the simulator; real signatures where their cost is measured. */
  readonly crypto?: Crypto;
  /** Gets every log line. */
  readonly print?: (line: string) => void;
}

/** So many events within a millisecond are a loop of zero delays. */
const eventsPerMsMax = 200_000;

export class World<N extends SimNode> {
  readonly seed: number;
  readonly ids: readonly NodeId[];
  readonly network: SimNetwork;
  readonly scheduler = new Scheduler();
  readonly trace = new Trace();
  readonly log: SimLog;
  /** For the scenario itself; nodes, links and disks have streams of their own. */
  readonly random: SimRandom;
  readonly #options: WorldOptions<N>;
  readonly #hosts: SimHost[] = [];
  readonly #disks: SimDisk[] = [];
  readonly #keySeeds: Uint8Array[] = [];
  readonly #nodes: (N | null)[] = [];
  readonly #crypto: Crypto;

  constructor(options: WorldOptions<N>) {
    this.#options = options;
    this.#crypto = options.crypto ?? new SimCrypto();
    this.seed = options.seed;
    const root = new SimRandom(options.seed);
    this.random = root.fork('scenario');
    this.log = new SimLog(() => this.scheduler.nowMs, options.print ?? null);
    for (let index = 0; index < options.nodeCount; index++)
      this.#addHost(index, root.fork(`host${index}`));
    this.ids = this.#hosts.map((host) => host.id);
    this.network = new SimNetwork({
      hosts: this.#hosts,
      scheduler: this.scheduler,
      random: root.fork('network'),
      trace: this.trace,
      network: { ...defaultNetwork, ...options.network },
    });
    if (options.check !== undefined) this.#scheduleCheck(options.checkEveryMs ?? 100);
  }

  get nowMs(): number {
    return this.scheduler.nowMs;
  }

  get nodeCount(): number {
    return this.#hosts.length;
  }

  /** The running node of this index; throws while it is down. */
  node(index: number): N {
    const node = this.#nodes[index];
    if (node === null || node === undefined) throw new Error(`node ${index} is not running`);
    return node;
  }

  isUp(index: number): boolean {
    return this.#nodes[index] !== null;
  }

  isPaused(index: number): boolean {
    return this.host(index).isPaused;
  }

  /** Indexes of running nodes, ascending. */
  up(): readonly number[] {
    return this.#hosts.filter((host) => host.isUp).map((host) => host.index);
  }

  host(index: number): SimHost {
    return this.#hosts[index] as SimHost;
  }

  disk(index: number): SimDisk {
    return this.#disks[index] as SimDisk;
  }

  keySeed(index: number): Uint8Array {
    return this.#keySeeds[index] as Uint8Array;
  }

  startAll(): void {
    for (let index = 0; index < this.nodeCount; index++) this.start(index);
  }

  start(index: number): N {
    const host = this.host(index);
    if (host.isUp) throw new Error(`node ${index} is running already`);
    const life = host.begin();
    this.trace.mix(traceKind.start, index, this.nowMs, life.number);
    const random = new SimRandom(`${this.seed}/host${index}/life${life.number}`);
    const shared = { host, life, scheduler: this.scheduler, trace: this.trace };
    const node = this.#options.factory(
      {
        clock: new SimClock({ ...shared, startMs: random.fork('clock').between(0, 1e6) }),
        random: random.fork('node'),
        network: this.network.port(host, life),
        storage: new SimStorage({ ...shared, disk: this.disk(index) }),
        crypto: this.#crypto,
        log: this.log.port(index),
        self: host.id,
        keySeed: this.keySeed(index),
      },
      index,
    );
    this.#nodes[index] = node;
    this.#guarded(() => node.start());
    this.network.reassess();
    this.#check();
    return node;
  }

  /** `kill`: the process dies and its connections are reset. `power`: silence. Unsynced writes are lost or torn in both. */
  crash(index: number, how: 'kill' | 'power' = 'kill'): void {
    if (!this.isUp(index)) return;
    this.trace.mix(traceKind.crash, index, this.nowMs, how === 'kill' ? 0 : 1);
    this.#end(index, how);
    this.disk(index).crash();
    this.#check();
  }

  /** Graceful end: `stop()` is called, then what is unsynced is lost as in a crash. */
  stop(index: number): void {
    if (!this.isUp(index)) return;
    this.#guarded(() => this.node(index).stop?.());
    this.crash(index, 'kill');
  }

  restart(index: number): N {
    this.crash(index);
    return this.start(index);
  }

  /** The process gets no CPU: its timers are late, its sockets fill. Ends after `forMs`, or with `resume`. */
  pause(index: number, options: { forMs?: number } = {}): void {
    const host = this.host(index);
    const life = host.life;
    if (life === null || host.isPaused) return;
    this.trace.mix(traceKind.pause, index, this.nowMs, 0);
    host.isPaused = true;
    this.network.reassess();
    if (options.forMs === undefined) return;
    this.scheduler.after(options.forMs, () => {
      if (life.isAlive) this.resume(index);
    });
  }

  resume(index: number): void {
    const host = this.host(index);
    if (!host.isPaused) return;
    this.trace.mix(traceKind.resume, index, this.nowMs, 0);
    host.resume();
    this.network.reassess();
  }

  /** Wall clock only: NTP, an operator, or a virtual machine resumed. */
  jumpWallClock(index: number, byMs: number): void {
    this.host(index).wallOffsetMs += byMs;
  }

  /** Silent cut between two sets of nodes; `from` to `to` only with `bothWays: false`. */
  partition(
    from: readonly number[],
    to: readonly number[],
    options: { bothWays?: boolean } = {},
  ): void {
    this.network.partition(this.#idsOf(from), this.#idsOf(to), options);
  }

  /** Cuts one node off from all others. */
  isolate(index: number): void {
    const others = this.#hosts.map((host) => host.index).filter((other) => other !== index);
    this.partition([index], others);
  }

  heal(): void {
    this.network.heal();
  }

  /** Something that the scenario does later; it survives crashes of nodes. */
  at(atMs: number, act: () => void): void {
    this.scheduler.at(atMs, act);
  }

  run(options: { forMs: number }): void {
    const untilMs = this.nowMs + options.forMs;
    this.#guarded(() => {
      let [atMs, events] = [this.nowMs, 0];
      while (this.scheduler.step(untilMs)) {
        if (this.nowMs > atMs + 1) [atMs, events] = [this.nowMs, 0];
        else if (++events > eventsPerMsMax) throw new Error('livelock: time stands still');
      }
    });
  }

  /** Runs until `holds` or the time is over; the result of the last look. Looks every `everyMs`. */
  runUntil(holds: () => boolean, options: { withinMs: number; everyMs?: number }): boolean {
    const untilMs = this.nowMs + options.withinMs;
    const everyMs = options.everyMs ?? 20;
    while (!holds()) {
      if (this.nowMs >= untilMs) return false;
      this.run({ forMs: Math.min(everyMs, untilMs - this.nowMs) });
    }
    return true;
  }

  /** Runs until nothing is pending; throws what still is. Returns the virtual milliseconds it took. */
  converge(options: { withinMs: number }): number {
    const sinceMs = this.nowMs;
    if (this.runUntil(() => this.pending() === null, { ...options, everyMs: 100 }))
      return this.nowMs - sinceMs;
    throw new Error(
      `seed ${this.seed}: not converged after ${options.withinMs} ms: ${this.pending()}`,
    );
  }

  pending(): string | null {
    if (this.#options.pending !== undefined) return this.#options.pending(this);
    for (const index of this.up()) {
      const what = this.node(index).pending?.() ?? null;
      if (what !== null) return `n${index}: ${what}`;
    }
    return null;
  }

  /** Proves that the run reached a line of the code; returns how often. */
  expectEvent(event: string): number {
    const count = this.log.count(event);
    if (count > 0) return count;
    const seen = this.log.counts().map(([name]) => name);
    throw new Error(`seed ${this.seed}: event '${event}' never happened; seen: ${seen.join(', ')}`);
  }

  traceHash(): string {
    return this.trace.hash();
  }

  #addHost(index: number, random: SimRandom): void {
    const keySeed = random.fork('key').bytes(32);
    const id = hex(this.#crypto.keyPair(keySeed).publicKey) as NodeId;
    const host = new SimHost(index, id, this.scheduler);
    const driftMax = this.#options.driftMax ?? 0.0002;
    host.rate = 1 + random.between(-driftMax, driftMax);
    const wallOffsetMsMax = this.#options.wallOffsetMsMax ?? 500;
    host.wallOffsetMs = Math.floor(random.between(-wallOffsetMsMax, wallOffsetMsMax));
    this.#hosts.push(host);
    this.#keySeeds.push(keySeed);
    this.#disks.push(
      new SimDisk(random.fork('disk'), { ...defaultStorage, ...this.#options.storage }),
    );
    this.#nodes.push(null);
  }

  #end(index: number, how: 'kill' | 'power'): void {
    this.host(index).end();
    this.#nodes[index] = null;
    this.network.ended(index, how);
  }

  #idsOf(indexes: readonly number[]): readonly NodeId[] {
    return indexes.map((index) => this.host(index).id);
  }

  #scheduleCheck(everyMs: number): void {
    this.scheduler.after(everyMs, () => {
      this.#check();
      this.#scheduleCheck(everyMs);
    });
  }

  #check(): void {
    this.#options.check?.(this);
  }

  /** Whatever is thrown inside a node is a failure of this seed. */
  #guarded(act: () => void): void {
    try {
      act();
    } catch (error) {
      if (error instanceof SimFailure) throw error;
      const reason = error instanceof Error ? error.message : String(error);
      throw new SimFailure(`seed ${this.seed}, at ${Math.round(this.nowMs)} ms: ${reason}`, {
        cause: error,
      });
    }
  }
}

export class SimFailure extends Error {
  override readonly name = 'SimFailure';
}
