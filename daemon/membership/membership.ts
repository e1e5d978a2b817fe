/**
 * Who is alive: SWIM with Lifeguard, sans-I/O and synchronous. Read `daemon/docs/membership.md` for what we changed.
 *
 * Each probe interval every node pings the member it has had no sign of for longest. A failed probe makes a suspect, and
 * everybody is told; the suspect refutes with a higher incarnation, or others confirm, and in the end it is dead. Any
 * authenticated frame counts as a sign of life of whoever sent it.
 *
 * Invariants:
 * 1. A member is 'dead' only after its own suspicion here has run out: one word of another node kills nobody.
 * 2. A claim of a lower incarnation changes nothing; 'alive' overrides 'suspect', 'dead' and 'left' only with a higher one.
 * 3. Only the member itself raises its incarnation, and it denies every claim against itself that it hears of.
 * 4. When we ourselves were starved of CPU, no time that passed meanwhile counts against anybody.
 * 5. Members that are not in the roster are neither listed, answered nor spoken about.
 */
import { compareText } from '../../crdt/codec.ts';
import type { NodeId } from '../../crdt/ids.ts';
import type { Liveness } from '../../crdt/model.ts';
import type { Config } from '../config.ts';
import type { Log, Random } from '../ports.ts';
import { LocalHealth } from './health.ts';
import { isLive, neverHeard, newMember, nextToProbe, sample, type Member } from './member.ts';
import {
  parseBody,
  rumoursPerMessageMax,
  toBody,
  type Message,
  type Rumour,
  type SwimBody,
} from './messages.ts';
import { Prober, type ProbeMessage } from './prober.ts';
import { RumourQueue, rumourSendsMax } from './rumours.ts';
import { confirmed, deadlineMs, suspicionScale } from './suspicion.ts';

export interface StatusChange {
  readonly node: NodeId;
  readonly was: Liveness;
  readonly status: Liveness;
  readonly incarnation: number;
}

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
/** How many others must agree before the shortest suspicion holds ("k" in Lifeguard). */
const confirmationsWantedMax = 2;
/** One starvation costs us this much trust in ourselves at most, so that a long pause is not paid for minutes later. */
const starvedHealthMax = 3;
/** A suspicion is checked by about this many members themselves, however large the roster. */
const checkersWanted = 8;

export class Membership {
  readonly #options: MembershipOptions;
  readonly #members = new Map<NodeId, Member>();
  readonly #suspects = new Set<Member>();
  readonly #health = new LocalHealth();
  readonly #rumours = new RumourQueue();
  readonly #prober: Prober;
  #incarnation: number;
  #hasLeft = false;
  #roundDueMs = Number.POSITIVE_INFINITY;
  #syncDueMs = Number.POSITIVE_INFINITY;
  #gossipedMs = Number.NEGATIVE_INFINITY;
  #gossipDueMs = Number.POSITIVE_INFINITY;
  #nextDeadlineMs = Number.POSITIVE_INFINITY;

