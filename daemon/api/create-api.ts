/**
 * The HTTP API on its two listeners: the unix socket, from the start of the daemon on, and HTTPS, while the host is a member.
 *
 * Limits for strangers: connections in all and per address, time for a handshake, for headers and for a whole request, size of
 * bodies. A new certificate is taken up without closing a connection.
 */
import { createServer } from 'node:http';
import type { RequestListener, Server } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { Server as HttpsServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { fastify } from 'fastify';
import type { FastifyInstance } from 'fastify';
import { ClusterError, reasonOf } from '../errors.ts';
import type { Certificate } from '../trust/certificates.ts';
import { isCode } from '../trust/secret-file.ts';
import type { ApiContext } from './context.ts';
import { EventFollowers } from './events.ts';
import { addRoutes } from './routes.ts';
import type { RouteOptions } from './routes.ts';
import { listenOnSocket } from './unix-socket.ts';
import { serveUpgrades } from './upgrade.ts';

export interface ApiLimits {
  readonly socketConnectionsMax: number;
  readonly httpsConnectionsMax: number;
  /** Browsers and proxies open several; a flood from one machine opens all it can. */
  readonly connectionsPerAddressMax: number;
  readonly handshakeMsMax: number;
  readonly headersMsMax: number;
  /** To receive a request; answers may take as long as their operation. */
  readonly requestMsMax: number;
  readonly keepAliveMs: number;
  readonly headerBytesMax: number;
}

const defaultLimits: ApiLimits = {
  socketConnectionsMax: 512,
  httpsConnectionsMax: 512,
  connectionsPerAddressMax: 64,
  handshakeMsMax: 10_000,
  headersMsMax: 10_000,
  requestMsMax: 60_000,
  keepAliveMs: 30_000,
  headerBytesMax: 64 << 10,
};

export interface Api {
  /** Fails with SOCKET_IN_USE. */
  openSocket(path: string): Promise<void>;
  /** Returns the port (for port 0). Fails with PORT_TAKEN. Loopback and wildcard addresses are fine. */
  openHttps(options: { address: string; port: number; certificate: Certificate }): Promise<number>;
  /** Takes effect for new connections. */
  setCertificate(certificate: Certificate): void;
  /** After `leave`. */
  closeHttps(): Promise<void>;
  /** Ends everything, streams included. */
  close(): Promise<void>;
  /** For metrics. */
  counters(): ApiCounters;
}

export interface ApiCounters {
  readonly socketConnections: number;
  readonly httpsConnections: number;
  /** Refused because there were too many, in all or from one address. */
  readonly connectionsRefused: number;
  readonly handshakesFailed: number;
  readonly eventFollowers: number;
}

interface Listener {
  readonly app: FastifyInstance;
  readonly server: Server;
  readonly connections: ReadonlySet<Socket>;
  close(): Promise<void>;
}

/** `changes`: other limits, for tests. */
export function createApi(context: ApiContext, changes: Partial<ApiLimits> = {}): Api {
  const limits = { ...defaultLimits, ...changes };
  const serverLimits = serverOptions(limits);
  const followers = new EventFollowers(context.clock);
  const counts = { refused: 0, handshakesFailed: 0 };
  let socket: Listener | null = null;
  let https: Listener | null = null;
  const closeHttps = async (): Promise<void> => {
    const closing = https;
    https = null;
    await closing?.close();
  };
  return {
    openSocket: async (path) => {
      const made = await makeListener({ context, via: 'socket', followers }, (handler) =>
        createServer(serverLimits, handler),
      );
      made.server.maxConnections = limits.socketConnectionsMax;
      await listenOnSocket(made.server, path).catch(async (error: unknown) => {
        await made.close();
        throw error;
      });
      socket = made;
    },
    openHttps: async ({ address, port, certificate }) => {
      const made = await makeListener({ context, via: 'https', followers }, (handler) =>
        createHttpsServer(
          { ...serverLimits, ...tlsOptions(certificate), handshakeTimeout: limits.handshakeMsMax },
          handler,
        ),
      );
      boundConnections(made.server, limits, counts);
      await listenOnPort(made, address, port);
      https = made;
      return (made.server.address() as AddressInfo).port;
    },
    setCertificate: (certificate) =>
      (https?.server as HttpsServer | undefined)?.setSecureContext(tlsOptions(certificate)),
    closeHttps: async () => {
      followers.closeAll();
      await closeHttps();
    },
    close: async () => {
      followers.closeAll();
      await Promise.all([closeHttps(), socket?.close()]);
      socket = null;
    },
    counters: () => ({
      socketConnections: socket?.connections.size ?? 0,
      httpsConnections: https?.connections.size ?? 0,
      connectionsRefused: counts.refused,
      handshakesFailed: counts.handshakesFailed,
      eventFollowers: followers.count,
    }),
  };
}

function serverOptions(limits: ApiLimits) {
  return {
    headersTimeout: limits.headersMsMax,
    requestTimeout: limits.requestMsMax,
    keepAliveTimeout: limits.keepAliveMs,
    maxHeaderSize: limits.headerBytesMax,
    connectionsCheckingInterval: Math.min(2_000, limits.headersMsMax),
  };
}

function tlsOptions({ certPem, keyPem }: Certificate): {
  cert: string;
  key: string;
  minVersion: 'TLSv1.2';
} {
  return { cert: certPem, key: keyPem, minVersion: 'TLSv1.2' };
}

async function makeListener(
  options: RouteOptions,
  makeServer: (handler: RequestListener) => Server,
): Promise<Listener> {
  const app = fastify({
    logger: false,
    serverFactory: makeServer,
    // Route parameters: group and command names, bundle paths.
    routerOptions: { maxParamLength: 300 },
    return503OnClosing: false,
  });
  addRoutes(app, options);
  await app.ready();
  const server = app.server as Server;
  const connections = new Set<Socket>();
  server.on('connection', (connection: Socket) => {
    connections.add(connection);
    connection.once('close', () => connections.delete(connection));
  });
  const endUpgrades = serveUpgrades(server, options);
  return {
    app,
    server,
    connections,
    close: async () => {
      endUpgrades();
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const connection of connections) connection.destroy();
      await closed;
      await app.close();
    },
  };
}

/** Before TLS: a connection over the limit costs us an accept and no more. */
function boundConnections(
  server: Server,
  limits: ApiLimits,
  counts: { refused: number; handshakesFailed: number },
): void {
  server.maxConnections = limits.httpsConnectionsMax;
  const perAddress = new Map<string, number>();
  server.on('drop', () => counts.refused++);
  server.on('tlsClientError', () => counts.handshakesFailed++);
  server.on('connection', (connection: Socket) => {
    const address = connection.remoteAddress ?? '';
    const count = (perAddress.get(address) ?? 0) + 1;
    perAddress.set(address, count);
    connection.once('close', () => {
      const left = (perAddress.get(address) ?? 1) - 1;
      if (left === 0) perAddress.delete(address);
      else perAddress.set(address, left);
    });
    if (count <= limits.connectionsPerAddressMax) return;
    counts.refused++;
    connection.destroy();
  });
}

async function listenOnPort(listener: Listener, address: string, port: number): Promise<void> {
  const { server } = listener;
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen({ host: address, port }, () => {
        server.off('error', reject);
        resolve();
      });
    });
  } catch (error) {
    await listener.close();
    const owner = isCode(error, 'EADDRINUSE') ? 'another process' : reasonOf(error);
    throw new ClusterError('PORT_TAKEN', { port, host: address, owner }, error);
  }
}
