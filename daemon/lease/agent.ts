/**
 * One lease as this host sees it: when to try, hold, open, hand over, park and give up.
 *
 * Events record facts; `settle` then compares every deadline with the clock and drives the parts. Whether the lease is held or
 * parked changes only here; each part declares what it needs to know of it, and decides its own matter: the candidate how the
 * lease comes here, the proposer what the voters grant, the contents what may run, parking, handovers and moves how it ends.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { AcquireWish } from './acquiring.ts';
import type { Candidacy } from './candidacy.ts';
import { Candidate } from './candidate.ts';
import type { CandidateHost } from './candidate.ts';
import { Contents } from './contents.ts';
import type { ContentsHost } from './contents.ts';
import type { GateResult } from './core-api.ts';
import { Gate } from './gate.ts';
import type { GateMemory } from './gate.ts';
import type { LeaseDesired, LeaseStatus } from './guard-api.ts';
import { Handovers } from './handover.ts';
import type { GivingKind, HandoverHost } from './handover.ts';
import { Hints } from './hints.ts';
import type { HintedHost } from './hints.ts';
import type { Expired, Handover, Learn, PromiseReply, Accepted, Reject } from './messages.ts';
import type { Epoch, Instant, LeaseName, Owner } from './model.ts';
import { Moves } from './moves.ts';
import type { MovingHost } from './moves.ts';
import { News } from './news.ts';
import type { NewsHost } from './news.ts';
import { Parking } from './parking.ts';
import type { ParkingHost } from './parking.ts';
import { profiles } from './profiles.ts';
import { Proposer } from './proposer.ts';
import type { Outcome, ProposerState } from './proposer.ts';
import { Renewal } from './renewal.ts';
import type { Shared } from './shared.ts';
import { Standing } from './standing.ts';
import type { StandingHost } from './standing.ts';
import { leaseStatus } from './status.ts';
import type { Seen } from './status.ts';
import type { Turn } from './turn.ts';

/** As `volatile()` gives it. */
export interface AgentState {
  readonly name: LeaseName;
  readonly proposer: ProposerState;
  readonly gate: GateMemory;
  readonly isHolding: boolean;
  readonly isParked: boolean;
  readonly heldBySession: string;
  readonly mustEmpty: boolean;
  readonly isByCommand: boolean;
  /** While anything depends on it: deadlines are kept from the first event on, before the wish is told again. */
  readonly desired: LeaseDesired | null;
}

