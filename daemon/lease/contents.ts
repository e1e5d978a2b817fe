/** What lies inside the gate of a lease, and whose it is: whether it may go on, has to stand still, or has to be gone. */
import type { HostId } from '../../crdt/ids.ts';
import type { Gate, GateWish } from './gate.ts';
import type { LeaseDesired } from './guard-api.ts';
import type { Handovers } from './handover.ts';
import type { Epoch, LeaseName } from './model.ts';
import type { Proposer } from './proposer.ts';
import type { Turn } from './turn.ts';

/** After a fence command that failed, while nobody else takes the lease. */
const fenceAgainMs = 5_000;

/** What it needs of the lease. */
export interface ContentsHost {
  readonly name: LeaseName;
  readonly desired: LeaseDesired | null;
  readonly epoch: Epoch;
  readonly proposer: Proposer;
  readonly handovers: Handovers;
  readonly isHolding: boolean;
  readonly isParked: boolean;
}

export class Contents {
  readonly #host: ContentsHost;
  readonly #gate: Gate;
  /** In which the lease was taken last; '': what is inside is of no session that counts. */
  #session = '';
  /** What is inside ran under a tenure that is over, and somebody else may have come between. */
  #mustEmpty = false;
  /** Acquired by the same session with nobody in between: what is frozen may go on. */
  #isResumable = false;
  /** The wall clock stepped: closed until one renewal is through. */
  #isWallHold = false;
  /** Whom the fence command is run for. */
  #fenced: HostId | null = null;
  #fenceAgainMs = 0;

  constructor(host: ContentsHost, gate: Gate) {
    this.#host = host;
    this.#gate = gate;
  }

  resume(session: string, mustEmpty: boolean): void {
    this.#session = session;
    this.#mustEmpty = mustEmpty;
  }

  get session(): string {
    return this.#session;
  }

  get mustEmpty(): boolean {
    return this.#mustEmpty;
  }

  /** Nothing is left inside, and the gate is closed. */
  get isGone(): boolean {
    return this.#gate.isEmpty && this.#gate.state === 'closed';
  }

  /** Something of an earlier tenure is, or may be, left inside. */
  get hasRemains(): boolean {
    return this.#gate.hasGate && !this.#gate.isEmpty && this.#gate.epoch > 0;
  }

  /** Its last owner is not known to be off yet. */
  get isFencing(): boolean {
    return this.#host.isHolding && this.#host.proposer.unfenced.length > 0;
  }

  /** What ran here has no right to any more, and is not gone yet. */
  get isOusted(): boolean {
    return this.#mustEmpty && this.#gate.hasGate && !this.isGone;
  }

  /** Keeps: a gate is open only within authority. */
  settle(turn: Turn): void {
    this.#fence(turn);
    const { isHolding, epoch, proposer } = this.#host;
    const gate = this.#gate;
    gate.settle(turn, this.#wish(), epoch, isHolding ? proposer.untilMs : 0, this.#isResumable);
    if (this.#mustEmpty && this.isGone) this.#mustEmpty = false;
    // Cleared for a new tenure: what runs from here on belongs to it.
    if (isHolding && gate.isOpen && gate.epoch === epoch) {
      this.#isResumable = false;
      this.#mustEmpty = false;
    }
  }

  #wish(): GateWish {
    const host = this.#host;
    const gate = this.#gate;
    const isUnfenced = host.proposer.unfenced.length > 0;
    if (host.isParked) return isUnfenced ? 'closed' : 'parked';
    if (host.handovers.wantsEmpty) return 'empty';
    if (host.isHolding) return this.#isWallHold || isUnfenced ? 'closed' : 'open';
    if (host.desired === null || this.#mustEmpty) return 'empty';
    if (gate.state === 'unknown' && gate.onLoss !== 'keep') return 'empty';
    return 'closed';
  }

  // ---- What becomes of the lease --------------------------------------------------------------------------------------------

  /** `isUninterrupted`: nobody came between. Before the lease counts as not parked any more. */
  onAcquired(session: string, isUninterrupted: boolean): void {
    const isOurs = isUninterrupted && this.#session === session;
    // What had to be cleared and was not is no less foreign because we held the lease in between.
    this.#isResumable =
      isOurs && !this.#mustEmpty && (this.#gate.onLoss !== 'stop' || this.#host.isParked);
    if (!this.#isResumable && !this.isGone) this.#mustEmpty = true;
    this.#session = session;
  }

  onRenewed(): void {
    this.#isWallHold = false;
  }

  /** While it is held. */
  onWall(): void {
    this.#isWallHold = true;
  }

  onLost(): void {
    this.#fenced = null;
    this.#isWallHold = false;
  }

  /** Somebody else owns it after us. */
  onTaken(): void {
    if (this.#gate.hasGate && !this.isGone && this.#gate.epoch > 0) this.#mustEmpty = true;
  }

  /** This host slept or was restored. */
  onSlept(): void {
    const { onLoss, state } = this.#gate;
    if (onLoss === 'stop' || state === 'unknown') this.#mustEmpty = true;
  }

  onForcedOut(): void {
    this.#session = '';
    this.#mustEmpty = true;
  }

  evict(): void {
    this.#mustEmpty = true;
  }

  // ---- Fence command ------------------------------------------------------------------------------------------------------

  /**
   * Nothing opens before every earlier owner that may be running still is known to be off. Whoever owns the lease next
   * inherits the rest: the voters have been told of it.
   */
  #fence(turn: Turn): void {
    const { name, desired, epoch, isHolding, proposer } = this.#host;
    const victim = proposer.unfenced[0];
    if (victim === undefined || !isHolding) return;
    // An operator has taken the command away: then it is on the operator's word.
    if (desired !== null && desired.fence !== 'command') proposer.unfenced = [];
    if (proposer.unfenced.length === 0 || desired === null) return;
    if (this.#fenced !== null || turn.authorityMs < this.#fenceAgainMs) return;
    this.#fenced = victim;
    turn.push({ kind: 'fence', name, how: 'command', victim, epoch });
  }

  /** False: the fence command failed, and nothing may start here. */
  onFenced(epoch: Epoch, isFenced: boolean, turn: Turn): boolean {
    const { proposer } = this.#host;
    const victim = this.#fenced;
    if (victim === null || epoch !== this.#host.epoch) return true;
    this.#fenced = null;
    this.#fenceAgainMs = isFenced ? 0 : turn.authorityMs + fenceAgainMs;
    if (isFenced) proposer.unfenced = proposer.unfenced.filter((host) => host !== victim);
    return isFenced;
  }
}
