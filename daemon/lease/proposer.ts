/**
 * The proposer of one lease: attempts to acquire it, renews it, parks it, gives it back.
 *
 * The idea: authority `D_P` is counted from before the first message of an attempt leaves, exclusion `D_A` from when a voter
 * grants it, later; so the first always ends inside the second, whatever the network does. `D_P` is derived from the same
 * number that travels.
 *
 * Source: M. Trencseni, "PaxosLease Revisited" (2026). What we changed, and why:
 * - A renewal is one round, an `accept` with a higher ballot: exclusion rests on grants alone. It counts only when a majority
 *   granted it AND the authority that it extends has not ended meanwhile. Without the second clause pair mode breaks at once.
 * - In a configuration of two, one grant renews (the other side needs both, and ours refuses while our grant is live), unless
 *   a voter says that it is about to leave that configuration; and only once both have granted this tenure under it. Without
 *   that, the only voter of the link before, which had not heard of this one, gave the lease to a second holder (simulator).
 * - An epoch goes with every grant. A rival's half-done attempt may have left a higher one at some voter: then renewals go on
 *   under a higher number, while the workload keeps the one under which it was started.
 */
import type { HostId } from '../../crdt/ids.ts';
import { bitCount, noteLast, unfencedBefore, victimOf, voterBit } from './attempt.ts';
import type { Attempt } from './attempt.ts';
import type { Force } from './forcing.ts';
import type {
  Accept,
  Accepted,
  ConfigRef,
  Prepare,
  PromiseReply,
  Reject,
  Release,
} from './messages.ts';
import { majorityOf } from './model.ts';
import type { Ballot, Epoch, LeaseName, Owner } from './model.ts';
import { authorityWithin } from './profiles.ts';
import type { Profile } from './profiles.ts';
import type { Turn } from './turn.ts';

/** The voters in force; a new object for every change, so that identity tells one from another. */
export interface Electorate {
  readonly ref: ConfigRef;
  readonly voters: readonly HostId[];
  readonly ttlMsMax: number;
}

export type Purpose = Accept['purpose'];

/** What came of an attempt. */
export type Outcome =
  | {
      readonly kind: 'granted';
      readonly purpose: Purpose;
      /** Every voter of the quorum that promised had this session as its last owner: nobody came between. */
      readonly isUninterrupted: boolean;
      /** The last owner, when it is not known to have given up itself; null: nobody has to be fenced. */
      readonly victim: Owner | null;
    }
  | {
      readonly kind: 'failed';
      readonly purpose: Purpose;
      readonly why: Reject['why'] | 'timeout' | 'config' | 'late';
      /** Not before this time has a further attempt a chance, as far as the voters said. */
      readonly waitMs: number;
      /** A voter showed that somebody else owned the lease after us, or does now. */
      readonly other: Owner | null;
      /** Grants of this attempt may be out: giving them back frees the others. */
      readonly isGrantOut: boolean;
    };

/**
 * The last counter of a guard's ballots, for all of its leases: kept with the session and for as long, so that no ballot is
 * ever used twice, not even when a lease is forgotten and wanted again.
 */
export interface Ballots {
  last: number;
}

/** As `volatile()` gives it. */
export interface ProposerState {
  readonly epoch: Epoch;
  readonly serveEpoch: Epoch;
  readonly heldEpoch: Epoch;
  readonly untilMs: number;
  readonly exclusionMs: number;
  /** Generation and number of the link. */
  readonly full: readonly [number, number];
  readonly ballot: Ballot | null;
  /** Absent in what older guards kept. */
  readonly unfenced?: readonly HostId[];
}

/** A renewal that was outrun by a higher ballot is repeated at once, at most so often within one renewal period. */
const raisesMax = 8;

export class Proposer {
  readonly name: LeaseName;
  profile: Profile;
  /** Epoch under which the lease was acquired: the workload's token. */
  epoch: Epoch = 0;
  /** End of our authority, on the authority clock; 0: not held. */
  untilMs = 0;
  /** Has this lease a fence command? */
  hasFence = false;
  /** Hosts that have to be fenced before anything runs under what is held; who fences one takes it away. */
  unfenced: readonly HostId[] = [];
  /** Of the next grant; raised also by what comes to nothing. */
  #serveEpoch: Epoch = 0;
  /** Of the last one that a quorum granted. */
  #heldEpoch: Epoch = 0;
  #ballot: Ballot | null = null;
  #exclusionMs = 0;
  /** Under which link a full majority has granted this tenure last. */
  #fullGeneration = 0;
  #fullN = -1;
  readonly #ballots: Ballots;
  #attempt: Attempt | null = null;
  #force: Force | null = null;
  #raises = 0;
  /** Of the last attempt that failed with grants out. */
  #failed: Ballot | null = null;
  /** Highest seen anywhere: where the next attempt starts from. */
  #epochSeen: Epoch = 0;

