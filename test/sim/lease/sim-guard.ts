/**
 * The guard's process around the real core: carries out its effects on a simulated host, in order, and can be killed,
 * stopped and resumed between any two of them. Its shell keeps the rules of `core-api.ts`.
 */
import type { CoreEffect, CoreEvent } from '../../../daemon/lease/core-api.ts';
import type { CoreMemory } from '../../../daemon/lease/core.ts';
import type { Instant } from '../../../daemon/lease/model.ts';
import type { ScheduledEvent } from '../scheduler.ts';
import type { Core } from './core-port.ts';
import type { GateAct, Machine } from './machine.ts';
import type { LeaseWorld } from './world.ts';

/** A tick that comes later than this counts as a pause of the guard. */
export const promptMs = 25;

const tick: CoreEvent = { kind: 'tick' };

export class SimGuard {
  readonly #world: LeaseWorld;
  readonly machine: Machine;
  core: Core | null = null;
  /** Goes up at every start. */
  life = 0;
  isStopped = false;
  /** Real time since which it has been running without a gap longer than `promptMs`. */
  promptSinceMs = 0;
  #inbox: CoreEvent[] = [];
  #rest: CoreEffect[] = [];
  #wake: ScheduledEvent | null = null;
  #wakeDueMs = Number.POSITIVE_INFINITY;
  #isInTurn = false;
  #sleptSeenMs = 0;
  /** The wall clock or the sleep of the host is noticed at the next look. */
  #noticed: CoreEvent | null = null;
  /** Set by a fault that strikes between two effects. */
  onEffect: ((index: number, effect: CoreEffect) => 'go' | 'dead' | 'stopped') | null = null;

  constructor(world: LeaseWorld, machine: Machine) {
    this.#world = world;
    this.machine = machine;
  }

  get isAlive(): boolean {
    return this.core !== null;
  }

  /** False while nothing can be asked of it. */
  isPrompt(): boolean {
    if (this.core === null || this.isStopped || this.machine.isAsleep) return false;
    return this.#world.nowMs <= this.#wakeDueMs + promptMs;
  }

  now(): Instant {
    const realMs = this.#world.nowMs;
    const { machine } = this;
    return { monoMs: machine.monoMs(realMs), authorityMs: machine.authorityMs(realMs) };
  }

  start(isFreshBoot: boolean): void {
    const { machine } = this;
    this.life++;
    this.isStopped = false;
    this.#inbox = [];
    this.#rest = [];
    this.#noticed = null;
    this.promptSinceMs = this.#world.nowMs;
    const now = this.now();
    const { attemptsMax } = this.#world.options;
    const start = { ...machine.startOf(this.#world.env, isFreshBoot), attemptsMax };
    this.core = this.#world.makeCore(
      start,
      this.#world.random.fork(`core/${machine.index}/${this.life}`),
      now,
    );
    this.#closeLeftovers();
    // Of another generation of voters: not continued.
    const kept = start.volatile as { readonly session: string } | null;
    const { session } = this.core.volatileState() as { readonly session: string };
    this.#world.checks.onStart(machine, isFreshBoot, kept?.session === session, now);
    if (machine.desiredFile !== null) this.turn({ kind: 'desired', desired: machine.desiredFile });
    else this.#plan();
    this.#abandon();
  }

  /** Whoever took these is gone with the connection to the guard before this one. */
  #abandon(): void {
    const { agents } = (this.core?.volatileState() ?? { agents: [] }) as Pick<CoreMemory, 'agents'>;
    for (const { name, isByCommand } of agents) {
      if (!isByCommand) continue;
      const command = { kind: 'release', name, reason: 'whoever took it is gone' } as const;
      this.turn({ kind: 'command', id: -1_000_000, command });
    }
  }

