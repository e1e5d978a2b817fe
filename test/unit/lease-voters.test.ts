/** Who should vote. */
import { describe, expect, test } from 'vitest';
import type { HostId } from '../../crdt/ids.ts';
import { voterCount, voterReplaceMs, votersWantedOf } from '../../daemon/lease-voters.ts';
import type { VoterCandidate } from '../../daemon/lease-voters.ts';

const ids = Array.from({ length: 8 }, (_, index) => String(index + 1).repeat(32) as HostId);
const members = (count: number, changes: Record<number, Partial<VoterCandidate>> = {}) =>
  ids.slice(0, count).map((host, index): VoterCandidate => ({
    host,
    isReady: true,
    isLeaving: false,
    goneForMs: null,
    ...changes[index],
  }));
const wanted = (
  current: readonly HostId[],
  hosts: readonly VoterCandidate[],
  wish: readonly HostId[] | null = null,
) => votersWantedOf({ current, members: hosts, wish });

describe('voters', () => {
  test('grow with the environment and stay with those that there are', () => {
    expect([1, 2, 3, 4, 5, 99, 100].map(voterCount)).toEqual([1, 1, 3, 3, 5, 5, 7]);
    expect(wanted([ids[0]!], members(1))).toBeNull();
    expect(wanted([ids[0]!], members(2))).toBeNull();
    expect(wanted([ids[0]!], members(3))).toEqual(ids.slice(0, 3));
    expect(wanted(ids.slice(0, 3), members(4))).toBeNull();
    const five = wanted(ids.slice(1, 4), members(6));
    expect(five).toHaveLength(5);
    expect(five).toEqual(expect.arrayContaining(ids.slice(1, 4)));
  });

  test('a host without a guard gets no vote', () => {
    const hosts = members(4, { 1: { isReady: false } });
    expect(wanted([ids[0]!], hosts)).toEqual([ids[0], ids[2], ids[3]]);
  });

  test('who is gone keeps the vote for a while, and for good when nobody could have it', () => {
    const away = (goneForMs: number) => members(4, { 0: { goneForMs } });
    expect(wanted(ids.slice(0, 3), away(voterReplaceMs - 1))).toBeNull();
    expect(wanted(ids.slice(0, 3), away(voterReplaceMs))).toEqual(ids.slice(1, 4));
    const three = members(3, { 0: { goneForMs: voterReplaceMs } });
    expect(wanted(ids.slice(0, 3), three)).toBeNull();
  });

  test('who leaves or has left gives the vote up', () => {
    expect(wanted(ids.slice(0, 3), members(4, { 0: { isLeaving: true } }))).toEqual(
      ids.slice(1, 4),
    );
    expect(wanted(ids.slice(0, 3), members(3, { 0: { isLeaving: true } }))).toEqual([ids[1]]);
    expect(wanted([ids[7]!], members(2))).toHaveLength(1);
    expect(wanted([ids[0]!], members(1, { 0: { isLeaving: true } }))).toBeNull();
  });

  test('an operator decides, as far as the hosts are there', () => {
    expect(wanted([ids[0]!], members(2), ids.slice(0, 2))).toEqual(ids.slice(0, 2));
    expect(wanted(ids.slice(0, 3), members(4), [ids[3]!, ids[0]!])).toEqual([ids[0], ids[3]]);
    expect(wanted([ids[0]!], members(2), [ids[0]!, ids[6]!])).toBeNull();
  });
});
