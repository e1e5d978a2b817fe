import { expect, test } from 'vitest';
import type { NodeId } from '../../../crdt/ids.ts';
import {
  confirmed,
  deadlineMs,
  suspicionScale,
  suspicionTimeoutMs,
} from '../../../daemon/membership/suspicion.ts';

const id = (digit: string): NodeId => digit.repeat(64) as NodeId;
const suspicion = {
  sinceMs: 1_000,
  accuser: id('a'),
  confirmedBy: new Set<NodeId>(),
  confirmationsWanted: 2,
  minMs: 2_000,
  maxMs: 8_000,
};

test.each([
  [0, 2, 8_000],
  [1, 2, 4_214],
  [2, 2, 2_000],
  [3, 2, 2_000],
  [0, 1, 8_000],
  [1, 1, 2_000],
  [0, 0, 2_000],
])(
  '%i confirmations of %i wanted leave %i ms to refute',
  (confirmations, confirmationsWanted, expected) => {
    expect(
      suspicionTimeoutMs({ confirmations, confirmationsWanted, minMs: 2_000, maxMs: 8_000 }),
    ).toBe(expected);
  },
);

test('only independent confirmations count, each once, and no more than wanted', () => {
  expect(confirmed(suspicion, id('a'))).toBeNull();
  const one = confirmed(suspicion, id('b'));
  expect(one && deadlineMs(one)).toBe(5_214);
  expect(one && confirmed(one, id('b'))).toBeNull();
  const two = one && confirmed(one, id('c'));
  expect(two && deadlineMs(two)).toBe(3_000);
  expect(two && confirmed(two, id('d'))).toBeNull();
});

test('suspicions last longer in larger clusters, from ten members on', () => {
  expect([1, 3, 10, 50, 1_000].map(suspicionScale)).toEqual([1, 1, 1, 1.7, 3]);
});
