/**
 * The desired-state file: what people write, in YAML or JSON, checked completely before anything is changed. Unknown
 * fields are refused by name and line, fields that the format has and this release has not are refused one by one.
 */
import { readStorage } from './desired-leases.ts';
import { numberMax, numberMin, readRole, readService } from './desired-schema.ts';
import { exclusiveFaults } from './exclusive-faults.ts';
import { labelPattern } from './field-reader.ts';
import { fieldsOf, FileErrors, nearest, parseTree } from './file-tree.ts';
import type { FileError, FileNode, MapEntry } from './file-tree.ts';
import { compareText } from './codec.ts';
import { cyclesOf } from './cycles.ts';
import type { ObjectId } from './ids.ts';
import type { Storage } from './model.ts';
import { isProblem, serviceFromLeaves, serviceToLeaves } from './service-leaves.ts';
import type { RoleSpec, ServiceSpec } from './service-leaves.ts';
import { storageFromLeaves, storageToLeaves } from './storage-leaves.ts';
import type { StorageSpec } from './storage-leaves.ts';
import { parseTemplate } from './templates.ts';

export const servicesMax = 10_000;
export const rolesMax = 1_000;
export const storageMax = 1_000;
/** Every port of a service needs a cluster-wide number of its own. */
export const portsMax = numberMax - numberMin + 1;

/** Only what the file says, no defaults. Sorted by name. */
export interface DesiredFile {
  readonly fileName: string;
  readonly roles: readonly RoleSpec[];
  readonly services: readonly ServiceSpec[];
  /** Absent: none. */
  readonly storage?: readonly StorageSpec[];
}

/** What references are checked against besides the file itself; an `EnvView` fits. */
export interface ExistingServices {
  readonly services: ReadonlyMap<
    string,
    {
      readonly ports: readonly { readonly name: string }[];
      readonly dependsOn: readonly { readonly service: string }[];
    }
  >;
  readonly storage?: ReadonlyMap<string, Storage>;
}

const topFields = ['apiVersion', 'roles', 'services', 'storage'] as const;
const topUnsupported = {
  files: 'files (rendered files)',
  config: 'config (configuration values)',
  sites: 'sites',
  secrets: 'secrets',
};

/**
 * All errors at once, sorted by line. `existing` gives the services that the environment has already, so that a file may
 * refer to them. Pure; at most `textBytesMax` of text. 10,000 services take about two seconds.
 */
export function parseDesiredFile(
  text: string,
  fileName: string,
  existing?: ExistingServices,
): { ok: DesiredFile } | { errors: FileError[] } {
  const errors = new FileErrors(fileName);
  const tree = parseTree(text, errors);
  if (tree === null) return { errors: errors.sorted() };
  const top = fieldsOf(tree, '', errors, { known: topFields, unsupported: topUnsupported });
  if (top === null) return { errors: errors.sorted() };
  checkVersion(tree, top.get('apiVersion'), errors);
  const roles = readAll(top.get('roles'), 'roles', rolesMax, errors, readRole);
  const services = readAll(top.get('services'), 'services', servicesMax, errors, readService);
  const storage = readAll(top.get('storage'), 'storage', storageMax, errors, readStorage);
  const file = { fileName, roles, services, ...(storage.length > 0 ? { storage } : {}) };
  checkReferences(file, tree, errors, existing);
  checkExclusive(file, tree, errors, existing);
  return errors.count > 0 ? { errors: errors.sorted() } : { ok: file };
}

function checkVersion(tree: FileNode, entry: MapEntry | undefined, errors: FileErrors): void {
  if (entry === undefined) {
    errors.add(tree, 'apiVersion', 'apiVersion is missing; write `apiVersion: trellis/v1`');
  } else if (entry.value.kind !== 'scalar' || entry.value.value !== 'trellis/v1') {
    errors.add(entry.value, 'apiVersion', 'apiVersion must be trellis/v1');
  }
}

