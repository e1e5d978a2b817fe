/**
 * One lease as this host sees it: when to try, hold, open, hand over, park and give up.
 *
 * Events record facts; `settle` then compares every deadline with the clock and drives the parts: proposer, gate, handover.
 */
import type { HostId } from '../../crdt/ids.ts';
import { Acquiring } from './acquiring.ts';
import type { AcquireWish } from './acquiring.ts';
import { Candidacy } from './candidacy.ts';
import type { GateResult } from './core-api.ts';
import { Forcing } from './forcing.ts';
import type { ForcingHost } from './forcing.ts';
import { Gate } from './gate.ts';
import type { GateMemory, GateWish } from './gate.ts';
import type { LeaseDesired, LeaseState, LeaseStatus } from './guard-api.ts';
import { Handovers } from './handover.ts';
import type { GivingKind, HandoverHost } from './handover.ts';
import { Hints } from './hints.ts';
import type { HintedHost } from './hints.ts';
import type { Expired, Handover, Learn, PromiseReply, Accepted, Reject } from './messages.ts';
import type { Epoch, Instant, LeaseName, Owner } from './model.ts';
import { Moves } from './moves.ts';
import type { MovingHost } from './moves.ts';
import { Parking } from './parking.ts';
import type { ParkingHost } from './parking.ts';
import { profiles } from './profiles.ts';
import { Proposer } from './proposer.ts';
import type { Outcome, ProposerState } from './proposer.ts';
import { Renewal } from './renewal.ts';
import type { Shared } from './shared.ts';
import { Standing } from './standing.ts';
import type { StandingHost } from './standing.ts';
import { History, leaseStatus } from './status.ts';
import type { Hint, Seen } from './status.ts';
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
  implements HandoverHost, ParkingHost, ForcingHost, HintedHost, MovingHost, StandingHost
{
  readonly name: LeaseName;
  readonly #shared: Shared;
  readonly proposer: Proposer;
  readonly gate: Gate;
  readonly handovers: Handovers;
  readonly #history = new History();
  readonly #candidacy: Candidacy;
  readonly #acquiring: Acquiring;
  readonly #forcing: Forcing;
  readonly #parking: Parking;
  readonly #standing: Standing;
  readonly #hints: Hints;
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
  heldBySession = '';
  /** What is inside ran under a tenure that is over, and somebody else may have come between. */
  #mustEmpty = false;
  /** Acquired by the same session with nobody in between: what is frozen may go on. */
  #isResumable = false;
  /** The wall clock stepped: closed until one renewal is through. */
  isWallHold = false;
  #isFencing = false;

  constructor(name: LeaseName, shared: Shared) {
    this.name = name;
    this.#shared = shared;
    this.proposer = new Proposer(name, profiles.fast, shared.ballots);
    this.gate = new Gate(name, profiles.fast);
    this.handovers = new Handovers(this);
    this.#candidacy = new Candidacy(shared.random, () =>
      Math.max(0, this.desired?.candidates.indexOf(shared.self) ?? 0),
    );
    this.#standing = new Standing(this, shared);
    this.#hints = new Hints(this, shared);
    this.#moves = new Moves(this, shared);
    this.#renewal = new Renewal(shared, this.proposer);
    this.#acquiring = new Acquiring(name, this.proposer);
    this.#forcing = new Forcing(this, this.#candidacy);
    this.#parking = new Parking(this, shared, this.proposer, this.#candidacy);
  }

  // ---- State ------------------------------------------------------------------------------------------------------------

  resume(state: AgentState): void {
    this.proposer.resume(state.proposer);
    this.gate.resume(state.gate);
    this.isHolding = state.isHolding;
    this.isParked = state.isParked;
    this.heldBySession = state.heldBySession;
    this.#mustEmpty = state.mustEmpty;
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
      mustEmpty: this.#mustEmpty,
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
      (!this.gate.hasGate || (this.gate.isEmpty && this.gate.state === 'closed'))
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
    else this.#standing.onWish(before, desired);
    const isTrying = this.proposer.purpose === 'acquire' && !this.isParked && !this.#forcing.isOn;
    if (isTrying && this.whyNotHere() !== '') this.proposer.cancel();
  }

  #take(desired: LeaseDesired): void {
    this.desired = desired;
    this.#takeProfile();
    this.gate.onLoss = desired.onLoss;
    this.gate.fence = desired.fence;
    this.gate.hasGate = desired.gate !== null;
    this.gate.hasTraffic = desired.gate !== null && desired.traffic.length > 0;
  }

  #takeProfile(): void {
    if (!this.desired) return;
    const profile = this.#standing.profileOf(this.desired);
    this.proposer.profile = profile;
    this.gate.profile = profile;
  }

  get env(): string {
    return this.#shared.desired?.env ?? this.#shared.electorate?.ref.env ?? '';
  }

  get epoch(): Epoch {
    return this.proposer.epoch;
  }

  get untilMs(): number {
    return this.proposer.untilMs;
  }

  get hint(): Hint | null {
    return this.#hints.last;
  }

  get hasGate(): boolean {
    return this.gate.hasGate;
  }

  get isDaemonHere(): boolean {
    return this.#shared.isDaemonHere;
  }

  get isGateEmpty(): boolean {
    return this.gate.isEmpty && this.gate.state === 'closed';
  }

  /** It waits for its turn, or has to hear whether what is left inside its gate belongs to somebody else by now. */
  get hasToHear(): boolean {
    if (this.isHolding || this.isParked) return false;
    const hasRemains = this.gate.hasGate && !this.gate.isEmpty && this.gate.epoch > 0;
    return hasRemains || this.whyNotHere() === '';
  }

  /** What ran here has no right to any more, and is not gone yet. */
  get isOusted(): boolean {
    return this.#mustEmpty && this.gate.hasGate && !this.isGateEmpty;
  }

  get isGiving(): boolean {
    return this.handovers.isGiving;
  }

  get isGateFailed(): boolean {
    return this.gate.state === 'failed';
  }

  others(): readonly HostId[] {
    return this.#standing.others();
  }

  get isFrozen(): boolean {
    return this.#standing.isFrozen;
  }

  whyNotHere(): string {
    return this.#standing.whyNot();
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
    else if (!this.isParked) this.#try(turn);
    this.#driveGate(turn);
  }

  /** On the authority clock. */
  nextMs(): number {
    let next = Math.min(this.proposer.nextMs(), this.handovers.nextMs());
    next = Math.min(next, this.isParked ? this.gate.pauseEndMs() : this.gate.nextMs());
    if (this.isHolding) {
      next = Math.min(next, this.proposer.untilMs, this.#hints.tellMs);
      if (this.proposer.purpose !== 'park' && this.gate.state !== 'failed')
        next = Math.min(next, this.#renewal.dueMs);
      next = Math.min(next, this.#moves.nextMs());
    } else next = Math.min(next, this.#acquiring.nextMs(), this.#forcing.nextMs());
    next = Math.min(next, this.#standing.nextMs(), this.#parking.nextMs());
    return Math.min(next, this.#nextTryMs());
  }

  #nextTryMs(): number {
    const { purpose } = this.proposer;
    if (this.#parking.isParking) return purpose === 'park' ? Infinity : this.#candidacy.dueMs;
    if (purpose !== null || !this.#shared.electorate || this.isHolding) return Infinity;
    if (this.isParked) return this.#parking.isUnparking ? this.#candidacy.dueMs : Infinity;
    if (this.#forcing.isOn) return Math.max(this.#candidacy.dueMs, this.#forcing.atMs);
    return this.whyNotHere() === '' ? this.#candidacy.dueMs : Infinity;
  }

  #driveGate(turn: Turn): void {
    const { gate, proposer } = this;
    const untilMs = this.isHolding ? proposer.untilMs : 0;
    gate.settle(turn, this.#wish(), proposer.epoch, untilMs, this.#isResumable);
    if (this.#mustEmpty && this.isGateEmpty) this.#mustEmpty = false;
    if (this.isHolding && gate.isOpen) {
      this.#acquiring.onOpen(proposer.epoch, turn);
      this.#forcing.onOpen(proposer.epoch, turn);
    }
    // Cleared for a new tenure: what runs from here on belongs to it.
    if (this.isHolding && gate.isOpen && gate.epoch === proposer.epoch) {
      this.#isResumable = false;
      this.#mustEmpty = false;
    }
  }

  #wish(): GateWish {
    const { gate } = this;
    if (this.isParked) return 'parked';
    if (this.handovers.wantsEmpty) return 'empty';
    if (this.isHolding) return this.isWallHold || this.#isFencing ? 'closed' : 'open';
    if (this.desired === null || this.#mustEmpty) return 'empty';
    if (gate.state === 'unknown' && gate.onLoss !== 'keep') return 'empty';
    return 'closed';
  }

  #lose(turn: Turn): void {
    this.isHolding = false;
    this.#shared.isWatchDue = true;
    this.proposer.drop();
    this.handovers.lost(turn);
    this.#isFencing = false;
    this.isWallHold = false;
    this.#history.add('expired', this.epoch, turn.self, 'not renewed in time', turn.authorityMs);
    turn.event('lease.lost', 'warn', this.name, `epoch ${this.epoch} ran out`);
    this.#candidacy.turn(turn.authorityMs);
    this.#parking.onLost(turn);
    if (this.isByCommand && !this.#acquiring.isWaiting) this.desired = null;
  }

  /** Every lease of a host that slept or was restored: gone at once. */
  dropAll(turn: Turn): void {
    if (this.isHolding) {
      this.proposer.untilMs = 0;
      this.#lose(turn);
    }
    this.proposer.drop();
    if (this.isParked) return;
    if (this.gate.onLoss === 'stop' || this.gate.state === 'unknown') this.#mustEmpty = true;
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
    this.heldBySession = '';
    this.#mustEmpty = true;
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
    if (proposer.purpose !== 'park' && this.isRenewalDue(turn) && !isStuck) {
      this.#renewal.next(turn);
      proposer.renew(electorate, shared.session, turn);
    }
    if (turn.authorityMs >= this.#hints.tellMs) this.#hints.tell('active', this.others(), turn);
    this.#moves.settle(turn);
  }

  moveAway(why: string, turn: Turn): void {
    this.handovers.give(this.newId(), null, why, null, turn);
  }

  released(kind: GivingKind, successor: HostId | null, why: string, turn: Turn): void {
    const { electorate } = this.#shared;
    const { epoch } = this;
    this.isHolding = false;
    this.#shared.isWatchDue = true;
    if (electorate) this.proposer.release(electorate, successor, turn);
    else this.proposer.drop();
    const what = { handover: 'handed-over', 'start-failed': 'start-failed' } as const;
    const entry = kind === 'handover' || kind === 'start-failed' ? what[kind] : 'released';
    this.#history.add(entry, epoch, turn.self, why, turn.authorityMs);
    turn.event(`lease.${entry}`, kind === 'start-failed' ? 'warn' : 'info', this.name, why);
    this.#hints.tell('released', this.others(), turn);
    this.#standing.onReleased(kind, why, turn);
    if (this.isByCommand) this.desired = null;
  }

  // ---- Trying ---------------------------------------------------------------------------------------------------------------

  #try(turn: Turn): void {
    if (turn.authorityMs >= this.#standing.nextMs()) {
      this.#standing.endHoldOff();
      this.#candidacy.afterTurn(turn.authorityMs);
    }
    if (turn.authorityMs >= this.#acquiring.nextMs()) {
      this.#refuseAcquire(turn, null);
      return;
    }
    this.#forcing.settle(turn);
    const shared = this.#shared;
    if (this.proposer.purpose !== null || !shared.electorate) return;
    const isAllowed = this.whyNotHere() === '';
    this.#candidacy.allow(isAllowed, turn.authorityMs);
    if (turn.authorityMs < this.#candidacy.dueMs) return;
    if (this.#forcing.isOn ? turn.authorityMs < this.#forcing.atMs : !isAllowed) return;
    // A gate that is being emptied may still prove that it cannot be.
    if (this.gate.hasGate && this.gate.onLoss !== 'keep' && this.gate.state === 'unknown') return;
    const { electorate, session } = shared;
    const { isOn, victim } = this.#forcing;
    this.proposer.acquire(electorate, session, isOn, victim, turn);
  }

  tryNow(turn: Turn): void {
    this.#candidacy.now(turn.authorityMs);
  }

  #on(outcome: Outcome, turn: Turn): void {
    if (outcome.kind === 'failed') this.#onFailed(outcome, turn);
    else if (outcome.purpose === 'renew') this.#onRenewed();
    else if (outcome.purpose === 'park') this.#onParked(turn);
    else if (outcome.purpose === 'unpark') this.#onResumed(turn);
    else this.#onAcquired(outcome, turn);
  }

  #onRenewed(): void {
    this.isWallHold = false;
  }

  #onAcquired(outcome: Extract<Outcome, { kind: 'granted' }>, turn: Turn): void {
    const shared = this.#shared;
    const wasForced = this.#forcing.isOn;
    const isOurs = outcome.isUninterrupted && this.heldBySession === shared.session;
    // What had to be cleared and was not is no less foreign because we held the lease in between.
    this.#isResumable =
      isOurs && !this.#mustEmpty && (this.gate.onLoss !== 'stop' || this.isParked);
    if (!this.#isResumable && !this.isGateEmpty) this.#mustEmpty = true;
    this.isParked = false;
    this.#forcing.onAcquired();
    this.isHolding = true;
    this.heldBySession = shared.session;
    this.#candidacy.won();
    this.#moves.onAcquired(this.epoch, turn);
    this.#parking.onUnparked(turn);
    this.#renewal.next(turn);
    this.#hints.forget();
    const what = wasForced ? 'forced' : 'acquired';
    this.#history.add(what, this.epoch, turn.self, '', turn.authorityMs);
    turn.event(`lease.${what}`, 'info', this.name, `epoch ${this.epoch}`);
    const { victim } = outcome;
    if (this.desired?.fence === 'command' && victim && victim.host !== turn.self) {
      this.#isFencing = true;
      turn.push({
        kind: 'fence',
        name: this.name,
        how: 'command',
        victim: victim.host,
        epoch: this.epoch,
      });
    }
    const peers = shared.desired?.peers.map((peer) => peer.host) ?? [];
    this.#hints.tell('active', peers, turn);
    this.handovers.active(this.epoch, turn);
  }

  isRenewalDue(turn: Turn): boolean {
    return this.isHolding && this.#shared.electorate !== null && this.#renewal.isDue(turn);
  }

  onFenced(epoch: Epoch, isFenced: boolean, turn: Turn): void {
    if (!this.#isFencing || epoch !== this.epoch) return;
    this.#isFencing = false;
    if (isFenced) return;
    turn.event('lease.fence-failed', 'alarm', this.name, 'its fence command failed: not started');
    this.handovers.giveUp('start-failed', this.newId(), 'the fence command failed', null, turn);
  }

  #onFailed(outcome: Extract<Outcome, { kind: 'failed' }>, turn: Turn): void {
    const { purpose, why, other } = outcome;
    if (purpose === 'park') {
      this.#parking.onParkFailed(why, turn);
      return;
    }
    if (this.isParked) {
      this.#parking.onUnparkFailed(outcome, turn);
      if (other !== null && other.host !== turn.self) this.#taken(other, this.epoch + 1, turn);
      return;
    }
    if (purpose !== 'acquire') return;
    const mustRefuse = this.#acquiring.onFailed(outcome);
    const { electorate } = this.#shared;
    // Where something may lie frozen in a gate they are left to lapse: what was not looked at is not known to be empty.
    if (outcome.isGrantOut && electorate && !this.gate.hasGate)
      this.proposer.giveBack(electorate, turn);
    if (mustRefuse) {
      this.#refuseAcquire(turn, other);
      return;
    }
    if (this.#forcing.isOn && why === 'parked' && other) {
      this.#forcing.onParked(other, turn);
      return;
    }
    this.#candidacy.failed(outcome, turn.authorityMs);
  }

  // ---- Hints ----------------------------------------------------------------------------------------------------------------

  onLearn(from: HostId, message: Learn, turn: Turn): void {
    this.proposer.sawEpoch(message.epoch);
    const { owner, epoch } = message;
    if (owner.host === turn.self) {
      this.#onOwnPark(from, message, turn);
      return;
    }
    if (message.state === 'active') this.#moves.noteTenure(owner.host, epoch, turn);
    this.#hints.onLearn(message, turn);
    if (message.state === 'released') {
      this.#onOpening(epoch, turn);
      return;
    }
    this.handovers.onHolder(owner.host, epoch, turn);
    if (!this.isHolding && epoch > this.proposer.heldEpoch) this.#taken(owner, epoch, turn);
    const isWaiting = !this.isHolding && !this.isParked && this.proposer.purpose === null;
    if (isWaiting && message.state === 'active')
      this.#candidacy.held(message.remainMs, turn.authorityMs);
  }

  /** Somebody else owns it after us: what is left here of our tenure ends. */
  #taken(owner: Owner, epoch: Epoch, turn: Turn): void {
    if (this.isParked) {
      this.isParked = false;
      this.#parking.onUnparked(turn);
      this.proposer.drop();
      turn.event(
        'lease.taken',
        'alarm',
        this.name,
        `${owner.host} took it by force, epoch ${epoch}`,
      );
      this.#mustEmpty = true;
    }
    if (this.gate.hasGate && !this.isGateEmpty && this.gate.epoch > 0) this.#mustEmpty = true;
  }

  /** A voter met a park of ours that we know nothing of, because we outlived it. */
  #onOwnPark(from: HostId, message: Learn, turn: Turn): void {
    const { electorate, session } = this.#shared;
    if (message.state !== 'parked' || !electorate || this.isParked || this.#parking.isParking)
      return;
    if (this.isHolding) return;
    if (this.gate.hasGate && !this.isGateEmpty) {
      // Not before nothing of it is left here; the voters will tell us again.
      this.#mustEmpty = true;
      return;
    }
    this.proposer.disown(from, electorate, session, message.epoch, turn);
  }

  onExpired(message: Expired, turn: Turn): void {
    this.proposer.sawEpoch(message.epoch);
    this.#hints.onExpired(message);
    this.#onOpening(message.epoch, turn);
  }

  #onOpening(epoch: Epoch, turn: Turn): void {
    if (this.isHolding || this.isParked || this.proposer.purpose !== null) return;
    if (this.#hints.isPast(epoch)) return;
    this.#candidacy.opened(epoch, turn.authorityMs);
  }

  // ---- Messages -------------------------------------------------------------------------------------------------------------

  onPromise(from: HostId, message: PromiseReply, turn: Turn): void {
    const outcome = this.proposer.onPromise(from, message, turn);
    if (outcome) this.#on(outcome, turn);
  }

  onAccepted(from: HostId, message: Accepted, turn: Turn): void {
    const outcome = this.proposer.onAccepted(from, message, turn);
    if (outcome) this.#on(outcome, turn);
  }

  onReject(from: HostId, message: Reject, turn: Turn): void {
    const outcome = this.proposer.onReject(from, message, turn);
    if (outcome) this.#on(outcome, turn);
  }

  onHandover(from: HostId, message: Handover, turn: Turn): void {
    if (message.step !== 'ask') {
      this.handovers.onMessage(from, message, turn);
      return;
    }
    const isMember = this.desired?.candidates.includes(message.to) === true;
    if (!this.isHolding || this.isFrozen || this.handovers.isGiving || !isMember) return;
    if (message.to === turn.self) return;
    this.handovers.give(message.id, message.to, message.reason, null, turn);
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
    this.isWallHold = true;
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
    this.#history.add('parked', this.epoch, turn.self, '', turn.authorityMs);
    turn.event('lease.parked', 'info', this.name, `epoch ${this.epoch}`);
    const peers = this.#shared.desired?.peers.map((peer) => peer.host) ?? [];
    this.#hints.tell('parked', peers, turn);
    this.#parking.onParked(turn);
  }

  /** The same session goes on where it parked: no majority could have let anybody in between. */
  #onResumed(turn: Turn): void {
    this.isParked = false;
    this.isHolding = true;
    // The voters keep the park until somebody with a deadline renews.
    this.#renewal.dueMs = turn.authorityMs;
    this.#parking.onUnparked(turn);
    turn.event('lease.unparked', 'info', this.name, `epoch ${this.epoch}`);
    this.#hints.tell('active', this.others(), turn);
  }

  renewNow(turn: Turn): void {
    this.#renewal.dueMs = turn.authorityMs;
  }

  // ---- Commands -------------------------------------------------------------------------------------------------------------

  /** By command, for as long as the daemon stays connected. */
  acquire(command: number, wish: AcquireWish, turn: Turn): void {
    this.isByCommand = true;
    this.#acquiring.begin(command, wish, turn);
    this.tryNow(turn);
  }

  /**
   * Whoever asked is gone or has changed its mind. What voters may have granted is given back, unless something may lie in
   * the gate. False: nobody waits for it.
   */
  cancelAcquire(turn: Turn): boolean {
    if (!this.#acquiring.cancel(turn)) return false;
    if (this.isHolding) return true;
    this.desired = null;
    const { electorate } = this.#shared;
    const isClean = !this.gate.hasGate || this.isGateEmpty;
    if (electorate && isClean) this.proposer.release(electorate, null, turn);
    else this.proposer.drop();
    return true;
  }

  #refuseAcquire(turn: Turn, other: Owner | null): void {
    this.desired = null;
    this.proposer.cancel();
    this.#acquiring.refuse(other, this.#hints.holder, turn);
  }

  /** An operator declared the owner dead: after the longest authority its park is passed over. */
  force(command: number, waitMs: number, turn: Turn): void {
    this.#forcing.begin(command, waitMs, turn);
    this.#standing.endHoldOff();
  }

  // ---- For people -------------------------------------------------------------------------------------------------------------

  #state(): LeaseState {
    if (this.isParked) return 'parked';
    if (this.isHolding) {
      if (this.handovers.isStopping) return 'handing-over';
      if (this.gate.isOpen) return 'active';
      return this.gate.epoch === this.epoch && !this.gate.isEmpty ? 'frozen' : 'opening';
    }
    if (this.proposer.purpose === 'acquire') return 'acquiring';
    return this.whyNotHere() === '' ? 'waiting' : 'idle';
  }

  /** `seen`: what our own acceptor knows of it. */
  status(now: Instant, wallMs: number, seen: Seen | null): LeaseStatus {
    const isOurs = this.isHolding || this.isParked;
    return leaseStatus({
      name: this.name,
      desired: this.desired,
      state: this.#state(),
      isOurs,
      whyNotHere: this.whyNotHere(),
      owner: { host: this.#shared.self, session: this.heldBySession },
      epoch: this.epoch,
      untilMs: this.isHolding ? this.proposer.untilMs : null,
      gate: this.gate,
      hint: this.#hints.last,
      seen,
      history: this.#history,
      now,
      wallMs,
    });
  }
}
