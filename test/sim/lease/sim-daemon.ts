/**
 * The daemon as its guard sees it: it connects and disappears, tells what is desired (late), starts the workload after
 * `open`, and answers handovers, sometimes. The engine behind it is slow: a start that was asked for may happen 30 s later,
 * whatever has become of the lease.
 */
import type { GuardCommand, GuardDesired, GuardNotice } from '../../../daemon/lease/guard-api.ts';
import type { SimRandom } from '../sim-random.ts';
import type { Machine, SimGate } from './machine.ts';
import { desiredOf, type Truth } from './truth.ts';
import type { LeaseWorld } from './world.ts';

/** Between looks at the whole. */
const reconcileMs = 1_500;

export class SimDaemon {
  readonly #world: LeaseWorld;
  readonly #machine: Machine;
  readonly #random: SimRandom;
  readonly #pauses: SimRandom;
  isUp = false;
  isConnected = false;
  /** Of the operators' wishes, as this daemon has heard them. */
  view: Truth;
  #generation = 0;
  /** Taken by command, or asked for. */
  readonly #taken = new Set<string>();
  /** Leases whose workload was stopped for a handover: not restarted until told. */
  readonly #stopping = new Set<string>();

  constructor(world: LeaseWorld, machine: Machine) {
    this.#world = world;
    this.#machine = machine;
    this.#random = world.random.fork(`daemon/${machine.index}`);
    this.#pauses = world.random.fork(`pauses/${machine.index}`);
    this.view = world.truth;
  }

  start(): void {
    if (this.isUp || !this.#machine.isUp) return;
    this.isUp = true;
    this.#generation++;
    this.guardCame();
    this.#reconcileLater();
  }

  /**
   * Takes a lease by command, and gives it up after `forMs`, or earlier with the connection: the shell of the guard sees to
   * that. `taken`: under which epoch.
   */
  acquire(
    command: Extract<GuardCommand, { kind: 'acquire' }>,
    forMs: number,
    taken: (epoch: number) => void = () => {},
  ): void {
    const { name } = command.lease;
    if (!this.isConnected || this.#taken.has(name)) return;
    this.#taken.add(name);
    this.#world.command(this.#machine.index, command, (reply) => {
      if (reply.isOk) taken(reply.epoch ?? 0);
    });
    this.#later(command.waitMs + forMs, () => this.#giveUp(name));
  }

  #giveUp(name: string): void {
    if (!this.#taken.delete(name)) return;
    const reason = 'whoever took it is gone';
    this.#world.command(this.#machine.index, { kind: 'release', name, reason });
  }

