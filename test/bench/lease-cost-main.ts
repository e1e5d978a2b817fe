/**
 * Measures `lease-cost-*` in a process of its own: guards on loopback that hold so many leases, spread over all of them, with
 * nothing else going on. Prints what each lease cost per second as JSON.
 * Arguments: voters (3 or 5), milliseconds of a window, then numbers of leases.
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { performance } from 'node:perf_hooks';
import type { LeaseDesired } from '../../daemon/lease/guard-api.ts';
import { eventually, measureFor } from '../await.ts';
import { GuardWorld, plannerLease } from '../testbed/guard-hosts.ts';

/** Per held lease and second, of all guards together. */
export interface LeaseCost {
  readonly voters: number;
  readonly leases: number;
  /** On the wire, with the headers of Ethernet, IP and TCP and with acknowledgements. */
  readonly bytes: number;
  readonly messages: number;
  readonly frames: number;
  readonly syncs: number;
  readonly cpuMs: number;
  /** Of one guard that holds its share. */
  readonly anonymousMegabytes: number;
  readonly latenessMs: number;
}

const windows = 3;

async function main(options: {
  voters: number;
  windowMs: number;
  counts: readonly number[];
}): Promise<LeaseCost[]> {
  const { voters, counts, windowMs } = options;
  // Grows: what is asked for is read at each telling.
  const wanted = { count: voters, workload: '/bin/true', moreLeases: 0 };
  const world = new GuardWorld(wanted);
  process.once('SIGTERM', () => void world.stop().then(() => process.exit(143)));
  const costs: LeaseCost[] = [];
  try {
    await world.start();
    await world.settled(voters);
    for (const count of counts) {
      wanted.moreLeases = count - 1;
      for (const host of world.hosts) {
        const leases = spread(host.desired().leases);
        host.tell({ kind: 'desired', desired: host.desired({ leases, votersWanted: null }) });
      }
      await held(world, count);
      await measureFor(3_000);
      for (let window = 0; window < windows; window++)
        costs.push(await costOf(world, count, windowMs));
    }
  } finally {
    await world.stop();
  }
  return costs;
}

/** Each host is the best for its share. The planner's has done its work when all vote. */
function spread(leases: readonly LeaseDesired[]): LeaseDesired[] {
  return leases
    .filter(({ name }) => name !== plannerLease)
    .map((lease, index) => {
      const { candidates } = lease;
      const first = index % candidates.length;
      return { ...lease, candidates: [...candidates.slice(first), ...candidates.slice(0, first)] };
    });
}

async function held(world: GuardWorld, count: number): Promise<void> {
  await eventually(
    () => {
      const active = world.hosts
        .flatMap(({ status }) => status?.leases ?? [])
        .filter(({ state }) => state === 'active').length;
      if (active !== count) throw new Error(`${active} of ${count} leases are held`);
      return true;
    },
    { withinMs: 120_000, everyMs: 200, what: `${count} leases` },
  );
}

interface Reading {
  readonly atMs: number;
  readonly bytes: number;
  readonly messages: number;
  readonly frames: number;
  readonly syncs: number;
  readonly cpuMs: number;
}

async function costOf(world: GuardWorld, leases: number, windowMs: number): Promise<LeaseCost> {
  const before = await read(world);
  await measureFor(windowMs);
  const after = await read(world);
  const seconds = (after.atMs - before.atMs) / 1_000;
  const per = (field: keyof Reading): number => (after[field] - before[field]) / seconds / leases;
  const memory = world.hosts.map(({ pid }) => anonymousMegabytes(pid));
  const lateness = world.hosts.map(({ status }) => status?.counters['latenessMs'] ?? 0);
  return {
    voters: world.hosts.length,
    leases,
    bytes: per('bytes'),
    messages: per('messages'),
    frames: per('frames'),
    syncs: per('syncs'),
    cpuMs: per('cpuMs'),
    anonymousMegabytes: Math.max(...memory),
    latenessMs: Math.max(...lateness),
  };
}

async function read(world: GuardWorld): Promise<Reading> {
  const statuses = await Promise.all(world.hosts.map((host) => host.look()));
  const sum = (name: string): number =>
    statuses.reduce((total, { counters }) => total + (counters[name] ?? 0), 0);
  return {
    atMs: performance.now(),
    bytes: loopbackBytes(world.namespace),
    messages: sum('messages'),
    frames: sum('framesOut'),
    syncs: sum('syncs'),
    cpuMs: world.hosts.reduce((total, { pid }) => total + cpuMsOf(pid), 0),
  };
}

/** Sent over the loopback of a namespace. */
function loopbackBytes(namespace: string): number {
  const text = execFileSync('ip', ['netns', 'exec', namespace, 'cat', '/proc/net/dev']).toString();
  const fields = (/lo:(.*)/.exec(text)?.[1] ?? '').trim().split(/\s+/);
  return Number(fields[8]);
}

/** Of all threads, to the nanosecond: ticks of the accounting would be longer than what is measured. */
function cpuMsOf(pid: number): number {
  let totalNs = 0;
  for (const thread of readdirSync(`/proc/${pid}/task`))
    totalNs += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
  return totalNs / 1e6;
}

function anonymousMegabytes(pid: number): number {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8');
  return (Number(/^Pss_Anon:\s+(\d+) kB/m.exec(text)?.[1]) * 1024) / 1e6;
}

const [voters, windowMs, ...counts] = process.argv.slice(2);
const costs = await main({
  voters: Number(voters),
  windowMs: Number(windowMs),
  counts: counts.map(Number),
});
process.stdout.write(`${JSON.stringify(costs)}\n`);
process.exit(0);
