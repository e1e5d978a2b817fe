/**
 * One voter's part in choosing the next link: what it has promised and accepted, and since when it may vote at all.
 *
 * A voter votes only after it has been in its link for so long that every lease granted under the link before is over
 * (`voteWaitMs`, on its own clock, from adoption or process start). In a link of two voters it first enters *intent*:
 * from then on its answers say `isFull`, so that renewals need both voters, and it votes only when every renewal that
 * was made without that has run out. Without the wait, or with an intent forgotten by a restart, two holders are found
 * by random search (`daemon/docs/leases.md`). All this is judged here, by the voter: who asks is not trusted with it.
 *
 * A force asks under a generation above ours and n = -1: another slot, of the same kind.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { DurableRecord } from './core-api.ts';
import type {
  ChainAccept,
  ChainAccepted,
  ChainPrepare,
  ChainPromise,
  ConfigRef,
} from './messages.ts';
import { compareBallots } from './model.ts';
import type { Ballot, ChosenConfig, Instant, VoterConfig } from './model.ts';
import {
  chainLimits,
  compareRefs,
  configFault,
  configHash,
  keepsVoters,
  noLink,
  stepFault,
  voteWaitMs,
} from './voter-config.ts';
import type { Floors } from './voter-config.ts';

/** Intent is given up when nobody has pursued the step for so long and nothing was accepted. */
export const intentIdleMs = 60_000;

/** Forces that overlap; of more, the oldest are forgotten. */
export const partsMax = 32;

/** What was said about one undecided link. Named by the link before it; n = -1: by force, into `generation`. */
export interface Slot {
  readonly generation: number;
  readonly n: number;
  readonly promised: Ballot | null;
  readonly accepted: { readonly ballot: Ballot; readonly config: VoterConfig } | null;
}

/** `DurableRecord` 'chain'. */
export interface ChainState {
  readonly v: 1;
  readonly slot: Slot | null;
  readonly force: Slot | null;
  /**
   * Generations above ours in whose forces this host has a part, newest last. `force` tells only of the highest: another may be
   * chosen after it was asked for a higher one. Absent in older logs.
   */
  readonly parts?: readonly number[];
  /** The longest exclusion under the link that this host was in before (generation, n). */
  readonly before: {
    readonly generation: number;
    readonly n: number;
    readonly ttlMsMax: number;
  } | null;
}

/** The answer goes out when the records are durable. Null: none. */
export interface Vote<Answer> {
  readonly records: readonly DurableRecord[];
  readonly answer: Answer | null;
}

export interface VoterOptions {
  readonly self: HostId;
  readonly state: ChainState | null;
  /** n of a link in which intent was entered. */
  readonly intentN: number | null;
  /** The record of what was promised could not be read: no vote before the next link. */
  readonly hasForgotten: boolean;
}

export class ChainVoter {
  readonly #self: HostId;
  #state: ChainState;
  #isForgetful: boolean;
  #intentN: number | null;
  #intentAtMs = 0;
  #sinceMs = 0;
  #askedAtMs = 0;

  constructor(options: VoterOptions) {
    this.#self = options.self;
    this.#state = options.state ?? { v: 1, slot: null, force: null, before: null };
    this.#isForgetful = options.hasForgotten;
    this.#intentN = options.intentN;
  }

  /** A process start: nothing that this host waited for before counts. */
  start(now: Instant): void {
    this.#sinceMs = now.monoMs;
    this.#intentAtMs = now.monoMs;
    this.#askedAtMs = now.monoMs;
  }

  isFull(current: ChosenConfig): boolean {
    return current.config.voters.length === 2 && this.#intentN === current.config.n;
  }

