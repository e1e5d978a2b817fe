/** `trellis role …`. */
import { z } from 'zod';
import { compareText } from '../../crdt/codec.ts';
import { nameSchema } from '../../crdt/records.ts';
import { pointerOf } from '../../crdt/pointer.ts';
import type { HostView } from '../../crdt/model.ts';
import { commandSource, roleToLeaves } from '../../crdt/service-leaves.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import { ClusterError } from '../errors.ts';
import type { NodeApi } from '../node-api.ts';
import type { EditAnswer, RoleRow } from './answers.ts';
import {
  define,
  envDoc,
  envParam,
  findHost,
  nodeOf,
  params,
  selfHost,
  waitParams,
} from './common.ts';
import { newObjectId } from './object-ids.ts';
import type { Operation, OperationContext } from './operation.ts';
import { editAndPlan } from './planning.ts';

const rolesMax = 64;
const hostsMax = 1_000;
const minHostsMax = 10_000;

const common = {
  group: 'role',
  access: 'operator',
  isMutation: true,
  timeLimitMs: 3_700_000,
} as const;
const changeShape = {
  ...waitParams,
  roles: z.array(nameSchema).max(rolesMax).default([]),
  allBut: z.array(nameSchema).max(rolesMax).optional(),
  hosts: z.array(z.string().max(64)).max(hostsMax).optional(),
};

export const roleOperations: readonly Operation[] = [
  define({
    group: 'role',
    command: 'ls',
    summary: 'list roles, their hosts and services',
    access: 'viewer',
    isMutation: false,
    params: params(envParam),
    run: (context, given) => Promise.resolve(roleRows(nodeOf(context, given))),
  }),
  define({
    group: 'role',
    command: 'show',
    summary: 'one role',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam, role: nameSchema }),
    run: (context, given) => Promise.resolve(findRole(nodeOf(context, given), given.role)),
  }),
  define({
    ...common,
    command: 'add',
    summary: 'give roles to hosts',
    params: params(changeShape),
    run: (context, given) => change(context, given, true),
  }),
  define({
    ...common,
    command: 'rm',
    summary: 'take roles from hosts',
    params: params(changeShape),
    run: (context, given) => change(context, given, false),
  }),
  define({
    ...common,
    command: 'create',
    summary: 'make a role',
    params: params({
      ...waitParams,
      role: nameSchema,
      minHosts: z.int().min(0).max(minHostsMax).optional(),
      isDedicated: z.boolean().optional(),
    }),
    run: create,
  }),
  define({
    ...common,
    command: 'delete',
    summary: 'delete a role that no service uses',
    params: params({ ...waitParams, role: nameSchema, dryRun: z.boolean().default(false) }),
    run: remove,
  }),
];

/** Created roles, and names that hosts carry or services use without one. */
export function roleRows(node: NodeApi): RoleRow[] {
  const view = node.envView();
  const hosts = node.hosts().filter((host) => host.liveness !== 'left');
  const names = new Set(view.roles.keys());
  for (const host of hosts) host.roles.forEach((role) => names.add(role));
  for (const service of view.services.values()) names.add(service.role);
  for (const storage of view.storage.values()) names.add(storage.role);
  return [...names].toSorted(compareText).map((name) => {
    const role = view.roles.get(name);
    const carriers = hosts.filter((host) => host.roles.includes(name));
    return {
      name,
      minHosts: role?.minHosts ?? 0,
      dedicated: role?.isDedicated ?? false,
      hosts: carriers.map((host) => host.name).toSorted(compareText),
      live: carriers.filter((host) => host.liveness === 'alive').length,
      services: [...view.services.values()]
        .filter((service) => service.role === name)
        .map((service) => service.name)
        .toSorted(compareText),
      exists: role !== undefined,
    };
  });
}

function findRole(node: NodeApi, name: string): RoleRow {
  const row = roleRows(node).find((one) => one.name === name);
  if (row !== undefined) return row;
  throw new ClusterError('NOT_FOUND', { kind: 'role', name, list: 'trellis role ls' });
}

interface Change {
  readonly env?: string | undefined;
  readonly roles: readonly string[];
  readonly allBut?: readonly string[] | undefined;
  readonly hosts?: readonly string[] | undefined;
  readonly wait: boolean;
  readonly timeoutMs: number;
}

