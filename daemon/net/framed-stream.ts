/**
 * Length-prefixed messages over one libp2p stream: an unsigned LEB128 length, then the bytes.
 *
 * Our own reader instead of the library's, because that one keeps consuming while nobody reads and kills the stream at
 * its buffer limit. Here a slow reader pauses the stream, so the sender waits, and memory stays at `bufferedBytesMax`
 * plus the stream's window.
 */
import type { Stream } from '@libp2p/interface';

/** Unread messages beyond this pause the stream. */
const bufferedBytesMax = 1 << 20;
const resumeBelowBytes = 256 << 10;
const lengthBytesMax = 5;

export class FramedStream {
  readonly #stream: Stream;
  readonly #frameBytesMax: number;
  readonly #ended = new AbortController();
  #chunks: Uint8Array[] = [];
  #chunkBytes = 0;
  #needed: number | null = null;

  #frames: Uint8Array[] = [];
  #frameBytes = 0;
  #handle: ((frame: Uint8Array) => void) | null = null;
  #waiting: PromiseWithResolvers<Uint8Array | null> | null = null;
  #isAtEnd = false;
  #error: Error | null = null;

  constructor(stream: Stream, frameBytesMax: number) {
    this.#stream = stream;
    this.#frameBytesMax = frameBytesMax;
    stream.addEventListener('message', (event) => this.#feed(event.data.subarray()));
    stream.addEventListener('end', () => this.#finish(null));
    stream.addEventListener('close', (event) => this.#close(event.error));
    // It may have ended while the library was still handing it over: those events are gone.
    if (stream.status !== 'open') this.#close(new Error(`the stream was ${stream.status}`));
    else if (stream.remoteWriteStatus === 'closed' && stream.readBufferLength === 0)
      this.#finish(null);
  }

  /** Aborted when the stream is gone in both directions. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** True when the other side broke the framing; the stream is aborted then. */
  get isMalformed(): boolean {
    return this.#error instanceof MalformedFrame;
  }

  /** From now on every message goes to `handle`, those already here at once. A throw there is a bug and crashes. */
  push(handle: (frame: Uint8Array) => void): void {
    this.#handle = handle;
    for (const frame of this.#frames.splice(0)) handle(frame);
    this.#frameBytes = 0;
    this.#resume();
  }

  /** Next message, null at the end; rejects when the stream was lost. One caller at a time. */
  async next(signal?: AbortSignal): Promise<Uint8Array | null> {
    const frame = this.#frames.shift();
    if (frame !== undefined) {
      this.#frameBytes -= frame.length;
      if (this.#frameBytes < resumeBelowBytes) this.#resume();
      return frame;
    }
    if (this.#error !== null) throw this.#error;
    if (this.#isAtEnd) return null;
    signal?.throwIfAborted();
    const waiting = Promise.withResolvers<Uint8Array | null>();
    this.#waiting = waiting;
    const onAbort = (): void => {
      this.#waiting = null;
      waiting.reject(signal?.reason as Error);
    };
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await waiting.promise;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /** Resolves when there is room for more. Rejects when the stream is gone or takes nothing for `stallMs`. */
  async send(frames: readonly Uint8Array[], stallMs: number): Promise<void> {
    if (this.#stream.send(encodeFrames(frames))) return;
    await this.#drained(stallMs);
  }

  /** No more from us; resolves when what was sent is on its way. */
  async close(signal: AbortSignal): Promise<void> {
    await this.#stream.close({ signal });
  }

  abort(reason: Error): void {
    this.#stream.abort(reason);
  }

  /**
   * The stream's own `onDrain` keeps its first promise for ever, so it waits only once. One drain event is also not
   * enough: it may have made room for a part of what is queued.
   */
  async #drained(stallMs: number): Promise<void> {
    const stream = this.#stream;
    let stalled: Error | null = null;
    let wake = Promise.withResolvers<void>();
    const onEvent = (): void => wake.resolve();
    const timer = setTimeout(() => {
      stalled = new Error(`nothing was taken for ${stallMs} ms`);
      wake.resolve();
    }, stallMs);
    for (const event of ['drain', 'idle', 'close'] as const)
      stream.addEventListener(event, onEvent);
    try {
      while (
        stream.status === 'open' &&
        (stream.writableNeedsDrain || stream.writeBufferLength > 0)
      ) {
        await wake.promise;
        if (stalled !== null) throw stalled;
        timer.refresh();
        wake = Promise.withResolvers<void>();
        // The stream goes on sending in a microtask after its drain event.
        await Promise.resolve();
      }
      if (stream.status !== 'open' && stream.status !== 'closing')
        throw new Error(`the stream is ${stream.status}`);
    } finally {
      clearTimeout(timer);
      for (const event of ['drain', 'idle', 'close'] as const)
        stream.removeEventListener(event, onEvent);
    }
  }

  #feed(bytes: Uint8Array): void {
    if (this.#error !== null) return;
    this.#chunks.push(bytes);
    this.#chunkBytes += bytes.length;
    for (;;) {
      if (this.#needed === null && !this.#readLength()) break;
      if (this.#needed === null || this.#chunkBytes < this.#needed) break;
      const frame = this.#take(this.#needed);
      this.#needed = null;
      this.#deliver(frame);
    }
  }

  /** False: the length is not all here yet, or it is wrong. */
  #readLength(): boolean {
    let length = 0;
    for (let i = 0; i < lengthBytesMax && i < this.#chunkBytes; i++) {
      const byte = this.#peek(i);
      length += (byte & 0x7f) * 2 ** (7 * i);
      if ((byte & 0x80) !== 0) continue;
      if (length > this.#frameBytesMax) break;
      this.#take(i + 1);
      this.#needed = length;
      return true;
    }
    if (this.#chunkBytes < lengthBytesMax && length <= this.#frameBytesMax) return false;
    const error = new MalformedFrame(`a message of more than ${this.#frameBytesMax} bytes`);
    this.#chunks = [];
    this.#chunkBytes = 0;
    this.#finish(error);
    this.#stream.abort(error);
    return false;
  }

  #peek(index: number): number {
    let left = index;
    for (const chunk of this.#chunks) {
      if (left < chunk.length) return chunk[left] ?? 0;
      left -= chunk.length;
    }
    return 0;
  }

  /** A copy: the receiver may keep it without keeping the packet it came in. */
  #take(count: number): Uint8Array {
    const out = new Uint8Array(count);
    let filled = 0;
    while (filled < count) {
      const chunk = this.#chunks[0] ?? new Uint8Array(0);
      const part = chunk.subarray(0, count - filled);
      out.set(part, filled);
      filled += part.length;
      if (part.length === chunk.length) this.#chunks.shift();
      else this.#chunks[0] = chunk.subarray(part.length);
    }
    this.#chunkBytes -= count;
    return out;
  }

  #deliver(frame: Uint8Array): void {
    if (this.#handle !== null) {
      this.#handle(frame);
    } else if (this.#waiting !== null) {
      const waiting = this.#waiting;
      this.#waiting = null;
      waiting.resolve(frame);
    } else {
      this.#frames.push(frame);
      this.#frameBytes += frame.length;
      if (this.#frameBytes > bufferedBytesMax && this.#stream.readStatus === 'readable')
        this.#stream.pause();
    }
  }

  #resume(): void {
    if (this.#stream.readStatus !== 'paused') return;
    try {
      this.#stream.resume();
    } catch (error) {
      // It hands over what is left first; then there is no connection to announce room on.
      if (this.#stream.status === 'open') throw error;
    }
  }

  #close(error: Error | undefined): void {
    // A paused stream may close with bytes that nobody has read yet: 'end' follows them.
    if (error !== undefined || this.#stream.readBufferLength === 0) this.#finish(error ?? null);
    this.#ended.abort(error);
  }

  #finish(error: Error | null): void {
    if (this.#isAtEnd) return;
    this.#isAtEnd = true;
    const isCutOff = this.#chunkBytes > 0 || this.#needed !== null;
    this.#error = error ?? (isCutOff ? new Error('the stream ended within a message') : null);
    const waiting = this.#waiting;
    this.#waiting = null;
    if (this.#error !== null) waiting?.reject(this.#error);
    else waiting?.resolve(null);
  }
}

class MalformedFrame extends Error {}

function encodeFrames(frames: readonly Uint8Array[]): Uint8Array {
  const total = frames.reduce((sum, frame) => sum + lengthBytesMax + frame.length, 0);
  const out = new Uint8Array(total);
  let at = 0;
  for (const frame of frames) {
    let rest = frame.length;
    while (rest >= 0x80) {
      out[at++] = (rest & 0x7f) | 0x80;
      rest >>>= 7;
    }
    out[at++] = rest;
    out.set(frame, at);
    at += frame.length;
  }
  return out.subarray(0, at);
}
