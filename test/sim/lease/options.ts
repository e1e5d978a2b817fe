/** What one seed's world is like. Everything is drawn; many small worlds find more than one big one. */
import type { OnLoss, ProfileName } from '../../../daemon/lease/model.ts';
import { clockRateError, profiles } from '../../../daemon/lease/profiles.ts';
import type { SimRandom } from '../sim-random.ts';
import type { LinkOptions } from './network.ts';

export const leaseFaults = [
  'kill',
  'kill-lost',
  'power',
  'stop',
  'stop-between',
  'sleep',
  'storm',
  'partition',
  'isolate',
  'one-way',
  'flap',
  'rate',
  'wall',
  'fsync-stall',
  'daemon-kill',
  'crash-at-effect',
  'log-damage',
] as const;
export type LeaseFault = (typeof leaseFaults)[number];

export const operatorActs = [
  'switch',
  'release',
  'park',
  'unpark',
  'freeze',
  'candidates',
  'may-acquire',
  'voters',
  'profile',
  'start-failed',
  'probes',
  'force-active',
  'force-voters',
  'lock',
  'tick',
] as const;
export type OperatorAct = (typeof operatorActs)[number];

export interface LeaseSpec {
  readonly name: string;
  readonly profile: ProfileName;
  readonly onLoss: OnLoss;
  readonly hasGate: boolean;
  readonly lockDelayMs: number;
  readonly onDaemonDown: 'stay' | 'move';
  readonly fence: 'none' | 'panic' | 'command';
}

export interface LeaseWorldOptions {
  readonly hostCount: number;
  /** Hosts that are voters at the beginning: the first so many. */
  readonly voterCount: number;
  readonly witness: number | null;
  /** False: nothing is known at first, and host 0 is the founder. */
  readonly isFounded: boolean;
  readonly ttlMsMax: number;
  readonly leases: readonly LeaseSpec[];
  /** Indexes of candidates per lease, best first. */
  readonly candidates: readonly (readonly number[])[];
  readonly rates: readonly number[];
  readonly links: LinkOptions;
  /** tmpfs as of the last turn that sent something, to the letter; else as of the kill (cheaper). */
  readonly exactVolatile: boolean;
  readonly syncMsMax: number;
  readonly lateMsMax: number;
  readonly lateChance: number;
  readonly gateSlow: number;
  readonly clearFails: number;
  readonly freezeFails: number;
  readonly engineStartMsMax: number;
  readonly daemonAnswers: number;
  /** How often a daemon brings the newest voters along. */
  readonly gossip: number;
  readonly faults: readonly LeaseFault[];
  readonly acts: readonly OperatorAct[];
  readonly faultEveryMs: number;
  readonly actEveryMs: number;
  readonly faultForMsMax: number;
  /** Restarts of killed guards come this fast. */
  readonly restartMsMax: number;
  readonly resumeOrder: 'timer-first' | 'messages-first' | 'reversed';
  readonly forMs: number;
  /** As in `CoreStart`. */
  readonly attemptsMax: number;
}

export const calmLinks: LinkOptions = {
  latencyMs: 0.5,
  jitterMs: 0.5,
  loss: 0,
  duplicate: 0,
  slow: 0,
  park: 0,
  parkMsMax: 0,
};

export const serviceLease: LeaseSpec = {
  name: 'service/e/a',
  profile: 'fast',
  onLoss: 'stop',
  hasGate: true,
  lockDelayMs: 0,
  onDaemonDown: 'stay',
  fence: 'none',
};

/** A quiet world: scripted schedules begin here. */
export const calm: LeaseWorldOptions = {
  hostCount: 3,
  voterCount: 3,
  witness: null,
  isFounded: true,
  ttlMsMax: 1_600,
  leases: [serviceLease],
  candidates: [[0, 1, 2]],
  rates: [1, 1, 1],
  links: calmLinks,
  exactVolatile: true,
  syncMsMax: 2,
  lateMsMax: 0,
  lateChance: 0,
  gateSlow: 0,
  clearFails: 0,
  freezeFails: 0,
  engineStartMsMax: 50,
  daemonAnswers: 1,
  gossip: 0,
  faults: [],
  acts: [],
  faultEveryMs: 1_000,
  actEveryMs: 1_000,
  faultForMsMax: 1_000,
  restartMsMax: 200,
  resumeOrder: 'messages-first',
  forMs: 10_000,
  attemptsMax: 32,
};

/** `fixed` stands, and what was drawn is made to fit it. */
export function optionsOf(
  random: SimRandom,
  fixed: Partial<LeaseWorldOptions> = {},
): LeaseWorldOptions {
  const options = { ...drawOptions(random), ...fixed };
  const { hostCount, witness, acts } = options;
  const isHost = (index: number): boolean => index < hostCount && index !== options.witness;
  return {
    ...options,
    // See the fault budget in `checkers/checks.ts`.
    faults: options.faults.filter((one) => one !== 'log-damage' || !acts.includes('force-voters')),
    voterCount: Math.min(options.voterCount, hostCount),
    witness: witness !== null && witness < hostCount ? witness : null,
    candidates: options.leases.map((_, index) => {
      const some = options.candidates[index]?.filter(isHost) ?? [];
      return some.length === 0 ? [0] : some;
    }),
    rates: Array.from({ length: hostCount }, (_, index) => options.rates[index] ?? 1),
  };
}