async function change(
  context: OperationContext,
  given: Change,
  isAdd: boolean,
): Promise<EditAnswer> {
  const node = nodeOf(context, given);
  const roles = chosenRoles(node, given, isAdd ? 'role add' : 'role rm');
  const hosts =
    given.hosts === undefined ? [selfHost(node)] : given.hosts.map((name) => findHost(node, name));
  const puts: LeafPut[] = [];
  for (const host of hosts) {
    if (isAdd) refuseDedicated(node, host, roles);
    for (const role of roles) {
      if (host.roles.includes(role) === isAdd) continue;
      const pointer = pointerOf('hosts', host.id, 'roles', role);
      puts.push({ object: 'settings', pointer, value: isAdd });
    }
  }
  const names = hosts.map((host) => host.name).join(' ');
  const message = `role ${isAdd ? 'add' : 'rm'} ${roles.join(' ')} on ${names}`;
  const answer = await editAndPlan(context, given, { message: message.slice(0, 500), puts });
  const known = new Set(
    roleRows(node)
      .filter((row) => row.exists)
      .map((row) => row.name),
  );
  const missing = isAdd ? roles.filter((role) => !known.has(role)) : [];
  if (missing.length === 0) return answer;
  const warning = `no role ${missing.join(', ')} is created yet; a file or \`trellis role create\` does it`;
  return { ...answer, warnings: [...(answer.warnings ?? []), warning] };
}

function chosenRoles(node: NodeApi, given: Change, command: string): readonly string[] {
  if ((given.allBut === undefined) === (given.roles.length === 0)) {
    throw new ClusterError('USAGE', { reason: 'name roles, or give --all-but', command });
  }
  const known = roleRows(node).map((row) => row.name);
  const named = given.allBut ?? given.roles;
  // A host may be given a role before the file that makes it is applied; everything else must exist.
  const isNewAllowed = command === 'role add' && given.allBut === undefined;
  for (const name of named) {
    if (isNewAllowed || known.includes(name)) continue;
    throw new ClusterError('NOT_FOUND', { kind: 'role', name, list: 'trellis role ls' });
  }
  return given.allBut === undefined
    ? [...new Set(named)]
    : known.filter((name) => !named.includes(name));
}

/** A dedicated role stands alone on its host. */
function refuseDedicated(node: NodeApi, host: HostView, added: readonly string[]): void {
  const { roles } = node.envView();
  const all = [...new Set([...host.roles, ...added])];
  const dedicated = all.find((name) => roles.get(name)?.isDedicated === true);
  if (dedicated === undefined || all.length === 1) return;
  throw new ClusterError('CONFLICT', {
    reason: `role ${dedicated} is dedicated, and ${host.name} would carry ${all.join(', ')}`,
    todo: 'use another host, or take the other roles away first',
  });
}

function create(
  context: OperationContext,
  given: {
    env?: string | undefined;
    role: string;
    minHosts?: number | undefined;
    isDedicated?: boolean | undefined;
    wait: boolean;
    timeoutMs: number;
  },
): Promise<EditAnswer> {
  const node = nodeOf(context, given);
  if (node.envView().roles.has(given.role)) {
    throw new ClusterError('CONFLICT', {
      reason: `role ${given.role} exists`,
      todo: 'look with `trellis role show`',
    });
  }
  const id = newObjectId();
  const leaves = roleToLeaves({
    name: given.role,
    source: commandSource,
    ...(given.minHosts === undefined ? {} : { minHosts: given.minHosts }),
    ...(given.isDedicated === undefined ? {} : { isDedicated: given.isDedicated }),
  });
  const puts: LeafPut[] = [...leaves].map(([pointer, value]) => ({ object: id, pointer, value }));
  puts.push({ object: 'names', pointer: pointerOf('role', given.role), value: id });
  return editAndPlan(context, given, { message: `create role ${given.role}`, puts });
}

async function remove(
  context: OperationContext,
  given: {
    env?: string | undefined;
    role: string;
    wait: boolean;
    timeoutMs: number;
    dryRun: boolean;
  },
): Promise<EditAnswer> {
  const node = nodeOf(context, given);
  const row = findRole(node, given.role);
  const storage = [...node.envView().storage.values()].filter(({ role }) => role === row.name);
  const users = [...row.services, ...storage.map(({ name }) => `storage ${name}`)];
  if (users.length > 0) {
    throw new ClusterError('CONFLICT', {
      reason: `role ${row.name} is used by ${users.join(', ')}`,
      todo: 'remove or change them first',
    });
  }
  const plan = [
    `delete role ${row.name}`,
    ...row.hosts.map((host) => `take role ${row.name} from host ${host}`),
  ];
  if (given.dryRun) return { hash: null, changed: 0, plan };
  const puts: LeafPut[] = node
    .hosts()
    .filter((host) => host.roles.includes(row.name))
    .map((host) => ({
      object: 'settings',
      pointer: pointerOf('hosts', host.id, 'roles', row.name),
      value: false,
    }));
  const role = node.envView().roles.get(row.name);
  if (role !== undefined) {
    puts.push({ object: role.id, pointer: '/deleted', value: true });
    const pointer = pointerOf('role', row.name);
    const isIndexed = node.reader(envDoc(node)).leaf('names', pointer) === role.id;
    if (isIndexed) puts.push({ object: 'names', pointer, value: null });
  }
  return {
    ...(await editAndPlan(context, given, { message: `delete role ${row.name}`, puts })),
    plan,
  };
}
