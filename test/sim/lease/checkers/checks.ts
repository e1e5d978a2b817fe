/**
 * The laws of leases, looked at after every step. Each breach names its law (I1 to I21) and stops the run.
 *
 * **Fault budget**: what each law is claimed under.
 * - Messages: lost, repeated, reordered, late without bound, to later incarnations. Clocks within ±ρ. Crashes and power cuts
 *   of anything at any moment; tmpfs kept or lost as a whole; disks lose or tear only what was not synced.
 * - I2 (traffic), and everything about acceptors, ballots, epochs and voters (I3 to I10, I12 to I14, I17, I18): always.
 * - I1 (what runs): while the host's guard is alive and prompt. A guard that is dead, stopped, or late by more than 25 ms at
 *   the end of its authority cannot freeze; until it has been back for `settleMs` its host is *excused*: the workload may
 *   live on there, cut off from traffic. The specification's table says so ("all three killed and kept dead"). The same for
 *   a host that slept, until its guard has looked. An excuse never covers the time before the end of the own authority.
 * - `onLoss: keep` is excused from I1, I2 and the order of activations: that is what it means.
 * - A freeze that the kernel refuses is outside (fence: panic or watchdog), until one succeeds.
 * - Force: only against hosts that are without power. An operator who lies may have two.
 * - A log that loses its middle: of one host in a world, and not beside forces that declare hosts dead. Where all who knew of a
 *   generation have forgotten it, those who were declared dead come back and find nobody who could tell them.
 *
 * Acceptors are judged by what they say (`accepted`, `promise`), in real time: a shadow of each acceptor's records is kept
 * here by the rules of the specification, not by those of the code.
 */
import type { HostId } from '../../../../crdt/ids.ts';
import type { AcceptorState } from '../../../../daemon/lease/acceptor.ts';
import type { AgentState } from '../../../../daemon/lease/agent.ts';
import type { CoreMemory } from '../../../../daemon/lease/core.ts';
import type { CoreEffect, CoreEvent, DurableRecord } from '../../../../daemon/lease/core-api.ts';
import type {
  GuardCommand,
  GuardDesired,
  GuardNotice,
  GuardReply,
} from '../../../../daemon/lease/guard-api.ts';
import type {
  Accept,
  Message,
  Prepare,
  PromiseReply,
  Accepted,
  Reject,
  Release,
} from '../../../../daemon/lease/messages.ts';
import {
  majorityOf,
  type Ballot,
  type ChosenConfig,
  type Instant,
} from '../../../../daemon/lease/model.ts';
import { clockMarginMs, clockRateError, profiles } from '../../../../daemon/lease/profiles.ts';
import { foreverMs } from '../../../../daemon/lease/gate.ts';
import { compareRefs } from '../../../../daemon/lease/voter-config.ts';
import type { Machine, SimGate } from '../machine.ts';
import type { LeaseWorld } from '../world.ts';

/** A guard that is back has this long to close what it finds: a tick, and the kernel. */
export const settleMs = 150;

export class Breach extends Error {
  readonly law: string;
  constructor(law: string, text: string) {
    super(`${law}: ${text}`);
    this.law = law;
  }
}

interface ShadowRecord {
  readonly host: HostId;
  readonly session: string;
  readonly counter: number;
  readonly generation: number;
  readonly n: number;
  /** It may have been forgotten by right. */
  readonly isDoubtful: boolean;
  /** It said that it wants the full majority. */
  readonly isFull: boolean;
  /** On the acceptor's monotonic clock of this boot. */
  readonly deadlineMonoMs: number;
  readonly boot: number;
}

interface ShadowAcceptor {
  record: ShadowRecord | null;
  /** What the last message with a promise said, of this volatile state. */
  promised: number;
}

interface Attempt {
  readonly session: string;
  readonly counter: number;
  readonly use: string;
  readonly life: number;
  readonly atMs: number;
}

interface Arm {
  readonly session: string;
  readonly epoch: number;
  readonly generation: number;
  readonly n: number;
  readonly untilMs: number;
  readonly boot: number;
}

interface Activation {
  readonly epoch: number;
  readonly host: number;
  readonly session: string;
  readonly atMs: number;
}

interface LinkRef {
  readonly generation: number;
  readonly n: number;
}

/** Of one lease, over all hosts. */
class LeaseBook {
  readonly acceptors: ShadowAcceptor[];
  readonly attempts: (Attempt | null)[];
  readonly arms: (Arm | null)[];
  /** The newest of each host that there was. */
  readonly lastArms: (Arm | null)[];
  readonly activations: Activation[] = [];
  /** Highest epoch with which a shared resource was written. */
  written = 0;
  parkedBy: number | null = null;
  /** By host: it was told to, and may end its park at any moment. */
  readonly isUnparking: boolean[];
  forced = false;
  /** By host: the last ballot that acquired there. */
  readonly grants: string[] = [];
  /** By host: it has asked for a park, which some voter may still have. */
  readonly hasParked: boolean[] = [];
  /** By host: when it was told to force, and when somebody parked last. */
  readonly forcedMs: number[] = [];
  parkedMs = 0;
  /** By host: the last fence command that it asked for. */
  readonly fences: ({ readonly epoch: number; readonly isDone: boolean } | undefined)[] = [];
  constructor(count: number) {
    this.acceptors = Array.from({ length: count }, () => ({ record: null, promised: 0 }));
    this.attempts = Array.from({ length: count }, () => null);
    this.arms = Array.from({ length: count }, () => null);
    this.lastArms = Array.from({ length: count }, () => null);
    this.isUnparking = Array.from({ length: count }, () => false);
  }
}

