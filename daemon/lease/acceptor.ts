/**
 * The acceptor: what one voter has promised and granted, per lease. Diskless for everything that ends by itself, durable for
 * what must not go back: the highest epoch with its owner, and parks.
 *
 * The idea (PaxosLease): a grant is a vote that lapses by the voter's own clock, so that nothing needs to be remembered for
 * longer than that; a voter that forgot keeps silent until everything it may have forgotten has lapsed.
 *
 * Source: M. Trencseni, "PaxosLease Revisited" (2026), which repairs the 2012 paper: a live grant of another owner is never
 * replaced, whatever the ballot, and an owner is an incarnation, not a host. What we changed, and why:
 * - A `prepare` that meets somebody else's live grant promises nothing, so that waiting candidates never disturb renewals.
 * - Grants carry epochs that only grow here, fsynced when they change and before the voter says so (not on renewals).
 * - A release clears grants up to its ballot, not only the exact one: this voter may have missed the last renewal.
 * - A park is a durable vote without end; only the same host, or force, ends it. Voters that keep one say so to the others when
 *   its host asks: it may come back for it whoever the candidates are by now, also at voters that the park never reached.
 */
import type { HostId } from '../../crdt/ids.ts';
import { Answers } from './acceptor-answers.ts';
import { Watchers } from './acceptor-watchers.ts';
import type { DurableRecord } from './core-api.ts';
import type { Accept, Learn, Prepare, Reject, Release, Watch } from './messages.ts';
import { compareBallots } from './model.ts';
import type { Ballot, Epoch, LeaseFloor, LeaseName } from './model.ts';
import { isSameOwner, longAgoMs } from './seat.ts';
import type { Seat } from './seat.ts';
import { Seats } from './seats.ts';
import type { SeatState } from './seats.ts';
import type { Seen } from './status.ts';
import type { Turn } from './turn.ts';

/** Others than the chosen successor are told busy for so long after a release: a favour, not a promise. */
export const reservationMs = 500;
/** What another voter said of a park that it keeps counts for so long; it says it again while the host asks. */
const parkedElsewhereMs = 10_000;

export interface AcceptorOptions {
  readonly self: HostId;
  /** May this host take this lease? False for leases that are not known. Force lets more hosts in. */
  readonly isEligible: (name: LeaseName, host: HostId, isForced: boolean) => boolean;
  /** Extra exclusion after an expiry without release. */
  readonly lockDelayMs: (name: LeaseName) => number;
  /** Known from the environment's wish; others are forgotten first. */
  readonly isListed: (name: LeaseName) => boolean;
  /** Are we about to leave a configuration of two? */
  readonly isFull: () => boolean;
  /** `M` of the configuration in force. */
  readonly ttlMsMax: () => number;
  readonly env: () => string;
  /** This voter has lost what it promised to keep: see `voter-memory.ts`. */
  readonly hasForgotten: () => boolean;
  /** Of the configuration in force. */
  readonly voters: () => readonly HostId[];
}

/** As `volatile()` gives it: plain values only. */
export interface AcceptorState {
  readonly silentUntilMs: number;
  readonly floorRest: Epoch;
  readonly seats: readonly SeatState[];
}

export class Acceptor {
  readonly #options: AcceptorOptions;
  readonly #seats: Seats;
  readonly #answers = new Answers();
  readonly #watchers: Watchers;
  #silentUntilMs = longAgoMs;

  constructor(options: AcceptorOptions) {
    this.#options = options;
    this.#seats = new Seats(options);
    this.#watchers = new Watchers(options, this.#answers);
  }

  // ---- State ----------------------------------------------------------------------------------------------------------

  /** What the disk holds; before `resume`. */
  restore(records: readonly DurableRecord[]): void {
    this.#seats.restore(records);
  }

  /** Continues from what this boot knew; grants and promises included. */
  resume(state: AcceptorState): void {
    this.#silentUntilMs = state.silentUntilMs;
    this.#seats.resume(state.seats, state.floorRest);
    if (state.seats.length > 0) this.#watchers.dueAtLatest(-Infinity);
  }

