/**
 * Hosts with guards, made from one seed, in virtual time. Read this file first, then `sim-guard.ts`, `machine.ts`, and the
 * header of `checkers/checks.ts`, which says under which faults each law is claimed.
 *
 *   const world = new LeaseWorld({ seed: 7, options: { ...calm, hostCount: 3 } });
 *   world.run({ forMs: 5_000 });
 *   world.cutPower(0);
 *   world.runUntil(() => world.holderOf('service/e/a') === 1, { withinMs: 3_000 });
 *
 * The code under test is `daemon/lease/core.ts` itself. A step is one event that a core has handled.
 */
import type { HostId } from '../../../crdt/ids.ts';
import type { CoreEvent, DurableRecord, CoreEffect } from '../../../daemon/lease/core-api.ts';
import type {
  GuardCommand,
  GuardNotice,
  GuardReply,
  LeaseState,
  LeaseStatus,
} from '../../../daemon/lease/guard-api.ts';
import type { ChosenConfig } from '../../../daemon/lease/model.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import { Scheduler } from '../scheduler.ts';
import { SimRandom } from '../sim-random.ts';
import { Trace } from '../trace.ts';
import { Checks } from './checkers/checks.ts';
import type { Core, CoreFactory } from './core-port.ts';
import { makeCore as realCore } from './make-core.ts';
import { hostIdOf, Machine, type GateAct, type SimGate } from './machine.ts';
import { LeaseNetwork } from './network.ts';
import type { LeaseWorldOptions } from './options.ts';
import { SimDaemon } from './sim-daemon.ts';
import { SimGuard } from './sim-guard.ts';
import { firstTruth, type Truth } from './truth.ts';

export interface WorldStart {
  readonly seed: number | string;
  readonly options: LeaseWorldOptions;
  readonly makeCore?: CoreFactory;
  readonly print?: (line: string) => void;
}

interface PendingWrite {
  readonly records: readonly DurableRecord[];
  readonly done: () => void;
}

const eventKinds: Readonly<Record<CoreEvent['kind'], number>> = {
  message: 1,
  tick: 2,
  desired: 3,
  command: 4,
  gate: 5,
  persisted: 6,
  clock: 7,
  daemon: 8,
  fenced: 9,
};

export class LeaseWorld {
  readonly env = 'e';
  readonly options: LeaseWorldOptions;
  readonly random: SimRandom;
  readonly scheduler = new Scheduler();
  readonly trace = new Trace();
  readonly network: LeaseNetwork;
  readonly machines: Machine[] = [];
  readonly guards: SimGuard[] = [];
  readonly daemons: SimDaemon[] = [];
  readonly checks: Checks;
  readonly makeCore: CoreFactory;
  readonly print: ((line: string) => void) | null;
  /** Events handled by cores. */
  steps = 0;
  truth: Truth;
  syncMsMax: number;
  lateChance: number;
  /** Faults are over: daemons answer, kernels obey. */
  isKind = false;
  /** Until when a disk answers no fsync. */
  readonly #stalledUntilMs: number[] = [];
  readonly #pendingWrites: PendingWrite[][] = [];
  readonly #asleepWork: (() => void)[][] = [];
  readonly #commands = new Map<number, (reply: GuardReply) => void>();
  #commandId = 0;
  readonly #faultRandom: SimRandom;

  constructor({ seed, options, makeCore, print }: WorldStart) {
    this.options = options;
    this.random = new SimRandom(`lease/${seed}`);
    this.#faultRandom = this.random.fork('kernel');
    this.makeCore = makeCore ?? realCore;
    this.print = print ?? null;
    this.syncMsMax = options.syncMsMax;
    this.lateChance = options.lateChance;
    this.truth = firstTruth(options);
    this.network = new LeaseNetwork({
      count: options.hostCount,
      scheduler: this.scheduler,
      random: this.random.fork('network'),
      links: { ...options.links },
      deliver: (from, to, message) => this.#arrive(from, to, message),
    });
    this.checks = new Checks(this);
    const clocks = this.random.fork('clocks');
    for (let index = 0; index < options.hostCount; index++) {
      const id = hostIdOf(index);
      // Up for a while already: silence after boot is long over.
      const machine = new Machine(
        index,
        id,
        options.rates[index] ?? 1,
        clocks.between(100_000, 1_000_000),
      );
      if (this.truth.founding !== null)
        machine.write([{ kind: 'chosen', chosen: this.truth.founding }]);
      this.machines.push(machine);
      this.guards.push(new SimGuard(this, machine));
      this.daemons.push(new SimDaemon(this, machine));
      this.#stalledUntilMs.push(0);
      this.#pendingWrites.push([]);
      this.#asleepWork.push([]);
    }
    this.checks.begin();
    for (const guard of this.guards) guard.start(true);
    for (const daemon of this.daemons) daemon.start();
  }

