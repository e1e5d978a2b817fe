/** Services against their instances: the counts that `status`, `service ls` and waiting share. */
import { compareText } from '../../crdt/codec.ts';
import type { Placement, Service } from '../../crdt/model.ts';
import type { NodeApi } from '../node-api.ts';
import type { InstanceRow, ServiceRow } from './answers.ts';
import { instanceRows } from './host-rows.ts';

/**
 * `desired` counts what must run now: committed placements with failover applied, plus what the plan found no place for. An
 * instance counts as running when its engine says so on the host where it belongs; it is healthy when it also passes its
 * check, or has none.
 */
export function serviceRows(node: NodeApi): ServiceRow[] {
  const view = node.envView();
  const placements = groupBy(node.effectivePlacements(), (one) => one.serviceName);
  const instances = groupBy(instanceRows(node, {}), (one) => one.service);
  const unplaced = groupBy(node.committedPlan()?.plan.unplaceable ?? [], (one) => one.service);
  const hostName = new Map(node.hosts().map((host) => [host.id, host.name]));
  return [...view.services.values()]
    .map((service) =>
      serviceRow(service, {
        placements: placements.get(service.name) ?? [],
        instances: instances.get(service.name) ?? [],
        unplaced: unplaced.get(service.name)?.length ?? 0,
        hostName,
      }),
    )
    .toSorted((a, b) => compareText(a.name, b.name));
}

function serviceRow(
  service: Service,
  found: {
    placements: readonly Placement[];
    instances: readonly InstanceRow[];
    unplaced: number;
    hostName: ReadonlyMap<string, string>;
  },
): ServiceRow {
  const places = new Set(
    found.placements.map(({ slot, host }) => `${slot} ${found.hostName.get(host) ?? ''}`),
  );
  const running = found.instances.filter(
    (row) => row.state === 'running' && places.has(`${row.slot} ${row.host}`),
  );
  const isHealthy = ({ health }: InstanceRow) => health === 'healthy' || health === 'none';
  return {
    name: service.name,
    role: service.role,
    image: service.image,
    enabled: service.isEnabled,
    desired: service.isEnabled ? Math.max(places.size + found.unplaced, minimumOf(service)) : 0,
    running: running.length,
    healthy: running.filter(isHealthy).length,
  };
}

/** What is wanted even when no plan has placed anything yet. */
function minimumOf(service: Service): number {
  return service.count.perRole?.min ?? 0;
}

export function isServiceRight(row: ServiceRow): boolean {
  return row.running === row.desired && row.healthy === row.running;
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
