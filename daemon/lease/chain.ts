/**
 * The chain of voters of one environment: which hosts' acceptors count, decided by the ones that counted before.
 *
 * Ordinary single-decree Paxos, durable, once per link: the voters of link n choose link n + 1. See `chain-voter.ts` for
 * what a voter may grant and `voter-config.ts` for what a link may change. `daemon/docs/leases.md` says why.
 *
 * For the hub:
 * - `start` first, and again after the host was suspended: every wait begins anew.
 * - A link takes effect when its `persist` was reported (`persisted`), not before: until then `current()` is the old one.
 * - Volatile state that was saved under another generation must not be resumed: it is lost, with silence and a new session.
 * - Every method returns effects that must be carried out in order.
 */
import { compareText } from '../../crdt/codec.ts';
import type { HostId } from '../../crdt/ids.ts';
import type { Random } from '../ports.ts';
import { ChainProposer } from './chain-proposer.ts';
import type { Goal, Moves } from './chain-proposer.ts';
import { ChainVoter } from './chain-voter.ts';
import type { Vote } from './chain-voter.ts';
import type { CoreEffect, DurableRecord } from './core-api.ts';
import { readChainState } from './fields.ts';
import type {
  ChainAccept,
  ChainAccepted,
  ChainPrepare,
  ChainPromise,
  ConfigAsk,
  ConfigNews,
  ConfigRef,
} from './messages.ts';
import type { ChosenConfig, Epoch, Instant, LeaseFloor } from './model.ts';
import {
  chosenFault,
  compareRefs,
  configHash,
  firstConfig,
  isSortedSet,
  nextVoters,
  noLink,
  refOf,
} from './voter-config.ts';
import { VoterMemory, remembersAgain } from './voter-memory.ts';

export const chainTimes = Object.freeze({
  /** News to one peer at most so often. */
  newsMs: 50,
  /** Who chose a link tells the others so often, so many times. */
  announceMs: 500,
  announceTimes: 4,
  /** While a force waits, survivors are asked so often for newer links. */
  forceAskMs: 1_000,
  /** A force that the survivors have not answered for so long after its wait is given up. */
  forceMs: 60_000,
  /** A link whose record was not reported durable for so long is taken anew. */
  persistMs: 5_000,
});

/** Waiting reports of `persist`, and peers told of late: the oldest are dropped. */
const pendingMax = 64;
const toldMax = 256;

export type ChainMessage =
  | ChainPrepare
  | ChainPromise
  | ChainAccept
  | ChainAccepted
  | ConfigNews
  | ConfigAsk;

/** A link took effect. */
export interface Adoption {
  readonly chosen: ChosenConfig;
  readonly previous: ChosenConfig | null;
  /**
   * The link came from a force in which this host had no part: whoever forced it took this host for dead. Every lease
   * held here must be fenced at once, and the acceptor must forget records and promises (epochs stay).
   */
  readonly mustDrop: boolean;
  /** What this voter had forgotten counts no more: it votes again, and what is left of the time before is void. */
  readonly endsLoss: boolean;
}

/** What the chain needs of the hub. */
export interface ChainPorts {
  /** Highest epochs this acceptor has accepted or was told to respect, with their owners. */
  floors(): { readonly floors: readonly LeaseFloor[]; readonly rest: Epoch };
  /** Raise where lower; never lowers. Called at start and before `adopted`. */
  raiseFloors(floors: readonly LeaseFloor[], rest: Epoch): void;
  /** A new token for a `persist`; the hub hands the `persisted` event with it to `Chain.persisted`. */
  token(): number;
  /** A silent acceptor does not vote. */
  isSilent(now: Instant): boolean;
  /**
   * It keeps a lease parked: it votes for no step, only for a force. A park has no end of its own, so the voters that keep
   * it must not be exchanged under it one by one. Absent: no.
   */
  keepsPark?(): boolean;
  /**
   * Voters are about to be forced, and new voters will not know what this host has parked: it is ended now. False while any
   * of it may still run: then this host does not take part yet. Absent: nothing is parked.
   */
  endsParks?(): boolean;
  /** Called when a link has taken effect; what it returns is carried out after what the chain does. */
  adopted(adoption: Adoption, now: Instant): readonly CoreEffect[];
}

