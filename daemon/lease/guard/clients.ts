/**
 * Who is connected to the guard's socket: commands in, replies, notices and status out.
 *
 * Status goes to everybody after a change, at most every `statusMs` and never for more than a twentieth of the time, and
 * every second while anything is held.
 *
 * A lease that was taken by command belongs to the connection that asked, and ends with it.
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
  /** Null: the guard itself asked. */
  readonly connection: Connection | null;
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
    if (command.kind === 'acquire' && reply.isOk) connection?.acquired.add(command.lease.name);
    connection?.send({ kind: 'reply', id: waiting.id, reply });
  }

  /** The id of a command of the guard's own; nobody is told the answer. */
  ask(command: GuardCommand): number {
    this.#lastId += 1;
    this.#waiting.set(this.#lastId, { connection: null, id: this.#lastId, command });
    return this.#lastId;
  }

  /** Somebody else than whoever sent command `id` waits for this lease. */
  isAskedFor(name: LeaseName, id: number): boolean {
    for (const [other, { command }] of this.#waiting)
      if (other !== id && command.kind === 'acquire' && command.lease.name === name) return true;
    return false;
  }

  /** Whoever took this lease has it no more: its end is not the lease's. */
  disown(name: LeaseName): void {
    for (const connection of this.#socket.connections()) connection.acquired.delete(name);
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
    // Who is behind gets the next one: each says everything.
    const greeted = this.#greeted().filter(({ isBehind }) => !isBehind);
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
    // A tool that lost its lease and then gives it back must not give back what another has taken since.
    if (command.kind === 'release' && !this.#mayRelease(connection, command.name)) {
      const details = { name: command.name, host: '', reason: 'it is not of this connection' };
      connection.send({
        kind: 'reply',
        id,
        reply: { isOk: false, code: 'LEASE_NOT_HELD', details },
      });
      return;
    }
    this.#lastId += 1;
    this.#waiting.set(this.#lastId, { connection, id, command });
    this.#events.onCommand(this.#lastId, command);
  }

  /** The daemon speaks for people and may release anything. */
  #mayRelease(connection: Connection, name: LeaseName): boolean {
    if (connection.isDaemon || connection.acquired.has(name)) return true;
    return this.#askedBy(connection).includes(name);
  }

  #askedBy(connection: Connection): LeaseName[] {
    return [...this.#waiting.values()].flatMap((waiting) =>
      waiting.connection === connection && waiting.command.kind === 'acquire'
        ? [waiting.command.lease.name]
        : [],
    );
  }

  #onClose(connection: Connection): void {
    const names = new Set([...connection.acquired, ...this.#askedBy(connection)]);
    for (const [id, waiting] of this.#waiting) {
      if (waiting.connection === connection) this.#waiting.delete(id);
    }
    if (names.size > 0) this.#events.onAbandoned([...names]);
    const isLast = !this.#socket.connections().some(({ isDaemon }) => isDaemon);
    if (connection.isDaemon && isLast) this.#events.onDaemon(false);
  }
}
