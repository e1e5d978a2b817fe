/**
 * When a waiting host tries to take a lease.
 *
 * Voters push that a grant lapsed or was given back, so that a takeover waits for neither gossip nor a timer; every candidate
 * then waits by its place, `rank * 60 ms` and some chance, so that the best one usually meets no rival. Without a push it tries
 * a while after the end that it was told of, which also covers lost messages. Duels, and voters that do not answer, are
 * answered with a wait that doubles.
 */
import type { Random } from '../ports.ts';
import type { Epoch } from './model.ts';
import type { Outcome } from './proposer.ts';

export const candidacyLimits = Object.freeze({
  rankStepMs: 60,
  rankChanceMs: 40,
  /** More for all but the best, once, when a lease is new to this guard. */
  startMs: 250,
  duelMsMin: 20,
  duelMsMax: 150,
  duelDoublingsMax: 4,
  /** Beyond the end that it was told of, a candidate waits for the push that a voter owes it; doubled while none is needed. */
  pushGraceMs: 300,
  pushGraceMsMax: 2_000,
  /** Every voter pushes the same; those of one epoch within this time are one. */
  pushesMs: 500,
  /** After its turn came, a candidate waits for voters that lag behind by up to this, with no place to wait for. */
  lagMs: 500,
  lagChanceMs: 10,
  parkRetryMs: 5_000,
});

/** All times on the authority clock. */
export class Candidacy {
  readonly #random: Random;
  readonly #rank: () => number;
  /** Not before this. */
  dueMs = 0;
  #startMs = 0;
  #turnMs = 0;
  #turnEpoch: Epoch = -1;
  #tries = 0;
  #graceMs: number = candidacyLimits.pushGraceMs;
  #wasAllowed = false;
  #isUrgent = false;

  /** `rank`: place among the candidates, from 0. */
  constructor(random: Random, rank: () => number) {
    this.#random = random;
    this.#rank = rank;
  }

  /** It was asked for, or left to this host, and has not been tried since. */
  get isUrgent(): boolean {
    return this.#isUrgent;
  }

  /** The lease is new here. When all hosts start together the best one should win, though its guard was not the first. */
  start(nowMs: number): void {
    this.#startMs = nowMs + (this.#rank() === 0 ? 0 : candidacyLimits.startMs);
    this.dueMs = this.#startMs + this.#stagger();
  }

  /** It may be tried, or may not: all that waited for the same (an end of a freeze) take their turns. */
  allow(isAllowed: boolean, nowMs: number): void {
    if (isAllowed && !this.#wasAllowed) this.afterTurn(nowMs);
    this.#wasAllowed = isAllowed;
  }

  /** At once: somebody asked for it, or left it to this host. */
  now(nowMs: number): void {
    this.#wasAllowed = true;
    this.#isUrgent = true;
    this.dueMs = nowMs;
    this.#tries = 0;
  }

  /** Not before its turn from now on. */
  afterTurn(nowMs: number): void {
    this.dueMs = Math.max(this.dueMs, nowMs + this.#stagger());
  }

  /** Its turn counts from now: what kept it waiting has changed. */
  turn(nowMs: number): void {
    this.#tries = 0;
    this.dueMs = nowMs + this.#stagger();
  }

  /** As `turn`, unless it would have come sooner. */
  turnAtLatest(nowMs: number): void {
    this.dueMs = Math.min(this.dueMs, nowMs + this.#stagger());
  }

  won(): void {
    this.#isUrgent = false;
    this.#tries = 0;
    this.#graceMs = candidacyLimits.pushGraceMs;
  }

  /** A voter said that a grant under `epoch` lapsed or was given back. */
  opened(epoch: Epoch, nowMs: number): void {
    this.#graceMs = candidacyLimits.pushGraceMs;
    if (epoch === this.#turnEpoch && nowMs - this.#turnMs < candidacyLimits.pushesMs) return;
    this.#turnEpoch = epoch;
    this.#turnMs = Math.max(nowMs, this.#startMs) + this.#stagger();
    if (this.#turnMs < this.dueMs) this.dueMs = this.#turnMs;
    this.#tries = 0;
  }

  /** Somebody holds it for so much longer. */
  held(remainMs: number, nowMs: number): void {
    this.dueMs = Math.max(this.dueMs, nowMs + remainMs + this.#stagger() + this.#graceMs);
  }

  failed(outcome: Extract<Outcome, { kind: 'failed' }>, nowMs: number): void {
    this.#tries++;
    this.#isUrgent = false;
    const { why, waitMs } = outcome;
    if (why === 'ballot' && this.#tries === 1) this.dueMs = nowMs;
    else if (why === 'busy') this.#waitForEnd(waitMs, nowMs);
    else if (why === 'parked') this.dueMs = nowMs + candidacyLimits.parkRetryMs;
    else this.backOff(waitMs, nowMs);
  }

  /** Duels, and no answers. */
  backOff(waitMs: number, nowMs: number): void {
    const { duelMsMin, duelMsMax, duelDoublingsMax } = candidacyLimits;
    const spanMs = duelMsMin + (duelMsMax - duelMsMin) * this.#random.next();
    const doublings = Math.min(Math.max(0, this.#tries - 2), duelDoublingsMax);
    this.dueMs = nowMs + waitMs + spanMs * 2 ** doublings;
  }

  #waitForEnd(waitMs: number, nowMs: number): void {
    if (waitMs <= 0) {
      // Reserved for a chosen successor, or lost to a rival in this very round.
      this.backOff(0, nowMs);
      return;
    }
    // Our turn has come already, but some voters lag behind the one that told us.
    if (nowMs - this.#turnMs < 2 * candidacyLimits.lagMs && waitMs < candidacyLimits.lagMs) {
      this.dueMs = nowMs + waitMs + candidacyLimits.lagChanceMs * this.#random.next();
      return;
    }
    this.dueMs = nowMs + waitMs + this.#stagger() + this.#graceMs;
    this.#graceMs = Math.min(this.#graceMs * 2, candidacyLimits.pushGraceMsMax);
    this.#tries = 0;
  }

  #stagger(): number {
    const chanceMs = candidacyLimits.rankChanceMs * this.#random.next();
    return this.#rank() * candidacyLimits.rankStepMs + chanceMs;
  }
}
