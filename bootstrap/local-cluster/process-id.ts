/**
 * A process that can be named again later: its number together with its start time, so that a number which the kernel
 * has given to another process meanwhile is never signalled.
 */
import { readFileSync } from 'node:fs';

export interface ProcessId {
  readonly pid: number;
  /** Clock ticks after boot, field 22 of /proc/PID/stat. */
  readonly startTicks: number;
}

/** Null when there is no such process. */
export function processId(pid: number): ProcessId | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The second field is the name in parentheses and may hold spaces: count from the last parenthesis.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const isGone = fields[0] === 'Z' || fields[0] === 'X';
    return isGone ? null : { pid, startTicks: Number(fields[19]) };
  } catch {
    return null; // ENOENT or ESRCH: it ended.
  }
}

export function isRunning(id: ProcessId): boolean {
  return processId(id.pid)?.startTicks === id.startTicks;
}

/** Kills exactly that process; one that ended already is fine. */
export function killProcess(id: ProcessId): void {
  if (!isRunning(id)) return;
  try {
    process.kill(id.pid, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
