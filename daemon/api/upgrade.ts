/**
 * Two-way operations (exec) over an upgraded connection: lines of JSON in both directions (operations/wire.ts). A refusal
 * before anything was said is an ordinary HTTP answer, so the switch happens at the operation's first word or look at its
 * input.
 */
import type { IncomingMessage, Server } from 'node:http';
import type { Duplex } from 'node:stream';
import { asClusterError, ClusterError, errorTable } from '../errors.ts';
import type { Call } from '../operations/bus.ts';
import type { Caller } from '../operations/operation.ts';
import { toWireError } from '../operations/wire-error.ts';
import { LineWriter, readJsonLines } from './lines.ts';
import { callerOf, pathOf, securityHeaders } from './routes.ts';
import type { RouteOptions } from './routes.ts';

const protocol = 'trellis-stream';
/** Upgraded connections at once, per listener. */
const upgradesMax = 128;

/** Returns a function that ends all upgraded connections. */
export function serveUpgrades(server: Server, options: RouteOptions): () => void {
  const open = new Set<Duplex>();
  server.on('upgrade', (request: IncomingMessage, connection: Duplex, head: Buffer) => {
    connection.on('error', (error) =>
      options.context.log.debug('api.upgrade-lost', { reason: error.message }),
    );
    if (open.size >= upgradesMax) {
      refuse(connection, new ClusterError('BUSY', { max: upgradesMax, what: 'two-way calls' }));
      return;
    }
    open.add(connection);
    connection.once('close', () => open.delete(connection));
    if (head.length > 0) connection.unshift(head);
    void serve(request, connection, options);
  });
  return () => {
    for (const connection of open) connection.destroy();
  };
}

/** Never rejects. */
async function serve(
  request: IncomingMessage,
  connection: Duplex,
  options: RouteOptions,
): Promise<void> {
  const lines = new LineWriter(connection, () =>
    connection.write(
      `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n`,
    ),
  );
  const gone = new AbortController();
  connection.once('close', () =>
    gone.abort(
      new ClusterError('TIMED_OUT', { what: 'the call', seconds: 0, todo: 'the caller went away' }),
    ),
  );
  try {
    const { call, caller } = parseRequest(request, options);
    const data = await options.context.bus.run(call, caller, {
      signal: gone.signal,
      // An operation that has read enough must still be able to answer.
      io: lines.io(readJsonLines(connection.iterator({ destroyOnReturn: false }))),
      progress: (text) => lines.progress(text),
    });
    await lines.write({ type: 'result', data: data ?? null });
  } catch (error) {
    if (!lines.isBegun) {
      refuse(connection, asClusterError(error));
      return;
    }
    await lines.write({ type: 'error', error: toWireError(error) });
  }
  lines.end();
}

function parseRequest(
  request: IncomingMessage,
  options: RouteOptions,
): { call: Call; caller: Caller } {
  const path = pathOf(request.url);
  const address = request.socket.remoteAddress ?? 'socket';
  const caller = callerOf(options, request, request.method ?? 'GET', path, address);
  const [, group, command] = /^\/api\/v1\/([\w-]{1,40})\/([\w-]{1,40})$/.exec(path) ?? [];
  if (
    group === undefined ||
    command === undefined ||
    request.headers.upgrade?.toLowerCase() !== protocol
  ) {
    throw new ClusterError('NOT_FOUND', {
      kind: 'two-way call',
      name: path.slice(0, 100),
      list: 'GET /openapi.json',
    });
  }
  if (options.context.bus.find(group, command)?.isStream !== true) {
    throw new ClusterError('INVALID', { reason: `${group} ${command} is no two-way call` });
  }
  return {
    call: { group, command, params: parseParams(request.headers['trellis-params']) },
    caller,
  };
}

function parseParams(header: string | string[] | undefined): unknown {
  if (typeof header !== 'string') return {};
  try {
    return JSON.parse(Buffer.from(header, 'base64url').toString('utf8')) as unknown;
  } catch (error) {
    throw new ClusterError('INVALID', { reason: 'trellis-params is no base64url of JSON' }, error);
  }
}

function refuse(connection: Duplex, error: ClusterError): void {
  const body = JSON.stringify({ error: toWireError(error) });
  const headers = Object.entries({
    ...securityHeaders,
    'content-type': 'application/json; charset=utf-8',
    'content-length': String(Buffer.byteLength(body)),
    connection: 'close',
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  connection.end(
    `HTTP/1.1 ${errorTable[error.code].http} Refused\r\n${headers.join('')}\r\n${body}`,
  );
}
