/**
 * What cannot be together where things are exclusive: between a service and the storage it follows, among services that
 * share a lease, among directories of one role. Files and merged documents are checked with the same rules.
 */
import { compareText } from './codec.ts';
import { isPlacementSaid, leaseDefaults, policies, saysMore } from './lease-leaves.ts';
import type { Placement } from './lease-leaves.ts';
import type { LeaseSettings, Service, Storage } from './model.ts';
import { pathsOverlap } from './storage-path.ts';

export interface ExclusiveFault {
  readonly object: { readonly kind: 'service' | 'storage'; readonly name: string };
  /** As files name it. */
  readonly field: 'follows' | 'count' | 'lease' | 'placement' | 'path' | 'ports';
  readonly words: string;
}

/** For work that may run twice. */
const sharedPolicies = policies.slice(0, 2);

/** By object and field; the same for the same objects in any order. */
export function exclusiveFaults(
  services: Iterable<Service>,
  storage: ReadonlyMap<string, Storage>,
): readonly ExclusiveFault[] {
  const faults: ExclusiveFault[] = [];
  const followers = new Map<string, Service[]>();
  for (const service of services) {
    const followed = service.follows === undefined ? undefined : storage.get(service.follows);
    if (followed?.isExclusive === true)
      followers.set(followed.name, [...(followers.get(followed.name) ?? []), service]);
    faults.push(...faultsOf(service, followed));
  }
  for (const [name, group] of followers) {
    const owner = storage.get(name);
    if (owner !== undefined) faults.push(...disagreements(owner, group));
  }
  faults.push(...overlaps([...storage.values()]));
  return faults.toSorted(
    (a, b) =>
      compareText(a.object.kind, b.object.kind) ||
      compareText(a.object.name, b.object.name) ||
      compareText(a.field, b.field) ||
      compareText(a.words, b.words),
  );
}

function faultsOf(service: Service, followed: Storage | undefined): ExclusiveFault[] {
  const { follows, placement } = service;
  const fault = (field: ExclusiveFault['field'], words: string): ExclusiveFault => ({
    object: { kind: 'service', name: service.name },
    field,
    words,
  });
  if (follows !== undefined && followed === undefined)
    return [fault('follows', `there is no storage named ${follows}`)];
  const faults: ExclusiveFault[] = [];
  if (followed !== undefined && followed.role !== service.role)
    faults.push(
      fault(
        'follows',
        `storage ${followed.name} is of role ${followed.role}, the service of role ${service.role}`,
      ),
    );
  const isExclusive = service.isExclusive === true || followed?.isExclusive === true;
  if (isExclusive && !isOnce(service.count))
    faults.push(fault('count', 'an exclusive service has one instance: leave `count` out'));
  if (!isExclusive && service.lease !== undefined && saysMore(service.lease))
    faults.push(
      fault('lease', 'needs `exclusive: true`, or `follows` with storage that is exclusive'),
    );
  if (!isExclusive && !sharedPolicies.includes(placement.policy))
    faults.push(
      fault(
        'placement',
        `policy ${placement.policy} is for exclusive work; others have ${sharedPolicies.join(' and ')}`,
      ),
    );
  return faults;
}

function isOnce({ perHost, perRole }: Service['count']): boolean {
  return perRole?.min === 1 && perRole.max === 1 && (perHost === undefined || perHost.max >= 1);
}

/** Who shares a lease may leave it to the others to say something, not say something else. */
function disagreements(storage: Storage, services: readonly Service[]): ExclusiveFault[] {
  const faults: ExclusiveFault[] = [];
  const sorted = services.toSorted((a, b) => compareText(a.name, b.name));
  const all = [
    { kind: 'storage' as const, of: storage },
    ...sorted.map((of) => ({ kind: 'service' as const, of })),
  ];
  faults.push(...portClashes(sorted, storage));
  const firsts: { lease?: (typeof all)[number]; placement?: (typeof all)[number] } = {};
  for (const one of all) {
    const { lease, placement } = one.of;
    const object = { kind: one.kind, name: one.of.name };
    if (lease !== undefined && saysMore(lease)) {
      firsts.lease ??= one;
      if (!sameLease(lease, firsts.lease.of.lease ?? leaseDefaults))
        faults.push({ object, field: 'lease', words: otherThan(firsts.lease, storage) });
    }
    if (isPlacementSaid(placement)) {
      firsts.placement ??= one;
      if (!samePlacement(placement, firsts.placement.of.placement))
        faults.push({ object, field: 'placement', words: otherThan(firsts.placement, storage) });
    }
  }
  return faults;
}

/** They always run on one host. */
function portClashes(services: readonly Service[], storage: Storage): ExclusiveFault[] {
  const owners = new Map<string, string>();
  return services.flatMap(({ name, ports }) =>
    ports.flatMap((port): ExclusiveFault[] => {
      if (port.host === undefined) return [];
      const key = `${port.host}/${port.protocol}`;
      const owner = owners.get(key);
      owners.set(key, owner ?? name);
      if (owner === undefined || owner === name) return [];
      const words = `${key} is published by service ${owner} too, and both are where storage ${storage.name} is active`;
      return [{ object: { kind: 'service', name }, field: 'ports', words }];
    }),
  );
}

function otherThan(
  one: { readonly kind: string; readonly of: { readonly name: string } },
  storage: Storage,
): string {
  return `is not what ${one.kind} ${one.of.name} says, and both share the lease of storage ${storage.name}`;
}

function sameLease(a: LeaseSettings, b: LeaseSettings): boolean {
  return Object.keys(leaseDefaults).every((key) => {
    const field = key as keyof LeaseSettings;
    return field === 'isFrozen' || JSON.stringify(a[field]) === JSON.stringify(b[field]);
  });
}

function samePlacement(a: Placement, b: Placement): boolean {
  return (
    a.policy === b.policy &&
    a.key === b.key &&
    JSON.stringify(a.hosts ?? []) === JSON.stringify(b.hosts ?? [])
  );
}

/** One directory in, or the same as, another of the same role would be copied and mounted twice. */
function overlaps(all: readonly Storage[]): ExclusiveFault[] {
  const byRole = new Map<string, Storage[]>();
  for (const storage of all)
    byRole.set(storage.role, [...(byRole.get(storage.role) ?? []), storage]);
  const faults: ExclusiveFault[] = [];
  for (const group of byRole.values()) {
    // With a slash at its end a directory sorts right before everything in it.
    const sorted = group.toSorted(
      (a, b) => compareText(`${a.path}/`, `${b.path}/`) || compareText(a.name, b.name),
    );
    let outer: Storage | undefined;
    for (const one of sorted) {
      if (outer === undefined || !pathsOverlap(outer.path, one.path)) {
        outer = one;
        continue;
      }
      faults.push({
        object: { kind: 'storage', name: one.name },
        field: 'path',
        words: `${one.path} overlaps ${outer.path} of storage ${outer.name} on hosts of role ${one.role}`,
      });
    }
  }
  return faults;
}
