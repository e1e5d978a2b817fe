/** One attempt of a proposer, and who of the voters has answered it: bits by place in the electorate. */
import type { Reject } from './messages.ts';
import type { Ballot, Epoch, Owner } from './model.ts';
import type { HostId } from '../../crdt/ids.ts';
import type { Electorate, Purpose } from './proposer.ts';

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
  lastOwner: Owner | null;
  isLastReleased: boolean;
  /** What the last owner had still to fence; null: no voter knows. */
  inherited: readonly HostId[] | null;
  /** Hosts that have to be fenced before anything runs. */
  unfenced: readonly HostId[];
  isGranted: boolean;
  other: Owner | null;
  why: Reject['why'] | 'timeout';
  /** Of the voters that refused, until when: on the authority clock. */
  readonly waits: number[];
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
