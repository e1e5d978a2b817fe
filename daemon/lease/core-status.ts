/** What people are told of a guard: who votes, who of the voters was heard lately, and how every lease stands. */
import type { HostId } from '../../crdt/ids.ts';
import type { GuardStatus, LeaseStatus } from './guard-api.ts';
import { majorityOf } from './model.ts';
import type { ChosenConfig, Instant } from './model.ts';

/** A voter that was not heard for so long counts as out of reach. */
const heardMs = 8_000;
const heardMax = 256;

/** When each host was heard last, on the monotonic clock. */
export class Heard {
  readonly #atMs = new Map<HostId, number>();

  note(from: HostId, monoMs: number): void {
    if (this.#atMs.size >= heardMax && !this.#atMs.has(from)) return;
    this.#atMs.set(from, monoMs);
  }

  atMs(host: HostId): number | undefined {
    return this.#atMs.get(host);
  }
}

export interface CoreView {
  readonly env: string;
  readonly self: HostId;
  readonly session: string;
  readonly chosen: ChosenConfig | null;
  /** Of our own vote, on the monotonic clock; may be in the past. */
  readonly silentUntilMs: number;
  readonly hasForgotten: boolean;
  readonly heard: Heard;
  readonly leases: readonly LeaseStatus[];
  readonly counters: GuardStatus['counters'];
  readonly now: Instant;
}

/** Process, version and gate fault are the shell's. */
export function coreStatus(view: CoreView): GuardStatus {
  const { chosen, leases, now, self } = view;
  const silentMs = Math.max(0, view.silentUntilMs - now.monoMs);
  const voters = (chosen?.config.voters ?? []).map((host) => {
    const heardAtMs = host === self ? now.monoMs : view.heard.atMs(host);
    const lastHeardMs = heardAtMs === undefined ? null : Math.max(0, now.monoMs - heardAtMs);
    const isReachable = lastHeardMs !== null && lastHeardMs < heardMs;
    const isSilent = host === self && (silentMs > 0 || view.hasForgotten);
    return { host, isReachable, isSilent, lastHeardMs };
  });
  const reachable = voters.filter((voter) => voter.isReachable && !voter.isSilent).length;
  return {
    v: 1,
    env: view.env,
    self,
    session: view.session,
    pid: 0,
    version: '',
    chosen,
    voters,
    hasQuorum: voters.length > 0 && reachable >= majorityOf(voters.length),
    silentMs,
    hasForgotten: view.hasForgotten,
    isParked: leases.some((lease) => lease.state === 'parked'),
    gateFault: null,
    leases,
    counters: view.counters,
  };
}
