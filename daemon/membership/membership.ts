/**
 * Who is alive: SWIM with Lifeguard, sans-I/O and synchronous. Read `daemon/docs/membership.md` for what we changed.
 *
 * Each probe interval every node pings the member it has had no sign of for longest. A failed probe makes a suspect, and
 * everybody is told; the suspect refutes with a higher incarnation, or others confirm, and in the end it is dead. Any
 * authenticated frame counts as a sign of life of whoever sent it.
 *
 * Invariants:
 * 1. A member is 'dead' only after it was suspected here first: one word of another node kills nobody.
 * 2. A claim of a lower incarnation changes nothing; 'alive' overrides 'suspect', 'dead' and 'left' only with a higher one.
 * 3. Only the member itself raises its incarnation, and it denies every claim against itself that it hears of.
 * 4. When we ourselves were starved of CPU, no time that passed meanwhile counts against anybody.
 * 5. Members that are not in the roster are neither listed, answered nor spoken about.
 *
 * This file has the schedule and the messages; `beliefs.ts` the rules, `prober.ts` the probes in flight.
 */
import type { NodeId } from '../../crdt/ids.ts';
import type { Liveness } from '../../crdt/model.ts';
import type { Config } from '../config.ts';
import type { Log, Random } from '../ports.ts';
import { Beliefs, claimAbout, isUnknown, type StatusChange } from './beliefs.ts';
import { LocalHealth } from './health.ts';
import { isLive, nextToProbe, sample, type Member } from './member.ts';
import {
  parseBody,
  rumoursPerMessageMax,
  toBody,
  type Message,
  type Rumour,
  type SwimBody,
} from './messages.ts';
import { Prober, type ProbeMessage } from './prober.ts';
import { rumourSendsMax } from './rumours.ts';

export type { StatusChange };

export interface MembershipOptions {
  readonly self: NodeId;
  readonly config: Pick<
    Config,
    | 'probeIntervalMs'
    | 'probeTimeoutMs'
    | 'indirectProbes'
    | 'suspicionTimeoutMsMin'
    | 'suspicionTimeoutMsMax'
  >;
  readonly random: Random;
  readonly log: Log;
  /** To begin with; one that grows with each start spares a refutation after a restart. Default 0. */
  readonly incarnation?: number;
  /** Best effort, to one member; the caller wraps the body in a frame of its own. */
  readonly send: (to: NodeId, body: SwimBody) => void;
  /** Called inside the method that caused it; must not call back into this object except to read. */
  readonly onChange: (change: StatusChange) => void;
}

export interface MemberStatus {
  readonly node: NodeId;
  readonly status: Liveness;
  /** -1: nothing known yet. */
  readonly incarnation: number;
  readonly lastHeardMs: number | null;
  readonly isConnected: boolean;
}

/** Fresh rumours are also pushed, this often and to this many; without any, nothing is sent. */
const gossipIntervalMs = 200;
const gossipFanout = 3;
/** Rumours riding on one probe message. */
const piggybackMax = 6;
/** Somebody is told all (or a sample of) what we believe, in case rumours died out. */
const syncIntervalMs = 30_000;
/** One starvation costs us this much trust in ourselves at most, so that a long pause is not paid for minutes later. */
const starvedHealthMax = 3;

export class Membership {
  readonly #options: MembershipOptions;
  readonly #health = new LocalHealth();
  readonly #beliefs: Beliefs;
  readonly #prober: Prober;
  #hasLeft = false;
  #roundDueMs = Number.POSITIVE_INFINITY;
  #syncDueMs = Number.POSITIVE_INFINITY;
  #gossipDueMs = Number.POSITIVE_INFINITY;
  #gossipedMs = Number.NEGATIVE_INFINITY;
  #nextDeadlineMs = Number.POSITIVE_INFINITY;

