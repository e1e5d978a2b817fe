/**
 * The leases with one rule broken: each has to be caught by a law, so that a law which sees nothing is noticed. `npm run sim --
 * --mutants` runs them all. A text that is not found exactly once is an error: the mutant has to follow the source.
 *
 * `falls`: the laws that may catch it. `hunt.first`: seeds that are known to find it fast; `count`: seeds to try after them;
 * `script`: a schedule that finds it, where random search hardly does.
 */
import { calmLinks, serviceLease } from './options.ts';
import type { LeaseWorldOptions } from './options.ts';

export interface Mutant {
  readonly name: string;
  /** The rule of the specification. */
  readonly breaks: string;
  readonly file: string;
  readonly edits: readonly {
    /** Default: the mutant's. */
    readonly file?: string;
    readonly find: string;
    readonly replace: string;
  }[];
  readonly falls: readonly string[];
  readonly hunt: {
    readonly first?: readonly number[];
    readonly count?: number;
    readonly script?: string;
    readonly options?: Partial<LeaseWorldOptions>;
  };
}

const acceptor = 'daemon/lease/acceptor.ts';
const answers = 'daemon/lease/acceptor-answers.ts';
const seat = 'daemon/lease/seat.ts';
const proposer = 'daemon/lease/proposer.ts';
const core = 'daemon/lease/core.ts';
const agent = 'daemon/lease/agent.ts';
const standing = 'daemon/lease/standing.ts';
const gate = 'daemon/lease/gate.ts';
const chain = 'daemon/lease/chain.ts';
const chainVoter = 'daemon/lease/chain-voter.ts';
const voterConfig = 'daemon/lease/voter-config.ts';
const voterMemory = 'daemon/lease/voter-memory.ts';
const handover = 'daemon/lease/handover.ts';

const safety = ['I1', 'I2', 'I5', 'I6', 'I8', 'I9'];

/** Changes of voters all the time. */
const changing: Partial<LeaseWorldOptions> = {
  acts: ['voters', 'voters', 'voters', 'switch'],
  actEveryMs: 1_200,
  ttlMsMax: 1_600,
  forMs: 60_000,
};

/** A disk that damages its guard's log, and voters that change. */
const damaging: Partial<LeaseWorldOptions> = {
  ...changing,
  hostCount: 4,
  voterCount: 3,
  faults: ['log-damage', 'isolate', 'kill'],
  faultEveryMs: 4_000,
};

/** Operators force voters all the time, and what was said arrives late. */
const forcing: Partial<LeaseWorldOptions> = {
  hostCount: 3,
  voterCount: 3,
  links: { ...calmLinks, park: 0.15, parkMsMax: 3_700 },
  faults: ['power', 'stop', 'flap'],
  acts: ['force-voters', 'switch'],
  faultEveryMs: 4_000,
  actEveryMs: 700,
  ttlMsMax: 1_600,
  forMs: 80_000,
};

