/**
 * The asking side of the chain: one attempt at a time to have the next link chosen, for as long as there is a goal.
 *
 * prepare -> promises of a majority -> accept -> accepted by a majority. What a promise says was accepted before goes first,
 * whoever's it was. Floors of the link are the highest that the majority and the link before know.
 *
 * Before it asks a link of two voters, it makes sure that both are there (`reach`): the question alone makes a voter enter
 * intent, and a holder whose peer is dead would lose by that what the pair is for.
 *
 * A force needs the promises of all survivors, for their epochs, and takes a new generation whenever it meets what another
 * force has had accepted.
 */
import { compareText } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { HostId } from '../../crdt/ids.ts';
import type { Random } from '../ports.ts';
import type {
  ChainAccept,
  ChainAccepted,
  ChainPrepare,
  ChainPromise,
  ConfigAsk,
  ConfigRef,
} from './messages.ts';
import { compareBallots, majorityOf } from './model.ts';
import type { Ballot, ChosenConfig, Instant, VoterConfig } from './model.ts';
import { compareRefs, configHash, mergeFloors, noLink, raiseAll, refOf } from './voter-config.ts';

export const proposerTimes = Object.freeze({
  attemptMs: 3_000,
  resendMs: 300,
  backoffMsMin: 50,
  backoffMsMax: 10_000,
});

export type Goal =
  | { readonly kind: 'step'; readonly voters: readonly HostId[]; readonly ttlMsMax: number }
  | { readonly kind: 'force'; readonly voters: readonly HostId[]; readonly ttlMsMax: number };

type Question = ConfigAsk | ChainPrepare | ChainAccept;

export interface Moves {
  readonly sends: readonly { readonly to: HostId; readonly message: Question }[];
  /** A majority has accepted it. */
  readonly chosen: ChosenConfig | null;
}

interface Attempt {
  readonly goal: Goal;
  readonly base: ChosenConfig;
  readonly ref: ConfigRef;
  readonly ballot: Ballot;
  readonly electorate: readonly HostId[];
  phase: 'reach' | 'prepare' | 'accept';
  readonly reached: Set<HostId>;
  readonly promises: Map<HostId, ChainPromise>;
  readonly accepts: Set<HostId>;
  readonly refusals: Set<HostId>;
  waitMs: number;
  proposal: { readonly config: VoterConfig; readonly hash: string } | null;
  resendAtMs: number;
  readonly endsAtMs: number;
}

const still: Moves = { sends: [], chosen: null };

export class ChainProposer {
  readonly #self: HostId;
  readonly #random: Random;
  readonly #session: string;
  #counter: number;
  #generationSeen = 0;
  #attempt: Attempt | null = null;
  #nextTryMs = 0;
  #failures = 0;
  #hasGoal = false;

  /** `counter`, `generation`: from before this start, below which nothing is asked. */
  constructor(options: { self: HostId; random: Random; counter: number; generation: number }) {
    this.#self = options.self;
    this.#generationSeen = options.generation;
    this.#random = options.random;
    this.#counter = options.counter;
    // Ballots of different runs differ by this; nothing about them needs the disk.
    this.#session = hex(options.random.bytes(12));
  }

  /** Somebody has, or had, voters of this generation: a force is above it. */
  sawGeneration(generation: number): void {
    this.#generationSeen = Math.max(this.#generationSeen, generation);
  }

  /** A link took effect: whatever was asked before is over. */
  reset(now: Instant): void {
    this.#attempt = null;
    this.#failures = 0;
    this.#nextTryMs = now.monoMs;
  }

