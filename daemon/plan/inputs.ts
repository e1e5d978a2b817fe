/** The one form of a plan's inputs, so that the same inputs in any order have one hash and give one plan. */
import { compareText, encode } from '../../crdt/codec.ts';
import type { EnvView, PlanInputs, Service } from '../../crdt/model.ts';

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
    ...(inputs.images === undefined
      ? {}
      : { images: uniqueBy(inputs.images, (image) => image.reference) }),
    numbers: inputs.numbers.toSorted((a, b) => compareText(a[0], b[0]) || a[1] - b[1]),
    previous: uniqueBy(inputs.previous, (placement) => `${placement.service}/${placement.slot}`),
  };
}

/**
 * The services to plan with. One whose object cannot be read now stays as the committed plan has it, because leaving it out
 * would stop what runs; unless its name has gone to another meanwhile. Sorted by id.
 */
export function servicesToPlan(
  view: Pick<EnvView, 'services' | 'problems'>,
  committed: readonly Service[],
): readonly Service[] {
  const unreadable = new Set(
    view.problems.flatMap(({ kind, object }) => (kind === 'poison' ? [object as string] : [])),
  );
  const held = committed.filter(({ id, name }) => unreadable.has(id) && !view.services.has(name));
  return [...view.services.values(), ...held].toSorted((a, b) => compareText(a.id, b.id));
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
