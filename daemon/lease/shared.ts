/** What all leases of a host share; the core changes it. */
import type { HostId } from '../../crdt/ids.ts';
import type { Random } from '../ports.ts';
import { Admission } from './admission.ts';
import type { CoreStart } from './core-api.ts';
import type { GuardDesired } from './guard-api.ts';
import type { Instant, LeaseName } from './model.ts';
import type { Ballots, Electorate } from './proposer.ts';

/** What a command for one lease may take at the voters. */
export const commandMsMax = 5_000;

export interface Shared {
  readonly self: HostId;
  readonly random: Random;
  session: string;
  readonly ballots: Ballots;
  readonly admission: Admission;
  electorate: Electorate | null;
  desired: GuardDesired | null;
  isDaemonHere: boolean;
  /** On the authority clock, since when the daemon is gone without having said so; Infinity: it is not. */
  daemonGoneMs: number;
  /** As `daemonGoneMs`, also when it had said so. */
  daemonAwayMs: number;
  /** The last turn in which anything was renewed, and how long after it that is due again, in parts of the period. */
  renewedAtMs: number;
  renewFactor: number;
  /** These are waited for from now on: the voters should hear of it. */
  watchDue: LeaseName[];
}

/** The daemon has not been heard of yet. */
export function newShared({ self, attemptsMax }: CoreStart, random: Random, now: Instant): Shared {
  return {
    self,
    random,
    session: '',
    ballots: { last: 0 },
    admission: new Admission(attemptsMax),
    electorate: null,
    desired: null,
    isDaemonHere: false,
    daemonGoneMs: Infinity,
    daemonAwayMs: now.authorityMs,
    renewedAtMs: -Infinity,
    renewFactor: 1,
    watchDue: [],
  };
}
