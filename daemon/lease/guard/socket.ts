/**
 * The guard's socket: one JSON value per line (`guard-api.ts`). Only root may open it. Several may be connected: one daemon,
 * and tools that take a lease for as long as they run.
 */
import { chmodSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import type { FromGuard, ToGuard } from '../guard-api.ts';
import type { Log } from '../../ports.ts';
import { LineSplitter } from './lines.ts';

/** A wish of 4096 leases is 3 MB. */
const lineBytesMax = 8 << 20;
const connectionsMax = 64;
/** Beyond it the other end does not read: it is disconnected, and gets the whole state when it comes back. */
const unreadBytesMax = 32 << 20;

export interface SocketEvents {
  onOpen(connection: Connection): void;
  onLine(connection: Connection, line: ToGuard): void;
  onClose(connection: Connection): void;
}

export class Connection {
  readonly #socket: Socket;
  /** Sent `desired`: it is the daemon. */
  isDaemon = false;
  /** Said hello: gets status and notices. */
  isGreeted = false;
  /** Leases that it has, and that end with it. */
  readonly acquired = new Set<string>();

  constructor(socket: Socket) {
    this.#socket = socket;
  }

  send(line: FromGuard): void {
    this.sendText(JSON.stringify(line));
  }

  /** The same text goes to several. */
  sendText(text: string): void {
    if (this.#socket.destroyed) return;
    this.#socket.write(`${text}\n`);
    if (this.#socket.writableLength > unreadBytesMax) this.#socket.destroy();
  }

  /** After what was sent. */
  end(): void {
    this.#socket.end();
  }

  /** It has not read what was sent before: the next status would only wait behind it. */
  get isBehind(): boolean {
    return this.#socket.writableLength > 0;
  }
}

export class GuardSocket {
  readonly #server: Server;
  readonly #log: Log;
  readonly #events: SocketEvents;
  readonly #connections = new Set<Connection>();

  constructor(options: { readonly log: Log; readonly events: SocketEvents }) {
    this.#log = options.log;
    this.#events = options.events;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** The single-instance lock is held: a socket that is there is a dead guard's. */
  listen(path: string): Promise<void> {
    rmSync(path, { force: true });
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      // The mask closes the moment between making the socket and its mode.
      const mask = process.umask(0o177);
      this.#server.listen(path, () => {
        process.umask(mask);
        chmodSync(path, 0o600);
        this.#server.off('error', reject);
        resolve();
      });
    });
  }

  connections(): readonly Connection[] {
    return [...this.#connections];
  }

  close(): void {
    this.#server.close();
    for (const connection of this.#connections) connection.end();
  }

  #accept(socket: Socket): void {
    if (this.#connections.size >= connectionsMax) {
      this.#log.warn('guard.too-many-connections', { max: connectionsMax });
      socket.destroy();
      return;
    }
    const connection = new Connection(socket);
    const splitter = new LineSplitter(lineBytesMax);
    this.#connections.add(connection);
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      this.#connections.delete(connection);
      this.#events.onClose(connection);
    });
    socket.on('data', (chunk) => {
      const lines = splitter.push(chunk);
      if (lines === null || !lines.every((line) => this.#take(connection, line))) {
        this.#log.warn('guard.bad-line', {});
        socket.destroy();
      }
    });
    this.#events.onOpen(connection);
  }

  #take(connection: Connection, text: string): boolean {
    const line = parseLine(text);
    if (line !== null) this.#events.onLine(connection, line);
    return line !== null;
  }
}

const kinds = new Set(['hello', 'desired', 'command', 'status', 'test-gate']);

/** Only root writes here: the form is looked at, contents are the core's to judge. */
function parseLine(text: string): ToGuard | null {
  try {
    const value = JSON.parse(text) as unknown;
    if (typeof value !== 'object' || value === null || !('kind' in value)) return null;
    return kinds.has(String(value.kind)) ? (value as ToGuard) : null;
  } catch {
    // Not our protocol: the caller disconnects.
    return null;
  }
}
