/**
 * Which hosts of an environment should vote. A pure function of what is known of them: every host that asks with the same
 * knowledge gets the same answer, in whatever order the hosts are listed, and asking again changes nothing.
 *
 * Who votes stays a voter: each change is a step in which one more loss hurts. A voter is replaced only when it has left or has
 * been dead for ten minutes, and somebody alive can take its place. The number is odd: four voters tolerate no more losses than
 * three. Two hosts stay with the one voter they have until an operator chooses, because what is right there is a choice
 * between two harms (`daemon/docs/leases.md`).
 */
import { compareText } from '../../crdt/codec.ts';
import { hash32 } from '../../crdt/hash32.ts';
import type { HostId } from '../../crdt/ids.ts';
import { majorityOf } from './model.ts';

/** A voter that is dead for longer gives its vote to another host. */
export const voterReplaceMs = 10 * 60_000;

export interface VoterHost {
  readonly host: HostId;
  /** Since when it is dead, milliseconds ago; null: it is alive. */
  readonly deadForMs: number | null;
  /** Of its host, as it says. */
  readonly uptimeMs: number;
  /** As operators name it: a room, a site; '' when they did not. */
  readonly location: string;
  readonly isWitness: boolean;
  /** `voter: never`: only an operator's explicit choice makes it vote. */
  readonly isNever: boolean;
  /** Its vote is silent until it was removed and let in anew: see `voter-memory.ts`. */
  readonly hasForgotten: boolean;
  /** Is leaving, or drained for good. */
  readonly isLeaving: boolean;
}

/** How many votes so many hosts have. */
export function voterCount(hosts: number): 1 | 3 | 5 | 7 {
  if (hosts <= 2) return 1;
  if (hosts <= 4) return 3;
  return hosts < 100 ? 5 : 7;
}

/** Sorted; never empty while `current` is not. `hosts`: all members of the environment. */
export function chooseVoters(input: {
  readonly hosts: readonly VoterHost[];
  readonly current: readonly HostId[];
  /** Null: the choice is ours. Members that have left drop out of it. */
  readonly operatorChoice: readonly HostId[] | null;
}): readonly HostId[] {
  const members = input.hosts
    .filter(({ isLeaving }) => !isLeaving)
    .toSorted((a, b) => compareText(a.host, b.host));
  const current = [...input.current].toSorted(compareText);
  const restored = withoutForgetful(members, current);
  if (restored !== null) return restored;
  const chosen =
    input.operatorChoice === null
      ? automatic(members, current)
      : members.map(({ host }) => host).filter((host) => input.operatorChoice?.includes(host));
  return chosen.length === 0 ? current : chosen.toSorted(compareText);
}

/**
 * Before anything else a vote that is silent comes back: the others remove it, which ends its silence, and are asked for it
 * again. Null: none is, or the others are no majority, so that only force helps.
 */
function withoutForgetful(
  members: readonly VoterHost[],
  current: readonly HostId[],
): readonly HostId[] | null {
  const silent = members.filter(
    ({ host, hasForgotten, deadForMs }) =>
      hasForgotten && deadForMs === null && current.includes(host),
  );
  const [first] = silent;
  const isEnough = current.length - silent.length >= majorityOf(current.length);
  return first === undefined || !isEnough ? null : current.filter((host) => host !== first.host);
}

function automatic(members: readonly VoterHost[], current: readonly HostId[]): HostId[] {
  const able = members.filter(({ isNever }) => !isNever);
  const count = voterCount(able.length);
  const isVoter = ({ host }: VoterHost) => current.includes(host);
  const kept = able.filter((host) => isVoter(host) && !isLost(host));
  const fresh = able.filter((host) => !isVoter(host) && host.deadForMs === null);
  const picked = pick([], kept, count);
  const withFresh = pick(picked, fresh, count);
  // Nobody is there to take the place of those that are gone: they may come back, and their vote with them.
  const gone = able.filter((host) => isVoter(host) && isLost(host));
  const all = pick(withFresh, gone, count).map(({ host }) => host);
  return all.length % 2 === 1 ? all : all.slice(0, -1);
}

function isLost(host: VoterHost): boolean {
  return host.deadForMs !== null && host.deadForMs >= voterReplaceMs;
}

/** Adds the best of `from` one by one, until there are `count`. */
function pick(
  picked: readonly VoterHost[],
  from: readonly VoterHost[],
  count: number,
): readonly VoterHost[] {
  const all = [...picked];
  const left = [...from];
  while (all.length < count && left.length > 0) {
    const places = new Set(all.map(({ location }) => location));
    left.sort((a, b) => compareHosts(a, b, places));
    const best = left.shift();
    if (best !== undefined) all.push(best);
  }
  return all;
}

/** Alive first, then hosts that carry work, then places that have no vote yet, then who has run for long. */
function compareHosts(a: VoterHost, b: VoterHost, places: ReadonlySet<string>): number {
  const isFar = ({ location }: VoterHost) => location !== '' && !places.has(location);
  return (
    Number(a.deadForMs !== null) - Number(b.deadForMs !== null) ||
    Number(a.isWitness) - Number(b.isWitness) ||
    Number(isFar(b)) - Number(isFar(a)) ||
    uptimeRank(b) - uptimeRank(a) ||
    hash32(a.host) - hash32(b.host) ||
    compareText(a.host, b.host)
  );
}

/** Coarse, so that two hosts do not change places all the time. */
function uptimeRank({ uptimeMs }: VoterHost): number {
  const hours = uptimeMs / 3_600_000;
  return hours >= 24 ? 2 : hours >= 1 ? 1 : 0;
}
