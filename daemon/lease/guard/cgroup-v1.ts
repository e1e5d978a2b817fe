/**
 * The freezer of cgroup v1. A frozen process does not die of SIGKILL before the thaw, but it has the signal and returns to
 * its own code never again; frozen, it can neither fork nor go away, so what is read from `cgroup.procs` is all there is and
 * no number in it can meanwhile belong to somebody else.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isAbsent } from '../../store/durable.ts';
import { cgroupsOf, type Freezer } from './freezer.ts';

export class CgroupV1 implements Freezer {
  readonly closing = { name: 'freezer.state', value: 'FROZEN' };

  freeze(dir: string): void {
    writeFileSync(stateFile(dir), 'FROZEN');
  }

  thaw(dir: string): void {
    writeFileSync(stateFile(dir), 'THAWED');
  }

  /** Also what an engine froze below (`docker pause`): a paused process would not die. */
  letDie(dir: string): void {
    for (const cgroup of cgroupsOf(dir)) {
      ignoreAbsent(() => {
        if (!isThawedHere(cgroup)) writeFileSync(stateFile(cgroup), 'THAWED');
      });
    }
  }

  /** The kernel says FROZEN when everything below stands, FREEZING before. */
  isFrozen(dir: string): boolean {
    return readFileSync(stateFile(dir), 'latin1').trim() === 'FROZEN';
  }

  isThawed(dir: string): boolean {
    return readFileSync(stateFile(dir), 'latin1').trim() === 'THAWED';
  }

  kill(dir: string): void {
    for (const cgroup of cgroupsOf(dir)) {
      for (const pid of pidsIn(cgroup)) kill(pid);
    }
  }

  isPopulated(dir: string): boolean {
    return cgroupsOf(dir).some((cgroup) => procsText(cgroup) !== '');
  }
}

function stateFile(dir: string): string {
  return join(dir, 'freezer.state');
}

function isThawedHere(dir: string): boolean {
  return readFileSync(join(dir, 'freezer.self_freezing'), 'latin1').trim() === '0';
}

/** 0 stands for a process of a foreign pid namespace: it cannot be killed from here and keeps the gate populated. */
function pidsIn(dir: string): number[] {
  return procsText(dir)
    .split('\n')
    .map(Number)
    .filter((pid) => pid > 0);
}

function procsText(dir: string): string {
  try {
    return readFileSync(join(dir, 'cgroup.procs'), 'latin1');
  } catch (error) {
    // An engine took an empty child away while we looked.
    if (isAbsent(error) || isGone(error)) return '';
    throw error;
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'ESRCH')) throw error;
  }
}

function ignoreAbsent(act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!isAbsent(error) && !isGone(error)) throw error;
  }
}

/** ENODEV: the directory went away between opening and reading. */
function isGone(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENODEV';
}
