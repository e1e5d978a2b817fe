import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Hash } from '../../../crdt/ids.ts';
import { silentLog } from '../../../daemon/logger.ts';
import { BlobTransfer } from '../../../daemon/net/blob-transfer.ts';
import type { NetworkLimits } from '../../../daemon/net/peer-network.ts';
import { BlobStore } from '../../../daemon/store/blobs.ts';
import { eventually } from '../../await.ts';
import { bytes, meshed, TestCluster } from './cluster.ts';
import type { TestNode } from './cluster.ts';

interface BlobNode extends TestNode {
  readonly dir: string;
  readonly blobs: BlobTransfer;
  readonly store: BlobStore;
}

/** Sources are tried in the order in which they connected. */
const inOrder = { next: () => 0.5, bytes: () => new Uint8Array(0) };
let cluster: TestCluster;
let base: string;

beforeEach(() => {
  cluster = new TestCluster();
  base = mkdtempSync(join(tmpdir(), 'trellis-transfer-'));
});

afterEach(async () => {
  await cluster.close();
  rmSync(base, { recursive: true, force: true });
});

async function start(
  options: {
    limits?: Partial<NetworkLimits>;
    diskFloorBytes?: number;
    part?: [Hash, Uint8Array];
  } = {},
): Promise<BlobNode> {
  const dir = mkdtempSync(join(base, 'host-'));
  if (options.part !== undefined) {
    mkdirSync(join(dir, 'parts'));
    writeFileSync(join(dir, 'parts', `${options.part[0]}.part`), options.part[1]);
  }
  const node = await cluster.start({ limits: options.limits ?? {} });
  const store = new BlobStore({
    dir,
    diskFloorBytes: options.diskFloorBytes ?? 0,
    chunkBytes: 128 << 10,
    log: silentLog,
  });
  const blobs = new BlobTransfer({
    store,
    peers: node.network.blobs,
    random: inOrder,
    log: silentLog,
  });
  return { ...node, dir, blobs, store };
}

const hashOf = (content: Uint8Array): Hash =>
  createHash('sha256').update(content).digest('hex') as Hash;
const slow = { blobBytesPerSecondMax: 4 << 20 };

/** What `node` serves under `hash` is not what the name says. */
function corrupt(node: BlobNode, hash: Hash): void {
  const path = node.store.path(hash) ?? '';
  const content = readFileSync(path);
  content[content.length >> 1] = (content[content.length >> 1] ?? 0) ^ 1;
  writeFileSync(path, content);
}

test('[coreos:A9] a blob is fetched once for everybody who asks, verified, with progress, and served on', async () => {
  const [a, b, c] = [await start(), await start(), await start()];
  await meshed([a, b, c]);
  const content = randomBytes(3_000_000);
  const { hash } = await a.blobs.put(new Uint8Array(content));
  const seen: [number, number][] = [];
  const paths = await Promise.all([
    b.blobs.fetch(hash, { onProgress: (done, total) => seen.push([done, total]) }),
    b.blobs.fetch(hash),
    b.blobs.fetch(hash),
  ]);
  expect(new Set(paths).size).toBe(1);
  expect(hashOf(readFileSync(paths[0] ?? ''))).toBe(hash);
  expect(b.blobs.fetchedBytes).toBe(content.length);
  expect(seen.at(-1)).toEqual([content.length, content.length]);
  expect(readdirSync(join(b.dir, 'parts'))).toEqual([]);
  await cluster.stop(a);
  expect(hashOf(readFileSync(await c.blobs.fetch(hash)))).toBe(hash);
  expect(await c.blobs.fetch(hash)).toBe(c.blobs.path(hash));
});

test('the empty blob can be fetched', async () => {
  const [a, b] = [await start(), await start()];
  await meshed([a, b]);
  const { hash } = await a.blobs.put(new Uint8Array(0));
  expect(readFileSync(await b.blobs.fetch(hash)).length).toBe(0);
});

test('a blob that nobody has is BLOB_UNAVAILABLE', async () => {
  const [a, b] = [await start(), await start()];
  await meshed([a, b]);
  await expect(b.blobs.fetch('0'.repeat(64) as Hash)).rejects.toMatchObject({
    code: 'BLOB_UNAVAILABLE',
  });
  expect(readdirSync(join(b.dir, 'parts'))).toEqual([]);
});