  get nowMs(): number {
    return this.scheduler.nowMs;
  }

  indexOf(host: HostId): number {
    return (host.codePointAt(0) ?? 0) - 97;
  }

  // ---- Running -------------------------------------------------------------------------------------------------------

  run({ forMs }: { readonly forMs: number }): void {
    const untilMs = this.nowMs + forMs;
    const { scheduler } = this;
    let stuck = 0;
    let lastMs = -1;
    while (scheduler.step(untilMs)) {
      if (scheduler.nowMs === lastMs) {
        if (++stuck > 100_000) throw new Error('time stands still');
      } else {
        stuck = 0;
        lastMs = scheduler.nowMs;
      }
    }
  }

  /** Looks after every event. Throws what is missing after `withinMs`. Answers how long it took. */
  runUntil(
    isDone: () => boolean,
    { withinMs, what }: { readonly withinMs: number; readonly what?: string },
  ): number {
    const startMs = this.nowMs;
    while (!isDone()) {
      if (!this.scheduler.step(startMs + withinMs))
        throw new Error(`not within ${withinMs} ms: ${what ?? isDone.toString()}`);
    }
    return this.nowMs - startMs;
  }

  countStep(index: number, event: CoreEvent): void {
    this.steps++;
    const detail = event.kind === 'message' ? event.message.kind.length : 0;
    this.trace.mix(eventKinds[event.kind], index, this.scheduler.nowMs, detail);
    if (this.print !== null) this.note(index, describe(event));
  }

  note(index: number, text: string): void {
    this.print?.(`${(this.nowMs / 1000).toFixed(4)} h${index} ${text}`);
  }

  /** What the core gives is on the monotonic clock. */
  realOfDeadline(machine: Machine, deadlineMs: number): number {
    return machine.realOfMono(deadlineMs, this.nowMs);
  }

  lateness(): number {
    const { lateMsMax } = this.options;
    if (this.lateChance > 0 && this.#faultRandom.next() < this.lateChance)
      return this.#faultRandom.next() * lateMsMax;
    return this.#faultRandom.next() * 1.5;
  }

  /** Runs unless the power was cut meanwhile; a sleeping host does it when it wakes. */
  onHost(machine: Machine, delayMs: number, work: () => void): void {
    const { boot } = machine;
    const wrapped = (): void => {
      if (!machine.isUp || machine.boot !== boot) return;
      if (machine.isAsleep) {
        this.#asleepWork[machine.index]?.push(wrapped);
        return;
      }
      work();
    };
    this.scheduler.after(delayMs, wrapped);
  }

  // ---- What a guard does to the world --------------------------------------------------------------------------------

  send(machine: Machine, to: HostId, message: Message): void {
    this.checks.onSend(machine, to, message);
    if (this.print !== null) this.note(machine.index, `  -> h${this.indexOf(to)} ${text(message)}`);
    const index = this.indexOf(to);
    if (index < 0 || index >= this.machines.length) return;
    this.network.send(machine.index, index, message);
  }

  #arrive(from: number, to: number, message: Message): void {
    const machine = this.machines[to];
    const guard = this.guards[to];
    const sender = this.machines[from];
    if (machine === undefined || guard === undefined || sender === undefined) return;
    if (!machine.isUp || machine.isAsleep || !guard.isAlive) return;
    guard.deliver({ kind: 'message', from: sender.id, message });
  }

