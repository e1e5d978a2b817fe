/** Rows of leases alone: real guards without engines and daemons, and the simulator of leases. */
import { join } from 'node:path';
import { mustRun } from '../../bootstrap/local-cluster/run-command.ts';
import { runChild } from './child.ts';
import { measureCalm, type BenchContext, type Measured, type RowFamily } from './context.ts';
import type { LeaseCost } from './lease-cost-main.ts';
import type { SimulatedLeases } from './lease-sim-main.ts';
import type { Takeovers } from './lease-takeover-main.ts';
import { figureOf, isWithin } from './row.ts';

const costIds = ['lease-cost-1', 'lease-cost-50', 'lease-cost-500'];

export const leaseFamily: RowFamily = {
  ids: ['lease-takeover', ...costIds, 'lease-sim'],
  run: async (context) => {
    context.say('guards without engines');
    if (context.wants('lease-takeover'))
      context.report('lease-takeover', await measureCalm(() => takeovers(context)));
    const wanted = costIds.filter((id) => context.wants(id));
    if (wanted.length > 0) await costs(context, wanted);
    if (context.wants('lease-sim'))
      context.report('lease-sim', await measureCalm(() => simulated(context)));
  },
};

// ---- Takeovers --------------------------------------------------------------------------------------------------

const takeoverLimitMs = 1_800;
/** Side by side: together they use less than half of two processors, and a cut of one is no business of another. */
const clusters = 10;
const takeoverSecondsMax = 300;

async function takeovers(context: BenchContext): Promise<Measured> {
  const cuts = context.leaseCuts ?? context.pick(510, 60);
  const inParallel = Math.min(clusters, cuts);
  const workload = await compiledWorkload(context);
  const each = Math.ceil(cuts / inParallel);
  const args = [String(each), String(takeoverSecondsMax), workload];
  const found = await Promise.all(
    Array.from({ length: inParallel }, () =>
      runChild<Takeovers>('lease-takeover-main.ts', args, {
        timeoutMs: (takeoverSecondsMax + 200) * 1_000,
      }),
    ),
  );
  const ours = figureOf(found.flatMap(({ openMs }) => openMs));
  const lapsed = figureOf(found.flatMap(({ lapsedMs }) => lapsedMs));
  const written = figureOf(found.flatMap(({ writtenMs }) => writtenMs));
  const overlaps = found.flatMap((one) => one.overlaps);
  const note = [
    `${inParallel} clusters of 3 guards side by side, each cut one after the other at any moment between two renewals`,
    `SIGKILL of guard and workload until the gate of the next holder is open`,
    `of it until the last grant of the dead had lapsed ${lapsed.median} (max ${lapsed.max})`,
    `first line of the next workload ${written.median} (p99 ${written.p99 ?? '-'}, max ${written.max})`,
    overlapWords(overlaps),
  ].join('; ');
  const ok = isWithin(ours, takeoverLimitMs, 'p99') && overlaps.length === 0;
  return { ours, ok, note };
}

async function compiledWorkload(context: BenchContext): Promise<string> {
  const source = join(import.meta.dirname, '../testbed/gate-writer.c');
  const program = join(await context.dir(), 'gate-writer');
  await mustRun('gcc', ['-O2', '-static', '-o', program, source], { timeoutMs: 60_000 });
  return program;
}

export function overlapWords(overlaps: readonly string[]): string {
  return overlaps.length === 0
    ? 'overlap 0: no two wrote at the same time, no epoch fell'
    : `OVERLAP: ${overlaps.slice(0, 3).join(', ')}`;
}

// ---- What holding costs -----------------------------------------------------------------------------------------

const bytesLimit = 2_000;

async function costs(context: BenchContext, ids: readonly string[]): Promise<void> {
  const windowMs = context.pick(5_000, 3_000);
  const counts = ids.map((id) => Number(id.split('-').at(-1)));
  const measure = (voters: number): Promise<LeaseCost[]> =>
    runChild<LeaseCost[]>(
      'lease-cost-main.ts',
      [String(voters), String(windowMs), ...counts.map(String)],
      { timeoutMs: 600_000 },
    );
  const three = await measure(3);
  const five = await measure(5);
  for (const [index, id] of ids.entries()) {
    const of = (found: readonly LeaseCost[]): LeaseCost[] =>
      found.filter(({ leases }) => leases === counts[index]);
    context.report(id, judgeCost(of(three), of(five), windowMs));
  }
}

function judgeCost(
  three: readonly LeaseCost[],
  five: readonly LeaseCost[],
  windowMs: number,
): Measured {
  const ours = figureOf(three.map(({ bytes }) => bytes));
  const note = [
    `sent by 3 guards together, with all headers and acknowledgements; leases spread over the hosts; ${three.length} windows of ${windowMs / 1_000} s`,
    `3 voters together: ${costWords(three)}`,
    `5 voters together: ${costWords(five)}`,
  ].join('; ');
  return { ours, ok: isWithin(ours, bytesLimit), note };
}

function costWords(found: readonly LeaseCost[]): string {
  const median = (field: keyof LeaseCost): number | null =>
    figureOf(found.map((one) => one[field])).median;
  return [
    `${median('bytes')} B, ${median('messages')} messages in ${median('frames')} frames, ${median('syncs')} fsyncs and ${median('cpuMs')} ms of CPU per lease and second`,
    `${median('anonymousMegabytes')} MB of anonymous memory in the largest guard, late by at most ${median('latenessMs')} ms`,
  ].join(', ');
}

// ---- The simulator ----------------------------------------------------------------------------------------------

async function simulated(context: BenchContext): Promise<Measured> {
  const seconds = context.pick(20, 6);
  const found = await runChild<SimulatedLeases>('lease-sim-main.ts', [String(seconds)], {
    timeoutMs: (seconds + 120) * 1_000,
  });
  const ours = figureOf(found.stepsPerSecond);
  const failed = found.failures.length === 0 ? 'none failed' : found.failures.join(', ');
  const note = `one sample per seed, each a world of its own kind with faults, checks of every law at each step included; ${found.steps} steps, ${failed}`;
  return { ours, ok: found.failures.length === 0, note };
}