function readAll<T extends { readonly name: string }>(
  entry: MapEntry | undefined,
  path: string,
  max: number,
  errors: FileErrors,
  read: (name: string, entry: MapEntry, errors: FileErrors) => T | null,
): T[] {
  if (entry === undefined) return [];
  const { value } = entry;
  if (value.kind === 'scalar' && value.value === null) return [];
  if (value.kind !== 'map') {
    errors.add(value, path, `${path} must be a map of names`);
    return [];
  }
  if (value.entries.length > max) {
    errors.add(value, path, `${path} holds more than ${max} entries`);
    return [];
  }
  const all: T[] = [];
  for (const item of value.entries) {
    const one = read(item.key, item, errors);
    if (one !== null) all.push(one);
  }
  return all.toSorted((a, b) => compareText(a.name, b.name));
}

/** Ports by service, of the file and of everything that exists; the file wins where both name one. */
function portsByService(
  file: DesiredFile,
  existing: ExistingServices | undefined,
): Map<string, ReadonlySet<string>> {
  const known = new Map<string, ReadonlySet<string>>();
  for (const [name, service] of existing?.services ?? []) {
    known.set(name, new Set(service.ports.map((port) => port.name)));
  }
  for (const service of file.services) {
    known.set(service.name, new Set((service.ports ?? []).map((port) => port.name)));
  }
  return known;
}

interface Reference {
  readonly service: string;
  readonly port: string | undefined;
  /** Keys and indexes from the root of the file. */
  readonly where: readonly (string | number)[];
}

function checkReferences(
  file: DesiredFile,
  tree: FileNode,
  errors: FileErrors,
  existing: ExistingServices | undefined,
): void {
  const known = portsByService(file, existing);
  let ports = 0;
  for (const set of known.values()) ports += set.size;
  if (ports > portsMax) {
    errors.add(
      tree,
      'services',
      `all services together have ${ports} ports; there are numbers for ${portsMax}`,
    );
  }
  // A service with errors is not in `file`; what refers to it must not be called wrong for that.
  const named = namesIn(tree, 'services');
  for (const service of file.services) {
    for (const reference of referencesIn(service)) {
      checkReference(reference, { known, named, self: service.name }, tree, errors);
    }
  }
  for (const cycle of cyclesOf(dependencyEdges(file, existing))) {
    const first = cycle.find((name) => named.has(name)) ?? '';
    const at = locate(tree, ['services', first, 'dependsOn']);
    errors.add(
      at,
      `services.${first}.dependsOn`,
      `services ${cycle.join(', ')} depend on each other in a circle`,
    );
  }
}

function checkReference(
  reference: Reference,
  names: {
    known: ReadonlyMap<string, ReadonlySet<string>>;
    named: ReadonlySet<string>;
    self: string;
  },
  tree: FileNode,
  errors: FileErrors,
): void {
  const report = (words: string) => {
    const path = pathOf(reference.where);
    errors.add(locate(tree, reference.where), path, `${path}: ${words}`);
  };
  const ports = names.known.get(reference.service);
  if (reference.where[2] === 'dependsOn' && reference.service === names.self) {
    report('a service cannot depend on itself');
  } else if (ports === undefined) {
    if (names.named.has(reference.service)) return;
    // Near names are only looked for while anybody will read them.
    const near = errors.count < 20 ? nearest(reference.service, names.known.keys()) : null;
    const hint = near === null ? '' : `; did you mean ${near}?`;
    report(`there is no service named ${reference.service}${hint}`);
  } else if (reference.port !== undefined && !ports.has(reference.port)) {
    const has = ports.size === 0 ? 'it has none' : `it has ${[...ports].join(', ')}`;
    report(`service ${reference.service} has no port named ${reference.port}; ${has}`);
  }
}

function pathOf(where: Reference['where']): string {
  return where
    .map((part) => (typeof part === 'number' ? `[${part}]` : `.${part}`))
    .join('')
    .slice(1);
}

function* referencesIn(service: ServiceSpec): Generator<Reference> {
  const base = ['services', service.name] as const;
  for (const [i, { service: target, port }] of (service.dependsOn ?? []).entries()) {
    yield { service: target, port, where: [...base, 'dependsOn', i] };
  }
  for (const [name, text] of Object.entries(service.env ?? {})) {
    yield* templateReferences(text, [...base, 'env', name]);
  }
  for (const [i, text] of (service.command ?? []).entries()) {
    yield* templateReferences(text, [...base, 'command', i]);
  }
}