  kill(): void {
    if (!this.isUp) return;
    for (const name of this.#taken) this.#giveUp(name);
    this.isUp = false;
    this.#generation++;
    if (!this.isConnected) return;
    this.isConnected = false;
    this.#world.guards[this.#machine.index]?.deliver({ kind: 'daemon', isConnected: false });
  }

  hostDied(): void {
    this.isUp = false;
    this.isConnected = false;
    this.#generation++;
    this.#stopping.clear();
    this.#taken.clear();
  }

  guardGone(): void {
    this.isConnected = false;
    this.#taken.clear();
  }

  /** Connects soon. */
  guardCame(): void {
    if (!this.isUp) return;
    this.#later(this.#random.between(5, 120), () => {
      const guard = this.#world.guards[this.#machine.index];
      if (this.isConnected || guard?.isAlive !== true) return;
      this.isConnected = true;
      guard.deliver({ kind: 'daemon', isConnected: true });
      this.refresh();
      this.#reconcile();
    });
  }

  /** Hears of the newest wishes and tells its guard. */
  refresh(): void {
    if (!this.isUp) return;
    this.view = this.#world.truth;
    this.tell(
      desiredOf(
        this.view,
        this.#machine.index,
        this.#random.chance(this.#world.options.gossip) ? this.#world.checks.newestChosen() : null,
      ),
    );
  }

  tell(desired: GuardDesired): void {
    const guard = this.#world.guards[this.#machine.index];
    if (!this.isConnected || guard === undefined) return;
    this.#machine.desiredFile = desired;
    guard.deliver({ kind: 'desired', desired });
  }

  heard(notice: GuardNotice): void {
    if (!this.isConnected) return;
    switch (notice.kind) {
      case 'open':
        this.#stopping.delete(notice.name);
        this.#later(this.#random.between(0.5, 20), () => this.#startContainer(notice.name));
        return;
      case 'closed':
        this.#stopping.delete(notice.name);
        return;
      case 'prepare':
        this.#answer({
          kind: 'prepared',
          name: notice.name,
          id: notice.id,
          isReady: this.#random.chance(0.95),
          why: '',
        });
        return;
      case 'stop':
        this.#stop(notice.name, notice.id);
        return;
      case 'settle':
        this.#answer({
          kind: 'settled',
          name: notice.name,
          id: notice.id,
          isSettled: this.#random.chance(0.95),
          why: '',
        });
        return;
      case 'resume':
        this.#stopping.delete(notice.name);
        this.#later(this.#random.between(0.5, 20), () => this.#startContainer(notice.name));
        return;
      case 'event':
    }
  }

  #answer(command: GuardCommand): void {
    if (!this.#world.isKind && !this.#random.chance(this.#world.options.daemonAnswers)) return;
    this.#later(this.#random.between(1, this.#random.chance(0.1) ? 4_000 : 200), () =>
      this.#world.command(this.#machine.index, command),
    );
  }

  #stop(name: string, id: string): void {
    this.#stopping.add(name);
    const gate = this.#machine.gate(name);
    const attempt = (left: number): void => {
      // An engine's stop of what is frozen hangs until it is thawed.
      if (gate.isFrozen && gate.process !== null && left > 0) {
        this.#later(100, () => attempt(left - 1));
        return;
      }
      if (!gate.isFrozen) gate.process = null;
      this.#answer({
        kind: 'stopped',
        name,
        id,
        isStopped: gate.process === null,
        why: gate.process === null ? '' : 'the engine hangs',
      });
    };
    if (!this.#world.isKind && this.#random.chance(0.05)) return;
    this.#later(this.#random.between(2, 300), () => attempt(30));
  }

  #reconcileLater(): void {
    this.#later(reconcileMs + this.#random.between(0, 200), () => {
      this.#reconcile();
      this.#reconcileLater();
    });
  }

  /** Level-triggered: what is open and empty is started. */
  #reconcile(): void {
    const guard = this.#world.guards[this.#machine.index];
    if (!this.isConnected || guard === undefined || guard.core === null) return;
    if (guard.isStopped || this.#machine.isAsleep) return;
    for (const lease of guard.core.status(guard.now()).leases) {
      if (lease.state !== 'active' && lease.state !== 'parked') continue;
      if (lease.gate !== 'open' || this.#stopping.has(lease.name)) continue;
      this.#startContainer(lease.name);
      this.#pauseSometimes(lease.name);
    }
  }

  /** For a copy of its storage; the resume may come late or never. */
  #pauseSometimes(name: string): void {
    if (this.#world.isKind || !this.#pauses.chance(0.1)) return;
    const maxMs = this.#pauses.chance(0.5) ? 500 : 1_000;
    this.#world.command(this.#machine.index, { kind: 'pause', name, maxMs });
    if (this.#pauses.chance(0.8))
      this.#later(this.#pauses.between(1, 1_500), () =>
        this.#world.command(this.#machine.index, { kind: 'resume', name }),
      );
  }

  #startContainer(name: string): void {
    if (this.view.leases.some(({ spec }) => spec.name === name && !spec.hasGate)) return;
    const gate = this.#machine.gate(name);
    // What was said to the guard just now may have cost the host its power.
    if (!this.#machine.isUp || gate.startPending || gate.process !== null) return;
    gate.startPending = true;
    const generation = ++gate.startGeneration;
    const { engineStartMsMax } = this.#world.options;
    const delayMs = this.#random.chance(0.7)
      ? this.#random.between(1, 20)
      : this.#random.between(1, engineStartMsMax);
    this.#world.note(this.#machine.index, `  engine starts ${name} in ${Math.round(delayMs)} ms`);
    // The engine does it, also when the daemon that asked is gone.
    this.#world.onHost(this.#machine, delayMs, () => this.#started(gate, generation));
  }

  #started(gate: SimGate, generation: number): void {
    if (gate.startGeneration !== generation) return;
    gate.startPending = false;
    if (gate.process !== null) return;
    gate.process = {
      startedMs: this.#world.nowMs,
      epoch: gate.fileEpoch,
      hasRun: !gate.isFrozen,
    };
    this.#world.note(this.#machine.index, `  engine started ${gate.name}`);
    this.#world.checks.onStarted(this.#machine, gate);
  }

  /** Unless this daemon is dead by then. */
  #later(delayMs: number, work: () => void): void {
    const generation = this.#generation;
    this.#world.onHost(this.#machine, delayMs, () => {
      if (this.isUp && this.#generation === generation) work();
    });
  }
}
