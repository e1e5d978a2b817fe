/** A lease that is taken by command (`lock`, `job`): who waits for it, and what is answered when it does not come. */
import type { HostId } from '../../crdt/ids.ts';
import { leaseLimits } from './model.ts';
import type { Epoch, LeaseName, Owner } from './model.ts';
import type { Outcome, Proposer } from './proposer.ts';
import type { Turn, Waiting } from './turn.ts';

/** However little the asker wants to wait: one attempt must be possible. */
const waitMsMin = 2_000;

export interface AcquireWish {
  readonly waitMs: number;
  readonly epochMin?: Epoch;
}

export class Acquiring {
  readonly #name: LeaseName;
  readonly #proposer: Proposer;
  #waiting: Waiting | null = null;
  /** It is refused as soon as somebody else is seen to hold it. */
  #isImpatient = false;
  /** What the last attempt was refused for; null: by no rival. */
  #rival: { readonly owner: Owner | null } | null = null;

  constructor(name: LeaseName, proposer: Proposer) {
    this.#name = name;
    this.#proposer = proposer;
  }

  get isWaiting(): boolean {
    return this.#waiting !== null;
  }

  nextMs(): number {
    return this.#waiting?.untilMs ?? Infinity;
  }

  begin(command: number, { waitMs, epochMin = 0 }: AcquireWish, turn: Turn): void {
    const isEpoch = Number.isSafeInteger(epochMin) && epochMin <= leaseLimits.counterMax;
    if (isEpoch) this.#proposer.sawEpoch(epochMin - 1);
    this.#waiting = { id: command, untilMs: turn.authorityMs + Math.max(waitMs, waitMsMin) };
    this.#isImpatient = waitMs <= 0;
    this.#rival = null;
  }

  onOpen(epoch: Epoch, turn: Turn): void {
    if (this.#waiting) turn.reply(this.#waiting.id, { isOk: true, epoch });
    this.#waiting = null;
  }

  /** Of every attempt to acquire. True: whoever waits does not want to wait for more. */
  onFailed({ why, other }: Extract<Outcome, { kind: 'failed' }>): boolean {
    const isRival = why === 'busy' || why === 'parked';
    this.#rival = isRival ? { owner: other } : null;
    return this.#waiting !== null && this.#isImpatient && isRival;
  }

  /** Whoever asked is gone or has changed its mind. False: nobody waits for it. */
  cancel(turn: Turn): boolean {
    const waiting = this.#waiting;
    if (waiting === null) return false;
    this.#waiting = null;
    const reason = 'it was given up';
    turn.refuse(waiting.id, 'LEASE_TIMED_OUT', { name: this.#name, seconds: 0, reason });
    return true;
  }

  /** `other`: who has it; null: not seen in this attempt. `hinted`: who may have it. */
  refuse(other: Owner | null, hinted: HostId | null, turn: Turn): void {
    const waiting = this.#waiting!;
    this.#waiting = null;
    const name = this.#name;
    const holder = other?.host ?? this.#rival?.owner?.host ?? hinted;
    // A majority that refuses is a majority: whoever may act without one must not take it for none.
    if (holder || this.#rival !== null)
      turn.refuse(waiting.id, 'LEASE_BUSY', {
        name,
        reason: holder ? `held by ${holder}` : 'another host has it',
        ...(holder ? { holder } : {}),
      });
    else
      turn.refuse(waiting.id, 'LEASE_TIMED_OUT', {
        name,
        seconds: 0,
        reason: 'no majority of voters granted it',
      });
  }
}
