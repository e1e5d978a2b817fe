/**
 * The guard's core: routes each event to the part that it concerns, and returns what is to be carried out.
 *
 * Parts: the acceptor (what this voter granted), the chain of voters (who counts), and one agent for each lease that this host
 * may hold (proposer, gate, handover, park); beside them what is wanted, what is said again and again, and what people ask. All
 * of it is synchronous and deterministic: no input or output, no clock of its own, no timer. The process and the simulator run
 * this same code.
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
import type { AgentState } from './agent.ts';
import { Agents, sweepMsMin } from './agents.ts';
import { Chain } from './chain.ts';
import type { Adoption } from './chain.ts';
import { Commands } from './commands.ts';
import type { CoreEffect, CoreEvent, CoreStart } from './core-api.ts';
import { coreStatus, Heard } from './core-status.ts';
import type { GuardDesired, GuardStatus } from './guard-api.ts';
import type { Accept, ConfigRef, Message, Prepare } from './messages.ts';
import type { ChosenConfig, Instant } from './model.ts';
import { silenceMs } from './profiles.ts';
import { Reminders } from './reminders.ts';
import { newShared } from './shared.ts';
import type { Shared } from './shared.ts';
import { Turn } from './turn.ts';
import { VoterWish } from './voter-wish.ts';
import { Wishes } from './wishes.ts';

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
  readonly #agents: Agents;
  readonly #wishes: Wishes;
  readonly #voterWish: VoterWish;
  readonly #reminders: Reminders;
  readonly #heard = new Heard();
  readonly #counters = { messages: 0, ticks: 0, dropped: 0, turns: 0 };
  #chosen: ChosenConfig | null = null;
  #ref: ConfigRef;
  #isVoter = false;
  /** Nothing has to happen before, on the authority clock; the chain's is on the monotonic one. */
  #dueMs = -Infinity;
  #chainDueMs = -Infinity;
  #isDaemonStopping = false;
  #isStarted = false;

  constructor(start: CoreStart, random: Random, now: Instant) {
    this.#self = start.self;
    const memory = start.volatile as CoreMemory | null;
    this.#turn = new Turn(start.self, memory?.token ?? 0);
    this.#turn.begin(now);
    this.#shared = newShared(start, random, now);
    this.#agents = new Agents(this.#shared);
    this.#wishes = new Wishes(start.self);
    this.#reminders = this.#newReminders();
    this.#voterWish = this.#newVoterWish();
    this.#acceptor = new Acceptor({
      self: start.self,
      isEligible: (name, host, isForced) => this.#wishes.isEligible(name, host, isForced),
      lockDelayMs: (name) => this.#wishes.lockDelayMs(name),
      isListed: (name) => this.#wishes.isListed(name),
      isFull: () => this.#chain.isFull(),
      ttlMsMax: () => this.#chosen?.config.ttlMsMax ?? 0,
      env: () => this.#ref.env,
      hasForgotten: () => this.#chain.hasForgotten,
      voters: () => this.#shared.electorate?.voters ?? [],
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
        keepsPark: () => this.#acceptor.hintParks(this.#turn),
        endsParks: () => this.#agents.endParks(this.#turn),
        adopted: (adoption) => this.#onAdopted(adoption),
      },
    });
    this.#ref = this.#chain.ref();
    this.#turn.effects.push(...this.#chain.start(now));
    if (this.#chain.hasForgotten) {
      this.#turn.event(
        'lease.voter-forgot',
        'alarm',
        null,
        'this voter lost memory, and is silent',
      );
      // The voters that it knows may be those of long ago, however intact the rest is.
      this.#reminders.mustAsk();
    }
    this.#noteVoters();
    if (memory && memory.generation === this.#ref.generation) this.#resume(memory);
    else this.#startAnew(start, now);
    this.#commands = this.#newCommands();
  }

  #newReminders(): Reminders {
    return new Reminders({
      leases: () => this.#agents.all(),
      peers: () => this.#wishes.peers,
      ref: () => this.#chain.askRef(),
      voters: () => this.#shared.electorate?.voters ?? null,
      isHeardHere: (name, turn) => this.#isVoter && this.#acceptor.refusesUs(name, turn),
    });
  }

  #newVoterWish(): VoterWish {
    return new VoterWish({
      isPlanner: (env) => this.#agents.get(`planner/${env}`)?.isHolding ?? true,
      ttlMsMax: () => this.#chosen?.config.ttlMsMax ?? null,
      want: (voters, now) => this.#runChain(this.#chain.want(voters, now)),
      wantTtlMsMax: (ttlMsMax, now) => this.#runChain(this.#chain.wantTtlMsMax(ttlMsMax, now)),
    });
  }

  #newCommands(): Commands {
    return new Commands({
      shared: this.#shared,
      agents: this.#agents.byName,
      acceptor: this.#acceptor,
      chain: this.#chain,
      isListed: (name) => this.#wishes.isListed(name),
      agent: (name) => this.#agents.add(name),
      touch: (agent) => this.#agents.touch(agent),
      daemonStopping: () => {
        this.#isDaemonStopping = true;
      },
    });
  }

  #resume(memory: CoreMemory): void {
    this.#shared.session = memory.session;
    this.#shared.ballots.last = memory.ballots;
    this.#acceptor.resume(memory.acceptor);
    for (const state of memory.agents) this.#agents.add(state.name)?.resume(state);
  }

  #startAnew(start: CoreStart, now: Instant): void {
    this.#shared.session = newSession(this.#shared.random);
    // Others may have been made voters in our absence, by force even: better heard before we vote for ourselves.
    this.#reminders.mustAsk();
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
    // What is due now must not be decided by what a sleeper believes.
    if (event.kind === 'clock' && event.what === 'suspend') this.#onSuspend(now);
    // A new wish counts from now on, for what is due now too.
    if (event.kind === 'desired') this.#onDesired(event.desired, now);
    if (turn.authorityMs >= this.#dueMs) this.#sweep(now);
    else if (turn.monoMs >= this.#acceptor.nextMs()) this.#acceptor.tick(turn);
    if (turn.monoMs >= this.#chainDueMs) this.#runChain(this.#chain.tick(now));
    this.#on(event, now);
    this.#finish(now);
    return turn.effects;
  }

  /** On the monotonic clock; Infinity: nothing is waited for. */
  nextDeadlineMs(): number {
    const aheadMs = this.#turn.authorityMs - this.#turn.monoMs;
    return Math.min(this.#dueMs - aheadMs, this.#acceptor.nextMs(), this.#chainDueMs);
  }

  volatileState(): CoreMemory {
    return {
      v: 1,
      session: this.#shared.session,
      generation: this.#ref.generation,
      token: this.#turn.token,
      ballots: this.#shared.ballots.last,
      acceptor: this.#acceptor.volatile(),
      agents: this.#agents.volatile(),
    };
  }

  /** False: something may run without authority, and a watchdog must not be petted. */
  isSafe(now: Instant): boolean {
    return this.#agents.isSafe(now.authorityMs);
  }

  /** `wallMs`: what the wall clock reads now, for the times in the history. Process, version and gate fault are the shell's. */
  status(now: Instant, wallMs = 0): GuardStatus {
    const leases = [...this.#agents.all()]
      .filter((agent) => agent.desired !== null || !agent.isIdle)
      .map((agent) => agent.status(now, wallMs, this.#acceptor.peek(agent.name, now.monoMs)));
    return coreStatus({
      env: this.#ref.env,
      self: this.#self,
      session: this.#shared.session,
      chosen: this.#chosen,
      silentUntilMs: this.#acceptor.silentUntilMs,
      hasForgotten: this.#chain.hasForgotten,
      heard: this.#heard,
      leases,
      counters: this.#counters,
      now,
    });
  }

  // ---- Events -------------------------------------------------------------------------------------------------------------

  #on(event: CoreEvent, now: Instant): void {
    const turn = this.#turn;
    switch (event.kind) {
      case 'message':
        this.#counters.messages++;
        this.#heard.note(event.from, turn.monoMs);
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
        this.#agents.touch(agent);
        return;
      }
      case 'persisted':
        if (!this.#acceptor.onPersisted(event.token, turn))
          this.#runChain(this.#chain.persisted(event.token, now));
        return;
      case 'fenced': {
        const agent = this.#agents.get(event.name);
        agent?.onFenced(event.epoch, event.isFenced, turn);
        this.#agents.touch(agent);
        return;
      }
      case 'clock':
        if (event.what === 'wall') this.#agents.each((agent) => agent.onWall(turn));
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
      case 'learn':
        if (message.env !== this.#ref.env) return;
        if (message.state === 'parked' && this.#isVoter)
          this.#acceptor.onParkElsewhere(from, message, turn);
        this.#agents.onMessage(from, message, turn);
        return;
      case 'promise':
      case 'accepted':
      case 'reject':
      case 'expired':
      case 'handover':
        if (message.env === this.#ref.env) this.#agents.onMessage(from, message, turn);
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

  #onDesired(desired: GuardDesired, now: Instant): void {
    const turn = this.#turn;
    this.#shared.desired = desired;
    this.#wishes.take(desired);
    for (const [name, lease] of this.#wishes.listed)
      this.#agents.add(name)?.setDesired(lease, turn);
    this.#agents.each((agent) => {
      if (!this.#wishes.isListed(agent.name) && !agent.isByCommand && agent.desired !== null)
        agent.setDesired(null, turn);
    });
    if (desired.chosen) this.#runChain(this.#chain.adopt(desired.chosen, now));
    if (desired.isFounder) this.#runChain(this.#chain.found(now));
    this.#voterWish.drive(desired, now);
    this.#reminders.onDesired(turn);
    this.#dueMs = -Infinity;
  }

  /** This host slept or was restored from a picture of itself: what it believes of time and grants is void. */
  #onSuspend(now: Instant): void {
    const turn = this.#turn;
    this.#agents.each((agent) => agent.dropAll(turn));
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
      shared.daemonAwayMs = Infinity;
      this.#reminders.onDaemonHere();
      this.#agents.each((agent) => agent.onDaemonHere(turn));
      return;
    }
    shared.daemonAwayMs = turn.authorityMs;
    if (!this.#isDaemonStopping) {
      shared.daemonGoneMs = turn.authorityMs;
      this.#reminders.onDaemonGone(turn);
    }
    this.#agents.each(() => {});
  }

  // ---- Deadlines --------------------------------------------------------------------------------------------------------------

  /** Everything whose time has come, in every part. */
  #sweep(now: Instant): void {
    const turn = this.#turn;
    this.#acceptor.tick(turn);
    this.#reminders.tick(turn);
    this.#commands.tick(turn);
    const dueMs = Math.min(this.#reminders.nextMs(), this.#commands.nextMs());
    this.#dueMs = Math.min(dueMs, this.#agents.settleDue(turn));
    this.#voterWish.drive(this.#shared.desired, now);
  }

  /** Until nothing is left to say to ourselves: then every touched lease has decided. */
  #finish(now: Instant): void {
    const turn = this.#turn;
    const { local } = turn;
    for (let round = 0; local.length > 0 || this.#agents.hasTouched; round++) {
      if (round > 64) break;
      for (let index = 0; index < local.length; index++)
        this.#onMessage(this.#self, local[index]!, now);
      local.length = 0;
      const dueMs = this.#agents.settleTouched(turn);
      if (dueMs < this.#dueMs) this.#dueMs = dueMs;
      this.#reminders.sendWatch(this.#shared.watchDue, turn);
      this.#shared.watchDue = [];
    }
    local.length = 0;
    this.#dueMs = Math.min(this.#dueMs, this.#commands.nextMs());
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
    this.#reminders.onVoters(this.#turn);
    this.#dueMs = -Infinity;
    this.#voterWish.again();
    this.#agents.each((agent) => agent.onElectorate(this.#turn));
  }

  #onAdopted(adoption: Adoption): readonly CoreEffect[] {
    if (adoption.endsLoss) {
      this.#acceptor.dropParks(this.#turn);
      this.#turn.event('lease.voter-restored', 'info', null, 'this voter was let in anew');
    }
    if (!adoption.mustDrop) return [];
    // Somebody took this host for dead and forced new voters: whatever it holds is void.
    this.#acceptor.forget();
    this.#agents.each((agent) => agent.forcedOut(this.#turn));
    return [];
  }
}

function newSession(random: Random): string {
  let text = '';
  for (const byte of random.bytes(12)) text += byte.toString(16).padStart(2, '0');
  return text;
}
