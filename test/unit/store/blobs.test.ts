import { createHash, randomBytes } from 'node:crypto';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Hash } from '../../../crdt/ids.ts';
import { silentLog } from '../../../daemon/logger.ts';
import { BlobStore } from '../../../daemon/store/blobs.ts';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'trellis-blobs-'));
});

afterEach(() => {
  rmSync(dir, { recursive: true, force: true });
});

function store(
  options: { diskFloorBytes?: number; freeBytes?: () => Promise<number> } = {},
): BlobStore {
  return new BlobStore({ dir, diskFloorBytes: 0, chunkBytes: 1_000, log: silentLog, ...options });
}

const hashOf = (bytes: Uint8Array): Hash =>
  createHash('sha256').update(bytes).digest('hex') as Hash;

async function* pieces(bytes: Uint8Array, pieceBytes: number): AsyncIterable<Uint8Array> {
  for (let at = 0; at < bytes.length; at += pieceBytes) yield bytes.subarray(at, at + pieceBytes);
}

async function collected(chunks: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const chunk of chunks) parts.push(chunk);
  return Buffer.concat(parts);
}

test('bytes are stored under their hash, once, from a buffer or a stream', async () => {
  const blobs = store();
  const bytes = randomBytes(10_000);
  const put = await blobs.put(pieces(bytes, 777));
  expect(put).toEqual({ hash: hashOf(bytes), sizeBytes: 10_000 });
  expect(await blobs.put(new Uint8Array(bytes))).toEqual(put);
  expect(readFileSync(blobs.path(put.hash) ?? '')).toEqual(bytes);
  expect(blobs.size(put.hash)).toBe(10_000);
  expect(await collected(blobs.read(put.hash, 9_500))).toEqual(bytes.subarray(9_500));
  expect(store().has(put.hash)).toBe(true);
  expect(readdirSync(join(dir, 'tmp'))).toEqual([]);
});

test('a source that breaks off leaves nothing; a crash leaves nothing after the next start', async () => {
  const blobs = store();
  const broken = (async function* () {
    yield randomBytes(5_000);
    throw new Error('gone');
  })();
  await expect(blobs.put(broken)).rejects.toThrow('gone');
  expect(blobs.list()).toEqual([]);
  writeFileSync(join(dir, 'tmp', 'left'), 'x');
  store();
  expect(readdirSync(join(dir, 'tmp'))).toEqual([]);
});

test('below the disk floor DISK_FULL is said and nothing is kept; it works again when there is room', async () => {
  let free = 1_000;
  const blobs = store({ diskFloorBytes: 900, freeBytes: async () => free });
  await expect(blobs.put(randomBytes(200))).rejects.toMatchObject({ code: 'DISK_FULL' });
  expect(readdirSync(join(dir, 'tmp'))).toEqual([]);
  free = 10_000;
  expect((await blobs.put(randomBytes(200))).sizeBytes).toBe(200);
});

test('collect removes what nobody refers to after the grace time, and old parts', async () => {
  const blobs = store();
  const [wanted, young, old] = await Promise.all(
    [1, 2, 3].map((i) => blobs.put(new Uint8Array(1_000).fill(i))),
  );
  const longAgo = new Date(Date.now() - 3_600_000);
  for (const blob of [wanted, old])
    utimesSync(blobs.path(blob?.hash as Hash) ?? '', longAgo, longAgo);
  const part = join(dir, 'parts', `${'0'.repeat(64)}.part`);
  writeFileSync(part, 'x');
  utimesSync(part, longAgo, longAgo);
  const result = await blobs.collect((hash) => hash === wanted?.hash, 60_000);
  expect(result).toEqual({ removed: 2, freedBytes: 1_000 });
  expect([wanted, young, old].map((blob) => blobs.has(blob?.hash as Hash))).toEqual([
    true,
    true,
    false,
  ]);
  expect(existsSync(part)).toBe(false);
});

test('storing again what is here makes it young for collect', async () => {
  const blobs = store();
  const { hash } = await blobs.put(randomBytes(100));
  const longAgo = new Date(0);
  utimesSync(blobs.path(hash) ?? '', longAgo, longAgo);
  await blobs.put(readFileSync(blobs.path(hash) ?? ''));
  expect(Date.now() - statSync(blobs.path(hash) ?? '').mtimeMs).toBeLessThan(60_000);
});

test('verify finds rot and removes it; a file removed by hand is missing, not broken', async () => {
  const blobs = store();
  const { hash } = await blobs.put(randomBytes(100));
  expect(await blobs.verify(hash)).toBe(true);
  writeFileSync(blobs.path(hash) ?? '', randomBytes(100));
  expect(await blobs.verify(hash)).toBe(false);
  expect(blobs.has(hash)).toBe(false);
  const other = await blobs.put(randomBytes(100));
  rmSync(blobs.path(other.hash) ?? '');
  await expect(collected(blobs.read(other.hash, 0))).rejects.toMatchObject({
    code: 'BLOB_UNAVAILABLE',
  });
  expect(blobs.has(other.hash)).toBe(false);
});
