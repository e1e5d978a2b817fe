import { describe, expect, test } from 'vitest';
import type { HostId } from '../../../crdt/ids.ts';
import { noteLast, unfencedBefore, victimOf } from '../../../daemon/lease/attempt.ts';
import type { Attempt } from '../../../daemon/lease/attempt.ts';
import type { PromiseReply } from '../../../daemon/lease/messages.ts';
import { sampleMessages } from './messages.ts';

const host = (digit: string): HostId => digit.repeat(32) as HostId;
const [a, b, dead, self] = ['a', 'b', 'd', 'e'].map(host) as [HostId, HostId, HostId, HostId];

/** What voters say of the last owner, as `[epoch, owner, isReleased, unfenced]`, in this order. */
type Said = readonly [number, HostId | null, boolean, readonly HostId[] | null];

function after(...all: readonly Said[]): Pick<Attempt, 'lasts'> {
  const attempt = { epochSeen: 0, lasts: [] } as unknown as Attempt;
  for (const [maxEpoch, owner, isReleased, unfenced] of all) {
    const maxEpochOwner = owner === null ? null : { host: owner, session: '1'.repeat(24) };
    const said: PromiseReply = {
      ...sampleMessages.promise,
      maxEpoch,
      maxEpochOwner,
      isReleased,
      unfenced,
    };
    noteLast(attempt, said);
  }
  return attempt;
}

const owed = (...all: readonly Said[]): readonly HostId[] => unfencedBefore(after(...all), self);

describe('who has to be fenced before anything runs', () => {
  test('the last owner, unless one voter knows that it gave the lease up', () => {
    expect(owed([3, a, false, []])).toEqual([a]);
    expect(owed([3, a, false, []], [3, a, true, []])).toEqual([]);
    expect(owed([2, b, false, []], [3, a, true, []])).toEqual([]);
    expect(owed([3, self, false, []])).toEqual([]);
  });

  test('whom it had not fenced yet, also when it gave the lease up; one voter that heard of it is enough', () => {
    expect(owed([3, a, true, [dead]])).toEqual([dead]);
    expect(owed([3, a, true, [dead]], [3, a, true, []])).toEqual([]);
    expect(owed([3, a, true, [dead]], [3, a, true, null])).toEqual([dead]);
  });

  test('of two that used one epoch each, whatever is known of the other, in any order', () => {
    const gaveBack: Said = [3, a, true, []];
    const holds: Said = [3, b, false, [dead]];
    for (const order of [
      [gaveBack, holds],
      [holds, gaveBack],
      [gaveBack, holds, gaveBack],
    ]) {
      expect(owed(...order)).toEqual([dead, b]);
      expect(victimOf(after(...order))?.host).toBe(b);
    }
  });

  test('a voter that knows the epoch by hearsay changes nothing', () => {
    for (const order of [
      [
        [3, a, false, [dead]],
        [3, null, true, null],
      ],
      [
        [3, null, true, null],
        [3, a, false, [dead]],
      ],
    ] as readonly (readonly Said[])[])
      expect(owed(...order)).toEqual([dead, a]);
  });
});
