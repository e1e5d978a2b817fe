/**
 * Bytes of a log file, and finding what is still good in a damaged one.
 *
 * ```
 * file   = header frame*
 * header = "TRLSLOG\n" version:u32 crc32("TRLSLOG\n" version):u32
 * frame  = marker:u32 length:u32 crc32(length payload):u32 payload
 * ```
 * Numbers are little-endian. The marker lets a reader find the next whole frame behind damage, so that one flipped byte
 * costs one record and not the rest of the file. Damage at the very end that looks like an interrupted append is a torn
 * tail: nobody was told that it was durable, and it is cut off. Everything else is corruption and is reported as such.
 */
import { crc32 } from 'node:zlib';

export const logVersion = 1;
export const headerBytes = 16;
export const frameOverheadBytes = 12;
/** A frame that claims more is damage. */
export const recordBytesMax = 256 << 20;

const magic = Buffer.from('TRLSLOG\n', 'latin1');
const marker = Buffer.from([0xf5, 0x54, 0x52, 0x31]);

export interface Scan {
  readonly records: Uint8Array[];
  /** 'newer': written by a later version, nothing was read. */
  readonly kind: 'clean' | 'torn-tail' | 'corrupt' | 'newer';
  /** End of the last whole frame. */
  readonly goodBytes: number;
  /** Bytes that belong to no whole frame. */
  readonly badBytes: number;
  readonly version: number;
}

export function encodeHeader(): Uint8Array {
  const out = Buffer.alloc(headerBytes);
  magic.copy(out);
  out.writeUInt32LE(logVersion, 8);
  out.writeUInt32LE(crc32(out.subarray(0, 12)), 12);
  return out;
}

export function encodeFrame(record: Uint8Array): Uint8Array {
  const out = Buffer.allocUnsafe(frameOverheadBytes + record.length);
  marker.copy(out);
  out.writeUInt32LE(record.length, 4);
  out.writeUInt32LE(crc32(record, crc32(out.subarray(4, 8))), 8);
  out.set(record, frameOverheadBytes);
  return out;
}

/** Never throws. Records are copies. */
export function scanLog(file: Uint8Array): Scan {
  const bytes = Buffer.from(file.buffer, file.byteOffset, file.byteLength);
  const version = readHeader(bytes);
  if (version !== null && version > logVersion) {
    return { records: [], kind: 'newer', goodBytes: 0, badBytes: 0, version };
  }
  const records: Uint8Array[] = [];
  let offset = version === null ? 0 : headerBytes;
  let goodBytes = offset;
  let isBroken = version === null && bytes.length >= headerBytes;
  let badBytes = 0;
  while (offset < bytes.length) {
    const end = frameEnd(bytes, offset);
    if (end === null) {
      const next = nextFrame(bytes, offset + 1);
      if (next === null) break;
      isBroken = true;
      badBytes += next - offset;
      offset = next;
      continue;
    }
    records.push(new Uint8Array(bytes.subarray(offset + frameOverheadBytes, end)));
    offset = end;
    goodBytes = end;
  }
  badBytes += bytes.length - offset;
  isBroken ||= isWholeButWrong(bytes, offset);
  const kind = isBroken ? 'corrupt' : badBytes > 0 ? 'torn-tail' : 'clean';
  return { records, kind, goodBytes, badBytes, version: version ?? logVersion };
}

function readHeader(bytes: Buffer): number | null {
  if (bytes.length < headerBytes || !bytes.subarray(0, 8).equals(magic)) return null;
  if (crc32(bytes.subarray(0, 12)) !== bytes.readUInt32LE(12)) return null;
  return bytes.readUInt32LE(8);
}

/** Offset behind the frame at `offset`, null when there is no whole, intact one. */
function frameEnd(bytes: Buffer, offset: number): number | null {
  const payload = offset + frameOverheadBytes;
  if (payload > bytes.length || bytes.compare(marker, 0, 4, offset, offset + 4) !== 0) return null;
  const length = bytes.readUInt32LE(offset + 4);
  if (length > recordBytesMax || payload + length > bytes.length) return null;
  const sum = crc32(
    bytes.subarray(payload, payload + length),
    crc32(bytes.subarray(offset + 4, offset + 8)),
  );
  return sum === bytes.readUInt32LE(offset + 8) ? payload + length : null;
}

function nextFrame(bytes: Buffer, from: number): number | null {
  for (let at = bytes.indexOf(marker, from); at !== -1; at = bytes.indexOf(marker, at + 1)) {
    if (frameEnd(bytes, at) !== null) return at;
  }
  return null;
}

/** A last frame with all its bytes and a wrong sum was not torn by a crash: it was changed afterwards. */
function isWholeButWrong(bytes: Buffer, offset: number): boolean {
  if (offset + frameOverheadBytes > bytes.length) return false;
  if (bytes.compare(marker, 0, 4, offset, offset + 4) !== 0) return false;
  return offset + frameOverheadBytes + bytes.readUInt32LE(offset + 4) === bytes.length;
}
