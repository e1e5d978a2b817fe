/**
 * What a guard that is killed finds again within the same boot: two checksummed slots in one file on tmpfs, written in turn
 * and never synced. A kill in the middle of a write tears one slot; the other holds what was true before, and since nothing is
 * sent before the write is over, nobody has seen more than that.
 */
import { hash } from 'node:crypto';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { privateFileMode } from '../../store/durable.ts';

const fileName = 'lease.state';
/** Of one slot. A slot is sparse: only what is used takes memory. */
const slotBytesDefault = 16 << 20;
/** sequence:f64 length:u32 sum:32, sha-256 of the slot with zeros in its own place. */
const headBytes = 8 + 4 + 32;

export class VolatileStore {
  readonly #fd: number;
  readonly #slotBytesMax: number;
  #sequence = 0;
  #buffer = Buffer.alloc(0);

  /** `dir` must be on a file system that a boot empties. */
  constructor(dir: string, slotBytesMax = slotBytesDefault) {
    this.#slotBytesMax = slotBytesMax;
    this.#fd = openSync(join(dir, fileName), 'a+', privateFileMode);
    closeSync(this.#fd);
    this.#fd = openSync(join(dir, fileName), 'r+');
  }

  /** The newest intact slot; null when there is none. */
  read(): unknown {
    const slots = [0, 1].flatMap((slot) => readSlot(this.#fd, slot, this.#slotBytesMax) ?? []);
    const newest = slots.toSorted((a, b) => b.sequence - a.sequence)[0];
    if (newest === undefined) return null;
    this.#sequence = newest.sequence;
    return JSON.parse(newest.body.toString('utf8')) as unknown;
  }

  /** Throws when the file system is full: then nothing may be sent. */
  write(value: unknown): void {
    const text = JSON.stringify(value);
    const length = this.#place(text);
    const slot = this.#buffer.subarray(0, headBytes + length);
    this.#sequence += 1;
    slot.writeDoubleLE(this.#sequence, 0);
    slot.writeUInt32LE(length, 8);
    // The sum covers the other two and the body, which stand on both sides of it.
    slot.fill(0, 12, headBytes);
    sumOf(slot).copy(slot, 12);
    writeAll(this.#fd, slot, (this.#sequence % 2) * this.#slotBytesMax);
  }

  /** Puts the body behind the head, in a buffer that is used again: this happens many times a second. Returns its bytes. */
  #place(text: string): number {
    const bytesMax = text.length * 3;
    if (headBytes + text.length > this.#slotBytesMax)
      throw new Error(`state of ${text.length} characters`);
    if (this.#buffer.length < headBytes + bytesMax)
      this.#buffer = Buffer.alloc(headBytes + bytesMax * 2);
    const length = this.#buffer.write(text, headBytes);
    if (headBytes + length > this.#slotBytesMax) throw new Error(`state of ${length} bytes`);
    return length;
  }

  close(): void {
    closeSync(this.#fd);
  }
}

function readSlot(
  fd: number,
  slot: number,
  slotBytesMax: number,
): { sequence: number; body: Buffer } | null {
  const start = slot * slotBytesMax;
  const head = readAt(fd, start, headBytes);
  if (head === null) return null;
  const length = head.readUInt32LE(8);
  if (length > slotBytesMax - headBytes) return null;
  const whole = readAt(fd, start, headBytes + length);
  if (whole === null) return null;
  const sum = Buffer.from(whole.subarray(12, headBytes));
  whole.fill(0, 12, headBytes);
  if (!sumOf(whole).equals(sum)) return null;
  return { sequence: head.readDoubleLE(0), body: whole.subarray(headBytes) };
}

/** Of a slot whose place for the sum is zero. */
function sumOf(slot: Buffer): Buffer {
  return hash('sha256', slot, 'buffer');
}

function readAt(fd: number, position: number, length: number): Buffer | null {
  const out = Buffer.alloc(length);
  let done = 0;
  while (done < length) {
    const count = readSync(fd, out, done, length - done, position + done);
    if (count === 0) return null;
    done += count;
  }
  return out;
}

function writeAll(fd: number, bytes: Buffer, position: number): void {
  let done = 0;
  while (done < bytes.length) {
    done += writeSync(fd, bytes, done, bytes.length - done, position + done);
  }
}