  /** A fsync: later ones of the same disk never end before it. */
  persist(machine: Machine, records: readonly DurableRecord[], done: () => void): void {
    const pending = this.#pendingWrites[machine.index];
    if (pending === undefined) return;
    const write: PendingWrite = { records, done };
    pending.push(write);
    const stallMs = Math.max(0, (this.#stalledUntilMs[machine.index] ?? 0) - this.nowMs);
    const delayMs = stallMs + this.#faultRandom.between(0.05, this.syncMsMax);
    const sync = (): void => {
      const at = pending.indexOf(write);
      if (at < 0) return;
      // Whatever came before it is on the disk too.
      for (const { records: synced, done: report } of pending.splice(0, at + 1)) {
        machine.write(synced);
        for (const record of synced) this.checks.onDurable(machine, record);
        report();
      }
    };
    this.onHost(machine, delayMs, sync);
  }

  /** What was written but not synced: read back by a new process, lost or torn by a power cut. */
  #endWrites(machine: Machine, isPowerCut: boolean): void {
    const pending = this.#pendingWrites[machine.index] ?? [];
    let keep = isPowerCut ? this.#faultRandom.index(pending.length + 1) : pending.length;
    for (const { records } of pending.splice(0)) {
      if (keep === 0) {
        if (records.length > 1 && this.#faultRandom.chance(0.3))
          this.#keep(machine, records.slice(0, 1));
        return;
      }
      keep--;
      this.#keep(machine, records);
    }
  }

  /** Nobody heard of it yet, and the next process reads it. */
  #keep(machine: Machine, records: readonly DurableRecord[]): void {
    machine.write(records);
    for (const record of records)
      if (record.kind === 'chosen') this.checks.onLink(machine, record.chosen);
  }

  actOnGate(machine: Machine, name: string, act: GateAct, token: number, life: number): void {
    const gate = machine.gate(name);
    gate.queue.push({ act, token, life });
    if (this.print !== null) this.note(machine.index, `  gate ${name} ${act} #${token}`);
    if (!gate.isBusy) this.#nextGateOperation(machine, gate);
  }

  #nextGateOperation(machine: Machine, gate: SimGate): void {
    const guard = this.guards[machine.index];
    let next = gate.queue.shift();
    while (next !== undefined && next.life !== guard?.life) next = gate.queue.shift();
    if (next === undefined || guard === undefined) {
      gate.isBusy = false;
      return;
    }
    gate.isBusy = true;
    const { act, token, life } = next;
    const random = this.#faultRandom;
    const { gateSlow, clearFails } = this.options;
    let latencyMs = random.between(0.1, act === 'clear' ? 12 : 3);
    if (gateSlow > 0 && random.next() < gateSlow) latencyMs *= act === 'clear' ? 30 : 15;
    const willFail =
      act === 'clear' && !this.isKind && clearFails > 0 && random.next() < clearFails;
    if (willFail) latencyMs = 2_000;
    const finish = (): void => {
      if (act === 'clear' && guard.isStopped) {
        this.onHost(machine, 20, finish);
        return;
      }
      const result = this.#operate(machine, gate, act, willFail);
      if (guard.life === life) guard.deliver({ kind: 'gate', name: gate.name, token, result });
      this.#nextGateOperation(machine, gate);
    };
    this.onHost(machine, latencyMs, finish);
  }

