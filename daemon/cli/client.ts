/** Talks to the daemon over its unix socket. Shapes: operations/wire.ts. */
import { request } from 'node:http';
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import type { ErrorCode } from '../errors.ts';
import { ClusterError, errorTable, reasonOf } from '../errors.ts';
import type { ClientLine, ServerLine, WireError } from '../operations/wire.ts';
import type { Params } from './spec.ts';

/** Largest line of a streaming answer; see `wireLineBytesMax`, which is not imported so that this stays light. */
const lineBytesMax = 8 << 20;

export interface CallHooks {
  onProgress?(text: string): void;
  /** Streaming operations only. */
  onData?(data: unknown): void;
  /** Gives up after this long; absent: waits as long as the operation does. */
  timeoutMs?: number;
}

export interface Client {
  /** Runs '<group>/<command>' and returns its data. Throws ClusterError. */
  call(call: string, params: Params, hooks?: CallHooks): Promise<unknown>;
  /** Two-way call. Throws ClusterError when it is refused before it begins. */
  open(call: string, params: Params): Promise<TwoWay>;
}

export interface TwoWay {
  /** False: wait for `drained` before sending much more. */
  send(line: ClientLine): boolean;
  drained(): Promise<void>;
  /** Ends after `result`; throws ClusterError for `error` or a broken connection. */
  readonly lines: AsyncIterable<ServerLine>;
  close(): void;
}

/** An error that the daemon reported, with its own words. */
class RemoteError extends ClusterError {
  constructor(error: WireError) {
    const isKnown = Object.hasOwn(errorTable, error.code);
    super(isKnown ? (error.code as ErrorCode) : 'INTERNAL', error.details);
    this.message = error.message;
  }
}

/** `operator` chooses between several that are logged in on this host (TRELLIS_OPERATOR). */
export function makeClient(socket: string, operator?: string): Client {
  const who = operator === undefined || operator === '' ? {} : { 'trellis-operator': operator };
  const unreachable = (error: unknown) => unreachableError(socket, error);
  return {
    async call(call, params, hooks = {}) {
      const response = await send({ socket, call, params, hooks, who }).catch((error: unknown) => {
        throw unreachable(error);
      });
      const type = response.headers['content-type'] ?? '';
      if (!type.startsWith('application/x-ndjson')) return plainAnswer(response);
      for await (const line of readLines(response)) {
        const end = takeLine(line, hooks);
        if (end !== null) return end.data;
      }
      throw new ClusterError('INTERNAL', { reason: 'the daemon broke off its answer' });
    },
    open: (call, params) => openTwoWay({ socket, call, params, who, unreachable }),
  };
}

/** Result line: its data. Other lines go to the hooks. */
function takeLine(line: ServerLine, hooks: CallHooks): { data: unknown } | null {
  switch (line.type) {
    case 'progress':
      hooks.onProgress?.(line.text);
      return null;
    case 'data':
      hooks.onData?.(line.data);
      return null;
    case 'result':
      return { data: line.data };
    case 'error':
      throw new RemoteError(line.error);
  }
}

function send(options: {
  socket: string;
  call: string;
  params: Params;
  hooks: CallHooks;
  who: Readonly<Record<string, string>>;
}): Promise<IncomingMessage> {
  const { socket, call, params, hooks, who } = options;
  const body = JSON.stringify(params);
  return new Promise((resolve, reject) => {
    const outgoing = request({
      socketPath: socket,
      path: `/api/v1/${call}`,
      method: 'POST',
      headers: {
        ...who,
        'content-type': 'application/json',
        'content-length': Buffer.byteLength(body),
        accept: 'application/x-ndjson, application/json',
        connection: 'close',
      },
    });
    if (hooks.timeoutMs !== undefined) {
      outgoing.setTimeout(hooks.timeoutMs, () => outgoing.destroy(new Error('no answer in time')));
    }
    outgoing.on('response', resolve);
    outgoing.on('error', reject);
    outgoing.end(body);
  });
}

