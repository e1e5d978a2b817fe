/**
 * Does the default gateway answer? The only sign that tells a lone survivor of two hosts from one that was cut off:
 * asked in the background while it matters, so that the synchronous core reads a remembered answer.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import type { Log } from '../ports.ts';

const askEveryMs = 1_000;
const answerWithinSeconds = 1;

export class Gateway {
  readonly #log: Log;
  #isAnswering = false;
  #timer: NodeJS.Timeout | null = null;
  #isAsking = false;

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
    const child = spawn('ping', ['-n', '-c', '1', '-W', String(answerWithinSeconds), address], {
      stdio: 'ignore',
    });
    const done = (isAnswering: boolean): void => {
      this.#isAsking = false;
      this.#isAnswering = isAnswering;
    };
    child.on('error', (error) => {
      this.#log.warn('gateway.ping-failed', { error: error.message });
      done(false);
    });
    child.on('exit', (code) => done(code === 0));
  }
}

/** IPv4 address of the default route, null when there is none. */
export function defaultGateway(
  read: () => string = () => readFileSync('/proc/net/route', 'utf8'),
): string | null {
  for (const line of read().split('\n').slice(1)) {
    const [, destination, gateway] = line.split('\t');
    if (destination !== '00000000' || gateway === undefined || gateway === '00000000') continue;
    const octets = gateway.match(/../g) ?? [];
    return octets
      .toReversed()
      .map((octet) => Number.parseInt(octet, 16))
      .join('.');
  }
  return null;
}