  nextDeadlineMs(): number {
    if (this.#attempt !== null) return Math.min(this.#attempt.resendAtMs, this.#attempt.endsAtMs);
    return this.#hasGoal ? this.#nextTryMs : Infinity;
  }

  tick(current: ChosenConfig, goal: Goal | null, now: Instant): Moves {
    this.#hasGoal = goal !== null;
    const attempt = this.#attempt;
    if (goal === null || (attempt !== null && !sameGoal(attempt.goal, goal))) this.#attempt = null;
    if (goal === null) return still;
    if (this.#attempt === null) {
      return now.monoMs >= this.#nextTryMs ? this.#begin(current, goal, now) : still;
    }
    if (now.monoMs >= this.#attempt.endsAtMs) return this.#fail(this.#attempt, now);
    return now.monoMs >= this.#attempt.resendAtMs ? this.#ask(this.#attempt, now) : still;
  }

  /** `from` has answered and knows the link that is to be followed. */
  reached(from: HostId, now: Instant): Moves {
    const attempt = this.#attempt;
    if (attempt?.phase !== 'reach' || !attempt.electorate.includes(from)) return still;
    attempt.reached.add(from);
    if (attempt.reached.size < attempt.electorate.length) return still;
    attempt.phase = 'prepare';
    return this.#ask(attempt, now);
  }

  promise(from: HostId, message: ChainPromise, now: Instant): Moves {
    const attempt = this.#matching(from, message, 'prepare');
    if (attempt === null) return still;
    if (!message.isOpen) return this.#refused(attempt, from, message, now);
    attempt.promises.set(from, message);
    const isEnough = attempt.promises.size >= promisesNeeded(attempt);
    return isEnough ? this.#propose(attempt, now) : still;
  }

  accepted(from: HostId, message: ChainAccepted, now: Instant): Moves {
    const attempt = this.#matching(from, message, 'accept');
    const proposal = attempt?.proposal ?? null;
    if (attempt === null || message.hash !== proposal?.hash) return still;
    if (!message.isAccepted) return this.#refused(attempt, from, message, now);
    attempt.accepts.add(from);
    if (attempt.accepts.size < majorityOf(attempt.electorate.length)) return still;
    const { electorate } = attempt;
    const votes = [...attempt.accepts].toSorted(compareText);
    // Until the link takes effect here nothing is asked; should that fail, the same link is chosen again.
    this.#attempt = null;
    this.#nextTryMs = now.monoMs + proposerTimes.attemptMs;
    return { sends: [], chosen: { config: proposal.config, electorate, votes } };
  }

  #begin(current: ChosenConfig, goal: Goal, now: Instant): Moves {
    const isForce = goal.kind === 'force';
    const { env, generation } = current.config;
    const above = Math.max(this.#generationSeen, generation) + 1;
    this.#counter += 1;
    const electorate = isForce ? goal.voters : current.config.voters;
    const attempt: Attempt = {
      goal,
      base: current,
      ref: isForce ? { env, generation: above, n: noLink } : refOf(current.config),
      ballot: { counter: this.#counter, host: this.#self, session: this.#session },
      electorate,
      phase: !isForce && electorate.length === 2 ? 'reach' : 'prepare',
      reached: new Set(electorate.filter((host) => host === this.#self)),
      promises: new Map(),
      accepts: new Set(),
      refusals: new Set(),
      waitMs: 0,
      proposal: null,
      resendAtMs: 0,
      endsAtMs: now.monoMs + proposerTimes.attemptMs,
    };
    this.#attempt = attempt;
    return this.#ask(attempt, now);
  }

  /** Asks those who have not answered in this phase. */
  #ask(attempt: Attempt, now: Instant): Moves {
    attempt.resendAtMs = now.monoMs + proposerTimes.resendMs;
    const { phase, ref, ballot, base } = attempt;
    const sends = [];
    for (const to of attempt.electorate) {
      if (hasAnswered(attempt, to)) continue;
      if (phase === 'reach') {
        sends.push({ to, message: { kind: 'config-ask', ...refOf(base.config) } as const });
      } else if (phase === 'prepare') {
        sends.push({ to, message: { kind: 'chain-prepare', ...ref, ballot } as const });
      } else if (attempt.proposal !== null) {
        const { config } = attempt.proposal;
        sends.push({ to, message: { kind: 'chain-accept', ...ref, ballot, config } as const });
      }
    }
    return { sends, chosen: null };
  }

  #propose(attempt: Attempt, now: Instant): Moves {
    const earlier = highestAccepted([...attempt.promises.values()]);
    if (earlier !== null && attempt.goal.kind === 'force') {
      this.#generationSeen = attempt.ref.generation;
      return this.#fail(attempt, now);
    }
    const config = earlier ?? this.#configOf(attempt);
    attempt.phase = 'accept';
    attempt.proposal = { config, hash: configHash(config) };
    attempt.refusals.clear();
    return this.#ask(attempt, now);
  }

  #configOf(attempt: Attempt): VoterConfig {
    const { base, goal, ref } = attempt;
    const known = [...attempt.promises.values()].map((promise) => ({
      floors: promise.floors,
      rest: promise.floorRest,
    }));
    const merged = mergeFloors([
      ...known,
      { floors: base.config.floors, rest: base.config.floorRest },
    ]);
    const isForce = goal.kind === 'force';
    const { floors, rest } = isForce ? raiseAll(merged, ref.generation) : merged;
    return {
      env: base.config.env,
      n: base.config.n + 1,
      prevHash: configHash(base.config),
      generation: ref.generation,
      voters: goal.voters,
      ttlMsMax: goal.ttlMsMax,
      floors,
      floorRest: rest,
    };
  }

  #refused(
    attempt: Attempt,
    from: HostId,
    answer: ChainPromise | ChainAccepted,
    now: Instant,
  ): Moves {
    this.#counter = Math.max(this.#counter, answer.promised?.counter ?? 0);
    if (answer.waitMs > 0) {
      attempt.waitMs =
        attempt.waitMs === 0 ? answer.waitMs : Math.min(attempt.waitMs, answer.waitMs);
    }
    attempt.refusals.add(from);
    const needed =
      attempt.phase === 'prepare' ? promisesNeeded(attempt) : majorityOf(attempt.electorate.length);
    const isHopeless = attempt.electorate.length - attempt.refusals.size < needed;
    return isHopeless ? this.#fail(attempt, now) : still;
  }

  /** Tries again when the first voter that asked for time has had it, else after a while that doubles. */
  #fail(attempt: Attempt, now: Instant): Moves {
    this.#attempt = null;
    const { backoffMsMin, backoffMsMax } = proposerTimes;
    const isWaiting = attempt.waitMs > 0;
    if (!isWaiting) this.#failures += 1;
    const backoff = Math.min(backoffMsMax, backoffMsMin * 2 ** Math.min(this.#failures, 16));
    const delay = isWaiting
      ? attempt.waitMs + this.#random.next() * backoffMsMin
      : backoff * (0.5 + this.#random.next() / 2);
    this.#nextTryMs = now.monoMs + delay;
    return still;
  }

  #matching(
    from: HostId,
    message: ChainPromise | ChainAccepted,
    phase: Attempt['phase'],
  ): Attempt | null {
    const attempt = this.#attempt;
    if (attempt?.phase !== phase || !attempt.electorate.includes(from)) return null;
    const isSame =
      compareBallots(message.ballot, attempt.ballot) === 0 &&
      compareRefs(message, attempt.ref) === 0;
    return isSame ? attempt : null;
  }
}

function promisesNeeded(attempt: Attempt): number {
  const { electorate, goal } = attempt;
  return goal.kind === 'force' ? electorate.length : majorityOf(electorate.length);
}

function hasAnswered(attempt: Attempt, host: HostId): boolean {
  if (attempt.refusals.has(host)) return true;
  if (attempt.phase === 'reach') return attempt.reached.has(host);
  return attempt.phase === 'prepare' ? attempt.promises.has(host) : attempt.accepts.has(host);
}

function highestAccepted(promises: readonly ChainPromise[]): VoterConfig | null {
  let highest: ChainPromise['accepted'] = null;
  for (const { accepted } of promises) {
    if (accepted === null) continue;
    if (highest === null || compareBallots(accepted.ballot, highest.ballot) > 0) highest = accepted;
  }
  return highest?.config ?? null;
}

function sameGoal(a: Goal, b: Goal): boolean {
  const isSame = a.kind === b.kind && a.ttlMsMax === b.ttlMsMax;
  return isSame && a.voters.join() === b.voters.join();
}