export class Checks {
  readonly #world: LeaseWorld;
  readonly #books = new Map<string, LeaseBook>();
  /** By host: on its monotonic clock, and the boot that this belongs to. */
  readonly #silentUntil: number[] = [];
  readonly #configs = new Map<string, ChosenConfig>();
  readonly #configTexts = new Map<string, string>();
  readonly #newestServed: number[] = [];
  #isForcing = false;
  /** Deadlines are looked at before an event: what is asked for in its turn may still be by the wish before. */
  #isTold = false;
  /** What was granted before its fsync is said after it. */
  #isLateAnswer = false;
  /** What each guard was told last. */
  readonly #desired: (GuardDesired | null)[] = [];
  readonly #generations: number[] = [];
  /** By host: the newest link that it had when it lost memory, until it was let in anew. */
  readonly #forgotten: (LinkRef | null)[] = [];
  readonly #newestLinks: LinkRef[] = [];
  /** Of the one job -> the host that began it. */
  readonly #ticks = new Map<number, number>();
  #newest: ChosenConfig | null = null;
  /** Highest epoch activated under voters of index `n`, by lease: for the floors. */
  readonly #epochUnder = new Map<string, number[]>();
  readonly counters = {
    activations: 0,
    renewals: 0,
    configs: 0,
    handovers: 0,
    parks: 0,
    ticks: 0,
    fences: 0,
  };

  constructor(world: LeaseWorld) {
    this.#world = world;
  }

  begin(): void {
    const { founding } = this.#world.truth;
    if (founding !== null) this.#learnConfig(founding);
    for (const { index } of this.#world.machines) {
      this.#silentUntil.push(0);
      this.#newestServed.push(0);
      if (founding !== null) this.#newestLinks[index] = founding.config;
    }
  }

  newestChosen(): ChosenConfig | null {
    return this.#newest;
  }

  activationsOf(name: string): readonly Activation[] {
    return this.#book(name).activations;
  }

  #book(name: string): LeaseBook {
    let book = this.#books.get(name);
    if (book === undefined) {
      book = new LeaseBook(this.#world.machines.length);
      this.#books.set(name, book);
    }
    return book;
  }

  // ---- Lives -----------------------------------------------------------------------------------------------------------

  onStart(machine: Machine, isFreshBoot: boolean, isVolatileKept: boolean, now: Instant): void {
    const { index } = machine;
    if (isVolatileKept) {
      // Renewals at the own vote alone leave nothing to keep: an older tenure comes back, and shorter.
      for (const { acceptors } of this.#books.values()) {
        const own = acceptors[index];
        if (own?.record?.host === machine.id) own.record = { ...own.record, isDoubtful: true };
      }
      return;
    }
    // A host that never knew any voters has never granted anything.
    const isNew = !machine.durable.has('chosen');
    this.#silentUntil[index] = isNew ? 0 : (isFreshBoot ? 0 : now.monoMs) + this.#ttlMsMax(machine);
    this.#forget(index);
  }

