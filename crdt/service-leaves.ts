/**
 * Services and roles as leaves. Only what somebody set is stored; defaults are applied on reading, so that a later
 * release may change one without rewriting documents. Lists of named things are stored leaf by leaf:
 *
 * | leaf | value |
 * |---|---|
 * | /kind /name /source /deleted | 'service' or 'role'; name; the file or command that made it; true |
 * | /role /image /command | command is one atomic list |
 * | /count/perHost/min … /count/perRole/max | numbers |
 * | /ports/<name>/container, …/host, …/protocol, …/expose | the port exists while `container` does |
 * | /env/<NAME> | string |
 * | /resources/cpu, /resources/memoryBytes | cores, bytes |
 * | /health/kind, …/port, …/path, …/command, …/intervalMs, …/timeoutMs, …/retries, …/startPeriodMs | the check exists while `kind` does |
 * | /dependsOn/<service>, …/port, …/onChange | the dependency exists while '/dependsOn/<service>' is true |
 * | /relocatable /placement/policy /placement/where/<key> /onIsolation /stopGraceMs | |
 * | /isEnabled /restarts | set by commands, never by files |
 * | role: /minHosts /isDedicated | |
 *
 * Two edits that are each valid may meet in one object. What can be read sensibly is (a port without `container` is
 * gone, `max` below `min` counts as `min`); the rest is a Problem and the object is left out, not guessed at. Leaves
 * that this version does not know are ignored here and stay where they are.
 */
import { compareText } from './codec.ts';
import type { ObjectId } from './ids.ts';
import type { LeafValue } from './leaves.ts';
import type {
  Dependency,
  HealthCheck,
  PlacementPolicy,
  Problem,
  Range,
  Role,
  Service,
  ServicePort,
} from './model.ts';
import { pointerOf, segmentsOf } from './pointer.ts';

/** What somebody set of a service; everything absent has its default. A `Service` is one too. */
export interface ServiceSpec {
  readonly name: string;
  readonly source?: string;
  readonly role: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly count?: { readonly perHost?: Partial<Range>; readonly perRole?: Partial<Range> };
  readonly ports?: readonly PortSpec[];
  readonly env?: Readonly<Record<string, string>>;
  readonly resources?: { readonly cpu?: number; readonly memoryBytes?: number };
  readonly health?: Pick<HealthCheck, 'kind'> & Partial<HealthCheck>;
  readonly dependsOn?: readonly DependencySpec[];
  readonly relocatable?: 'yes' | 'no' | 'careful';
  readonly placement?: {
    readonly policy?: PlacementPolicy;
    readonly where?: Readonly<Record<string, string>>;
  };
  readonly onIsolation?: 'keep' | 'stop';
  readonly stopGraceMs?: number;
  readonly isEnabled?: boolean;
  readonly restarts?: number;
}

export type PortSpec = Pick<ServicePort, 'name' | 'container'> & Partial<ServicePort>;
export type DependencySpec = Pick<Dependency, 'service'> & Partial<Dependency>;

export interface RoleSpec {
  readonly name: string;
  readonly source?: string;
  readonly minHosts?: number;
  readonly isDedicated?: boolean;
}

export const serviceDefaults = {
  protocol: 'tcp',
  expose: 'members',
  onChange: 'restart',
  policy: 'spread',
  onIsolation: 'keep',
  stopGraceMs: 10_000,
  health: { intervalMs: 10_000, timeoutMs: 3_000, retries: 3, startPeriodMs: 0 },
} as const;

/** Source of objects that a command made and no file owns: the first file that names one takes it over. */
export const commandSource = 'command';

