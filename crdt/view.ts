/**
 * From the leaves of an environment's document to the one typed view that everybody works from. Pure and the same on
 * every host for the same leaves. What cannot be used is listed as a problem and the rest goes on.
 *
 * An edit touches one or two objects of possibly 10,000, so objects are kept as they were read and only touched ones
 * are read again; what follows from all of them together (names, numbers, combined problems) is worked out anew only
 * when a touched object changed in a way that matters for it.
 */
import { compareText } from './codec.ts';
import { cyclesOf } from './cycles.ts';
import type { ObjectId } from './ids.ts';
import type { LeafOwner, LeafSource } from './leaf-source.ts';
import { isPlacementSaid } from './lease-leaves.ts';
import { exclusiveFaults } from './exclusive-faults.ts';
import type { EnvView, Problem, Role, Service, Storage } from './model.ts';
import { resolveNumbers } from './numbers.ts';
import type { ConfigObject, ObjectKind } from './object-kinds.ts';
import { pointerOf } from './pointer.ts';
import { isProblem, roleFromLeaves, serviceFromLeaves } from './service-leaves.ts';
import { storageFromLeaves } from './storage-leaves.ts';
import { readSettings } from './settings.ts';
import type { Settings } from './settings.ts';
import { referencesOf } from './templates.ts';

/** One view, nothing kept. */
export function buildEnvView(env: string, reader: LeafSource): EnvView {
  return new EnvViewCache(env).update(reader, 'all');
}

type Readable =
  | {
      readonly kind: 'service';
      readonly service: Service;
      readonly shape: string;
      readonly refs: readonly Ref[];
    }
  | { readonly kind: 'role'; readonly role: Role; readonly shape: string }
  | { readonly kind: 'storage'; readonly storage: Storage; readonly shape: string }
  | { readonly kind: 'problem'; readonly problem: Problem; readonly shape: string };

/** A service, and perhaps a port of it, that another one names. */
interface Ref {
  readonly service: string;
  readonly port: string | undefined;
}

/** Keeps what it read. One per document; not shared between documents. */
export class EnvViewCache {
  readonly #env: string;
  /** Live objects only. */
  readonly #objects = new Map<ObjectId, Readable>();
  #settings: Settings = readSettings(new Map());
  #view: EnvView | null = null;

  constructor(env: string) {
    this.#env = env;
  }

  /**
   * The view after `touched` objects (or 'names', 'settings') may have changed; 'all' reads everything. Touching too much
   * is only slow, touching too little gives a stale view. Unchanged parts keep their identity.
   */
  update(reader: LeafSource, touched: 'all' | Iterable<LeafOwner>): EnvView {
    const owners =
      touched === 'all' || this.#view === null ? this.#everything(reader) : [...touched];
    let isReshaped = this.#view === null;
    for (const owner of owners) {
      if (owner === 'settings') this.#settings = readSettings(reader.leaves('settings'));
      if (owner === 'settings' || owner === 'names') isReshaped = true;
      else if (this.#read(owner, reader)) isReshaped = true;
    }
    this.#view =
      isReshaped || this.#view === null
        ? this.#assemble(reader)
        : this.#refresh(this.#view, owners);
    return this.#view;
  }

  #everything(reader: LeafSource): LeafOwner[] {
    this.#objects.clear();
    this.#view = null;
    return ['names', 'settings', ...reader.objectIds()];
  }

