import { expect, test } from 'vitest';
import type { ObjectId } from '../../../crdt/ids.ts';
import type { GuardCommand, GuardReply } from '../../../daemon/lease/guard-api.ts';
import type { Clock } from '../../../daemon/ports.ts';
import { pauseBy } from '../../../daemon/storage-control.ts';

const quiet = (): void => undefined;
const log = { debug: quiet, info: quiet, warn: quiet, error: quiet } as never;
const storage = 'abcdefabcdefabcd' as ObjectId;
const refused: GuardReply = { isOk: false, code: 'LEASE_BUSY', details: {} };

function rig(answers: Partial<Record<GuardCommand['kind'], GuardReply | Error>>) {
  let nowMs = 1_000;
  const asked: GuardCommand[] = [];
  const guard = {
    command: (command: GuardCommand): Promise<GuardReply> => {
      asked.push(command);
      const answer = answers[command.kind] ?? { isOk: true };
      return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
    },
  };
  const clock = { monotonicMs: () => nowMs } as Clock;
  return {
    asked,
    pass: (ms: number) => (nowMs += ms),
    pause: pauseBy(guard, 'prod', { clock, log }),
  };
}

test('a storage is paused by its lease, and resumed', async () => {
  const { pause, asked } = rig({});
  const resume = await pause(storage, 500);
  expect(await resume?.()).toBe(true);
  const name = `storage/prod/${storage}`;
  expect(asked).toEqual([
    { kind: 'pause', name, maxMs: 500 },
    { kind: 'resume', name },
  ]);
});

test('what the guard refuses, or nobody answers, is no pause', async () => {
  expect(await rig({ pause: refused }).pause(storage, 500)).toBeNull();
  expect(await rig({ pause: new Error('gone') }).pause(storage, 500)).toBeNull();
});

test('it lasted only when the guard says so, in time to mean this pause', async () => {
  for (const resume of [refused, new Error('gone')])
    expect(await (await rig({ resume }).pause(storage, 500))?.()).toBe(false);
  const { pause, pass } = rig({});
  const resume = await pause(storage, 500);
  pass(2_000);
  expect(await resume?.()).toBe(false);
});