function* templateReferences(text: string, where: Reference['where']): Generator<Reference> {
  if (!text.includes('{{')) return;
  for (const part of parseTemplate(text).parts) {
    if (typeof part === 'string' || !('service' in part)) continue;
    yield {
      service: part.service,
      port: part.kind === 'service-port' ? part.port : undefined,
      where,
    };
  }
}

function dependencyEdges(
  file: DesiredFile,
  existing: ExistingServices | undefined,
): Map<string, readonly string[]> {
  const edges = new Map<string, readonly string[]>();
  for (const [name, service] of existing?.services ?? []) {
    edges.set(
      name,
      service.dependsOn.map((dependency) => dependency.service),
    );
  }
  for (const service of file.services) {
    edges.set(
      service.name,
      (service.dependsOn ?? []).map((dependency) => dependency.service),
    );
  }
  // Self-dependency is reported where it stands.
  for (const [name, targets] of edges)
    edges.set(
      name,
      targets.filter((target) => target !== name),
    );
  return edges;
}

function namesIn(tree: FileNode, section: string): Set<string> {
  const found =
    tree.kind === 'map' ? tree.entries.find((entry) => entry.key === section) : undefined;
  if (found?.value.kind !== 'map') return new Set();
  return new Set(
    found.value.entries.map((entry) => entry.key).filter((key) => labelPattern.test(key)),
  );
}

/** Services against the storage they follow; what is there already is checked with the whole when it is applied. */
function checkExclusive(
  file: DesiredFile,
  tree: FileNode,
  errors: FileErrors,
  existing: ExistingServices | undefined,
): void {
  const own = (file.storage ?? []).flatMap((spec) => {
    const storage = storageFromLeaves('' as ObjectId, storageToLeaves(spec));
    return isProblem(storage) ? [] : [storage];
  });
  const storage = new Map([
    ...(existing?.storage ?? []),
    ...own.map((one) => [one.name, one] as const),
  ]);
  // Storage with errors is not in `file`; who follows it must not be called wrong for that.
  const named = namesIn(tree, 'storage');
  const services = file.services.flatMap((spec) => {
    const { isExclusive, follows, lease, placement } = spec;
    if (isExclusive !== true && [follows, lease, placement].every((one) => one === undefined))
      return [];
    if (follows !== undefined && !storage.has(follows) && named.has(follows)) return [];
    const service = serviceFromLeaves('' as ObjectId, serviceToLeaves(spec));
    return isProblem(service) ? [] : [service];
  });
  for (const { object, field, words } of exclusiveFaults(services, storage)) {
    const section = object.kind === 'service' ? 'services' : 'storage';
    if (!namesIn(tree, section).has(object.name)) continue;
    const where = [section, object.name, field] as const;
    const follows = services.find((service) => service.name === object.name)?.follows ?? '';
    const isMissing = field === 'follows' && !storage.has(follows);
    const near = isMissing && errors.count < 20 ? nearest(follows, storage.keys()) : null;
    const hint = near === null ? '' : `; did you mean ${near}?`;
    errors.add(locate(tree, where), pathOf(where), `${pathOf(where)}: ${words}${hint}`);
  }
}

/** The deepest place that exists on the way. */
function locate(
  tree: FileNode,
  where: readonly (string | number)[],
): { line: number; column: number } {
  let node: FileNode = tree;
  let place: { line: number; column: number } = tree;
  for (const part of where) {
    if (node.kind === 'list' && typeof part === 'number') {
      const item: FileNode | undefined = node.items[part];
      if (item === undefined) return place;
      node = place = item;
    } else if (node.kind === 'map') {
      const entry: MapEntry | undefined = node.entries.find((candidate) => candidate.key === part);
      if (entry === undefined) return place;
      place = entry.at;
      node = entry.value;
    } else {
      return place;
    }
  }
  return place;
}