  #operate(
    machine: Machine,
    gate: SimGate,
    act: GateAct,
    willFail: boolean,
  ): 'frozen' | 'open' | 'empty' | 'populated' | 'failed' {
    switch (act) {
      case 'freeze':
        if (this.#gateFails()) {
          gate.isBroken = true;
          return 'failed';
        }
        this.shutGate(machine, gate);
        return 'frozen';
      case 'thaw':
        if (this.#gateFails()) return 'failed';
        gate.isFrozen = false;
        this.checks.onThaw(machine, gate);
        if (gate.process !== null) {
          gate.process.hasRun = true;
          gate.process.epoch = gate.fileEpoch;
        }
        return 'open';
      case 'clear':
        this.shutGate(machine, gate);
        if (willFail && gate.process !== null) return 'populated';
        gate.process = null;
        return 'empty';
      case 'look':
        return gate.process === null ? 'empty' : 'populated';
    }
  }

  #gateFails(): boolean {
    return !this.isKind && this.#faultRandom.chance(this.options.freezeFails);
  }

  /** At once: also what a starting guard does that remembers nothing. */
  shutGate(machine: Machine, gate: SimGate): void {
    gate.isFrozen = true;
    gate.isBroken = false;
    this.checks.onShut(machine, gate);
  }

  writeLeaseFile(machine: Machine, name: string, epoch: number, untilMs: number | null): void {
    const gate = machine.gate(name);
    gate.fileEpoch = epoch;
    gate.fileUntilMs = untilMs;
    gate.fileAtMs = this.nowMs;
    // It goes on, and reads the new one: nobody held the lease in between.
    if (untilMs !== null && gate.isRunning && gate.process !== null) gate.process.epoch = epoch;
    if (this.print !== null)
      this.note(machine.index, `  file ${name} epoch ${epoch} until ${untilMs}`);
  }

  setTraffic(machine: Machine, name: string, untilMs: number | null): void {
    const gate = machine.gate(name);
    gate.trafficUntilMs = untilMs ?? 0;
    if (this.print !== null) this.note(machine.index, `  traffic ${name} until ${untilMs}`);
    this.checks.onTraffic(machine, gate);
  }

  fence(machine: Machine, effect: CoreEffect & { readonly kind: 'fence' }): void {
    this.note(machine.index, `  fence ${effect.how} ${effect.name}`);
    if (effect.how === 'panic') {
      this.cutPower(machine.index);
      this.scheduler.after(this.#faultRandom.between(500, 5_000), () =>
        this.boot(machine.index, 100),
      );
      return;
    }
    const { life } = this.guards[machine.index] as SimGuard;
    this.checks.onFence(machine, effect.name, effect.epoch, false);
    this.onHost(machine, this.#faultRandom.between(5, 800), () => {
      const isFenced = this.isKind || this.#faultRandom.chance(0.9);
      if (isFenced) this.checks.onFence(machine, effect.name, effect.epoch, true);
      // When faults are over it finds that the last owner has stopped by itself: a host without power is one.
      if (isFenced && !this.isKind && effect.victim !== null && effect.victim !== machine.id) {
        const victim = this.indexOf(effect.victim);
        this.cutPower(victim);
        this.scheduler.after(this.#faultRandom.between(500, 5_000), () => this.boot(victim, 100));
      }
      const guard = this.guards[machine.index];
      if (guard?.life === life)
        guard.deliver({ kind: 'fenced', name: effect.name, epoch: effect.epoch, isFenced });
    });
  }

  replied(machine: Machine, id: number, reply: GuardReply): void {
    if (this.print !== null)
      this.note(machine.index, `  reply #${id} ${reply.isOk ? 'ok' : reply.code}`);
    const report = this.#commands.get(id);
    this.#commands.delete(id);
    report?.(reply);
  }

  noticed(machine: Machine, notice: GuardNotice): void {
    if (this.print !== null) this.note(machine.index, `  notice ${noticeText(notice)}`);
    this.checks.onNotice(machine, notice);
    this.daemons[machine.index]?.heard(notice);
  }

  /** A command of the local daemon or operator. */
  command(
    index: number,
    command: GuardCommand,
    report: (reply: GuardReply) => void = () => {},
  ): void {
    const guard = this.guards[index];
    const daemon = this.daemons[index];
    if (guard === undefined || daemon === undefined || !guard.isAlive || !daemon.isConnected)
      return;
    const id = ++this.#commandId;
    if (this.#commands.size > 500) this.#commands.clear();
    const machine = this.machines[index] as Machine;
    this.checks.onCommand(machine, command, id);
    this.#commands.set(id, (reply) => {
      this.checks.onReply(machine, command, reply);
      report(reply);
    });
    guard.deliver({ kind: 'command', id, command });
  }

  // ---- Faults ----------------------------------------------------------------------------------------------------------

  killGuard(index: number, options: { readonly isVolatileKept: boolean }): void {
    const guard = this.guards[index];
    const machine = this.machines[index];
    if (guard === undefined || machine === undefined || !guard.isAlive) return;
    this.note(index, `KILL guard, tmpfs ${options.isVolatileKept ? 'kept' : 'lost'}`);
    guard.kill(options);
    this.#endWrites(machine, false);
    this.daemons[index]?.guardGone();
  }

  startGuard(index: number): void {
    const guard = this.guards[index];
    const machine = this.machines[index];
    if (guard === undefined || machine === undefined) return;
    if (!machine.isUp || guard.isAlive || machine.isAsleep) return;
    this.note(index, 'START guard');
    guard.start(machine.volatile === null && machine.startedInBoot !== machine.boot);
    machine.startedInBoot = machine.boot;
    this.daemons[index]?.guardCame();
  }

  cutPower(index: number): void {
    const machine = this.machines[index];
    const guard = this.guards[index];
    if (machine === undefined || guard === undefined || !machine.isUp) return;
    this.note(index, 'POWER CUT');
    guard.kill({ isVolatileKept: false });
    this.#endWrites(machine, true);
    machine.cutPower();
    const waiting = this.#asleepWork[index];
    if (waiting !== undefined) waiting.length = 0;
    this.daemons[index]?.hostDied();
    this.checks.onPowerCut(machine);
  }

  boot(index: number, guardAfterMs: number): void {
    const machine = this.machines[index];
    if (machine === undefined || machine.isUp || machine.isKeptOff) return;
    this.note(index, 'BOOT');
    machine.powerOn(this.nowMs);
    this.onHost(machine, guardAfterMs, () => this.startGuard(index));
    this.onHost(machine, guardAfterMs + 300, () => this.daemons[index]?.start());
  }

  stopGuard(index: number): void {
    this.note(index, 'STOP guard');
    this.guards[index]?.stop();
  }

  resumeGuard(index: number): void {
    this.note(index, 'CONT guard');
    this.guards[index]?.resume(this.options.resumeOrder);
  }

  /** Suspend to memory: everything on the host stands, the authority clock does not. */
  sleep(index: number, forMs: number): void {
    const machine = this.machines[index];
    if (machine === undefined || !machine.isUp || machine.isAsleep) return;
    this.note(index, `SLEEP for ${forMs} ms`);
    machine.sleep(this.nowMs);
    const { boot } = machine;
    const startMs = this.nowMs;
    this.scheduler.after(forMs, () => {
      if (!machine.isUp || machine.boot !== boot || !machine.isAsleep) return;
      this.note(index, 'WAKE');
      machine.wake(this.nowMs);
      const waiting = this.#asleepWork[index]?.splice(0) ?? [];
      this.guards[index]?.wakeUp(this.options.resumeOrder, this.nowMs - startMs);
      for (const work of waiting) work();
    });
  }

  /** Only while the guard does not run: it reads its log when it starts. */
  damageLog(index: number, kept: number): void {
    const machine = this.machines[index];
    if (machine === undefined || this.guards[index]?.isAlive === true) return;
    this.note(index, 'LOG DAMAGED');
    if (machine.durable.has('chosen')) this.checks.onDamage(machine);
    machine.damageLog(kept, this.options.isFounded);
  }

  stallDisk(index: number, forMs: number): void {
    this.#stalledUntilMs[index] = this.nowMs + forMs;
  }

  // ---- Questions of tests ----------------------------------------------------------------------------------------------

  core(index: number): Core {
    const core = this.guards[index]?.core;
    if (core === null || core === undefined) throw new Error(`no guard on h${index}`);
    return core;
  }

  /** Index of the host on which the workload runs; null: nowhere. Throws when there are two. */
  runningOn(name: string): number | null {
    let found: number | null = null;
    for (const machine of this.machines) {
      if (machine.gates.get(name)?.isRunning !== true) continue;
      if (found !== null) throw new Error(`${name} runs on h${found} and h${machine.index}`);
      found = machine.index;
    }
    return found;
  }

  /** Index of the host that says it holds, with time left; null: nobody. */
  holderOf(name: string): number | null {
    for (const guard of this.guards) {
      if (guard.core === null || guard.isStopped || guard.machine.isAsleep) continue;
      const lease = guard.core.status(guard.now()).leases.find((one) => one.name === name);
      if (lease !== undefined && (lease.state === 'active' || lease.state === 'parked'))
        return guard.machine.index;
    }
    return null;
  }

  /** As the guard of this host says; null: it does not run, or knows nothing of it. */
  stateOf(index: number, name: string): LeaseState | null {
    return this.#statusOf(index, name)?.state ?? null;
  }

  /** As `stateOf`. */
  epochOf(index: number, name: string): number | null {
    return this.#statusOf(index, name)?.epoch ?? null;
  }

  #statusOf(index: number, name: string): LeaseStatus | undefined {
    const guard = this.guards[index];
    const leases = guard?.core?.status(guard.now()).leases ?? [];
    return leases.find((lease) => lease.name === name);
  }

  /** Newest voters that a host has taken. */
  chosenOf(index: number): ChosenConfig | null {
    const guard = this.guards[index];
    return guard?.core?.status(guard.now()).chosen ?? null;
  }
}

