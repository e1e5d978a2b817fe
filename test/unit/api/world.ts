/** A real API over a unix socket and HTTPS on loopback, with operations made for the test behind it. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { createApi } from '../../../daemon/api/create-api.ts';
import type { Api, ApiLimits } from '../../../daemon/api/create-api.ts';
import { TokenTable } from '../../../daemon/api/tokens.ts';
import { systemClock } from '../../../daemon/clock.ts';
import { silentLog } from '../../../daemon/logger.ts';
import type { NodeApi } from '../../../daemon/node-api.ts';
import { Bus } from '../../../daemon/operations/bus.ts';
import type { AuditEntry } from '../../../daemon/operations/bus.ts';
import { clusterOperations } from '../../../daemon/operations/cluster.ts';
import type { ClusterAccess, Lifecycle } from '../../../daemon/operations/lifecycle.ts';
import type { Operation } from '../../../daemon/operations/operation.ts';
import { operatorOperations } from '../../../daemon/operations/operator.ts';
import { issueCertificate } from '../../../daemon/trust/certificates.ts';
import type { Certificate } from '../../../daemon/trust/certificates.ts';
import { Logins } from '../../../daemon/trust/login.ts';
import type { Blobs } from '../../../plugins/api.ts';
import type { TestCluster } from '../trust/cluster.ts';

export interface World {
  readonly dir: string;
  readonly api: Api;
  readonly bus: Bus;
  readonly socket: string;
  readonly port: number;
  readonly logins: Logins;
  readonly audited: AuditEntry[];
  readonly events: {
    host: string;
    seq: number;
    atWallMs: number;
    kind: string;
    severity: 'info';
    text: string;
  }[];
  changed(): void;
  stop(): Promise<void>;
}

export function certificateFor(cluster: TestCluster, hostName: string): Promise<Certificate> {
  const clusterName = cluster.roster.authority()?.name ?? '';
  return issueCertificate({
    authority: cluster.founding.certificates,
    dnsNames: [`${hostName}.trellis.internal`, `${clusterName}.trellis.internal`],
    addresses: ['127.0.0.1', '::1'],
    nowWallMs: Date.now(),
  });
}

export async function startWorld(
  cluster: TestCluster,
  options: {
    operations?: readonly Operation[];
    isMember?: boolean;
    certificate?: Certificate;
    limits?: Partial<ApiLimits>;
  } = {},
): Promise<World> {
  const dir = mkdtempSync(join(tmpdir(), 'trellis-api-'));
  writeFileSync(join(dir, 'bundle.tar'), 'x'.repeat(100_000));
  const { clusterId } = cluster.founding;
  const logins = new Logins({
    runDir: join(dir, 'run'),
    clusterId,
    host: cluster.host.hostId,
    roster: cluster.roster,
    wallMs: Date.now,
    log: silentLog,
  });
  const events: World['events'] = [];
  const handles = new Set<() => void>();
  const node = {
    clusterId,
    clusterName: 'shop',
    env: 'prod',
    self: { node: cluster.founding.clusterId, host: cluster.host.hostId },
    hosts: () => [],
    members: () => [],
    fact: () => null,
    events: () => events,
    onChange: (handle: () => void) => {
      handles.add(handle);
      return () => handles.delete(handle);
    },
  } as unknown as NodeApi;
  const isMember = options.isMember ?? true;
  const access: ClusterAccess = {
    node,
    roster: cluster.roster,
    sessions: logins.sessions,
    caPem: cluster.founding.caPem,
    apiPeers: () => ['127.0.0.1:8443'],
    login: (request) => logins.login(request),
    logout: async (operator) => logins.logout(operator),
  };
  const lifecycle: Lifecycle = {
    cluster: () => (isMember ? access : null),
    host: { version: '1.2.3', stateDir: dir, socket: join(dir, 'api.sock') },
    init: async (request) =>
      ({
        ...request,
        clusterId,
        hostId: cluster.host.hostId,
        hostName: 'h1',
        passphrase: 'p',
        recovery: 'r',
      }) as never,
    join: async () => Promise.reject(new Error('not in this test')),
    leave: async () => ({ clusterId, name: 'shop', toldPeers: 1 }),
  };
  const tokens = new TokenTable(Date.now);
  const audited: AuditEntry[] = [];
  const bus = new Bus({
    operations: [
      ...clusterOperations({
        lifecycle,
        renderInvitation: ({ peers, clusterName, code }) =>
          `join ${clusterName} ${peers.join(',')} ${code}`,
      }),
      ...operatorOperations({ lifecycle, clock: systemClock, tokens }),
      ...testOperations,
      ...(options.operations ?? []),
    ],
    host: {
      node: () => (isMember ? node : null),
      runtime: () => null,
      blobs: () => ({}) as Blobs,
      remote: () => null,
    },
    mayAct: (session, needed) => session.operator === 'ada' || needed === 'operator',
    audit: (entry) => audited.push(entry),
    clock: systemClock,
    log: silentLog,
  });
  const admission = cluster.admission();
  const api = createApi(
    {
      bus,
      tokens,
      version: '1.2.3',
      clock: systemClock,
      log: silentLog,
      node: () => (isMember ? node : null),
      socketSession: (operator) => logins.sessions.current(operator),
      session: (id) => logins.sessions.get(id),
      admission: () => admission,
      joinScript: () => '#!/bin/sh\necho joining\n',
      bundleFile: async (path) => (path === 'trellis.tar' ? join(dir, 'bundle.tar') : null),
      metrics: () => [
        {
          name: 'trellis_members',
          help: 'members\nby state',
          type: 'gauge',
          samples: [{ labels: { state: 'a"live' }, value: 3 }],
        },
      ],
      isReady: () => true,
    },
    options.limits,
  );
  const socket = join(dir, 'api.sock');
  await api.openSocket(socket);
  const port = await api.openHttps({
    address: '127.0.0.1',
    port: 0,
    certificate: options.certificate ?? (await certificateFor(cluster, 'h1')),
  });
  return {
    dir,
    api,
    bus,
    socket,
    port,
    logins,
    audited,
    events,
    changed: () => handles.forEach((handle) => handle()),
    stop: async () => {
      await api.close();
      rmSync(dir, { recursive: true, force: true });
    },
  };
}

const nothing = z.strictObject({});

const testOperations: readonly Operation[] = [
  {
    group: 'test',
    command: 'count',
    summary: 'sends numbers',
    access: 'viewer',
    isMutation: false,
    isStream: true,
    params: z.strictObject({ to: z.int().max(1_000_000) }),
    run: async (context, params) => {
      const { io, signal } = context;
      context.progress('counting');
      for (let i = 0; i < (params as { to: number }).to && !signal.aborted; i++)
        await io?.send({ i, pad: 'x'.repeat(1_000) });
      return { done: true };
    },
  },
  {
    group: 'test',
    command: 'echo',
    summary: 'sends back what comes',
    access: 'operator',
    isMutation: true,
    isStream: true,
    params: nothing,
    run: async ({ io }) => {
      let lines = 0;
      for await (const line of io!.input) {
        lines++;
        await io!.send(line);
        if ((line as { type: string }).type === 'end') break;
      }
      return { lines };
    },
  },
  {
    group: 'test',
    command: 'hang',
    summary: 'never ends',
    access: 'viewer',
    isMutation: false,
    timeLimitMs: 50,
    params: nothing,
    run: () => new Promise(() => {}),
  },
  {
    group: 'test',
    command: 'bug',
    summary: 'throws',
    access: 'viewer',
    isMutation: false,
    params: nothing,
    run: async () => {
      throw new TypeError('x is not a function');
    },
  },
];

export interface Answer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  json<T = Record<string, unknown>>(): T;
}

export interface Ask {
  readonly path: string;
  readonly method?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export function overSocket(world: World, ask: Ask): Promise<Answer> {
  return send(httpRequest, { socketPath: world.socket }, ask);
}

export function overHttps(world: World, caPem: string, ask: Ask): Promise<Answer> {
  const tls = {
    host: '127.0.0.1',
    port: world.port,
    ca: caPem,
    servername: 'shop.trellis.internal',
    agent: false,
  };
  return send(httpsRequest as typeof httpRequest, tls, ask);
}

function send(
  request: typeof httpRequest,
  to: object,
  { path, method = 'POST', body, headers }: Ask,
): Promise<Answer> {
  const text = typeof body === 'string' ? body : JSON.stringify(body ?? {});
  const type = method === 'POST' ? { 'content-type': 'application/json' } : {};
  return new Promise((resolve, reject) => {
    const outgoing = request(
      { ...to, path, method, headers: { ...type, ...headers } },
      (response) => {
        const chunks: Buffer[] = [];
        response.on('data', (chunk: Buffer) => chunks.push(chunk));
        response.on('error', reject);
        response.on('end', () => {
          const answer = Buffer.concat(chunks).toString();
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            text: answer,
            json: <T>() => JSON.parse(answer) as T,
          });
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(method === 'POST' ? text : undefined);
  });
}
