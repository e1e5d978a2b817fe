/** Gathers what `lease-desired.ts` decides on: from the node's views and facts, and from what only this host knows. */
import type { HostId } from '../crdt/ids.ts';
import type { HostFact, InventoryFact, StorageFact } from '../crdt/model.ts';
import { compareText } from '../crdt/codec.ts';
import type { GuardStatus } from './lease/guard-api.ts';
import type { LeaseName } from './lease/model.ts';
import type { LeaseDesiredInput } from './lease-desired.ts';
import { holdersOf, isHeld, leaseTopic, readLeaseFact } from './lease-facts.ts';
import type { HostLeaseFact } from './lease-facts.ts';
import type { TrellisNode } from './node.ts';
import type { FactEntry } from './node-api.ts';
import { isAddress, reportedInstances } from './plan/reported.ts';

/** What no fact says. */
export interface LocalLeases {
  readonly status: GuardStatus | null;
  /** The first configuration of voters is known to have been made. */
  readonly isFounded: boolean;
  readonly votersWanted: readonly HostId[] | null;
  readonly engine: 'ok' | 'absent' | 'hung';
  readonly startFailures: ReadonlyMap<LeaseName, string>;
  readonly unready: ReadonlyMap<LeaseName, string>;
  readonly failingProbes: readonly string[];
  readonly isLeaving: boolean;
}

const addressesMax = 8;

export function gatherLeaseInput(node: TrellisNode, local: LocalLeases): LeaseDesiredInput {
  const { env, self } = node;
  const view = node.envView();
  const hosts = node.hosts().filter((host) => host.env === env && host.liveness !== 'left');
  const byHost = <T>(topic: string, read: (value: unknown) => T | null): Map<HostId, T> =>
    new Map(
      hosts.flatMap(({ id, node: owner }) => {
        const entry = node.fact(topic, owner);
        const value = entry === null ? null : read(entry.value);
        return value === null ? [] : [[id, value] as const];
      }),
    );
  const leaseFacts = leaseFactsOf(node);
  const held = (local.status?.leases ?? []).filter(isHeld).map(({ name }) => name);
  return {
    clusterId: node.clusterId,
    env,
    self: self.host,
    inputs: node.leaseInputs(),
    view,
    hosts,
    addresses: byHost('host', readAddresses),
    leaseFacts,
    storageFacts: byHost('storage', readStorage),
    load: byHost('inventory', readLoad),
    holders: holdersOf(leaseFacts),
    ownHeld: new Set(held),
    ownChosen: local.status?.chosen ?? null,
    isFounder: !local.isFounded && isFounder(node, leaseFacts),
    votersWanted: local.votersWanted,
    engine: local.engine,
    gateFault: local.status?.gateFault ?? null,
    startFailures: local.startFailures,
    unready: local.unready,
    failingProbes: local.failingProbes,
    isLeaving: local.isLeaving,
    containers: containersOf(node.fact('docker', self.node)),
  };
}

const readFacts = new WeakMap<object, ReturnType<typeof readLeaseFact>>();

/** Of the members of this environment. A fact is read once: it is asked for at every change of anything. */
export function leaseFactsOf(node: TrellisNode): readonly HostLeaseFact[] {
  const hosts = new Map(node.hosts().map((host) => [host.node as string, host]));
  return node.facts(leaseTopic).flatMap(({ owner, value }) => {
    const host = hosts.get(owner);
    if (host === undefined || host.env !== node.env || typeof value !== 'object' || value === null)
      return [];
    if (!readFacts.has(value)) readFacts.set(value, readLeaseFact(value));
    const fact = readFacts.get(value) ?? null;
    return fact === null ? [] : [{ host: host.id, fact }];
  });
}

/**
 * Does this host make the first configuration of voters? The member that the authority itself admitted does: by
 * construction there is one. In an environment that was opened by an invitation it is the member that was admitted first,
 * and only once all others have said what they know, so that nothing is made a second time.
 */
function isFounder(node: TrellisNode, facts: readonly HostLeaseFact[]): boolean {
  const members = [...node.replica.roster.members().values()].filter(
    ({ record }) => record.env === node.env,
  );
  const rank = ({ record }: (typeof members)[number]): number =>
    record.invite === undefined ? 0 : 1;
  const [first, ...others] = members.toSorted(
    (a, b) =>
      rank(a) - rank(b) || a.record.admittedAt - b.record.admittedAt || compareText(a.hash, b.hash),
  );
  if (first?.host !== node.self.host) return false;
  const told = new Set(facts.map(({ host }) => host));
  return first.record.invite === undefined || others.every(({ host }) => told.has(host));
}

function readAddresses(value: unknown): readonly string[] | null {
  const { advertise, addresses } = (value ?? {}) as Partial<HostFact>;
  const all = [advertise, ...(Array.isArray(addresses) ? addresses : [])].filter(isAddress);
  return all.length === 0 ? null : [...new Set(all)].slice(0, addressesMax);
}

export function readStorage(value: unknown): StorageFact | null {
  const { v, storage } = (value ?? {}) as Partial<StorageFact>;
  if (v !== 1 || !Array.isArray(storage)) return null;
  const isRow = (row: unknown): boolean => {
    const { id, state, epoch, version } = (row ?? {}) as Record<string, unknown>;
    return (
      typeof id === 'string' &&
      typeof state === 'string' &&
      Number.isSafeInteger(epoch) &&
      Number.isSafeInteger(version)
    );
  };
  return { v, storage: storage.filter(isRow) };
}

/** Of the scarcer of processors and memory. */
function readLoad(value: unknown): number | null {
  const { load, cpu, memory } = (value ?? {}) as Partial<InventoryFact>;
  if (!Array.isArray(load) || cpu === undefined || memory === undefined) return null;
  const busy = load[0] / Math.max(1, cpu.count);
  const used = 1 - memory.availableBytes / Math.max(1, memory.totalBytes);
  const share = Math.max(busy, used);
  return Number.isFinite(share) ? Math.min(1, Math.max(0, share)) : null;
}

function containersOf(fact: FactEntry | null): ReadonlyMap<string, readonly string[]> {
  const found = new Map<string, string[]>();
  for (const { service, address } of reportedInstances(fact?.value)) {
    if (address !== null) found.set(service, [...(found.get(service) ?? []), address]);
  }
  return found;
}