  /** True when the change may matter to other objects. */
  #read(id: ObjectId, reader: LeafSource): boolean {
    const before = this.#objects.get(id);
    const after = readObject(id, reader);
    if (after === null) this.#objects.delete(id);
    else this.#objects.set(id, after);
    return before?.shape !== after?.shape;
  }

  /** Only fields that concern nobody else have changed. */
  #refresh(view: EnvView, owners: readonly LeafOwner[]): EnvView {
    const services = new Map(view.services);
    const roles = new Map(view.roles);
    for (const owner of owners) {
      const object = this.#objects.get(owner as ObjectId);
      if (object?.kind === 'service' && services.get(object.service.name)?.id === owner) {
        services.set(object.service.name, object.service);
      } else if (object?.kind === 'role' && roles.get(object.role.name)?.id === owner) {
        roles.set(object.role.name, object.role);
      }
    }
    return { ...view, services, roles };
  }

  #assemble(reader: LeafSource): EnvView {
    const problems: Problem[] = [];
    const all = [...this.#objects.values()];
    for (const object of all) if (object.kind === 'problem') problems.push(object.problem);
    const found = all.flatMap((object) => (object.kind === 'service' ? [object] : []));
    const services = byName(
      'service',
      found.map((object) => object.service),
      reader,
      problems,
    );
    const roles = byName(
      'role',
      all.flatMap((object) => (object.kind === 'role' ? [object.role] : [])),
      reader,
      problems,
    );
    const storage = byName(
      'storage',
      all.flatMap((object) => (object.kind === 'storage' ? [object.storage] : [])),
      reader,
      problems,
    );
    const numbers = this.#numbers(services, problems);
    checkHostPorts(services, problems);
    const refs = new Map(found.map((object) => [object.service.id, object.refs]));
    checkReferences(services, refs, problems);
    checkCircles(services, problems);
    checkExclusive(services, storage, problems);
    problems.sort((a, b) => compareText(a.kind, b.kind) || compareText(a.detail, b.detail));
    const { hosts, images, autoApply, voters, isFrozen } = this.#settings;
    return {
      env: this.#env,
      roles,
      services,
      storage,
      hosts,
      images,
      numbers,
      autoApply,
      voters,
      isFrozen,
      problems,
    };
  }

  #numbers(
    services: ReadonlyMap<string, Service>,
    problems: Problem[],
  ): ReadonlyMap<string, number> {
    const keys: string[] = [];
    for (const service of services.values()) {
      for (const port of service.ports) keys.push(`${service.name}/${port.name}`);
    }
    const { numbers, moved, without } = resolveNumbers(this.#settings.numbers, keys);
    for (const { key, other, number } of moved) {
      const now = numbers.get(key) ?? 'none';
      const detail = `number ${number} was given to ${other} and to ${key}; ${key} uses ${now}`;
      problems.push({
        kind: 'combined',
        object: services.get(key.split('/')[0] ?? '')?.id ?? null,
        detail,
      });
    }
    for (const key of without) {
      const object = services.get(key.split('/')[0] ?? '')?.id ?? null;
      problems.push({
        kind: 'combined',
        object,
        detail: `there is no service number left for ${key}`,
      });
    }
    return numbers;
  }
}

/** Null for deleted objects and for kinds of a newer version. */
function readObject(id: ObjectId, reader: LeafSource): Readable | null {
  const leaves = reader.leaves(id);
  if (leaves.size === 0 || leaves.get('/deleted') === true) return null;
  const kind = leaves.get('/kind') ?? null;
  if (kind === 'service') {
    const service = serviceFromLeaves(id, leaves);
    if (isProblem(service)) return poison(service);
    const refs = refsOf(service);
    return { kind, service, shape: shapeOf(service, refs), refs };
  }
  if (kind === 'role') {
    const role = roleFromLeaves(id, leaves);
    return isProblem(role) ? poison(role) : { kind, role, shape: `role ${role.name}` };
  }
  if (kind === 'storage') {
    const storage = storageFromLeaves(id, leaves);
    // There are few, and every field but the source matters to those who follow it.
    return isProblem(storage) ? poison(storage) : { kind, storage, shape: JSON.stringify(storage) };
  }
  if (typeof kind === 'string') return null;
  return poison({ kind: 'poison', object: id, detail: `object ${id} does not say what it is` });
}

/**
 * Everything of a service that can matter to another object, and nothing else: what is left out here (image, count of
 * most services) can be edited without a look at the other 10,000.
 */
function shapeOf(service: Service, refs: readonly Ref[]): string {
  const { name, role, ports, dependsOn, placement } = service;
  const isFixed = ports.some((port) => port.host !== undefined);
  const place = isFixed ? [role, runsEverywhere(service), placement.where] : null;
  const { isExclusive, follows, lease, count } = service;
  const isPlain = isExclusive === undefined && follows === undefined && lease === undefined;
  const held = isPlain && !isPlacementSaid(placement) ? null : [isExclusive, follows, lease, count];
  const shape = [name, ports, dependsOn, refs, place];
  return JSON.stringify(held === null ? shape : [...shape, held, role, placement]);
}

function poison(problem: Problem): Readable {
  return { kind: 'problem', problem, shape: JSON.stringify(problem) };
}

/** The name index decides; where it names none of them, the lowest id. Sorted by name. */
function byName<T extends ConfigObject>(
  kind: ObjectKind,
  objects: readonly T[],
  reader: LeafSource,
  problems: Problem[],
): ReadonlyMap<string, T> {
  const out = new Map<string, T>();
  const sorted = objects.toSorted((a, b) => compareText(a.name, b.name) || compareText(a.id, b.id));
  for (let start = 0, end = 0; start < sorted.length; start = end) {
    const first = sorted[start] as T;
    while (end < sorted.length && sorted[end]?.name === first.name) end++;
    const { name } = first;
    if (end - start === 1) {
      out.set(name, first);
      continue;
    }
    const claimants = sorted.slice(start, end);
    const indexed = reader.leaf('names', pointerOf(kind, name));
    const winner = claimants.find((object) => object.id === indexed) ?? first;
    out.set(name, winner);
    for (const loser of claimants) {
      if (loser === winner) continue;
      const detail = `${kind} ${name} exists twice: ${winner.id} is in force, ${loser.id} is not`;
      problems.push({ kind: 'duplicate-name', object: loser.id, detail });
    }
  }
  return out;
}

