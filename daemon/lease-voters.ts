/**
 * Which hosts should vote, as the holder of the planner's lease sees it. It changes as little as possible: a voter that is
 * away for a while keeps its vote, because it may be what a majority needs when it is back, and each change of voters is a
 * moment in which one more loss hurts.
 */
import { compareText } from '../crdt/codec.ts';
import { hash32 } from '../crdt/hash32.ts';
import type { HostId } from '../crdt/ids.ts';

export interface VoterCandidate {
  readonly host: HostId;
  /** Its guard is known to run. */
  readonly isReady: boolean;
  readonly isLeaving: boolean;
  /** Since when its daemon and guard were not heard, milliseconds ago; null: they are heard. */
  readonly goneForMs: number | null;
}

/** A voter that is gone for longer gives its vote to another host. */
export const voterReplaceMs = 10 * 60_000;

/** How many votes an environment of so many hosts has: with two, one side alone could never decide. */
export function voterCount(hosts: number): number {
  return hosts <= 2 ? 1 : hosts <= 4 ? 3 : hosts < 100 ? 5 : 7;
}

/**
 * The voters that there should be, sorted; null: those that there are. `wish`: what an operator has chosen, taken as far as
 * those hosts are still members.
 */
export function votersWantedOf(input: {
  readonly current: readonly HostId[];
  readonly members: readonly VoterCandidate[];
  readonly wish: readonly HostId[] | null;
}): readonly HostId[] | null {
  const { current, wish } = input;
  const stays = new Map(
    input.members.filter(({ isLeaving }) => !isLeaving).map((member) => [member.host, member]),
  );
  const chosen =
    wish === null
      ? automatic(current, [...stays.values()])
      : wish.filter((host) => stays.has(host)).toSorted(compareText);
  const isSame = chosen.length === current.length && chosen.every((host) => current.includes(host));
  return chosen.length === 0 || isSame ? null : chosen;
}

function automatic(current: readonly HostId[], members: readonly VoterCandidate[]): HostId[] {
  const count = voterCount(members.length);
  const byHost = new Map(members.map((member) => [member.host, member]));
  const isLost = (host: HostId): boolean => {
    const goneForMs = byHost.get(host)?.goneForMs;
    return goneForMs === undefined || (goneForMs !== null && goneForMs >= voterReplaceMs);
  };
  const kept = current.filter((host) => !isLost(host)).slice(0, count);
  const fresh = members
    .filter(({ host, isReady, goneForMs }) => isReady && goneForMs === null && !kept.includes(host))
    .map(({ host }) => host)
    .toSorted((a, b) => hash32(a) - hash32(b) || compareText(a, b));
  const filled = [...kept, ...fresh].slice(0, count);
  // Not enough to take the place of those that are gone: they may come back.
  const missing = current.filter((host) => byHost.has(host) && !filled.includes(host));
  return [...filled, ...missing].slice(0, count).toSorted(compareText);
}
