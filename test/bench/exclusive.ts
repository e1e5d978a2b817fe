/**
 * Rows of one exclusive service on three hosts with engines: power-cuts of its holder, and handovers in order. The service
 * writes "<epoch> <monotonic ns> <host>" every millisecond to a disk that all hosts see and answers requests with the same
 * line, so that "never two at a time" is read from what it wrote itself.
 */
import { join } from 'node:path';
import { eventually, measureFor } from '../await.ts';
import {
  monotonicMs,
  proofOf,
  sizeOf,
  writerImage,
  writerYaml,
  type Proof,
} from '../testbed/exclusive-proof.ts';
import { requestLoop, type RequestLoop, type RequestLoopResult } from '../testbed/request-loop.ts';
import type { BenchContext, Measured } from './context.ts';
import { ask, call, type BundleCluster } from './daemons.ts';
import { engineSocket } from './engine-api.ts';
import { GuardWatch, type Heard } from './guard-watch.ts';
import { overlapWords } from './leases.ts';
import { figureOf, type Figure } from './row.ts';

const service = 'writer';
const image = 'demo/writer:1';
const title = `storage ${service}-disk`;
const withinMs = 60_000;
const askEveryMs = 20;
const engineStarts = 5;
/** Cuts and switches come anywhere between two renewals. */
const renewMs = 400;

/** A request loop, an open gate and a first line each have a clock; this is the difference of the first to the others. */
const wallMinusMonotonicMs = (): number => Date.now() - monotonicMs();

interface Holder {
  readonly index: number;
  readonly epoch: number;
  readonly name: string;
}

export class ExclusiveService {
  readonly #cluster: BundleCluster;
  readonly #role: string;
  readonly #file: string;
  #url = '';

  private constructor(cluster: BundleCluster, role: string) {
    this.#cluster = cluster;
    this.#role = role;
    this.#file = join(cluster.bed.dir, 'shared', `${service}.log`);
  }

  /** It runs on one host of the role, and the others are ready to take over. Replaces what was applied before. */
  static async start(cluster: BundleCluster, role: string): Promise<ExclusiveService> {
    const made = new ExclusiveService(cluster, role);
    await writerImage(cluster.bed.host(0), image);
    await cluster.waitVoters(cluster.bed.hosts.length);
    const yaml = writerYaml({ name: service, role, image });
    await cluster.mustApply(0, `${yaml}roles: { ${role}: {} }\n`, ['--prune', '--yes']);
    const shown = await call<{ address: string; ports: { number: number }[] }>(
      cluster.socket(0),
      'service/show',
      { service },
    );
    made.#url = `http://${shown.address}:${shown.ports[0]?.number}/`;
    await made.whole();
    return made;
  }

