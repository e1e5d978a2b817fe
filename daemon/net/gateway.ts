/**
 * Does the default gateway answer? The only sign that tells a lone survivor of two hosts from one that was cut off:
 * asked in the background while it matters, so that the synchronous core reads a remembered answer.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import type { Log } from '../ports.ts';

const askEveryMs = 1_000;
const answerWithinSeconds = 1;

export class Gateway {
  readonly #log: Log;
  #isAnswering = false;
  #timer: NodeJS.Timeout | null = null;
  #isAsking = false;
  #hasPing = true;

  constructor(log: Log) {
    this.#log = log;
  }

  /** Newest answer; the first call starts asking, so it is false for about a second. */
  answers(): boolean {
    if (this.#timer === null) {
      this.#timer = setInterval(() => this.#ask(), askEveryMs);
      this.#timer.unref();
      this.#ask();
    }
    return this.#isAnswering;
  }

  stop(): void {
    if (this.#timer !== null) clearInterval(this.#timer);
    this.#timer = null;
  }

  #ask(): void {
    const address = defaultGateway();
    if (address === null || this.#isAsking) {
      if (address === null) this.#isAnswering = false;
      return;
    }
    this.#isAsking = true;
    void this.#look(address).then((isAnswering) => {
      this.#isAsking = false;
      this.#isAnswering = isAnswering;
    });
  }

  /** By ping, or where there is none by a connection: a refusal is an answer, too. */
  async #look(address: string): Promise<boolean> {
    if (this.#hasPing) {
      const code = await exitCode('ping', [
        '-n',
        '-c',
        '1',
        '-W',
        String(answerWithinSeconds),
        address,
      ]);
      if (code === 0 || code === noAnswer) return code === 0;
      // Not there, or not allowed to send: it cannot tell.
      this.#hasPing = false;
      this.#log.info('gateway.no-ping', { instead: 'connection' });
    }
    return isThere(address);
  }
}

/** What ping says when it could ask and nobody answered. */
const noAnswer = 1;

/** Null when there is no such program. */
function exitCode(program: string, args: readonly string[]): Promise<number | null> {
  return new Promise((resolve) => {
    const child = spawn(program, [...args], { stdio: 'ignore' });
    child.on('error', () => resolve(null));
    child.on('exit', (code) => resolve(code ?? 1));
  });
}

/** The discard port: hardly anybody serves it, nearly everybody refuses it. */
const discardPort = 9;

function isThere(address: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port: discardPort });
    const done = (isAnswering: boolean): void => {
      socket.destroy();
      resolve(isAnswering);
    };
    socket.setTimeout(answerWithinSeconds * 1_000, () => done(false));
    socket.on('connect', () => done(true));
    socket.on('error', (error: NodeJS.ErrnoException) => done(error.code === 'ECONNREFUSED'));
  });
}

/** IPv4 address of the default route with the lowest metric; null when there is none, or no table of this form. */
export function defaultGateway(
  read: () => string = () => readFileSync('/proc/net/route', 'utf8'),
): string | null {
  let best: { address: string; metric: number } | null = null;
  for (const line of tableLines(read)) {
    const [, destination, gateway = '', , , , metricText = '', mask] = line.split(/\s+/);
    const isDefault = destination === '00000000' && mask === '00000000';
    if (!isDefault || !/^[0-9A-F]{8}$/i.test(gateway) || gateway === '00000000') continue;
    const octets = gateway.match(/../g) ?? [];
    const address = octets
      .toReversed()
      .map((octet) => Number.parseInt(octet, 16))
      .join('.');
    const metric = Number(metricText);
    if (best === null || metric < best.metric) best = { address, metric };
  }
  return best?.address ?? null;
}

function tableLines(read: () => string): readonly string[] {
  try {
    return read().split('\n').slice(1);
  } catch {
    // Not Linux, or hidden: then there is no gateway that could tell, and a lone host takes over nothing.
    return [];
  }
}
