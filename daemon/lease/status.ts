/** What people are told of a lease: who holds it as far as is known here, and its history, bounded. */
import type { HostId } from '../../crdt/ids.ts';
import type { Gate } from './gate.ts';
import type {
  LeaseDesired,
  LeaseHistory,
  LeaseMoving,
  LeaseState,
  LeaseStatus,
} from './guard-api.ts';
import { leaseLimits } from './model.ts';
import type { Epoch, Instant, LeaseName, Owner } from './model.ts';

/** Hints come every few seconds; an older one says nothing. */
const hintMsMax = 10_000;

/** Newest last; the oldest go first. */
export class History {
  readonly #entries: (Omit<LeaseHistory, 'atWallMs'> & { readonly atMs: number })[] = [];

  add(
    what: LeaseHistory['what'],
    epoch: Epoch,
    host: HostId,
    why: string,
    authorityMs: number,
  ): void {
    const last = this.#entries.at(-1);
    if (last && last.what === what && last.epoch === epoch && last.host === host) return;
    if (this.#entries.length >= leaseLimits.historyMax) this.#entries.shift();
    this.#entries.push({ what, epoch, host, why, atMs: authorityMs });
  }

  /** `wallMs`: what the wall clock reads at `now`. */
  list(now: Instant, wallMs: number): readonly LeaseHistory[] {
    return this.#entries.map(({ what, epoch, host, why, atMs }) => ({
      what,
      epoch,
      host,
      why,
      atWallMs: Math.round(wallMs - (now.authorityMs - atMs)),
    }));
  }
}

/** What others said about a lease. A hint: it delays and directs, it never starts anything. */
export interface Hint {
  readonly owner: Owner;
  readonly epoch: Epoch;
  readonly state: 'active' | 'parked' | 'released';
  /** On the authority clock. */
  readonly untilMs: number;
}

/** What the acceptor of this host has granted. */
export interface Seen {
  readonly owner: Owner;
  readonly epoch: Epoch;
  readonly remainMs: number;
  readonly state: 'active' | 'parked';
}

export interface StatusView {
  readonly name: LeaseName;
  readonly desired: LeaseDesired | null;
  readonly isHolding: boolean;
  readonly isParked: boolean;
  /** Its workload is being stopped for a handover, or was. */
  readonly isStopping: boolean;
  readonly moving: LeaseMoving | null;
  readonly isAcquiring: boolean;
  readonly whyNotHere: string;
  /** This host, in the session in which it held the lease last. */
  readonly owner: Owner;
  readonly epoch: Epoch;
  /** Of our authority, on the authority clock; null: not held. */
  readonly untilMs: number | null;
  readonly gate: Gate;
  readonly hint: Hint | null;
  readonly seen: Seen | null;
  readonly history: History;
  readonly now: Instant;
  /** What the wall clock reads at `now`. */
  readonly wallMs: number;
}

export function leaseStatus(view: StatusView): LeaseStatus {
  const { desired, now } = view;
  const isOurs = view.isHolding || view.isParked;
  const heard = Math.max(view.hint?.epoch ?? 0, view.seen?.epoch ?? 0);
  return {
    name: view.name,
    title: desired?.title ?? view.name,
    state: stateOf(view),
    epoch: isOurs ? view.epoch : heard,
    holder: holderOf(view),
    remainMs: view.untilMs === null ? null : Math.max(0, view.untilMs - now.authorityMs),
    gate: gateWord(view.gate),
    profile: desired?.profile ?? 'fast',
    onLoss: desired?.onLoss ?? 'stop',
    candidates: desired?.candidates ?? [],
    mayAcquire: view.whyNotHere === '',
    why: isOurs ? '' : view.whyNotHere,
    moving: view.moving,
    history: view.history.list(now, view.wallMs),
  };
}

function stateOf(view: StatusView): LeaseState {
  const { gate } = view;
  if (view.isParked) return 'parked';
  if (view.isHolding) {
    if (view.isStopping) return 'handing-over';
    if (gate.isOpen) return 'active';
    return gate.epoch === view.epoch && !gate.isEmpty ? 'frozen' : 'opening';
  }
  if (view.isAcquiring) return 'acquiring';
  return view.whyNotHere === '' ? 'waiting' : 'idle';
}

function holderOf(view: StatusView): LeaseStatus['holder'] {
  const { owner, hint, now } = view;
  if (view.untilMs !== null)
    return { owner, state: 'active', remainMs: Math.max(0, view.untilMs - now.authorityMs) };
  if (view.isParked) return { owner, state: 'parked', remainMs: 0 };
  // A voter that was away keeps what it granted last; whoever has a later epoch says so.
  if (view.seen && view.seen.epoch >= (hint?.epoch ?? 0)) {
    const { owner: by, state, remainMs } = view.seen;
    return { owner: by, state, remainMs };
  }
  if (!hint || hint.state === 'released') return null;
  if (hint.state === 'active' && now.authorityMs > hint.untilMs + hintMsMax) return null;
  const remainMs = Math.max(0, hint.untilMs - now.authorityMs);
  return { owner: hint.owner, state: hint.state, remainMs };
}

function gateWord(gate: Gate): LeaseStatus['gate'] {
  if (!gate.hasGate) return 'none';
  switch (gate.state) {
    case 'open':
      return 'open';
    case 'failed':
      return 'failed';
    case 'clearing':
    case 'unknown':
      return 'clearing';
    case 'opening':
    case 'freezing':
    case 'closed':
      return 'closed';
  }
}