  /** Before it does anything else a guard closes every gate that is open by nothing that it remembers. */
  #closeLeftovers(): void {
    const { machine } = this;
    const leases = this.core?.status(this.now()).leases ?? [];
    const open = leases.filter(({ gate }) => gate === 'open').map(({ name }) => name);
    for (const gate of machine.gateList)
      if (!open.includes(gate.name)) this.#world.shutGate(machine, gate);
  }

  /** kill -9. What the kernel keeps, it keeps. */
  kill(options: { readonly isVolatileKept: boolean }): void {
    if (this.core === null) return;
    if (!options.isVolatileKept) this.machine.volatile = null;
    else if (!this.#world.options.exactVolatile)
      this.machine.keep(this.core.volatileState(), this.#sleptSeenMs);
    // Stopped in the middle of a turn, and never let go on.
    if (this.#rest.length > 0) this.#world.checks.onCut(this.machine);
    this.core = null;
    this.#cancelWake();
    this.#inbox = [];
    this.#rest = [];
  }

  /** SIGSTOP. */
  stop(): void {
    if (this.core === null) return;
    this.isStopped = true;
    this.#cancelWake();
  }

  /** SIGCONT: what waited comes in one burst, messages before timers, and in some worlds in reverse. */
  resume(order: 'timer-first' | 'messages-first' | 'reversed'): void {
    if (this.core === null || !this.isStopped) return;
    this.isStopped = false;
    this.promptSinceMs = this.#world.nowMs;
    this.#burst(order);
  }

  /** After the host slept. */
  wakeUp(order: 'timer-first' | 'messages-first' | 'reversed', sleptMs: number): void {
    if (this.core === null) return;
    if (sleptMs > 500) this.#noticed = { kind: 'clock', what: 'suspend' };
    if (this.isStopped) return;
    this.promptSinceMs = this.#world.nowMs;
    this.#burst(order);
  }

  notice(event: CoreEvent): void {
    if (this.core === null) return;
    this.#noticed ??= event;
    if (!this.isStopped && !this.machine.isAsleep) this.turn(tick);
  }

  #burst(order: 'timer-first' | 'messages-first' | 'reversed'): void {
    const rest = this.#rest;
    this.#rest = [];
    this.#carryOut(rest);
    const waiting = order === 'reversed' ? reversed(this.#inbox) : this.#inbox;
    this.#inbox = [];
    if (order === 'timer-first') this.turn(tick);
    for (const event of waiting) this.deliver(event);
    if (order !== 'timer-first') this.turn(tick);
  }

  deliver(event: CoreEvent): void {
    if (this.core === null) return;
    if (this.isStopped || this.machine.isAsleep) {
      if (this.#inbox.length < 2_000) this.#inbox.push(event);
      return;
    }
    this.turn(event);
  }

  /** One event through the core, and all that follows from it. */
  turn(event: CoreEvent): void {
    const { core } = this;
    if (core === null) return;
    if (this.#isInTurn || this.isStopped) {
      this.#inbox.push(event);
      return;
    }
    this.#isInTurn = true;
    try {
      if (this.#noticed !== null && event.kind === 'tick') {
        const noticed = this.#noticed;
        this.#noticed = null;
        this.#handle(core, noticed);
      }
      if (this.core === core && !this.isStopped) this.#handle(core, event);
    } finally {
      this.#isInTurn = false;
    }
    while (this.core === core && !this.isStopped && this.#inbox.length > 0) {
      const next = this.#inbox.shift();
      if (next !== undefined) this.turn(next);
    }
    if (this.core === core && !this.isStopped) this.#plan();
  }

  #handle(core: Core, event: CoreEvent): void {
    const world = this.#world;
    const now = this.now();
    if (this.#noticed === null) this.#sleptSeenMs = this.machine.sleptMs;
    world.countStep(this.machine.index, event);
    world.checks.beforeEvent(this.machine, event, now);
    const effects = core.handle(event, now);
    world.checks.onEffects(this.machine, effects, now, event);
    if (effects.length > 0) this.#carryOut(effects);
    world.checks.afterEvent();
  }

  #carryOut(effects: readonly CoreEffect[]): void {
    const { core, life } = this;
    let isStored = false;
    for (let index = 0; index < effects.length; index++) {
      const effect = effects[index] as CoreEffect;
      if (this.onEffect !== null) {
        const verdict = this.onEffect(index, effect);
        if (verdict === 'dead' || this.life !== life || this.core !== core) {
          // What this turn was about to say, it never said.
          if (!isStored) this.#world.checks.onCut(this.machine);
          return;
        }
        if (verdict === 'stopped') {
          this.#rest.push(...effects.slice(index));
          return;
        }
      }
      if (isKeptBefore(effect) && !isStored) {
        isStored = true;
        if (this.#world.options.exactVolatile && core !== null)
          this.machine.keep(core.volatileState(), this.#sleptSeenMs);
      }
      this.#carryOutOne(effect);
      // Its own panic has cut the power.
      if (this.life !== life || this.core !== core) return;
    }
  }

  #carryOutOne(effect: CoreEffect): void {
    const world = this.#world;
    const { machine, life } = this;
    switch (effect.kind) {
      case 'send':
        world.send(machine, effect.to, effect.message);
        return;
      case 'persist':
        world.persist(machine, effect.records, () => {
          if (this.life !== life || this.core === null) return;
          this.#persisted(effect.token, effect.then);
        });
        return;
      case 'gate':
        world.actOnGate(machine, effect.name, effect.act as GateAct, effect.token, life);
        return;
      case 'lease-file':
        world.writeLeaseFile(machine, effect.name, effect.epoch, effect.authorityUntilMs);
        return;
      case 'traffic':
        world.setTraffic(machine, effect.name, effect.untilMs);
        return;
      case 'fence':
        world.fence(machine, effect);
        return;
      case 'reply':
        world.replied(machine, effect.id, effect.reply);
        return;
      case 'notice':
        world.noticed(machine, effect.notice);
    }
  }

  #persisted(token: number, then: readonly CoreEffect[]): void {
    if (this.isStopped || this.machine.isAsleep) {
      // The shell sees the end of its fsync only when it runs again.
      this.#rest.push({ kind: 'persist', token, records: [], then });
      return;
    }
    const { core } = this;
    this.turn({ kind: 'persisted', token });
    if (this.core === core && !this.isStopped) {
      this.#carryOut(then);
      this.#plan();
    }
  }

  /** The next look at the deadlines: when the core asks for it, late by what this world allows. */
  #plan(): void {
    const { core, machine } = this;
    if (core === null) return;
    const world = this.#world;
    const deadlineMs = core.nextDeadlineMs();
    if (deadlineMs === null || deadlineMs === Number.POSITIVE_INFINITY) return;
    const dueMs = Math.max(world.nowMs, world.realOfDeadline(machine, deadlineMs));
    if (dueMs >= this.#wakeDueMs - 0.001) return;
    this.#cancelWake();
    this.#wakeDueMs = dueMs;
    const { life } = this;
    this.#wake = world.scheduler.at(dueMs + world.lateness(), () => {
      this.#wake = null;
      const isLate = world.nowMs > dueMs + promptMs;
      this.#wakeDueMs = Number.POSITIVE_INFINITY;
      if (this.life !== life || this.core === null) return;
      if (this.isStopped || machine.isAsleep) return;
      if (isLate) this.promptSinceMs = world.nowMs;
      this.turn(tick);
    });
  }

  #cancelWake(): void {
    if (this.#wake !== null) this.#world.scheduler.cancel(this.#wake);
    this.#wake = null;
    this.#wakeDueMs = Number.POSITIVE_INFINITY;
  }
}

/** What others or the kernel act upon: as the real process does it. */
function isKeptBefore({ kind }: CoreEffect): boolean {
  return kind === 'send' || kind === 'persist' || kind === 'gate' || kind === 'lease-file';
}

/** All in reverse but what comes over the one connection to the daemon, which keeps its order. */
function reversed(events: readonly CoreEvent[]): CoreEvent[] {
  const said = events.filter(isOfDaemon);
  return events.toReversed().map((event) => (isOfDaemon(event) ? (said.shift() ?? event) : event));
}

function isOfDaemon({ kind }: CoreEvent): boolean {
  return kind === 'daemon' || kind === 'desired' || kind === 'command';
}
