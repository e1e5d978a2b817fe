/** What a plan is made from, in the one form that gives one hash. */
import { compareText, encode } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { Hash } from '../../crdt/ids.ts';
import type { EnvView, HostView, Placement, PlanHost, PlanInputs } from '../../crdt/model.ts';

/** Capacity is rounded down to these, so that a kernel that reports a page less tomorrow changes no plan. */
const cpuStep = 0.01;
const memoryStepBytes = 16 << 20;

/**
 * From view and hosts. Hosts of other environments and those that have left are not part of it. Only `dead` counts as
 * not alive: a suspect host is not yet a reason to plan differently.
 */
export function buildPlanInputs(
  view: EnvView,
  hosts: readonly HostView[],
  previous: readonly Placement[],
): PlanInputs {
  const poisoned = view.problems.flatMap((p) =>
    p.kind === 'poison' && p.object !== null ? [p.object] : [],
  );
  return canonicalInputs({
    v: 1,
    env: view.env,
    roles: [...view.roles.values()],
    services: [...view.services.values()],
    hosts: hosts.filter((host) => host.env === view.env && host.liveness !== 'left').map(planHost),
    numbers: [...view.numbers],
    previous,
    ...(poisoned.length > 0 ? { held: poisoned } : {}),
  });
}

/** Sorted and with nothing said twice: equal inputs in any order become equal values. */
export function canonicalInputs(inputs: PlanInputs): PlanInputs {
  const { held } = inputs;
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
    ...(held === undefined ? {} : { held: [...new Set(held)].toSorted(compareText) }),
  };
}

/** sha-256 over the canonical CBOR of the canonical inputs. */
export function inputHash(inputs: PlanInputs, sha256: (bytes: Uint8Array) => Uint8Array): Hash {
  return hex(sha256(encode(canonicalInputs(inputs)))) as Hash;
}

function planHost(host: HostView): PlanHost {
  return {
    id: host.id,
    name: host.name,
    roles: host.roles,
    meta: host.meta,
    isAlive: host.liveness !== 'dead',
    isDrained: host.isDrained,
    cpu: Math.floor((host.capacity?.cpu ?? 0) / cpuStep + 1e-6) * cpuStep,
    memoryBytes: Math.floor((host.capacity?.memoryBytes ?? 0) / memoryStepBytes) * memoryStepBytes,
  };
}

/** Of two with one key the one that sorts first as text stays. */
function uniqueBy<T>(items: readonly T[], keyOf: (item: T) => string): T[] {
  const byKey = new Map<string, T>();
  for (const item of items) {
    const key = keyOf(item);
    const other = byKey.get(key);
    if (
      other === undefined ||
      (other !== item && compareText(canonicalText(item), canonicalText(other)) < 0)
    ) {
      byKey.set(key, item);
    }
  }
  return [...byKey].toSorted((a, b) => compareText(a[0], b[0])).map(([, item]) => item);
}

function canonicalText(value: unknown): string {
  return encode(value).join();
}
