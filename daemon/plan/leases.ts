/**
 * What is held by a lease, under which name, and behind which gate.
 *
 * A lease belongs to one object: exclusive storage, or an exclusive service that follows none. Services that follow
 * exclusive storage run under its lease, all of them on the host that holds it: one lease, one gate, one subject. What
 * the storage does not say about lease or placement, the first of its services that does says for it.
 */
import { compareText } from '../../crdt/codec.ts';
import type { HostId, ObjectId } from '../../crdt/ids.ts';
import type { LeaseSettings, PlanInputs, Service, Storage } from '../../crdt/model.ts';
import {
  isPlacementSaid,
  leaseDefaults,
  placementDefault,
  saysMore,
} from '../../crdt/lease-leaves.ts';
import type { Epoch, LeaseName } from '../lease/model.ts';

/** The object whose lease it is. */
export interface LeaseOwner {
  readonly kind: 'service' | 'storage';
  readonly id: ObjectId;
}

/** Who holds a lease, as far as somebody said. A hint: nothing exclusive is decided by it. */
export interface Holder {
  readonly host: HostId;
  readonly epoch: Epoch;
}

/** Everything that one lease covers. */
export interface LeaseSubject extends LeaseOwner {
  readonly lease: LeaseName;
  /** For people: 'service db'. */
  readonly title: string;
  readonly role: string;
  readonly storage: Storage | null;
  /** What runs under the lease, by name. */
  readonly services: readonly Service[];
  readonly placement: Omit<Service['placement'], 'where'>;
  /** Metadata that storage and services ask of a host; all of it must hold. */
  readonly where: readonly Readonly<Record<string, string>>[];
  /** Freezing one freezes all. */
  readonly settings: LeaseSettings;
}

/** `storage`: what the service follows, when it exists. Null: the service may run twice. */
export function leaseOf(
  service: Pick<Service, 'id' | 'isExclusive'>,
  storage: Pick<Storage, 'id' | 'isExclusive'> | undefined,
): LeaseOwner | null {
  if (storage?.isExclusive === true) return { kind: 'storage', id: storage.id };
  return service.isExclusive === true ? { kind: 'service', id: service.id } : null;
}

export function leaseNameOf(env: string, owner: LeaseOwner): LeaseName {
  return `${owner.kind}/${env}/${owner.id}`;
}

export function plannerLeaseOf(env: string): LeaseName {
  return `planner/${env}`;
}

/** Held by the host that replaces instances of a service one after the other; taken by `LeaseHolds.withLease`. */
export function rolloutLeaseOf(env: string, service: ObjectId): LeaseName {
  return `rollout/${env}/${service}`;
}

/**
 * Name of the cgroup, without the driver's spelling. The host is part of it because several hosts of a test machine share
 * one tree of cgroups.
 */
export function gateOf(cluster8: string, object: ObjectId, host: HostId): string {
  return `trellis-x-${cluster8}-${object.slice(0, 12)}-${host.slice(0, 6)}`;
}

/** Every lease of an environment's services and storage, sorted by name. */
export function leaseSubjects(inputs: LeaseInputs): ReadonlyMap<LeaseName, LeaseSubject> {
  return indexOf(inputs).subjects;
}

/** The lease that a service of these inputs runs under; null when it may run twice. */
export function leaseNameOfService(service: ObjectId, inputs: LeaseInputs): LeaseName | null {
  return indexOf(inputs).leases.get(service) ?? null;
}

/** What it follows; undefined when it follows nothing, or what is not there. */
export function storageOf(
  service: Pick<Service, 'follows'>,
  inputs: LeaseInputs,
): Storage | undefined {
  return service.follows === undefined
    ? undefined
    : indexOf(inputs).storageByName.get(service.follows);
}

export type LeaseInputs = Pick<PlanInputs, 'env' | 'services' | 'storage'>;

interface LeaseIndex {
  readonly subjects: ReadonlyMap<LeaseName, LeaseSubject>;
  /** By service. */
  readonly leases: ReadonlyMap<ObjectId, LeaseName>;
  readonly storageByName: ReadonlyMap<string, Storage>;
}

/** Inputs never change once they are made, and are asked about again and again. */
const indexes = new WeakMap<LeaseInputs, LeaseIndex>();

function indexOf(inputs: LeaseInputs): LeaseIndex {
  const known = indexes.get(inputs);
  if (known !== undefined) return known;
  const made = makeIndex(inputs);
  indexes.set(inputs, made);
  return made;
}

function makeIndex({ env, services, storage = [] }: LeaseInputs): LeaseIndex {
  const storageByName = new Map(storage.map((one) => [one.name, one]));
  const leases = new Map<ObjectId, LeaseName>();
  const groups = new Map<LeaseName, { storage: Storage | null; services: Service[] }>();
  for (const one of storage) {
    if (one.isExclusive)
      groups.set(leaseNameOf(env, { kind: 'storage', id: one.id }), { storage: one, services: [] });
  }
  for (const service of services) {
    const followed = service.follows === undefined ? undefined : storageByName.get(service.follows);
    const owner = leaseOf(service, followed);
    if (owner === null) continue;
    const lease = leaseNameOf(env, owner);
    leases.set(service.id, lease);
    const group = groups.get(lease);
    if (group === undefined) groups.set(lease, { storage: null, services: [service] });
    else group.services.push(service);
  }
  const subjects = [...groups]
    .toSorted(([a], [b]) => compareText(a, b))
    .flatMap(([lease, group]) => {
      const subject = makeSubject(lease, group.storage, group.services);
      return subject === null ? [] : [[lease, subject] as const];
    });
  return { subjects: new Map(subjects), leases, storageByName };
}

function makeSubject(
  lease: LeaseName,
  storage: Storage | null,
  members: readonly Service[],
): LeaseSubject | null {
  const services = members.toSorted(
    (a, b) => compareText(a.name, b.name) || compareText(a.id, b.id),
  );
  const object = storage ?? services[0];
  if (object === undefined) return null;
  const kind = storage === null ? 'service' : 'storage';
  const all = [...(storage === null ? [] : [storage]), ...services];
  const settings = all.flatMap((one) => one.lease ?? []).find(saysMore) ?? leaseDefaults;
  const placement = all.map((one) => one.placement).find(isPlacementSaid) ?? placementDefault;
  return {
    kind,
    id: object.id,
    lease,
    title: `${kind} ${object.name}`,
    role: object.role,
    storage,
    services,
    placement,
    where: all.map((one) => one.placement.where),
    settings: { ...settings, isFrozen: all.some((one) => one.lease?.isFrozen === true) },
  };
}