export function serviceToLeaves(service: ServiceSpec): Map<string, LeafValue> {
  const leaves = new LeafSet();
  leaves.set('/kind', 'service');
  leaves.set('/name', service.name);
  leaves.set('/source', service.source);
  leaves.set('/role', service.role);
  leaves.set('/image', service.image);
  leaves.set('/command', service.command);
  leaves.setAll(['count', 'perHost'], service.count?.perHost, ['min', 'max']);
  leaves.setAll(['count', 'perRole'], service.count?.perRole, ['min', 'max']);
  for (const port of service.ports ?? []) {
    leaves.setAll(['ports', port.name], port, ['container', 'host', 'protocol', 'expose']);
  }
  leaves.setAll(['env'], service.env, Object.keys(service.env ?? {}));
  leaves.setAll(['resources'], service.resources, ['cpu', 'memoryBytes']);
  leaves.setAll(['health'], service.health, healthFields);
  for (const dependency of service.dependsOn ?? []) {
    leaves.set(pointerOf('dependsOn', dependency.service), true);
    leaves.setAll(['dependsOn', dependency.service], dependency, ['port', 'onChange']);
  }
  leaves.set('/relocatable', service.relocatable);
  leaves.set('/placement/policy', service.placement?.policy);
  const where = service.placement?.where ?? {};
  leaves.setAll(['placement', 'where'], where, Object.keys(where));
  leaves.set('/onIsolation', service.onIsolation);
  leaves.set('/stopGraceMs', service.stopGraceMs);
  leaves.set('/isEnabled', service.isEnabled);
  leaves.set('/restarts', service.restarts);
  return leaves.map;
}

export function roleToLeaves(role: RoleSpec): Map<string, LeafValue> {
  const leaves = new LeafSet();
  leaves.set('/kind', 'role');
  leaves.set('/name', role.name);
  leaves.set('/source', role.source);
  leaves.set('/minHosts', role.minHosts);
  leaves.set('/isDedicated', role.isDedicated);
  return leaves.map;
}

/** Ports, dependencies and maps come out sorted by name, whatever order they were written in. */
export function serviceFromLeaves(
  id: ObjectId,
  leaves: ReadonlyMap<string, LeafValue>,
): Service | Problem {
  const read = new Reading(leaves);
  const relocatable = read.oneOf('/relocatable', ['yes', 'no', 'careful']);
  const health = healthOf(read);
  const service: Service = {
    id,
    name: read.text('/name') ?? read.missing('/name'),
    source: read.text('/source') ?? '',
    role: read.text('/role') ?? read.missing('/role'),
    image: read.text('/image') ?? read.missing('/image'),
    command: read.texts('/command') ?? [],
    count: countOf(read),
    ports: read.named('ports').flatMap((name) => portOf(read, name)),
    env: read.textMap('env'),
    resources: {
      ...given('cpu', read.number('/resources/cpu')),
      ...given('memoryBytes', read.number('/resources/memoryBytes')),
    },
    ...given('health', health),
    dependsOn: read.named('dependsOn').flatMap((name) => dependencyOf(read, name)),
    ...given('relocatable', relocatable),
    placement: {
      policy: read.oneOf('/placement/policy', ['spread', 'pack']) ?? serviceDefaults.policy,
      where: read.textMap('placement', 'where'),
    },
    onIsolation: read.oneOf('/onIsolation', ['keep', 'stop']) ?? serviceDefaults.onIsolation,
    stopGraceMs: read.number('/stopGraceMs') ?? serviceDefaults.stopGraceMs,
    isEnabled: read.flag('/isEnabled') ?? true,
    restarts: read.number('/restarts') ?? 0,
  };
  return read.problem(id, `service ${service.name || id}`) ?? service;
}

export function roleFromLeaves(
  id: ObjectId,
  leaves: ReadonlyMap<string, LeafValue>,
): Role | Problem {
  const read = new Reading(leaves);
  const role: Role = {
    id,
    name: read.text('/name') ?? read.missing('/name'),
    source: read.text('/source') ?? '',
    minHosts: read.number('/minHosts') ?? 0,
    isDedicated: read.flag('/isDedicated') ?? false,
  };
  return read.problem(id, `role ${role.name || id}`) ?? role;
}

