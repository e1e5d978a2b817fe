/**
 * Tries the gate for real, in a scratch gate of its own: a busy tree of processes is frozen and must stand still, a process
 * that comes into the frozen gate must not run, thawed it must, and killed all must be gone. A host that fails this may not
 * hold anything exclusive.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import { reasonOf } from '../../errors.ts';
import { cgroupsOf } from './freezer.ts';
import type { Gates } from './gates.ts';

export interface GateTest {
  /** What does not work, for people; null: everything does. */
  readonly fault: string | null;
  readonly freezeMs: number | null;
  readonly thawMs: number | null;
  readonly killMs: number | null;
}

/** For each thing that must happen; a busy host is slow, not broken. */
const stepLimitMs = 5_000;
/** Frozen processes are watched for this long. */
const stillMs = 60;

/** `gate` must be a name that nobody else uses; it is removed. `runDir`: for marks of the processes. Never rejects. */
export async function testGate(gates: Gates, gate: string, runDir: string): Promise<GateTest> {
  const times = { freezeMs: null, thawMs: null, killMs: null } as {
    freezeMs: number | null;
    thawMs: number | null;
    killMs: number | null;
  };
  const children: ChildProcess[] = [];
  let dir: string | null = null;
  try {
    dir = mkdtempSync(join(runDir, 'gate-test-'));
    const fault = await runTest(gates, gate, dir, children, times);
    return { fault, ...times };
  } catch (error) {
    return { fault: reasonOf(error), ...times };
  } finally {
    await gates.clear(gate);
    for (const child of children) child.kill('SIGKILL');
    tidy(() => gates.remove(gate));
    if (dir !== null) rmSync(dir, { recursive: true, force: true });
  }
}

async function runTest(
  gates: Gates,
  gate: string,
  dir: string,
  children: ChildProcess[],
  times: { freezeMs: number | null; thawMs: number | null; killMs: number | null },
): Promise<string | null> {
  const place = gates.dirOf(gate);
  if ((await gates.thaw(gate)) !== 'open') return 'a gate could not be made and opened';
  const procs = join(place, 'cgroup.procs');
  children.push(spawnInto(procs, 'while :; do :; done & while :; do :; done'));
  if (!(await until(() => pidsIn(place).length >= 2))) {
    return 'processes could not be put into a gate';
  }
  if (!(await until(isRunning(place)))) return 'processes in an open gate do not run';

  times.freezeMs = await timed(async () => (await gates.freeze(gate)) === 'frozen');
  if (times.freezeMs === null) return 'a busy gate could not be frozen';
  const before = cpuTime(place);
  await pause(stillMs);
  if (cpuTime(place) !== before) return 'processes in a frozen gate go on running';

  const mark = join(dir, 'late');
  children.push(spawnInto(procs, `: > '${mark}'; while :; do :; done`));
  if (!(await until(() => pidsIn(place).length >= 3))) {
    return 'a process could not be put into a frozen gate';
  }
  await pause(stillMs);
  if (existsSync(mark)) return 'a process that came into a frozen gate ran';

  times.thawMs = await timed(async () => (await gates.thaw(gate)) === 'open');
  if (times.thawMs === null) return 'a frozen gate could not be thawed';
  if (!(await until(() => existsSync(mark)))) return 'processes do not go on after a thaw';

  times.killMs = await timed(async () => (await gates.clear(gate)) === 'empty');
  if (times.killMs === null) return 'the processes of a gate could not be killed';
  if (gates.look(gate) !== 'empty') return 'a cleared gate is not empty';
  return null;
}

/** The shell takes itself into the cgroup and only then does what it is for. */
function spawnInto(procs: string, script: string): ChildProcess {
  const child = spawn('/bin/sh', ['-c', `echo $$ > "$0"; ${script}`, procs], { stdio: 'ignore' });
  child.on('error', () => undefined);
  return child;
}

function isRunning(place: string): () => boolean {
  const start = cpuTime(place);
  return () => cpuTime(place) > start;
}

async function until(check: () => boolean): Promise<boolean> {
  const endMs = performance.now() + stepLimitMs;
  while (performance.now() < endMs) {
    if (check()) return true;
    await pause(2);
  }
  return false;
}

/** Milliseconds it took; null when it failed. */
async function timed(act: () => Promise<boolean>): Promise<number | null> {
  const startMs = performance.now();
  return (await act()) ? Math.round((performance.now() - startMs) * 10) / 10 : null;
}

function pidsIn(place: string): number[] {
  return cgroupsOf(place).flatMap((dir) =>
    readFileSync(join(dir, 'cgroup.procs'), 'latin1')
      .split('\n')
      .map(Number)
      .filter((pid) => pid > 0),
  );
}

/** Of all processes inside together, in the kernel's finest unit that it offers. */
function cpuTime(place: string): number {
  return pidsIn(place).reduce((sum, pid) => sum + cpuTimeOf(pid), 0);
}

function cpuTimeOf(pid: number): number {
  try {
    // Nanoseconds on a processor.
    return Number(readFileSync(`/proc/${pid}/schedstat`, 'latin1').split(' ')[0]);
  } catch {
    // Kernels without it have clock ticks: fields 14 and 15 of stat.
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return Number(fields[11]) + Number(fields[12]);
  }
}

function tidy(act: () => void): void {
  try {
    act();
  } catch {
    // The result of the test stands; an empty cgroup that stays does no harm and is found at the next start.
    return;
  }
}
