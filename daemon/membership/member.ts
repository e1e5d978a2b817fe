/** What we believe about one member of the roster, and whom to pick for what. */
import { compareText } from '../../crdt/codec.ts';
import type { NodeId } from '../../crdt/ids.ts';
import type { Liveness } from '../../crdt/model.ts';
import type { Random } from '../ports.ts';
import type { Suspicion } from './suspicion.ts';

export interface Member {
  readonly id: NodeId;
  /** 'dead' with incarnation `neverHeard` until something is known. */
  status: Liveness;
  incarnation: number;
  /** When a frame of it last arrived here; null: never in this run. */
  lastHeardMs: number | null;
  lastProbedMs: number;
  isConnected: boolean;
  /** Set exactly while the status is 'suspect'. */
  suspicion: Suspicion | null;
}

export const neverHeard = -1;

export function newMember(id: NodeId, random: Random): Member {
  return {
    id,
    status: 'dead',
    incarnation: neverHeard,
    lastHeardMs: null,
    // Before everything real, and in an order of our own: nodes started together must not all probe the same one.
    lastProbedMs: -1 - random.next(),
    isConnected: false,
    suspicion: null,
  };
}

/** Counted among the living: alive, or not yet proven otherwise. */
export function isLive(member: Member): boolean {
  return member.status === 'alive' || member.status === 'suspect';
}

/** Whoever we have had no sign of for longest; a connection makes even a 'dead' one worth asking. */
export function nextToProbe(
  members: Iterable<Member>,
  isBusy: (id: NodeId) => boolean,
): Member | null {
  let chosen: Member | null = null;
  for (const member of members) {
    if (!isProbeable(member) || isBusy(member.id)) continue;
    if (chosen === null || isQuieter(member, chosen)) chosen = member;
  }
  return chosen;
}

/** At most `count` different ones, every choice equally likely. */
export function sample<T>(values: readonly T[], count: number, random: Random): T[] {
  const pool = [...values];
  const size = Math.min(count, pool.length);
  for (let i = 0; i < size; i++) {
    const other = i + Math.floor(random.next() * (pool.length - i));
    [pool[i], pool[other]] = [pool[other] as T, pool[i] as T];
  }
  return pool.slice(0, size);
}

function isProbeable(member: Member): boolean {
  return isLive(member) || (member.status === 'dead' && member.isConnected);
}

function isQuieter(a: Member, b: Member): boolean {
  const difference = lastSignMs(a) - lastSignMs(b);
  return difference < 0 || (difference === 0 && compareText(a.id, b.id) < 0);
}

function lastSignMs(member: Member): number {
  return Math.max(member.lastProbedMs, member.lastHeardMs ?? Number.NEGATIVE_INFINITY);
}