function drawOptions(random: SimRandom): LeaseWorldOptions {
  const sometimes = (max: number): number => (random.chance(0.5) ? random.between(0, max) : 0);
  const hostCount = random.pick([1, 2, 2, 3, 3, 3, 4, 5]);
  const voterCount = Math.min(hostCount, random.pick([1, 2, 2, 3, 3, 3, 5]));
  const leases = drawLeases(random);
  const slowest = Math.max(...leases.map(({ profile }) => profiles[profile].exclusionMs));
  const ttlMsMax = random.pick([slowest, slowest, slowest, Math.max(slowest, 5_000)]);
  // In a third of the worlds little goes wrong, so that handovers, parks and changes of voters come to their end.
  const isMild = random.chance(0.35);
  const everyMs = isMild ? random.pick([4_000, 15_000]) : random.pick([150, 400, 1_500, 6_000]);
  const witness = hostCount >= 3 && random.chance(0.15) ? Math.min(2, voterCount - 1) : null;
  return {
    hostCount,
    voterCount,
    witness,
    isFounded: !random.chance(0.1),
    ttlMsMax,
    leases,
    candidates: leases.map(() => drawCandidates(random, hostCount, witness)),
    rates: Array.from({ length: hostCount }, () => drawRate(random)),
    links: {
      latencyMs: random.pick([0.2, 1, 10]),
      jitterMs: isMild ? random.pick([0.5, 5, 30]) : random.pick([0.5, 5, 60, 400]),
      loss: sometimes(isMild ? 0.03 : 0.3),
      duplicate: sometimes(0.4),
      slow: sometimes(0.1),
      park: random.chance(isMild ? 0.2 : 0.5) ? random.between(0, 0.4) : 0,
      parkMsMax: random.between(0, 3 * ttlMsMax),
    },
    exactVolatile: random.chance(0.3),
    syncMsMax: random.pick([1, 6, 40]),
    lateMsMax: random.pick([5, 100, 2_000]),
    lateChance: sometimes(0.05),
    gateSlow: sometimes(0.2),
    clearFails: random.chance(0.2) ? random.between(0, 0.4) : 0,
    freezeFails: random.chance(0.05) ? random.between(0, 0.2) : 0,
    engineStartMsMax: random.pick([20, 800, 30_000]),
    daemonAnswers: random.pick([1, 1, 0.7]),
    gossip: random.pick([0, 0.1, 0.5]),
    faults: leaseFaults.filter(() => random.chance(0.4)),
    acts: operatorActs.filter(() => random.chance(0.35)),
    faultEveryMs: everyMs,
    actEveryMs: random.pick([700, 3_000, 10_000]),
    faultForMsMax: random.pick([300, 1_800, 5_000]),
    restartMsMax: isMild ? random.pick([80, 300]) : random.pick([80, 300, 3_000]),
    resumeOrder: random.pick(['timer-first', 'messages-first', 'reversed'] as const),
    forMs: random.pick([20_000, 40_000, 80_000]),
    // Drawn last: what is drawn before stays as it was for every seed.
    attemptsMax: random.pick([1, 1, 32]),
  };
}

function drawLeases(random: SimRandom): LeaseSpec[] {
  const profile: ProfileName = random.pick(slowProfiles);
  const onLoss = (): OnLoss => random.pick(['stop', 'stop', 'stop', 'freeze', 'keep'] as const);
  const rest = (): Pick<LeaseSpec, 'lockDelayMs' | 'onDaemonDown'> => ({
    lockDelayMs: random.chance(0.1) ? 700 : 0,
    onDaemonDown: random.chance(0.2) ? 'move' : 'stay',
  });
  const fence = random.pick(fences);
  const service = { name: 'service/e/a', profile: 'fast', hasGate: true } as const;
  const leases: LeaseSpec[] = [{ ...service, onLoss: onLoss(), fence, ...rest() }];
  if (random.chance(0.35)) {
    const storage = { name: 'storage/e/b', profile, hasGate: true, fence: 'none' } as const;
    leases.push({ ...storage, onLoss: onLoss(), ...rest() });
  }
  if (random.chance(0.6)) {
    const planner = { name: 'planner/e', profile: 'fast', hasGate: false, fence: 'none' } as const;
    leases.push({ ...planner, onLoss: 'stop', ...rest() });
  }
  return leases;
}

const slowProfiles = ['fast', 'fast', 'fast', 'fast', 'fast', 'fast', 'wan', 'fenced'] as const;
const fences = ['none', 'none', 'none', 'none', 'none', 'none', 'panic', 'command'] as const;

function drawCandidates(random: SimRandom, hostCount: number, witness: number | null): number[] {
  const all = Array.from({ length: hostCount }, (_, index) => index).filter(
    (index) => index !== witness,
  );
  for (let index = all.length - 1; index > 0; index--) {
    const other = random.index(index + 1);
    [all[index], all[other]] = [all[other] as number, all[index] as number];
  }
  return random.chance(0.8) ? all : all.slice(0, 1 + random.index(all.length));
}

function drawRate(random: SimRandom): number {
  return (
    1 +
    random.pick([
      0,
      -clockRateError,
      clockRateError,
      random.between(-clockRateError, clockRateError),
    ])
  );
}
