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
 * - A park is a durable vote without end; only the same host, or force, ends it.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { DurableRecord } from './core-api.ts';
import type {
  Accept,
  Accepted,
  Expired,
  Learn,
  Prepare,
  Reject,
  Release,
  Watch,
} from './messages.ts';
import type { ConfigRef, Message } from './messages.ts';
import { compareBallots, leaseLimits } from './model.ts';
import type { Ballot, Epoch, LeaseFloor, LeaseName, Owner } from './model.ts';
import type { Turn } from './turn.ts';

/** A candidate that does not ask again is forgotten after this. */
export const watchMs = 10_000;
/** Others than the chosen successor are told busy for so long after a release: a favour, not a promise. */
export const reservationMs = 500;
/** Answers held back for one durable write; further ones are dropped, and asked for again. */
const heldBackMax = 64;
/** The host that parked is told at most so often that somebody met its park. */
const parkHintMs = 1_000;
/** A time that has passed on every clock, and survives JSON. */
const longAgoMs = -1e15;

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
  readonly ref: () => ConfigRef;
}

interface Held {
  readonly to: HostId;
  readonly message: Message;
}

/** What is known of one lease. */
interface Seat {
  readonly name: LeaseName;
  promised: Ballot | null;
  /** Of the grant; the grant is live while the clock is before `untilMs`. */
  granted: Ballot | null;
  owner: Owner | null;
  untilMs: number;
  maxEpoch: Epoch;
  maxOwner: Owner | null;
  isReleased: boolean;
  /** Grants of this session up to this ballot were given back: late copies of their `accept` do not revive them. */
  released: Ballot | null;
  parked: { readonly owner: Owner; readonly epoch: Epoch } | null;
  reservedFor: HostId | null;
  reservedUntilMs: number;
  watchers: Map<HostId, number> | null;
  isExpiryTold: boolean;
  parkHintAtMs: number;
  /** What was last handed to the disk. */
  savedEpoch: Epoch;
  savedOwner: Owner | null;
  savedParked: Epoch;
  /** Durable writes under way; while there are any, answers about this lease wait for them. */
  pending: number;
  held: Held[];
}

/** As `volatile()` gives it: plain values only. */
export interface AcceptorState {
  readonly silentUntilMs: number;
  readonly floorRest: Epoch;
  readonly seats: readonly (readonly [
    name: LeaseName,
    promised: Ballot | null,
    granted: Ballot | null,
    untilMs: number,
    maxEpoch: Epoch,
    maxOwner: Owner | null,
    isReleased: boolean,
    released: Ballot | null,
  ])[];
}

export class Acceptor {
  readonly #options: AcceptorOptions;
  readonly #seats = new Map<LeaseName, Seat>();
  /** Token of a durable write -> the lease that waits for it. */
  readonly #writes = new Map<number, Seat>();
  #floorRest: Epoch = 0;
  #silentUntilMs = longAgoMs;
  #dueMs = Infinity;

  constructor(options: AcceptorOptions) {
    this.#options = options;
  }

  // ---- State ----------------------------------------------------------------------------------------------------------

  /** What the disk holds; before `resume`. */
  restore(records: readonly DurableRecord[]): void {
    for (const record of records) {
      if (record.kind === 'epoch') {
        const seat = this.#seat(record.name);
        if (record.epoch >= seat.maxEpoch) {
          seat.maxEpoch = record.epoch;
          seat.maxOwner = record.owner;
          seat.isReleased = false;
        }
        seat.savedEpoch = record.epoch;
        seat.savedOwner = record.owner;
      } else if (record.kind === 'parked') {
        const seat = this.#seat(record.name);
        seat.parked = record.owner === null ? null : { owner: record.owner, epoch: record.epoch };
        seat.savedParked = record.owner === null ? 0 : record.epoch;
      } else if (record.kind === 'floor-rest') {
        this.#floorRest = Math.max(this.#floorRest, record.epoch);
      } else if (record.kind === 'chosen') {
        this.raiseFloors(record.chosen.config.floors, record.chosen.config.floorRest);
      }
    }
  }

