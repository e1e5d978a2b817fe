/** The one form of a plan's inputs, so that the same inputs in any order have one hash and give one plan. */
import { compareText, encode } from '../../crdt/codec.ts';
import type { PlanInputs } from '../../crdt/model.ts';

/** Sorted, and with nothing said twice. */
export function canonicalInputs(inputs: PlanInputs): PlanInputs {
  return {
    v: 1,
    env: inputs.env,
    roles: uniqueBy(inputs.roles, (role) => role.name),
    services: uniqueBy(inputs.services, (service) => service.id).map((service) => ({
      ...service,
      ports: uniqueBy(service.ports, (port) => port.name),
      dependsOn: uniqueBy(service.dependsOn, (dependency) => dependency.service),
    })),
    hosts: uniqueBy(inputs.hosts, (host) => host.id).map((host) => ({
      ...host,
      roles: [...new Set(host.roles)].toSorted(compareText),
    })),
    numbers: inputs.numbers.toSorted((a, b) => compareText(a[0], b[0]) || a[1] - b[1]),
    previous: uniqueBy(inputs.previous, (placement) => `${placement.service}/${placement.slot}`),
  };
}

/** Of two with one key the one whose canonical bytes come first stays. */
function uniqueBy<T>(items: readonly T[], keyOf: (item: T) => string): T[] {
  const byKey = new Map<string, T>();
  for (const item of items) {
    const key = keyOf(item);
    const other = byKey.get(key);
    if (other === undefined || compareText(encode(item).join(), encode(other).join()) < 0) {
      byKey.set(key, item);
    }
  }
  return [...byKey].toSorted((a, b) => compareText(a[0], b[0])).map(([, item]) => item);
}