function describe(event: CoreEvent): string {
  switch (event.kind) {
    case 'message':
      return `<- h${(event.from.codePointAt(0) ?? 0) - 97} ${text(event.message)}`;
    case 'gate':
      return `gate ${event.name} ${event.result} #${event.token}`;
    case 'command':
      return `command #${event.id} ${JSON.stringify(event.command)}`;
    case 'clock':
      return `clock ${event.what}`;
    case 'daemon':
      return `daemon ${event.isConnected ? 'connected' : 'gone'}`;
    case 'tick':
    case 'desired':
    case 'persisted':
    case 'fenced':
      return event.kind;
  }
}

function text(message: Message): string {
  const parts: string[] = [message.kind];
  for (const [key, value] of Object.entries(message)) {
    if (key === 'kind' || key === 'env') continue;
    if (key === 'ballot') {
      const ballot = value as { counter: number; host: string; session: string };
      parts.push(`b=${ballot.counter}.${ballot.host[0]}.${ballot.session.slice(0, 4)}`);
    } else
      parts.push(`${key}=${typeof value === 'object' ? JSON.stringify(value) : String(value)}`);
  }
  return parts.join(' ');
}

function noticeText(notice: GuardNotice): string {
  return notice.kind === 'event'
    ? `${notice.severity} ${notice.event} ${notice.text}`
    : JSON.stringify(notice);
}
