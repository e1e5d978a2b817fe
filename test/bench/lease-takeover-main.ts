/**
 * Measures `lease-takeover` in a process of its own: three guards in a network namespace, no engine, no daemon; the guard
 * that holds and its workload get SIGKILL, as a power cut would, until another's gate is open. Prints what it found as JSON.
 * Arguments: number of cuts, then seconds that they may take, then the workload's program.
 */
import { eventually, measureFor } from '../await.ts';
import { monotonicMs, proofOf, sizeOf } from '../testbed/exclusive-proof.ts';
import { GuardWorld, webLease, type GuardHost } from '../testbed/guard-hosts.ts';

export interface Takeovers {
  /** From the kill until the gate of the next holder was open. */
  readonly openMs: readonly number[];
  /** Until the workload there had written its first line. */
  readonly writtenMs: readonly number[];
  /** Of the first, until the last grant that stood in the way had lapsed, by the word of the guards that are left. */
  readonly lapsedMs: readonly number[];
  /** Whatever speaks against "never two". */
  readonly overlaps: readonly string[];
}

interface Cut {
  readonly openMs: number;
  readonly writtenMs: number;
  readonly lapsedMs: number;
}

const hosts = 3;
/** The kill comes anywhere between two renewals. */
const renewMs = 400;
const withinMs = 30_000;

async function main(options: {
  cuts: number;
  secondsMax: number;
  workload: string;
}): Promise<Takeovers> {
  const { cuts, secondsMax, workload } = options;
  const world = new GuardWorld({ count: hosts, workload });
  process.once('SIGTERM', () => void world.stop().then(() => process.exit(143)));
  const found: Cut[] = [];
  const overlaps: string[] = [];
  const untilMs = monotonicMs() + secondsMax * 1_000;
  try {
    await world.start();
    let offset = 0;
    while (found.length < cuts && (found.length === 0 || monotonicMs() < untilMs)) {
      found.push(await cutOnce(world));
      const proof = proofOf(world.journal, offset);
      overlaps.push(...proof.overlaps, ...proof.falls);
      // What the last two wrote is looked at once more, with what comes after it.
      offset = Math.max(offset, sizeOf(world.journal) - overlapBytes);
    }
  } finally {
    await world.stop();
  }
  return {
    openMs: found.map(({ openMs }) => openMs),
    writtenMs: found.map(({ writtenMs }) => writtenMs),
    lapsedMs: found.map(({ lapsedMs }) => lapsedMs),
    overlaps,
  };
}

/** Ten seconds of one writer. */
const overlapBytes = 10 * 1_000 * 30;

async function cutOnce(world: GuardWorld): Promise<Cut> {
  const holder = await whole(world);
  await measureFor(Math.random() * renewMs);
  const epoch = holder.lease()?.epoch ?? 0;
  const before = sizeOf(world.journal);
  const others = world.hosts.filter((host) => host !== holder);
  const opened = untilOpen(others, epoch);
  const cutMs = monotonicMs();
  holder.kill();
  const lapsedMs = Math.max(...(await Promise.all(others.map(lapseMs))));
  const openMs = await opened;
  const firstMs = await eventually(
    () => proofOf(world.journal, before).tenures.find((one) => one.epoch > epoch)?.firstMs,
    { withinMs, everyMs: 10, what: 'the next workload writes' },
  );
  return { openMs: openMs - cutMs, writtenMs: firstMs - cutMs, lapsedMs: lapsedMs - cutMs };
}

/** Everybody runs and votes; somebody holds and has renewed. */
async function whole(world: GuardWorld): Promise<GuardHost> {
  for (const host of world.hosts) if (!host.isUp) host.reboot();
  await Promise.all(world.hosts.map((host) => host.greeted()));
  await world.settled(hosts);
  const holder = await world.holding();
  await holder.renewed();
  return holder;
}

/** When a gate of one of these was said to be open under an epoch that is higher. */
function untilOpen(hosts: readonly GuardHost[], epoch: number): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const limit = setTimeout(() => reject(new Error('nobody took over')), withinMs);
  for (const host of hosts)
    host.onNotice = (notice) => {
      if (notice.kind !== 'open' || notice.name !== webLease || notice.epoch <= epoch) return;
      clearTimeout(limit);
      resolve(monotonicMs());
    };
  return promise;
}

/** When the grant of this voter ends that the dead host had. */
async function lapseMs(host: GuardHost): Promise<number> {
  const status = await host.look();
  const lease = status.leases.find(({ name }) => name === webLease);
  return monotonicMs() + (lease?.holder?.remainMs ?? 0);
}

const [cuts, secondsMax, workload] = process.argv.slice(2);
const takeovers = await main({
  cuts: Number(cuts),
  secondsMax: Number(secondsMax),
  workload: workload as string,
});
process.stdout.write(`${JSON.stringify(takeovers)}\n`);
process.exit(0);
