/** Services against their instances: the counts that `status`, `service ls` and waiting share. */
import { compareText } from '../../crdt/codec.ts';
import type { Placement, Service } from '../../crdt/model.ts';
import type { NodeApi } from '../node-api.ts';
import type { InstanceRow, ServiceRow } from './answers.ts';
import { leaseOf, leaseSubjects } from '../plan/leases.ts';
import { exclusiveServices, instanceRows } from './host-rows.ts';

/**
 * Counts are of slots, not of containers: a slot whose host died and whose successor runs it counts once, and so does
 * one that two hosts run while it is handed back.
 *
 * `desired` is what the committed plan placed and what it found no place for; a service that no plan has seen yet counts
 * what it asks for at least. A slot runs when an instance of it runs on any live host, and is healthy when one of those
 * passes its check or has none.
 */
export function serviceRows(node: NodeApi): ServiceRow[] {
  const committed = node.committedPlan();
  const placements = groupBy(committed?.plan.placements ?? [], (one) => one.serviceName);
  const instances = groupBy(instanceRows(node, {}), (one) => one.service);
  const unplaced = groupBy(committed?.plan.unplaceable ?? [], (one) => one.service);
  const planned = new Set((committed?.inputs.services ?? []).map((service) => service.id));
  const exclusive = exclusiveServices(node);
  return [...node.envView().services.values()]
    .map((service) => {
      const placed = placements.get(service.name) ?? [];
      const wanted = planned.has(service.id)
        ? placed.length + (unplaced.get(service.name)?.length ?? 0)
        : minimumOf(node, service);
      const rows = instances.get(service.name) ?? [];
      // What runs where its lease is not held is none of it.
      const own = exclusive.has(service.name) ? rows.filter(({ epoch }) => epoch !== null) : rows;
      return serviceRow(service, wanted, placed, own);
    })
    .toSorted((a, b) => compareText(a.name, b.name));
}

function serviceRow(
  service: Service,
  wanted: number,
  placed: readonly Placement[],
  instances: readonly InstanceRow[],
): ServiceRow {
  const slots = new Set(placed.map(({ slot }) => slot));
  const running = instances.filter((row) => row.state === 'running' && slots.has(row.slot));
  const healthy = running.filter(({ health }) => health === 'healthy' || health === 'none');
  return {
    name: service.name,
    role: service.role,
    image: service.image,
    enabled: service.isEnabled,
    desired: service.isEnabled ? wanted : 0,
    running: new Set(running.map(({ slot }) => slot)).size,
    healthy: new Set(healthy.map(({ slot }) => slot)).size,
  };
}

/** What is wanted even before any plan has placed anything. */
function minimumOf(node: NodeApi, service: Service): number {
  if (isExclusive(node, service)) return 1;
  const { perRole, perHost } = service.count;
  if (perRole !== undefined) return perRole.min;
  const hosts = node.hosts().filter((host) => host.roles.includes(service.role));
  return hosts.length * (perHost?.min ?? 1);
}

/** By the document as it is now. */
export function isExclusive(node: NodeApi, service: Service): boolean {
  const { storage } = node.envView();
  const followed = service.follows === undefined ? undefined : storage.get(service.follows);
  return leaseOf(service, followed) !== null;
}

/** Exclusive storage, by name, that nobody holds and no service follows: those that follow are told of themselves. */
export function unheldStorage(node: NodeApi): string[] {
  const inputs = node.committedPlan()?.inputs;
  if (inputs === undefined) return [];
  const holders = node.leaseHolders();
  return [...leaseSubjects(inputs).values()].flatMap(({ lease, storage, services }) =>
    storage !== null && services.length === 0 && !holders.has(lease) ? [storage.name] : [],
  );
}

export function isServiceRight(row: ServiceRow): boolean {
  return row.running === row.desired && row.healthy === row.running;
}

/**
 * Instances that run although nothing wants them there: their slot is gone, or its own host runs it too. Names such as
 * 'site-0 on h2'.
 */
export function extraInstances(node: NodeApi): string[] {
  const names = new Map(node.hosts().map((host) => [host.id, host.name]));
  const planned = new Map<string, string>();
  for (const { serviceName, slot, host } of node.committedPlan()?.plan.placements ?? []) {
    planned.set(`${serviceName}-${slot}`, names.get(host) ?? '');
  }
  const running = instanceRows(node, {}).filter((row) => row.state === 'running');
  const exclusive = exclusiveServices(node);
  const places = new Set(running.map((row) => `${row.instance} ${row.host}`));
  return running
    .filter((row) => {
      const home = planned.get(row.instance);
      if (home === undefined) return true;
      // One nobody holds is told of as such: it may be that its holder has just not been heard of.
      const held = exclusive.get(row.service);
      if (held !== undefined) return held.holder !== null && row.epoch === null;
      return home !== row.host && places.has(`${row.instance} ${home}`);
    })
    .map((row) => `${row.instance} on ${row.host}`);
}

export function groupBy<T>(items: readonly T[], keyOf: (item: T) => string): Map<string, T[]> {
  const groups = new Map<string, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [item]);
    else group.push(item);
  }
  return groups;
}
