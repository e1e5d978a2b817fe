/**
 * The words of the lease protocol: who holds what, by which ballot, under which voters. Types and limits only.
 *
 * Durations are milliseconds and travel as durations, never as times of day. Two clocks of one host are told apart on
 * purpose (`Instant`): what a holder may still do is counted on the clock that also runs through a suspend, what an
 * acceptor must still refuse on the one that does not, so that both err to the safe side.
 */
import type { HostId } from '../../crdt/ids.ts';

/** 'service/<env>/<id>', 'storage/<env>/<id>', 'planner/<env>', 'invite/<id>', 'job/<env>/<id>', 'rollout/<env>/<id>', 'lock/<name>'. */
export type LeaseName = string;

/** 24 hex digits; new at every start of a guard that cannot continue the state of this boot. */
export type LeaseSession = string;

/** An owner is an incarnation of a guard, not a host: what a host did before it lost its memory is somebody else's. */
export interface Owner {
  readonly host: HostId;
  readonly session: LeaseSession;
}

/** Ordered by counter, host, session. Unique because the session is. */
export interface Ballot extends Owner {
  readonly counter: number;
}

/** Fencing token of a lease: grows with every change of owner, the same over all renewals of one. From 1; 0: never held. */
export type Epoch = number;

export type ProfileName = 'fast' | 'wan' | 'fenced';

/** What becomes of the workload when the lease runs out: see `daemon/docs/leases.md`. */
export type OnLoss = 'stop' | 'freeze' | 'keep';

/** What is done besides freezing and killing when the gate cannot be emptied in time. */
export type Fence = 'none' | 'panic' | 'watchdog' | 'command';

/** One reading of the clocks, taken once per handler. Milliseconds with fractions, from an arbitrary origin per boot. */
export interface Instant {
  /** CLOCK_MONOTONIC: acceptors' exclusion and silence. */
  readonly monoMs: number;
  /** The larger of CLOCK_MONOTONIC and CLOCK_BOOTTIME: holders' authority. */
  readonly authorityMs: number;
}

/** One link of an environment's chain of voters. The hash of its canonical bytes names it. */
export interface VoterConfig {
  readonly env: string;
  /** From 0, the founder's. */
  readonly n: number;
  /** '' for the first. */
  readonly prevHash: string;
  /** Raised only by force: a higher generation replaces every lower one, whatever its n. From 0. */
  readonly generation: number;
  /** Sorted, distinct, at least one. */
  readonly voters: readonly HostId[];
  /** Longest exclusion that an acceptor grants: `M`. */
  readonly ttlMsMax: number;
  /** Epochs below which nobody starts: what was accepted under earlier voters. Sorted by name. */
  readonly floors: readonly LeaseFloor[];
  /** For every lease that `floors` does not list. */
  readonly floorRest: Epoch;
}

export interface LeaseFloor {
  readonly name: LeaseName;
  readonly epoch: Epoch;
  readonly owner: Owner;
}

/** A voter configuration with the votes that chose it: what a host that missed the choice is shown. */
export interface ChosenConfig {
  readonly config: VoterConfig;
  /** Who could vote: the voters of the link before (or those whom force left). Empty for the founder's. */
  readonly electorate: readonly HostId[];
  /** Hosts of a majority of the electorate that accepted it. Empty for the founder's. */
  readonly votes: readonly HostId[];
}

export const leaseLimits = Object.freeze({
  /** Leases that one environment may have, and one guard keeps. Beyond it, requests are refused. */
  leasesMax: 4096,
  nameCharsMax: 160,
  candidatesMax: 64,
  votersMax: 7,
  /** Hosts that a lease with a fence command still has to fence. */
  unfencedMax: 16,
  /** One frame between guards. */
  frameBytesMax: 512 << 10,
  messagesPerFrameMax: 1024,
  /** Counters and epochs: far above what can be reached, far below where doubles lose ones. */
  counterMax: 2 ** 48,
  historyMax: 32,
});

export function compareBallots(a: Ballot, b: Ballot): number {
  if (a.counter !== b.counter) return a.counter - b.counter;
  if (a.host !== b.host) return a.host < b.host ? -1 : 1;
  if (a.session !== b.session) return a.session < b.session ? -1 : 1;
  return 0;
}

export function majorityOf(count: number): number {
  return Math.floor(count / 2) + 1;
}
