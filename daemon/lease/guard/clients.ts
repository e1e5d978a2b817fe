/**
 * Who is connected to the guard's socket: commands in, replies, notices and status out.
 *
 * Status goes to everybody after a change, at most every `statusMs` and never for more than a twentieth of the time, and
 * every second while anything is held.
 */
import type {
  FromGuard,
  GuardCommand,
  GuardDesired,
  GuardNotice,
  GuardReply,
  GuardStatus,
  ToGuard,
} from '../guard-api.ts';
import { guardApiVersion } from '../guard-api.ts';
import type { LeaseName } from '../model.ts';
import type { Log } from '../../ports.ts';
import { GuardSocket, type Connection } from './socket.ts';

const statusMs = 50;
/** Pauses between two statuses are at least so many times what making one takes. */
const statusShare = 20;
/** Commands that wait for an answer; further ones are refused. */
const commandsMax = 1_024;

export interface ClientEvents {
  onDesired(desired: GuardDesired): void;
  onCommand(id: number, command: GuardCommand): void;
  onTestGate(answer: (reply: GuardReply) => void): void;
  /** A daemon came or the last one went. */
  onDaemon(isConnected: boolean): void;
  /** Whoever took these leases is gone. */
  onAbandoned(names: readonly LeaseName[]): void;
  status(): GuardStatus;
  hello(): Extract<FromGuard, { kind: 'hello' }>;
}

interface Waiting {
  readonly connection: Connection;
  readonly id: number;
  readonly command: GuardCommand;
}

export class Clients {
  readonly #events: ClientEvents;
  readonly #socket: GuardSocket;
  readonly #waiting = new Map<number, Waiting>();
  #lastId = 0;
  #push: NodeJS.Timeout | null = null;
  #statusCostMs = 0;

  constructor(options: { readonly log: Log; readonly events: ClientEvents }) {
    this.#events = options.events;
    this.#socket = new GuardSocket({
      log: options.log,
      events: {
        onOpen: () => undefined,
        onLine: (connection, line) => this.#onLine(connection, line),
        onClose: (connection) => this.#onClose(connection),
      },
    });
  }

  listen(path: string): Promise<void> {
    return this.#socket.listen(path);
  }

  close(): void {
    if (this.#push !== null) clearTimeout(this.#push);
    this.#socket.close();
  }

  /** Of the command that was handed out under `id`. Null: nobody waits for it. */
  commandOf(id: number): GuardCommand | null {
    return this.#waiting.get(id)?.command ?? null;
  }

  reply(id: number, reply: GuardReply): void {
    const waiting = this.#waiting.get(id);
    if (waiting === undefined) return;
    this.#waiting.delete(id);
    const { connection, command } = waiting;
    if (command.kind === 'acquire' && !reply.isOk) connection.acquired.delete(command.lease.name);
    connection.send({ kind: 'reply', id: waiting.id, reply });
  }

  notice(notice: GuardNotice): void {
    const text = JSON.stringify({ kind: 'notice', notice } satisfies FromGuard);
    for (const connection of this.#greeted()) connection.sendText(text);
  }

  /** Something changed: everybody hears of it soon. */
  statusChanged(): void {
    if (this.#push !== null || this.#greeted().length === 0) return;
    const delayMs = Math.max(statusMs, this.#statusCostMs * statusShare);
    this.#push = setTimeout(() => this.pushStatus(), delayMs);
  }

  pushStatus(): void {
    if (this.#push !== null) clearTimeout(this.#push);
    this.#push = null;
    const greeted = this.#greeted();
    if (greeted.length === 0) return;
    const startMs = performance.now();
    const text = this.#statusText(null);
    this.#statusCostMs = performance.now() - startMs;
    for (const connection of greeted) connection.sendText(text);
  }

  #greeted(): Connection[] {
    return this.#socket.connections().filter(({ isGreeted }) => isGreeted);
  }

  #statusText(id: number | null): string {
    const status = this.#events.status();
    return JSON.stringify({ kind: 'status', id, status } satisfies FromGuard);
  }

  #onLine(connection: Connection, line: ToGuard): void {
    switch (line.kind) {
      case 'hello':
        connection.isGreeted = true;
        connection.send({ ...this.#events.hello(), v: guardApiVersion });
        connection.sendText(this.#statusText(null));
        return;
      case 'desired':
        if (!connection.isDaemon) {
          connection.isDaemon = true;
          this.#events.onDaemon(true);
        }
        this.#events.onDesired(line.desired);
        return;
      case 'status':
        connection.sendText(this.#statusText(line.id));
        return;
      case 'test-gate':
        this.#events.onTestGate((reply) => connection.send({ kind: 'reply', id: line.id, reply }));
        return;
      case 'command':
        this.#onCommand(connection, line.id, line.command);
    }
  }

  #onCommand(connection: Connection, id: number, command: GuardCommand): void {
    if (this.#waiting.size >= commandsMax) {
      const details = { max: commandsMax, what: 'commands of the guard' };
      connection.send({ kind: 'reply', id, reply: { isOk: false, code: 'BUSY', details } });
      return;
    }
    this.#lastId += 1;
    this.#waiting.set(this.#lastId, { connection, id, command });
    if (command.kind === 'acquire') connection.acquired.add(command.lease.name);
    if (command.kind === 'release') connection.acquired.delete(command.name);
    this.#events.onCommand(this.#lastId, command);
  }

  #onClose(connection: Connection): void {
    for (const [id, waiting] of this.#waiting) {
      if (waiting.connection === connection) this.#waiting.delete(id);
    }
    if (connection.acquired.size > 0) this.#events.onAbandoned([...connection.acquired]);
    const isLast = !this.#socket.connections().some(({ isDaemon }) => isDaemon);
    if (connection.isDaemon && isLast) this.#events.onDaemon(false);
  }
}
