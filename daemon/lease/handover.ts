/**
 * Giving a lease away in order, and taking one over: both ends of the talk between holder and candidate.
 *
 * Only the holder gives. It renews all the time until the target has everything and its own gate is verified empty; then it
 * releases, which is the one step that cannot be taken back. Until then either side aborts, and the holder goes on under its
 * unbroken lease. The same path, without a target, gives a lease up (`release`, a failed start, a lease nobody wants any more).
 *
 *   holder                                          target
 *   prepare  ------------------------------------>  pull, create, come near           (the daemon there)
 *            <------------------------------------  here, ... ready
 *   stop the workload (the daemon here), empty the gate
 *   stopped  ------------------------------------>  take the last of the storage      (the daemon there)
 *            <------------------------------------  here, ... settled
 *   release to the voters, go  ------------------>  acquire at once
 *            <------------------------------------  done
 *
 * A target may take long to get ready and to settle, but it answers whenever it is asked how far it is: one that does not is
 * dead, cut off or without its daemon, and is waited for no longer.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { LeaseDesired, LeaseMoving } from './guard-api.ts';
import type { Handover } from './messages.ts';
import type { Epoch, LeaseName } from './model.ts';
import type { Turn } from './turn.ts';

/** Longest waits for the other side and for the daemons; after them the handover is given up. */
export const handoverLimits = Object.freeze({
  prepareMsMax: 180_000,
  stopMsMax: 600_000,
  settleMsMax: 600_000,
  clearMsMax: 5_000,
  doneMsMax: 10_000,
  resendMs: 500,
  /** A target that says nothing for so long, asked every `resendMs`, is not there. */
  silentMsMax: 3_000,
  /** A daemon that has not answered is asked again: what it is asked for may be done twice. */
  askAgainMs: 10_000,
  /** With several targets: a better one may become ready within this time after the first. */
  chooseMs: 300,
});

export type GivingKind = 'handover' | 'release' | 'start-failed' | 'unwanted';

/** What the two ends need of the lease that they move. */
export interface HandoverHost {
  readonly name: LeaseName;
  readonly env: string;
  readonly epoch: Epoch;
  readonly isHolding: boolean;
  readonly desired: LeaseDesired | null;
  /** Nothing moves by itself. */
  readonly isFrozen: boolean;
  /** Nothing runs under it: no daemon has to stop or prepare anything. */
  readonly hasGate: boolean;
  readonly isDaemonHere: boolean;
  readonly isGateEmpty: boolean;
  readonly isGateFailed: boolean;
  /** Other hosts that may take it, best first. */
  others(): readonly HostId[];
  /** May this host take it? '' when it may. */
  whyNotHere(): string;
  /** The gate is empty and everything is in order: the lease is given back. */
  released(kind: GivingKind, successor: HostId | null, why: string, turn: Turn): void;
  /** The reserved successor tries now. */
  tryNow(turn: Turn): void;
}

interface Giving {
  readonly kind: GivingKind;
  readonly id: string;
  readonly why: string;
  step: LeaseMoving['step'];
  /** Asked; with more than one the best that is ready gets it. */
  targets: HostId[];
  readonly ready: HostId[];
  /** When each target was heard of last, or asked first. */
  readonly heardMs: Map<HostId, number>;
  to: HostId | null;
  chooseMs: number;
  untilMs: number;
  resendMs: number;
  readonly commands: number[];
}

interface Taking {
  readonly id: string;
  readonly from: HostId;
  step: 'preparing' | 'ready' | 'settling' | 'settled' | 'going';
  untilMs: number;
}

/** After the release: until the target says that it is active. */
interface Awaiting {
  readonly id: string;
  readonly to: HostId;
  readonly epoch: Epoch;
  readonly why: string;
  readonly untilMs: number;
  resendMs: number;
  readonly commands: readonly number[];
}

export class Handovers {
  readonly #host: HandoverHost;
  #giving: Giving | null = null;
  #taking: Taking | null = null;
  #awaiting: Awaiting | null = null;
  #askAgainMs = 0;

  constructor(host: HandoverHost) {
    this.#host = host;
  }

  get isGiving(): boolean {
    return this.#giving !== null;
  }

  /** To whom it is being given, as far as that is known, and how far that is. */
  get moving(): LeaseMoving | null {
    const giving = this.#giving;
    if (giving?.kind !== 'handover') return null;
    const [only = null, ...more] = giving.targets;
    return { to: giving.to ?? (more.length === 0 ? only : null), step: giving.step };
  }

