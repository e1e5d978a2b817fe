/** What most operations need: the node or a clear refusal, hosts by name, edits and waiting as promises. */
import { z } from 'zod';
import type { ZodType } from 'zod';
import type { Hash } from '../../crdt/ids.ts';
import type { HostView, Service } from '../../crdt/model.ts';
import type { Edit } from '../../crdt/leaves.ts';
import { ClusterError } from '../errors.ts';
import type { DocName, EditReceipt, EditSession, NodeApi } from '../node-api.ts';
import type { Operation, OperationContext, StreamIo } from './operation.ts';

/** Keeps the types of params and data together, and forgets them for the list. */
export function define<Params, Data>(operation: Operation<Params, Data>): Operation {
  return operation as Operation;
}

export const waitTimeoutMsDefault = 120_000;
const waitTimeoutMsMax = 3_600_000;

export const timeoutMsParam = z.int().min(1).max(waitTimeoutMsMax).default(waitTimeoutMsDefault);

/** A host has one environment; naming another one is a mistake worth words. */
export const envParam = { env: z.string().max(63).optional() };

export const waitParams = {
  ...envParam,
  wait: z.boolean().default(false),
  timeoutMs: timeoutMsParam,
};

/** Unknown parameters are refused by name: a misspelt one must not be silently without effect. */
export function params<Shape extends Readonly<Record<string, ZodType>>>(shape: Shape) {
  return z.strictObject(shape);
}

export function nodeOf(context: OperationContext, given?: { env?: string | undefined }): NodeApi {
  const { node } = context;
  if (node === null) throw new ClusterError('NOT_INITIALISED');
  if (given?.env !== undefined && given.env !== node.env) {
    throw new ClusterError('INVALID', {
      reason: `this host is in environment ${node.env}, not ${given.env}; ask a host of that one`,
    });
  }
  return node;
}

export function sessionOf(context: OperationContext, action: string): EditSession {
  const { session } = context.caller;
  if (session === null) throw new ClusterError('LOGIN_REQUIRED', { action });
  return session;
}

export function envDoc(node: NodeApi): DocName {
  return `env/${node.env}`;
}

const idPrefixCharsMin = 6;

/** By name, or by the beginning of its id. A host that left gives its name up to one that has not. */
export function findHost(node: NodeApi, name: string): HostView {
  const hosts = node.hosts();
  const all = hosts.filter((host) => host.name === name);
  const here = all.filter((host) => host.liveness !== 'left');
  const named = here.length > 0 ? here : all;
  const [first] = named;
  if (named.length === 1 && first !== undefined) return first;
  if (named.length > 1) {
    const choices = named.map((host) => host.id);
    throw new ClusterError('AMBIGUOUS', { name, kind: 'host', choices });
  }
  const byId = name.length < idPrefixCharsMin ? [] : hosts.filter(({ id }) => id.startsWith(name));
  if (byId.length === 1 && byId[0] !== undefined) return byId[0];
  throw new ClusterError('NOT_FOUND', { kind: 'host', name, list: 'trellis host ls' });
}

export function selfHost(node: NodeApi): HostView {
  const self = node.hosts().find((host) => host.id === node.self.host);
  if (self === undefined) throw new ClusterError('DAEMON_STARTING');
  return self;
}

export function findService(node: NodeApi, name: string): Service {
  const service = node.envView().services.get(name);
  if (service !== undefined) return service;
  throw new ClusterError('NOT_FOUND', { kind: 'service', name, list: 'trellis service ls' });
}

/** Names by id, for showing. */
export function hostNames(node: NodeApi): ReadonlyMap<string, string> {
  return new Map(node.hosts().map((host) => [host.id, host.name]));
}

/** As `context.remote`, with the host's name in the words when it does not answer. */
export async function runOn(
  context: OperationContext,
  host: Pick<HostView, 'id' | 'name'>,
  call: { group: string; command: string; params: unknown },
  io?: StreamIo,
): Promise<unknown> {
  try {
    return await context.remote(host.id, call, io);
  } catch (error) {
    if (!(error instanceof ClusterError) || error.code !== 'HOST_UNREACHABLE') throw error;
    throw new ClusterError('HOST_UNREACHABLE', { ...error.details, host: host.name }, error);
  }
}

export function editDocument(
  context: OperationContext,
  edit: Edit,
  doc?: DocName,
): Promise<EditReceipt> {
  const node = nodeOf(context);
  const session = sessionOf(context, 'editing');
  return new Promise((resolve, reject) => {
    node.edit(session, doc ?? envDoc(node), edit, (result) => {
      if (result instanceof ClusterError) reject(result);
      else resolve(result);
    });
  });
}

const recheckIntervalMs = 250;

/**
 * Resolves with the first non-null answer of `check`, which is asked now, after every change of the node and every
 * quarter of a second (some facts only grow old). Throws what `timedOut` gives at the deadline.
 */
export function until<T>(
  context: OperationContext,
  options: { timeoutMs: number; check: () => T | null; timedOut: () => ClusterError },
): Promise<T> {
  const node = nodeOf(context);
  const { clock, signal } = context;
  const deadlineMs = clock.monotonicMs() + options.timeoutMs;
  return new Promise<T>((resolve, reject) => {
    let timer = clock.setTimer(0, look);
    const unsubscribe = node.onChange(look);
    const finish = (act: () => void) => {
      timer.cancel();
      unsubscribe();
      signal.removeEventListener('abort', abort);
      act();
    };
    const abort = () =>
      finish(() =>
        reject(
          new ClusterError('COMMAND_FAILED', { command: 'waiting', reason: 'it was broken off' }),
        ),
      );
    signal.addEventListener('abort', abort);
    function look(): void {
      try {
        const found = options.check();
        if (found !== null) return finish(() => resolve(found));
        if (clock.monotonicMs() >= deadlineMs) return finish(() => reject(options.timedOut()));
      } catch (error) {
        return finish(() => reject(error as Error));
      }
      timer.cancel();
      const leftMs = deadlineMs - clock.monotonicMs();
      timer = clock.setTimer(Math.min(recheckIntervalMs, Math.max(1, leftMs)), look);
    }
  });
}

/** Names of the live members that have it, once all do. */
export function waitForSpread(
  context: OperationContext,
  hash: Hash,
  timeoutMs: number,
): Promise<string[]> {
  const node = nodeOf(context);
  const named = (ids: readonly string[]) => {
    const names = hostNames(node);
    return ids.map((id) => names.get(id) ?? id);
  };
  return until(context, {
    timeoutMs,
    check: () => {
      const { have, missing } = node.spread(hash);
      return missing.length === 0 ? named(have) : null;
    },
    timedOut: () =>
      new ClusterError('TIMED_OUT', {
        what: `spreading the edit to ${named(node.spread(hash).missing).join(', ')}`,
        seconds: roundedSeconds(timeoutMs),
        todo: 'it is kept and reaches them later',
        hash,
      }),
  });
}

/** For words: 2.5, not 2.4999. */
export function roundedSeconds(ms: number): number {
  return Math.round(ms / 100) / 10;
}

export function isoOf(wallMs: number): string {
  return new Date(wallMs).toISOString();
}
