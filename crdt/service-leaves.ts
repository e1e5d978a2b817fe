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
 * | /relocatable /onIsolation /stopGraceMs | |
 * | /placement/… /lease/… | see `lease-leaves.ts` |
 * | /isExclusive /follows | true; the name of a storage |
 * | /isEnabled /restarts | set by commands, never by files |
 * | role: /minHosts /isDedicated | |
 *
 * Two edits that are each valid may meet in one object. What can be read sensibly is (a port without `container` is
 * gone, `max` below `min` counts as `min`); the rest is a Problem and the object is left out, not guessed at. Leaves
 * that this version does not know are ignored here and stay where they are.
 */
import type { ObjectId } from './ids.ts';
import {
  leaseFileLeaves,
  leaseOf,
  leaseToLeaves,
  placementFileLeaves,
  placementOf,
  placementToLeaves,
} from './lease-leaves.ts';
import type { LeaseSpec, PlacementSpec } from './lease-leaves.ts';
import { given, LeafSet, Reading } from './leaf-reading.ts';
import type { LeafValue } from './leaves.ts';
import type {
  Dependency,
  HealthCheck,
  Problem,
  Range,
  Role,
  Service,
  ServicePort,
  Storage,
} from './model.ts';
import { pointerOf } from './pointer.ts';

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
  readonly placement?: PlacementSpec;
  readonly isExclusive?: true;
  readonly follows?: string;
  readonly lease?: LeaseSpec;
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
  placementToLeaves(leaves, service.placement);
  leaves.set('/isExclusive', service.isExclusive);
  leaves.set('/follows', service.follows);
  leaseToLeaves(leaves, service.lease);
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
    placement: placementOf(read),
    ...given('isExclusive', read.flag('/isExclusive') === true ? (true as const) : undefined),
    ...given('follows', read.text('/follows')),
    ...given('lease', leaseOf(read)),
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

export function isProblem(value: Service | Role | Storage | Problem): value is Problem {
  return 'kind' in value;
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

/** Leaves that a desired-state file decides; all others are set by commands or belong to a newer version. */
export const roleFileLeaf = /^\/(minHosts|isDedicated)$/;
export const serviceFileLeaf = new RegExp(
  `^/(role|image|command|relocatable|onIsolation|stopGraceMs|isExclusive|follows|${leaseFileLeaves}|${placementFileLeaves}|count/(perHost|perRole)/(min|max)|` +
    `ports/[^/]+/(container|host|protocol|expose)|env/[^/]+|resources/(cpu|memoryBytes)|health/(${healthFields.join('|')})|` +
    `dependsOn/[^/]+(/(port|onChange))?)$`,
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
