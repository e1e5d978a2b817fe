/**
 * Bytes of frames, written and read: numbers of 7 bits a byte (low ones first, the shortest form only), texts with their length.
 * What is read is never trusted: `ByteReader` throws `Malformed` for whatever does not fit, and nothing else.
 */
import { hex } from '../../crdt/ids.ts';
import { invariant } from '../errors.ts';
import { Malformed } from './fields.ts';
import { leaseLimits } from './model.ts';

const encoder = new TextEncoder();
const decoder = new TextDecoder('utf-8', { ignoreBOM: true });

/** Grows as needed; used again for the next frame. */
export class ByteWriter {
  #bytes = new Uint8Array(512);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  clear(): void {
    this.#length = 0;
  }

  /** Whole, from 0 to `counterMax`. */
  number(value: number): void {
    const isFit = Number.isInteger(value) && value >= 0 && value <= leaseLimits.counterMax;
    invariant(isFit, 'a number fits the wire');
    this.#reserve(8);
    let rest = value;
    while (rest >= 128) {
      this.#bytes[this.#length++] = 128 + (rest % 128);
      rest = Math.floor(rest / 128);
    }
    this.#bytes[this.#length++] = rest;
  }

  raw(bytes: Uint8Array): void {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  text(text: string): void {
    const bytes = encoder.encode(text);
    this.number(bytes.length);
    this.raw(bytes);
  }

  /** Everything that the other one holds, after its length. */
  part(other: ByteWriter): void {
    this.number(other.length);
    this.raw(other.#bytes.subarray(0, other.length));
  }

  /** A copy, from `from` to `to`. */
  slice(from: number, to: number): Uint8Array {
    return this.#bytes.slice(from, to);
  }

  #reserve(count: number): void {
    const wanted = this.#length + count;
    if (wanted <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(wanted, 2 * this.#bytes.length));
    grown.set(this.#bytes);
    this.#bytes = grown;
  }
}

/** Of one part of a frame, never beyond its end. */
export class ByteReader {
  readonly #bytes: Uint8Array;
  #at = 0;
  #end: number;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#end = bytes.length;
  }

  get isAtEnd(): boolean {
    return this.#at >= this.#end;
  }

  number(max: number): number {
    let value = this.#byte();
    if (value >= 128) {
      value -= 128;
      for (let scale = 128; ; scale *= 128) {
        const byte = this.#byte();
        value += (byte & 127) * scale;
        if (byte === 0 || scale > leaseLimits.counterMax) throw new Malformed('not a number');
        if (byte < 128) break;
      }
    }
    if (value > max) throw new Malformed('not a number in range');
    return value;
  }

  /** So many bytes as lower-case hex digits. */
  hex(count: number): string {
    return hex(this.raw(count));
  }

  text(bytesMax: number): string {
    return decoder.decode(this.raw(this.number(bytesMax)));
  }

  raw(count: number): Uint8Array {
    const from = this.#at;
    if (count > this.#end - from) throw new Malformed('cut short');
    this.#at += count;
    return this.#bytes.subarray(from, this.#at);
  }

  /** A part that begins with its length: nothing is read beyond its end, and reading goes on there whatever was read of it. */
  part<T>(read: () => T): T {
    const length = this.number(this.#bytes.length);
    const outer = this.#end;
    if (length > outer - this.#at) throw new Malformed('cut short');
    this.#end = this.#at + length;
    const value = read();
    this.#at = this.#end;
    this.#end = outer;
    return value;
  }

  #byte(): number {
    if (this.#at >= this.#end) throw new Malformed('cut short');
    return this.#bytes[this.#at++] as number;
  }
}
