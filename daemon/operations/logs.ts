/**
 * `trellis logs`, `exec` and `shell`: for instances wherever they run. The host that is asked finds the owner in the facts
 * and has it do the work; only the owner touches its engine. `instance/…` are the parts that run on the owner.
 */
import { z } from 'zod';
import type { InstanceFact } from '../../crdt/model.ts';
import { ClusterError, reasonOf } from '../errors.ts';
import type { NodeApi } from '../node-api.ts';
import {
  define,
  envParam,
  findHost,
  findService,
  nodeOf,
  params,
  runOn,
  selfHost,
} from './common.ts';
import { instancesOf } from './host-rows.ts';
import type { Operation, OperationContext, StreamIo } from './operation.ts';
import type { ClientLine, OutputChunk } from './wire.ts';
import type { ContainerRuntime } from '../../plugins/api.ts';

const tailLinesMax = 100_000;
/** Instances whose output is followed at once. */
const followedMax = 256;
const commandWordsMax = 1_000;
const wordCharsMax = 65_536;
const outputBytesMax = 64 << 10;

const logsShape = {
  follow: z.boolean().default(false),
  tail: z.int().min(0).max(tailLinesMax).optional(),
  /** How far back. */
  sinceMs: z.int().min(0).optional(),
  timestamps: z.boolean().default(false),
};
const execShape = {
  cmd: z.array(z.string().max(wordCharsMax)).min(1).max(commandWordsMax),
  isTty: z.boolean().default(false),
  environment: z.record(z.string(), z.string()).default({}),
  columns: z.int().min(1).max(10_000).optional(),
  rows: z.int().min(1).max(10_000).optional(),
};
const whichShape = {
  ...envParam,
  service: z.string().max(63),
  host: z.string().max(64).optional(),
  instance: z.string().max(200).optional(),
};

type LogsParams = z.infer<ReturnType<typeof params<typeof logsShape>>>;
type ExecParams = z.infer<ReturnType<typeof params<typeof execShape>>>;

export const logsOperations: readonly Operation[] = [
  define({
    group: 'service',
    command: 'logs',
    summary: 'output of the instances of a service',
    access: 'viewer',
    isMutation: false,
    isStream: true,
    params: params({ ...whichShape, ...logsShape }),
    run: serviceLogs,
  }),
  define({
    group: 'service',
    command: 'exec',
    summary: 'run a command in an instance',
    access: 'local',
    isMutation: true,
    isStream: true,
    params: params({ ...whichShape, ...execShape }),
    run: serviceExec,
  }),
  define({
    group: 'instance',
    command: 'logs',
    summary: 'output of one instance of this host',
    access: 'viewer',
    isMutation: false,
    isStream: true,
    params: params({ instance: z.string().max(200), ...logsShape }),
    run: async (context, given) => {
      const { io, result } = ioOf(context);
      await localLogs(context, { instance: given.instance, options: given, io });
      return result();
    },
  }),
  define({
    group: 'instance',
    command: 'exec',
    summary: 'run a command in one instance of this host',
    access: 'local',
    isMutation: true,
    isStream: true,
    params: params({ instance: z.string().max(200), ...execShape }),
    run: (context, given) => localExec(context, given.instance, given),
  }),
];

interface Found {
  readonly host: { readonly id: NodeApi['self']['host']; readonly name: string };
  readonly fact: InstanceFact;
}

/** Instances on live hosts, this host's first. Throws NOT_FOUND. */
function findInstances(
  node: NodeApi,
  given: { service: string; host?: string | undefined; instance?: string | undefined },
): Found[] {
  const wanted = given.host === undefined ? null : findHost(node, given.host);
  const found: Found[] = [];
  for (const host of node.hosts()) {
    if (host.liveness === 'dead' || host.liveness === 'left') continue;
    if (wanted !== null && host.id !== wanted.id) continue;
    for (const fact of instancesOf(node, host).instances) {
      if (fact.service !== given.service || fact.containerId === '') continue;
      if (given.instance !== undefined && fact.instance !== given.instance) continue;
      found.push({ host, fact });
    }
  }
  if (found.length > 0) {
    const isSelf = ({ host }: Found) => Number(host.id === node.self.host);
    return found.toSorted((a, b) => isSelf(b) - isSelf(a));
  }
  findService(node, given.service);
  const name = given.instance ?? `of service ${given.service}`;
  throw new ClusterError('NOT_FOUND', {
    kind: 'instance',
    name,
    list: `trellis ps ${given.service}`,
  });
}

async function serviceLogs(
  context: OperationContext,
  given: z.infer<ReturnType<typeof params<typeof whichShape & typeof logsShape>>>,
): Promise<unknown> {
  const node = nodeOf(context, given);
  const found = findInstances(node, given).slice(0, followedMax);
  const { io, result } = ioOf(context);
  await io.send({ instances: found.map(({ fact }) => fact.instance) });
  const { follow, tail, sinceMs, timestamps } = given;
  const options = { follow, tail, sinceMs, timestamps };
  const read = (one: Found) => readOne(context, { one, options, io });
  if (follow) await Promise.all(found.map(read));
  else for (const one of found) await read(one);
  return result();
}

async function readOne(
  context: OperationContext,
  job: { one: Found; options: LogsParams; io: StreamIo },
): Promise<void> {
  const { one, options, io } = job;
  const { instance } = one.fact;
  if (one.host.id === nodeOf(context).self.host) {
    return localLogs(context, { instance, options, io });
  }
  try {
    const call = { group: 'instance', command: 'logs', params: { instance, ...options } };
    await runOn(context, one.host, call, {
      send: (message) => io.send(message),
      input: noInput,
    });
  } catch (error) {
    // One host that does not answer must not hide the output of the others.
    context.progress(`${instance} on ${one.host.name}: ${reasonOf(error)}`);
  }
}

