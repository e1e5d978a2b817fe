/**
 * A few guards on one table: messages, gates, disks and clocks in the hands of the test. Everything arrives at once unless a
 * test holds it back.
 */
import { GuardCore } from '../../../daemon/lease/core.ts';
import type {
  CoreEffect,
  CoreEvent,
  CoreStart,
  DurableRecord,
} from '../../../daemon/lease/core-api.ts';
import type {
  GuardCommand,
  GuardDesired,
  GuardNotice,
  GuardReply,
  LeaseDesired,
} from '../../../daemon/lease/guard-api.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import type { ChosenConfig, Instant } from '../../../daemon/lease/model.ts';
import type { HostId, NodeId } from '../../../crdt/ids.ts';
import type { Random } from '../../../daemon/ports.ts';

export const env = 'prod';
export const db = 'service/prod/db';

export function hostId(index: number): HostId {
  return String.fromCharCode(97 + index).repeat(32) as HostId;
}

export function leaseOf(changes: Partial<LeaseDesired> = {}): LeaseDesired {
  return {
    name: db,
    title: 'service db',
    profile: 'fast',
    onLoss: 'stop',
    candidates: [],
    mayAcquire: true,
    why: '',
    isFrozen: false,
    gate: 'db',
    traffic: ['10.0.0.2'],
    fence: 'none',
    fenceCommand: [],
    lockDelayMs: 0,
    onDaemonDown: 'stay',
    ...changes,
  };
}

export function chosenOf(voters: readonly HostId[], changes = {}): ChosenConfig {
  const config = {
    env,
    n: 0,
    prevHash: '',
    generation: 0,
    voters,
    ttlMsMax: 5_000,
    floors: [],
    floorRest: 0,
    ...changes,
  };
  return { config, electorate: [], votes: [] };
}

export class SeededRandom implements Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  bytes(count: number): Uint8Array {
    return Uint8Array.from({ length: count }, () => Math.floor(this.next() * 256));
  }
}

type GateEffect = Extract<CoreEffect, { kind: 'gate' }>;

/** One host: a guard, its disk, its gates. */
export class Bench {
  core: GuardCore;
  readonly self: HostId;
  readonly world: BenchWorld;
  durable: DurableRecord[];
  readonly notices: GuardNotice[] = [];
  readonly replies = new Map<number, GuardReply>();
  readonly effects: CoreEffect[] = [];
  /** What the test answers by hand. */
  readonly heldGates: GateEffect[] = [];
  readonly heldWrites: Extract<CoreEffect, { kind: 'persist' }>[] = [];
  isGateHeld = false;
  isDiskHeld = false;
  isAlive = true;
  /** Added to the world's time. */
  skewMs = 0;
  readonly clearAnswers: ('empty' | 'populated')[] = [];
  gate: 'frozen' | 'open' = 'frozen';
  isPopulated = false;
  desired: GuardDesired | null = null;
  #command = 0;

  constructor(world: BenchWorld, self: HostId, durable: DurableRecord[]) {
    this.world = world;
    this.self = self;
    this.durable = durable;
    this.core = this.#make(null, true);
  }

  now(): Instant {
    const at = this.world.nowMs + this.skewMs;
    return { monoMs: at, authorityMs: at };
  }

  #make(volatile: unknown, isFreshBoot: boolean): GuardCore {
    const start: CoreStart = {
      self: this.self,
      env,
      durable: this.durable,
      volatile,
      bootMonoMs: -1e6,
      isFreshBoot,
    };
    return new GuardCore(start, this.world.random, this.now());
  }

  /** kill -9 and a new process; with what it kept in memory files, or without. */
  restart(options: { readonly isIntact: boolean; readonly isFreshBoot?: boolean }): void {
    const kept = options.isIntact
      ? (JSON.parse(JSON.stringify(this.core.volatileState())) as unknown)
      : null;
    this.durable = JSON.parse(JSON.stringify(this.durable)) as DurableRecord[];
    this.core = this.#make(kept, options.isFreshBoot ?? false);
    this.heldGates.length = 0;
    this.heldWrites.length = 0;
    this.isAlive = true;
    if (options.isFreshBoot) {
      this.gate = 'frozen';
      this.isPopulated = false;
    }
    if (this.desired) this.event({ kind: 'desired', desired: this.desired });
  }

  event(event: CoreEvent): readonly CoreEffect[] {
    const effects = this.core.handle(event, this.now());
    this.#carryOut(effects);
    return effects;
  }

  #carryOut(effects: readonly CoreEffect[]): void {
    for (const effect of effects) {
      this.effects.push(effect);
      switch (effect.kind) {
        case 'send':
          this.world.send(this.self, effect.to, effect.message);
          break;
        case 'persist':
          if (this.isDiskHeld) this.heldWrites.push(effect);
          else this.finishWrite(effect);
          break;
        case 'gate':
          if (this.isGateHeld) this.heldGates.push(effect);
          else this.answerGate(effect);
          break;
        case 'reply':
          this.replies.set(effect.id, effect.reply);
          break;
        case 'notice':
          this.notices.push(effect.notice);
          break;
        case 'lease-file':
        case 'traffic':
        case 'fence':
      }
    }
  }

  finishWrite(effect: Extract<CoreEffect, { kind: 'persist' }>): void {
    this.durable.push(...effect.records);
    this.world.later(() => {
      this.event({ kind: 'persisted', token: effect.token });
      this.#carryOut(effect.then);
    });
  }

  answerGate(effect: GateEffect): void {
    const { name, token, act } = effect;
    let result: 'frozen' | 'open' | 'empty' | 'populated' = 'frozen';
    if (act === 'freeze') this.gate = 'frozen';
    if (act === 'thaw') {
      this.gate = 'open';
      result = 'open';
    }
    if (act === 'clear') {
      this.gate = 'frozen';
      result = this.clearAnswers.shift() ?? 'empty';
      if (result === 'empty') this.isPopulated = false;
    }
    this.world.later(() => this.event({ kind: 'gate', name, token, result }));
  }

  desire(changes: Partial<GuardDesired>): void {
    this.desired = { ...this.world.desired(this.self), ...this.desired, ...changes };
    this.event({ kind: 'desired', desired: this.desired });
  }

  command(command: GuardCommand): number {
    const id = ++this.#command;
    this.event({ kind: 'command', id, command });
    return id;
  }

  lease(name = db) {
    return this.core.status(this.now()).leases.find((lease) => lease.name === name)!;
  }

  noticesOf(kind: GuardNotice['kind']): readonly GuardNotice[] {
    return this.notices.filter((notice) => notice.kind === kind);
  }
}

