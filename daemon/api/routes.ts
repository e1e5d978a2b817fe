/**
 * Every route of the API, the same on both listeners. On the unix socket the file mode has decided already; over HTTPS
 * nothing but what a stranger needs to join or log in is served without a token, and the token is checked before the
 * body is read.
 */
import { createReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import { asClusterError, ClusterError, errorTable } from '../errors.ts';
import type { EditSession } from '../node-api.ts';
import type { Caller } from '../operations/operation.ts';
import { toWireError } from '../operations/wire-error.ts';
import { introduceBodyBytesMax, introducePath } from '../trust/introduce.ts';
import { joinBodyBytesMax } from '../trust/join-wire.ts';
import type { ApiContext } from './context.ts';
import type { EventFollowers } from './events.ts';
import { LineWriter, noInput } from './lines.ts';
import { metricsContentType, renderMetrics } from './metrics.ts';

/** Bodies of members and operators: an apply with large files is cut into blobs long before. */
export const bodyBytesMax = 8 << 20;
/** Bundles being sent at once. */
const bundlesMax = 32;

export const securityHeaders = {
  'cache-control': 'no-store',
  'content-security-policy': "default-src 'none'; frame-ancestors 'none'",
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
} as const;

export interface RouteOptions {
  readonly context: ApiContext;
  readonly via: 'socket' | 'https';
  readonly followers: EventFollowers;
}

interface OperationRoute {
  Params: { group: string; command: string };
}

const strangersMay = new Set([
  'GET /healthz',
  'GET /openapi.json',
  'GET /join',
  'POST /api/v1/join',
  'POST /api/v1/join/check',
  `POST ${introducePath}`,
]);

export function addRoutes(app: FastifyInstance, options: RouteOptions): void {
  addParser(app);
  addErrors(app, options);
  app.addHook('onRequest', async (request, reply) => {
    reply.headers(securityHeaders);
    // Throws LOGIN_REQUIRED, before the body is read.
    callerOf(options, request.raw, request.method, pathOf(request.url), request.ip);
  });
  addPublicRoutes(app, options);
  addBundle(app, options);
  app.get('/metrics', async (_request, reply) =>
    reply.type(metricsContentType).send(renderMetrics(options.context.metrics())),
  );
  app.get('/api/v1/events', (request, reply) => {
    const node = options.context.node();
    if (node === null) throw new ClusterError('NOT_INITIALISED');
    options.followers.follow(node, reply.raw, securityHeaders);
    reply.hijack();
    void request;
  });
  app.post<OperationRoute>(
    '/api/v1/:group/:command',
    { bodyLimit: bodyBytesMax },
    (request, reply) => runOperation(options, request, reply),
  );
  app.post('/api/v1/operator/login', { bodyLimit: joinBodyBytesMax }, (request, reply) =>
    runOperation(options, request, reply, { group: 'operator', command: 'login' }),
  );
}

/**
 * Who asks. Fails with LOGIN_REQUIRED over HTTPS without a good token, except where strangers may; with a bad one always.
 * On the socket `trellis-operator` chooses between several that are logged in.
 */
export function callerOf(
  { context, via }: RouteOptions,
  request: { headers: Record<string, string | string[] | undefined> },
  method: string,
  path: string,
  address: string,
): Caller {
  if (via === 'socket') {
    const operator = request.headers['trellis-operator'];
    return {
      via,
      session: context.socketSession(typeof operator === 'string' ? operator : undefined),
    };
  }
  const session = bearerSession(context, request.headers['authorization']);
  if (session === null && !isForStrangers(method, path)) {
    throw new ClusterError('LOGIN_REQUIRED', { action: `${method} ${path.slice(0, 100)}` });
  }
  return { via, session, address };
}

function bearerSession(
  context: ApiContext,
  header: string | string[] | undefined,
): EditSession | null {
  const token =
    typeof header === 'string' ? /^Bearer ([\w-]{20,200})$/i.exec(header)?.[1] : undefined;
  if (token === undefined) return null;
  const session = context.tokens.find(token);
  return session === null ? null : context.session(session.id);
}

function isForStrangers(method: string, path: string): boolean {
  const asked = `${method === 'HEAD' ? 'GET' : method} ${path}`;
  return (
    strangersMay.has(asked) ||
    asked === 'POST /api/v1/operator/login' ||
    asked.startsWith('GET /bundle/')
  );
}

/** Without the query; exactly as the router will see it, or it matches no exception. */
export function pathOf(url: string | undefined): string {
  return (url ?? '').split('?', 1)[0] ?? '';
}

function addParser(app: FastifyInstance): void {
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('application/json', { parseAs: 'string' }, (_request, body, done) => {
    try {
      done(null, body === '' ? {} : (JSON.parse(String(body)) as unknown));
    } catch (error) {
      done(new ClusterError('INVALID', { reason: 'the body is no JSON' }, error), undefined);
    }
  });
}

function addErrors(app: FastifyInstance, { context }: RouteOptions): void {
  app.setNotFoundHandler((request) => {
    const name = `${request.method} ${pathOf(request.url)}`.slice(0, 200);
    throw new ClusterError('NOT_FOUND', { kind: 'route', name, list: 'GET /openapi.json' });
  });
  app.setErrorHandler(async (error, _request, reply) => {
    const fault = httpFault(error);
    if (fault.code === 'INTERNAL') context.log.error('api.fault', { error });
    const seconds = fault.details['seconds'];
    if (fault.code === 'RATE_LIMITED' || fault.code === 'LOGIN_THROTTLED')
      reply.header('retry-after', String(Number(seconds)));
    if (errorTable[fault.code].http === 401) reply.header('www-authenticate', 'Bearer');
    return reply.code(errorTable[fault.code].http).send({ error: toWireError(fault) });
  });
}

/** What fastify itself refuses has a status; only its own faults are ours. */
function httpFault(error: unknown): ClusterError {
  if (error instanceof ClusterError) return error;
  const status = error instanceof Error && 'statusCode' in error ? Number(error.statusCode) : 500;
  if (status === 413)
    return new ClusterError('EDIT_TOO_LARGE', { bytes: 'more', max: bodyBytesMax }, error);
  if (status >= 400 && status < 500 && error instanceof Error) {
    return new ClusterError('INVALID', { reason: error.message.slice(0, 200) }, error);
  }
  return asClusterError(error);
}

function addPublicRoutes(app: FastifyInstance, { context }: RouteOptions): void {
  let document: unknown = null;
  app.get('/healthz', async (_request, reply) => {
    const isReady = context.isReady();
    return reply.code(isReady ? 200 : 503).send({ status: isReady ? 'ok' : 'starting' });
  });
  app.get('/openapi.json', async () => {
    // Loaded and made once, when somebody asks: start-up time is a budget.
    document ??= (await import('./openapi.ts')).openApiDocument(
      context.bus.operations,
      context.version,
    );
    return document;
  });
  app.get('/join', async (_request, reply) => {
    const script = context.joinScript();
    if (script === null) throw new ClusterError('NOT_INITIALISED');
    return reply.type('text/x-shellscript; charset=utf-8').send(script);
  });
  const admission = (): NonNullable<ReturnType<ApiContext['admission']>> => {
    const found = context.admission();
    if (found === null) throw new ClusterError('NOT_INITIALISED');
    return found;
  };
  const limit = { bodyLimit: joinBodyBytesMax };
  app.post('/api/v1/join', limit, async (request) =>
    admission().join(request.body, addressOf(request)),
  );
  app.post(introducePath, { bodyLimit: introduceBodyBytesMax }, async (request) =>
    admission().introduce(request.body, addressOf(request)),
  );
  app.post('/api/v1/join/check', limit, async (request) =>
    admission().check(request.body, addressOf(request)),
  );
}

function addressOf(request: FastifyRequest): string {
  // Undefined on the unix socket, whatever its type says.
  return (request.ip as string | undefined) ?? 'socket';
}

function addBundle(app: FastifyInstance, { context }: RouteOptions): void {
  let sending = 0;
  app.get<{ Params: { '*': string } }>('/bundle/*', async (request, reply) => {
    const path = request.params['*'];
    const isPlain = path.split('/').every((part) => /^[\w.+-]+$/.test(part) && !/^\.+$/.test(part));
    const file = isPlain ? await context.bundleFile(path) : null;
    if (file === null)
      throw new ClusterError('NOT_FOUND', {
        kind: 'bundle file',
        name: path.slice(0, 100),
        list: 'GET /join',
      });
    if (sending >= bundlesMax)
      throw new ClusterError('BUSY', { max: bundlesMax, what: 'downloads' });
    sending++;
    reply.raw.once('close', () => sending--);
    return sendFile(await open(file), request.headers.range, reply);
  });
}

/** Resumable: `Range: bytes=N-` is honoured. The handle is closed by the stream. */
async function sendFile(
  handle: FileHandle,
  range: string | undefined,
  reply: FastifyReply,
): Promise<FastifyReply> {
  const { size } = await handle.stat();
  const start = Number(/^bytes=(\d{1,15})-$/.exec(range ?? '')?.[1] ?? 0);
  reply.headers({ 'accept-ranges': 'bytes', 'content-type': 'application/octet-stream' });
  if (start > 0 && start >= size) {
    await handle.close();
    return reply.code(416).header('content-range', `bytes */${size}`).send('');
  }
  if (start > 0) reply.code(206).header('content-range', `bytes ${start}-${size - 1}/${size}`);
  reply.header('content-length', size - start);
  return reply.send(createReadStream('', { fd: handle, start }));
}

async function runOperation(
  options: RouteOptions,
  request: FastifyRequest,
  reply: FastifyReply,
  name = request.params as OperationRoute['Params'],
): Promise<unknown> {
  const { bus } = options.context;
  const caller = callerOf(options, request.raw, request.method, pathOf(request.url), request.ip);
  const call = { ...name, params: request.body ?? {} };
  const operation = bus.find(name.group, name.command);
  const gone = goneSignal(reply.raw);
  const isLines =
    operation?.isStream === true || (request.headers.accept ?? '').includes('application/x-ndjson');
  if (!isLines || operation === null)
    return (await bus.run(call, caller, { signal: gone })) ?? null;
  reply.hijack();
  const lines = new LineWriter(reply.raw, () =>
    reply.raw.writeHead(200, { ...securityHeaders, 'content-type': 'application/x-ndjson' }),
  );
  try {
    const control = {
      signal: gone,
      io: lines.io(noInput),
      progress: (text: string) => lines.progress(text),
    };
    const data = await bus.run(call, caller, control);
    await lines.write({ type: 'result', data: data ?? null });
  } catch (error) {
    await lines.write({ type: 'error', error: toWireError(error) });
  }
  lines.end();
  return reply;
}

/** Aborts when the client is gone before we have answered. */
function goneSignal(response: ServerResponse): AbortSignal {
  const gone = new AbortController();
  response.once('close', () => {
    if (!response.writableFinished)
      gone.abort(
        new ClusterError('TIMED_OUT', {
          what: 'the call',
          seconds: 0,
          todo: 'the caller went away',
        }),
      );
  });
  return gone.signal;
}