  /** Continues from what this boot knew; grants and promises included. */
  resume(state: AcceptorState): void {
    this.#silentUntilMs = state.silentUntilMs;
    this.#floorRest = Math.max(this.#floorRest, state.floorRest);
    for (const saved of state.seats) {
      const seat = this.#seat(saved[0]);
      seat.promised = saved[1];
      seat.granted = saved[2];
      seat.owner = saved[2] && { host: saved[2].host, session: saved[2].session };
      seat.untilMs = saved[3];
      if (saved[4] >= seat.maxEpoch) {
        seat.maxEpoch = saved[4];
        seat.maxOwner = saved[5];
      }
      seat.isReleased = saved[6];
      seat.released = saved[7];
      this.#dueMs = -Infinity;
    }
  }

  volatile(): AcceptorState {
    const seats: AcceptorState['seats'][number][] = [];
    for (const seat of this.#seats.values()) {
      seats.push([
        seat.name,
        seat.promised,
        seat.granted,
        seat.untilMs,
        seat.maxEpoch,
        seat.maxOwner,
        seat.isReleased,
        seat.released,
      ]);
    }
    return { silentUntilMs: this.#silentUntilMs, floorRest: this.#floorRest, seats };
  }

  /** Forgets every grant and promise, and says nothing until then. */
  silence(untilMs: number): void {
    this.#silentUntilMs = Math.max(this.#silentUntilMs, untilMs);
    this.forget();
  }

  /** Grants and promises only; epochs and parks stay. */
  forget(): void {
    for (const seat of this.#seats.values()) {
      seat.promised = null;
      seat.granted = null;
      seat.owner = null;
      seat.untilMs = longAgoMs;
      seat.released = null;
      seat.reservedFor = null;
      seat.held = [];
      seat.isExpiryTold = true;
    }
  }

  /** On the monotonic clock; may be in the past. */
  get silentUntilMs(): number {
    return this.#silentUntilMs;
  }

  isSilent(turn: Turn): boolean {
    return turn.monoMs < this.#silentUntilMs;
  }

  nextMs(): number {
    return this.#dueMs;
  }

  get hasPark(): boolean {
    for (const seat of this.#seats.values()) if (seat.parked) return true;
    return false;
  }

  /** For people and for the answer to `exit`. */
  peek(
    name: LeaseName,
    monoMs: number,
  ): {
    readonly owner: Owner;
    readonly epoch: Epoch;
    readonly remainMs: number;
    readonly state: 'active' | 'parked';
  } | null {
    const seat = this.#seats.get(name);
    if (!seat) return null;
    const remainMs = Math.max(0, seat.untilMs - monoMs);
    if (seat.parked) return { ...seat.parked, remainMs: 0, state: 'parked' };
    if (seat.owner === null || remainMs <= 0) return null;
    return { owner: seat.owner, epoch: seat.maxEpoch, remainMs, state: 'active' };
  }

  hasGrantOfOthers(monoMs: number): boolean {
    for (const seat of this.#seats.values()) {
      if (seat.owner && seat.owner.host !== this.#options.self && monoMs < seat.untilMs)
        return true;
    }
    return false;
  }

  epochOf(name: LeaseName): Epoch {
    return this.#seats.get(name)?.maxEpoch ?? this.#floorRest;
  }

  floors(): { readonly floors: readonly LeaseFloor[]; readonly rest: Epoch } {
    const floors: LeaseFloor[] = [];
    for (const seat of this.#seats.values()) {
      if (seat.maxOwner && seat.maxEpoch > 0)
        floors.push({ name: seat.name, epoch: seat.maxEpoch, owner: seat.maxOwner });
    }
    floors.sort((a, b) => (a.name < b.name ? -1 : 1));
    return { floors, rest: this.#floorRest };
  }

  /** Of a configuration that is durable here, which is why these need no write of their own. */
  raiseFloors(floors: readonly LeaseFloor[], rest: Epoch): void {
    for (const floor of floors) {
      const seat = this.#seat(floor.name);
      if (floor.epoch <= seat.maxEpoch) continue;
      seat.maxEpoch = floor.epoch;
      seat.maxOwner = floor.owner;
      seat.isReleased = false;
    }
    this.#floorRest = Math.max(this.#floorRest, rest);
    for (const seat of this.#seats.values()) {
      // Nobody owns an epoch that stands for leases which were forgotten.
      if (seat.maxEpoch < rest && !floors.some((floor) => floor.name === seat.name)) {
        seat.maxEpoch = rest;
        seat.maxOwner = null;
      }
    }
  }

  // ---- Messages ---------------------------------------------------------------------------------------------------------

  /** The core has checked that the sender is who the ballot names, that we vote, and that it acts under our configuration. */
  onPrepare(from: HostId, message: Prepare, turn: Turn): void {
    const ballot = message.ballot;
    if (!this.#isEligible(message, from)) {
      this.#reject(from, message, this.#seats.get(message.name) ?? null, 'denied', 0, turn);
      return;
    }
    const seat = this.#seatFor(message.name, turn);
    if (!seat) {
      this.#reject(from, message, null, 'limit', 0, turn);
      return;
    }
    const blockedMs = this.#blockedMs(seat, ballot, turn.monoMs);
    const isParkedByOther =
      seat.parked !== null && seat.parked.owner.host !== from && !message.isForced;
    if (blockedMs > 0 || isParkedByOther || this.#isReservedFromOther(seat, from, turn.monoMs)) {
      if (isParkedByOther) this.#hintPark(seat, turn);
      this.#promise(from, message, seat, false, blockedMs, turn);
      return;
    }
    if (seat.promised && compareBallots(ballot, seat.promised) < 0) {
      this.#reject(from, message, seat, 'ballot', 0, turn);
      return;
    }
    seat.promised = ballot;
    this.#promise(from, message, seat, true, 0, turn);
  }

  onAccept(from: HostId, message: Accept, turn: Turn): void {
    const isEligible = this.#isEligible(message, from);
    const seat = isEligible
      ? this.#seatFor(message.name, turn)
      : (this.#seats.get(message.name) ?? null);
    if (!seat) {
      this.#reject(from, message, null, isEligible ? 'limit' : 'denied', 0, turn);
      return;
    }
    const why = this.#refusal(from, message, seat, isEligible, turn);
    if (why !== null) {
      this.#reject(
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
      seat.reservedFor = null;
      if (epoch > seat.maxEpoch) {
        seat.maxEpoch = epoch;
        seat.maxOwner = seat.owner;
      }
      if (seat.untilMs < this.#dueMs) this.#dueMs = seat.untilMs;
    }
    if (purpose === 'park' && seat.owner) seat.parked = { owner: seat.owner, epoch };
    else if (seat.parked && endsPark(message)) seat.parked = null;
    this.#save(seat, turn);
    const accepted: Accepted = {
      kind: 'accepted',
      env: message.env,
      generation: message.generation,
      n: message.n,
      name: message.name,
      ballot,
      purpose,
      isFull: this.#options.isFull(),
    };
    this.#answer(seat, from, accepted, turn);
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
    if (wasLive) this.#tellExpired(seat, turn);
  }

  onWatch(from: HostId, message: Watch, turn: Turn): void {
    for (const name of message.names) {
      const seat = this.#options.isListed(name) ? this.#seatFor(name, turn) : this.#seats.get(name);
      if (!seat) continue;
      const watchers = (seat.watchers ??= new Map());
      if (!watchers.has(from) && watchers.size >= leaseLimits.candidatesMax) {
        for (const [host, untilMs] of watchers) if (turn.monoMs >= untilMs) watchers.delete(host);
        if (watchers.size >= leaseLimits.candidatesMax) continue;
      }
      watchers.set(from, turn.monoMs + watchMs);
      if (seat.parked) turn.send(from, this.#learn(seat, seat.parked.owner, 0, 'parked'));
      else if (seat.owner && turn.monoMs < seat.untilMs)
        turn.send(from, this.#learn(seat, seat.owner, seat.untilMs - turn.monoMs, 'active'));
      else turn.send(from, this.#expired(seat));
    }
  }

  /** A durable write is done: what waited for it may leave. */
  onPersisted(token: number, turn: Turn): boolean {
    const seat = this.#writes.get(token);
    if (!seat) return false;
    this.#writes.delete(token);
    seat.pending--;
    if (seat.pending > 0) return true;
    const { held } = seat;
    seat.held = [];
    if (this.isSilent(turn)) return true;
    for (const each of held) turn.send(each.to, each.message);
    return true;
  }

  /** Tells watchers of grants that have lapsed. */
  tick(turn: Turn): void {
    if (turn.monoMs < this.#dueMs) return;
    let dueMs = Infinity;
    const isSilent = this.isSilent(turn);
    for (const seat of this.#seats.values()) {
      if (seat.isExpiryTold || seat.granted === null) continue;
      const endMs = seat.untilMs + this.#options.lockDelayMs(seat.name);
      if (turn.monoMs < endMs) {
        if (endMs < dueMs) dueMs = endMs;
      } else {
        seat.isExpiryTold = true;
        if (!isSilent && !seat.parked) this.#tellExpired(seat, turn);
      }
    }
    this.#dueMs = dueMs;
  }

  // ---- Rules ------------------------------------------------------------------------------------------------------------

  /** Who parked may come back for it, or nobody but force could end the park. */
  #isEligible({ name, isForced }: Prepare | Accept, host: HostId): boolean {
    return (
      this.#options.isEligible(name, host, isForced) ||
      this.#seats.get(name)?.parked?.owner.host === host
    );
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
          this.#hintPark(seat, turn);
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

  #save(seat: Seat, turn: Turn): void {
    const records: DurableRecord[] = [];
    const owner = seat.maxOwner;
    if (owner && (seat.savedEpoch !== seat.maxEpoch || !isSame(seat.savedOwner, owner))) {
      seat.savedEpoch = seat.maxEpoch;
      seat.savedOwner = owner;
      records.push({ kind: 'epoch', name: seat.name, epoch: seat.maxEpoch, owner });
    }
    const parkedEpoch = seat.parked?.epoch ?? 0;
    if (seat.savedParked !== parkedEpoch) {
      seat.savedParked = parkedEpoch;
      const by = seat.parked?.owner ?? null;
      records.push({ kind: 'parked', name: seat.name, owner: by, epoch: parkedEpoch });
    }
    if (records.length === 0) return;
    seat.pending++;
    this.#writes.set(turn.persist(records), seat);
  }

  // ---- Answers ------------------------------------------------------------------------------------------------------------

  #answer(seat: Seat | null, to: HostId, message: Message, turn: Turn): void {
    if (seat === null || seat.pending === 0) turn.send(to, message);
    else if (seat.held.length < heldBackMax) seat.held.push({ to, message });
  }

  #promise(
    to: HostId,
    message: Prepare,
    seat: Seat,
    isOpen: boolean,
    blockedMs: number,
    turn: Turn,
  ): void {
    const isLive = seat.owner !== null && (blockedMs > 0 || turn.monoMs < seat.untilMs);
    const remainMs = Math.max(blockedMs, seat.untilMs - turn.monoMs);
    this.#answer(
      seat,
      to,
      {
        kind: 'promise',
        env: message.env,
        generation: message.generation,
        n: message.n,
        name: message.name,
        ballot: message.ballot,
        isOpen,
        live: isLive && seat.owner ? { owner: seat.owner, epoch: seat.maxEpoch, remainMs } : null,
        maxEpoch: seat.maxEpoch,
        maxEpochOwner: seat.maxOwner,
        isReleased: seat.isReleased,
        promisedCounter: seat.promised?.counter ?? 0,
        parkedBy: seat.parked?.owner ?? null,
      },
      turn,
    );
  }

  #reject(
    to: HostId,
    message: Prepare | Accept,
    seat: Seat | null,
    why: Reject['why'],
    remainMs: number,
    turn: Turn,
  ): void {
    const promised = Math.max(seat?.promised?.counter ?? 0, seat?.released?.counter ?? 0);
    this.#answer(
      seat,
      to,
      {
        kind: 'reject',
        env: message.env,
        generation: message.generation,
        n: message.n,
        name: message.name,
        ballot: message.ballot,
        why,
        promisedCounter: promised,
        maxEpoch: Math.max(seat?.maxEpoch ?? 0, seat?.parked?.epoch ?? 0),
        remainMs,
      },
      turn,
    );
  }

  #learn(seat: Seat, owner: Owner, remainMs: number, state: Learn['state']): Learn {
    const env = this.#options.ref().env;
    const epoch = state === 'parked' && seat.parked ? seat.parked.epoch : seat.maxEpoch;
    return { kind: 'learn', env, name: seat.name, owner, epoch, remainMs, state };
  }

  #expired(seat: Seat): Expired {
    const env = this.#options.ref().env;
    return { kind: 'expired', env, name: seat.name, epoch: seat.maxEpoch };
  }

  #tellExpired(seat: Seat, turn: Turn): void {
    seat.isExpiryTold = true;
    if (!seat.watchers) return;
    for (const [host, untilMs] of seat.watchers) {
      if (turn.monoMs >= untilMs) seat.watchers.delete(host);
      else this.#answer(seat, host, this.#expired(seat), turn);
    }
  }

  /** The host that parked may have forgotten it (a reboot): then it says so, and the park ends. */
  #hintPark(seat: Seat, turn: Turn): void {
    if (!seat.parked || turn.monoMs < seat.parkHintAtMs) return;
    seat.parkHintAtMs = turn.monoMs + parkHintMs;
    turn.send(seat.parked.owner.host, this.#learn(seat, seat.parked.owner, 0, 'parked'));
  }

  // ---- Seats --------------------------------------------------------------------------------------------------------------

  #seat(name: LeaseName): Seat {
    let seat = this.#seats.get(name);
    if (!seat) {
      seat = newSeat(name, this.#floorRest);
      this.#seats.set(name, seat);
    }
    return seat;
  }

  #seatFor(name: LeaseName, turn: Turn): Seat | null {
    const seat = this.#seats.get(name);
    if (seat) return seat;
    if (this.#seats.size >= leaseLimits.leasesMax && !this.#forgetOne(turn)) return null;
    return this.#seat(name);
  }

  /**
   * Makes room: forgets a lease that nobody wants any more, raising the epoch below which none of the forgotten starts. Its
   * promise goes too, which is no loss: exclusion rests on grants, not on promises. The one of the lowest epoch: those of
   * jobs are high, and the others should not have to start above them.
   */
  #forgetOne(turn: Turn): boolean {
    let lowest: Seat | null = null;
    for (const seat of this.#seats.values()) {
      const endMs = seat.untilMs + this.#options.lockDelayMs(seat.name);
      if (turn.monoMs < endMs || seat.pending > 0 || seat.parked) continue;
      if (this.#options.isListed(seat.name)) continue;
      if (lowest === null || seat.maxEpoch < lowest.maxEpoch) lowest = seat;
    }
    if (lowest === null) return false;
    this.#seats.delete(lowest.name);
    if (lowest.maxEpoch > this.#floorRest) {
      this.#floorRest = lowest.maxEpoch;
      turn.persist([{ kind: 'floor-rest', epoch: lowest.maxEpoch }]);
    }
    return true;
  }
}

function newSeat(name: LeaseName, floorRest: Epoch): Seat {
  return {
    name,
    promised: null,
    granted: null,
    owner: null,
    untilMs: longAgoMs,
    maxEpoch: floorRest,
    maxOwner: null,
    isReleased: true,
    released: null,
    parked: null,
    reservedFor: null,
    reservedUntilMs: 0,
    watchers: null,
    isExpiryTold: true,
    parkHintAtMs: -Infinity,
    savedEpoch: 0,
    savedOwner: null,
    savedParked: 0,
    pending: 0,
    held: [],
  };
}

/**
 * Who renews, holds with a deadline again; who disowns, has nothing left. An `unpark` or an `acquire` of the host that parked may
 * come to nothing, and its workload then runs on without a deadline: until then the park stands, at every voter.
 */
function endsPark(message: Accept): boolean {
  return message.purpose === 'renew' || message.exclusionMs === 0 || message.isForced;
}

/** Host and session: a restart that forgot is somebody else. */
function isSameOwner(a: Owner, b: Owner): boolean {
  return a.session === b.session && a.host === b.host;
}

function isSame(a: Owner | null, b: Owner): boolean {
  return a !== null && isSameOwner(a, b);
}