function refsOf(service: Service): Ref[] {
  const refs: Ref[] = service.dependsOn.map(({ service: name, port }) => ({ service: name, port }));
  for (const ref of referencesOf([...Object.values(service.env), ...service.command])) {
    if (!('service' in ref)) continue;
    refs.push({ service: ref.service, port: ref.kind === 'service-port' ? ref.port : undefined });
  }
  return refs;
}

/** A missing role is fine, it has no hosts yet; a missing service or port leaves a hole in a container's settings. */
function checkReferences(
  services: ReadonlyMap<string, Service>,
  refs: ReadonlyMap<ObjectId, readonly Ref[]>,
  problems: Problem[],
): void {
  for (const service of services.values()) {
    const own = refs.get(service.id) ?? [];
    if (own.length === 0) continue;
    const missing = new Set<string>();
    for (const ref of own) {
      const target = services.get(ref.service);
      if (target === undefined) {
        missing.add(`service ${ref.service}`);
      } else if (ref.port !== undefined && !target.ports.some((port) => port.name === ref.port)) {
        missing.add(`port ${ref.port} of service ${ref.service}`);
      }
    }
    for (const what of missing) {
      const detail = `service ${service.name} needs ${what}, which does not exist`;
      problems.push({ kind: 'combined', object: service.id, detail });
    }
  }
}

function checkCircles(services: ReadonlyMap<string, Service>, problems: Problem[]): void {
  const edges = new Map<string, readonly string[]>();
  for (const { name, dependsOn } of services.values()) {
    if (dependsOn.length > 0)
      edges.set(
        name,
        dependsOn.map((dependency) => dependency.service),
      );
  }
  for (const cycle of cyclesOf(edges)) {
    const object = services.get(cycle[0] ?? '')?.id ?? null;
    problems.push({
      kind: 'combined',
      object,
      detail: `services ${cycle.join(', ')} depend on each other in a circle`,
    });
  }
}

/** Only those that have to do with leases at all are looked at closely. */
function checkExclusive(
  services: ReadonlyMap<string, Service>,
  storage: ReadonlyMap<string, Storage>,
  problems: Problem[],
): void {
  const concerned = [...services.values()].filter(
    ({ isExclusive, follows, lease, placement }) =>
      isExclusive === true ||
      follows !== undefined ||
      lease !== undefined ||
      isPlacementSaid(placement),
  );
  for (const { object, words } of exclusiveFaults(concerned, storage)) {
    const found = object.kind === 'service' ? services : storage;
    problems.push({
      kind: 'combined',
      object: found.get(object.name)?.id ?? null,
      detail: `${object.kind} ${object.name}: ${words}`,
    });
  }
}

/**
 * Two services that want one fixed port are a problem when one of them runs on every host of the role, so that the other
 * has no host left. Where both only want some hosts, the planner keeps them apart.
 */
function checkHostPorts(services: ReadonlyMap<string, Service>, problems: Problem[]): void {
  const claims = new Map<string, Service[]>();
  for (const service of services.values()) {
    for (const port of service.ports) {
      if (port.host === undefined) continue;
      const key = `${port.host}/${port.protocol} on hosts of role ${service.role}`;
      const others = claims.get(key);
      if (others === undefined) claims.set(key, [service]);
      else others.push(service);
    }
  }
  for (const [key, claimants] of claims) {
    if (claimants.length < 2) continue;
    const everywhere = claimants.find(runsEverywhere);
    if (everywhere === undefined) continue;
    for (const other of claimants) {
      if (other === everywhere || !mayMeet(everywhere, other)) continue;
      const detail = `services ${everywhere.name} and ${other.name} both need port ${key}`;
      problems.push({ kind: 'combined', object: other.id, detail });
    }
  }
}

function runsEverywhere({ count, isExclusive }: Service): boolean {
  return isExclusive !== true && count.perRole === undefined && (count.perHost?.min ?? 0) > 0;
}

function mayMeet(a: Service, b: Service): boolean {
  return Object.entries(a.placement.where).every(
    ([key, value]) => (b.placement.where[key] ?? value) === value,
  );
}
