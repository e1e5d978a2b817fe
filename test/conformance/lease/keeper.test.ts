/** The shell that starts a killed guard again, with a program in the guard's place. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guardRunFiles, lockedStatus } from '../../../daemon/lease/guard-start.ts';
import {
  isKept,
  keeperCommand,
  restartsAtOnceMax,
  restartVariable,
} from '../../../daemon/lease/guard/keeper.ts';
import { eventually, measureFor } from '../../await.ts';

let dir: string;
let keeper: ChildProcess;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'trellis-keeper-'));
});
afterEach(async () => {
  // Its group: the program too, whichever of them is being started.
  if (keeper.exitCode === null && keeper.signalCode === null)
    process.kill(-(keeper.pid ?? 0), 'SIGKILL');
  await eventually(() => keeper.exitCode !== null || keeper.signalCode !== null, {
    withinMs: 5_000,
  });
  rmSync(dir, { recursive: true, force: true });
});

/** The program says who it is and what it was told, then does `then`. */
function keep(then: string): void {
  const guard = `echo $$ "$${restartVariable}" >>"$1/starts"; ${then}`;
  const { program, args } = keeperCommand(dir, ['/bin/sh', '-c', guard, 'guard', dir]);
  keeper = spawn(program, args, { detached: true, stdio: 'ignore' });
}

function starts(): { pid: number; count: string; status: string }[] {
  const file = join(dir, 'starts');
  if (!existsSync(file)) return [];
  return readFileSync(file, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => {
      const [pid, count = '', status = ''] = line.split(' ');
      return { pid: Number(pid), count, status };
    });
}

const started = (count: number): Promise<boolean> =>
  eventually(() => starts().length >= count, { withinMs: 10_000, what: `${count} starts` });

const sleeping = 'exec sleep 1000';

describe('a keeper', () => {
  test('starts again what was killed, and tells it', async () => {
    keep(sleeping);
    await started(1);
    expect(isKept(dir)).toBe(true);
    for (const count of [1, 2]) {
      process.kill(starts().at(-1)?.pid ?? 0, 'SIGKILL');
      await started(count + 1);
      expect(starts().at(-1)).toMatchObject({ count: String(count), status: '137' });
    }
  });

  test.each([
    ['exit 0', 0],
    ['exit 2', 2],
    [`exit ${lockedStatus}`, lockedStatus],
    ['kill -TERM $$', 143],
  ])('ends with what ended in order: %s', async (how, status) => {
    keep(how);
    await eventually(() => keeper.exitCode !== null, { withinMs: 5_000 });
    expect(keeper.exitCode).toBe(status);
    expect(starts()).toHaveLength(1);
    expect(isKept(dir)).toBe(false);
  });

  test('does not start again without end', async () => {
    keep('exit 1');
    await started(restartsAtOnceMax + 1);
    const before = starts().length;
    await measureFor(3_000);
    expect(starts().length - before).toBeLessThanOrEqual(1);
    expect(isKept(dir)).toBe(true);
  });

  test('that is stopped or was killed keeps nothing, and takes nothing with it', async () => {
    keep(sleeping);
    await started(1);
    const pid = starts().at(-1)?.pid ?? 0;
    process.kill(keeper.pid ?? 0, 'SIGSTOP');
    await eventually(() => !isKept(dir), { withinMs: 5_000 });
    process.kill(keeper.pid ?? 0, 'SIGCONT');
    await eventually(() => isKept(dir), { withinMs: 5_000 });
    keeper.kill('SIGKILL');
    await eventually(() => keeper.signalCode === 'SIGKILL', { withinMs: 5_000 });
    expect(isKept(dir)).toBe(false);
    expect(process.kill(pid, 0)).toBe(true);
    process.kill(pid, 'SIGKILL');
  });

  test('is not taken for one by its number alone', async () => {
    keep(sleeping);
    await started(1);
    writeFileSync(join(dir, guardRunFiles.keeper), `${process.pid}\n`);
    expect(isKept(dir)).toBe(false);
  });
});
