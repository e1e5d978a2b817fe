/** The one form of a plan's inputs, so that the same inputs in any order have one hash and give one plan. */
import { compareText, encode } from '../../crdt/codec.ts';
import { saysMore } from '../../crdt/lease-leaves.ts';
import type { EnvView, ImageEntry, PlanInputs, Service, Storage } from '../../crdt/model.ts';

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
    // Plans made before there was storage keep their hash.
    ...(inputs.storage === undefined || inputs.storage.length === 0
      ? {}
      : { storage: uniqueBy(inputs.storage, (storage) => storage.id) }),
    ...(inputs.voters === undefined ? {} : { voters: [...new Set(inputs.voters)].toSorted() }),
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

/** The part of a plan's inputs that operators decide. */
export type DecidedInputs = Pick<
  PlanInputs,
  'services' | 'roles' | 'numbers' | 'images' | 'storage'
>;

/** What the document says now, as a plan takes it. `committed`: of the plan in force, null when there is none. */
export function decidedInputs(view: EnvView, committed: DecidedInputs | null): DecidedInputs {
  const { services, storage } = leasesToPlan(
    view,
    servicesToPlan(view, committed?.services ?? []),
    committed,
  );
  return {
    roles: [...view.roles.values()].toSorted((a, b) => compareText(a.id, b.id)),
    services,
    images: imagesOf(services, view),
    numbers: [...view.numbers].toSorted(([a], [b]) => compareText(a, b)),
    ...(storage.length === 0 ? {} : { storage }),
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
  const unreadable = unreadableOf(view.problems);
  const held = committed.filter(({ id, name }) => unreadable.has(id) && !view.services.has(name));
  return [...view.services.values(), ...held].toSorted((a, b) => compareText(a.id, b.id));
}

/**
 * Services and storage that fit each other. Where two edits leave a service without the storage it follows, both stay as the
 * committed plan has them; a service that was never committed so is left out until somebody mends it. A freeze is no part
 * of a plan: it holds at once.
 */
function leasesToPlan(
  view: EnvView,
  services: readonly Service[],
  committed: DecidedInputs | null,
): { readonly services: readonly Service[]; readonly storage: readonly Storage[] } {
  const unreadable = unreadableOf(view.problems);
  const before = new Map((committed?.storage ?? []).map((one) => [one.name, one]));
  const storage = new Map(view.storage);
  for (const one of before.values())
    if (unreadable.has(one.id) && !storage.has(one.name)) storage.set(one.name, one);
  const former = new Map((committed?.services ?? []).map((one) => [one.id, one]));
  const kept = services.flatMap((service): readonly Service[] => {
    if (isServed(service, storage)) return [service];
    const was = former.get(service.id);
    if (was === undefined || !isServed(was, before)) return [];
    const followed = was.follows === undefined ? undefined : before.get(was.follows);
    // What has its name now is of another role, and served others perhaps: the one in force goes on.
    if (followed !== undefined) storage.set(followed.name, followed);
    return [was];
  });
  return {
    services: kept.map(thawed),
    storage: [...storage.values()].map(thawed).toSorted((a, b) => compareText(a.id, b.id)),
  };
}

function isServed(service: Service, storage: ReadonlyMap<string, Storage>): boolean {
  return service.follows === undefined || storage.get(service.follows)?.role === service.role;
}

function thawed<T extends Service | Storage>(object: T): T {
  if (object.lease?.isFrozen !== true) return object;
  const { lease, ...rest } = object;
  return (saysMore(lease) ? { ...rest, lease: { ...lease, isFrozen: false } } : rest) as T;
}

function unreadableOf(problems: EnvView['problems']): ReadonlySet<string> {
  return new Set(problems.flatMap(({ kind, object }) => (kind === 'poison' ? [object ?? ''] : [])));
}

function imagesOf(services: readonly Service[], view: EnvView): readonly ImageEntry[] {
  const references = new Set(services.map((service) => service.image));
  const held = [...view.images.values()].filter((image) => references.has(image.reference));
  return held.toSorted((a, b) => compareText(a.reference, b.reference));
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
