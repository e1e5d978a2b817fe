/**
 * How a lease that this host does not hold comes to it: by its turn, by command, or by force. `Candidacy` says when; here is
 * whether, and what is made of an attempt that failed.
 */
import type { HostId } from '../../crdt/ids.ts';
import { Acquiring } from './acquiring.ts';
import type { AcquireWish } from './acquiring.ts';
import { Candidacy } from './candidacy.ts';
import { Forcing } from './forcing.ts';
import type { ForcingHost } from './forcing.ts';
import type { Gate } from './gate.ts';
import type { LeaseDesired } from './guard-api.ts';
import type { Learn } from './messages.ts';
import type { Epoch, Owner } from './model.ts';
import type { Outcome, Proposer } from './proposer.ts';
import type { Shared } from './shared.ts';
import type { Standing } from './standing.ts';
import type { Turn } from './turn.ts';

/** What it needs of the lease. */
export interface CandidateHost extends ForcingHost {
  /** Null: nobody wants this lease any more. */
  desired: LeaseDesired | null;
  readonly isHolding: boolean;
  readonly isParked: boolean;
  readonly isGateEmpty: boolean;
  readonly gate: Gate;
  readonly proposer: Proposer;
  readonly standing: Standing;
}

export class Candidate {
  readonly #host: CandidateHost;
  readonly #shared: Shared;
  readonly candidacy: Candidacy;
  readonly #acquiring: Acquiring;
  readonly #forcing: Forcing;
  /** The last attempt. */
  #beganMs = -Infinity;

  constructor(host: CandidateHost, shared: Shared) {
    this.#host = host;
    this.#shared = shared;
    this.candidacy = new Candidacy(shared.random, () =>
      Math.max(0, host.desired?.candidates.indexOf(shared.self) ?? 0),
    );
    this.#acquiring = new Acquiring(host.name, host.proposer);
    this.#forcing = new Forcing(host, this.candidacy);
  }

  /** Somebody waits for the answer of a command. */
  get isAwaited(): boolean {
    return this.#acquiring.isWaiting;
  }

  get isForced(): boolean {
    return this.#forcing.isOn;
  }

  // ---- Its turn -----------------------------------------------------------------------------------------------------------

  /** While it is neither held nor parked: nothing is tried while frozen or held off. */
  settle(turn: Turn): void {
    const { name, proposer, standing } = this.#host;
    if (turn.authorityMs >= standing.nextMs()) {
      standing.endHoldOff();
      this.candidacy.afterTurn(turn.authorityMs);
    }
    if (turn.authorityMs >= this.#acquiring.nextMs()) {
      this.#refuse(null, turn);
      return;
    }
    this.#forcing.settle(turn);
    const { electorate, session, admission } = this.#shared;
    if (proposer.purpose !== null || !electorate) return;
    if (!this.#isDue(turn)) {
      admission.leave(name);
      return;
    }
    const { isOn, victim, of } = this.#forcing;
    const isUrgent = isOn || this.isAwaited || this.candidacy.isUrgent;
    if (!admission.enter(name, isUrgent)) return;
    this.#beganMs = turn.authorityMs;
    proposer.acquire(electorate, session, isOn ? { victim, of } : null, turn);
  }

  #isDue(turn: Turn): boolean {
    const { gate, standing } = this.#host;
    const isAllowed = standing.whyNot() === '';
    this.candidacy.allow(isAllowed, turn.authorityMs);
    if (turn.authorityMs < this.candidacy.dueMs) return false;
    if (this.#forcing.isOn ? turn.authorityMs < this.#forcing.atMs : !isAllowed) return false;
    // A gate that is being emptied may still prove that it cannot be.
    return !gate.hasGate || gate.onLoss === 'keep' || gate.state !== 'unknown';
  }