test('when a source dies in the middle, another one goes on where it stopped', async () => {
  const [a, b, c] = [await start({ limits: slow }), await start({ limits: slow }), await start()];
  await meshed([a, b, c]);
  const content = randomBytes(4 << 20);
  await a.blobs.put(new Uint8Array(content));
  const { hash } = await b.blobs.put(new Uint8Array(content));
  const first = c.network.connected()[0] === a.id ? a : b;
  const started = Promise.withResolvers<void>();
  const fetched = c.blobs.fetch(hash, {
    onProgress: (done) => void (done > 0 && done < content.length && started.resolve()),
  });
  await started.promise;
  await cluster.stop(first);
  expect(hashOf(readFileSync(await fetched))).toBe(hash);
  // What was in flight at the cut may come twice; the whole blob must not.
  expect(c.blobs.fetchedBytes).toBeLessThan(content.length + (1 << 20));
});

test('[coreos:A10] after kill -9 a transfer goes on from the part that is on the disk', async () => {
  const content = randomBytes(2_000_000);
  const hash = hashOf(content);
  const a = await start();
  const b = await start({ part: [hash, content.subarray(0, 1_500_000)] });
  await meshed([a, b]);
  await a.blobs.put(new Uint8Array(content));
  expect(hashOf(readFileSync(await b.blobs.fetch(hash)))).toBe(hash);
  expect(b.blobs.fetchedBytes).toBe(500_000);
});

test('a part that a crash has damaged is found out at the end and fetched again whole', async () => {
  const content = randomBytes(1_000_000);
  const hash = hashOf(content);
  const a = await start();
  const b = await start({ part: [hash, new Uint8Array(600_000)] });
  await meshed([a, b]);
  await a.blobs.put(new Uint8Array(content));
  expect(hashOf(readFileSync(await b.blobs.fetch(hash)))).toBe(hash);
});

test('corrupt bytes are discarded, their source is avoided and the good one serves', async () => {
  const [a, b, c] = [await start(), await start(), await start()];
  await meshed([a, b, c]);
  const content = randomBytes(1_000_000);
  await a.blobs.put(new Uint8Array(content));
  const { hash } = await b.blobs.put(new Uint8Array(content));
  const bad = c.network.connected()[0] === a.id ? a : b;
  const good = bad === a ? b : a;
  corrupt(bad, hash);
  expect(hashOf(readFileSync(await c.blobs.fetch(hash)))).toBe(hash);
  await cluster.stop(good);
  await c.store.discard(hash);
  await expect(c.blobs.fetch(hash)).rejects.toMatchObject({ code: 'BLOB_UNAVAILABLE' });
  expect(c.blobs.has(hash)).toBe(false);
});

test('a caller that leaves does not stop the others; the last one stops the transfer and the part is kept', async () => {
  const [a, b] = [await start({ limits: slow }), await start()];
  await meshed([a, b]);
  const content = randomBytes(4 << 20);
  const { hash } = await a.blobs.put(new Uint8Array(content));
  const first = new AbortController();
  const second = new AbortController();
  const one = b.blobs.fetch(hash, { signal: first.signal });
  let doneBytes = 0;
  const two = b.blobs.fetch(hash, {
    signal: second.signal,
    onProgress: (done) => (doneBytes = done),
  });
  first.abort(new Error('first leaves'));
  await expect(one).rejects.toThrow('first leaves');
  await eventually(() => doneBytes > 500_000, { withinMs: 10_000 });
  second.abort(new Error('second leaves'));
  await expect(two).rejects.toThrow('second leaves');
  const kept = b.blobs.fetchedBytes;
  await eventually(() => readdirSync(join(b.dir, 'parts')).length === 1, { withinMs: 5_000 });
  expect(hashOf(readFileSync(await b.blobs.fetch(hash)))).toBe(hash);
  expect(b.blobs.fetchedBytes).toBeLessThan(content.length + kept);
});

test('a fetch that would break the disk floor is refused with DISK_FULL before a byte is asked for', async () => {
  const [a, b] = [await start(), await start({ diskFloorBytes: 2 ** 52 })];
  await meshed([a, b]);
  const { hash } = await a.blobs.put(randomBytes(1_000));
  await expect(b.blobs.fetch(hash)).rejects.toMatchObject({ code: 'DISK_FULL' });
  expect(b.blobs.fetchedBytes).toBe(0);
});

test('frames flow while a blob is transferred', async () => {
  const [a, b] = [await start({ limits: slow }), await start()];
  await meshed([a, b]);
  const { hash } = await a.blobs.put(randomBytes(6 << 20));
  let isDone = false;
  const fetched = b.blobs.fetch(hash).then(() => (isDone = true));
  let answered = 0;
  while (!isDone) {
    const before = b.frames.length;
    a.network.send(b.id, bytes('probe'));
    await eventually(() => b.frames.length > before, { withinMs: 5_000, everyMs: 1 });
    answered++;
  }
  await fetched;
  expect(answered).toBeGreaterThan(20);
});