  volatile(): AcceptorState {
    const { floorRest } = this.#seats;
    return { silentUntilMs: this.#silentUntilMs, floorRest, seats: this.#seats.volatile() };
  }

  /** Forgets every grant and promise, and says nothing until then. */
  silence(untilMs: number): void {
    this.#silentUntilMs = Math.max(this.#silentUntilMs, untilMs);
    this.forget();
  }

  /** Grants and promises only; epochs and parks stay. */
  forget(): void {
    this.#seats.forget();
  }

  /** They are from before this voter forgot; those that count are kept by the others. */
  dropParks(turn: Turn): void {
    for (const seat of this.#seats.all()) {
      seat.parked = null;
      this.#answers.save(seat, turn);
    }
  }

  /** On the monotonic clock; may be in the past. */
  get silentUntilMs(): number {
    return this.#silentUntilMs;
  }

  isSilent(turn: Turn): boolean {
    return this.#options.hasForgotten() || turn.monoMs < this.#silentUntilMs;
  }

  nextMs(): number {
    return this.#watchers.nextMs();
  }

  /** Whether it keeps any park. Their hosts are told, since one that was outlived is in the way of others. */
  hintParks(turn: Turn): boolean {
    let hasPark = false;
    for (const seat of this.#seats.all()) {
      if (!seat.parked) continue;
      hasPark = true;
      this.#watchers.hintPark(seat, turn);
    }
    return hasPark;
  }

  hasGrantOfOthers(monoMs: number): boolean {
    return this.#seats.hasGrantOfOthers(this.#options.self, monoMs);
  }

  /** For people. */
  peek(name: LeaseName, monoMs: number): Seen | null {
    const seat = this.#seats.get(name);
    if (!seat) return null;
    const remainMs = Math.max(0, seat.untilMs - monoMs);
    if (seat.parked) return { ...seat.parked, remainMs: 0, state: 'parked' };
    if (seat.owner === null || remainMs <= 0) return null;
    return { owner: seat.owner, epoch: seat.maxEpoch, remainMs, state: 'active' };
  }

  /** Somebody else has a live grant of ours, and no park: of its end, and of its release, we hear first. */
  refusesUs(name: LeaseName, turn: Turn): boolean {
    const seen = this.isSilent(turn) ? null : this.peek(name, turn.monoMs);
    return seen?.state === 'active' && seen.owner.host !== turn.self;
  }

  floors(): { readonly floors: readonly LeaseFloor[]; readonly rest: Epoch } {
    return this.#seats.floors();
  }

  /** Of a configuration that is durable here, which is why these need no write of their own. */
  raiseFloors(floors: readonly LeaseFloor[], rest: Epoch): void {
    this.#seats.raiseFloors(floors, rest);
  }

  // ---- Messages ---------------------------------------------------------------------------------------------------------

  /** The core has checked that the sender is who the ballot names, that we vote, and that it acts under our configuration. */
  onPrepare(from: HostId, message: Prepare, turn: Turn): void {
    const ballot = message.ballot;
    this.#watchers.passOnPark(from, this.#seats.get(message.name), turn);
    if (!this.#isEligible(message, from, turn)) {
      this.#answers.reject(from, message, this.#seats.get(message.name), 'denied', 0, turn);
      return;
    }
    const seat = this.#seats.getOrMake(message.name, turn);
    if (!seat) {
      this.#answers.reject(from, message, null, 'limit', 0, turn);
      return;
    }
    const blockedMs = this.#blockedMs(seat, ballot, turn.monoMs);
    const isParkedByOther =
      seat.parked !== null && seat.parked.owner.host !== from && !message.isForced;
    if (blockedMs > 0 || isParkedByOther || this.#isReservedFromOther(seat, from, turn.monoMs)) {
      if (isParkedByOther) this.#watchers.hintPark(seat, turn);
      this.#answers.promise(from, message, seat, false, blockedMs, turn);
      return;
    }
    if (seat.promised && compareBallots(ballot, seat.promised) < 0) {
      this.#answers.reject(from, message, seat, 'ballot', 0, turn);
      return;
    }
    seat.promised = ballot;
    this.#answers.promise(from, message, seat, true, 0, turn);
  }

  onAccept(from: HostId, message: Accept, turn: Turn): void {
    this.#watchers.passOnPark(from, this.#seats.get(message.name), turn);
    const isEligible = this.#isEligible(message, from, turn);
    const seat = isEligible
      ? this.#seats.getOrMake(message.name, turn)
      : this.#seats.get(message.name);
    if (!seat) {
      this.#answers.reject(from, message, null, isEligible ? 'limit' : 'denied', 0, turn);
      return;
    }
    const why = this.#refusal(from, message, seat, isEligible, turn);
    if (why !== null) {
      this.#answers.reject(
        from,
        message,
        seat,
        why,
        this.#blockedMs(seat, message.ballot, turn.monoMs),
        turn,
      );
      return;
    }
    const { ballot, epoch, purpose } = message;
    seat.promised = ballot;
    // What was promised to others and has not left yet must not be said after this.
    if (seat.held.length > 0)
      seat.held = seat.held.filter((each) => each.message.kind !== 'promise');
    if (message.exclusionMs > 0) {
      if (seat.owner === null || !isSameOwner(seat.owner, ballot))
        seat.owner = { host: from, session: ballot.session };
      // Never sooner than before: the owner may not hear of a shorter renewal, and goes on by the longer one.
      const isSameTenure = seat.granted !== null && isSameOwner(seat.granted, ballot);
      const untilMs = turn.monoMs + message.exclusionMs;
      seat.granted = ballot;
      seat.untilMs = isSameTenure ? Math.max(seat.untilMs, untilMs) : untilMs;
      seat.isExpiryTold = false;
      seat.isReleased = false;
      seat.unfenced = message.unfenced;
      seat.reservedFor = null;
      if (epoch > seat.maxEpoch) {
        seat.maxEpoch = epoch;
        seat.maxOwner = seat.owner;
      }
      this.#watchers.dueAtLatest(seat.untilMs);
    }
    if (purpose === 'park' && seat.owner) seat.parked = { owner: seat.owner, epoch };
    else if (seat.parked && endsPark(message)) seat.parked = null;
    this.#answers.save(seat, turn);
    this.#answers.accepted(from, message, seat, this.#options.isFull(), turn);
  }

