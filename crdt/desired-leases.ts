/** Storage, leases and placement in the desired-state file. */
import {
  choice,
  duration,
  FieldReader,
  flag,
  label,
  labelPattern,
  labelWords,
  listOf,
  scalarText,
  texts,
  valueOf,
  wrong,
} from './field-reader.ts';
import { fieldsOf, join } from './file-tree.ts';
import type { FileErrors, FileNode, MapEntry } from './file-tree.ts';
import { leaseChoices, policies, policiesWithHosts, policiesWithKey } from './lease-leaves.ts';
import type { LeaseSpec, PlacementSpec } from './lease-leaves.ts';
import type { PlacementPolicy } from './model.ts';
import { storageDrivers } from './storage-leaves.ts';
import type { StorageSpec } from './storage-leaves.ts';
import { storagePathProblem } from './storage-path.ts';

export const preferredHostsMax = 64;
const lockDelayMsMax = 600_000;
const preemptMsMax = 7 * 86_400_000;

/** One storage, null when its name or a required field is unusable. */
export function readStorage(name: string, entry: MapEntry, errors: FileErrors): StorageSpec | null {
  const path = `storage.${name}`;
  if (!labelPattern.test(name)) errors.add(entry.at, path, `storage name ${labelWords}`);
  const fields = fieldsOf(entry.value, path, errors, {
    known: ['role', 'driver', 'exclusive', 'path', 'lease', 'placement'],
  });
  if (fields === null) return null;
  const read = new FieldReader(fields, path, errors);
  const role = read.required('role', entry, label);
  const directory = read.required('path', entry, storagePath);
  const driver = read.optional('driver', readDriver);
  const isExclusive = read.optional('exclusive', flag);
  const more = { ...read.field('lease', readLease), ...read.field('placement', readPlacement) };
  if (driver === 'sync' && isExclusive !== true)
    errors.add(
      fields.get('driver')?.value ?? entry.at,
      join(path, 'driver'),
      `${path}.driver: sync copies from the host where it is active; write \`exclusive: true\``,
    );
  for (const field of ['lease', 'placement'] as const) {
    const at = fields.get(field)?.at;
    if (isExclusive !== true && at !== undefined)
      errors.add(at, join(path, field), `${path}.${field} needs \`exclusive: true\``);
  }
  if (role === undefined || directory === undefined) return null;
  return {
    name,
    role,
    path: directory,
    ...(driver === undefined ? {} : { driver }),
    ...(isExclusive === undefined ? {} : { isExclusive }),
    ...more,
  } as StorageSpec;
}

export function readLease(node: FileNode, path: string, errors: FileErrors): LeaseSpec | undefined {
  const fields = fieldsOf(node, path, errors, {
    known: ['profile', 'onLoss', 'fence', 'fenceCommand', 'lockDelay', 'onDaemonDown', 'preempt'],
  });
  if (fields === null) return undefined;
  const read = new FieldReader(fields, path, errors);
  const oneOf = (key: keyof typeof leaseChoices) =>
    read.field(key, (value, at) => choice<string>(value, at, errors, leaseChoices[key]));
  const fence = read.field('fence', (value, at) => choice(value, at, errors, leaseChoices.fence));
  const fenceCommand = read.optional('fenceCommand', (value, at) => readCommand(value, at, errors));
  const lockDelayMs = read.optional('lockDelay', (value, at) =>
    duration(value, at, errors, { minMs: 0, maxMs: lockDelayMsMax }),
  );
  const preemptAfterMs = read.optional('preempt', readPreempt);
  const lease = {
    ...oneOf('profile'),
    ...oneOf('onLoss'),
    ...fence,
    ...(fenceCommand === undefined ? {} : { fenceCommand }),
    ...(lockDelayMs === undefined ? {} : { lockDelayMs }),
    ...oneOf('onDaemonDown'),
    ...(preemptAfterMs === undefined ? {} : { preemptAfterMs }),
  } as LeaseSpec;
  checkFence(lease, fields, path, errors);
  return lease;
}

function checkFence(
  lease: LeaseSpec,
  fields: ReadonlyMap<string, MapEntry>,
  path: string,
  errors: FileErrors,
): void {
  const report = (field: string, words: string) => {
    const entry = fields.get(field);
    if (entry !== undefined) errors.add(entry.at, join(path, field), `${path}.${field}: ${words}`);
  };
  if (lease.fence === 'command' && !fields.has('fenceCommand'))
    report('fence', 'command needs a fenceCommand');
  if (lease.fence !== 'command' && fields.has('fenceCommand'))
    report('fenceCommand', 'is only run with `fence: command`');
  if (lease.fence === 'watchdog' && lease.profile !== 'fenced')
    report('fence', 'a watchdog is slower than the other profiles; write `profile: fenced`');
  if (lease.onLoss === 'keep' && (lease.fence === 'panic' || lease.fence === 'watchdog'))
    report('onLoss', `keep lets the work go on, fence: ${lease.fence} ends the host; choose one`);
}