export class LeaseAgent
  implements
    CandidateHost,
    ContentsHost,
    HandoverHost,
    HintedHost,
    MovingHost,
    NewsHost,
    ParkingHost,
    StandingHost
{
  readonly name: LeaseName;
  readonly #shared: Shared;
  readonly proposer: Proposer;
  readonly gate: Gate;
  readonly handovers: Handovers;
  readonly standing: Standing;
  readonly hints: Hints;
  readonly #contents: Contents;
  readonly #candidate: Candidate;
  readonly #candidacy: Candidacy;
  readonly #news: News;
  readonly #parking: Parking;
  readonly #moves: Moves;
  readonly #renewal: Renewal;
  /** Null: nobody wants this lease any more. */
  desired: LeaseDesired | null = null;
  /** Taken by command (`lock`, `job`): given up with the daemon's connection. */
  isByCommand = false;
  isHolding = false;
  isParked = false;
  /** `nextMs` as of the last `settle`; the core's. */
  dueMs = -Infinity;

  constructor(name: LeaseName, shared: Shared) {
    this.name = name;
    this.#shared = shared;
    this.proposer = new Proposer(name, profiles.fast, shared.ballots);
    this.gate = new Gate(name, profiles.fast);
    this.handovers = new Handovers(this);
    this.standing = new Standing(this, shared);
    this.hints = new Hints(this, shared);
    this.#moves = new Moves(this, shared);
    this.#renewal = new Renewal(shared, this.proposer);
    this.#contents = new Contents(this, this.gate);
    this.#candidate = new Candidate(this, shared);
    this.#candidacy = this.#candidate.candidacy;
    this.#news = new News(this, shared);
    this.#parking = new Parking(this, shared, this.proposer, this.#candidacy);
  }

  // ---- State ------------------------------------------------------------------------------------------------------------

  resume(state: AgentState): void {
    this.proposer.resume(state.proposer);
    this.gate.resume(state.gate);
    this.isHolding = state.isHolding;
    this.isParked = state.isParked;
    this.#contents.resume(state.heldBySession, state.mustEmpty);
    this.isByCommand = state.isByCommand;
    if (state.desired) this.#take(state.desired);
  }

  volatile(): AgentState {
    return {
      name: this.name,
      proposer: this.proposer.volatile(),
      gate: this.gate.volatile(),
      isHolding: this.isHolding,
      isParked: this.isParked,
      heldBySession: this.heldBySession,
      mustEmpty: this.#contents.mustEmpty,
      isByCommand: this.isByCommand,
      desired: this.isIdle ? null : this.desired,
    };
  }

  /** Nothing is known or held here that anybody would miss. */
  get isIdle(): boolean {
    return (
      !this.isHolding &&
      !this.isParked &&
      !this.handovers.isGiving &&
      !this.handovers.isAwaited &&
      (!this.gate.hasGate || this.isGateEmpty)
    );
  }

  setDesired(desired: LeaseDesired | null, turn: Turn): void {
    const before = this.desired;
    if (desired === null) {
      this.desired = null;
      this.isParked = false;
      return;
    }
    this.#take(desired);
    if (before === null) this.#candidacy.start(turn.authorityMs);
    else this.standing.onWish(before, desired);
    const isTrying =
      this.proposer.purpose === 'acquire' && !this.isParked && !this.#candidate.isForced;
    if (isTrying && this.whyNotHere() !== '') this.proposer.cancel();
  }

  #take(desired: LeaseDesired): void {
    this.desired = desired;
    this.#takeProfile();
    this.gate.onLoss = desired.onLoss;
    this.gate.fence = desired.fence;
    this.proposer.hasFence = desired.fence === 'command';
    this.gate.hasGate = desired.gate !== null;
    this.gate.hasTraffic = desired.gate !== null && desired.traffic.length > 0;
  }

  #takeProfile(): void {
    if (!this.desired) return;
    const profile = this.standing.profileOf(this.desired);
    this.proposer.profile = profile;
    this.#takeMargins();
  }

  /** What is held under a longer profile than the voters grant by now keeps the margins of that, to its end or the next renewal. */
  #takeMargins(): void {
    const { profile, exclusionMs } = this.proposer;
    const isLonger = this.isHolding && exclusionMs > profile.exclusionMs;
    const held = Object.values(profiles).find((each) => each.exclusionMs === exclusionMs);
    this.gate.profile = isLonger && held !== undefined ? held : profile;
  }

  get env(): string {
    return this.#shared.desired?.env ?? this.#shared.electorate?.ref.env ?? '';
  }

  get epoch(): Epoch {
    return this.proposer.epoch;
  }

  get hasGate(): boolean {
    return this.gate.hasGate;
  }

  get self(): HostId {
    return this.#shared.self;
  }

  get isDaemonHere(): boolean {
    return this.#shared.isDaemonHere;
  }

  get isGateEmpty(): boolean {
    return this.#contents.isGone;
  }

  /** It waits for its turn, or has to hear whether what is left inside its gate belongs to somebody else by now. */
  get hasToHear(): boolean {
    if (this.isHolding || this.isParked) return false;
    if (this.#contents.hasRemains) return true;
    // What is tried as soon as there is room needs no word that it may be.
    return !this.#shared.admission.isWaiting(this.name) && this.whyNotHere() === '';
  }

  /** What ran here has no right to any more, and is not gone yet. */
  get isOusted(): boolean {
    return this.#contents.isOusted;
  }

  /** Nothing of it may run before its last owner is off. */
  get isFencing(): boolean {
    return this.#contents.isFencing;
  }

  get heldBySession(): string {
    return this.#contents.session;
  }

  get isGateFailed(): boolean {
    return this.gate.state === 'failed';
  }

  others(): readonly HostId[] {
    return this.standing.others();
  }

  get isFrozen(): boolean {
    return this.standing.isFrozen;
  }

  whyNotHere(): string {
    return this.standing.whyNot();
  }

  newId(): string {
    let id = '';
    for (const byte of this.#shared.random.bytes(6)) id += byte.toString(16).padStart(2, '0');
    return id;
  }

  // ---- The decision -------------------------------------------------------------------------------------------------------

  /**
   * Keeps: a gate is open only within authority; nothing is tried while frozen, parked or held off; what is held is renewed
   * until it is given away; a release leaves only when the gate was verified empty.
   */
  settle(turn: Turn): void {
    if (this.isHolding && !this.proposer.isHeld(turn)) this.#lose(turn);
    const outcome = this.proposer.tick(turn);
    if (outcome) this.#on(outcome, turn);
    this.#driveGate(turn);
    this.handovers.settle(turn);
    this.#parking.settle(turn);
    if (this.isHolding) this.#keepUp(turn);
    else if (!this.isParked) this.#candidate.settle(turn);
    this.#driveGate(turn);
  }

  /** On the authority clock. */
  nextMs(): number {
    let next = Math.min(this.proposer.nextMs(), this.handovers.nextMs());
    next = Math.min(next, this.isParked ? this.gate.pauseEndMs() : this.gate.nextMs());
    if (this.isHolding) {
      next = Math.min(next, this.proposer.untilMs, this.hints.tellAtLatestMs);
      if (this.proposer.purpose !== 'park' && this.gate.state !== 'failed')
        next = Math.min(next, this.#renewal.dueMs);
      next = Math.min(next, this.#moves.nextMs());
    } else next = Math.min(next, this.#candidate.commandMs());
    next = Math.min(next, this.standing.nextMs(), this.#parking.nextMs());
    return Math.min(next, this.#nextTryMs());
  }

  #nextTryMs(): number {
    const { purpose } = this.proposer;
    if (this.#parking.isParking) return purpose === 'park' ? Infinity : this.#candidacy.dueMs;
    if (purpose !== null || !this.#shared.electorate || this.isHolding) return Infinity;
    if (this.isParked) return this.#parking.isUnparking ? this.#candidacy.dueMs : Infinity;
    return this.#candidate.nextMs();
  }

  #driveGate(turn: Turn): void {
    this.#contents.settle(turn);
    if (this.isHolding && this.gate.isOpen) this.#candidate.onOpen(this.epoch, turn);
  }

  #lose(turn: Turn): void {
    this.isHolding = false;
    this.#shared.watchDue.push(this.name);
    this.proposer.drop();
    this.handovers.lost(turn);
    this.#contents.onLost();
    this.#news.lost(turn);
    this.#candidacy.turn(turn.authorityMs);
    this.#parking.onLost(turn);
    if (this.isByCommand && !this.#candidate.isAwaited) this.desired = null;
  }

  /** Every lease of a host that slept or was restored: gone at once. */
  dropAll(turn: Turn): void {
    if (this.isHolding) {
      this.proposer.untilMs = 0;
      this.#lose(turn);
    }
    this.proposer.drop();
    if (!this.isParked) this.#contents.onSlept();
  }

  /** New voters were forced while this host was taken for dead: not even a park counts. */
  forcedOut(turn: Turn): void {
    this.isParked = false;
    this.#parking.onForcedOut(turn);
    if (this.isHolding) {
      this.proposer.untilMs = 0;
      this.#lose(turn);
    }
    this.proposer.drop();
    this.#contents.onForcedOut();
  }

  // ---- Holding ------------------------------------------------------------------------------------------------------------

  #keepUp(turn: Turn): void {
    const shared = this.#shared;
    const { electorate } = shared;
    const { proposer } = this;
    if (!electorate || !this.isHolding) return;
    if (this.desired === null && !this.handovers.isGiving)
      this.handovers.giveUp('unwanted', this.newId(), 'nobody wants it any more', null, turn);
    const isStuck = this.gate.state === 'failed';
    const isRenewing = proposer.purpose !== 'park' && this.isRenewalDue(turn) && !isStuck;
    if (isRenewing) {
      this.#renewal.next(turn);
      proposer.renew(electorate, shared.session, turn);
    }
    if (this.hints.isTellDue(isRenewing, turn)) this.hints.tell('active', this.others(), turn);
    this.#moves.settle(turn);
  }

  released(kind: GivingKind, successor: HostId | null, why: string, turn: Turn): void {
    const { electorate } = this.#shared;
    this.isHolding = false;
    this.#shared.watchDue.push(this.name);
    if (electorate) this.proposer.release(electorate, successor, turn);
    else this.proposer.drop();
    this.#news.released(kind, why, turn);
    this.standing.onReleased(kind, why, turn);
    if (this.isByCommand) this.desired = null;
  }

  tryNow(turn: Turn): void {
    this.#candidacy.now(turn.authorityMs);
  }

  #on(outcome: Outcome, turn: Turn): void {
    if (outcome.kind === 'failed') this.#onFailed(outcome, turn);
    else if (outcome.purpose === 'renew') {
      this.#takeMargins();
      this.#contents.onRenewed();
    } else if (outcome.purpose === 'park') this.#onParked(turn);
    else if (outcome.purpose === 'unpark') this.#onResumed(turn);
    else this.#onAcquired(outcome, turn);
  }

  #onAcquired(outcome: Extract<Outcome, { kind: 'granted' }>, turn: Turn): void {
    const shared = this.#shared;
    this.#contents.onAcquired(shared.session, outcome.isUninterrupted);
    this.isParked = false;
    this.isHolding = true;
    const wasForced = this.#candidate.onAcquired(turn);
    this.#moves.onAcquired(this.epoch, turn);
    this.#parking.onUnparked(turn);
    this.#renewal.next(turn);
    this.hints.forget();
    this.#news.acquired(wasForced, outcome.victim, turn);
    this.#news.tellAll('active', turn);
    this.handovers.active(this.epoch, turn);
  }

  isRenewalDue(turn: Turn): boolean {
    return this.isHolding && this.#shared.electorate !== null && this.#renewal.isDue(turn);
  }

  onFenced(epoch: Epoch, isFenced: boolean, turn: Turn): void {
    if (this.#contents.onFenced(epoch, isFenced, turn)) return;
    turn.event('lease.fence-failed', 'alarm', this.name, 'its fence command failed: not started');
    this.handovers.giveUp('start-failed', this.newId(), 'the fence command failed', null, turn);
  }

  #onFailed(outcome: Extract<Outcome, { kind: 'failed' }>, turn: Turn): void {
    const { other } = outcome;
    if (outcome.purpose === 'park') this.#parking.onParkFailed(outcome.why, turn);
    else if (this.isParked) {
      this.#parking.onUnparkFailed(outcome, turn);
      if (other !== null && other.host !== turn.self) this.#taken(other, this.epoch + 1, turn);
    } else if (outcome.purpose === 'acquire') this.#candidate.onFailed(outcome, turn);
  }

  // ---- Hints ----------------------------------------------------------------------------------------------------------------

  onLearn(from: HostId, message: Learn, turn: Turn): void {
    this.proposer.sawEpoch(message.epoch);
    const { owner, epoch } = message;
    if (owner.host === turn.self) {
      this.#onOwnPark(from, message, turn);
      return;
    }
    if (message.state === 'active') {
      this.#moves.noteTenure(owner.host, epoch, turn);
      this.#news.heard(owner.host, epoch, turn);
    }
    this.hints.onLearn(message, turn);
    if (message.state === 'released') {
      this.#candidate.onOpening(epoch, turn);
      return;
    }
    this.handovers.onHolder(owner.host, epoch, turn);
    if (!this.isHolding && epoch > this.proposer.heldEpoch) this.#taken(owner, epoch, turn);
    this.#candidate.onLearn(message, turn);
  }

  /** Somebody else owns it after us: what is left here of our tenure ends. */
  #taken(owner: Owner, epoch: Epoch, turn: Turn): void {
    if (this.isParked) {
      this.isParked = false;
      this.#parking.onUnparked(turn);
      this.proposer.drop();
      this.#news.taken(owner, epoch, turn);
      this.#contents.evict();
    }
    this.#contents.onTaken();
  }

  /** A voter met a park of ours that we know nothing of, because we outlived it. */
  #onOwnPark(from: HostId, message: Learn, turn: Turn): void {
    const { electorate, session } = this.#shared;
    if (message.state !== 'parked' || !electorate || this.isParked || this.#parking.isParking)
      return;
    if (this.isHolding) return;
    if (this.gate.hasGate && !this.isGateEmpty) {
      // Not before nothing of it is left here; the voters will tell us again.
      this.#contents.evict();
      return;
    }
    this.proposer.disown(from, electorate, session, message.epoch, turn);
  }

  onExpired(message: Expired, turn: Turn): void {
    this.proposer.sawEpoch(message.epoch);
    this.hints.onExpired(message);
    this.#candidate.onOpening(message.epoch, turn);
  }

  // ---- Messages -------------------------------------------------------------------------------------------------------------

  onAnswer(from: HostId, message: PromiseReply | Accepted | Reject, turn: Turn): void {
    const outcome = this.proposer.onAnswer(from, message, turn);
    if (outcome) this.#on(outcome, turn);
  }

  onHandover(from: HostId, message: Handover, turn: Turn): void {
    this.handovers.onMessage(from, message, turn);
  }

  onGate(token: number, result: GateResult, turn: Turn): void {
    this.gate.answered(turn, token, result);
  }

  /** The voters changed: what ran under the old ones is void, what is held is renewed under the new ones at once. */
  onElectorate(turn: Turn): void {
    this.#takeProfile();
    this.proposer.cancel();
    this.#renewal.dueMs = 0;
    if (!this.isHolding) this.#candidacy.turnAtLatest(turn.authorityMs);
  }

  /** The daemon may have missed what happened while it, or we, were away. */
  onDaemonHere(turn: Turn): void {
    this.handovers.askAgain(turn);
    const isOurs = this.isHolding || this.isParked;
    if (isOurs && this.gate.isOpen && !this.handovers.isStopping)
      turn.notice({ kind: 'open', name: this.name, epoch: this.gate.epoch, isResumed: true });
  }

  /** The wall clock stepped. */
  onWall(turn: Turn): void {
    if (!this.isHolding) return;
    this.#contents.onWall();
    this.#renewal.dueMs = turn.authorityMs;
  }

  // ---- Parking --------------------------------------------------------------------------------------------------------------

  park(command: number, turn: Turn): void {
    this.#parking.park(command, turn);
    this.handovers.abort('parked', turn);
  }

  unpark(command: number, turn: Turn): void {
    this.#parking.unpark(command, turn);
  }

  get isParking(): boolean {
    return this.#parking.isParking || this.#parking.isUnparking;
  }

  #onParked(turn: Turn): void {
    this.isHolding = false;
    this.isParked = true;
    this.#news.parked(turn);
    this.#parking.onParked(turn);
  }

  /** The same session goes on where it parked: no majority could have let anybody in between. */
  #onResumed(turn: Turn): void {
    this.isParked = false;
    this.isHolding = true;
    // The voters keep the park until somebody with a deadline renews.
    this.#renewal.dueMs = turn.authorityMs;
    this.#parking.onUnparked(turn);
    this.#news.unparked(turn);
  }

  renewNow(turn: Turn): void {
    this.#renewal.dueMs = turn.authorityMs;
  }

  // ---- Commands -------------------------------------------------------------------------------------------------------------

  /** By command, for as long as the daemon stays connected. */
  acquire(command: number, wish: AcquireWish, turn: Turn): void {
    this.isByCommand = true;
    this.#candidate.acquire(command, wish, turn);
  }

  /** Whoever asked is gone or has changed its mind. False: nobody waits for it. */
  cancelAcquire(turn: Turn): boolean {
    return this.#candidate.cancel(turn);
  }

  /** An operator declared the owner dead. */
  force(command: number, of: HostId | null, waitMs: number, turn: Turn): void {
    this.#candidate.force(command, of, waitMs, turn);
  }

  // ---- For people -------------------------------------------------------------------------------------------------------------

  /** `seen`: what our own acceptor knows of it. */
  status(now: Instant, wallMs: number, seen: Seen | null): LeaseStatus {
    return leaseStatus({
      name: this.name,
      desired: this.desired,
      isHolding: this.isHolding,
      isParked: this.isParked,
      isStopping: this.handovers.isStopping,
      moving: this.handovers.moving,
      isAcquiring: this.proposer.purpose === 'acquire',
      whyNotHere: this.whyNotHere(),
      owner: { host: this.#shared.self, session: this.heldBySession },
      epoch: this.epoch,
      untilMs: this.isHolding ? this.proposer.untilMs : null,
      gate: this.gate,
      hint: this.hints.last,
      seen,
      history: this.#news.history,
      now,
      wallMs,
    });
  }
}
