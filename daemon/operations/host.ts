/** `trellis host …`. */
import { z } from 'zod';
import { nameSchema } from '../../crdt/records.ts';
import { pointerOf } from '../../crdt/pointer.ts';
import type { HostView } from '../../crdt/model.ts';
import type { LeafPut } from '../../crdt/leaves.ts';
import { ClusterError } from '../errors.ts';
import type { NodeApi } from '../node-api.ts';
import type { EditAnswer, HostDetails, HostRow, HostState } from './answers.ts';
import {
  define,
  envParam,
  findHost,
  nodeOf,
  params,
  roundedSeconds,
  runOn,
  selfHost,
  sessionOf,
  timeoutMsParam,
  until,
  waitParams,
} from './common.ts';
import { hostFactOf, hostRow, hostRows, hostState, instanceRows } from './host-rows.ts';
import type { Operation, OperationContext } from './operation.ts';
import { editAndPlan } from './planning.ts';
import type { EditOptions } from './planning.ts';
import type { HostTools } from './tools.ts';

const hostName = z.string().min(1).max(64);
const states = ['joining', 'ready', 'suspect', 'dead', 'draining', 'drained', 'left'] as const;
const metaPairsMax = 64;
const metaValueCharsMax = 256;

export function hostOperations(tools: HostTools): readonly Operation[] {
  return [...lookOperations(tools), ...editOperations(), removeOperation(tools)];
}

function lookOperations(tools: HostTools): Operation[] {
  return [
    define({
      group: 'host',
      command: 'ls',
      summary: 'list hosts and their states',
      access: 'viewer',
      isMutation: false,
      params: params(envParam),
      run: (context, { env }): Promise<HostRow[]> =>
        Promise.resolve(hostRows(nodeOf(context, { env }))),
    }),
    define({
      group: 'host',
      command: 'show',
      summary: 'everything known about one host',
      access: 'viewer',
      isMutation: false,
      params: params({ ...envParam, host: hostName.optional() }),
      run: (context, { env, host }) => {
        const node = nodeOf(context, { env });
        return Promise.resolve(
          details(node, host === undefined ? selfHost(node) : findHost(node, host)),
        );
      },
    }),
    define({
      group: 'host',
      command: 'wait',
      summary: 'wait until a host is in a state',
      access: 'viewer',
      isMutation: false,
      timeLimitMs: 3_700_000,
      params: params({
        ...envParam,
        host: hostName,
        state: z.enum(states).default('ready'),
        timeoutMs: timeoutMsParam,
      }),
      run: waitForHost,
    }),
    define({
      group: 'host',
      command: 'rescan',
      summary: 'take the inventory of a host again',
      access: 'local',
      isMutation: false,
      params: params({ ...envParam, host: hostName.optional() }),
      run: async (context, { env, host: name }): Promise<unknown> => {
        const node = nodeOf(context, { env });
        const host = name === undefined ? selfHost(node) : findHost(node, name);
        if (host.id !== node.self.host) {
          const call = { group: 'host', command: 'rescan', params: {} };
          return runOn(context, host, call);
        }
        return { host: host.name, inventory: await tools.rescanInventory() };
      },
    }),
  ];
}

function editOperations(): Operation[] {
  const common = {
    group: 'host',
    access: 'operator',
    isMutation: true,
    timeLimitMs: 3_700_000,
  } as const;
  const shape = { ...waitParams, host: hostName };
  return [
    define({
      ...common,
      command: 'set',
      summary: 'set metadata of a host, or freeze it',
      params: params({
        ...shape,
        pairs: z.array(z.string().max(400)).max(metaPairsMax).default([]),
        frozen: z.enum(['on', 'off']).optional(),
      }),
      run: setHost,
    }),
    define({
      ...common,
      command: 'rename',
      summary: 'give a host another name',
      params: params({ ...shape, name: nameSchema }),
      run: (context, given) => {
        const node = nodeOf(context, given);
        const host = findHost(node, given.host);
        const other = node
          .hosts()
          .find(
            ({ id, name, liveness }) =>
              name === given.name && id !== host.id && liveness !== 'left',
          );
        if (other !== undefined) {
          const reason = `another host is named ${given.name} (${other.id})`;
          throw new ClusterError('CONFLICT', { reason, todo: 'choose another name' });
        }
        const put = setting(host, 'name', given.name);
        return editAndPlan(context, given, {
          message: `rename host ${host.name} to ${given.name}`,
          puts: [put],
        });
      },
    }),
    define({
      ...common,
      command: 'drain',
      summary: 'move away what may move, and give it nothing new',
      params: params(shape),
      run: (context, given) => drain(context, given, true),
    }),
    define({
      ...common,
      command: 'undrain',
      summary: 'let a drained host take work again',
      params: params(shape),
      run: (context, given) => drain(context, given, false),
    }),
  ];
}

function removeOperation(tools: HostTools): Operation {
  return define({
    group: 'host',
    command: 'remove',
    summary: 'take a dead host out of the cluster for good',
    access: 'operator',
    isMutation: true,
    timeLimitMs: 3_700_000,
    params: params({
      ...waitParams,
      host: hostName,
      force: z.boolean().default(false),
      dryRun: z.boolean().default(false),
    }),
    run: async (context, given): Promise<EditAnswer> => {
      const node = nodeOf(context, given);
      const host = findHost(node, given.host);
      if (host.id === node.self.host) {
        throw new ClusterError('CONFLICT', {
          reason: `${host.name} is this host`,
          todo: 'run `trellis leave` on it',
        });
      }
      const isAlive = host.liveness === 'alive' || host.liveness === 'suspect';
      if (isAlive && !given.force) {
        throw new ClusterError('CONFLICT', {
          reason: `${host.name} is ${host.liveness}`,
          todo: 'run `trellis leave` on it, or use --force',
        });
      }
      const plan = removalPlan(node, host);
      if (given.dryRun) return { hash: null, changed: 0, plan };
      const session = sessionOf(context, 'host remove');
      const reason = `removed by ${session.operator} while ${host.liveness}`;
      await tools.removeMember(session, { node: host.node, host: host.id }, reason);
      const puts = [...node.reader(`env/${node.env}`).leaves('settings').keys()]
        .filter((pointer) => pointer.startsWith(`${pointerOf('hosts', host.id)}/`))
        .map((pointer): LeafPut => ({ object: 'settings', pointer, value: null }));
      const answer = await editAndPlan(context, given, {
        message: `remove host ${host.name}`,
        puts,
      });
      return { ...answer, plan };
    },
  });
}