async function plainAnswer(response: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  const text = Buffer.concat(chunks).toString('utf8');
  let body: unknown;
  try {
    body = text === '' ? null : JSON.parse(text);
  } catch (error) {
    throw new ClusterError('INTERNAL', { reason: 'the daemon answered no JSON' }, error);
  }
  const isError = (response.statusCode ?? 500) >= 400;
  if (!isError) return body;
  if (isErrorBody(body)) throw new RemoteError(body.error);
  throw new ClusterError('INTERNAL', { reason: `the daemon answered ${response.statusCode}` });
}

function isErrorBody(body: unknown): body is { error: WireError } {
  if (typeof body !== 'object' || body === null || !('error' in body)) return false;
  const { error } = body;
  return typeof error === 'object' && error !== null && 'code' in error && 'message' in error;
}

async function openTwoWay(options: {
  socket: string;
  call: string;
  params: Params;
  who: Readonly<Record<string, string>>;
  unreachable: (error: unknown) => ClusterError;
}): Promise<TwoWay> {
  const { socket, call, params, who, unreachable } = options;
  const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
  const outgoing = request({
    socketPath: socket,
    path: `/api/v1/${call}`,
    method: 'POST',
    headers: {
      ...who,
      connection: 'Upgrade',
      upgrade: 'trellis-stream',
      'trellis-params': Buffer.from(JSON.stringify(params)).toString('base64url'),
    },
  });
  outgoing.on('upgrade', (_response, connection, head) => {
    if (head.length > 0) connection.unshift(head);
    resolve(connection);
  });
  outgoing.on('response', (response) => {
    plainAnswer(response).then(
      () => reject(new ClusterError('INTERNAL', { reason: 'the daemon did not upgrade' })),
      reject,
    );
  });
  outgoing.on('error', (error) => reject(unreachable(error)));
  outgoing.end();
  return twoWay(await promise);
}

function twoWay(connection: Duplex): TwoWay {
  return {
    send: (line) => connection.writable && connection.write(`${JSON.stringify(line)}\n`),
    drained: () =>
      new Promise((resolve) => {
        if (!connection.writableNeedDrain) resolve();
        else connection.once('drain', resolve).once('close', resolve);
      }),
    lines: twoWayLines(connection),
    close: () => void connection.destroy(),
  };
}

async function* twoWayLines(connection: Duplex): AsyncGenerator<ServerLine> {
  for await (const line of readLines(connection)) {
    if (line.type === 'error') throw new RemoteError(line.error);
    yield line;
    if (line.type === 'result') return;
  }
  throw new ClusterError('INTERNAL', { reason: 'the daemon broke off its answer' });
}

/** Splits into lines of JSON; a line over the limit is an error, not a growing buffer. */
export async function* readLines(source: AsyncIterable<unknown>): AsyncGenerator<ServerLine> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  for await (const piece of source) {
    let chunk = piece as Buffer;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10)) {
      const line = Buffer.concat([...held, chunk.subarray(0, end)]).toString('utf8');
      held = [];
      heldBytes = 0;
      chunk = chunk.subarray(end + 1);
      if (line.trim() !== '') yield JSON.parse(line) as ServerLine;
    }
    held.push(chunk);
    heldBytes += chunk.length;
    if (heldBytes > lineBytesMax) {
      throw new ClusterError('INTERNAL', { reason: 'the daemon sent an endless line' });
    }
  }
}

function unreachableError(socket: string, error: unknown): ClusterError {
  const code = (error as { code?: string }).code;
  if (code === 'EACCES' || code === 'EPERM') {
    const where = `${socket} (permission denied: run it as root or as the user of the daemon)`;
    return new ClusterError('DAEMON_UNREACHABLE', { socket: where }, error);
  }
  if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTSOCK') {
    return new ClusterError('DAEMON_UNREACHABLE', { socket }, error);
  }
  if (code === 'ECONNRESET' || code === 'EPIPE') {
    return new ClusterError('DAEMON_UNREACHABLE', { socket: `${socket} any more` }, error);
  }
  return new ClusterError(
    'DAEMON_UNREACHABLE',
    { socket: `${socket} (${reasonOf(error)})` },
    error,
  );
}
