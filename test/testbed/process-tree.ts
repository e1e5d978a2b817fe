/**
 * All processes of a host, as the machine numbers them: those in its process namespace, whoever started them, and what they
 * started in namespaces of their own, which is how containers run.
 */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

/** Without the first process of the host. What ends meanwhile is left out. */
export function processesOf(initPid: number): readonly number[] {
  const space = spaceOf(initPid);
  const children = new Map<number, number[]>();
  const found = new Set<number>();
  for (const name of readdirSync('/proc')) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const parent = parentOf(pid);
    if (parent !== null) children.set(parent, [...(children.get(parent) ?? []), pid]);
    if (space !== null && spaceOf(pid) === space) found.add(pid);
  }
  const open = [...found];
  for (let pid = open.pop(); pid !== undefined; pid = open.pop()) {
    for (const child of children.get(pid) ?? []) {
      if (found.has(child)) continue;
      found.add(child);
      open.push(child);
    }
  }
  found.delete(initPid);
  return [...found];
}

/** Processes outside that wait for one of the host's: those that entered it from the machine. */
export function keepersOf(initPid: number): readonly number[] {
  const inside = new Set([...processesOf(initPid), initPid]);
  const parents = [...inside].map(parentOf).filter((pid) => pid !== null && pid > 1);
  return [...new Set(parents)].filter(
    (pid): pid is number => pid !== null && !inside.has(pid) && pid !== process.pid,
  );
}

export function signalAll(pids: readonly number[], signal: NodeJS.Signals): void {
  for (const pid of pids) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      // It has ended since the tree was walked.
      if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
    }
  }
}

function spaceOf(pid: number): string | null {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    // It has ended since the directory was read.
    return null;
  }
}

function parentOf(pid: number): number | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold anything.
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]);
  } catch {
    // It has ended since the directory was read.
    return null;
  }
}
