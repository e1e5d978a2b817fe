/** What one voter knows of one lease: what it promised and granted, and what must not go back. */
import type { HostId } from '../../crdt/ids.ts';
import type { Message } from './messages.ts';
import type { Ballot, Epoch, LeaseName, Owner } from './model.ts';

/** A time that has passed on every clock, and survives JSON. */
export const longAgoMs = -1e15;

export interface Held {
  readonly to: HostId;
  readonly message: Message;
}

/** What is known of one lease. */
export interface Seat {
  readonly name: LeaseName;
  promised: Ballot | null;
  /** Of the grant; the grant is live while the clock is before `untilMs`. */
  granted: Ballot | null;
  owner: Owner | null;
  untilMs: number;
  maxEpoch: Epoch;
  maxOwner: Owner | null;
  isReleased: boolean;
  /** As the owner of `maxEpoch` said last; null: that epoch is known by hearsay. */
  unfenced: readonly HostId[] | null;
  /** Grants of this session up to this ballot were given back: late copies of their `accept` do not revive them. */
  released: Ballot | null;
  parked: { readonly owner: Owner; readonly epoch: Epoch } | null;
  /** Who has parked it as another voter says, which keeps that park; for a while. */
  parkedElsewhere: HostId | null;
  parkedElsewhereUntilMs: number;
  reservedFor: HostId | null;
  reservedUntilMs: number;
  watchers: Map<HostId, number> | null;
  isExpiryTold: boolean;
  /** Since then the host that parked, and the other voters, may be told of it again. */
  parkHintAtMs: number;
  parkPassedOnAtMs: number;
  /** What was last handed to the disk. */
  savedEpoch: Epoch;
  savedOwner: Owner | null;
  savedUnfenced: string;
  savedParked: Epoch;
  /** Durable writes under way; while there are any, answers about this lease wait for them. */
  pending: number;
  held: Held[];
}

export function newSeat(name: LeaseName, floorRest: Epoch): Seat {
  return {
    name,
    promised: null,
    granted: null,
    owner: null,
    untilMs: longAgoMs,
    maxEpoch: floorRest,
    maxOwner: null,
    isReleased: true,
    unfenced: null,
    released: null,
    parked: null,
    parkedElsewhere: null,
    parkedElsewhereUntilMs: longAgoMs,
    reservedFor: null,
    reservedUntilMs: 0,
    watchers: null,
    isExpiryTold: true,
    parkHintAtMs: -Infinity,
    parkPassedOnAtMs: -Infinity,
    savedEpoch: 0,
    savedOwner: null,
    savedUnfenced: '',
    savedParked: 0,
    pending: 0,
    held: [],
  };
}

/** Host and session: a restart that forgot is somebody else. */
export function isSameOwner(a: Owner, b: Owner): boolean {
  return a.session === b.session && a.host === b.host;
}

export function isSame(a: Owner | null, b: Owner | null): boolean {
  return a !== null && b !== null && isSameOwner(a, b);
}