export interface ChainOptions {
  readonly self: HostId;
  readonly env: string;
  readonly durable: readonly DurableRecord[];
  readonly random: Random;
  /** Makes link 0 of itself at `start` when no link is known; `found` does it later. */
  readonly isFounder: boolean;
  readonly ports: ChainPorts;
}

/** `reason` completes "was not forced: ...". */
export type ForceAnswer =
  | { readonly isOk: true; readonly waitMs: number; readonly effects: readonly CoreEffect[] }
  | { readonly isOk: false; readonly reason: string };

export class Chain {
  readonly #self: HostId;
  readonly #env: string;
  readonly #isFounder: boolean;
  readonly #ports: ChainPorts;
  readonly #voter: ChainVoter;
  readonly #memory: VoterMemory;
  readonly #proposer: ChainProposer;
  #chosen: ChosenConfig | null = null;
  /** On its way to the disk. */
  #entering: { readonly chosen: ChosenConfig; readonly sinceMs: number } | null = null;
  #wanted: readonly HostId[] | null = null;
  #wantedTtlMs: number | null = null;
  #force: Force | null = null;
  #announcement: Announcement | null = null;
  readonly #pending = new Map<number, (now: Instant) => CoreEffect[]>();
  readonly #toldMs = new Map<HostId, number>();
  #alarm = '';