export function isProblem(value: Service | Role | Problem): value is Problem {
  return 'kind' in value;
}

/** True for leaves that a desired-state file decides; false for what commands set and for leaves of a newer version. */
export function isFileLeaf(kind: 'service' | 'role', pointer: string): boolean {
  return (kind === 'service' ? serviceFileLeaf : roleFileLeaf).test(pointer);
}

const healthFields = [
  'kind',
  'port',
  'path',
  'command',
  'intervalMs',
  'timeoutMs',
  'retries',
  'startPeriodMs',
] as const;

const roleFileLeaf = /^\/(minHosts|isDedicated)$/;
const serviceFileLeaf = new RegExp(
  `^/(role|image|command|relocatable|onIsolation|stopGraceMs|placement/policy|count/(perHost|perRole)/(min|max)|` +
    `ports/[^/]+/(container|host|protocol|expose)|env/[^/]+|resources/(cpu|memoryBytes)|health/(${healthFields.join('|')})|` +
    `dependsOn/[^/]+(/(port|onChange))?|placement/where/[^/]+)$`,
);

function countOf(read: Reading): Service['count'] {
  const host = { min: read.number('/count/perHost/min'), max: read.number('/count/perHost/max') };
  const role = { min: read.number('/count/perRole/min'), max: read.number('/count/perRole/max') };
  const hasHost = host.min !== undefined || host.max !== undefined;
  const hasRole = role.min !== undefined || role.max !== undefined;
  // Nothing said: one instance, as people know it from other tools.
  if (!hasHost && !hasRole) return { perRole: { min: 1, max: 1 } };
  return {
    ...(hasHost ? { perHost: rangeOf(host, hasRole ? 0 : 1) } : {}),
    ...(hasRole ? { perRole: rangeOf(role, 1) } : {}),
  };
}

function rangeOf(range: { min: number | undefined; max: number | undefined }, minDefault: number) {
  const min = range.min ?? Math.min(minDefault, range.max ?? minDefault);
  return { min, max: Math.max(min, range.max ?? Math.max(min, 1)) };
}

function portOf(read: Reading, name: string): ServicePort[] {
  const at = (field: string) => pointerOf('ports', name, field);
  const container = read.number(at('container'));
  if (container === undefined) return [];
  return [
    {
      name,
      container,
      ...given('host', read.number(at('host'))),
      protocol: read.oneOf(at('protocol'), ['tcp', 'udp']) ?? serviceDefaults.protocol,
      expose: read.oneOf(at('expose'), ['members', 'public']) ?? serviceDefaults.expose,
    },
  ];
}

function dependencyOf(read: Reading, service: string): Dependency[] {
  if (read.flag(pointerOf('dependsOn', service)) !== true) return [];
  const onChange = read.oneOf(pointerOf('dependsOn', service, 'onChange'), ['restart', 'none']);
  return [
    {
      service,
      ...given('port', read.text(pointerOf('dependsOn', service, 'port'))),
      onChange: onChange ?? serviceDefaults.onChange,
    },
  ];
}

/** Fields that belong to another kind of check are left over from a concurrent edit and ignored. */
function healthOf(read: Reading): HealthCheck | undefined {
  const kind = read.oneOf('/health/kind', ['http', 'tcp', 'exec']);
  if (kind === undefined) return undefined;
  const defaults = serviceDefaults.health;
  return {
    kind,
    ...(kind === 'exec'
      ? { command: read.texts('/health/command') ?? [read.missing('/health/command')] }
      : { port: read.text('/health/port') ?? read.missing('/health/port') }),
    ...(kind === 'http' ? { path: read.text('/health/path') ?? '/' } : {}),
    intervalMs: read.number('/health/intervalMs') ?? defaults.intervalMs,
    timeoutMs: read.number('/health/timeoutMs') ?? defaults.timeoutMs,
    retries: read.number('/health/retries') ?? defaults.retries,
    startPeriodMs: read.number('/health/startPeriodMs') ?? defaults.startPeriodMs,
  };
}