  /** When the next attempt is due. */
  nextMs(): number {
    if (this.#shared.admission.isWaiting(this.#host.name)) return Infinity;
    if (this.#forcing.isOn) return Math.max(this.candidacy.dueMs, this.#forcing.atMs);
    return this.#host.standing.whyNot() === '' ? this.candidacy.dueMs : Infinity;
  }

  /** Until then commands wait. */
  commandMs(): number {
    return Math.min(this.#acquiring.nextMs(), this.#forcing.nextMs());
  }

  onFailed(outcome: Extract<Outcome, { kind: 'failed' }>, turn: Turn): void {
    const { why, other } = outcome;
    this.#noteEnd(turn);
    const mustRefuse = this.#acquiring.onFailed(outcome);
    const { electorate } = this.#shared;
    const { gate, proposer } = this.#host;
    // Where something may lie frozen in a gate they are left to lapse: what was not looked at is not known to be empty.
    if (outcome.isGrantOut && electorate && !gate.hasGate) proposer.giveBack(electorate, turn);
    if (mustRefuse) this.#refuse(other, turn);
    else if (this.#forcing.isMistaken(outcome)) this.#forcing.onMistaken(outcome, turn);
    else if (this.#forcing.isOn && why === 'parked' && other) this.#forcing.onParked(other, turn);
    else this.candidacy.failed(outcome, turn.authorityMs);
  }

  /** True: it was taken by force. */
  onAcquired(turn: Turn): boolean {
    this.#noteEnd(turn);
    const wasForced = this.#forcing.isOn;
    this.#forcing.onAcquired();
    this.candidacy.won();
    return wasForced;
  }

  /** An attempt came to its end: how long it took tells how busy everybody is. */
  #noteEnd(turn: Turn): void {
    const tookMs = turn.authorityMs - this.#beganMs;
    const isLate = tookMs >= this.#host.proposer.profile.resendMs;
    this.#shared.admission.onEnd(isLate, turn.authorityMs);
  }

  /** It is held, and what may run does. */
  onOpen(epoch: Epoch, turn: Turn): void {
    this.#acquiring.onOpen(epoch, turn);
    this.#forcing.onOpen(epoch, turn);
  }

  // ---- Hints --------------------------------------------------------------------------------------------------------------

  /** A grant under `epoch` lapsed or was given back. */
  onOpening(epoch: Epoch, turn: Turn): void {
    if (this.#isWaiting && !this.#host.hints.isPast(epoch))
      this.candidacy.opened(epoch, turn.authorityMs);
  }

  /** Somebody else has it. */
  onLearn({ state, remainMs }: Learn, turn: Turn): void {
    if (this.#isWaiting && state === 'active') this.candidacy.held(remainMs, turn.authorityMs);
  }

  get #isWaiting(): boolean {
    const { isHolding, isParked, proposer } = this.#host;
    return !isHolding && !isParked && proposer.purpose === null;
  }

  // ---- Commands -----------------------------------------------------------------------------------------------------------

  /** For as long as the daemon stays connected. */
  acquire(command: number, wish: AcquireWish, turn: Turn): void {
    this.#acquiring.begin(command, wish, turn);
    this.candidacy.now(turn.authorityMs);
  }

  /**
   * Whoever asked is gone or has changed its mind. What voters may have granted is given back, unless something may lie in
   * the gate. False: nobody waits for it.
   */
  cancel(turn: Turn): boolean {
    if (!this.#acquiring.cancel(turn)) return false;
    const host = this.#host;
    if (host.isHolding) return true;
    host.desired = null;
    const { electorate } = this.#shared;
    const isClean = !host.gate.hasGate || host.isGateEmpty;
    if (electorate && isClean) host.proposer.release(electorate, null, turn);
    else host.proposer.drop();
    return true;
  }

  #refuse(other: Owner | null, turn: Turn): void {
    this.#host.desired = null;
    this.#host.proposer.cancel();
    this.#acquiring.refuse(other, this.#host.hints.holder, turn);
  }

  /** An operator declared the owner dead: after the longest authority its park is passed over. */
  force(command: number, of: HostId | null, waitMs: number, turn: Turn): void {
    this.#forcing.begin(command, of, waitMs, turn);
    this.#host.standing.endHoldOff();
  }
}
