/**
 * Bytes of a guard's state: the log that survives a reboot, and the slots that survive the process.
 *
 * ```
 * log   = frame*                one frame per batch: its records are kept or lost together
 * frame = marker:4 length:u32 sum:8 payload        numbers little-endian, sum of length and payload
 * batch = version:1 JSON list of records
 * slot  = frame of JSON {seq, bootId, state}
 * ```
 * A crash may cut the last frame short; nobody was told that it is durable, and it is left out. A frame that is wrong with
 * intact ones behind it was damaged later: what stands before it is kept, what follows is not, since the last record of a
 * kind and key wins and a gap would let an older one win. The shell then adds a record 'forgotten': what a voter forgot, it may
 * grant again, so that it is silent until it was removed and let in anew (`voter-memory.ts`).
 */
import { sha256 } from '@noble/hashes/sha2.js';
import type { DurableRecord } from './core-api.ts';
import {
  Malformed,
  chosenConfig,
  counter,
  fields,
  generation,
  hostId,
  leaseName,
  linkMark,
  list,
  nullOr,
  owner,
  readBoolean,
} from './fields.ts';
import { leaseLimits } from './model.ts';

export const durableVersion = 1;
export const durableLimits = Object.freeze({
  frameBytesMax: 16 << 20,
  recordsPerBatchMax: 16_384,
});

const marker = [0xf5, 0x54, 0x4c, 0x31] as const;
const headBytes = 16;
const sumBytes = 8;

export interface DurableLogRead {
  readonly records: readonly DurableRecord[];
  /** `newer`: a later version has written it; nothing behind that was read. */
  readonly damage: 'torn-tail' | 'corrupt' | 'newer' | null;
  /** Where the next frame belongs: what stands behind is to be cut off. */
  readonly goodBytes: number;
}

/** To be appended as one write. At most `recordsPerBatchMax` records. */
export function encodeBatch(
  records: readonly DurableRecord[],
  version = durableVersion,
): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(records));
  const payload = new Uint8Array(json.length + 1);
  payload[0] = version;
  payload.set(json, 1);
  return frame(payload);
}

/** Never throws. */
export function decodeLog(bytes: Uint8Array): DurableLogRead {
  const records: DurableRecord[] = [];
  let at = 0;
  while (at < bytes.length) {
    const payload = frameAt(bytes, at);
    if (payload === null) return { records, damage: damageAt(bytes, at), goodBytes: at };
    if ((payload[0] ?? 0) > durableVersion) return { records, damage: 'newer', goodBytes: at };
    const batch = readBatch(payload.subarray(1));
    if (batch === null) return { records, damage: 'corrupt', goodBytes: at };
    records.push(...batch);
    at += headBytes + payload.length;
  }
  return { records, damage: null, goodBytes: at };
}

/** The last of each kind and key, in an order that may be applied; what says nothing any more is left out. */
export function compactRecords(records: readonly DurableRecord[]): DurableRecord[] {
  const last = new Map<string, DurableRecord>();
  for (const record of records) {
    const key = keyOf(record);
    last.delete(key);
    last.set(key, record);
  }
  return [...last.values()].filter((record) => !isVoid(record));
}

function keyOf(record: DurableRecord): string {
  return 'name' in record ? `${record.kind} ${record.name}` : record.kind;
}

function isVoid(record: DurableRecord): boolean {
  return (
    (record.kind === 'intent' && !record.isOn) ||
    (record.kind === 'parked' && record.owner === null) ||
    (record.kind === 'floor-rest' && record.epoch === 0) ||
    (record.kind === 'forgotten' && !record.isOn)
  );
}

// ---- Frames -------------------------------------------------------------------------------------------------------------------

function frame(payload: Uint8Array): Uint8Array {
  const out = new Uint8Array(headBytes + payload.length);
  out.set(marker);
  new DataView(out.buffer).setUint32(4, payload.length, true);
  out.set(payload, headBytes);
  out.set(sumOf(out, headBytes, payload.length), 8);
  return out;
}