  onRelease(from: HostId, message: Release, turn: Turn): void {
    const seat = this.#seats.get(message.name);
    if (!seat || message.ballot.host !== from) return;
    const { ballot } = message;
    const isGrant =
      seat.granted !== null &&
      isSameOwner(seat.granted, ballot) &&
      compareBallots(seat.granted, ballot) <= 0;
    const isLast = seat.maxOwner !== null && isSameOwner(seat.maxOwner, ballot);
    if (!isGrant && !(isLast && seat.granted === null)) return;
    seat.released = ballot;
    if (isLast) seat.isReleased = true;
    if (!isGrant) return;
    const wasLive = turn.monoMs < seat.untilMs;
    seat.granted = null;
    seat.owner = null;
    seat.untilMs = longAgoMs;
    if (message.successor !== null) {
      seat.reservedFor = message.successor;
      seat.reservedUntilMs = turn.monoMs + reservationMs;
    }
    if (wasLive) this.#watchers.tellExpired(seat, turn);
  }

  onWatch(from: HostId, message: Watch, turn: Turn): void {
    for (const name of message.names) {
      const isListed = this.#options.isListed(name);
      const seat = isListed ? this.#seats.getOrMake(name, turn) : this.#seats.get(name);
      if (seat) this.#watchers.add(from, seat, turn);
    }
  }