function removalPlan(node: NodeApi, host: HostView): string[] {
  const lines = [`remove host ${host.name} (${host.id}), ${host.liveness}`];
  for (const placement of node.committedPlan()?.plan.placements ?? []) {
    if (placement.host === host.id) {
      lines.push(`move or drop ${placement.serviceName}-${placement.slot}, planned there`);
    }
  }
  return lines;
}

function details(node: NodeApi, host: HostView): HostDetails {
  const fact = hostFactOf(node, host);
  const lastSeenMs = node.members().find((member) => member.host === host.id)?.lastSeenMs ?? null;
  return {
    ...hostRow(node, host, lastSeenMs),
    node: host.node,
    engine: fact?.engine ?? null,
    frozen: node.envView().hosts.get(host.id)?.isFrozen === true,
    apiPort: fact?.apiPort ?? null,
    peerPort: fact?.peerPort ?? null,
    instances: instanceRows(node, { host, all: true }),
  };
}

/** A host that is not known yet may still come: it is waited for, not refused. */
async function waitForHost(
  context: OperationContext,
  given: { env?: string | undefined; host: string; state: HostState; timeoutMs: number },
): Promise<{ host: string; state: HostState; waitedMs: number }> {
  const node = nodeOf(context, given);
  const startedMs = context.clock.monotonicMs();
  let seen = '';
  const current = (): HostState | null => {
    const host = node.hosts().find(({ name, id }) => name === given.host || id === given.host);
    const state = host === undefined ? null : hostState(node, host);
    const words = state ?? 'not known';
    if (words !== seen) context.progress(`${given.host} is ${words}`);
    seen = words;
    return state;
  };
  await until(context, {
    timeoutMs: given.timeoutMs,
    check: () => (current() === given.state ? true : null),
    timedOut: () =>
      new ClusterError('TIMED_OUT', {
        what: `waiting for ${given.host} to be ${given.state} (it is ${seen})`,
        seconds: roundedSeconds(given.timeoutMs),
        todo: 'look with `trellis doctor` on it',
      }),
  });
  const waitedMs = Math.round(context.clock.monotonicMs() - startedMs);
  return { host: given.host, state: given.state, waitedMs };
}

async function drain(
  context: OperationContext,
  given: { env?: string | undefined; host: string; wait: boolean; timeoutMs: number },
  isDrained: boolean,
): Promise<EditAnswer> {
  const host = findHost(nodeOf(context, given), given.host);
  const message = `${isDrained ? 'drain' : 'undrain'} host ${host.name}`;
  const puts = [setting(host, 'drained', isDrained ? true : null)];
  const answer = await editAndPlan(context, given, { message, puts });
  if (given.wait && isDrained) await waitForHost(context, { ...given, state: 'drained' });
  return answer;
}

function setting(host: HostView, key: string, value: LeafPut['value']): LeafPut {
  return { object: 'settings', pointer: pointerOf('hosts', host.id, key), value };
}

interface SetGiven extends EditOptions {
  readonly host: string;
  readonly pairs: readonly string[];
  readonly frozen?: 'on' | 'off' | undefined;
}

function setHost(context: OperationContext, given: SetGiven): Promise<EditAnswer> {
  const host = findHost(nodeOf(context, given), given.host);
  const puts = [...given.pairs.map((pair) => metaPut(host, pair)), ...frozenPuts(host, given)];
  if (puts.length === 0) {
    const reason = 'KEY=VALUE or --frozen is missing';
    throw new ClusterError('USAGE', { reason, command: 'host set' });
  }
  const words = given.frozen === undefined ? [] : [`frozen ${given.frozen}`];
  const message = `host ${host.name}: ${[...given.pairs, ...words].join(' ')}`;
  return editAndPlan(context, given, { message, puts });
}

/** A frozen host takes nothing exclusive by itself; what it holds it keeps. */
function frozenPuts(host: HostView, given: Pick<SetGiven, 'frozen'>): LeafPut[] {
  if (given.frozen === undefined) return [];
  return [setting(host, 'frozen', given.frozen === 'on' ? true : null)];
}

function metaPut(host: HostView, pair: string): LeafPut {
  const equals = pair.indexOf('=');
  const key = equals < 0 ? pair : pair.slice(0, equals);
  const value = equals < 0 ? '' : pair.slice(equals + 1);
  if (equals < 1 || !/^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/.test(key)) {
    const reason = `${JSON.stringify(pair)} is not KEY=VALUE`;
    throw new ClusterError('USAGE', { reason, command: 'host set' });
  }
  if (value.length > metaValueCharsMax) {
    throw new ClusterError('INVALID', {
      reason: `the value of ${key} is over ${metaValueCharsMax} characters`,
    });
  }
  const pointer = pointerOf('hosts', host.id, 'meta', key);
  // Present and empty hides what the member record says; null would show it again.
  return { object: 'settings', pointer, value };
}