/** Payload of the whole, intact frame at `at`; null when there is none. */
function frameAt(bytes: Uint8Array, at: number): Uint8Array | null {
  if (at + headBytes > bytes.length || !marker.every((byte, i) => bytes[at + i] === byte)) {
    return null;
  }
  const length = lengthAt(bytes, at);
  const start = at + headBytes;
  if (length > durableLimits.frameBytesMax || start + length > bytes.length) return null;
  const sum = sumOf(bytes.subarray(at), headBytes, length);
  if (!sum.every((byte, i) => bytes[at + 8 + i] === byte)) return null;
  return bytes.subarray(start, start + length);
}

function lengthAt(bytes: Uint8Array, at: number): number {
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(at + 4, true);
}

function sumOf(bytes: Uint8Array, start: number, length: number): Uint8Array {
  const sum = sha256.create();
  sum.update(bytes.subarray(4, 8));
  sum.update(bytes.subarray(start, start + length));
  return sum.digest().subarray(0, sumBytes);
}

/** An append that was cut short has nothing intact behind it, and either too few bytes or ones that were never written. */
function damageAt(bytes: Uint8Array, at: number): 'torn-tail' | 'corrupt' {
  for (let next = at + 1; next + headBytes <= bytes.length; next++) {
    if (bytes[next] === marker[0] && frameAt(bytes, next) !== null) return 'corrupt';
  }
  const rest = bytes.subarray(at);
  // Behind the last byte that was written there are zeros only.
  const written = rest.findLastIndex((byte) => byte !== 0) + 1;
  const isMarked = marker.every((byte, i) => i >= written || rest[i] === byte);
  if (!isMarked) return 'corrupt';
  const isWhole = rest.length >= headBytes && headBytes + lengthAt(bytes, at) <= rest.length;
  return isWhole && !endsInZeros(rest) ? 'corrupt' : 'torn-tail';
}

/** A file may have grown before the bytes that it grew by were written. */
function endsInZeros(bytes: Uint8Array): boolean {
  return bytes.at(-1) === 0;
}

// ---- Records ------------------------------------------------------------------------------------------------------------------

/** Null: not a batch of ours. Kinds of a newer version are passed over. */
function readBatch(json: Uint8Array): DurableRecord[] | null {
  try {
    const read = list(parse(json), durableLimits.recordsPerBatchMax, readRecord);
    return read.filter((record) => record !== null);
  } catch (error) {
    if (error instanceof Malformed) return null;
    throw error;
  }
}

function readRecord(value: unknown): DurableRecord | null {
  const all = fields(value);
  switch (all['kind']) {
    case 'epoch':
      return {
        kind: 'epoch',
        name: leaseName(all['name']),
        epoch: counter(all['epoch']),
        owner: owner(all['owner']),
        ...(all['unfenced'] === undefined
          ? {}
          : { unfenced: list(all['unfenced'], leaseLimits.unfencedMax, hostId) }),
      };
    case 'parked':
      return {
        kind: 'parked',
        name: leaseName(all['name']),
        owner: nullOr(all['owner'], owner),
        epoch: counter(all['epoch']),
      };
    case 'chosen':
      return { kind: 'chosen', chosen: chosenConfig(all['chosen']) };
    case 'chain':
      // Read by the chain, which knows what to do when it cannot.
      return { kind: 'chain', state: fields(all['state']) };
    case 'intent':
      return { kind: 'intent', n: generation(all['n']), isOn: readBoolean(all['isOn']) };
    case 'floor-rest':
      return { kind: 'floor-rest', epoch: counter(all['epoch']) };
    case 'forgotten':
      return {
        kind: 'forgotten',
        isOn: readBoolean(all['isOn']),
        beyond: nullOr(all['beyond'], linkMark),
      };
    default:
      return null;
  }
}

/** Null when it is not JSON. */
function parse(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes));
  } catch (error) {
    if (error instanceof SyntaxError) return null;
    throw error;
  }
}