  constructor(options: ChainOptions) {
    this.#self = options.self;
    this.#env = options.env;
    this.#isFounder = options.isFounder;
    this.#ports = options.ports;
    const found = readDurable(options.durable, options.env);
    this.#chosen = found.chosen;
    this.#voter = new ChainVoter({ self: options.self, ...found });
    this.#memory = new VoterMemory(options.durable, options.env);
    this.#proposer = new ChainProposer({
      self: options.self,
      random: options.random,
      counter: this.#voter.promisedCounter,
      generation: this.#memory.generation,
    });
  }

  /** Waits begin now. Called once after construction, and again after a suspend. */
  start(now: Instant): CoreEffect[] {
    this.#voter.start(now);
    if (this.#chosen !== null) {
      const { floors, floorRest } = this.#chosen.config;
      this.#ports.raiseFloors(floors, floorRest);
    }
    return this.#isFounder ? this.found(now) : [];
  }

  /** Link 0 of this host alone; nothing when any link is known. Only ever on the founder of the environment. */
  found(now: Instant): CoreEffect[] {
    if (this.#chosen !== null || this.#entering !== null) return [];
    return this.#take(firstConfig(this.#env, this.#self), now);
  }

  /** Null: this host knows no link yet and may neither grant nor ask. */
  current(): ChosenConfig | null {
    return this.#chosen;
  }

  /** Of `current()`; n is -1 when there is none. */
  ref(): ConfigRef {
    if (this.#chosen === null) return { env: this.#env, generation: 0, n: noLink };
    return refOf(this.#chosen.config);
  }

  /** With it others are asked for newer voters. Who forgot names a generation that it had: nobody shall force another of that number. */
  askRef(): ConfigRef {
    const ref = this.ref();
    return { ...ref, generation: Math.max(ref.generation, this.#memory.generation) };
  }

  isVoter(): boolean {
    return this.#chosen?.config.voters.includes(this.#self) ?? false;
  }

  /** `Accepted.isFull`: this voter is about to leave a configuration of two. */
  isFull(): boolean {
    return this.#chosen !== null && this.#voter.isFull(this.#chosen);
  }

  /** This voter has lost what it promised to keep, and is silent until it was let in anew: see `voter-memory.ts`. */
  get hasForgotten(): boolean {
    return this.#memory.isLost;
  }

  /** Longest exclusion that this host may have granted under this link or the one before: what a silence must cover. */
  exclusionMsMax(): number {
    const lostMs = this.#memory.ttlMsMax;
    return this.#chosen === null
      ? lostMs
      : Math.max(lostMs, this.#voter.exclusionMsMax(this.#chosen));
  }

  /**
   * A lease message came under `ref`. True when it is ours; otherwise the effects bring whoever is behind up to date, and the
   * message must be dropped.
   */
  meet(from: HostId, ref: ConfigRef, now: Instant): { isOurs: boolean; effects: CoreEffect[] } {
    if (ref.env !== this.#env) return { isOurs: false, effects: [] };
    const order = compareRefs(ref, this.ref());
    const isOurs = order === 0 && this.#chosen !== null;
    if (isOurs) return { isOurs, effects: [] };
    return { isOurs, effects: order < 0 ? this.#tell(from, now) : this.#askFor(from, now) };
  }

  /** `from` is proven by the channel. Never throws. */
  handle(from: HostId, message: ChainMessage, now: Instant): CoreEffect[] {
    if (message.kind === 'config') return this.#news(from, message.chosen, now);
    if (message.env !== this.#env) return [];
    switch (message.kind) {
      case 'config-ask': {
        this.#proposer.sawGeneration(message.generation);
        const order = compareRefs(message, this.askRef());
        // Whoever asks for the link that it has wants to know whether this voter is there, which it is not.
        if (order === 0 && this.#memory.isLost) return [];
        return [...this.#tell(from, now), ...(order > 0 ? this.#askFor(from, now) : [])];
      }
      case 'chain-prepare':
      case 'chain-accept':
        return this.#vote(from, message, now);
      case 'chain-promise':
        return this.#move(this.#proposer.promise(from, message, now), now);
      case 'chain-accepted':
        return this.#move(this.#proposer.accepted(from, message, now), now);
    }
  }

  /** For every `persisted` event; tokens of others are ignored. */
  persisted(token: number, now: Instant): CoreEffect[] {
    const go = this.#pending.get(token);
    this.#pending.delete(token);
    return go?.(now) ?? [];
  }

  tick(now: Instant): CoreEffect[] {
    const chosen = this.#chosen;
    if (chosen === null) return [];
    const effects = [...this.#store(this.#voter.tick(now)), ...this.#announce(now)];
    effects.push(...this.#tickForce(now));
    effects.push(...this.#move(this.#proposer.tick(chosen, this.#goal(chosen, now), now), now));
    return effects;
  }

  /** Monotonic milliseconds (`Instant.monoMs`) at which `tick` has something to do; Infinity: never. */
  nextDeadlineMs(): number {
    return Math.min(
      this.#proposer.nextDeadlineMs(),
      this.#voter.nextDeadlineMs(),
      this.#announcement?.atMs ?? Infinity,
      this.#force?.askAtMs ?? Infinity,
    );
  }

  /** Drive towards these voters, one step at a time; null: leave them. The caller sees to it that few do this at once. */
  want(target: readonly HostId[] | null, now: Instant): CoreEffect[] {
    this.#wanted = target;
    return this.tick(now);
  }

  /** Drive towards this longest exclusion, as a step of its own before any change of voters; null: leave it. */
  wantTtlMsMax(ttlMsMax: number | null, now: Instant): CoreEffect[] {
    this.#wantedTtlMs = ttlMsMax;
    return this.tick(now);
  }

  /** What gossip or a message brought. Older, equal and impossible links change nothing. */
  adopt(chosen: ChosenConfig, now: Instant): CoreEffect[] {
    if (chosen.config.env !== this.#env) return [];
    const order = compareRefs(chosen.config, this.ref());
    if (order < 0) return [];
    if (order === 0) return this.#compare(chosen);
    const fault = chosenFault(chosen, this.#chosen);
    if (fault !== null) {
      return this.#warn('lease.chain-refused', `voters ${nameOf(chosen)} refused: ${fault}`);
    }
    const { chosen: coming, sinceMs } = this.#entering ?? { chosen: null, sinceMs: 0 };
    const isComing = coming !== null && compareRefs(chosen.config, coming.config) <= 0;
    if (isComing && now.monoMs < sinceMs + chainTimes.persistMs) return [];
    return this.#take(chosen, now);
  }

  /**
   * Survivors become the voters of a new generation, after 2 M. Every other voter must be named dead. Two confirmations
   * are the caller's business. A restart forgets it.
   */
  force(voters: readonly HostId[], assertDead: readonly HostId[], now: Instant): ForceAnswer {
    const chosen = this.#chosen;
    if (chosen === null) return { isOk: false, reason: 'no voters are known here' };
    const survivors = [...voters].toSorted(compareText);
    const dead = [...assertDead].toSorted(compareText);
    const reason = forceFault(chosen, survivors, dead, this.#self);
    if (reason !== null) return { isOk: false, reason };
    // What was asked for before may be chosen yet, by other survivors: two links must not have one number.
    this.#proposer.sawGeneration(this.#voter.newestPart);
    const waitMs = 2 * Math.max(chosen.config.ttlMsMax, this.exclusionMsMax());
    const readyAtMs = now.monoMs + waitMs;
    this.#force = { survivors, dead, generation: chosen.config.generation, readyAtMs, askAtMs: 0 };
    return { isOk: true, waitMs, effects: this.tick(now) };
  }

  // ---- Voting ---------------------------------------------------------------------------------------------------------

  #vote(from: HostId, message: ChainPrepare | ChainAccept, now: Instant): CoreEffect[] {
    const chosen = this.#chosen;
    if (message.ballot.host !== from) return [];
    if (chosen === null) return this.#askFor(from, now);
    if (message.n === noLink) {
      if (message.generation <= chosen.config.generation) return this.#tell(from, now);
      // It may have had a part in that one already, and forgotten it.
      if (message.generation <= this.#memory.generation) return [ask(from, this.askRef())];
      if (this.#ports.endsParks?.() === false) return [];
    } else {
      const order = compareRefs(message, chosen.config);
      if (order !== 0) return order < 0 ? this.#tell(from, now) : this.#askFor(from, now);
      if (!this.isVoter() || this.#memory.isLost || this.#ports.keepsPark?.() === true) return [];
    }
    if (this.#ports.isSilent(now)) return [];
    const vote: Vote<ChainPromise | ChainAccepted> =
      message.kind === 'chain-prepare'
        ? this.#voter.prepare(message, chosen, this.#ports.floors(), now)
        : this.#voter.accept(message, chosen, now);
    return this.#answer(from, vote, now);
  }

  /** Nothing is answered before it is durable; to itself no sooner than to others. */
  #answer(to: HostId, vote: Vote<ChainPromise | ChainAccepted>, now: Instant): CoreEffect[] {
    const { records, answer } = vote;
    if (answer === null) return this.#store(records);
    if (to !== this.#self) {
      const send: CoreEffect = { kind: 'send', to, message: answer };
      return records.length === 0 ? [send] : this.#store(records, [send]);
    }
    if (records.length === 0) return this.handle(to, answer, now);
    return this.#store(records, [], (later) => this.handle(to, answer, later));
  }

  #store(
    records: readonly DurableRecord[],
    then: readonly CoreEffect[] = [],
    go: ((now: Instant) => CoreEffect[]) | null = null,
  ): CoreEffect[] {
    if (records.length === 0) return [];
    const token = this.#ports.token();
    if (go !== null) {
      this.#pending.set(token, go);
      dropOldest(this.#pending, pendingMax);
    }
    return [{ kind: 'persist', token, records, then }];
  }

  // ---- Links ----------------------------------------------------------------------------------------------------------

  #news(from: HostId, chosen: ChosenConfig, now: Instant): CoreEffect[] {
    if (chosen.config.env !== this.#env) return [];
    const order = compareRefs(chosen.config, this.ref());
    if (order < 0) return this.#tell(from, now);
    const effects = this.adopt(chosen, now);
    if (order === 0) effects.push(...this.#move(this.#proposer.reached(from, now), now));
    return effects;
  }

  #take(chosen: ChosenConfig, now: Instant): CoreEffect[] {
    this.#entering = { chosen, sinceMs: now.monoMs };
    const records = this.#voter.recordsOfEntering(chosen, this.#chosen);
    if (this.#endsLoss(chosen)) records.push(remembersAgain);
    return this.#store(records, [], (later) => this.#enter(chosen, later));
  }

  #endsLoss(chosen: ChosenConfig): boolean {
    return this.#memory.endsBy(chosen, this.#self, this.#voter.tookPart(chosen));
  }

  #enter(chosen: ChosenConfig, now: Instant): CoreEffect[] {
    const previous = this.#chosen;
    if (this.#entering?.chosen === chosen) this.#entering = null;
    if (previous !== null && compareRefs(chosen.config, previous.config) <= 0) return [];
    const isForced = previous !== null && chosen.config.generation > previous.config.generation;
    const mustDrop = isForced && !this.#voter.tookPart(chosen);
    const endsLoss = this.#endsLoss(chosen);
    if (endsLoss) this.#memory.end();
    this.#chosen = chosen;
    this.#voter.enter(chosen, previous, now);
    this.#proposer.reset(now);
    const { floors, floorRest } = chosen.config;
    this.#ports.raiseFloors(floors, floorRest);
    const adopted = this.#ports.adopted({ chosen, previous, mustDrop, endsLoss }, now);
    return [...adopted, ...this.tick(now)];
  }

  /** Two links of one number: only a force on both sides of a partition can make them. */
  #compare(chosen: ChosenConfig): CoreEffect[] {
    if (this.#chosen === null || configHash(chosen.config) === configHash(this.#chosen.config)) {
      return [];
    }
    return this.#warn(
      'lease.chain-forked',
      `two different sets of voters are ${nameOf(chosen)}: ${chosen.config.voters.join(', ')} and ` +
        `${this.#chosen.config.voters.join(', ')}; stop one side and force the voters again`,
    );
  }

  // ---- Driving --------------------------------------------------------------------------------------------------------

  #goal(chosen: ChosenConfig, now: Instant): Goal | null {
    const { voters, ttlMsMax } = chosen.config;
    if (this.#force !== null) {
      const isReady = now.monoMs >= this.#force.readyAtMs;
      return isReady ? { kind: 'force', voters: this.#force.survivors, ttlMsMax } : null;
    }
    // The question alone would make the other of a pair enter intent, for nothing: this one does not vote.
    if (this.#memory.isLost && this.isVoter() && voters.length === 2) return null;
    if (this.#wantedTtlMs !== null && this.#wantedTtlMs !== ttlMsMax) {
      return { kind: 'step', voters, ttlMsMax: this.#wantedTtlMs };
    }
    const next = this.#wanted === null ? null : nextVoters(voters, this.#wanted);
    return next === null ? null : { kind: 'step', voters: next, ttlMsMax };
  }

  #move(moves: Moves, now: Instant): CoreEffect[] {
    const effects: CoreEffect[] = [];
    for (const { to, message } of moves.sends) {
      if (to === this.#self) effects.push(...this.handle(to, message, now));
      else effects.push({ kind: 'send', to, message });
    }
    if (moves.chosen !== null) {
      const chosen = moves.chosen;
      const told = new Set([...(this.#chosen?.config.voters ?? []), ...chosen.config.voters]);
      for (const host of this.#force?.dead ?? []) told.add(host);
      told.delete(this.#self);
      this.#announcement = { chosen, to: [...told].toSorted(compareText), left: 0, atMs: 0 };
      this.#announcement.left = chainTimes.announceTimes;
      effects.push(...this.adopt(chosen, now), ...this.#announce(now));
    }
    return effects;
  }

  /** It is chosen, whoever of us knows: others may hear of it before it is durable here. */
  #announce(now: Instant): CoreEffect[] {
    const news = this.#announcement;
    if (news === null || now.monoMs < news.atMs) return [];
    news.atMs = now.monoMs + chainTimes.announceMs;
    news.left -= 1;
    if (news.left === 0) this.#announcement = null;
    return news.to.map((to) => ({
      kind: 'send',
      to,
      message: { kind: 'config', chosen: news.chosen },
    }));
  }

  #tickForce(now: Instant): CoreEffect[] {
    const force = this.#force;
    const chosen = this.#chosen;
    if (force === null || chosen === null) return [];
    if (chosen.config.generation > force.generation) {
      this.#force = null;
      return [];
    }
    const fault = forceFault(chosen, force.survivors, force.dead, this.#self);
    const isLate = now.monoMs >= force.readyAtMs + chainTimes.forceMs;
    if (fault !== null || isLate) {
      this.#force = null;
      const why = fault ?? 'not all survivors answered';
      return [event('lease.force-failed', 'alarm', `the voters were not forced: ${why}`)];
    }
    if (now.monoMs < force.askAtMs) return [];
    force.askAtMs = now.monoMs + chainTimes.forceAskMs;
    const others = force.survivors.filter((host) => host !== this.#self);
    return others.map((to) => ask(to, this.askRef()));
  }

  // ---- Telling --------------------------------------------------------------------------------------------------------

  #tell(to: HostId, now: Instant): CoreEffect[] {
    if (this.#chosen === null || to === this.#self || !this.#mayTell(to, now)) return [];
    return [{ kind: 'send', to, message: { kind: 'config', chosen: this.#chosen } }];
  }

  #askFor(to: HostId, now: Instant): CoreEffect[] {
    return to === this.#self || !this.#mayTell(to, now) ? [] : [ask(to, this.askRef())];
  }

  #mayTell(to: HostId, now: Instant): boolean {
    const lastMs = this.#toldMs.get(to);
    if (lastMs !== undefined && now.monoMs < lastMs + chainTimes.newsMs) return false;
    this.#toldMs.delete(to);
    this.#toldMs.set(to, now.monoMs);
    dropOldest(this.#toldMs, toldMax);
    return true;
  }

  #warn(name: string, text: string): CoreEffect[] {
    if (this.#alarm === text) return [];
    this.#alarm = text;
    return [event(name, 'alarm', text)];
  }
}

interface Force {
  readonly survivors: readonly HostId[];
  readonly dead: readonly HostId[];
  /** Which is left behind. */
  readonly generation: number;
  readonly readyAtMs: number;
  askAtMs: number;
}

interface Announcement {
  readonly chosen: ChosenConfig;
  readonly to: readonly HostId[];
  left: number;
  atMs: number;
}

function readDurable(durable: readonly DurableRecord[], env: string) {
  let chosen: ChosenConfig | null = null;
  let state: unknown = null;
  let intentN: number | null = null;
  for (const record of durable) {
    if (record.kind === 'chosen' && record.chosen.config.env === env) chosen = record.chosen;
    if (record.kind === 'chain') state = record.state;
    if (record.kind === 'intent') intentN = record.isOn ? record.n : null;
  }
  const read = state === null ? null : readChainState(state);
  return { chosen, state: read, intentN, hasForgotten: state !== null && read === null };
}

/** Null: may be forced, as far as lists can tell. */
function forceFault(
  chosen: ChosenConfig,
  survivors: readonly HostId[],
  dead: readonly HostId[],
  self: HostId,
): string | null {
  if (survivors.length === 0 || !isSortedSet(survivors)) return 'name each survivor once';
  if (!isSortedSet(dead)) return 'name each dead host once';
  if (!survivors.includes(self)) return 'this host is not among the survivors; run it on one';
  if (survivors.some((host) => dead.includes(host))) return 'a survivor is named dead';
  const { voters } = chosen.config;
  const strangers = survivors.filter((host) => !voters.includes(host));
  const isOneLeft = voters.some((host) => survivors.includes(host));
  if (isOneLeft && strangers.length > 0) return `not a voter now: ${strangers.join(', ')}`;
  const open = voters.filter((host) => !survivors.includes(host) && !dead.includes(host));
  return open.length === 0 ? null : `neither survivor nor named dead: ${open.join(', ')}`;
}

function nameOf(chosen: ChosenConfig): string {
  return `${chosen.config.generation}.${chosen.config.n}`;
}

function ask(to: HostId, ref: ConfigRef): CoreEffect {
  return { kind: 'send', to, message: { kind: 'config-ask', ...ref } };
}

function event(name: string, severity: 'info' | 'alarm', text: string): CoreEffect {
  return { kind: 'notice', notice: { kind: 'event', event: name, severity, name: null, text } };
}

/** Maps keep the order of insertion. */
function dropOldest<K>(map: Map<K, unknown>, max: number): void {
  for (const key of map.keys()) {
    if (map.size <= max) return;
    map.delete(key);
  }
}
