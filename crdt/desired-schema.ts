/**
 * The fields of a service and of a role in the desired-state file, one small reader each. Every reader reports what is
 * wrong with its line and goes on, so that one run shows all errors.
 */
import { readLease, readPlacement } from './desired-leases.ts';
import { parseCpu, parseSize } from './durations.ts';
import {
  checkTemplate,
  choice,
  duration,
  FieldReader,
  flag,
  isNull,
  label,
  labelPattern,
  labelWords,
  listOf,
  scalarText,
  texts,
  valueOf,
  wholeNumber,
  wrong,
} from './field-reader.ts';
import { fieldsOf, join } from './file-tree.ts';
import type { FileErrors, FileNode, MapEntry } from './file-tree.ts';
import type { HealthCheck, Range } from './model.ts';
import type { DependencySpec, PortSpec, RoleSpec, ServiceSpec } from './service-leaves.ts';

export const portsPerServiceMax = 64;
export const envPerServiceMax = 512;
export const dependenciesMax = 128;
export const perHostMax = 64;
export const perRoleMax = 10_000;
/** Service numbers live here, so no service may publish a port of its own in it. */
export const numberMin = 20_000;
export const numberMax = 29_999;

const serviceFields = [
  'role',
  'image',
  'command',
  'count',
  'ports',
  'env',
  'resources',
  'health',
  'dependsOn',
  'relocatable',
  'placement',
  'onIsolation',
  'stopGrace',
  'exclusive',
  'follows',
  'lease',
] as const;

const serviceUnsupported = {
  update: 'update (rolling update settings)',
  files: 'files (rendered files)',
  storage: 'storage (use follows)',
  config: 'config (configuration values)',
  secrets: 'secrets',
};

/** One service, null when its name or a required field is unusable. Names were checked for uniqueness by the parser. */
export function readService(name: string, entry: MapEntry, errors: FileErrors): ServiceSpec | null {
  const path = `services.${name}`;
  if (!labelPattern.test(name)) errors.add(entry.at, path, `service name ${labelWords}`);
  const fields = fieldsOf(entry.value, path, errors, {
    known: serviceFields,
    unsupported: serviceUnsupported,
  });
  if (fields === null) return null;
  const read = new FieldReader(fields, path, errors);
  const role = read.required('role', entry, label);
  const image = read.required('image', entry, imageName);
  const ports = read.optional('ports', readPorts);
  const spec = {
    ...read.field('command', (node, at) => texts(node, at, errors, { hasTemplates: true })),
    ...read.field('count', readCount),
    ...(ports === undefined ? {} : { ports }),
    ...read.field('env', readEnv),
    ...read.field('resources', readResources),
    ...read.field('health', (node, at) => readHealth(node, at, errors, ports ?? [])),
    ...read.field('dependsOn', readDependencies),
    ...read.field('relocatable', readRelocatable),
    ...read.field('placement', readPlacement),
    ...(read.optional('exclusive', flag) === true ? { isExclusive: true as const } : {}),
    ...read.field('follows', label),
    ...read.field('lease', readLease),
    ...read.field('onIsolation', (node, at) => choice(node, at, errors, ['keep', 'stop'] as const)),
  };
  const stopGraceMs = read.optional('stopGrace', (node, at) =>
    duration(node, at, errors, { minMs: 0, maxMs: 3_600_000 }),
  );
  if (role === undefined || image === undefined) return null;
  return {
    name,
    role,
    image,
    ...spec,
    ...(stopGraceMs === undefined ? {} : { stopGraceMs }),
  } as ServiceSpec;
}

/** `web:` alone is a role with nothing special. */
export function readRole(name: string, entry: MapEntry, errors: FileErrors): RoleSpec | null {
  const path = `roles.${name}`;
  if (!labelPattern.test(name)) errors.add(entry.at, path, `role name ${labelWords}`);
  if (isNull(entry.value)) return { name };
  const fields = fieldsOf(entry.value, path, errors, { known: ['minHosts', 'dedicated'] });
  if (fields === null) return null;
  const read = new FieldReader(fields, path, errors);
  const minHosts = read.optional('minHosts', (node, at) =>
    wholeNumber(node, at, errors, { min: 0, max: 10_000 }),
  );
  const isDedicated = read.optional('dedicated', (node, at) => flag(node, at, errors));
  return {
    name,
    ...(minHosts === undefined ? {} : { minHosts }),
    ...(isDedicated === undefined ? {} : { isDedicated }),
  };
}

function readCount(
  node: FileNode,
  path: string,
  errors: FileErrors,
): ServiceSpec['count'] | undefined {
  const fields = fieldsOf(node, path, errors, { known: ['perHost', 'perRole'] });
  if (fields === null) return undefined;
  const read = new FieldReader(fields, path, errors);
  return {
    ...read.field('perHost', (range, at) => readRange(range, at, errors, perHostMax)),
    ...read.field('perRole', (range, at) => readRange(range, at, errors, perRoleMax)),
  };
}