  constructor(name: LeaseName, profile: Profile, ballots: Ballots) {
    this.name = name;
    this.profile = profile;
    this.#ballots = ballots;
  }

  resume(state: ProposerState): void {
    this.epoch = state.epoch;
    this.#serveEpoch = state.serveEpoch;
    this.#heldEpoch = state.heldEpoch;
    this.untilMs = state.untilMs;
    this.#exclusionMs = state.exclusionMs;
    this.#fullGeneration = state.full[0];
    this.#fullN = state.full[1];
    this.#ballot = state.ballot;
    this.unfenced = state.unfenced ?? [];
  }

  volatile(): ProposerState {
    return {
      epoch: this.epoch,
      serveEpoch: this.#serveEpoch,
      heldEpoch: this.#heldEpoch,
      untilMs: this.untilMs,
      exclusionMs: this.#exclusionMs,
      full: [this.#fullGeneration, this.#fullN],
      ballot: this.#ballot,
      unfenced: this.unfenced,
    };
  }

  isHeld(turn: Turn): boolean {
    return turn.authorityMs < this.untilMs;
  }

  /** What is under way; null: nothing. */
  get purpose(): Purpose | null {
    return this.#attempt?.purpose ?? null;
  }

  get ballot(): Ballot | null {
    return this.#ballot;
  }

  /** Under which the last grant was given. */
  get exclusionMs(): number {
    return this.#exclusionMs;
  }

  get heldEpoch(): Epoch {
    return this.#heldEpoch;
  }

  nextMs(): number {
    const attempt = this.#attempt;
    return attempt ? Math.min(attempt.resendMs, attempt.giveUpMs) : Infinity;
  }

  sawEpoch(epoch: Epoch): void {
    if (epoch > this.#epochSeen) this.#epochSeen = epoch;
  }

  // ---- Beginnings -------------------------------------------------------------------------------------------------------

  /** `force`: null: in its turn, as any candidate. */
  acquire(electorate: Electorate, session: string, force: Force | null, turn: Turn): void {
    this.#force = force;
    this.#begin('acquire', electorate, session, force !== null, turn);
  }

  /** Only while held. */
  renew(electorate: Electorate, session: string, turn: Turn): void {
    this.#raises = 0;
    this.#begin('renew', electorate, session, false, turn);
  }

  /** Only while held. Every try has an epoch of its own, so that no late `unpark` can end a later park. */
  park(electorate: Electorate, session: string, turn: Turn): void {
    this.#serveEpoch = Math.max(this.#serveEpoch, this.#epochSeen) + 1;
    this.#begin('park', electorate, session, false, turn);
  }

  /** By the session that parked. */
  unpark(electorate: Electorate, session: string, turn: Turn): void {
    this.#begin('unpark', electorate, session, false, turn);
  }

  /** Ends a park that this host has outlived, at one voter; asks for no grant. */
  disown(to: HostId, electorate: Electorate, session: string, epoch: Epoch, turn: Turn): void {
    const ballot = { counter: ++this.#ballots.last, host: turn.self, session };
    turn.send(to, {
      kind: 'accept',
      ...electorate.ref,
      name: this.name,
      ballot,
      purpose: 'unpark',
      epoch,
      exclusionMs: 0,
      isForced: false,
      unfenced: [],
    });
  }

  /** Gives back what is held, or what an attempt may have left with the voters. Authority ends here and now. */
  release(electorate: Electorate, successor: HostId | null, turn: Turn): void {
    const ballot = this.#attempt?.isAccepting ? this.#attempt.ballot : this.#ballot;
    this.#attempt = null;
    this.untilMs = 0;
    this.unfenced = [];
    this.#ballot = null;
    this.#fullN = -1;
    if (ballot) this.#sendRelease(ballot, electorate, successor, turn);
  }

  /** Grants of an attempt that failed, while nothing is held and nothing runs. */
  giveBack(electorate: Electorate, turn: Turn): void {
    if (this.#failed) this.#sendRelease(this.#failed, electorate, null, turn);
    this.#failed = null;
  }

  /** Forgets what is held and tried, without a word. */
  drop(): void {
    this.#attempt = null;
    this.untilMs = 0;
    this.unfenced = [];
    this.#ballot = null;
    this.#fullN = -1;
  }

  cancel(): void {
    this.#attempt = null;
  }

  #begin(
    purpose: Purpose,
    electorate: Electorate,
    session: string,
    isForced: boolean,
    turn: Turn,
  ): void {
    const { exclusionMs } = this.profile;
    const authorityMs = Math.min(this.profile.authorityMs, authorityWithin(exclusionMs));
    const now = turn.authorityMs;
    const isAccepting = purpose !== 'acquire';
    this.#attempt = {
      purpose,
      ballot: { counter: ++this.#ballots.last, host: turn.self, session },
      electorate,
      isForced,
      exclusionMs,
      untilMs: now + authorityMs,
      giveUpMs: now + this.profile.attemptMs,
      isAccepting,
      epoch: isAccepting ? this.#serveEpoch : 0,
      resendMs: now + this.profile.resendMs,
      open: 0,
      closed: 0,
      accepted: 0,
      rejected: 0,
      isFull: false,
      isUninterrupted: true,
      epochSeen: 0,
      lasts: [],
      unfenced: purpose === 'acquire' ? [] : this.unfenced,
      isGranted: false,
      other: null,
      why: 'timeout',
      waits: [],
    };
    this.#sendAll(this.#attempt, turn);
  }

  // ---- Answers ----------------------------------------------------------------------------------------------------------

  onAnswer(from: HostId, message: PromiseReply | Accepted | Reject, turn: Turn): Outcome | null {
    switch (message.kind) {
      case 'promise':
        return this.onPromise(from, message, turn);
      case 'accepted':
        return this.onAccepted(from, message, turn);
      case 'reject':
        return this.onReject(from, message, turn);
    }
  }

  onPromise(from: HostId, message: PromiseReply, turn: Turn): Outcome | null {
    this.#saw(message.promisedCounter, message.maxEpoch);
    const attempt = this.#match(message);
    if (!attempt || attempt.isAccepting) return null;
    const bit = voterBit(attempt.electorate, from);
    if (bit === 0 || ((attempt.open | attempt.closed) & bit) !== 0) return null;
    const owner = message.maxEpochOwner;
    noteLast(attempt, message);
    if (!message.isOpen) {
      attempt.closed |= bit;
      attempt.why = message.parkedBy ? 'parked' : 'busy';
      attempt.other = message.live?.owner ?? message.parkedBy;
      attempt.waits.push(turn.authorityMs + (message.live ? message.live.remainMs : 0));
      return this.#failIfHopeless(attempt, turn);
    }
    const { parkedBy } = message;
    if (parkedBy && parkedBy.host !== turn.self && !isSame(parkedBy, this.#force?.victim ?? null)) {
      // Parked by somebody whom nobody has declared dead.
      attempt.other = parkedBy;
      return this.#fail('parked', turn);
    }
    attempt.open |= bit;
    const isOurs = owner !== null && isSame(owner, attempt.ballot);
    // An attempt of our own that came to nothing hides who held the lease before it: then nothing is certain.
    const isSinceUs = isOurs && message.maxEpoch <= this.#heldEpoch;
    if (!isSinceUs && !(parkedBy && isSame(parkedBy, attempt.ballot))) {
      attempt.isUninterrupted = false;
      if (owner && !isOurs && message.maxEpoch > this.#heldEpoch) attempt.other = owner;
    }
    if (bitCount(attempt.open) < majorityOf(attempt.electorate.voters.length)) return null;
    if (turn.authorityMs >= attempt.untilMs) return this.#fail('late', turn);
    const victim = victimOf(attempt);
    if (attempt.isForced && victim && this.#isSpared(victim, turn)) {
      attempt.other = victim;
      return this.#fail('busy', turn);
    }
    attempt.isAccepting = true;
    attempt.epoch = Math.max(attempt.epochSeen, this.#epochSeen, this.#serveEpoch) + 1;
    if (this.hasFence) attempt.unfenced = unfencedBefore(attempt, turn.self);
    attempt.resendMs = turn.authorityMs + this.profile.resendMs;
    attempt.closed = 0;
    attempt.waits.length = 0;
    this.#sendAll(attempt, turn);
    return null;
  }

  /** The operator meant another one. What this host itself has tried is in nobody's way. */
  #isSpared({ host }: Owner, turn: Turn): boolean {
    const of = this.#force?.of ?? null;
    return of !== null && host !== of && host !== turn.self;
  }

  onAccepted(from: HostId, message: Accepted, turn: Turn): Outcome | null {
    const attempt = this.#match(message);
    if (!attempt || !attempt.isAccepting) return null;
    const bit = voterBit(attempt.electorate, from);
    if (bit === 0) return null;
    attempt.accepted |= bit;
    if (message.isFull) attempt.isFull = true;
    const count = attempt.electorate.voters.length;
    // Whoever wants to take over needs a majority; so many voters suffice to deny it one. More only in pair mode.
    const isPair =
      count === 2 &&
      attempt.purpose === 'renew' &&
      !attempt.isFull &&
      this.#isFullUnder(attempt.electorate.ref);
    const needed = isPair ? count - majorityOf(count) + 1 : majorityOf(count);
    if (bitCount(attempt.accepted) < needed) return null;
    if (turn.authorityMs >= attempt.untilMs) return this.#fail('late', turn);
    const isExtending = attempt.purpose === 'renew' || attempt.purpose === 'park';
    if (isExtending && !this.isHeld(turn)) return this.#fail('late', turn);
    if (bitCount(attempt.accepted) >= majorityOf(count)) {
      this.#fullGeneration = attempt.electorate.ref.generation;
      this.#fullN = attempt.electorate.ref.n;
    }
    return this.#grant(attempt);
  }

  /** Before this, a voter of the link before may not know this one yet, and grant it to others on its own. */
  #isFullUnder(ref: ConfigRef): boolean {
    return this.#fullN === ref.n && this.#fullGeneration === ref.generation;
  }

  onReject(from: HostId, message: Reject, turn: Turn): Outcome | null {
    this.#saw(message.promisedCounter, message.maxEpoch);
    const attempt = this.#match(message);
    if (!attempt) {
      // A majority was faster; that voter serves us again from the next renewal on.
      const isOurs = this.#ballot !== null && message.ballot.session === this.#ballot.session;
      if (message.why === 'epoch' && isOurs && message.ballot.counter === this.#ballot?.counter)
        this.#serveEpoch = Math.max(this.#serveEpoch, message.maxEpoch + 1);
      return null;
    }
    const bit = voterBit(attempt.electorate, from);
    if (bit === 0) return null;
    attempt.why = message.why;
    if (attempt.purpose === 'renew') {
      // A voter that was outrun, or got a rival's higher epoch, serves us again under higher numbers.
      if (message.why === 'epoch')
        this.#serveEpoch = Math.max(this.#serveEpoch, message.maxEpoch + 1);
      else if (message.why !== 'ballot') return null;
      if (!this.isHeld(turn) || this.#raises >= raisesMax) return null;
      this.#raises++;
      this.#begin('renew', attempt.electorate, attempt.ballot.session, false, turn);
      return null;
    }
    if (((attempt.rejected | attempt.open) & bit) !== 0 && !attempt.isAccepting) return null;
    if (!attempt.isAccepting) attempt.closed |= bit;
    if ((attempt.rejected & bit) === 0) {
      attempt.rejected |= bit;
      attempt.waits.push(turn.authorityMs + message.remainMs);
    }
    return this.#failIfHopeless(attempt, turn);
  }

  /** Resends, and gives up. */
  tick(turn: Turn): Outcome | null {
    const attempt = this.#attempt;
    if (!attempt) return null;
    if (turn.authorityMs >= attempt.giveUpMs && attempt.purpose !== 'renew')
      return this.#fail(attempt.why, turn);
    if (turn.authorityMs >= attempt.untilMs) return this.#fail('late', turn);
    if (turn.authorityMs >= attempt.resendMs) {
      attempt.resendMs = turn.authorityMs + this.profile.resendMs;
      this.#sendAll(attempt, turn);
    }
    return null;
  }

  #grant(attempt: Attempt): Outcome {
    this.#attempt = null;
    this.#raises = 0;
    this.#ballot = attempt.ballot;
    this.#exclusionMs = attempt.exclusionMs;
    // After a change to a shorter profile the longer grants stand, here as with the voters.
    const isExtended = attempt.purpose === 'renew' || attempt.purpose === 'park';
    this.untilMs = isExtended ? Math.max(this.untilMs, attempt.untilMs) : attempt.untilMs;
    this.#serveEpoch = attempt.epoch;
    this.#heldEpoch = attempt.epoch;
    if (attempt.epoch > this.#epochSeen) this.#epochSeen = attempt.epoch;
    if (attempt.purpose === 'acquire') {
      this.epoch = attempt.epoch;
      this.unfenced = attempt.unfenced;
    }
    return {
      kind: 'granted',
      purpose: attempt.purpose,
      isUninterrupted: attempt.isUninterrupted,
      victim: victimOf(attempt),
    };
  }

  #failIfHopeless(attempt: Attempt, turn: Turn): Outcome | null {
    const count = attempt.electorate.voters.length;
    const lost = bitCount(
      attempt.isAccepting ? attempt.rejected & ~attempt.accepted : attempt.closed,
    );
    if (count - lost >= majorityOf(count)) return null;
    return this.#fail(attempt.why, turn);
  }

  #fail(why: Reject['why'] | 'timeout' | 'late', turn: Turn): Outcome {
    const attempt = this.#attempt!;
    this.#attempt = null;
    const count = attempt.electorate.voters.length;
    const lost = attempt.waits.length;
    // So many of those that refused must come free before a majority can be open.
    const needed = majorityOf(count) - (count - lost);
    let waitMs = 0;
    if (needed > 0) {
      attempt.waits.sort((a, b) => a - b);
      waitMs = Math.max(0, attempt.waits[needed - 1]! - turn.authorityMs);
    }
    const isGrantOut = attempt.isAccepting && attempt.purpose === 'acquire';
    if (isGrantOut) this.#failed = attempt.ballot;
    return {
      kind: 'failed',
      purpose: attempt.purpose,
      why,
      waitMs,
      other: attempt.other,
      isGrantOut,
    };
  }

  #saw(counter: number, epoch: Epoch): void {
    if (counter > this.#ballots.last) this.#ballots.last = counter;
    if (epoch > this.#epochSeen) this.#epochSeen = epoch;
  }

  /** Of the attempt under way, under the voters under which it runs. */
  #match(message: PromiseReply | Accepted | Reject): Attempt | null {
    const attempt = this.#attempt;
    if (!attempt) return null;
    const { ballot } = attempt;
    if (message.ballot.counter !== ballot.counter || message.ballot.session !== ballot.session)
      return null;
    const { ref } = attempt.electorate;
    if (message.n !== ref.n || message.generation !== ref.generation) return null;
    return attempt;
  }

  // ---- Sending ----------------------------------------------------------------------------------------------------------

  #sendAll(attempt: Attempt, turn: Turn): void {
    const { voters } = attempt.electorate;
    const done = attempt.isAccepting ? attempt.accepted : attempt.open | attempt.closed;
    const message = attempt.isAccepting ? this.#accept(attempt) : this.#prepare(attempt);
    for (let index = 0; index < voters.length; index++) {
      if ((done & (1 << index)) === 0) turn.send(voters[index]!, message);
    }
  }

  #prepare(attempt: Attempt): Prepare {
    const { ref } = attempt.electorate;
    return {
      kind: 'prepare',
      env: ref.env,
      generation: ref.generation,
      n: ref.n,
      name: this.name,
      ballot: attempt.ballot,
      isForced: attempt.isForced,
    };
  }

  #accept(attempt: Attempt): Accept {
    const { ref } = attempt.electorate;
    return {
      kind: 'accept',
      env: ref.env,
      generation: ref.generation,
      n: ref.n,
      name: this.name,
      ballot: attempt.ballot,
      purpose: attempt.purpose,
      epoch: attempt.epoch,
      exclusionMs: attempt.exclusionMs,
      isForced: attempt.isForced,
      unfenced: attempt.unfenced,
    };
  }

  #sendRelease(ballot: Ballot, electorate: Electorate, successor: HostId | null, turn: Turn): void {
    const { ref } = electorate;
    const message: Release = {
      kind: 'release',
      env: ref.env,
      generation: ref.generation,
      n: ref.n,
      name: this.name,
      ballot,
      successor,
    };
    for (const voter of electorate.voters) turn.send(voter, message);
  }
}

function isSame(a: Owner, b: Owner | null): boolean {
  return b !== null && a.host === b.host && a.session === b.session;
}
