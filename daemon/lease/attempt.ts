/** One attempt of a proposer, and who of the voters has answered it: bits by place in the electorate. */
import type { PromiseReply, Reject } from './messages.ts';
import { leaseLimits } from './model.ts';
import type { Ballot, Epoch, Owner } from './model.ts';
import type { HostId } from '../../crdt/ids.ts';
import type { Electorate, Purpose } from './proposer.ts';
import { isSameOwner } from './seat.ts';

export interface Attempt {
  readonly purpose: Purpose;
  readonly ballot: Ballot;
  readonly electorate: Electorate;
  readonly isForced: boolean;
  readonly exclusionMs: number;
  /** End of the authority that it would give. */
  readonly untilMs: number;
  readonly giveUpMs: number;
  isAccepting: boolean;
  epoch: Epoch;
  resendMs: number;
  /** Bits by place in `electorate.voters`. */
  open: number;
  closed: number;
  accepted: number;
  rejected: number;
  isFull: boolean;
  isUninterrupted: boolean;
  epochSeen: Epoch;
  /** Owners of the epoch `epochSeen`: more than one when attempts of several left grants under one number. */
  lasts: readonly LastOwner[];
  /** Hosts that have to be fenced before anything runs. */
  unfenced: readonly HostId[];
  isGranted: boolean;
  other: Owner | null;
  why: Reject['why'] | 'timeout';
  /** Of the voters that refused, until when: on the authority clock. */
  readonly waits: number[];
}

export interface LastOwner {
  readonly owner: Owner;
  /** It gave the lease up itself, as one voter at least knows. */
  readonly isReleased: boolean;
  /** What it had still to fence; null: no voter knows. */
  readonly unfenced: readonly HostId[] | null;
}

/** What a voter says of the highest epoch that it knows. One without an owner there knows that epoch by hearsay. */
export function noteLast(attempt: Attempt, said: PromiseReply): void {
  if (said.maxEpoch < attempt.epochSeen) return;
  if (said.maxEpoch > attempt.epochSeen) attempt.lasts = [];
  attempt.epochSeen = said.maxEpoch;
  const owner = said.maxEpochOwner;
  if (owner === null) return;
  const known = attempt.lasts.find((last) => isSameOwner(last.owner, owner));
  const last = {
    owner,
    isReleased: said.isReleased || known?.isReleased === true,
    unfenced: inBoth(known?.unfenced ?? null, said.unfenced),
  };
  attempt.lasts = [...attempt.lasts.filter((one) => one !== known), last];
}

/** An owner that is not known to have given the lease up itself. */
export function victimOf({ lasts }: Pick<Attempt, 'lasts'>): Owner | null {
  return lasts.find(({ isReleased }) => !isReleased)?.owner ?? null;
}

/** Hosts of such owners, and those whom any owner had not fenced yet. */
export function unfencedBefore({ lasts }: Pick<Attempt, 'lasts'>, self: HostId): readonly HostId[] {
  const all = lasts.flatMap(({ owner, isReleased, unfenced }) => [
    ...(unfenced ?? []),
    ...(isReleased ? [] : [owner.host]),
  ]);
  return [...new Set(all)].filter((host) => host !== self).slice(0, leaseLimits.unfencedMax);
}

/** Of two voters that know of one owner: what one of them has heard to be fenced is. */
function inBoth(
  a: readonly HostId[] | null,
  b: readonly HostId[] | null,
): readonly HostId[] | null {
  if (a === null || b === null) return a ?? b;
  return a.filter((host) => b.includes(host));
}

/** 0 when it is none of these voters. */
export function voterBit(electorate: Electorate, host: HostId): number {
  const index = electorate.voters.indexOf(host);
  return index < 0 ? 0 : 1 << index;
}

export function bitCount(bits: number): number {
  let count = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) count++;
  return count;
}
