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
/** sequence:f64 length:u32 sha-256 of both and the body. */
const headBytes = 8 + 4 + 32;

export class VolatileStore {
  readonly #fd: number;
  readonly #slotBytesMax: number;
  #sequence = 0;

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
    const body = Buffer.from(JSON.stringify(value));
    if (headBytes + body.length > this.#slotBytesMax)
      throw new Error(`state of ${body.length} bytes`);
    this.#sequence += 1;
    const head = Buffer.alloc(headBytes);
    head.writeDoubleLE(this.#sequence, 0);
    head.writeUInt32LE(body.length, 8);
    sumOf(head, body).copy(head, 12);
    const start = (this.#sequence % 2) * this.#slotBytesMax;
    writeAll(this.#fd, head, start);
    writeAll(this.#fd, body, start + headBytes);
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
  const body = readAt(fd, start + headBytes, length);
  if (body === null || !sumOf(head, body).equals(head.subarray(12))) return null;
  return { sequence: head.readDoubleLE(0), body };
}

function sumOf(head: Buffer, body: Buffer): Buffer {
  return hash('sha256', Buffer.concat([head.subarray(0, 12), body]), 'buffer');
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