  constructor(options: MembershipOptions) {
    this.#options = options;
    const health = this.#health;
    this.#beliefs = new Beliefs({
      ...options,
      incarnation: options.incarnation ?? 0,
      health,
      probe: (member, nowMs) => this.#probe(member, nowMs),
    });
    this.#prober = new Prober({
      config: options.config,
      health,
      send: (to, message) => this.#sendProbe(to, message),
      helpers: (target) => this.#helpers(target),
      isConnected: (target) => this.#beliefs.get(target)?.isConnected ?? false,
      onFailed: (target, nowMs) => this.#onProbeFailed(target, nowMs),
    });
  }

  /** Our own; raised by refutations. */
  get incarnation(): number {
    return this.#beliefs.incarnation;
  }

  /** 0 is healthy, 8 the worst: how far we distrust our own judgement. */
  get healthScore(): number {
    return this.#health.score;
  }

  /** Everybody in the roster; `self` may be among them. The first call starts the clock. */
  setRoster(roster: Iterable<NodeId>, nowMs: number): void {
    const wanted = new Set(roster);
    wanted.delete(this.#options.self);
    for (const { id } of this.#beliefs.members()) {
      if (wanted.has(id)) continue;
      this.#beliefs.remove(id);
      this.#prober.forget(id);
    }
    for (const id of wanted) this.#beliefs.add(id);
    if (this.#roundDueMs === Number.POSITIVE_INFINITY) {
      this.#roundDueMs = nowMs + this.#options.random.next() * this.#options.config.probeIntervalMs;
      this.#syncDueMs = nowMs + this.#options.random.next() * syncIntervalMs;
    }
    this.#settle(nowMs);
  }

  /** A frame of the caller's with our body in it. It counts as heard, too. */
  onFrame(from: NodeId, body: unknown, nowMs: number): void {
    const sender = this.#beliefs.get(from);
    if (sender === undefined || this.#hasLeft) return;
    this.#noticeStarvation(nowMs);
    const message = parseBody(body);
    if (message === null) {
      this.#options.log.warn('membership.rejected', { from });
      return;
    }
    this.#markHeard(sender, nowMs);
    for (const rumour of message.r) this.#beliefs.onRumour(rumour, from, nowMs);
    this.#onMessage(sender, message, nowMs);
    this.#settle(nowMs);
  }

  /** Any authenticated frame of `node` arrived: it was alive when it sent it. */
  heard(node: NodeId, nowMs: number): void {
    const member = this.#beliefs.get(node);
    if (member === undefined || this.#hasLeft) return;
    this.#noticeStarvation(nowMs);
    this.#markHeard(member, nowMs);
    this.#settle(nowMs);
  }

  /** A broken connection is no death, but a reason to look at once. */
  onConnection(node: NodeId, isConnected: boolean, nowMs: number): void {
    const member = this.#beliefs.get(node);
    if (member === undefined) return;
    member.isConnected = isConnected;
    if (this.#hasLeft) return;
    this.#noticeStarvation(nowMs);
    if (isConnected) {
      this.#sendSync(member);
      this.#probe(member, nowMs);
    } else if (isLive(member)) {
      this.#prober.hurry(node, nowMs);
      this.#probe(member, nowMs);
    }
    this.#settle(nowMs);
  }

  /** Does what is due; returns when to call next, which any other method may bring forward: see `nextDeadlineMs`. */
  tick(nowMs: number): number {
    if (this.#hasLeft) return this.#nextDeadlineMs;
    this.#noticeStarvation(nowMs);
    this.#prober.tick(nowMs);
    this.#beliefs.judgeSuspects(nowMs);
    if (nowMs >= this.#roundDueMs) this.#beginRound(nowMs);
    if (nowMs >= this.#gossipDueMs) this.#gossip(nowMs);
    if (nowMs >= this.#syncDueMs) this.#beginSync(nowMs);
    this.#settle(nowMs);
    return this.#nextDeadlineMs;
  }

  /** Monotonic time of the next `tick`; infinite when there is nothing to wait for. */
  nextDeadlineMs(): number {
    return this.#nextDeadlineMs;
  }

  /** 'dead' for members never heard of and for strangers. */
  statusOf(node: NodeId): Liveness {
    if (node === this.#options.self) return this.#hasLeft ? 'left' : 'alive';
    return this.#beliefs.get(node)?.status ?? 'dead';
  }

  /** Local monotonic time of its newest frame; null: none in this run. */
  lastHeardMs(node: NodeId): number | null {
    return this.#beliefs.get(node)?.lastHeardMs ?? null;
  }

  /** Everybody but ourselves, sorted by id. */
  list(): readonly MemberStatus[] {
    return this.#beliefs.sorted().map(({ id, status, incarnation, lastHeardMs, isConnected }) => ({
      node: id,
      status,
      incarnation,
      lastHeardMs,
      isConnected,
    }));
  }

  /** Tells live members (a sample of a large roster) that we go, and falls silent for good. */
  leave(nowMs: number): void {
    if (this.#hasLeft) return;
    this.#noticeStarvation(nowMs);
    const farewell = this.#beliefs.leave();
    for (const member of sample(
      this.#beliefs.reachable(),
      rumoursPerMessageMax,
      this.#options.random,
    )) {
      this.#send(member.id, { k: 'gossip', r: [farewell] });
    }
    this.#hasLeft = true;
    this.#prober.clear();
    this.#nextDeadlineMs = Number.POSITIVE_INFINITY;
  }

  // ---- Messages ---------------------------------------------------------------------------------------------------

  #onMessage(sender: Member, message: Message, nowMs: number): void {
    switch (message.k) {
      case 'ping': {
        this.#beliefs.onAlive(sender, message.i);
        const r = this.#piggyback(sender);
        this.#send(sender.id, { k: 'ack', q: message.q, i: this.incarnation, n: null, r });
        break;
      }
      case 'ack':
        this.#onAck(sender, message);
        break;
      case 'ask':
        if (this.#beliefs.get(message.n) !== undefined)
          this.#prober.onAsk(sender.id, message, nowMs);
        break;
      case 'nack':
        this.#prober.onNack(message.q);
        break;
      case 'sync':
        this.#beliefs.onAlive(sender, message.i);
        break;
      case 'gossip':
        break;
    }
  }

  #onAck(sender: Member, message: Extract<Message, { k: 'ack' }>): void {
    if (message.n === null) {
      this.#beliefs.onAlive(sender, message.i);
      this.#prober.onAck(sender.id, message);
      return;
    }
    const target = this.#beliefs.get(message.n);
    if (target === undefined) return;
    this.#beliefs.onAlive(target, message.i);
    this.#prober.onRelayedAck(target.id, message.q);
  }

  #markHeard(member: Member, nowMs: number): void {
    const quietMs = nowMs - (member.lastHeardMs ?? Number.NEGATIVE_INFINITY);
    member.lastHeardMs = nowMs;
    this.#prober.heard(member.id);
    // Somebody we think gone speaks: ask, so that it hears what is said of it and can deny it. Not at every frame.
    if (member.status === 'alive' || quietMs < this.#options.config.probeTimeoutMs) return;
    this.#probe(member, nowMs);
  }

  /** Invariant 4: our own timers are late, so every answer we miss may be waiting in our own queue. */
  #noticeStarvation(nowMs: number): void {
    const lateMs = nowMs - this.#nextDeadlineMs;
    const { probeIntervalMs, probeTimeoutMs } = this.#options.config;
    if (lateMs < probeTimeoutMs) return;
    this.#options.log.info('membership.starved', { lateMs: Math.round(lateMs) });
    this.#health.worsen(Math.min(starvedHealthMax, 1 + Math.floor(lateMs / probeIntervalMs)));
    this.#prober.clear();
    this.#beliefs.extendSuspicions(lateMs, nowMs);
    this.#roundDueMs = Math.max(this.#roundDueMs, nowMs);
    this.#gossipDueMs = Math.max(this.#gossipDueMs, nowMs);
    this.#syncDueMs = Math.max(this.#syncDueMs, nowMs);
    this.#settle(nowMs);
  }

  // ---- Rounds -----------------------------------------------------------------------------------------------------

  #beginRound(nowMs: number): void {
    this.#roundDueMs = nowMs + this.#health.scaled(this.#options.config.probeIntervalMs);
    const next = nextToProbe(this.#beliefs.members(), (id) => this.#prober.isProbing(id));
    if (next !== null) this.#probe(next, nowMs);
  }

  #probe(member: Member, nowMs: number): void {
    member.lastProbedMs = nowMs;
    this.#prober.start(member.id, nowMs, { isJudgingUs: member.status === 'alive' });
  }

  #onProbeFailed(target: NodeId, nowMs: number): void {
    const member = this.#beliefs.get(target);
    if (member === undefined || !isLive(member)) return;
    this.#options.log.debug('membership.probe-failed', {
      node: target,
      health: this.#health.score,
    });
    this.#beliefs.accuse(member, nowMs);
    // While it is suspected it gets every chance to answer.
    this.#probe(member, nowMs);
  }

  #helpers(target: NodeId): readonly NodeId[] {
    const candidates = this.#beliefs
      .reachable()
      .filter(({ id, status }) => id !== target && status === 'alive');
    return sample(candidates, this.#options.config.indirectProbes, this.#options.random).map(
      ({ id }) => id,
    );
  }

  #gossip(nowMs: number): void {
    this.#gossipedMs = nowMs;
    this.#gossipDueMs = Number.POSITIVE_INFINITY;
    for (const member of sample(this.#beliefs.reachable(), gossipFanout, this.#options.random)) {
      const r = this.#piggyback(member);
      if (r.length > 0) this.#send(member.id, { k: 'gossip', r });
    }
  }

  #beginSync(nowMs: number): void {
    this.#syncDueMs = nowMs + syncIntervalMs;
    for (const member of sample(this.#beliefs.reachable(), 1, this.#options.random))
      this.#sendSync(member);
  }

  // ---- Sending ----------------------------------------------------------------------------------------------------

  #sendSync(to: Member): void {
    const known = [...this.#beliefs.members()].filter(
      (member) => member !== to && !isUnknown(member),
    );
    const told = sample(known, rumoursPerMessageMax, this.#options.random);
    this.#send(to.id, {
      k: 'sync',
      i: this.incarnation,
      r: told.map((member) => claimAbout(member)),
    });
  }

  #sendProbe(to: NodeId, message: ProbeMessage): void {
    const member = this.#beliefs.get(to);
    if (member === undefined) return;
    const r = this.#piggyback(member);
    this.#send(
      to,
      message.k === 'ping' ? { ...message, i: this.incarnation, r } : { ...message, r },
    );
  }

  /** Buddy system: whoever is spoken ill of hears it first, from everybody who talks to it. */
  #piggyback(to: Member): Rumour[] {
    const sendsMax = rumourSendsMax(this.#beliefs.size + 1);
    const rest = this.#beliefs.rumours.take({ max: piggybackMax, except: to.id, sendsMax });
    return to.status === 'alive' || isUnknown(to) ? rest : [claimAbout(to), ...rest];
  }

  #send(to: NodeId, message: Message): void {
    this.#options.send(to, toBody(message));
  }

  /** What became due by what just happened is due now, not in the past: see `#noticeStarvation`. */
  #settle(nowMs: number): void {
    if (this.#hasLeft) return;
    if (!this.#beliefs.rumours.isEmpty && this.#gossipDueMs === Number.POSITIVE_INFINITY) {
      this.#gossipDueMs = Math.max(nowMs, this.#gossipedMs + gossipIntervalMs);
    }
    this.#nextDeadlineMs = Math.min(
      this.#roundDueMs,
      this.#syncDueMs,
      this.#gossipDueMs,
      this.#prober.nextDeadlineMs(),
      this.#beliefs.nextDeadlineMs(),
    );
  }
}