/** `4` is short for exactly four. */
function readRange(
  node: FileNode,
  path: string,
  errors: FileErrors,
  max: number,
): Partial<Range> | undefined {
  if (node.kind === 'scalar') {
    const exact = wholeNumber(node, path, errors, { min: 0, max });
    return exact === undefined ? undefined : { min: exact, max: exact };
  }
  const fields = fieldsOf(node, path, errors, { known: ['min', 'max'] });
  if (fields === null) return undefined;
  const read = new FieldReader(fields, path, errors);
  const range: Partial<Range> = {
    ...read.field('min', (value, at) => wholeNumber(value, at, errors, { min: 0, max })),
    ...read.field('max', (value, at) => wholeNumber(value, at, errors, { min: 0, max })),
  };
  if (range.min !== undefined && range.max !== undefined && range.min > range.max) {
    errors.add(node, path, `${path}: min ${range.min} is more than max ${range.max}`);
  }
  return range;
}

function readPorts(node: FileNode, path: string, errors: FileErrors): PortSpec[] | undefined {
  const list = listOf(node, path, errors, portsPerServiceMax);
  if (list === undefined) return undefined;
  const ports = list.items.flatMap((item, i) => readPort(item, `${path}[${i}]`, errors) ?? []);
  const seen = new Set<string>();
  for (const { port, at, where } of ports) {
    for (const key of [
      `port name ${port.name}`,
      ...(port.host === undefined ? [] : [`host port ${port.host}/${port.protocol ?? 'tcp'}`]),
    ]) {
      if (seen.has(key)) errors.add(at, where, `${where}: ${key} is used twice in this service`);
      seen.add(key);
    }
  }
  return ports.map(({ port }) => port);
}

function readPort(
  node: FileNode,
  path: string,
  errors: FileErrors,
): { port: PortSpec; at: FileNode; where: string }[] | undefined {
  const fields = fieldsOf(node, path, errors, {
    known: ['name', 'container', 'host', 'protocol', 'expose'],
  });
  if (fields === null) return undefined;
  const read = new FieldReader(fields, path, errors);
  const name = read.required('name', { at: node }, label);
  const container = read.required('container', { at: node }, portNumber);
  const host = read.optional('host', portNumber);
  if (host !== undefined && host >= numberMin && host <= numberMax) {
    errors.add(
      node,
      path,
      `${path}.host: ${numberMin} to ${numberMax} belong to service numbers; choose another port`,
    );
  }
  const protocol = read.optional('protocol', (value, at) =>
    choice(value, at, errors, ['tcp', 'udp'] as const),
  );
  const expose = read.optional('expose', (value, at) =>
    choice(value, at, errors, ['members', 'public'] as const),
  );
  if (expose === 'public' && !fields.has('host')) {
    errors.add(node, path, `${path}: expose: public needs a fixed \`host\` port`);
  }
  if (name === undefined || container === undefined) return undefined;
  const port = {
    name,
    container,
    ...(host === undefined ? {} : { host }),
    ...(protocol === undefined ? {} : { protocol }),
    ...(expose === undefined ? {} : { expose }),
  };
  return [{ port, at: node, where: path }];
}

function readEnv(
  node: FileNode,
  path: string,
  errors: FileErrors,
): Record<string, string> | undefined {
  if (node.kind !== 'map') return wrong(node, path, errors, 'must be a map of NAME: value');
  if (node.entries.length > envPerServiceMax)
    errors.add(node, path, `${path}: more than ${envPerServiceMax} variables`);
  const env: Record<string, string> = {};
  for (const { key, at, value } of node.entries) {
    const where = join(path, key);
    if (!/^[A-Za-z_][A-Za-z0-9_.-]{0,255}$/.test(key))
      errors.add(at, where, `${where}: not a name of a variable`);
    const text = scalarText(value, where, errors);
    if (text === undefined) continue;
    checkTemplate(value, where, text, errors);
    Object.defineProperty(env, key, {
      value: text,
      enumerable: true,
      writable: true,
      configurable: true,
    });
  }
  return env;
}

function readResources(
  node: FileNode,
  path: string,
  errors: FileErrors,
): ServiceSpec['resources'] | undefined {
  const fields = fieldsOf(node, path, errors, {
    known: ['cpu', 'memory'],
    unsupported: {
      disk: 'resources.disk (disk reservations)',
      network: 'resources.network (network reservations)',
    },
  });
  if (fields === null) return undefined;
  const read = new FieldReader(fields, path, errors);
  const cpu = read.optional('cpu', (value, at) => {
    const cores = parseCpu(valueOf(value));
    if (cores !== null && cores > 0 && cores <= 1_024) return cores;
    return wrong(value, at, errors, "must be cores such as 0.5, or '500m', more than 0");
  });
  const memoryBytes = read.optional('memory', (value, at) => {
    const bytes = parseSize(valueOf(value));
    // Engines refuse less than 6 MiB with words that nobody understands.
    if (bytes !== null && bytes >= 6 << 20) return bytes;
    return wrong(value, at, errors, "must be a size such as '128Mi' or '1Gi', at least 6Mi");
  });
  return {
    ...(cpu === undefined ? {} : { cpu }),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
  };
}