  /**
   * True when `chosen` is the very link that a force made, and this host was asked for it as a survivor. Otherwise it counts as
   * dead: it forgets what it granted, which a survivor must not, since those leases may still be held.
   */
  tookPart(chosen: ChosenConfig): boolean {
    const isAsked = partsOf(this.#state).includes(chosen.config.generation);
    return isAsked && keepsVoters(chosen) && chosen.electorate.includes(this.#self);
  }

  /** Of the forces in which this host has a part; 0: none. */
  get newestPart(): number {
    return Math.max(0, ...partsOf(this.#state));
  }

  get promisedCounter(): number {
    return Math.max(
      this.#state.slot?.promised?.counter ?? 0,
      this.#state.force?.promised?.counter ?? 0,
    );
  }

  /** Longest exclusion that this host may have granted itself and that may still be out. */
  exclusionMsMax(current: ChosenConfig): number {
    const { before } = this.#state;
    return Math.max(current.config.ttlMsMax, before?.ttlMsMax ?? 0);
  }

  /** What to make durable together with `next`, before it takes effect. Changes nothing yet. */
  recordsOfEntering(next: ChosenConfig, current: ChosenConfig | null): DurableRecord[] {
    const records: DurableRecord[] = [
      { kind: 'chosen', chosen: next },
      chainRecord(this.#entered(next, current)),
    ];
    if (this.#intentN !== null) records.push({ kind: 'intent', n: next.config.n, isOn: false });
    return records;
  }

  enter(next: ChosenConfig, current: ChosenConfig | null, now: Instant): void {
    this.#state = this.#entered(next, current);
    this.#isForgetful = false;
    this.#intentN = null;
    this.#sinceMs = now.monoMs;
  }

  prepare(
    message: ChainPrepare,
    current: ChosenConfig,
    floors: Floors,
    now: Instant,
  ): Vote<ChainPromise> {
    const isForce = message.n === noLink;
    const records = isForce ? [] : this.#enterIntent(current, now);
    const waitMs = this.#waitMs(current, isForce, now);
    const slot = this.#slotOf(message);
    if (slot === null || (this.#isForgetful && !isForce)) return { records, answer: null };
    const isOpen = waitMs === 0 && isAtLeast(message.ballot, slot.promised);
    if (isOpen) records.push(this.#keep({ ...slot, promised: message.ballot }, isForce));
    const answer: ChainPromise = {
      kind: 'chain-promise',
      env: message.env,
      generation: message.generation,
      n: message.n,
      ballot: message.ballot,
      isOpen,
      waitMs,
      promised: isOpen ? message.ballot : slot.promised,
      accepted: isOpen ? slot.accepted : null,
      floors: isOpen ? floors.floors : [],
      floorRest: isOpen ? floors.rest : 0,
    };
    return { records, answer };
  }

  accept(message: ChainAccept, current: ChosenConfig, now: Instant): Vote<ChainAccepted> {
    const isForce = message.n === noLink;
    const { ballot, config } = message;
    const fault = isForce ? this.#forceFault(message) : stepFault(current.config, config);
    if (fault !== null) return { records: [], answer: null };
    const records = isForce ? [] : this.#enterIntent(current, now);
    const waitMs = this.#waitMs(current, isForce, now);
    const slot = this.#slotOf(message);
    if (slot === null || (this.#isForgetful && !isForce)) return { records, answer: null };
    const isAccepted = waitMs === 0 && isAtLeast(ballot, slot.promised);
    if (isAccepted) {
      const accepted = { ballot, config };
      records.push(this.#keep({ ...slot, promised: ballot, accepted }, isForce));
    }
    const answer: ChainAccepted = {
      kind: 'chain-accepted',
      env: message.env,
      generation: message.generation,
      n: message.n,
      ballot,
      hash: configHash(config),
      isAccepted,
      waitMs,
      promised: isAccepted ? ballot : slot.promised,
    };
    return { records, answer };
  }

  nextDeadlineMs(): number {
    return this.#mayDropIntent() ? this.#askedAtMs + intentIdleMs : Infinity;
  }

  /**
   * Nobody goes on with the step: renewals may do with one voter again. Safe because this host has accepted nothing, and
   * would wait anew before it does.
   */
  tick(now: Instant): DurableRecord[] {
    if (!this.#mayDropIntent() || now.monoMs < this.#askedAtMs + intentIdleMs) return [];
    const n = this.#intentN ?? 0;
    this.#intentN = null;
    return [{ kind: 'intent', n, isOn: false }];
  }

  #mayDropIntent(): boolean {
    const { slot } = this.#state;
    return this.#intentN !== null && (slot?.n !== this.#intentN || slot.accepted === null);
  }

  /** From the moment it is set every answer says `isFull`; its time is counted from here. */
  #enterIntent(current: ChosenConfig, now: Instant): DurableRecord[] {
    this.#askedAtMs = now.monoMs;
    const { voters, n } = current.config;
    if (voters.length !== 2 || this.#intentN === n) return [];
    this.#intentN = n;
    this.#intentAtMs = now.monoMs;
    return [{ kind: 'intent', n, isOn: true }];
  }

  /** Milliseconds until this voter may vote; 0: it may. */
  #waitMs(current: ChosenConfig, isForce: boolean, now: Instant): number {
    const wait = voteWaitMs(this.#ttlMsToOutlive(current));
    const isPair = current.config.voters.length === 2 && !isForce;
    const fromMs = isPair ? Math.max(this.#sinceMs, this.#intentAtMs) : this.#sinceMs;
    return Math.max(0, Math.ceil(fromMs + wait - now.monoMs));
  }

  /** Of this link and the one before: that one is known, or had the same unless the voters stayed the same. */
  #ttlMsToOutlive(current: ChosenConfig): number {
    const { config } = current;
    const { before } = this.#state;
    const isKnown = before?.generation === config.generation && before.n === config.n - 1;
    if (!isKnown && keepsVoters(current)) return chainLimits.ttlMsMax;
    return Math.max(config.ttlMsMax, before?.ttlMsMax ?? 0);
  }

  #slotOf(ref: ConfigRef): Slot | null {
    const { slot, force } = this.#state;
    const known = ref.n === noLink ? force : slot;
    if (known === null || compareRefs(ref, known) > 0) {
      return { generation: ref.generation, n: ref.n, promised: null, accepted: null };
    }
    return compareRefs(ref, known) === 0 ? known : null;
  }

  #keep(slot: Slot, isForce: boolean): DurableRecord {
    const parts = [...new Set([...partsOf(this.#state), slot.generation])].slice(-partsMax);
    this.#state = isForce ? { ...this.#state, force: slot, parts } : { ...this.#state, slot };
    return chainRecord(this.#state);
  }

  #forceFault(message: ChainAccept): string | null {
    const { config, ballot, generation, env } = message;
    if (config.generation !== generation || config.env !== env) return 'another generation';
    const has = (host: HostId) => config.voters.includes(host);
    return has(this.#self) && has(ballot.host) ? configFault(config) : 'not a survivor';
  }

  #entered(next: ChosenConfig, current: ChosenConfig | null): ChainState {
    const { force } = this.#state;
    // Who helped to force has waited out the link that the force replaced.
    const last = this.tookPart(next)
      ? { generation: next.config.generation, n: next.config.n - 1 }
      : { generation: current?.config.generation ?? 0, n: current?.config.n ?? noLink };
    const before = current === null ? null : { ...last, ttlMsMax: current.config.ttlMsMax };
    return {
      v: 1,
      slot: null,
      force: force !== null && force.generation > next.config.generation ? force : null,
      parts: partsOf(this.#state).filter((generation) => generation > next.config.generation),
      before,
    };
  }
}

function partsOf({ parts, force }: ChainState): readonly number[] {
  return parts ?? (force === null ? [] : [force.generation]);
}

function chainRecord(state: ChainState): DurableRecord {
  return { kind: 'chain', state };
}

function isAtLeast(ballot: Ballot, promised: Ballot | null): boolean {
  return promised === null || compareBallots(ballot, promised) >= 0;
}
