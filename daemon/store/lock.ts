/**
 * One daemon per state directory. The lock is a kernel `flock` on an open file, so it ends with the process however
 * that ends, and it also works between containers that share the directory. Node has no flock call: the `flock` program
 * of util-linux (or busybox) takes the lock on our inherited descriptor, and the lock stays with the open file after
 * that program has exited. Without the program, a pid with its start time from /proc decides.
 */
import { spawnSync } from 'node:child_process';
import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { ClusterError } from '../errors.ts';
import { privateFileMode } from './durable.ts';

export interface StateLock {
  release(): void;
}

/** Throws STATE_LOCKED with the pid of the owner. */
export function lockStateDir(stateDir: string): StateLock {
  const fd = openSync(join(stateDir, 'lock'), 'a+', privateFileMode);
  try {
    const owner = readFileSync(fd, 'utf8').trim();
    if (!tryLock(fd, owner)) {
      const pid = owner.split(' ')[0] ?? '';
      throw new ClusterError('STATE_LOCKED', { dir: stateDir, pid: pid === '' ? 'unknown' : pid });
    }
    ftruncateSync(fd, 0);
    writeSync(fd, `${process.pid} ${startTimeOf(process.pid) ?? 0}\n`);
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  return { release: () => closeSync(fd) };
}

function tryLock(fd: number, owner: string): boolean {
  const { status, error } = spawnSync('flock', ['-n', '-x', '3'], {
    stdio: ['ignore', 'ignore', 'ignore', fd],
    timeout: 5_000,
  });
  if (error === undefined && (status === 0 || status === 1)) return status === 0;
  const [pid, startTime] = owner.split(' ');
  if (pid === undefined || startTime === undefined || Number(pid) === process.pid) return true;
  return startTimeOf(Number(pid)) !== startTime;
}

/** Clock ticks since boot at which the process started: a pid that was given out again has another. */
function startTimeOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    // No such process: its lock is stale.
    return null;
  }
}
