/** Newline-delimited JSON in both directions, bounded and with back-pressure (shapes: operations/wire.ts). */
import type { Writable } from 'node:stream';
import { ClusterError } from '../errors.ts';
import type { StreamIo } from '../operations/operation.ts';
import type { ServerLine } from '../operations/wire.ts';
import { wireLineBytesMax } from '../operations/wire.ts';

/** Progress lines that a slow reader has not taken are dropped beyond this many bytes; data waits instead. */
const progressBufferedBytesMax = 1 << 20;

export class LineWriter {
  readonly #out: Writable;
  /** Called once, before the first byte. */
  readonly #begin: () => void;
  #isBegun = false;

  constructor(out: Writable, begin: () => void) {
    this.#out = out;
    this.#begin = begin;
  }

  get isBegun(): boolean {
    return this.#isBegun;
  }

  begin(): void {
    if (this.#isBegun) return;
    this.#isBegun = true;
    this.#begin();
  }

  /** Resolves when there is room for more; at once when the reader is gone. */
  async write(line: ServerLine): Promise<void> {
    if (this.#out.destroyed || this.#out.writableEnded) return;
    this.begin();
    if (this.#out.write(`${JSON.stringify(line)}\n`)) return;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        this.#out.off('drain', done).off('close', done);
        resolve();
      };
      this.#out.on('drain', done).on('close', done);
    });
  }

  progress(text: string): void {
    if (this.#out.writableLength < progressBufferedBytesMax)
      void this.write({ type: 'progress', text });
  }

  end(): void {
    this.begin();
    this.#out.end();
  }

  io(input: AsyncIterable<unknown>): StreamIo {
    const begin = (): void => this.begin();
    return {
      send: (data) => this.write({ type: 'data', data }),
      get input() {
        // Whoever waits for input first must have told the client that it may send.
        begin();
        return input;
      },
    };
  }
}

/** Splits into JSON values. Fails with INVALID for a line that is no JSON or over the limit. */
export async function* readJsonLines(source: AsyncIterable<unknown>): AsyncGenerator<unknown> {
  let held: Buffer[] = [];
  let heldBytes = 0;
  for await (const piece of source) {
    let chunk = piece as Buffer;
    for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10)) {
      const line = Buffer.concat([...held, chunk.subarray(0, end)]).toString('utf8');
      held = [];
      heldBytes = 0;
      chunk = chunk.subarray(end + 1);
      if (line.trim() !== '') yield parseLine(line);
    }
    held.push(chunk);
    heldBytes += chunk.length;
    if (heldBytes > wireLineBytesMax)
      throw new ClusterError('INVALID', { reason: `a line is over ${wireLineBytesMax} bytes` });
  }
}

/** No input: of calls that are one request and one stream of answers. */
export const noInput: AsyncIterable<unknown> = {
  [Symbol.asyncIterator]: () => ({ next: () => Promise.resolve({ done: true, value: undefined }) }),
};

function parseLine(line: string): unknown {
  try {
    return JSON.parse(line) as unknown;
  } catch (error) {
    throw new ClusterError('INVALID', { reason: 'a line is no JSON' }, error);
  }
}
