// Inserts one row after the other with a number that only grows, over PostgreSQL's wire protocol, and connects again by
// itself when that breaks. Prints a line for each: `ok|failed <number> <sent at, wall ms> <took ms> <reason>`. A row whose
// answer was lost may be there or not; it is not tried again under its number. Plain JavaScript, because it runs in a host.
// Argument: JSON of { host, port, answerMs, everyMs, durationMaxMs }.
import { connect } from 'node:net';

const { host, port, answerMs, everyMs, durationMaxMs } = JSON.parse(process.argv[2]);
const user = 'postgres';
/** After a failure: a server that starts refuses at once. */
const retryMs = 25;
let isEnding = false;

/** One connection. `query` resolves when the server is ready for the next one; rejects for good with the first error. */
class Session {
  #buffer = Buffer.alloc(0);
  #waiting = null;
  #error = null;

  constructor() {
    this.socket = connect({ host, port, noDelay: true });
    this.socket.on('data', (chunk) => this.#take(chunk));
    this.socket.on('error', (error) => this.#fail(error.code ?? error.message));
    this.socket.on('close', () => this.#fail('closed'));
  }

  start() {
    const body = Buffer.from(`user\0${user}\0database\0postgres\0\0`);
    const head = Buffer.alloc(8);
    head.writeInt32BE(8 + body.length, 0);
    head.writeInt32BE(0x0003_0000, 4);
    return this.#ask(Buffer.concat([head, body]));
  }

  query(text) {
    const body = Buffer.from(`${text}\0`);
    const head = Buffer.alloc(5);
    head.write('Q', 0);
    head.writeInt32BE(4 + body.length, 1);
    return this.#ask(Buffer.concat([head, body]));
  }

  #ask(bytes) {
    return new Promise((resolve, reject) => {
      if (this.#error !== null) return reject(new Error(this.#error));
      const timer = setTimeout(() => this.#fail('timeout'), answerMs);
      this.#waiting = { resolve, reject, timer };
      this.socket.write(bytes);
    });
  }

  #take(chunk) {
    this.#buffer = Buffer.concat([this.#buffer, chunk]);
    while (this.#buffer.length >= 5) {
      const length = 1 + this.#buffer.readInt32BE(1);
      if (this.#buffer.length < length) return;
      const kind = String.fromCharCode(this.#buffer[0]);
      const body = this.#buffer.subarray(5, length);
      this.#buffer = this.#buffer.subarray(length);
      if (kind === 'E') return this.#fail(`E${/\0?C(\w{5})/.exec(body.toString())?.[1] ?? ''}`);
      if (kind === 'Z') this.#settle();
    }
  }

  #settle() {
    const waiting = this.#waiting;
    this.#waiting = null;
    clearTimeout(waiting?.timer);
    waiting?.resolve();
  }

  #fail(reason) {
    this.#error ??= reason;
    this.socket.destroy();
    const waiting = this.#waiting;
    this.#waiting = null;
    clearTimeout(waiting?.timer);
    waiting?.reject(new Error(this.#error));
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function run() {
  let session = null;
  const endMs = performance.now() + durationMaxMs;
  for (let number = 1; !isEnding && performance.now() < endMs; number++) {
    const atMs = Date.now();
    const start = performance.now();
    const say = (kind, reason) =>
      console.log(`${kind} ${number} ${atMs} ${(performance.now() - start).toFixed(1)} ${reason}`);
    try {
      if (session === null) {
        session = new Session();
        await session.start();
      }
      await session.query(`insert into written (number) values (${number})`);
      say('ok', '');
    } catch (error) {
      say('failed', error.message.replaceAll(/\s/g, '-'));
      session?.socket.destroy();
      session = null;
      await pause(retryMs);
    }
    const restMs = everyMs - (performance.now() - start);
    if (restMs > 0) await pause(restMs);
  }
  session?.socket.destroy();
  console.log(`end ${Date.now()}`);
}

process.on('SIGTERM', () => (isEnding = true));
await run();