  async remove(): Promise<void> {
    await this.#cluster.mustApply(0, `apiVersion: trellis/v1\nroles: { ${this.#role}: {} }\n`, [
      '--prune',
      '--yes',
    ]);
  }

  /** Everybody would take it over, and one has it and writes. */
  async whole(): Promise<Holder> {
    for (const { index } of this.#cluster.bed.hosts) await this.#untilReady(index);
    const holder = await eventually(
      async () => {
        const found = await this.#cluster.holders(title);
        return found.length === 1 ? found[0] : null;
      },
      { withinMs, everyMs: 100, what: 'one holder' },
    );
    const since = sizeOf(this.#file);
    await this.#firstLine(since, holder.epoch);
    return holder;
  }

  async #untilReady(index: number): Promise<void> {
    await eventually(
      async () => {
        const status = await this.#cluster.leaseStatus(index);
        const lease = status.leases.find((one) => one.title === title);
        if (lease?.mayAcquire !== true || !status.hasQuorum || status.silentMs > 0)
          throw new Error(`h${index + 1}: ${lease?.why ?? 'it does not know the lease'}`);
        return true;
      },
      { withinMs, everyMs: 100, what: `h${index + 1} would take over` },
    );
  }

  /** Of an epoch, or of a later one. */
  async #firstLine(offset: number, epochMin: number): Promise<number> {
    return eventually(
      () => proofOf(this.#file, offset).tenures.find(({ epoch }) => epoch >= epochMin)?.firstMs,
      { withinMs, everyMs: 20, what: 'the service writes' },
    );
  }

  /** What the engine alone takes to start a container of this image that was made before. */
  async engineStartsMs(): Promise<number[]> {
    const host = this.#cluster.bed.host(0);
    const samples: number[] = [];
    for (let round = 0; round < engineStarts; round++) {
      await host.mustExec(`docker create --name bench-start --network bridge ${image}`);
      const startMs = monotonicMs();
      const { status, text } = await ask(engineSocket(host), '/containers/bench-start/start', {
        method: 'POST',
      });
      samples.push(monotonicMs() - startMs);
      await host.mustExec('docker rm -f bench-start');
      if (status !== 204) throw new Error(`start of a container: ${status} ${text}`);
    }
    return samples;
  }

  proof(): Proof {
    return proofOf(this.#file);
  }

  // ---- Power cuts -------------------------------------------------------------------------------------------------

  /** The holder's power is cut; the host is back and ready when this resolves. */
  async cutOnce(): Promise<CutTimes> {
    const cluster = this.#cluster;
    const holder = await this.whole();
    const left = cluster.bed.hosts.filter(({ index }) => index !== holder.index);
    const watch = await GuardWatch.on(left);
    const loop = await this.#ask(left[Math.floor(Math.random() * left.length)]?.index ?? 0);
    try {
      await measureFor(Math.random() * renewMs);
      const offset = sizeOf(this.#file);
      const cutMs = monotonicMs();
      await cluster.bed.host(holder.index).powerCut();
      const lapsed = await Promise.all(left.map(({ index }) => this.#lapseMs(index)));
      const next = holder.epoch + 1;
      const openMs = await heardOpen(watch, cutMs, next);
      const electedMs = watch.find(cutMs, isAcquired(holder.name))?.atMs ?? openMs;
      const writtenMs = await this.#firstLine(offset, next);
      const answeredMs = await answered(loop, next);
      const from = (atMs: number): number => atMs - cutMs;
      return {
        answered: from(answeredMs),
        lapsed: from(Math.max(...lapsed)),
        elected: from(electedMs),
        open: from(openMs),
        written: from(writtenMs),
      };
    } finally {
      watch.close();
      await loop.stop();
      await this.#restore(holder.index);
    }
  }

  /** When the grant lapses that this voter gave the dead host. */
  async #lapseMs(index: number): Promise<number> {
    const { leases } = await this.#cluster.leaseStatus(index);
    const lease = leases.find((one) => one.title === title);
    return monotonicMs() + (lease?.holder?.remainMs ?? 0);
  }

  async #restore(index: number): Promise<void> {
    const host = this.#cluster.bed.host(index);
    if (!host.isOn) await host.boot();
    await host.startEngine();
    await this.#cluster.startDaemon(index);
    await this.#cluster.waitReady(this.#cluster.bed.hosts.length);
    // Edits need a session, and a boot ends it.
    if (index === 0) await this.#cluster.login(0);
  }

  // ---- Handovers --------------------------------------------------------------------------------------------------

  async switchOnce(): Promise<SwitchTimes> {
    const cluster = this.#cluster;
    const holder = await this.whole();
    const hosts = cluster.bed.hosts;
    const to = hosts[(holder.index + 1) % hosts.length] as (typeof hosts)[number];
    const observer = hosts[(holder.index + 2) % hosts.length] as (typeof hosts)[number];
    const watch = await GuardWatch.on(hosts);
    const loop = await this.#ask(observer.index);
    try {
      await measureFor(Math.random() * renewMs);
      const offset = sizeOf(this.#file);
      const startMs = monotonicMs();
      const command = ['lease', 'switch', service, '--to', to.name, '--yes'];
      const done = cluster.json(0, command);
      const next = holder.epoch + 1;
      const openMs = await heardOpen(watch, startMs, next);
      const stopMs = watch.find(startMs, ({ notice }) => notice.kind === 'stop')?.atMs ?? startMs;
      const emptyMs = watch.find(startMs, isClosed(holder))?.atMs;
      if (emptyMs === undefined) throw new Error('nobody said that the gate before was closed');
      const writtenMs = await this.#firstLine(offset, next);
      await answered(loop, next);
      await done;
      const { longestGapMs, failed } = await loop.stop();
      return {
        without: openMs - emptyMs,
        prepared: stopMs - startMs,
        stopped: emptyMs - stopMs,
        started: writtenMs - openMs,
        gap: longestGapMs,
        failed,
      };
    } finally {
      watch.close();
      await loop.stop();
    }
  }

  /** A loop under the service's name and number that has had an answer. */
  async #ask(from: number): Promise<RequestLoop> {
    const settings = { url: this.#url, everyMs: askEveryMs, timeoutMs: 500 };
    const loop = await requestLoop(this.#cluster.bed.host(from), settings);
    await eventually(() => loop.peek().ok > 0, { withinMs, what: 'an answer before' });
    return loop;
  }
}

/** Milliseconds after the cut, each. */
interface CutTimes {
  readonly answered: number;
  readonly lapsed: number;
  readonly elected: number;
  readonly open: number;
  readonly written: number;
}

/** Milliseconds; `without`: nobody's gate is open. */
interface SwitchTimes {
  readonly without: number;
  readonly prepared: number;
  readonly stopped: number;
  readonly started: number;
  /** Longest time between two answers. */
  readonly gap: number;
  readonly failed: number;
}

const isAcquired =
  (name: string) =>
  ({ notice }: Heard): boolean =>
    notice.kind === 'event' && notice.event === 'lease.acquired' && notice.name === name;

const isClosed =
  ({ index, name }: Holder) =>
  (heard: Heard): boolean =>
    heard.index === index &&
    heard.notice.kind === 'closed' &&
    heard.notice.name === name &&
    heard.notice.isKilled;

async function heardOpen(watch: GuardWatch, sinceMs: number, epochMin: number): Promise<number> {
  const { atMs } = await eventually(
    () =>
      watch.find(
        sinceMs,
        ({ notice }) =>
          notice.kind === 'open' && isStorage(notice.name) && notice.epoch >= epochMin,
      ),
    { withinMs, everyMs: 10, what: 'the gate of the next holder opens' },
  );
  return atMs;
}

/** The planner's lease moves too when a host dies. */
function isStorage(name: string): boolean {
  return name.startsWith('storage/');
}

/** When the first answer came from a holder of this epoch or a later one. */
async function answered(loop: RequestLoop, epochMin: number): Promise<number> {
  return eventually(
    () => {
      const first = goodOnes(loop.peek()).find(({ answer }) => Number.parseInt(answer) >= epochMin);
      return first === undefined ? null : first.atMs + first.tookMs - wallMinusMonotonicMs();
    },
    { withinMs, everyMs: 50, what: 'an answer of the next holder' },
  );
}

function goodOnes(result: RequestLoopResult): RequestLoopResult['samples'] {
  return result.samples
    .filter(({ isOk }) => isOk)
    .toSorted((a, b) => a.atMs + a.tookMs - (b.atMs + b.tookMs));
}

// ---- Rows -------------------------------------------------------------------------------------------------------

const medianLimitMs = 2_000;
const maximumLimitMs = 4_000;
const switchLimitMs = 100;

/** Without peers; they are measured later on the same engines. */
export async function failoverExclusive(
  context: BenchContext,
  exclusive: ExclusiveService,
): Promise<Measured> {
  const engine = figureOf(await exclusive.engineStartsMs());
  const times: CutTimes[] = [];
  for (let round = 0; round < (context.cuts ?? context.pick(10, 3)); round++) {
    times.push(await exclusive.cutOnce());
    context.say(`exclusive ${partsOf(times.slice(-1))}`);
  }
  const ours = figureOf(times.map((time) => time.answered));
  const { overlaps, falls } = exclusive.proof();
  const isSafe = overlaps.length === 0 && falls.length === 0;
  const isQuick = (ours.median ?? Infinity) <= medianLimitMs && (ours.max ?? 0) <= maximumLimitMs;
  const note = [
    `asked every ${askEveryMs} ms under the name and number of the service; median (maximum) of the parts: ${partsOf(times)}`,
    `the engine alone starts such a container in ${short(engine)} when nothing else happens`,
    overlapWords([...overlaps, ...falls]),
  ].join('; ');
  return { ours, ok: isSafe && isQuick, note };
}

function partsOf(times: readonly CutTimes[]): string {
  const part = (words: string, of: (time: CutTimes) => number): string =>
    `${words} ${short(figureOf(times.map(of)))}`;
  return [
    part('until the last grant had lapsed', ({ lapsed }) => lapsed),
    part('elected', ({ lapsed, elected }) => elected - lapsed),
    part('gate cleared and open', ({ elected, open }) => open - elected),
    part('container started until its first line', ({ open, written }) => written - open),
    part('first answer', ({ written, answered }) => answered - written),
    part('all', ({ answered }) => answered),
  ].join(', ');
}

function short({ median, max, n }: Figure): string {
  return n === 1 ? `${median} ms` : `${median} (${max}) ms`;
}

export async function switchover(
  context: BenchContext,
  exclusive: ExclusiveService,
): Promise<Measured> {
  const times: SwitchTimes[] = [];
  for (let round = 0; round < context.pick(10, 3); round++) {
    times.push(await exclusive.switchOnce());
    context.say(`switch ${switchWords(times.slice(-1))}`);
  }
  const ours = figureOf(times.map(({ without }) => without));
  const { overlaps, falls } = exclusive.proof();
  const isSafe = overlaps.length === 0 && falls.length === 0;
  const note = [
    `from the gate verified empty to the next one open; median (maximum) of the rest: ${switchWords(times)}`,
    'Docker Swarm has no handover in order: it can only drain a node, which ends the one before it starts the other somewhere',
    overlapWords([...overlaps, ...falls]),
  ].join('; ');
  return { ours, ok: isSafe && (ours.median ?? Infinity) <= switchLimitMs, note };
}

function switchWords(times: readonly SwitchTimes[]): string {
  const part = (words: string, of: (time: SwitchTimes) => number): string =>
    `${words} ${short(figureOf(times.map(of)))}`;
  const failed = times.reduce((sum, time) => sum + time.failed, 0);
  return [
    part('without a holder', ({ without }) => without),
    part('command until the stop', ({ prepared }) => prepared),
    part('stop of the container and its gate', ({ stopped }) => stopped),
    part('start until its first line', ({ started }) => started),
    part('between two answers', ({ gap }) => gap),
    `${failed} requests failed (one every ${askEveryMs} ms)`,
  ].join(', ');
}