export interface Flight {
  readonly from: HostId;
  readonly to: HostId;
  readonly message: Message;
}

export class BenchWorld {
  nowMs = 100_000;
  readonly random = new SeededRandom(7);
  readonly hosts: Bench[] = [];
  readonly ids: readonly HostId[];
  leases: LeaseDesired[];
  chosen: ChosenConfig;
  /** True: the message is lost. */
  lose: (flight: Flight) => boolean = () => false;
  /** True: kept for `deliver`. */
  park: (flight: Flight) => boolean = () => false;
  readonly parked: Flight[] = [];
  /** Everything that was sent. */
  readonly sent: Flight[] = [];
  readonly #queue: (() => void)[] = [];

  constructor(options: {
    readonly hosts: number;
    readonly voters?: number;
    readonly lease?: Partial<LeaseDesired>;
    readonly chosen?: object;
  }) {
    this.ids = Array.from({ length: options.hosts }, (_, index) => hostId(index));
    const voters = this.ids.slice(0, options.voters ?? options.hosts);
    this.chosen = chosenOf(voters, options.chosen);
    this.leases = [leaseOf({ candidates: this.ids, ...options.lease })];
    for (const id of this.ids)
      this.hosts.push(new Bench(this, id, [{ kind: 'chosen', chosen: this.chosen }]));
    for (const host of this.hosts) host.event({ kind: 'daemon', isConnected: true });
  }

  desired(self: HostId): GuardDesired {
    return {
      v: 1,
      clusterId: 'c'.repeat(32),
      cluster8: 'cccccccc',
      env,
      self,
      peers: this.ids.map((host) => ({
        host,
        name: host.slice(0, 4),
        node: host as unknown as NodeId,
        addresses: [],
      })),
      leases: this.leases,
      chosen: null,
      isFounder: false,
      votersWanted: null,
      isFrozen: false,
      failingProbes: [],
      isWitness: false,
    };
  }

  /** Tells every guard what is wanted. */
  begin(): this {
    for (const host of this.hosts) host.desire({});
    this.settle();
    return this;
  }

  send(from: HostId, to: HostId, message: Message): void {
    const flight = { from, to, message };
    this.sent.push(flight);
    if (this.lose(flight)) return;
    if (this.park(flight)) this.parked.push(flight);
    else this.later(() => this.deliver(flight));
  }

  deliver(flight: Flight): void {
    const host = this.hosts.find((each) => each.self === flight.to);
    if (host?.isAlive) host.event({ kind: 'message', from: flight.from, message: flight.message });
  }

  later(act: () => void): void {
    this.#queue.push(act);
  }

  /** Until nothing is under way. */
  settle(): void {
    for (let count = 0; this.#queue.length > 0; count++) {
      if (count > 100_000) throw new Error('it never comes to rest');
      this.#queue.shift()!();
    }
  }

  /** Ticks every guard that lives whenever it asks to be woken. */
  run(forMs: number): void {
    const endMs = this.nowMs + forMs;
    this.settle();
    for (;;) {
      let next = endMs;
      for (const host of this.hosts)
        if (host.isAlive) next = Math.min(next, host.core.nextDeadlineMs() - host.skewMs);
      this.nowMs = Math.max(this.nowMs, Math.min(next, endMs));
      for (const host of this.hosts)
        if (host.isAlive && host.core.nextDeadlineMs() <= host.now().monoMs)
          host.event({ kind: 'tick' });
      this.settle();
      if (this.nowMs >= endMs) return;
    }
  }

  runUntil(check: () => boolean, withinMs: number): number {
    const startMs = this.nowMs;
    while (!check()) {
      if (this.nowMs - startMs >= withinMs) throw new Error(`not within ${withinMs} ms`);
      this.run(1);
    }
    return this.nowMs - startMs;
  }

  holder(name = db): Bench | null {
    const holders = this.hosts.filter(
      (host) => host.isAlive && host.lease(name)?.state === 'active',
    );
    if (holders.length > 1) throw new Error('two holders');
    return holders[0] ?? null;
  }
}
