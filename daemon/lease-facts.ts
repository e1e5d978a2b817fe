/**
 * What hosts say about leases (topic 'lease'), as far as it can be used, and what follows from all of them together. Facts
 * are hints: they say where to look and whom to ask, and nothing exclusive is decided by them.
 */
import type { HostId } from '../crdt/ids.ts';
import type { LeaseFact } from '../crdt/model.ts';
import type { GuardStatus, LeaseState, LeaseStatus } from './lease/guard-api.ts';
import { leaseLimits } from './lease/model.ts';
import type { ChosenConfig, Epoch, LeaseName } from './lease/model.ts';
import type { Holder } from './plan/leases.ts';

export const leaseTopic = 'lease';

export interface HostLeaseFact {
  readonly host: HostId;
  readonly fact: LeaseFact;
}

const heldStates: ReadonlySet<LeaseState> = new Set([
  'opening',
  'active',
  'frozen',
  'handing-over',
  'parked',
]);

export function isHeld(lease: Pick<LeaseStatus, 'state'>): boolean {
  return heldStates.has(lease.state);
}

/** What this host says of itself. `leasePort`: of the guard; 0: none runs. */
export function leaseFactOf(
  status: GuardStatus | null,
  leasePort: number,
  self: HostId,
): LeaseFact {
  const leases = status?.leases ?? [];
  const isUnfit = (lease: LeaseStatus): boolean =>
    !lease.mayAcquire && lease.candidates.includes(self) && !isHeld(lease);
  return {
    v: 1,
    leasePort,
    chosen: status?.chosen ?? null,
    hasQuorum: status?.hasQuorum ?? false,
    ...(status?.hasForgotten === true && { hasForgotten: true }),
    gateFault: status === null ? 'no guard runs' : status.gateFault,
    held: leases.filter(isHeld).map(({ name, epoch, state }) => ({ name, epoch, state })),
    unfit: leases
      .filter(isUnfit)
      .slice(0, unfitMax)
      .map(({ name, why }) => ({ name, why: why.slice(0, whyCharsMax) })),
  };
}

const whyCharsMax = 120;
/** A fact has a bound; which host would not take which lease is for people. */
const unfitMax = 512;

/** From the value of a fact; null: of no use. */
export function readLeaseFact(value: unknown): LeaseFact | null {
  if (typeof value !== 'object' || value === null) return null;
  const fact = value as Partial<Record<keyof LeaseFact, unknown>>;
  const port = fact.leasePort;
  if (fact.v !== 1 || !isCount(port) || port > 65_535) return null;
  return {
    v: 1,
    leasePort: port,
    chosen: readChosen(fact.chosen),
    hasQuorum: fact.hasQuorum === true,
    ...(fact.hasForgotten === true && { hasForgotten: true }),
    gateFault: typeof fact.gateFault === 'string' ? fact.gateFault : null,
    held: listOf(fact.held).flatMap(({ name, epoch, state }) =>
      isName(name) && isCount(epoch) && typeof state === 'string' ? [{ name, epoch, state }] : [],
    ),
    unfit: listOf(fact.unfit).flatMap(({ name, why }) =>
      isName(name) && typeof why === 'string' ? [{ name, why }] : [],
    ),
  };
}

/** Of several claims to one lease the one of the highest epoch counts, whatever has become of whoever made it. */
export function holdersOf(facts: readonly HostLeaseFact[]): ReadonlyMap<LeaseName, Holder> {
  const holders = new Map<LeaseName, Holder>();
  for (const { host, fact } of facts) {
    for (const { name, epoch } of fact.held) {
      const known = holders.get(name);
      if (known === undefined || epoch > known.epoch) holders.set(name, { host, epoch });
    }
  }
  return holders;
}

/** The newest configuration of voters that anybody speaks of; guards check it before they believe it. */
export function newestChosen(
  known: readonly (ChosenConfig | null)[],
  env: string,
): ChosenConfig | null {
  let newest: ChosenConfig | null = null;
  for (const chosen of known) {
    if (chosen === null || chosen.config.env !== env) continue;
    if (newest === null || isNewer(chosen, newest)) newest = chosen;
  }
  return newest;
}

function isNewer(a: ChosenConfig, b: ChosenConfig): boolean {
  return a.config.generation !== b.config.generation
    ? a.config.generation > b.config.generation
    : a.config.n > b.config.n;
}

export function readChosen(value: unknown): ChosenConfig | null {
  if (typeof value !== 'object' || value === null) return null;
  const { config, electorate, votes } = value as Record<string, unknown>;
  if (typeof config !== 'object' || config === null) return null;
  const { env, n, prevHash, generation, voters, ttlMsMax, floors, floorRest } = config as Record<
    string,
    unknown
  >;
  const isConfig =
    typeof env === 'string' &&
    typeof prevHash === 'string' &&
    [n, generation, ttlMsMax, floorRest].every(isCount) &&
    isHostList(voters) &&
    voters.length > 0 &&
    Array.isArray(floors) &&
    floors.length <= leaseLimits.leasesMax;
  return isConfig && isHostList(electorate) && isHostList(votes) ? (value as ChosenConfig) : null;
}

function isHostList(value: unknown): value is HostId[] {
  return (
    Array.isArray(value) &&
    value.length <= leaseLimits.votersMax &&
    value.every((host) => typeof host === 'string' && /^[0-9a-f]{32}$/.test(host))
  );
}

function listOf(value: unknown): Record<string, unknown>[] {
  if (!Array.isArray(value)) return [];
  return value
    .slice(0, leaseLimits.leasesMax)
    .filter((one): one is Record<string, unknown> => typeof one === 'object' && one !== null);
}

function isName(value: unknown): value is LeaseName {
  return typeof value === 'string' && value.length <= leaseLimits.nameCharsMax;
}

function isCount(value: unknown): value is Epoch {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