function given<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]?: V });
}

class LeafSet {
  readonly map = new Map<string, LeafValue>();

  set(pointer: string, value: LeafValue | undefined): void {
    if (value !== undefined && value !== null) this.map.set(pointer, value);
  }

  setAll(prefix: readonly string[], from: object | undefined, fields: readonly string[]): void {
    for (const field of fields) {
      const value = (from as Record<string, LeafValue | undefined> | undefined)?.[field];
      this.set(pointerOf(...prefix, field), value);
    }
  }
}

/** Typed look at leaves that somebody else wrote; remembers the first thing that is wrong. */
class Reading {
  readonly #leaves: ReadonlyMap<string, LeafValue>;
  readonly #names = new Map<string, Set<string>>();
  #wrong: string | null = null;

  constructor(leaves: ReadonlyMap<string, LeafValue>) {
    this.#leaves = leaves;
    for (const [pointer, value] of leaves) {
      if (value === null) continue;
      const [group, name, third] = segmentsOf(pointer);
      if (group === undefined || name === undefined) continue;
      this.#note(group, name);
      if (third !== undefined) this.#note(`${group}/${name}`, third);
    }
  }

  #note(group: string, name: string): void {
    const names = this.#names.get(group);
    if (names === undefined) this.#names.set(group, new Set([name]));
    else names.add(name);
  }

  /** Names found below '/<group>', sorted. */
  named(...group: readonly string[]): string[] {
    return [...(this.#names.get(group.join('/')) ?? [])].toSorted(compareText);
  }

  missing(pointer: string): string {
    this.#wrong ??= `${pointer} is missing`;
    return '';
  }

  text(pointer: string): string | undefined {
    return this.#typed(pointer, (value) => typeof value === 'string') as string | undefined;
  }

  number(pointer: string): number | undefined {
    const isGood = (value: LeafValue) => Number.isFinite(value) && (value as number) >= 0;
    return this.#typed(pointer, isGood) as number | undefined;
  }

  flag(pointer: string): boolean | undefined {
    return this.#typed(pointer, (value) => typeof value === 'boolean') as boolean | undefined;
  }

  texts(pointer: string): readonly string[] | undefined {
    const isGood = (value: LeafValue) =>
      Array.isArray(value) && value.every((item) => typeof item === 'string');
    return this.#typed(pointer, isGood) as readonly string[] | undefined;
  }

  /** A map of strings, keys sorted. */
  textMap(...group: readonly string[]): Record<string, string> {
    const out: Record<string, string> = {};
    for (const name of this.named(...group)) {
      const value = this.text(pointerOf(...group, name));
      if (value !== undefined) defineOwn(out, name, value);
    }
    return out;
  }

  oneOf<T extends string>(pointer: string, choices: readonly T[]): T | undefined {
    return this.#typed(pointer, (value) => choices.includes(value as T)) as T | undefined;
  }

  problem(object: ObjectId, subject: string): Problem | null {
    if (this.#wrong === null) return null;
    return { kind: 'poison', object, detail: `${subject}: ${this.#wrong}` };
  }

  #typed(pointer: string, isGood: (value: LeafValue) => boolean): LeafValue | undefined {
    const value = this.#leaves.get(pointer) ?? null;
    if (value === null) return undefined;
    if (isGood(value)) return value;
    this.#wrong ??= `${pointer} holds ${JSON.stringify(value).slice(0, 60)}, which this version cannot use`;
    return undefined;
  }
}

/** Plain assignment would lose a key named '__proto__'. */
function defineOwn(out: Record<string, string>, key: string, value: string): void {
  Object.defineProperty(out, key, { value, enumerable: true, writable: true, configurable: true });
}