  /** The workload is being, or was, stopped for it. */
  get isStopping(): boolean {
    return this.#giving !== null && this.#giving.step !== 'preparing';
  }

  get isAwaited(): boolean {
    return this.#awaiting !== null;
  }

  /** The gate has to be closed and emptied now. */
  get wantsEmpty(): boolean {
    return this.#giving?.step === 'clearing' || this.#giving?.step === 'settling';
  }

  nextMs(): number {
    let next = Infinity;
    if (this.#giving)
      next = Math.min(this.#giving.untilMs, this.#giving.resendMs, this.#giving.chooseMs);
    if (this.#awaiting) next = Math.min(next, this.#awaiting.untilMs, this.#awaiting.resendMs);
    if (this.#taking) next = Math.min(next, this.#taking.untilMs);
    return this.#isDaemonAsked ? Math.min(next, this.#askAgainMs) : next;
  }

  // ---- Holder -----------------------------------------------------------------------------------------------------------

  /** `to` null: the best that becomes ready. `command` null: nobody waits for the answer. */
  give(id: string, to: HostId | null, why: string, command: number | null, turn: Turn): void {
    const targets = to === null ? [...this.#host.others()] : [to];
    this.#giving = {
      kind: 'handover',
      id,
      why,
      step: 'preparing',
      targets,
      ready: [],
      heardMs: new Map(targets.map((target) => [target, turn.authorityMs])),
      to: null,
      chooseMs: Infinity,
      untilMs: turn.authorityMs + handoverLimits.prepareMsMax,
      resendMs: turn.authorityMs + handoverLimits.resendMs,
      commands: command === null ? [] : [command],
    };
    for (const target of targets) this.#send(target, 'prepare', turn);
  }

  /** Stops (in order where a daemon can), empties, gives back. */
  giveUp(kind: GivingKind, id: string, why: string, command: number | null, turn: Turn): void {
    if (this.#giving) this.#abort('something more urgent came up', turn);
    this.#giving = {
      kind,
      id,
      why,
      step: 'stopping',
      targets: [],
      ready: [],
      heardMs: new Map(),
      to: null,
      chooseMs: Infinity,
      untilMs: turn.authorityMs + handoverLimits.stopMsMax,
      resendMs: Infinity,
      commands: command === null ? [] : [command],
    };
    const isOrderly = kind === 'release' && this.#host.hasGate && this.#host.isDaemonHere;
    if (isOrderly) this.askAgain(turn);
    else this.#toClearing(turn);
  }

  /** Authority ended while giving: there is nothing to give any more. */
  lost(turn: Turn): void {
    const giving = this.#giving;
    if (!giving) return;
    this.#giving = null;
    this.#tellAborted(giving, 'the lease ran out', turn);
    for (const id of giving.commands)
      turn.refuse(id, 'LEASE_LOST', { name: this.#host.name, reason: 'it ran out meanwhile' });
  }

  onStopped(id: string, isStopped: boolean, why: string, turn: Turn): boolean {
    if (this.#giving?.id !== id || this.#giving.step !== 'stopping') return false;
    if (isStopped) this.#toClearing(turn);
    else if (this.#giving.kind === 'handover') this.#abort(`it could not be stopped: ${why}`, turn);
    else this.#toClearing(turn);
    return true;
  }

  /** The gate may have become empty, or time may have run out. */
  settle(turn: Turn): void {
    this.#settleGiving(turn);
    this.#settleAwaiting(turn);
    if (this.#isDaemonAsked && turn.authorityMs >= this.#askAgainMs) this.askAgain(turn);
    if (this.#taking && turn.authorityMs >= this.#taking.untilMs) this.#taking = null;
  }

  #settleGiving(turn: Turn): void {
    const giving = this.#giving;
    if (!giving) return;
    if (giving.step === 'clearing' && this.#host.isGateEmpty) {
      if (giving.kind !== 'handover' || !this.#host.hasGate) {
        this.#finish(turn);
        return;
      }
      giving.step = 'settling';
      giving.untilMs = turn.authorityMs + handoverLimits.settleMsMax;
      giving.resendMs = turn.authorityMs + handoverLimits.resendMs;
      giving.heardMs.set(giving.to!, turn.authorityMs);
      this.#send(giving.to!, 'stopped', turn);
      return;
    }
    if (turn.authorityMs >= giving.chooseMs) {
      this.#choose(turn);
      return;
    }
    if (turn.authorityMs >= giving.untilMs) {
      if (giving.step === 'stopping' && giving.kind !== 'handover') this.#toClearing(turn);
      else this.#abort(`it took too long while ${giving.step}`, turn);
      return;
    }
    if (turn.authorityMs < giving.resendMs) return;
    giving.resendMs = turn.authorityMs + handoverLimits.resendMs;
    if (giving.step !== 'preparing' && giving.step !== 'settling') {
      giving.resendMs = Infinity;
      return;
    }
    if (this.#hasOnlySilent(giving, turn)) return;
    if (giving.step === 'settling') this.#send(giving.to!, 'stopped', turn);
    else
      for (const target of giving.targets)
        if (!giving.ready.includes(target)) this.#send(target, 'prepare', turn);
  }

  /** Targets that say nothing are left out; when none is left, it is given up. */
  #hasOnlySilent(giving: Giving, turn: Turn): boolean {
    const { silentMsMax } = handoverLimits;
    const isReady = (target: HostId): boolean =>
      giving.step === 'preparing' && giving.ready.includes(target);
    const isSilent = (target: HostId): boolean =>
      !isReady(target) && turn.authorityMs - (giving.heardMs.get(target) ?? 0) >= silentMsMax;
    const silent = giving.targets.filter(isSilent);
    if (silent.length === giving.targets.length) {
      const why = `no answer from ${silent.join(', ')} for ${silentMsMax / 1000} s (off, cut off, or its guard or daemon hangs)`;
      this.#abort(why, turn);
      return true;
    }
    for (const target of silent) this.#send(target, 'abort', turn);
    giving.targets = giving.targets.filter((target) => !silent.includes(target));
    return false;
  }

  #choose(turn: Turn): void {
    const giving = this.#giving!;
    const to = giving.targets.find((target) => giving.ready.includes(target))!;
    for (const target of giving.targets) if (target !== to) this.#send(target, 'abort', turn);
    giving.targets = [to];
    giving.to = to;
    giving.chooseMs = Infinity;
    giving.resendMs = Infinity;
    giving.step = 'stopping';
    giving.untilMs = turn.authorityMs + handoverLimits.stopMsMax;
    if (this.#host.hasGate && this.#host.isDaemonHere) this.askAgain(turn);
    else this.#toClearing(turn);
  }

  #toClearing(turn: Turn): void {
    const giving = this.#giving!;
    giving.step = 'clearing';
    // What is given up stays so, however long it takes: the lease runs out meanwhile.
    giving.untilMs =
      giving.kind === 'handover' ? turn.authorityMs + handoverLimits.clearMsMax : Infinity;
    giving.resendMs = Infinity;
  }

  /** The point of no return. */
  #finish(turn: Turn): void {
    const giving = this.#giving!;
    const { epoch } = this.#host;
    this.#giving = null;
    this.#host.released(giving.kind, giving.to, giving.why, turn);
    if (giving.to === null) {
      for (const id of giving.commands) turn.reply(id, { isOk: true, epoch });
      return;
    }
    this.#awaiting = {
      id: giving.id,
      to: giving.to,
      epoch,
      why: giving.why,
      untilMs: turn.authorityMs + handoverLimits.doneMsMax,
      resendMs: turn.authorityMs + handoverLimits.resendMs,
      commands: giving.commands,
    };
    this.#message(giving.to, 'go', giving.id, epoch, giving.to, giving.why, turn);
  }

  #settleAwaiting(turn: Turn): void {
    const awaiting = this.#awaiting;
    if (!awaiting) return;
    if (turn.authorityMs >= awaiting.untilMs) {
      this.#awaiting = null;
      for (const id of awaiting.commands)
        turn.refuse(id, 'LEASE_TIMED_OUT', {
          name: this.#host.name,
          seconds: handoverLimits.doneMsMax / 1000,
          reason: 'it was released, and the target has not said that it is active',
        });
    } else if (turn.authorityMs >= awaiting.resendMs) {
      awaiting.resendMs = turn.authorityMs + handoverLimits.resendMs;
      const { to, id, epoch, why } = awaiting;
      this.#message(to, 'go', id, epoch, to, why, turn);
    }
  }

  /** Somebody is active under a later epoch. */
  onHolder(host: HostId, epoch: Epoch, turn: Turn): void {
    const awaiting = this.#awaiting;
    if (!awaiting || epoch <= awaiting.epoch) return;
    this.#awaiting = null;
    for (const id of awaiting.commands) {
      if (host === awaiting.to) turn.reply(id, { isOk: true, epoch, holder: host });
      else
        turn.refuse(id, 'LEASE_BUSY', {
          name: this.#host.name,
          reason: `another host took it: ${host}`,
        });
    }
  }

  get #isDaemonAsked(): boolean {
    const step = this.#taking?.step;
    const isStopping = this.#giving?.step === 'stopping';
    return this.#host.hasGate && (isStopping || step === 'preparing' || step === 'settling');
  }

  /** The daemon may have forgotten what it was asked. */
  askAgain(turn: Turn): void {
    const { name } = this.#host;
    this.#askAgainMs = turn.authorityMs + handoverLimits.askAgainMs;
    if (!this.#host.hasGate) return;
    const giving = this.#giving;
    if (giving?.step === 'stopping')
      turn.notice({ kind: 'stop', name, id: giving.id, to: giving.to ?? turn.self });
    const taking = this.#taking;
    if (taking?.step === 'preparing')
      turn.notice({ kind: 'prepare', name, id: taking.id, from: taking.from });
    if (taking?.step === 'settling')
      turn.notice({ kind: 'settle', name, id: taking.id, from: taking.from });
  }

  abort(why: string, turn: Turn): void {
    if (this.#giving) this.#abort(why, turn);
  }

  #abort(why: string, turn: Turn): void {
    const giving = this.#giving!;
    this.#giving = null;
    this.#tellAborted(giving, why, turn);
    const wasStopping = giving.step !== 'preparing';
    if (wasStopping && this.#host.hasGate)
      turn.notice({ kind: 'resume', name: this.#host.name, id: giving.id, why });
    turn.event('lease.handover-aborted', 'warn', this.#host.name, why);
    for (const id of giving.commands)
      turn.refuse(id, 'HANDOVER_ABORTED', { name: this.#host.name, reason: why });
  }

  #tellAborted(giving: Giving, why: string, turn: Turn): void {
    for (const target of giving.targets)
      this.#message(target, 'abort', giving.id, this.#host.epoch, target, why, turn);
  }

  // ---- Target -----------------------------------------------------------------------------------------------------------

  onPrepared(id: string, isReady: boolean, why: string, turn: Turn): boolean {
    const taking = this.#taking;
    if (taking?.id !== id || taking.step !== 'preparing') return false;
    this.#takingStep(isReady, 'ready', why, turn);
    return true;
  }

  onSettled(id: string, isSettled: boolean, why: string, turn: Turn): boolean {
    const taking = this.#taking;
    if (taking?.id !== id || taking.step !== 'settling') return false;
    this.#takingStep(isSettled, 'settled', why, turn);
    return true;
  }

  #takingStep(isDone: boolean, step: 'ready' | 'settled', why: string, turn: Turn): void {
    const taking = this.#taking!;
    if (isDone) {
      taking.step = step;
      this.#message(taking.from, step, taking.id, 0, turn.self, '', turn);
    } else {
      this.#taking = null;
      this.#message(taking.from, 'abort', taking.id, 0, turn.self, why, turn);
    }
  }

  /** This host holds the lease now: whoever gave it hears so. */
  active(epoch: Epoch, turn: Turn): void {
    // What was given away came back: nobody will report.
    this.onHolder(turn.self, epoch, turn);
    const taking = this.#taking;
    if (!taking) return;
    taking.step = 'going';
    this.#message(taking.from, 'done', taking.id, epoch, turn.self, '', turn);
  }

  // ---- Messages ---------------------------------------------------------------------------------------------------------

  onMessage(from: HostId, message: Handover, turn: Turn): void {
    switch (message.step) {
      case 'prepare':
        this.#onPrepare(from, message, turn);
        return;
      case 'stopped':
        this.#onStopped(from, message, turn);
        return;
      case 'go':
        if (message.to !== turn.self) return;
        if (this.#host.isHolding) this.active(this.#host.epoch, turn);
        else {
          this.#taking ??= newTaking(message.id, from, turn);
          // An old `go` says nothing about a handover that has begun since.
          if (this.#taking.id === message.id) this.#taking.step = 'going';
          this.#host.tryNow(turn);
        }
        return;
      case 'ready':
        this.#onReady(from, message, turn);
        return;
      case 'settled':
        if (!this.#isOfGiving(from, message) || this.#giving?.step !== 'settling') return;
        if (this.#host.isHolding && this.#host.isGateEmpty) this.#finish(turn);
        return;
      case 'here':
        this.#onHere(from, message, turn);
        return;
      case 'done':
        this.onHolder(from, message.epoch, turn);
        return;
      case 'abort':
        this.#onAbort(from, message, turn);
        return;
      case 'ask':
        this.#onAsk(message, turn);
    }
  }

  /** Anybody may ask; the holder gives it to candidates, one at a time. */
  #onAsk(message: Handover, turn: Turn): void {
    const host = this.#host;
    const isMember = host.desired?.candidates.includes(message.to) === true;
    if (!host.isHolding || host.isFrozen || this.isGiving || !isMember) return;
    if (message.to === turn.self) return;
    this.give(message.id, message.to, message.reason, null, turn);
  }

  #isOfGiving(from: HostId, message: Handover): boolean {
    const giving = this.#giving;
    return giving !== null && giving.id === message.id && giving.targets.includes(from);
  }

  #onPrepare(from: HostId, message: Handover, turn: Turn): void {
    if (message.to !== turn.self) return;
    const taking = this.#taking;
    if (taking?.id === message.id) {
      if (taking.step === 'ready') this.#message(from, 'ready', taking.id, 0, turn.self, '', turn);
      if (taking.step === 'preparing') this.#sayHere(taking, turn);
      return;
    }
    const why = this.#host.whyNotHere();
    if (why !== '' || !this.#host.isDaemonHere) {
      const reason = why === '' ? 'its daemon is not running' : why;
      this.#message(from, 'abort', message.id, 0, turn.self, reason, turn);
      return;
    }
    this.#taking = newTaking(message.id, from, turn);
    if (this.#host.hasGate) {
      this.#sayHere(this.#taking, turn);
      this.askAgain(turn);
    } else this.#takingStep(true, 'ready', '', turn);
  }

  /** Only while somebody works at it here: without a daemon it would never be done. */
  #sayHere(taking: Taking, turn: Turn): void {
    if (this.#host.isDaemonHere)
      this.#message(taking.from, 'here', taking.id, 0, turn.self, '', turn);
  }

  #onHere(from: HostId, message: Handover, turn: Turn): void {
    if (this.#isOfGiving(from, message)) this.#giving!.heardMs.set(from, turn.authorityMs);
  }

  #onReady(from: HostId, message: Handover, turn: Turn): void {
    const giving = this.#giving;
    if (!giving || !this.#isOfGiving(from, message) || giving.step !== 'preparing') return;
    if (!giving.ready.includes(from)) giving.ready.push(from);
    const isBest = giving.targets[0] === from || giving.ready.length === giving.targets.length;
    if (isBest) this.#choose(turn);
    else giving.chooseMs = Math.min(giving.chooseMs, turn.authorityMs + handoverLimits.chooseMs);
  }

  #onStopped(from: HostId, message: Handover, turn: Turn): void {
    const taking = this.#taking;
    if (taking?.id !== message.id || taking.from !== from) {
      // We forgot (a restart): the holder goes on.
      this.#message(from, 'abort', message.id, 0, turn.self, 'the target has restarted', turn);
      return;
    }
    if (taking.step === 'settled') {
      this.#message(from, 'settled', taking.id, 0, turn.self, '', turn);
    } else if (taking.step === 'ready') {
      taking.step = 'settling';
      this.#sayHere(taking, turn);
      this.askAgain(turn);
    } else if (taking.step === 'settling') this.#sayHere(taking, turn);
  }

  #onAbort(from: HostId, message: Handover, turn: Turn): void {
    const taking = this.#taking;
    if (taking?.id === message.id && taking.from === from) {
      this.#taking = null;
      const { name } = this.#host;
      turn.notice({ kind: 'resume', name, id: message.id, why: message.reason });
      return;
    }
    const giving = this.#giving;
    if (!giving || !this.#isOfGiving(from, message)) return;
    if (giving.step === 'preparing' && giving.targets.length > 1) {
      giving.targets = giving.targets.filter((target) => target !== from);
      const at = giving.ready.indexOf(from);
      if (at >= 0) giving.ready.splice(at, 1);
      if (giving.ready.length === 0) giving.chooseMs = Infinity;
      return;
    }
    this.#abort(`${from} cannot take it: ${message.reason}`, turn);
  }

  #send(to: HostId, step: Handover['step'], turn: Turn): void {
    const giving = this.#giving!;
    this.#message(to, step, giving.id, this.#host.epoch, to, giving.why, turn);
  }

  #message(
    to: HostId,
    step: Handover['step'],
    id: string,
    epoch: Epoch,
    target: HostId,
    reason: string,
    turn: Turn,
  ): void {
    const { name, env } = this.#host;
    turn.send(to, { kind: 'handover', env, name, step, id, epoch, to: target, reason });
  }
}

function newTaking(id: string, from: HostId, turn: Turn): Taking {
  const waitMs =
    handoverLimits.prepareMsMax + handoverLimits.stopMsMax + handoverLimits.settleMsMax;
  return { id, from, step: 'preparing', untilMs: turn.authorityMs + waitMs };
}