function readHealth(
  node: FileNode,
  path: string,
  errors: FileErrors,
  ports: readonly PortSpec[],
): ServiceSpec['health'] | undefined {
  const kinds = ['http', 'tcp', 'exec'] as const;
  const fields = fieldsOf(node, path, errors, {
    known: [...kinds, 'interval', 'timeout', 'retries', 'startPeriod'],
  });
  if (fields === null) return undefined;
  const read = new FieldReader(fields, path, errors);
  const given = kinds.filter((kind) => fields.has(kind));
  const [kind] = given;
  if (kind === undefined || given.length > 1)
    return wrong(node, path, errors, 'needs exactly one of http, tcp and exec');
  const isTiming = { minMs: 100, maxMs: 3_600_000 };
  const intervalMs = read.optional('interval', (value, at) =>
    duration(value, at, errors, isTiming),
  );
  const timeoutMs = read.optional('timeout', (value, at) => duration(value, at, errors, isTiming));
  const startPeriodMs = read.optional('startPeriod', (value, at) =>
    duration(value, at, errors, { minMs: 0, maxMs: 86_400_000 }),
  );
  const check = read.optional(kind, (value, at) => readCheck(kind, value, at, errors, ports));
  if (check === undefined) return undefined;
  return {
    ...check,
    ...(intervalMs === undefined ? {} : { intervalMs }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...read.field('retries', (value, at) => wholeNumber(value, at, errors, { min: 1, max: 100 })),
    ...(startPeriodMs === undefined ? {} : { startPeriodMs }),
  };
}

function readCheck(
  kind: HealthCheck['kind'],
  node: FileNode,
  path: string,
  errors: FileErrors,
  ports: readonly PortSpec[],
): NonNullable<ServiceSpec['health']> | undefined {
  if (kind === 'exec') {
    const command = texts(node, path, errors, { hasTemplates: false });
    if (command?.length === 0) return wrong(node, path, errors, 'must name a command');
    return command === undefined ? undefined : { kind, command };
  }
  const fields = fieldsOf(node, path, errors, {
    known: kind === 'http' ? ['port', 'path'] : ['port'],
  });
  if (fields === null) return undefined;
  const read = new FieldReader(fields, path, errors);
  const port = read.required('port', { at: node }, label);
  const known = ports.find((candidate) => candidate.name === port);
  if (port !== undefined && known === undefined) {
    errors.add(node, path, `${path}: the service has no port named ${port}`);
  } else if (known?.protocol === 'udp') {
    errors.add(node, path, `${path}: port ${known.name} is udp; a ${kind} check needs tcp`);
  }
  const urlPath = read.optional('path', (value, at) => {
    const text = scalarText(value, at, errors);
    if (text === undefined || /^\/[^\s]*$/.test(text)) return text;
    return wrong(value, at, errors, "must start with '/' and hold no blanks");
  });
  return port === undefined
    ? undefined
    : { kind, port, ...(urlPath === undefined ? {} : { path: urlPath }) };
}

function readDependencies(
  node: FileNode,
  path: string,
  errors: FileErrors,
): DependencySpec[] | undefined {
  const list = listOf(node, path, errors, dependenciesMax);
  const seen = new Set<string>();
  return list?.items.flatMap((item, i) => {
    const at = `${path}[${i}]`;
    const fields = fieldsOf(item, at, errors, { known: ['service', 'port', 'onChange'] });
    if (fields === null) return [];
    const read = new FieldReader(fields, at, errors);
    const service = read.required('service', { at: item }, label);
    if (service === undefined) return [];
    if (seen.has(service))
      errors.add(item, at, `${at}: ${service} is listed twice; name each service once`);
    seen.add(service);
    return [
      {
        service,
        ...read.field('port', label),
        ...read.field('onChange', (value, where) =>
          choice(value, where, errors, ['restart', 'none'] as const),
        ),
      } as DependencySpec,
    ];
  });
}

/** YAML 1.1 habits and JSON write `yes` as true. */
function readRelocatable(
  node: FileNode,
  path: string,
  errors: FileErrors,
): ServiceSpec['relocatable'] {
  if (valueOf(node) === true) return 'yes';
  if (valueOf(node) === false) return 'no';
  return choice(node, path, errors, ['yes', 'no', 'careful'] as const);
}

function imageName(node: FileNode, path: string, errors: FileErrors): string | undefined {
  const value = valueOf(node);
  if (typeof value === 'string' && /^[A-Za-z0-9][A-Za-z0-9._/:@-]{0,511}$/.test(value))
    return value;
  return wrong(node, path, errors, "must be the name of an image, such as 'demo/site:7.1'");
}

function portNumber(node: FileNode, path: string, errors: FileErrors): number | undefined {
  return wholeNumber(node, path, errors, { min: 1, max: 65_535 });
}