  constructor(options: MembershipOptions) {
    this.#options = options;
    this.#incarnation = options.incarnation ?? 0;
    this.#prober = new Prober({
      config: options.config,
      health: this.#health,
      send: (to, message) => this.#sendProbe(to, message),
      helpers: (target) => this.#helpers(target),
      isConnected: (target) => this.#members.get(target)?.isConnected ?? false,
      onFailed: (target, nowMs) => this.#onProbeFailed(target, nowMs),
    });
  }

  /** Raised by refutations. */
  get incarnation(): number {
    return this.#incarnation;
  }

  /** 0 is healthy, 8 the worst: how far we distrust our own judgement. */
  get healthScore(): number {
    return this.#health.score;
  }

  /** Everybody in the roster; `self` may be among them. The first call starts the clock. */
  setRoster(roster: Iterable<NodeId>, nowMs: number): void {
    const wanted = new Set(roster);
    wanted.delete(this.#options.self);
    for (const id of this.#members.keys()) if (!wanted.has(id)) this.#remove(id);
    for (const id of wanted) {
      if (!this.#members.has(id)) this.#members.set(id, newMember(id, nowMs, this.#options.random));
    }
    if (this.#roundDueMs === Number.POSITIVE_INFINITY && !this.#hasLeft) {
      this.#roundDueMs = nowMs + this.#options.random.next() * this.#options.config.probeIntervalMs;
      this.#syncDueMs = nowMs + this.#options.random.next() * syncIntervalMs;
    }
    this.#settle(nowMs);
  }

  /** A frame of the caller's with our body in it. It counts as heard, too. */
  onFrame(from: NodeId, body: unknown, nowMs: number): void {
    const sender = this.#members.get(from);
    if (sender === undefined || this.#hasLeft) return;
    this.#noticeStarvation(nowMs);
    const message = parseBody(body);
    if (message === null) {
      this.#options.log.warn('membership.rejected', { from });
      return;
    }
    this.#markHeard(sender, nowMs);
    for (const rumour of message.r) this.#onRumour(rumour, from, nowMs);
    this.#onMessage(sender, message, nowMs);
    this.#settle(nowMs);
  }

  /** Any authenticated frame of `node` arrived: it was alive when it sent it. */
  heard(node: NodeId, nowMs: number): void {
    const member = this.#members.get(node);
    if (member === undefined || this.#hasLeft) return;
    this.#noticeStarvation(nowMs);
    this.#markHeard(member, nowMs);
    this.#settle(nowMs);
  }

  /** A broken connection is no death, but a reason to look at once. */
  onConnection(node: NodeId, isConnected: boolean, nowMs: number): void {
    const member = this.#members.get(node);
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
    this.#judgeSuspects(nowMs);
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
    return this.#members.get(node)?.status ?? 'dead';
  }

  /** Local monotonic time of its newest frame; null: none in this run. */
  lastHeardMs(node: NodeId): number | null {
    return this.#members.get(node)?.lastHeardMs ?? null;
  }

  /** Everybody but ourselves, sorted by id. */
  list(): readonly MemberStatus[] {
    return [...this.#members.values()]
      .sort((a, b) => compareText(a.id, b.id))
      .map(({ id, status, incarnation, lastHeardMs, isConnected }) => ({
        node: id,
        status,
        incarnation,
        lastHeardMs,
        isConnected,
      }));
  }

  /** Tells some live members that we go, and falls silent. */
  leave(nowMs: number): void {
    if (this.#hasLeft) return;
    this.#noticeStarvation(nowMs);
    this.#incarnation++;
    const farewell: Rumour = {
      node: this.#options.self,
      status: 'left',
      incarnation: this.#incarnation,
      from: null,
    };
    for (const member of sample(this.#reachable(), rumoursPerMessageMax, this.#options.random)) {
      this.#send(member.id, { k: 'gossip', r: [farewell] });
    }
    this.#hasLeft = true;
    this.#prober.clear();
    this.#nextDeadlineMs = Number.POSITIVE_INFINITY;
  }

  // ---- What others say --------------------------------------------------------------------------------------------

  #onMessage(sender: Member, message: Message, nowMs: number): void {
    switch (message.k) {
      case 'ping':
        this.#believeAlive(sender, message.i, nowMs);
        this.#send(sender.id, {
          k: 'ack',
          q: message.q,
          i: this.#incarnation,
          n: null,
          r: this.#piggyback(sender),
        });
        break;
      case 'ack':
        this.#onAck(sender, message, nowMs);
        break;
      case 'ask':
        if (this.#members.has(message.n)) this.#prober.onAsk(sender.id, message, nowMs);
        break;
      case 'nack':
        this.#prober.onNack(message.q);
        break;
      case 'sync':
        this.#believeAlive(sender, message.i, nowMs);
        break;
      case 'gossip':
        break;
    }
  }

  #onAck(sender: Member, message: Extract<Message, { k: 'ack' }>, nowMs: number): void {
    if (message.n === null) {
      this.#believeAlive(sender, message.i, nowMs);
      this.#prober.onAck(sender.id, message);
      return;
    }
    const target = this.#members.get(message.n);
    if (target === undefined) return;
    this.#believeAlive(target, message.i, nowMs);
    this.#prober.onRelayedAck(target.id, message.q);
  }

  #onRumour(rumour: Rumour, teller: NodeId, nowMs: number): void {
    if (rumour.node === this.#options.self) {
      this.#onRumourAboutUs(rumour);
      return;
    }
    const member = this.#members.get(rumour.node);
    if (member === undefined) return;
    switch (rumour.status) {
      case 'alive':
        this.#believeAlive(member, rumour.incarnation, nowMs);
        break;
      case 'suspect':
        this.#believeSuspect(member, rumour.incarnation, rumour.from ?? teller, nowMs);
        break;
      case 'dead':
        this.#believeDead(member, rumour, rumour.from ?? teller, nowMs);
        break;
      case 'left':
        if (rumour.incarnation >= member.incarnation)
          this.#become(member, 'left', rumour.incarnation, nowMs);
        break;
    }
  }

  /** We deny what is said against us; a higher incarnation of ours is from a former life, and we go on from there. */
  #onRumourAboutUs(rumour: Rumour): void {
    if (rumour.incarnation < this.#incarnation) return;
    this.#incarnation = rumour.incarnation;
    if (rumour.status === 'alive') return;
    this.#incarnation++;
    if (rumour.status === 'suspect') this.#health.worsen(1);
    this.#options.log.info('membership.refuted', {
      status: rumour.status,
      incarnation: this.#incarnation,
    });
    this.#rumours.add({
      node: this.#options.self,
      status: 'alive',
      incarnation: this.#incarnation,
      from: null,
    });
  }

  #believeAlive(member: Member, incarnation: number, nowMs: number): void {
    if (incarnation > member.incarnation) this.#become(member, 'alive', incarnation, nowMs);
  }

  #believeSuspect(member: Member, incarnation: number, by: NodeId, nowMs: number): void {
    if (incarnation < member.incarnation) return;
    if (member.status === 'suspect' && incarnation === member.incarnation) {
      this.#confirm(member, by);
      return;
    }
    // At the same incarnation only the living can be suspected; at a higher one it must have lived since.
    if (member.status !== 'alive' && incarnation === member.incarnation) return;
    this.#suspect(member, incarnation, by, nowMs);
    if (by !== this.#options.self) this.#checkOurselves(member, nowMs);
  }

  /** Invariant 1: a death that is news to us is only one more accusation. */
  #believeDead(member: Member, rumour: Rumour, by: NodeId, nowMs: number): void {
    const { incarnation } = rumour;
    if (incarnation < member.incarnation) return;
    if (!isLive(member)) {
      if (member.status === 'dead') member.incarnation = Math.max(member.incarnation, incarnation);
      return;
    }
    const { suspicion } = member;
    if (suspicion === null || incarnation > member.incarnation) {
      this.#believeSuspect(member, incarnation, by, nowMs);
      return;
    }
    if (this.#hasSignSince(member, suspicion.sinceMs)) this.#probe(member, nowMs);
    else this.#become(member, 'dead', incarnation, nowMs);
  }

  // ---- Suspicion --------------------------------------------------------------------------------------------------

  #onProbeFailed(target: NodeId, nowMs: number): void {
    const member = this.#members.get(target);
    if (member === undefined || !isLive(member)) return;
    member.isAccusedByUs = true;
    this.#options.log.debug('membership.probe-failed', {
      node: target,
      health: this.#health.score,
    });
    this.#believeSuspect(member, member.incarnation, this.#options.self, nowMs);
    // While it is suspected it gets every chance to answer.
    this.#probe(member, nowMs);
  }

  #suspect(member: Member, incarnation: number, accuser: NodeId, nowMs: number): void {
    const scale = suspicionScale(this.#liveCount());
    // Those who could agree: all the living but the suspect and its accuser.
    const witnesses = this.#liveCount() - (isLive(member) ? 1 : 0) - 1;
    this.#become(member, 'suspect', incarnation, nowMs, accuser);
    member.suspicion = {
      sinceMs: nowMs,
      accuser,
      confirmedBy: new Set(),
      confirmationsWanted: Math.max(0, Math.min(confirmationsWantedMax, witnesses)),
      minMs: this.#options.config.suspicionTimeoutMsMin * scale,
      maxMs: this.#options.config.suspicionTimeoutMsMax * scale,
    };
    this.#suspects.add(member);
  }

  #confirm(member: Member, by: NodeId): void {
    const { suspicion } = member;
    const next = suspicion === null ? null : confirmed(suspicion, by);
    if (next === null) return;
    member.suspicion = next;
    // Others count this confirmation too.
    this.#rumours.add({
      node: member.id,
      status: 'suspect',
      incarnation: member.incarnation,
      from: by,
    });
  }

  /** We are told that somebody is silent: look for ourselves. In a large roster only some do. */
  #checkOurselves(member: Member, nowMs: number): void {
    const { random } = this.#options;
    if (random.next() * this.#members.size < checkersWanted) this.#probe(member, nowMs);
  }

  #judgeSuspects(nowMs: number): void {
    for (const member of this.#suspects) {
      const { suspicion } = member;
      if (suspicion === null || deadlineMs(suspicion) > nowMs) continue;
      if (this.#hasSignSince(member, suspicion.sinceMs)) {
        // It sends, but has not denied it: our word may not have reached it. Once more, as long as the signs are fresh.
        member.suspicion = { ...suspicion, sinceMs: nowMs };
        this.#probe(member, nowMs);
      } else {
        this.#become(member, 'dead', member.incarnation, nowMs, this.#options.self);
      }
    }
  }

  #hasSignSince(member: Member, sinceMs: number): boolean {
    return member.lastHeardMs !== null && member.lastHeardMs > sinceMs;
  }

  // ---- Signs of life ----------------------------------------------------------------------------------------------

  #markHeard(member: Member, nowMs: number): void {
    const wasQuietMs = nowMs - (member.lastHeardMs ?? Number.NEGATIVE_INFINITY);
    member.lastHeardMs = nowMs;
    this.#prober.heard(member.id);
    // Somebody we think gone speaks: ask, so that it hears what is said of it and can deny it. Not at every frame.
    if (member.status === 'alive' || wasQuietMs < this.#options.config.probeTimeoutMs) return;
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
    for (const member of this.#suspects) {
      if (member.suspicion === null) continue;
      const sinceMs = Math.max(
        member.suspicion.sinceMs + lateMs,
        nowMs - member.suspicion.minMs / 2,
      );
      member.suspicion = { ...member.suspicion, sinceMs };
    }
    this.#roundDueMs = Math.max(this.#roundDueMs, nowMs);
    this.#settle(nowMs);
  }

  // ---- Rounds -----------------------------------------------------------------------------------------------------

  #beginRound(nowMs: number): void {
    this.#roundDueMs = nowMs + this.#health.scaled(this.#options.config.probeIntervalMs);
    const next = nextToProbe(this.#members.values(), (id) => this.#prober.isProbing(id));
    if (next !== null) this.#probe(next, nowMs);
  }

  #probe(member: Member, nowMs: number): void {
    member.lastProbedMs = nowMs;
    this.#prober.start(member.id, nowMs, { isJudgingUs: member.status === 'alive' });
  }

  #gossip(nowMs: number): void {
    this.#gossipedMs = nowMs;
    this.#gossipDueMs = Number.POSITIVE_INFINITY;
    for (const member of sample(this.#reachable(), gossipFanout, this.#options.random)) {
      const r = this.#piggyback(member);
      if (r.length > 0) this.#send(member.id, { k: 'gossip', r });
    }
  }

  #beginSync(nowMs: number): void {
    this.#syncDueMs = nowMs + syncIntervalMs;
    for (const member of sample(this.#reachable(), 1, this.#options.random)) this.#sendSync(member);
  }

  #sendSync(to: Member): void {
    const known = [...this.#members.values()].filter(
      (member) => member !== to && member.incarnation > neverHeard,
    );
    const told = sample(known, rumoursPerMessageMax, this.#options.random);
    this.#send(to.id, {
      k: 'sync',
      i: this.#incarnation,
      r: told.map((member) => claimAbout(member)),
    });
  }

  // ---- Small things -----------------------------------------------------------------------------------------------

  #become(
    member: Member,
    status: Liveness,
    incarnation: number,
    nowMs: number,
    by: NodeId | null = null,
  ): void {
    const was = member.status;
    const isNews = status !== was || incarnation > member.incarnation;
    member.incarnation = incarnation;
    if (status !== 'suspect') {
      member.suspicion = null;
      member.isAccusedByUs = false;
      this.#suspects.delete(member);
    }
    if (isNews) this.#rumours.add({ node: member.id, status, incarnation, from: by });
    if (status === was) return;
    member.status = status;
    member.sinceMs = nowMs;
    this.#options.log.info(statusEvents[status], { node: member.id, incarnation });
    this.#options.onChange({ node: member.id, was, status, incarnation });
  }

  #remove(id: NodeId): void {
    const member = this.#members.get(id);
    if (member !== undefined) this.#suspects.delete(member);
    this.#members.delete(id);
    this.#prober.forget(id);
    this.#rumours.forget(id);
  }

  /** Live members including ourselves. */
  #liveCount(): number {
    let count = 1;
    for (const member of this.#members.values()) if (isLive(member)) count++;
    return count;
  }

  #reachable(): Member[] {
    return [...this.#members.values()].filter((member) => isLive(member) && member.isConnected);
  }

  #helpers(target: NodeId): readonly NodeId[] {
    const candidates = this.#reachable().filter(
      (member) => member.id !== target && member.status === 'alive',
    );
    return sample(candidates, this.#options.config.indirectProbes, this.#options.random).map(
      (member) => member.id,
    );
  }

  #sendProbe(to: NodeId, message: ProbeMessage): void {
    const member = this.#members.get(to);
    if (member === undefined) return;
    const r = this.#piggyback(member);
    this.#send(
      to,
      message.k === 'ping' ? { ...message, i: this.#incarnation, r } : { ...message, r },
    );
  }

  /** Buddy system: whoever is spoken ill of hears it first, from everybody who talks to it. */
  #piggyback(to: Member): Rumour[] {
    const sendsMax = rumourSendsMax(this.#members.size + 1);
    const rest = this.#rumours.take({ max: piggybackMax, except: to.id, sendsMax });
    const mustKnow = to.status !== 'alive' && to.incarnation > neverHeard;
    return mustKnow ? [claimAbout(to), ...rest] : rest;
  }

  #send(to: NodeId, message: Message): void {
    this.#options.send(to, toBody(message));
  }

  /** What became due by what just happened is due now, not in the past: see `#noticeStarvation`. */
  #settle(nowMs: number): void {
    if (this.#hasLeft) return;
    if (!this.#rumours.isEmpty && this.#gossipDueMs === Number.POSITIVE_INFINITY) {
      this.#gossipDueMs = Math.max(nowMs, this.#gossipedMs + gossipIntervalMs);
    }
    let nextMs = Math.min(
      this.#roundDueMs,
      this.#syncDueMs,
      this.#gossipDueMs,
      this.#prober.nextDeadlineMs(),
    );
    for (const { suspicion } of this.#suspects) {
      if (suspicion !== null) nextMs = Math.min(nextMs, deadlineMs(suspicion));
    }
    this.#nextDeadlineMs = nextMs;
  }
}

const statusEvents = {
  alive: 'membership.alive',
  suspect: 'membership.suspect',
  dead: 'membership.dead',
  left: 'membership.left',
} as const satisfies Record<Liveness, string>;

function claimAbout(member: Member): Rumour {
  return {
    node: member.id,
    status: member.status,
    incarnation: member.incarnation,
    from: member.suspicion?.accuser ?? null,
  };
}