export const mutants: readonly Mutant[] = [
  {
    name: 'overwriting-acceptor',
    breaks: '2.6 2(ii): a live grant is never replaced',
    file: acceptor,
    edits: [
      {
        find: 'if (granted === null || isSameOwner(granted, asker)) return 0;',
        replace: 'if (granted === null || granted !== undefined) return 0;',
      },
    ],
    falls: ['I1', 'I2', 'I5', 'I6'],
    hunt: { count: 40 },
  },
  {
    name: 'owner-by-host',
    breaks: '2.4: an owner is an incarnation',
    file: seat,
    edits: [
      {
        find: 'return a.session === b.session && a.host === b.host;',
        replace: 'return a.host === b.host;',
      },
    ],
    falls: safety,
    hunt: { script: 'releaseOfAnotherLife' },
  },
  {
    name: 'release-by-owner-only',
    breaks: '2.6 3: a release ends grants up to its ballot',
    file: acceptor,
    edits: [{ find: 'compareBallots(seat.granted, ballot) <= 0;', replace: 'ballot !== null;' }],
    falls: safety,
    hunt: { script: 'releaseOfEarlierTenure' },
  },
  {
    name: 'no-quarantine',
    breaks: '2.11: who forgot is silent',
    file: acceptor,
    edits: [
      {
        find: 'return this.#options.hasForgotten() || turn.monoMs < this.#silentUntilMs;',
        replace: 'return turn.monoMs < 0;',
      },
    ],
    falls: ['I1', 'I2', 'I5', 'I6', 'I7'],
    hunt: { script: 'quarantine' },
  },
  {
    name: 'half-quarantine',
    breaks: '2.2: silence covers the longest authority',
    file: 'daemon/lease/profiles.ts',
    edits: [{ find: '  return ttlMsMax;', replace: '  return ttlMsMax / 2;' }],
    falls: ['I1', 'I2', 'I5', 'I6', 'I7'],
    hunt: { script: 'quarantine' },
  },
  {
    name: 'volatile-epochs',
    breaks: '2.6 2: epochs are durable',
    file: answers,
    edits: [
      {
        find: 'if (owner && !isAsSaved) {',
        replace: 'if (false && owner && !isAsSaved) {',
      },
    ],
    falls: ['I8', 'I9', 'I5', 'I14'],
    hunt: { count: 80 },
  },
  {
    name: 'answer-before-fsync',
    breaks: '2.6 2: fsync before the reply',
    file: answers,
    edits: [
      {
        find: 'if (seat === null || seat.pending === 0) turn.send(to, message);',
        replace: 'if (seat === null || seat.pending >= 0) turn.send(to, message);',
      },
    ],
    falls: ['I8', 'I9', 'I18', 'I14'],
    hunt: { first: [30], count: 300, options: { syncMsMax: 400 } },
  },
  {
    name: 'anybody-may-hold',
    breaks: '2.6 0: grants to candidates only',
    file: acceptor,
    edits: [
      {
        find: 'const isEligible = this.#isEligible(message, from, turn);',
        replace: 'const isEligible = true;',
      },
      { find: 'if (!this.#isEligible(message, from, turn)) {', replace: 'if (false) {' },
    ],
    falls: ['I21'],
    hunt: { count: 100, options: { acts: ['candidates', 'switch'], actEveryMs: 700 } },
  },
  {
    name: 'busy-voter-promises',
    breaks: '2.6 1: a busy voter promises nothing',
    file: acceptor,
    edits: [
      {
        find: 'if (isParkedByOther) this.#watchers.hintPark(seat, turn);',
        replace:
          'if (!seat.promised || compareBallots(ballot, seat.promised) > 0) seat.promised = ballot;',
      },
    ],
    falls: ['L3'],
    hunt: { count: 40 },
  },
  {
    name: 'forgotten-park',
    breaks: 'park has no expiry',
    file: answers,
    edits: [{ find: 'if (seat.savedParked !== parkedEpoch) {', replace: 'if (parkedEpoch < 0) {' }],
    falls: ['I18', 'I1', 'I2'],
    hunt: { script: 'parkedForHours' },
  },
  {
    name: 'park-that-expires',
    breaks: 'park has no expiry',
    file: acceptor,
    edits: [
      {
        find: 'const blockedMs = this.#blockedMs(seat, ballot, turn.monoMs);',
        replace:
          'const blockedMs = this.#blockedMs(seat, ballot, turn.monoMs);\n    if (turn.monoMs > seat.untilMs + 3_600_000) seat.parked = null;',
      },
    ],
    falls: ['I18', 'I1', 'I2'],
    hunt: { script: 'parkedForHours' },
  },
  {
    name: 'unpark-ends-park-at-once',
    breaks: 'an unpark without a majority changes nothing',
    file: acceptor,
    edits: [
      {
        find: 'else if (seat.parked && endsPark(message)) seat.parked = null;',
        replace: 'else if (seat.parked) seat.parked = null;',
      },
    ],
    falls: ['I18', 'I1', 'I2'],
    hunt: { script: 'unparkInVain' },
  },
  {
    name: 'force-forgets-parks',
    breaks: 'forced voters do not know what is parked',
    file: core,
    edits: [{ find: 'endsParks: () => this.#agents.endParks(this.#turn),', replace: '' }],
    falls: ['I18', 'I1', 'I2'],
    hunt: { script: 'forcedWhileParked' },
  },
  {
    name: 'shorter-renewal-counts',
    breaks: 'an exclusion never ends sooner',
    file: acceptor,
    edits: [
      {
        find: 'seat.untilMs = isSameTenure ? Math.max(seat.untilMs, untilMs) : untilMs;',
        replace: 'seat.untilMs = untilMs;',
      },
    ],
    falls: safety,
    hunt: { script: 'shorterProfile' },
  },
  {
    name: 'renewal-after-expiry',
    breaks: '2.8: only what is still held is renewed',
    file: proposer,
    edits: [
      {
        find: "if (isExtending && !this.isHeld(turn)) return this.#fail('late', turn);",
        replace: '',
      },
      {
        find: "if (turn.authorityMs >= attempt.untilMs) return this.#fail('late', turn);\n    const isExtending",
        replace: 'const isExtending',
      },
      {
        file: agent,
        find: 'if (this.isHolding && !this.proposer.isHeld(turn)) this.#lose(turn);',
        replace:
          'if (this.isHolding && turn.authorityMs > this.proposer.untilMs + 800) this.#lose(turn);',
      },
    ],
    falls: ['I1', 'I2', 'I3', 'I5', 'I17'],
    hunt: { script: 'suspendedLoop' },
  },
  {
    name: 'scalar-quorum',
    breaks: 'P4: distinct voters',
    file: proposer,
    edits: [
      {
        find: 'attempt.accepted |= bit;',
        replace: 'attempt.accepted = (attempt.accepted << 1) | 1;',
      },
    ],
    falls: ['I5'],
    hunt: { script: 'scalarCount' },
  },
  {
    name: 'ballot-reuse',
    breaks: '2.4: no ballot twice',
    file: core,
    edits: [{ find: 'this.#shared.ballots.last = memory.ballots;', replace: '' }],
    falls: ['I10', 'I7'],
    hunt: { count: 60, options: { faults: ['kill', 'kill', 'partition'], restartMsMax: 80 } },
  },
  {
    name: 'late-timer',
    breaks: 'P1: authority counts from before the first message',
    file: proposer,
    edits: [
      {
        find: 'this.untilMs = isExtended ? Math.max(this.untilMs, attempt.untilMs) : attempt.untilMs;',
        replace: 'this.untilMs = turn.authorityMs + this.profile.authorityMs;',
      },
      { find: '#grant(attempt: Attempt): Outcome {', replace: '#grant(attempt, turn) {' },
      { find: 'return this.#grant(attempt);', replace: 'return this.#grant(attempt, turn);' },
    ],
    falls: ['I5'],
    hunt: { count: 40 },
  },
  {
    name: 'authority-not-derived',
    breaks: '2.2: D_P fits into D_A',
    file: proposer,
    edits: [
      {
        find: 'const authorityMs = Math.min(this.profile.authorityMs, authorityWithin(exclusionMs));',
        replace: 'const authorityMs = exclusionMs;',
      },
    ],
    falls: ['I5', 'I1', 'I2'],
    hunt: { count: 60 },
  },
  {
    name: 'pair-ignores-full',
    breaks: '2.13: full majorities once a voter is about to leave',
    file: proposer,
    edits: [
      {
        find: '      !attempt.isFull &&\n',
        replace: '',
      },
    ],
    falls: safety,
    hunt: { count: 200, options: { ...changing, voterCount: 2, hostCount: 3 } },
  },
  {
    name: 'pair-renews-at-once',
    breaks: '2.13: one voter renews only after both have granted',
    file: proposer,
    edits: [{ find: '      this.#isFullUnder(attempt.electorate.ref);', replace: '      true;' }],
    falls: safety,
    hunt: { script: 'growFromOne' },
  },
  {
    name: 'pair-acquires-with-one',
    breaks: '2.13: acquisition needs both',
    file: proposer,
    edits: [
      {
        find: "      attempt.purpose === 'renew' &&\n      !attempt.isFull &&\n      this.#isFullUnder(attempt.electorate.ref);",
        replace: '      !attempt.isFull;',
      },
    ],
    falls: safety,
    hunt: { count: 60, options: { voterCount: 2, hostCount: 2, faults: ['partition', 'isolate'] } },
  },
  {
    name: 'no-intent',
    breaks: '2.13: intent before a pair changes',
    file: chainVoter,
    edits: [
      {
        find: 'if (voters.length !== 2 || this.#intentN === n) return [];',
        replace: 'if (n >= 0 || voters.length !== 2) return [];',
      },
    ],
    falls: [...safety, 'I12'],
    hunt: { script: 'votedPair' },
  },
  {
    name: 'volatile-intent',
    breaks: '2.13: intent is durable',
    file: chain,
    edits: [
      {
        find: "if (record.kind === 'intent') intentN = record.isOn ? record.n : null;",
        replace: '',
      },
    ],
    falls: [...safety, 'I12'],
    hunt: { script: 'forgottenIntent' },
  },
  {
    name: 'no-spacing',
    breaks: 'R2: a voter waits before the next link',
    file: chainVoter,
    edits: [
      {
        find: 'return Math.max(0, Math.ceil(fromMs + wait - now.monoMs));',
        replace: 'return 0 * (fromMs + wait);',
      },
    ],
    falls: [...safety, 'I12', 'I14'],
    hunt: { first: [68], count: 400, options: changing },
  },
  {
    name: 'many-voters-at-once',
    breaks: 'R1: one voter per link',
    file: voterConfig,
    edits: [
      { find: "if (changed > 1) return 'more than one voter at once';", replace: '' },
      {
        find: "if (distance(electorate, config.voters) > 1) return 'more than one voter at once';",
        replace: '',
      },
      {
        find: 'const added = wanted.find((host) => !current.includes(host));',
        replace:
          'if (wanted.join() !== current.join()) return wanted;\n  const added = wanted.find((host) => !current.includes(host));',
      },
    ],
    falls: [...safety, 'I12'],
    hunt: { count: 60, options: changing },
  },
  {
    name: 'old-voters-accepted',
    breaks: 'R3: older configurations are refused',
    file: core,
    edits: [
      {
        find: 'if (message.n === ref.n && message.generation === ref.generation && message.env === ref.env)',
        replace: 'if (message.n <= ref.n && message.env === ref.env)',
      },
    ],
    falls: [...safety, 'I12', 'I13'],
    hunt: { count: 100, options: changing },
  },
  {
    name: 'no-floors',
    breaks: 'R4: a link carries epochs',
    file: core,
    edits: [
      {
        find: 'raiseFloors: (floors, rest) => this.#acceptor.raiseFloors(floors, rest),',
        replace: 'raiseFloors: () => {},',
      },
    ],
    falls: [...safety, 'I14'],
    hunt: { script: 'floorsOfNewVoters' },
  },
  {
    name: 'start-before-cleared',
    breaks: 'kill what is inside before the thaw',
    file: gate,
    edits: [
      {
        find: 'if (epoch === this.epoch || epoch === this.#clearedFor || (isResumable && !this.isEmpty))',
        replace: 'if (epoch > 0)',
      },
    ],
    falls: ['I16'],
    hunt: { script: 'lateStart' },
  },
  {
    name: 'opens-without-time-left',
    breaks: 'I15: open only within authority',
    file: gate,
    edits: [
      {
        find: "if (wish === 'open' && turn.authorityMs < untilMs - this.profile.freezeBeforeMs) {",
        replace: "if (wish === 'open') {",
      },
      {
        find: 'if (isLoose) return this.untilMs - this.profile.freezeBeforeMs;',
        replace: 'if (isLoose) return this.untilMs + 400;',
      },
    ],
    falls: ['I1', 'I3', 'I15'],
    hunt: { count: 60 },
  },
  {
    name: 'never-closed',
    breaks: '2.16: frozen before the end',
    file: gate,
    edits: [
      {
        find: "this.#close(turn, wish === 'open' ? 'authority ends' : 'not held');",
        replace: '',
      },
    ],
    falls: ['I1', 'I15'],
    hunt: { count: 60 },
  },
  {
    name: 'release-before-empty',
    breaks: '2.9 4: released when verified empty',
    file: handover,
    edits: [
      {
        find: "if (giving.step === 'clearing' && this.#host.isGateEmpty) {",
        replace: "if (giving.step === 'clearing') {",
      },
    ],
    falls: ['I1', 'I2', 'I11'],
    hunt: { script: 'releaseOfEarlierTenure' },
  },
  {
    name: 'goes-on-after-sleep',
    breaks: '2.3: a host that slept starts anew',
    file: core,
    edits: [
      {
        find: "if (event.kind === 'clock' && event.what === 'suspend') this.#onSuspend(now);",
        replace: '',
      },
    ],
    falls: ['I1', 'I2', 'I5', 'I7', 'I17'],
    hunt: { count: 60, options: { faults: ['sleep', 'partition', 'isolate'] } },
  },
  {
    name: 'holder-on-slow-clock',
    breaks: '2.3: sleep counts against the holder',
    file: proposer,
    edits: [
      {
        find: 'return turn.authorityMs < this.untilMs;',
        replace: 'return turn.monoMs < this.untilMs;',
      },
    ],
    falls: ['I1', 'I3', 'I15', 'I17', 'I5'],
    hunt: {
      count: 80,
      options: { faults: ['sleep', 'partition', 'isolate'], faultForMsMax: 1_000 },
    },
  },
  {
    name: 'frozen-still-acquires',
    breaks: 'I19: frozen means no acquisition',
    file: standing,
    edits: [{ find: "if (this.isFrozen) return 'frozen';", replace: '' }],
    falls: ['I19'],
    hunt: { count: 100, options: { acts: ['freeze', 'switch'], actEveryMs: 700 } },
  },
  {
    name: 'park-kept-to-oneself',
    breaks: '2.17: a park ends by unpark, or by force',
    file: 'daemon/lease/acceptor-watchers.ts',
    edits: [
      {
        find: 'if (seat?.parked?.owner.host !== from || turn.monoMs < seat.parkPassedOnAtMs) return;',
        replace: 'if (seat === null || seat.parked === null || from !== "") return;',
      },
    ],
    falls: ['L1', 'script'],
    hunt: { script: 'unparkAmongStrangers' },
  },
  {
    name: 'one-force-remembered',
    breaks: '2.12 force: survivors keep what they granted',
    file: chainVoter,
    edits: [
      {
        find: 'const isAsked = partsOf(this.#state).includes(chosen.config.generation);',
        replace: 'const isAsked = this.#state.force?.generation === chosen.config.generation;',
      },
    ],
    falls: [...safety, 'I7'],
    hunt: { first: [428], count: 500, options: forcing },
  },
  {
    name: 'votes-on-with-lost-middle',
    breaks: '2.11: who lost what it promised to keep is silent',
    file: voterMemory,
    edits: [{ find: 'this.#isLost = record.isOn;', replace: 'this.#isLost = false;' }],
    falls: ['I7'],
    hunt: { count: 40, options: damaging },
  },
  {
    name: 'let-in-by-an-old-link',
    breaks: '2.12 R5: who forgot is let in by a later link',
    file: voterMemory,
    edits: [{ find: 'if (compareRefs(config, beyond) <= 0) return false;', replace: '' }],
    falls: ['I7'],
    hunt: { count: 200, options: damaging },
  },
  {
    name: 'park-of-nothing-stays',
    breaks: '2.17: who outlived its park ends it',
    file: 'daemon/lease/agents.ts',
    edits: [
      {
        find: 'isOwnPark ? this.add(message.name) : this.#byName.get(message.name);',
        replace: 'this.#byName.get(message.name);',
      },
    ],
    falls: ['script'],
    hunt: { script: 'parkOfNothing' },
  },
  {
    name: 'fence-forgotten',
    breaks: '2.16 stonith: no start before it has succeeded',
    file: 'daemon/lease/proposer.ts',
    edits: [{ find: 'this.unfenced = state.unfenced ?? [];', replace: 'this.unfenced = [];' }],
    falls: ['I16'],
    hunt: {
      count: 300,
      options: {
        leases: [{ ...serviceLease, fence: 'command' }],
        candidates: [[0, 1, 2]],
        faults: ['kill', 'kill', 'isolate'],
        restartMsMax: 80,
        faultEveryMs: 700,
        hostCount: 3,
        voterCount: 3,
      },
    },
  },
  {
    name: 'waits-for-ever',
    breaks: 'admission: who is kept waiting is called when there is room',
    file: 'daemon/lease/admission.ts',
    edits: [
      {
        find: 'if (this.#waiting.size === 0) return none;',
        replace: 'if (this.#waiting.size >= 0) return none;',
      },
    ],
    falls: ['L1'],
    hunt: { count: 60, options: { attemptsMax: 1 } },
  },
  {
    name: 'tick-for-everybody',
    breaks: '2.10: an epoch is granted to one owner',
    file: 'daemon/lease/proposer.ts',
    edits: [
      {
        find: 'attempt.epoch = Math.max(attempt.epochSeen, this.#epochSeen, this.#serveEpoch) + 1;',
        replace: 'attempt.epoch = Math.max(this.#epochSeen, this.#serveEpoch) + 1;',
      },
      {
        find: '    if (epoch > this.#epochSeen) this.#epochSeen = epoch;\n  }\n\n  /** Of the attempt',
        replace: '  }\n\n  /** Of the attempt',
      },
      {
        file: acceptor,
        find: 'if (epoch > seat.maxEpoch || (epoch === seat.maxEpoch && isOfOwner)) return null;',
        replace: 'if (epoch >= 0) return null;',
      },
    ],
    falls: ['Y10'],
    hunt: { count: 40, options: { acts: ['tick'], actEveryMs: 300 } },
  },
];
