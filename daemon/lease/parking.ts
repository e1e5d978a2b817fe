/**
 * Keeping a lease through a stop of everything, and going on after it: both by command, answered when a majority of voters has
 * made it durable. While a park is being asked for the lease is held as ever; what comes of it changes the lease, not this.
 */
import type { Candidacy } from './candidacy.ts';
import type { Epoch, LeaseName } from './model.ts';
import type { Outcome, Proposer } from './proposer.ts';
import { commandMsMax } from './shared.ts';
import type { Shared } from './shared.ts';
import type { Turn, Waiting } from './turn.ts';

/** What it needs of the lease. */
export interface ParkingHost {
  readonly name: LeaseName;
  readonly env: string;
  readonly epoch: Epoch;
  readonly isHolding: boolean;
  /** In which the lease was taken last. */
  readonly heldBySession: string;
  renewNow(turn: Turn): void;
}

export class Parking {
  readonly #host: ParkingHost;
  readonly #shared: Shared;
  readonly #proposer: Proposer;
  readonly #candidacy: Candidacy;
  #parking: Waiting | null = null;
  #unparking: Waiting | null = null;
  /** The voters do not just go on: the lease is acquired anew. */
  #isUnparkFull = false;

  constructor(host: ParkingHost, shared: Shared, proposer: Proposer, candidacy: Candidacy) {
    this.#host = host;
    this.#shared = shared;
    this.#proposer = proposer;
    this.#candidacy = candidacy;
  }

  get isParking(): boolean {
    return this.#parking !== null;
  }

  get isUnparking(): boolean {
    return this.#unparking !== null;
  }

  nextMs(): number {
    return Math.min(this.#parking?.untilMs ?? Infinity, this.#unparking?.untilMs ?? Infinity);
  }

  park(command: number, turn: Turn): void {
    this.#parking = { id: command, untilMs: turn.authorityMs + commandMsMax };
    this.#candidacy.dueMs = turn.authorityMs;
  }

  unpark(command: number, turn: Turn): void {
    this.#unparking = { id: command, untilMs: turn.authorityMs + commandMsMax };
    this.#isUnparkFull = false;
    this.#candidacy.dueMs = turn.authorityMs;
  }

  settle(turn: Turn): void {
    if (this.#parking) this.#settlePark(this.#parking, turn);
    if (this.#unparking) this.#settleUnpark(this.#unparking, turn);
  }

  #settlePark(parking: Waiting, turn: Turn): void {
    const { electorate, session } = this.#shared;
    if (!this.#host.isHolding) this.#refusePark('it is not held here', turn);
    else if (turn.authorityMs >= parking.untilMs)
      this.#refusePark('no majority of voters answers', turn);
    else if (
      electorate &&
      this.#proposer.purpose !== 'park' &&
      turn.authorityMs >= this.#candidacy.dueMs
    )
      this.#proposer.park(electorate, session, turn);
  }

  #settleUnpark(unparking: Waiting, turn: Turn): void {
    const { electorate, session } = this.#shared;
    const proposer = this.#proposer;
    if (turn.authorityMs >= unparking.untilMs) {
      this.#unparking = null;
      const reason = 'it stays parked and runs on';
      turn.refuse(unparking.id, 'NO_QUORUM', { env: this.#host.env, reason });
    } else if (
      electorate &&
      proposer.purpose === null &&
      turn.authorityMs >= this.#candidacy.dueMs
    ) {
      if (this.#isUnparkFull || this.#host.heldBySession !== session)
        proposer.acquire(electorate, session, null, turn);
      else proposer.unpark(electorate, session, turn);
    }
  }

  // ---- What came of it ----------------------------------------------------------------------------------------------------

  /** The voters keep it. */
  onParked(turn: Turn): void {
    if (this.#parking) turn.reply(this.#parking.id, { isOk: true, epoch: this.#host.epoch });
    this.#parking = null;
  }

  onParkFailed(why: string, turn: Turn): void {
    if (this.#parking && turn.authorityMs >= this.#parking.untilMs)
      this.#refusePark(`the voters answered: ${why}`, turn);
    this.#candidacy.backOff(0, turn.authorityMs);
    this.#host.renewNow(turn);
  }

  /** The lease ran out before it was parked. */
  onLost(turn: Turn): void {
    if (this.#parking) this.#refusePark('it ran out meanwhile', turn);
  }

  #refusePark(reason: string, turn: Turn): void {
    const parking = this.#parking;
    this.#parking = null;
    if (this.#proposer.purpose === 'park') this.#proposer.cancel();
    this.#host.renewNow(turn);
    if (parking) turn.refuse(parking.id, 'NO_QUORUM', { env: this.#host.env, reason });
  }

  /** It is not parked any more: held again, or somebody else's. */
  onUnparked(turn: Turn): void {
    if (this.#unparking) turn.reply(this.#unparking.id, { isOk: true, epoch: this.#host.epoch });
    this.#unparking = null;
    this.#isUnparkFull = false;
  }

  onUnparkFailed({ purpose, why }: Extract<Outcome, { kind: 'failed' }>, turn: Turn): void {
    this.#candidacy.backOff(0, turn.authorityMs);
    if (purpose === 'unpark' && (why === 'epoch' || why === 'busy' || why === 'parked')) {
      this.#isUnparkFull = true;
      this.#candidacy.dueMs = turn.authorityMs;
    }
  }

  /** New voters were forced, which know of no park. */
  onForcedOut(turn: Turn): void {
    if (!this.#unparking) return;
    const { id } = this.#unparking;
    this.#unparking = null;
    const reason = 'voters were forced meanwhile';
    turn.refuse(id, 'LEASE_LOST', { name: this.#host.name, reason });
  }
}
