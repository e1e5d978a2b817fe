/**
 * The guard's core: routes each event to the part that it concerns, and returns what is to be carried out.
 *
 * Parts: the acceptor (what this voter granted), the chain of voters (who counts), and one agent for each lease that this host
 * may hold (proposer, gate, handover). All of it is synchronous and deterministic: no input or output, no clock of its own, no
 * timer. The process and the simulator run this same code.
 *
 * Every event first meets all deadlines that have passed, whatever the order in which events and timers arrive; one stored
 * earliest deadline makes that cheap.
 *
 * Idea and source: M. Trencseni, "PaxosLease Revisited" (2026); what we changed stands at the head of each part, and all of it
 * with the reasons in `daemon/docs/leases.md`.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { Random } from '../ports.ts';
import { Acceptor } from './acceptor.ts';
import type { AcceptorState } from './acceptor.ts';
import { LeaseAgent } from './agent.ts';
import type { AgentState, Shared } from './agent.ts';
import { Chain } from './chain.ts';
import type { Adoption } from './chain.ts';
import { Commands } from './commands.ts';
import type { CoreEffect, CoreEvent, CoreStart } from './core-api.ts';
import type { GuardDesired, GuardStatus, LeaseDesired } from './guard-api.ts';
import type { Accept, ConfigRef, Message, Prepare, Watch } from './messages.ts';
import { leaseLimits, majorityOf } from './model.ts';
import type { ChosenConfig, Instant, LeaseName } from './model.ts';
import { profiles, silenceMs } from './profiles.ts';
import { Turn } from './turn.ts';

/** Candidates remind the voters so often that they wait. */
const watchIntervalMs = 3_000;
/** A voter that was not heard for so long counts as out of reach, for people. */
const heardMs = 8_000;
const heardMax = 256;
/** A guard that starts with no memory asks all peers who votes by now, so often and so many times. */
const askIntervalMs = 1_000;
const asksMax = 4;
/** The daemon is gone: said after this. */
const daemonDownMs = 5_000;
/** Sweeps are at least so far apart, should a part name a deadline that has passed. */
const sweepMsMin = 1;

/** Taken by command: any host of the environment may. */
const dynamicPrefixes = ['lock/', 'job/', 'invite/', 'rollout/'] as const;

/** As `volatileState()` gives it. */
export interface CoreMemory {
  readonly v: 1;
  readonly session: string;
  /** Of the voters: what was granted under another generation is not resumed. */
  readonly generation: number;
  readonly token: number;
  /** Last ballot of this session. */
  readonly ballots: number;
  readonly acceptor: AcceptorState;
  readonly agents: readonly AgentState[];
}

export class GuardCore {
  readonly #self: HostId;
  readonly #turn: Turn;
  readonly #shared: Shared;
  readonly #acceptor: Acceptor;
  readonly #chain: Chain;
  readonly #commands: Commands;
  readonly #agents = new Map<LeaseName, LeaseAgent>();
  readonly #listed = new Map<LeaseName, LeaseDesired>();
  readonly #peers = new Set<HostId>();
  readonly #heard = new Map<HostId, number>();
  readonly #touched: LeaseAgent[] = [];
  readonly #counters = { messages: 0, ticks: 0, dropped: 0, turns: 0 };
  #chosen: ChosenConfig | null = null;
  #ref: ConfigRef;
  #isVoter = false;
  /** Nothing has to happen before, on the authority clock; the chain's is on the monotonic one. */
  #dueMs = -Infinity;
  #chainDueMs = -Infinity;
  #watchMs = -Infinity;
  #askMs = Infinity;
  #asksLeft = 0;
  #daemonAlarmMs = Infinity;
  #isDaemonStopping = false;

