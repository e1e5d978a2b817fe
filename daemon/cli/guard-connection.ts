/** One connection to this host's guard: JSON lines on its unix socket. See `lease/guard-api.ts`. */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { ClusterError, reasonOf } from '../errors.ts';
import type { FromGuard, ToGuard } from '../lease/guard-api.ts';

/** A status of thousands of leases fits. */
const lineBytesMax = 8 << 20;

export class GuardConnection {
  /** Resolves when the guard has closed its side, for whatever reason. */
  readonly closed: Promise<void>;
  readonly #socket: Socket;
  #held = '';
  #handle: (message: FromGuard) => void = () => {};

  private constructor(socket: Socket) {
    this.#socket = socket;
    this.closed = new Promise((resolve) => {
      socket.once('close', () => resolve());
    });
    socket.setEncoding('utf8');
    socket.on('data', (text) => this.#take(String(text)));
    // `close` follows and is what everybody waits for.
    socket.on('error', () => socket.destroy());
  }

  /** Fails with GUARD_UNREACHABLE. */
  static open(path: string): Promise<GuardConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ path });
      socket.once('connect', () => resolve(new GuardConnection(socket)));
      socket.once('error', (error) => reject(unreachable(error)));
    });
  }

  onMessage(handle: (message: FromGuard) => void): void {
    this.#handle = handle;
  }

  send(message: ToGuard): void {
    if (this.#socket.writable) this.#socket.write(`${JSON.stringify(message)}\n`);
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #take(text: string): void {
    this.#held += text;
    for (let end = this.#held.indexOf('\n'); end >= 0; end = this.#held.indexOf('\n')) {
      const line = this.#held.slice(0, end);
      this.#held = this.#held.slice(end + 1);
      if (line === '') continue;
      const message = parse(line);
      if (message === null) return void this.#socket.destroy();
      this.#handle(message);
    }
    if (this.#held.length > lineBytesMax) this.#socket.destroy();
  }
}

/** Null for what is no JSON: that is no guard of ours, and the connection is worth nothing. */
function parse(line: string): FromGuard | null {
  try {
    return JSON.parse(line) as FromGuard;
  } catch {
    // Reported as a lost connection.
    return null;
  }
}

function unreachable(error: NodeJS.ErrnoException): ClusterError {
  const reason =
    error.code === 'EACCES' || error.code === 'EPERM'
      ? 'permission denied, run it as root'
      : error.code === 'ENOENT' || error.code === 'ECONNREFUSED'
        ? 'it is not running'
        : reasonOf(error);
  return new ClusterError('GUARD_UNREACHABLE', { host: 'here', reason }, error);
}