/** Run by the winner as it stands, without a shell and without templates. */
function readCommand(node: FileNode, path: string, errors: FileErrors): string[] | undefined {
  const words = texts(node, path, errors, { hasTemplates: false });
  if (words === undefined) return undefined;
  return words.length > 0 && words[0] !== ''
    ? words
    : wrong(node, path, errors, 'must name a command');
}

/** `never` is null: the default. */
function readPreempt(node: FileNode, path: string, errors: FileErrors): number | null | undefined {
  if (valueOf(node) === 'never') return null;
  return duration(node, path, errors, { minMs: 1_000, maxMs: preemptMsMax });
}

export function readPlacement(
  node: FileNode,
  path: string,
  errors: FileErrors,
): PlacementSpec | undefined {
  const fields = fieldsOf(node, path, errors, { known: ['policy', 'where', 'hosts', 'key'] });
  if (fields === null) return undefined;
  const read = new FieldReader(fields, path, errors);
  const policy = read.optional('policy', readPolicy);
  const where = read.optional('where', readWhere);
  const hosts = read.optional('hosts', readHosts);
  const key = read.optional('key', metaKey);
  // An unusable policy is reported already.
  if (policy !== undefined || !fields.has('policy')) {
    checkFits('hosts', policiesWithHosts, policy, { fields, path, errors });
    checkFits('key', policiesWithKey, policy, { fields, path, errors });
  }
  return {
    ...(policy === undefined ? {} : { policy }),
    ...(where === undefined ? {} : { where }),
    ...(hosts === undefined ? {} : { hosts }),
    ...(key === undefined ? {} : { key }),
  };
}

/** Some policies need the field, all others have no use for it. */
function checkFits(
  field: 'hosts' | 'key',
  users: readonly PlacementPolicy[],
  policy: PlacementPolicy | undefined,
  file: { fields: ReadonlyMap<string, MapEntry>; path: string; errors: FileErrors },
): void {
  const { fields, path, errors } = file;
  const isUser = policy !== undefined && users.includes(policy);
  const at = fields.get(field)?.at ?? fields.get('policy')?.at;
  if (at === undefined || isUser === fields.has(field)) return;
  const words = isUser
    ? `${path}: policy ${policy} needs \`${field}\``
    : `${path}.${field} is for policy ${users.join(' or ')}`;
  errors.add(at, join(path, field), words);
}

function readPolicy(node: FileNode, path: string, errors: FileErrors): PlacementPolicy | undefined {
  const text = scalarText(node, path, errors);
  const policy = policies.find((one) => one === text);
  if (policy !== undefined || text === undefined) return policy;
  const there = policies.join(', ');
  errors.notSupported(node, path, `placement.policy ${JSON.stringify(text)} (there are ${there})`);
  return undefined;
}

function readWhere(
  node: FileNode,
  path: string,
  errors: FileErrors,
): Record<string, string> | undefined {
  if (node.kind !== 'map')
    return wrong(node, path, errors, 'must be a map of host metadata, such as { dc: east }');
  const pairs: [string, string][] = [];
  for (const entry of node.entries) {
    const text = scalarText(entry.value, join(path, entry.key), errors);
    if (text !== undefined) pairs.push([entry.key, text]);
  }
  return Object.fromEntries(pairs);
}

function readHosts(node: FileNode, path: string, errors: FileErrors): string[] | undefined {
  const list = listOf(node, path, errors, preferredHostsMax);
  if (list === undefined) return undefined;
  if (list.items.length === 0) return wrong(node, path, errors, 'must name a host');
  const names = list.items.flatMap((item, i) => label(item, `${path}[${i}]`, errors) ?? []);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  return twice === undefined ? names : wrong(node, path, errors, `names ${twice} twice`);
}

function metaKey(node: FileNode, path: string, errors: FileErrors): string | undefined {
  const text = scalarText(node, path, errors);
  return text === '' ? wrong(node, path, errors, 'must be a key of host metadata') : text;
}

function readDriver(
  node: FileNode,
  path: string,
  errors: FileErrors,
): StorageSpec['driver'] | undefined {
  if (valueOf(node) === 'external') {
    errors.notSupported(node, path, 'driver external (storage that another system moves)');
    return undefined;
  }
  return choice(node, path, errors, storageDrivers);
}

function storagePath(node: FileNode, path: string, errors: FileErrors): string | undefined {
  const text = scalarText(node, path, errors);
  if (text === undefined) return undefined;
  const problem = storagePathProblem(text);
  return problem === null ? text : wrong(node, path, errors, problem);
}
