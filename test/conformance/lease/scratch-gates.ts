/** Real cgroups for tests: both kernel interfaces of this machine, and processes that are busy in them. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, rmdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cgroupsOf } from '../../../daemon/lease/guard/freezer.ts';
import { findCgroupTree, Gates } from '../../../daemon/lease/guard/gates.ts';
import type { Log } from '../../../daemon/ports.ts';
import { eventually } from '../../await.ts';

export const quietLog: Log = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

/** Roots of the interfaces that this kernel has: v1's freezer, and v2 alone or beside it. */
export function cgroupRoots(): { readonly version: 'v1' | 'v2'; readonly root: string }[] {
  const all = [
    { version: 'v1', root: '/sys/fs/cgroup/freezer' },
    { version: 'v2', root: '/sys/fs/cgroup/unified' },
    { version: 'v2', root: '/sys/fs/cgroup' },
  ] as const;
  return all.filter(({ version, root }) =>
    existsSync(join(root, version === 'v1' ? 'cgroup.procs' : 'cgroup.controllers')),
  );
}

export interface Scratch {
  readonly gates: Gates;
  readonly dir: string;
  /** A shell inside the gate, or in a cgroup below it. Resolves when it is in. */
  readonly run: (gate: string, script: string, below?: string) => Promise<ChildProcess>;
  readonly pids: (gate: string) => number[];
  readonly remove: () => void;
}

/** Ends every process that it started. */
export function scratch(root: string): Scratch {
  const top = join(root, `trellis-test-${process.pid}-${Math.floor(performance.now())}`);
  mkdirSync(top);
  const tree = findCgroupTree(top);
  if (typeof tree === 'string') throw new Error(tree);
  const gates = new Gates(tree, { log: quietLog, driver: 'cgroupfs' });
  const dir = mkdtempSync(join(tmpdir(), 'trellis-gate-'));
  const children: ChildProcess[] = [];
  return {
    gates,
    dir,
    run: async (gate, script, below = '') => {
      gates.ensure(gate);
      const place = join(gates.dirOf(gate), below);
      mkdirSync(place, { recursive: true });
      const child = spawn(
        '/bin/sh',
        ['-c', `echo $$ > "$0"; ${script}`, join(place, 'cgroup.procs')],
        {
          stdio: 'ignore',
        },
      );
      children.push(child);
      await eventually(
        () =>
          readFileSync(join(place, 'cgroup.procs'), 'utf8').split('\n').includes(String(child.pid)),
        { withinMs: 5_000, everyMs: 2, what: 'the process is in the gate' },
      );
      return child;
    },
    pids: (gate) =>
      readFileSync(join(gates.dirOf(gate), 'cgroup.procs'), 'utf8')
        .split('\n')
        .map(Number)
        .filter(Boolean),
    remove: () => {
      for (const child of children) child.kill('SIGKILL');
      for (const place of cgroupsOf(top).toReversed()) rmdirSync(place);
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Lines of a file that a process in a gate appends to. */
export function linesOf(file: string): number {
  return existsSync(file) ? readFileSync(file, 'utf8').split('\n').length - 1 : 0;
}