  /** Of another voter: it keeps a park, and its host asks for it. A late copy lets that host in for a while, and no more. */
  onParkElsewhere(from: HostId, { name, owner }: Learn, turn: Turn): void {
    const seat = this.#options.voters().includes(from) ? this.#seats.getOrMake(name, turn) : null;
    if (!seat) return;
    seat.parkedElsewhere = owner.host;
    seat.parkedElsewhereUntilMs = turn.monoMs + parkedElsewhereMs;
  }

  /** A durable write is done: what waited for it may leave. False: it was not one of the acceptor's. */
  onPersisted(token: number, turn: Turn): boolean {
    return this.#answers.onPersisted(token, this.isSilent(turn), turn);
  }

  /** Tells watchers of grants that have lapsed. */
  tick(turn: Turn): void {
    this.#watchers.tick(this.#seats.all(), this.isSilent(turn), turn);
  }

  // ---- Rules ------------------------------------------------------------------------------------------------------------

  /** Who parked may come back for it, or nobody but force could end the park. */
  #isEligible({ name, isForced }: Prepare | Accept, host: HostId, turn: Turn): boolean {
    if (this.#options.isEligible(name, host, isForced)) return true;
    const seat = this.#seats.get(name);
    if (!seat) return false;
    const isElsewhere = seat.parkedElsewhere === host && turn.monoMs < seat.parkedElsewhereUntilMs;
    return seat.parked?.owner.host === host || isElsewhere;
  }

  /** Null: grant. The order is that of the specification; each rule alone suffices to refuse. */
  #refusal(
    from: HostId,
    message: Accept,
    seat: Seat,
    isEligible: boolean,
    turn: Turn,
  ): Reject['why'] | null {
    const { ballot, epoch, purpose } = message;
    if (!(message.exclusionMs <= this.#options.ttlMsMax())) return 'ttl';
    const isOfOwner = seat.maxOwner !== null && isSameOwner(seat.maxOwner, ballot);
    // Who holds a lease keeps it, whatever the candidates are now: that is for handovers to change.
    const isContinued = purpose !== 'acquire' && (isOfOwner || seat.parked?.owner.host === from);
    if (!isContinued && !isEligible) return 'denied';
    if (this.#blockedMs(seat, ballot, turn.monoMs) > 0) return 'busy';
    if (seat.promised && compareBallots(ballot, seat.promised) < 0) return 'ballot';
    if (
      seat.released &&
      isSameOwner(seat.released, ballot) &&
      compareBallots(ballot, seat.released) <= 0
    )
      return 'ballot';
    if (seat.parked) {
      if (seat.parked.owner.host !== from) {
        if (!message.isForced) {
          this.#watchers.hintPark(seat, turn);
          return 'parked';
        }
      } else if (epoch < seat.parked.epoch) return 'epoch';
    }
    if (message.exclusionMs <= 0) return purpose === 'unpark' ? null : 'ttl';
    if (epoch > seat.maxEpoch || (epoch === seat.maxEpoch && isOfOwner)) return null;
    return 'epoch';
  }

  /** How long somebody else's grant still excludes this owner; 0 when nothing does. THE safety rule. */
  #blockedMs(seat: Seat, asker: Ballot, monoMs: number): number {
    const granted = seat.granted;
    if (granted === null || isSameOwner(granted, asker)) return 0;
    if (monoMs < seat.untilMs) return seat.untilMs - monoMs + this.#options.lockDelayMs(seat.name);
    const delayMs = this.#options.lockDelayMs(seat.name);
    if (delayMs <= 0) return 0;
    return Math.max(0, seat.untilMs + delayMs - monoMs);
  }

  #isReservedFromOther(seat: Seat, from: HostId, monoMs: number): boolean {
    return seat.reservedFor !== null && seat.reservedFor !== from && monoMs < seat.reservedUntilMs;
  }
}

/**
 * Who renews, holds with a deadline again; who disowns, has nothing left. An `unpark` or an `acquire` of the host that parked may
 * come to nothing, and its workload then runs on without a deadline: until then the park stands, at every voter.
 */
function endsPark(message: Accept): boolean {
  return message.purpose === 'renew' || message.exclusionMs === 0 || message.isForced;
}
