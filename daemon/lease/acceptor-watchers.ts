/**
 * What a voter says unasked: to waiting candidates that a grant has lapsed or was given back, and to who parked that somebody
 * met its park. Hints: a candidate that hears none of it tries by itself, later.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { Answers } from './acceptor-answers.ts';
import type { Expired, Learn } from './messages.ts';
import { leaseLimits } from './model.ts';
import type { LeaseName, Owner } from './model.ts';
import type { Seat } from './seat.ts';
import type { Turn } from './turn.ts';

/** A candidate that does not ask again is forgotten after this. */
const watchMs = 10_000;
/** The host that parked, and the other voters, are told of a park at most so often. */
const parkHintMs = 1_000;

export interface WatcherPorts {
  env(): string;
  voters(): readonly HostId[];
  /** Extra exclusion after an expiry without release. */
  lockDelayMs(name: LeaseName): number;
}

export class Watchers {
  readonly #ports: WatcherPorts;
  readonly #answers: Answers;
  /** No grant lapses before; on the monotonic clock. */
  #dueMs = Infinity;

  constructor(ports: WatcherPorts, answers: Answers) {
    this.#ports = ports;
    this.#answers = answers;
  }

  nextMs(): number {
    return this.#dueMs;
  }

  /** A grant may lapse as soon as this. */
  dueAtLatest(atMs: number): void {
    if (atMs < this.#dueMs) this.#dueMs = atMs;
  }

  /** A candidate waits; it hears at once how things stand. */
  add(from: HostId, seat: Seat, turn: Turn): void {
    const watchers = (seat.watchers ??= new Map());
    if (!watchers.has(from) && watchers.size >= leaseLimits.candidatesMax) {
      for (const [host, untilMs] of watchers) if (turn.monoMs >= untilMs) watchers.delete(host);
      if (watchers.size >= leaseLimits.candidatesMax) return;
    }
    watchers.set(from, turn.monoMs + watchMs);
    if (seat.parked) turn.send(from, this.#learn(seat, seat.parked.owner, 0, 'parked'));
    else if (seat.owner && turn.monoMs < seat.untilMs)
      turn.send(from, this.#learn(seat, seat.owner, seat.untilMs - turn.monoMs, 'active'));
    else turn.send(from, this.#expired(seat));
  }

  /** Tells watchers of grants that have lapsed. */
  tick(seats: Iterable<Seat>, isSilent: boolean, turn: Turn): void {
    if (turn.monoMs < this.#dueMs) return;
    let dueMs = Infinity;
    for (const seat of seats) {
      if (seat.isExpiryTold || seat.granted === null) continue;
      const endMs = seat.untilMs + this.#ports.lockDelayMs(seat.name);
      if (turn.monoMs < endMs) {
        if (endMs < dueMs) dueMs = endMs;
      } else {
        seat.isExpiryTold = true;
        if (!isSilent && !seat.parked) this.tellExpired(seat, turn);
      }
    }
    this.#dueMs = dueMs;
  }

  /** Its grant has lapsed or was given back. */
  tellExpired(seat: Seat, turn: Turn): void {
    seat.isExpiryTold = true;
    if (!seat.watchers) return;
    for (const [host, untilMs] of seat.watchers) {
      if (turn.monoMs >= untilMs) seat.watchers.delete(host);
      else this.#answers.send(seat, host, this.#expired(seat), turn);
    }
  }

  /** The host that parked may have forgotten it (a reboot): then it says so, and the park ends. */
  hintPark(seat: Seat, turn: Turn): void {
    if (!seat.parked || turn.monoMs < seat.parkHintAtMs) return;
    seat.parkHintAtMs = turn.monoMs + parkHintMs;
    turn.send(seat.parked.owner.host, this.#learn(seat, seat.parked.owner, 0, 'parked'));
  }

  /**
   * Whoever parked is back: the other voters let it in too. Some of them may never have heard of the park, and know the host as
   * no candidate any more.
   */
  passOnPark(from: HostId, seat: Seat | null, turn: Turn): void {
    if (seat?.parked?.owner.host !== from || turn.monoMs < seat.parkPassedOnAtMs) return;
    seat.parkPassedOnAtMs = turn.monoMs + parkHintMs;
    const learn = this.#learn(seat, seat.parked.owner, 0, 'parked');
    for (const voter of this.#ports.voters())
      if (voter !== turn.self && voter !== from) turn.send(voter, learn);
  }

  #learn(seat: Seat, owner: Owner, remainMs: number, state: Learn['state']): Learn {
    const env = this.#ports.env();
    const epoch = state === 'parked' && seat.parked ? seat.parked.epoch : seat.maxEpoch;
    return { kind: 'learn', env, name: seat.name, owner, epoch, remainMs, state };
  }

  #expired(seat: Seat): Expired {
    const env = this.#ports.env();
    return { kind: 'expired', env, name: seat.name, epoch: seat.maxEpoch };
  }
}