  constructor(start: CoreStart, random: Random, now: Instant) {
    this.#self = start.self;
    const memory = start.volatile as CoreMemory | null;
    this.#turn = new Turn(start.self, memory?.token ?? 0);
    this.#turn.begin(now);
    this.#shared = {
      self: start.self,
      random,
      session: '',
      ballots: { last: 0 },
      electorate: null,
      desired: null,
      isDaemonHere: false,
      daemonGoneMs: Infinity,
      renewedAtMs: -Infinity,
      renewFactor: 1,
      isWatchDue: false,
    };
    this.#acceptor = new Acceptor({
      self: start.self,
      isEligible: (name, host, isForced) => this.#isEligible(name, host, isForced),
      lockDelayMs: (name) => this.#listed.get(name)?.lockDelayMs ?? 0,
      isListed: (name) => this.#listed.has(name),
      isFull: () => this.#chain.isFull(),
      ttlMsMax: () => this.#chosen?.config.ttlMsMax ?? 0,
      ref: () => this.#ref,
    });
    this.#acceptor.restore(start.durable);
    this.#chain = new Chain({
      self: start.self,
      env: start.env,
      durable: start.durable,
      random,
      isFounder: false,
      ports: {
        floors: () => this.#acceptor.floors(),
        raiseFloors: (floors, rest) => this.#acceptor.raiseFloors(floors, rest),
        token: () => this.#turn.nextToken(),
        isSilent: (at) => at.monoMs < this.#acceptor.silentUntilMs,
        keepsPark: () => this.#acceptor.hasPark,
        endsParks: () => this.#endParks(),
        adopted: (adoption) => this.#onAdopted(adoption),
      },
    });
    this.#ref = this.#chain.ref();
    this.#turn.effects.push(...this.#chain.start(now));
    this.#noteVoters();
    if (memory && memory.generation === this.#ref.generation) this.#resume(memory);
    else this.#startAnew(start, now);
    this.#commands = new Commands({
      shared: this.#shared,
      agents: this.#agents,
      acceptor: this.#acceptor,
      chain: this.#chain,
      isListed: (name) => this.#listed.has(name),
      agent: (name) => this.#addAgent(name),
      touch: (agent) => this.#touch(agent),
      daemonStopping: () => {
        this.#isDaemonStopping = true;
      },
    });
  }

  #resume(memory: CoreMemory): void {
    this.#shared.session = memory.session;
    this.#shared.ballots.last = memory.ballots;
    this.#acceptor.resume(memory.acceptor);
    for (const state of memory.agents) {
      const agent = this.#addAgent(state.name);
      agent?.resume(state);
    }
  }

  #startAnew(start: CoreStart, now: Instant): void {
    this.#shared.session = newSession(this.#shared.random);
    // Others may have been made voters in our absence, by force even: better heard before we vote for ourselves.
    this.#asksLeft = asksMax;
    // Without any link this host has never granted anything.
    const silentMs = silenceMs(this.#chain.exclusionMsMax());
    if (silentMs <= 0) return;
    const fromMs = start.isFreshBoot ? Math.min(start.bootMonoMs, now.monoMs) : now.monoMs;
    this.#acceptor.silence(fromMs + silentMs);
  }

  // ---- The contract -------------------------------------------------------------------------------------------------------

  /** The effects belong to the caller; carried out in order. */
  handle(event: CoreEvent, now: Instant): readonly CoreEffect[] {
    const turn = this.#turn;
    if (this.#isStarted) turn.begin(now);
    else {
      // What the start itself asked for goes first.
      const first = turn.effects;
      turn.begin(now);
      turn.effects = first;
      this.#isStarted = true;
    }
    this.#counters.turns++;
    // A new wish counts from now on, for what is due now too.
    if (event.kind === 'desired') this.#onDesired(event.desired, now);
    if (turn.authorityMs >= this.#dueMs) this.#sweep(now);
    else if (turn.monoMs >= this.#acceptor.nextMs()) this.#acceptor.tick(turn);
    if (turn.monoMs >= this.#chainDueMs) this.#runChain(this.#chain.tick(now));
    this.#on(event, now);
    this.#finish(now);
    return turn.effects;
  }

  #isStarted = false;

  /** On the monotonic clock; Infinity: nothing is waited for. */
  nextDeadlineMs(): number {
    const aheadMs = this.#turn.authorityMs - this.#turn.monoMs;
    return Math.min(this.#dueMs - aheadMs, this.#acceptor.nextMs(), this.#chainDueMs);
  }

  volatileState(): CoreMemory {
    const agents: AgentState[] = [];
    for (const agent of this.#agents.values()) agents.push(agent.volatile());
    return {
      v: 1,
      session: this.#shared.session,
      generation: this.#ref.generation,
      token: this.#turn.token,
      ballots: this.#shared.ballots.last,
      acceptor: this.#acceptor.volatile(),
      agents,
    };
  }

  /** False: something may run without authority, and a watchdog must not be petted. */
  isSafe(now: Instant): boolean {
    for (const agent of this.#agents.values())
      if (!agent.isParked && !agent.gate.isSafe(now.authorityMs)) return false;
    return true;
  }

  /** `wallMs`: what the wall clock reads now, for the times in the history. Process, version and gate fault are the shell's. */
  status(now: Instant, wallMs = 0): GuardStatus {
    const chosen = this.#chosen;
    const silentMs = Math.max(0, this.#acceptor.silentUntilMs - now.monoMs);
    const voters = (chosen?.config.voters ?? []).map((host) => {
      const heardAtMs = host === this.#self ? now.monoMs : this.#heard.get(host);
      const lastHeardMs = heardAtMs === undefined ? null : Math.max(0, now.monoMs - heardAtMs);
      const isReachable = lastHeardMs !== null && lastHeardMs < heardMs;
      return { host, isReachable, isSilent: host === this.#self && silentMs > 0, lastHeardMs };
    });
    const reachable = voters.filter((voter) => voter.isReachable && !voter.isSilent).length;
    const leases = [...this.#agents.values()]
      .filter((agent) => agent.desired !== null || !agent.isIdle)
      .map((agent) => agent.status(now, wallMs, this.#acceptor.peek(agent.name, now.monoMs)));
    return {
      v: 1,
      env: this.#ref.env,
      self: this.#self,
      session: this.#shared.session,
      pid: 0,
      version: '',
      chosen,
      voters,
      hasQuorum: voters.length > 0 && reachable >= majorityOf(voters.length),
      silentMs,
      isParked: leases.some((lease) => lease.state === 'parked'),
      gateFault: null,
      leases,
      counters: this.#counters,
    };
  }

  // ---- Events -------------------------------------------------------------------------------------------------------------

  #on(event: CoreEvent, now: Instant): void {
    const turn = this.#turn;
    switch (event.kind) {
      case 'message':
        this.#counters.messages++;
        this.#noteHeard(event.from, turn.monoMs);
        this.#onMessage(event.from, event.message, now);
        return;
      case 'tick':
        this.#counters.ticks++;
        return;
      case 'desired':
        return;
      case 'command':
        this.#commands.run(event.id, event.command, turn, now);
        this.#chosenMayHaveChanged();
        return;
      case 'gate': {
        const agent = this.#agents.get(event.name);
        agent?.onGate(event.token, event.result, turn);
        this.#touch(agent);
        return;
      }
      case 'persisted':
        if (!this.#acceptor.onPersisted(event.token, turn))
          this.#runChain(this.#chain.persisted(event.token, now));
        return;
      case 'fenced': {
        const agent = this.#agents.get(event.name);
        agent?.onFenced(event.epoch, event.isFenced, turn);
        this.#touch(agent);
        return;
      }
      case 'clock':
        if (event.what === 'suspend') this.#onSuspend(now);
        else this.#each((agent) => agent.onWall(turn));
        return;
      case 'daemon':
        this.#onDaemon(event.isConnected);
    }
  }

  #onMessage(from: HostId, message: Message, now: Instant): void {
    const turn = this.#turn;
    switch (message.kind) {
      case 'prepare':
      case 'accept':
        if (this.#isForVoter(from, message, now)) {
          if (message.kind === 'accept') this.#acceptor.onAccept(from, message, turn);
          else this.#acceptor.onPrepare(from, message, turn);
        }
        return;
      case 'release':
        // Under whatever voters: it only takes back what its own session was granted.
        if (message.env !== this.#ref.env || this.#acceptor.isSilent(turn)) return;
        this.#acceptor.onRelease(from, message, turn);
        return;
      case 'watch':
        if (message.env !== this.#ref.env || this.#acceptor.isSilent(turn)) return;
        if (this.#isVoter) this.#acceptor.onWatch(from, message, turn);
        return;
      case 'promise':
      case 'accepted':
      case 'reject':
      case 'learn':
      case 'expired':
      case 'handover':
        this.#onAgentMessage(from, message);
        return;
      case 'config':
      case 'config-ask':
      case 'chain-prepare':
      case 'chain-promise':
      case 'chain-accept':
      case 'chain-accepted':
        this.#runChain(this.#chain.handle(from, message, now));
    }
  }

  /** Only a voter under the very same link answers; who is behind is told, a silent one says nothing at all. */
  #isForVoter(from: HostId, message: Prepare | Accept, now: Instant): boolean {
    const ref = this.#ref;
    if (message.ballot.host !== from || this.#acceptor.isSilent(this.#turn)) return false;
    if (message.n === ref.n && message.generation === ref.generation && message.env === ref.env)
      return this.#isVoter;
    this.#counters.dropped++;
    this.#runChain(this.#chain.meet(from, message, now).effects);
    return false;
  }

  #onAgentMessage(
    from: HostId,
    message: Extract<
      Message,
      { kind: 'promise' | 'accepted' | 'reject' | 'learn' | 'expired' | 'handover' }
    >,
  ): void {
    const agent = this.#agents.get(message.name);
    if (!agent || message.env !== this.#ref.env) return;
    const turn = this.#turn;
    if (message.kind === 'accepted') agent.onAccepted(from, message, turn);
    else if (message.kind === 'promise') agent.onPromise(from, message, turn);
    else if (message.kind === 'reject') agent.onReject(from, message, turn);
    else if (message.kind === 'learn') agent.onLearn(from, message, turn);
    else if (message.kind === 'expired') agent.onExpired(message, turn);
    else agent.onHandover(from, message, turn);
    this.#touch(agent);
  }

  #onDesired(desired: GuardDesired, now: Instant): void {
    const turn = this.#turn;
    this.#shared.desired = desired;
    this.#peers.clear();
    for (const peer of desired.peers) this.#peers.add(peer.host);
    this.#peers.add(this.#self);
    this.#listed.clear();
    for (const lease of desired.leases.slice(0, leaseLimits.leasesMax))
      this.#listed.set(lease.name, lease);
    for (const [name, lease] of this.#listed) this.#addAgent(name)?.setDesired(lease, turn);
    for (const [name, agent] of this.#agents) {
      if (!this.#listed.has(name) && !agent.isByCommand && agent.desired !== null)
        agent.setDesired(null, turn);
      this.#touch(agent);
    }
    if (desired.chosen) this.#runChain(this.#chain.adopt(desired.chosen, now));
    if (desired.isFounder) this.#runChain(this.#chain.found(now));
    this.#driveVoters(now);
    this.#watchMs = turn.authorityMs;
    if (this.#asksLeft > 0 || this.#chosen === null)
      this.#askMs = Math.min(this.#askMs, turn.authorityMs);
    this.#dueMs = -Infinity;
  }

  #askPeers(): void {
    if (this.#asksLeft > 0) this.#asksLeft--;
    // Who knows no voters at all can do nothing else.
    const mustAsk = this.#asksLeft > 0 || this.#chosen === null;
    this.#askMs = mustAsk ? this.#turn.authorityMs + askIntervalMs : Infinity;
    for (const peer of this.#peers)
      if (peer !== this.#self) this.#turn.send(peer, { kind: 'config-ask', ...this.#ref });
  }

  /** Only the holder of the environment's planner changes voters, so that few do at once. */
  #driveVoters(now: Instant): void {
    const { desired } = this.#shared;
    if (!desired || !this.#chosen) return;
    const planner = this.#agents.get(`planner/${desired.env}`);
    const isDriver = planner === undefined || planner.isHolding;
    if (isDriver !== this.#isDriver || this.#driven !== desired) {
      this.#isDriver = isDriver;
      this.#driven = desired;
      this.#runChain(this.#chain.want(isDriver ? desired.votersWanted : null, now));
      const needMs = Math.max(
        ...desired.leases.map((each) => profiles[each.profile].exclusionMs),
        0,
      );
      const isShort = this.#chosen.config.ttlMsMax < needMs;
      this.#runChain(this.#chain.wantTtlMsMax(isDriver && isShort ? needMs : null, now));
    }
  }

  #isDriver = false;
  #driven: GuardDesired | null = null;

  /** This host slept or was restored from a picture of itself: what it believes of time and grants is void. */
  #onSuspend(now: Instant): void {
    const turn = this.#turn;
    for (const agent of this.#agents.values()) {
      agent.dropAll(turn);
      this.#touch(agent);
    }
    this.#shared.session = newSession(this.#shared.random);
    const silentMs = silenceMs(this.#chain.exclusionMsMax());
    this.#acceptor.silence(turn.monoMs + silentMs);
    this.#runChain(this.#chain.start(now));
    // Nothing to write, but what is kept for a restart must not be from before.
    turn.persist([]);
    turn.event('lease.clock-jump', 'alarm', null, 'this host slept: every lease was dropped');
  }

  #onDaemon(isConnected: boolean): void {
    const shared = this.#shared;
    const turn = this.#turn;
    shared.isDaemonHere = isConnected;
    if (isConnected) {
      this.#isDaemonStopping = false;
      shared.daemonGoneMs = Infinity;
      this.#daemonAlarmMs = Infinity;
      this.#each((agent) => agent.onDaemonHere(turn));
      return;
    }
    if (this.#isDaemonStopping) return;
    shared.daemonGoneMs = turn.authorityMs;
    this.#daemonAlarmMs = turn.authorityMs + daemonDownMs;
    this.#each(() => {});
  }

  // ---- Deadlines --------------------------------------------------------------------------------------------------------------

  /** Everything whose time has come, in every part. */
  #sweep(now: Instant): void {
    const turn = this.#turn;
    this.#acceptor.tick(turn);
    if (turn.authorityMs >= this.#watchMs) this.#sendWatch();
    if (turn.authorityMs >= this.#daemonAlarmMs) this.#alarmDaemon();
    if (turn.authorityMs >= this.#askMs) this.#askPeers();
    this.#commands.tick(turn);
    this.#dueMs = Math.min(
      this.#watchMs,
      this.#askMs,
      this.#daemonAlarmMs,
      this.#commands.nextMs(),
    );
    for (const agent of this.#agents.values()) {
      if (agent.dueMs > turn.authorityMs) continue;
      agent.settle(turn);
      agent.dueMs = this.#dueOf(agent);
      if (agent.desired === null && agent.isIdle) this.#agents.delete(agent.name);
    }
    const isRenewing = this.#shared.renewedAtMs === turn.authorityMs;
    for (const agent of this.#agents.values()) {
      if (isRenewing && agent.isRenewalDue(turn)) {
        agent.settle(turn);
        agent.dueMs = this.#dueOf(agent);
      }
      if (agent.dueMs < this.#dueMs) this.#dueMs = agent.dueMs;
    }
    this.#driveVoters(now);
  }

  /** Until nothing is left to say to ourselves: then every touched lease has decided. */
  #finish(now: Instant): void {
    const { local } = this.#turn;
    const touched = this.#touched;
    for (let round = 0; local.length > 0 || touched.length > 0; round++) {
      if (round > 64) break;
      for (let index = 0; index < local.length; index++)
        this.#onMessage(this.#self, local[index]!, now);
      local.length = 0;
      while (touched.length > 0) {
        const agent = touched.pop()!;
        agent.settle(this.#turn);
        agent.dueMs = this.#dueOf(agent);
        if (agent.dueMs < this.#dueMs) this.#dueMs = agent.dueMs;
        if (agent.desired === null && agent.isIdle) this.#agents.delete(agent.name);
      }
      if (this.#shared.isWatchDue) {
        this.#shared.isWatchDue = false;
        this.#sendWatch();
      }
    }
    local.length = 0;
    this.#dueMs = Math.min(this.#dueMs, this.#commands.nextMs());
  }

  #dueOf(agent: LeaseAgent): number {
    return Math.max(agent.nextMs(), this.#turn.authorityMs + sweepMsMin);
  }

  #sendWatch(): void {
    this.#watchMs = this.#turn.authorityMs + watchIntervalMs;
    const names: LeaseName[] = [];
    for (const agent of this.#agents.values()) if (agent.hasToHear) names.push(agent.name);
    const { electorate } = this.#shared;
    if (!electorate || names.length === 0) return;
    const message: Watch = { kind: 'watch', env: this.#ref.env, names };
    for (const voter of electorate.voters) this.#turn.send(voter, message);
  }

  #alarmDaemon(): void {
    this.#daemonAlarmMs = Infinity;
    for (const agent of this.#agents.values()) {
      if (!agent.isHolding || !agent.hasGate) continue;
      const text = 'the daemon of the holder does not run; the lease is renewed on';
      this.#turn.event('lease.daemon-down', 'alarm', agent.name, text);
    }
  }

  // ---- Voters -----------------------------------------------------------------------------------------------------------------

  #runChain(effects: readonly CoreEffect[]): void {
    for (const effect of effects) this.#turn.effects.push(effect);
    this.#chosenMayHaveChanged();
  }

  #chosenMayHaveChanged(): void {
    this.#chainDueMs = Math.max(this.#chain.nextDeadlineMs(), this.#turn.monoMs + sweepMsMin);
    if (this.#chain.current() !== this.#chosen) this.#noteVoters();
  }

  #noteVoters(): void {
    const chosen = this.#chain.current();
    this.#chosen = chosen;
    this.#ref = this.#chain.ref();
    this.#isVoter = this.#chain.isVoter();
    const config = chosen?.config;
    this.#shared.electorate = config
      ? { ref: this.#ref, voters: config.voters, ttlMsMax: config.ttlMsMax }
      : null;
    this.#watchMs = this.#turn.authorityMs;
    this.#dueMs = -Infinity;
    this.#driven = null;
    this.#each((agent) => agent.onElectorate(this.#turn));
  }

  #onAdopted(adoption: Adoption): readonly CoreEffect[] {
    if (!adoption.mustDrop) return [];
    // Somebody took this host for dead and forced new voters: whatever it holds is void.
    this.#acceptor.forget();
    this.#each((agent) => agent.forcedOut(this.#turn));
    return [];
  }

  /** True when nothing runs here by a park that forced voters would not know. */
  #endParks(): boolean {
    let isDone = true;
    for (const agent of this.#agents.values()) {
      if (agent.isParked) {
        agent.forcedOut(this.#turn);
        this.#touch(agent);
      }
      if (agent.isOusted) isDone = false;
    }
    return isDone;
  }

  // ---- Small things -------------------------------------------------------------------------------------------------------------

  #isEligible(name: LeaseName, host: HostId, isForced: boolean): boolean {
    const lease = this.#listed.get(name);
    if (lease)
      return (
        lease.candidates.includes(host) || (isForced && lease.forceable?.includes(host) === true)
      );
    return this.#peers.has(host) && dynamicPrefixes.some((prefix) => name.startsWith(prefix));
  }

  #addAgent(name: LeaseName): LeaseAgent | null {
    const known = this.#agents.get(name);
    if (known) return known;
    if (this.#agents.size >= leaseLimits.leasesMax) return null;
    const agent = new LeaseAgent(name, this.#shared);
    this.#agents.set(name, agent);
    return agent;
  }

  #touch(agent: LeaseAgent | undefined | null): void {
    if (agent && !this.#touched.includes(agent)) this.#touched.push(agent);
  }

  #each(act: (agent: LeaseAgent) => void): void {
    for (const agent of this.#agents.values()) {
      act(agent);
      this.#touch(agent);
    }
  }

  #noteHeard(from: HostId, monoMs: number): void {
    if (this.#heard.size >= heardMax && !this.#heard.has(from)) return;
    this.#heard.set(from, monoMs);
  }
}

function newSession(random: Random): string {
  let text = '';
  for (const byte of random.bytes(12)) text += byte.toString(16).padStart(2, '0');
  return text;
}