  /** It cannot have granted for longer than the voters that it knew allowed. */
  #ttlMsMax(machine: Machine): number {
    const link = machine.durable.get('chosen');
    return link?.kind === 'chosen' ? link.chosen.config.ttlMsMax : 0;
  }

  /** This host's acceptor has lost its memory. */
  #forget(index: number): void {
    for (const book of this.#books.values()) {
      const acceptor = book.acceptors[index];
      if (acceptor === undefined) continue;
      acceptor.record = null;
      acceptor.promised = 0;
      book.arms[index] = null;
      // What it parked is not running any more, and it may say so.
      if (book.parkedBy === index) book.parkedBy = null;
    }
  }

  /** Whether it still knows its grants is seen at the next look. */
  #doubt(index: number): void {
    for (const book of this.#books.values()) {
      const acceptor = book.acceptors[index];
      const record = acceptor?.record ?? null;
      if (acceptor !== undefined && record !== null)
        acceptor.record = { ...record, isDoubtful: true };
    }
  }

  /** It died before it kept what it had just decided, and before it said so. */
  onCut(machine: Machine): void {
    const state = machine.volatile;
    if (state === null) return;
    const { agents } = state as CoreMemory;
    for (const [name, book] of this.#books) {
      const agent = agents.find((one) => one.name === name);
      const arm = book.lastArms[machine.index] ?? null;
      if (agent?.isHolding === true && arm?.epoch === agent.proposer.epoch)
        book.arms[machine.index] = { ...arm, untilMs: agent.proposer.untilMs };
      const acceptor = book.acceptors[machine.index] as ShadowAcceptor;
      acceptor.promised = Math.min(acceptor.promised, seatOf(state, name)?.promised ?? 0);
      const { record } = acceptor;
      if (record !== null) acceptor.record = { ...record, isDoubtful: true };
    }
  }

  /** What it promised before is not known any more; I7 is judged from here. */
  onDamage({ index }: Machine): void {
    this.#forgotten[index] = this.#newestLinks[index] ?? { generation: 0, n: -1 };
  }

  /** I7: no vote, of either kind, before it was removed, added or forced. */
  #mayVote(machine: Machine, kind: string): void {
    if (this.#forgotten[machine.index] ?? null)
      throw new Breach('I7', `h${machine.index} sends ${kind} although its log lost its middle`);
  }

  onPowerCut(machine: Machine): void {
    this.#forget(machine.index);
    for (const book of this.#books.values()) book.arms[machine.index] = null;
  }

  // ---- Events and effects ------------------------------------------------------------------------------------------------

  beforeEvent(machine: Machine, event: CoreEvent, now: Instant): void {
    this.#isTold = event.kind === 'desired';
    this.#isLateAnswer = event.kind === 'persisted';
    if (event.kind === 'desired') this.#desired[machine.index] = event.desired;
    if (event.kind === 'clock' && event.what === 'suspend') {
      const chosen = this.#world.core(machine.index).status(now).chosen;
      this.#silentUntil[machine.index] = now.monoMs + (chosen?.config.ttlMsMax ?? 0);
      this.#forget(machine.index);
      return;
    }
    if (event.kind === 'message' && event.message.kind === 'release')
      this.#onReleaseArrived(machine, event.from, event.message, now);
  }

  #onReleaseArrived(machine: Machine, from: HostId, message: Release, now: Instant): void {
    const acceptor = this.#book(message.name).acceptors[machine.index];
    const record = acceptor?.record;
    if (acceptor === undefined || record === null || record === undefined) return;
    if (this.#isSilent(machine, now)) return;
    if (from !== record.host || message.ballot.session !== record.session) return;
    if (message.ballot.counter < record.counter) return;
    acceptor.record = null;
  }

  onEffects(
    machine: Machine,
    effects: readonly CoreEffect[],
    now: Instant,
    event: CoreEvent | null,
  ): void {
    if (event?.kind === 'message' && event.message.kind === 'accept')
      if (event.message.purpose === 'acquire') this.#mayBeGranted(machine, event.message);
    // What this host asks of itself is answered last.
    this.#onSends(machine, effects, now, false);
    this.#onSends(machine, effects, now, true);
    if (event !== null && this.#mayHoldMore(machine, event)) this.#lookAtTenures(machine, now);
    for (const effect of effects)
      if (effect.kind === 'lease-file') this.#onLeaseFileMade(machine, effect, now);
  }

  #onSends(
    machine: Machine,
    effects: readonly CoreEffect[],
    now: Instant,
    areAsked: boolean,
  ): void {
    for (const effect of effects) {
      if (effect.kind === 'persist') this.#onSends(machine, effect.then, now, areAsked);
      else if (effect.kind === 'send') {
        const { kind } = effect.message;
        if ((kind === 'accept' || kind === 'prepare') === areAsked)
          this.#onMessageMade(machine, effect.message, now);
      }
    }
  }

  /** A grant comes with an answer, or at once where the own vote is enough. */
  #mayHoldMore(machine: Machine, event: CoreEvent): boolean {
    if (event.kind !== 'message')
      return event.kind !== 'tick' || this.#votersOf(machine) <= 2 || this.#holds(machine);
    const { kind } = event.message;
    return (
      kind === 'accepted' ||
      kind === 'handover' ||
      kind === 'config' ||
      this.#votersOf(machine) <= 2
    );
  }

  #votersOf(machine: Machine): number {
    const link = machine.durable.get('chosen');
    return link?.kind === 'chosen' ? link.chosen.config.voters.length : 0;
  }

  #holds(machine: Machine): boolean {
    for (const book of this.#books.values()) if (book.arms[machine.index] !== null) return true;
    return false;
  }

  #onMessageMade(machine: Machine, message: Message, now: Instant): void {
    const { kind } = message;
    if (kind === 'accepted' || kind === 'promise') this.#mayVote(machine, kind);
    if (kind === 'chain-promise' || kind === 'chain-accepted')
      if (message.n >= 0) this.#mayVote(machine, kind);
    if (kind === 'accepted') this.#onAccepted(machine, message, now);
    else if (kind === 'promise') this.#onPromise(machine, message, now);
    else if (kind === 'reject') this.#onReject(machine, message, now);
    else if (kind === 'prepare') this.#mayAsk(machine, message);
    else if (kind === 'accept') this.#observe(machine, message.name, now, message);
  }

  #isSilent(machine: Machine, now: Instant): boolean {
    return now.monoMs < (this.#silentUntil[machine.index] ?? 0);
  }

  #isLive(machine: Machine, record: ShadowRecord, monoMs: number): boolean {
    return record.boot === machine.boot && !record.isDoubtful && monoMs < record.deadlineMonoMs;
  }

  #onAccepted(machine: Machine, message: Accepted, now: Instant): void {
    const { index } = machine;
    if (this.#isSilent(machine, now))
      throw new Breach('I7', `h${index} accepts ${message.name} while it has to be silent`);
    this.#onServed(machine, message);
    const acceptor = this.#book(message.name).acceptors[index] as ShadowAcceptor;
    const { ballot } = message;
    if (ballot.counter < acceptor.promised)
      throw new Breach('I7', `h${index} accepts ballot ${ballot.counter} below its promise`);
    acceptor.promised = ballot.counter;
    this.#observe(machine, message.name, now, message);
  }

  /**
   * Looks at what this acceptor has granted and compares it with what it had: a live grant gives way to its own session, to
   * its release, and to time, and to nothing else (I6).
   */
  #observe(
    machine: Machine,
    name: string,
    now: Instant,
    under: { generation: number; n: number; isFull?: boolean; ballot?: Ballot },
  ): void {
    const { index } = machine;
    const core = this.#world.guards[index]?.core;
    if (core === null || core === undefined) return;
    const book = this.#book(name);
    const acceptor = book.acceptors[index] as ShadowAcceptor;
    const seat = seatOf(core.volatileState(), name);
    const { record } = acceptor;
    const granted = seat === null ? null : seat.granted;
    if (
      record !== null &&
      this.#isLive(machine, record, now.monoMs) &&
      (granted === null ||
        granted.session !== record.session ||
        (seat?.untilMs ?? 0) < record.deadlineMonoMs - 0.001) &&
      !(record.host === machine.id && !isHeld(core.volatileState(), name))
    )
      throw new Breach(
        'I6',
        `h${index} gives up the live grant of ${record.host[0]}/${record.session.slice(0, 4)} on ${name} for ` +
          (granted === null ? 'nothing' : `${granted.host[0]}/${granted.session.slice(0, 4)}`),
      );
    // Said of an earlier ballot, after a later one was granted in the same turn.
    const isOld = under.ballot !== undefined && granted?.counter !== under.ballot.counter;
    if (isOld && granted?.session === under.ballot?.session) return;
    const isSame =
      record !== null && granted?.session === record.session && granted.counter === record.counter;
    const link = isSame ? record : under;
    acceptor.record =
      granted === null || seat === null
        ? null
        : {
            host: granted.host,
            session: granted.session,
            counter: granted.counter,
            generation: link.generation,
            n: link.n,
            isDoubtful: false,
            // What was said first of a ballot counts: that answer may be the one that arrives.
            isFull: isSame ? record.isFull : under.isFull === true,
            deadlineMonoMs: seat.untilMs,
            boot: machine.boot,
          };
  }

  /** I21: judged when it is granted, not when it is said, which may be later, and more than once. */
  #mayBeGranted(machine: Machine, message: Accept): void {
    const { host, session, counter } = message.ballot;
    const seat = seatOf(this.#world.core(machine.index).volatileState(), message.name);
    if (seat?.granted?.session !== session || seat.granted.counter !== counter) return;
    const book = this.#book(message.name);
    const ballot = `${counter} ${session}`;
    if (book.grants[machine.index] === ballot) return;
    book.grants[machine.index] = ballot;
    const lease = this.#desired[machine.index]?.leases.find(({ name }) => name === message.name);
    if (lease === undefined || lease.candidates.includes(host)) return;
    // It comes back for what it parked.
    const index = this.#world.indexOf(host);
    if (book.hasParked[index] === true) return;
    throw new Breach(
      'I21',
      `h${machine.index} grants ${message.name} to a host that is no candidate`,
    );
  }

  /** L3: who only waits never makes a renewal of the holder fail. */
  #onReject(machine: Machine, message: Reject, now: Instant): void {
    if (message.why !== 'ballot' || this.#isLateAnswer) return;
    const { ballot } = message;
    const seat = seatOf(this.#world.core(machine.index).volatileState(), message.name);
    if (seat === null || seat.granted === null || now.monoMs >= seat.untilMs) return;
    if (seat.granted.session !== ballot.session || ballot.counter <= seat.granted.counter) return;
    // Outrun by another ballot of its own.
    if (seat.promisedTo === ballot.session) return;
    throw new Breach(
      'L3',
      `h${machine.index} refuses the holder of ${message.name} for a rival's ballot`,
    );
  }

  #onPromise(machine: Machine, message: PromiseReply, now: Instant): void {
    const { index } = machine;
    if (this.#isSilent(machine, now))
      throw new Breach('I7', `h${index} promises ${message.name} while it has to be silent`);
    if (!message.isOpen) return;
    this.#onServed(machine, message);
    // As it was before this turn, in which this host itself may have been granted something since.
    const acceptor = this.#book(message.name).acceptors[index] as ShadowAcceptor;
    const { record } = acceptor;
    if (
      record !== null &&
      !this.#isLateAnswer &&
      record.session !== message.ballot.session &&
      this.#isLive(machine, record, now.monoMs) &&
      !(
        record.host === machine.id && !isHeld(this.#world.core(index).volatileState(), message.name)
      )
    )
      throw new Breach('I6', `h${index} promises ${message.name} under a live lease of another`);
    if (message.ballot.counter < acceptor.promised)
      throw new Breach('I7', `h${index} promises a ballot below an earlier promise`);
    acceptor.promised = message.ballot.counter;
    this.#observe(machine, message.name, now, message);
  }

  /** I13: an acceptor never serves older voters than it did. */
  #onServed(machine: Machine, message: { generation: number; n: number }): void {
    const at = message.generation * 1e6 + message.n;
    // Granted before it took the newer ones, said after an fsync: a late answer like any other.
    if (this.#isLateAnswer) return;
    if (at < (this.#newestServed[machine.index] ?? 0))
      throw new Breach('I13', `h${machine.index} serves voters ${message.n} after newer ones`);
    this.#newestServed[machine.index] = at;
  }

  // ---- Sending -----------------------------------------------------------------------------------------------------------

  onSend(machine: Machine, _to: HostId, message: Message): void {
    if (message.kind === 'prepare') this.#onAttempt(machine, message, 'prepare');
    else if (message.kind === 'accept') {
      // Asks for no grant: no attempt.
      if (message.exclusionMs > 0) this.#onAttempt(machine, message, message.purpose);
      if (message.purpose === 'park') this.#book(message.name).hasParked[machine.index] = true;
    } else if (message.kind === 'release') {
      const gate = machine.gates.get(message.name);
      if (gate !== undefined && (gate.process?.hasRun === true || !gate.isFrozen))
        throw new Breach('I11', `h${machine.index} releases ${message.name} before it is empty`);
    }
  }

  /** I10 */
  #onAttempt(machine: Machine, message: Prepare | Accept, use: string): void {
    const { index } = machine;
    const book = this.#book(message.name);
    const { counter, session } = message.ballot;
    const { life } = this.#world.guards[index] as { life: number };
    const last = book.attempts[index] ?? null;
    if (last !== null && last.session === session && last.counter === counter) {
      if (last.life !== life)
        throw new Breach('I10', `h${index} uses ballot ${counter} again after a restart`);
      const isSame = last.use === use || (last.use === 'prepare' && use !== 'prepare');
      if (!isSame)
        throw new Breach('I10', `h${index} uses ballot ${counter} for ${last.use} and ${use}`);
      if (last.use === use) return;
    } else if (last !== null && last.session === session && counter < last.counter) {
      throw new Breach('I10', `h${index} goes back from ballot ${last.counter} to ${counter}`);
    }
    book.attempts[index] = { session, counter, use, life, atMs: this.#world.nowMs };
  }

  /** I19 */
  #mayAsk(machine: Machine, message: Prepare): void {
    if (this.#isTold) return;
    const { index } = machine;
    const book = this.#book(message.name);
    const last = book.attempts[index] ?? null;
    // Repeated, or begun before it was frozen.
    if (last?.session === message.ballot.session && last.counter >= message.ballot.counter) return;
    const desired = this.#desired[machine.index] ?? null;
    const lease = desired?.leases.find(({ name }) => name === message.name);
    if (desired === null || lease === undefined || book.forced) return;
    // Its own park may always be ended.
    if (book.isUnparking[index] === true) return;
    if (desired.isWitness)
      throw new Breach('I19', `the witness h${index} asks for ${message.name}`);
    if (desired.isFrozen || lease.isFrozen)
      throw new Breach('I19', `h${index} asks for ${message.name}, which is frozen`);
  }

  // ---- Authority ---------------------------------------------------------------------------------------------------------

  /** What the core believes to hold, after an event that may have changed it. */
  #lookAtTenures(machine: Machine, now: Instant): void {
    const core = this.#world.guards[machine.index]?.core;
    if (core === null || core === undefined) return;
    const memory = core.volatileState() as CoreMemory;
    for (const agent of memory.agents) {
      const book = this.#book(agent.name);
      const before = book.arms[machine.index] ?? null;
      // Parks end where voters are forced.
      if (!agent.isParked && book.parkedBy === machine.index && this.#isForcing)
        book.parkedBy = null;
      if (!agent.isHolding && !agent.isParked) {
        if (before !== null) book.arms[machine.index] = null;
        book.isUnparking[machine.index] = false;
        // What its own vote granted to it may have been given back without a word to anybody.
        const own = book.acceptors[machine.index];
        if (own?.record?.host === machine.id) own.record = null;
        continue;
      }
      const { untilMs } = agent.proposer;
      if (agent.isParked) {
        if (book.parkedBy !== machine.index && !book.isUnparking[machine.index]) {
          book.parkedBy = machine.index;
          book.parkedMs = this.#world.nowMs;
          this.counters.parks++;
        }
        if (before !== null && before.untilMs !== foreverMs)
          book.arms[machine.index] = { ...before, untilMs: foreverMs };
        continue;
      }
      if (before?.untilMs === foreverMs) book.isUnparking[machine.index] = false;
      if (before?.untilMs === untilMs) continue;
      this.#granted(machine, agent, memory.session, now);
    }
  }

  /** A guard takes authority until `untilMs` of its own clock, or extends it. */
  #granted(machine: Machine, agent: AgentState, session: string, now: Instant): void {
    const { index } = machine;
    const { name } = agent;
    const { epoch, untilMs } = agent.proposer;
    const book = this.#book(name);
    const before = book.arms[index] ?? null;
    if (untilMs <= now.authorityMs) throw new Breach('I3', `h${index} takes ${name} after its end`);
    const isContinued =
      before !== null &&
      before.epoch === epoch &&
      before.session === session &&
      before.boot === machine.boot;
    if (isContinued && before.untilMs <= now.authorityMs && untilMs > before.untilMs)
      throw new Breach('I17', `h${index} renews ${name} after its authority has ended`);
    if (isContinued && untilMs <= before.untilMs) {
      book.arms[index] = { ...before, untilMs };
      return;
    }
    const config = this.#world.guards[index]?.core?.status(now).chosen?.config;
    if (config !== undefined) this.#observe(machine, name, now, config);
    for (const [at, { record }] of book.acceptors.entries()) {
      const voter = this.#world.machines[at];
      if (record?.isDoubtful === true && voter !== undefined)
        this.#observe(voter, name, this.#now(voter), record);
    }
    const under = this.#certificate(machine, book, { name, session, untilMs, isContinued });
    book.arms[index] = { session, epoch, ...under, untilMs, boot: machine.boot };
    book.lastArms[index] = book.arms[index];
    this.counters.renewals++;
    this.#onActivation(index, name, book, epoch, session, under);
  }

  /** I3: what the workload is told is never more than what is held, when it is decided: carrying it out may be late. */
  #onLeaseFileMade(
    machine: Machine,
    effect: CoreEffect & { readonly kind: 'lease-file' },
    now: Instant,
  ): void {
    const { name, epoch, authorityUntilMs } = effect;
    if (authorityUntilMs === null || authorityUntilMs >= foreverMs) return;
    if (authorityUntilMs <= now.authorityMs)
      throw new Breach('I3', `h${machine.index} opens ${name} after its end`);
    const arm = this.#book(name).arms[machine.index] ?? null;
    if (arm === null || authorityUntilMs > arm.untilMs || epoch !== arm.epoch)
      throw new Breach('I3', `h${machine.index} opens ${name} for longer than it holds it`);
  }

  #now(machine: Machine): Instant {
    const realMs = this.#world.nowMs;
    return { monoMs: machine.monoMs(realMs), authorityMs: machine.authorityMs(realMs) };
  }

  /** I4 and I5: a quorum of distinct voters of one configuration refuses others for longer than this authority lasts. */
  #certificate(
    machine: Machine,
    book: LeaseBook,
    tenure: { name: string; session: string; untilMs: number; isContinued: boolean },
  ): { generation: number; n: number } {
    const { name, session, untilMs, isContinued } = tenure;
    const endMs = machine.realOfAuthority(untilMs, this.#world.nowMs);
    let seen = '';
    const core = this.#world.guards[machine.index]?.core;
    const config = core?.status(this.#now(machine)).chosen?.config;
    if (config !== undefined) {
      const key = `${config.generation}/${config.n}`;
      let count = 0;
      let isFull = false;
      for (const voter of config.voters) {
        const index = this.#world.indexOf(voter);
        if (!this.#excludes(index, book, session, key, endMs)) continue;
        count++;
        isFull ||= book.acceptors[index]?.record?.isFull === true;
      }
      const isPair = config.voters.length === 2 && isContinued && !isFull;
      const need = isPair ? 1 : majorityOf(config.voters.length);
      if (count >= need) return { generation: config.generation, n: config.n };
      seen = ` (${key}: ${count} of ${need})`;
    }
    throw new Breach('I5', `h${machine.index} holds ${name} without a quorum that lasts${seen}`);
  }

  #excludes(index: number, book: LeaseBook, session: string, key: string, endMs: number): boolean {
    const machine = this.#world.machines[index];
    const record = book.acceptors[index]?.record;
    if (machine === undefined) return false;
    const realMs = this.#world.nowMs;
    if (machine.isUp && machine.realOfMono(this.#silentUntil[index] ?? 0, realMs) >= endMs)
      return true;
    if (!machine.isUp) return true;
    if (record === null || record === undefined || record.session !== session) return false;
    if (`${record.generation}/${record.n}` !== key || record.boot !== machine.boot) return false;
    return machine.realOfMono(record.deadlineMonoMs, realMs) >= endMs - 0.001;
  }

  #onActivation(
    host: number,
    name: string,
    book: LeaseBook,
    epoch: number,
    session: string,
    under: { generation: number; n: number },
  ): void {
    this.#epochUnder.set(name, this.#raise(this.#epochUnder.get(name) ?? [], under.n, epoch));
    this.#adjacent(under, name);
    const last = book.activations.at(-1);
    if (
      last !== undefined &&
      last.epoch === epoch &&
      last.host === host &&
      last.session === session
    )
      return;
    // What is parked within a second after an operator's word is taken for what he meant.
    if ((book.forcedMs[host] ?? -1e9) + 1_100 > book.parkedMs && book.forcedMs[host] !== undefined)
      book.parkedBy = null;
    if (book.parkedBy !== null && book.parkedBy !== host)
      throw new Breach('I18', `h${host} takes ${name}, which h${book.parkedBy} has parked`);
    if (last !== undefined && epoch <= last.epoch && !this.#isKept(name))
      throw new Breach(
        'I8',
        `${name}: epoch ${epoch} of h${host} after ${last.epoch} of h${last.host}`,
      );
    book.activations.push({ epoch, host, session, atMs: this.#world.nowMs });
    this.counters.activations++;
  }

  #raise(list: number[], n: number, epoch: number): number[] {
    while (list.length <= n) list.push(0);
    list[n] = Math.max(list[n] ?? 0, epoch);
    return list;
  }

  /** I12: nobody lives under voters two steps back. */
  #adjacent(under: { generation: number; n: number }, name: string): void {
    for (const [index, machine] of this.#world.machines.entries()) {
      const arm = this.#book(name).arms[index];
      if (arm === null || arm === undefined || arm.boot !== machine.boot) continue;
      if (arm.generation !== under.generation || arm.n >= under.n - 1) continue;
      if (arm.untilMs >= foreverMs) continue;
      if (machine.authorityMs(this.#world.nowMs) < arm.untilMs)
        throw new Breach(
          'I12',
          `h${index} holds ${name} under voters ${arm.n}, another under ${under.n}`,
        );
    }
  }

  // ---- Gates -------------------------------------------------------------------------------------------------------------

  onThaw(machine: Machine, gate: SimGate): void {
    const { process } = gate;
    const fence = this.#book(gate.name).fences[machine.index];
    if (fence?.epoch === gate.fileEpoch && !fence.isDone)
      throw new Breach('I16', `h${machine.index} opens ${gate.name} before its owner is fenced`);
    if (process !== null && process.epoch !== gate.fileEpoch && !this.#isKept(gate.name)) {
      const { activations } = this.#book(gate.name);
      const lease = this.#world.truth.leases.find(({ spec }) => spec.name === gate.name);
      const since = activations.findLast(({ epoch }) => epoch === gate.fileEpoch);
      const isOlder = since !== undefined && process.startedMs < since.atMs;
      const foreign = activations.some(
        ({ epoch, host }) =>
          epoch > process.epoch && epoch <= gate.fileEpoch && host !== machine.index,
      );
      if (isOlder && (foreign || (lease?.onLoss === 'stop' && this.#isPolicyFixed())))
        throw new Breach(
          'I16',
          `h${machine.index} thaws what was started under epoch ${process.epoch} of ${gate.name} under ${gate.fileEpoch}`,
        );
    }
    this.#exclusion(machine, gate);
  }

  #isPolicyFixed(): boolean {
    return !this.#world.options.acts.includes('profile');
  }

  /** The command that takes the last owner's power was asked for, or has done it. */
  onFence(machine: Machine, name: string, epoch: number, isDone: boolean): void {
    this.#book(name).fences[machine.index] = { epoch, isDone };
    if (isDone) this.counters.fences++;
  }

  onShut(_machine: Machine, _gate: SimGate): void {}

  onStarted(machine: Machine, gate: SimGate): void {
    this.#exclusion(machine, gate);
  }

  #isKept(name: string): boolean {
    return this.#world.truth.leases.some(
      ({ spec, onLoss }) => spec.name === name && (onLoss === 'keep' || spec.onLoss === 'keep'),
    );
  }

  /** I1. */
  #exclusion(machine: Machine, gate: SimGate): void {
    if (!gate.isRunning || this.#isKept(gate.name)) return;
    if (this.#isExcused(machine, gate)) return;
    for (const other of this.#world.machines) {
      if (other === machine || !other.isUp || other.isAsleep) continue;
      const theirs = other.gates.get(gate.name);
      if (theirs === undefined || !theirs.isRunning || this.#isExcused(other, theirs)) continue;
      throw new Breach('I1', `${gate.name} runs on h${machine.index} and h${other.index}`);
    }
    this.#write(machine, gate);
  }

  /** I9: who may write is not refused by a resource that has seen a higher epoch. */
  #write(machine: Machine, gate: SimGate): void {
    if (gate.trafficUntilMs <= machine.authorityMs(this.#world.nowMs)) return;
    const book = this.#book(gate.name);
    if (gate.fileEpoch < book.written)
      throw new Breach(
        'I9',
        `h${machine.index} writes ${gate.name} with ${gate.fileEpoch} after ${book.written}`,
      );
    book.written = gate.fileEpoch;
  }

  #isExcused(machine: Machine, gate: SimGate): boolean {
    if (gate.isBroken || machine.isAsleep) return true;
    const realMs = this.#world.nowMs;
    if (gate.fileUntilMs !== null && machine.authorityMs(realMs) < gate.fileUntilMs) return false;
    // Given up a moment ago: the kernel is about to freeze it.
    if (gate.fileUntilMs === null && realMs - gate.fileAtMs < settleMs) return true;
    const guard = this.#world.guards[machine.index];
    if (guard === undefined || !guard.isPrompt()) return true;
    return realMs - guard.promptSinceMs < settleMs;
  }

  onTraffic(machine: Machine, gate: SimGate): void {
    const realMs = this.#world.nowMs;
    if (gate.trafficUntilMs <= machine.authorityMs(realMs) || this.#isKept(gate.name)) return;
    for (const other of this.#world.machines) {
      if (other === machine || !other.isUp) continue;
      const theirs = other.gates.get(gate.name);
      if (theirs === undefined || theirs.trafficUntilMs <= other.authorityMs(realMs)) continue;
      throw new Breach(
        'I2',
        `traffic of ${gate.name} is let in on h${machine.index} and h${other.index}`,
      );
    }
  }

  /** I15, and I1 as time passes. */
  afterEvent(): void {
    for (const machine of this.#world.machines) {
      if (!machine.isUp || machine.isAsleep) continue;
      for (const gate of machine.gateList) {
        if (gate.isFrozen) continue;
        if (gate.process !== null) this.#exclusion(machine, gate);
        if (gate.fileUntilMs !== null && gate.fileUntilMs >= foreverMs) continue;
        if (this.#isKept(gate.name)) continue;
        if (this.#isLateToClose(machine, gate))
          throw new Breach('I15', `h${machine.index} does not freeze ${gate.name} in time`);
        if (this.#isExcused(machine, gate)) continue;
        const authorityMs = machine.authorityMs(this.#world.nowMs);
        if (gate.fileUntilMs === null || authorityMs > gate.fileUntilMs + clockMarginMs)
          throw new Breach(
            'I15',
            `the gate of ${gate.name} on h${machine.index} is open without authority`,
          );
      }
    }
  }

  /** It has been prompt since the moment at which it should have frozen, and the kernel has had its time. */
  #isLateToClose(machine: Machine, gate: SimGate): boolean {
    const { fileUntilMs } = gate;
    if (fileUntilMs === null || gate.isBroken || !this.#isPolicyFixed()) return false;
    const lease = this.#desired[machine.index]?.leases.find(({ name }) => name === gate.name);
    if (lease === undefined) return false;
    const realMs = this.#world.nowMs;
    const freezeMs = fileUntilMs - profiles[lease.profile].freezeBeforeMs;
    if (machine.authorityMs(realMs) < freezeMs + settleMs * (1 + clockRateError)) return false;
    const guard = this.#world.guards[machine.index];
    return guard?.isPrompt() === true && realMs - guard.promptSinceMs >= settleMs;
  }

  // ---- Voters --------------------------------------------------------------------------------------------------------------

  onDurable(machine: Machine, record: DurableRecord): void {
    if (record.kind !== 'chosen') return;
    this.#learnConfig(record.chosen);
    const { generation } = record.chosen.config;
    this.onLink(machine, record.chosen);
    // Voters by force: who had no part in it forgets what it granted under the old ones.
    if (generation > (this.#generations[machine.index] ?? 0)) this.#doubt(machine.index);
    this.#generations[machine.index] = generation;
  }

  /** What counts for a voter that lost memory is a link beyond all that it had. */
  onLink(machine: Machine, { config, electorate }: ChosenConfig): void {
    const { index, id } = machine;
    const beyond = this.#forgotten[index] ?? null;
    if (beyond !== null && compareRefs(config, beyond) > 0) {
      const isOut = !config.voters.includes(id) || !electorate.includes(id);
      if (isOut || config.generation > beyond.generation) this.#forgotten[index] = null;
    }
    const newest = this.#newestLinks[index];
    if (newest === undefined || compareRefs(config, newest) > 0) this.#newestLinks[index] = config;
  }

  /** I12 and I14: one line of configurations per generation, each a step from the last, above every epoch two steps back. */
  #learnConfig(chosen: ChosenConfig): void {
    const { config } = chosen;
    const key = `${config.generation}/${config.n}`;
    const text = JSON.stringify(config);
    const known = this.#configTexts.get(key);
    if (known !== undefined) {
      if (known !== text)
        throw new Breach('I12', `two voter configurations ${key}: ${known} and ${text}`);
      return;
    }
    this.#configTexts.set(key, text);
    this.#configs.set(key, chosen);
    this.counters.configs++;
    const newest = this.#newest?.config;
    if (
      newest === undefined ||
      config.generation > newest.generation ||
      (config.generation === newest.generation && config.n > newest.n)
    )
      this.#newest = chosen;
    const before = this.#configs.get(`${config.generation}/${config.n - 1}`)?.config;
    if (before !== undefined) {
      const changed =
        config.voters.filter((voter) => !before.voters.includes(voter)).length +
        before.voters.filter((voter) => !config.voters.includes(voter)).length;
      if (changed > 1)
        throw new Breach('I12', `configuration ${key} changes ${changed} voters at once`);
    }
    for (const [name, epochs] of this.#epochUnder) {
      const floor = config.floors.find((one) => one.name === name)?.epoch ?? config.floorRest;
      for (let n = 0; n <= config.n - 2; n++)
        if (floor < (epochs[n] ?? 0))
          throw new Breach(
            'I14',
            `configuration ${key} lets ${name} fall to ${floor} below ${epochs[n]}`,
          );
    }
  }

  // ---- Operators -----------------------------------------------------------------------------------------------------------

  onCommand(machine: Machine, command: GuardCommand, _id: number): void {
    if (command.kind === 'unpark' || command.kind === 'park') {
      for (const [name, book] of this.#books) {
        if (command.name !== null && command.name !== name) continue;
        const isUnpark = command.kind === 'unpark';
        if (isUnpark) book.isUnparking[machine.index] = true;
        if (isUnpark && book.parkedBy === machine.index) book.parkedBy = null;
      }
    }
    if (command.kind === 'force-active') {
      const book = this.#book(command.name);
      book.parkedBy = null;
      book.forced = true;
      book.forcedMs[machine.index] = this.#world.nowMs;
    }
    if (command.kind === 'force-voters') this.#isForcing = true;
    if (command.kind === 'force-voters')
      for (const book of this.#books.values()) book.parkedBy = null;
  }

  /** Y10: a tick of a job is begun at most once, whatever hosts and clocks there are. */
  onTick(host: number, tick: number): void {
    const before = this.#ticks.get(tick);
    if (before !== undefined)
      throw new Breach('Y10', `h${host} begins tick ${tick}, which h${before} has begun`);
    this.#ticks.set(tick, host);
    this.counters.ticks++;
  }

  onReply(machine: Machine, command: GuardCommand, reply: GuardReply): void {
    if (!reply.isOk) return;
    if (command.kind === 'switch') this.counters.handovers++;
  }

  onNotice(_machine: Machine, _notice: GuardNotice): void {}
}

interface SeenSeat {
  readonly granted: {
    readonly host: HostId;
    readonly session: string;
    readonly counter: number;
  } | null;
  readonly untilMs: number;
  readonly promised: number;
  /** Session. */
  readonly promisedTo: string;
}

function isHeld(state: unknown, name: string): boolean {
  const agent = (state as CoreMemory).agents.find((one) => one.name === name);
  return agent !== undefined && (agent.isHolding || agent.isParked);
}

/** White box: what the core would store of this lease's acceptor. */
function seatOf(state: unknown, name: string): SeenSeat | null {
  const { seats } = (state as { readonly acceptor: AcceptorState }).acceptor;
  const seat = seats.find(([known]) => known === name);
  if (seat === undefined) return null;
  const [, promised, granted, untilMs] = seat;
  const promisedTo = promised?.session ?? '';
  return { granted, untilMs, promised: promised?.counter ?? 0, promisedTo };
}