async function localLogs(
  context: OperationContext,
  job: { instance: string; options: LogsParams; io: StreamIo },
): Promise<void> {
  const { node, runtime, fact } = localInstance(context, job.instance);
  const { follow, tail, sinceMs, timestamps } = job.options;
  const output = runtime.logs(fact.containerId, {
    follow,
    timestamps,
    signal: context.signal,
    ...(tail === undefined ? {} : { tail }),
    ...(sinceMs === undefined ? {} : { sinceMs: context.clock.wallMs() - sinceMs }),
  });
  const host = selfHost(node).name;
  for await (const chunk of output)
    await sendChunk(job.io, { host, instance: fact.instance }, chunk);
}

async function serviceExec(
  context: OperationContext,
  given: z.infer<ReturnType<typeof params<typeof whichShape & typeof execShape>>>,
): Promise<unknown> {
  const node = nodeOf(context, given);
  const running = findInstances(node, given).filter(({ fact }) => fact.state === 'running');
  const one = running.find(({ fact }) => fact.health !== 'unhealthy') ?? running[0];
  if (one === undefined) {
    throw new ClusterError('CONFLICT', {
      reason: `no instance of ${given.service} is running`,
      todo: `look with \`trellis ps ${given.service}\``,
    });
  }
  const { service: _, host: __, env: ___, instance: ____, ...options } = given;
  const { instance } = one.fact;
  if (one.host.id === node.self.host) return localExec(context, instance, options);
  const call = { group: 'instance', command: 'exec', params: { instance, ...options } };
  return runOn(context, one.host, call, context.io ?? undefined);
}

async function localExec(
  context: OperationContext,
  instance: string,
  given: ExecParams,
): Promise<unknown> {
  const { node, runtime, fact } = localInstance(context, instance);
  const { io, result } = ioOf(context);
  const session = await runtime.exec(fact.containerId, {
    command: given.cmd,
    isTty: given.isTty,
    env: Object.entries(given.environment).map(([name, value]) => `${name}=${value}`),
    signal: context.signal,
  });
  const { columns, rows } = given;
  if (given.isTty && columns !== undefined && rows !== undefined) {
    await session.resize(columns, rows).catch((error: unknown) => {
      // A short command may be over already.
      context.log.debug('exec.not-resized', { reason: reasonOf(error) });
    });
  }
  const host = selfHost(node).name;
  const input = passInput(context, io, session);
  for await (const chunk of session.output) await sendChunk(io, { host, instance }, chunk);
  const exitCode = await session.exitCode();
  // The caller may keep its input open; what it still sends has nowhere to go.
  void input;
  return { exitCode, host, instance, ...result() };
}

type Session = Awaited<ReturnType<ContainerRuntime['exec']>>;

/** Ends with the caller's input. A command that has ended already is no fault. */
async function passInput(context: OperationContext, io: StreamIo, session: Session): Promise<void> {
  try {
    for await (const message of io.input) {
      const line = message as ClientLine;
      if (line.type === 'input') session.write(Buffer.from(line.bytes, 'base64'));
      else if (line.type === 'end') session.end();
      else if (line.type === 'resize') await session.resize(line.columns, line.rows);
    }
    session.end();
  } catch (error) {
    context.log.debug('exec.input-ended', { reason: reasonOf(error) });
  }
}

function localInstance(
  context: OperationContext,
  instance: string,
): { node: NodeApi; runtime: ContainerRuntime; fact: InstanceFact } {
  const node = nodeOf(context);
  const fact = instancesOf(node, selfHost(node)).instances.find(
    (one) => one.instance === instance && one.containerId !== '',
  );
  if (fact === undefined) {
    throw new ClusterError('NOT_FOUND', { kind: 'instance', name: instance, list: 'trellis ps' });
  }
  if (context.runtime === null) {
    const reason = 'this daemon runs without one';
    throw new ClusterError('ENGINE_UNREACHABLE', { endpoint: '(none)', reason });
  }
  return { node, runtime: context.runtime, fact };
}

async function sendChunk(
  io: StreamIo,
  from: { host: string; instance: string },
  chunk: { stream: 'stdout' | 'stderr'; bytes: Uint8Array },
): Promise<void> {
  for (let at = 0; at < chunk.bytes.length; at += outputBytesMax) {
    const bytes = Buffer.from(chunk.bytes.subarray(at, at + outputBytesMax)).toString('base64');
    await io.send({ ...from, stream: chunk.stream, bytes } satisfies OutputChunk);
  }
}

const noInput: AsyncIterable<unknown> = {
  [Symbol.asyncIterator]: () => ({ next: () => Promise.resolve({ done: true, value: undefined }) }),
};

const collectedMax = 10_000;

/** Without a stream (a plain POST) the newest messages are collected and given as the result. */
export function ioOf(context: OperationContext): {
  io: StreamIo;
  result: () => { messages?: unknown[] };
} {
  if (context.io !== null) return { io: context.io, result: () => ({}) };
  const messages: unknown[] = [];
  const send = (message: unknown) => {
    messages.push(message);
    if (messages.length > collectedMax) messages.shift();
    return Promise.resolve();
  };
  return { io: { send, input: noInput }, result: () => ({ messages }) };
}
