/**
 * Takes an image out of the engine and into the blob plane: one pass over the engine's export, each layer straight into
 * the blob store under the hash of its uncompressed bytes, which is its diff id.
 *
 * Works on the layout of old engines (ID/layer.tar, CONFIG.json) and on that of newer ones (blobs/sha256/...): names are
 * never trusted. `manifest.json` says which entry is the configuration, its diff ids say which layers must have been
 * seen, and the hashes say that they are right.
 */
import { readFile, stat } from 'node:fs/promises';
import { Readable } from 'node:stream';
import { createGunzip, createZstdDecompress } from 'node:zlib';
import tar from 'tar-stream';
import type { Hash } from '../../crdt/ids.ts';
import type { Blobs } from '../api.ts';
import { imageUnavailable } from './errors.ts';
import { type BlobRef, type ImageManifest, diffIdsOf, manifestBytesMax } from './manifest.ts';

/** JSON entries kept in memory while the export is read: configuration, manifests, indexes of one image. */
const jsonEntriesMax = 2_000;

export interface ExportOptions {
  readonly blobs: Blobs;
  readonly signal: AbortSignal;
  /** Expected order of layers is unknown until the end, so `what` is 'layer N'. */
  readonly onProgress: (what: string, doneBytes: number, totalBytes: number) => void;
  /** For messages. */
  readonly image: string;
  readonly totalBytes: number;
}

/** Rejects IMAGE_UNAVAILABLE when the export lacks layers (moby issue 49473) and DISK_FULL from the blob store. */
export async function exportImage(
  source: NodeJS.ReadableStream,
  options: ExportOptions,
): Promise<ImageManifest> {
  const seen = await readExport(source, options);
  const configBytes = findConfig(seen.json, options.image);
  const diffIds = diffIdsOf(configBytes);
  if (diffIds === null) throw imageUnavailable(options.image, 'its configuration names no layers');
  const layers: BlobRef[] = [];
  for (const hash of diffIds) {
    const sizeBytes = seen.layers.get(hash) ?? (await sizeOf(options.blobs, hash));
    if (sizeBytes === null)
      throw imageUnavailable(options.image, `the engine's export lacks layer ${hash.slice(0, 12)}`);
    layers.push({ hash, sizeBytes });
  }
  const config = await options.blobs.put(configBytes);
  return { config, layers };
}

/** What is already in the blob plane needs no export. Null when anything is missing. */
export async function alreadyStored(
  blobs: Blobs,
  configHash: Hash | null,
): Promise<ImageManifest | null> {
  const path = configHash === null ? null : blobs.path(configHash);
  if (configHash === null || path === null) return null;
  const bytes = await readFile(path);
  const layers: BlobRef[] = [];
  for (const hash of diffIdsOf(bytes) ?? []) {
    const sizeBytes = await sizeOf(blobs, hash);
    if (sizeBytes === null) return null;
    layers.push({ hash, sizeBytes });
  }
  return layers.length === 0
    ? null
    : { config: { hash: configHash, sizeBytes: bytes.length }, layers };
}

interface Seen {
  readonly json: Map<string, Buffer>;
  readonly layers: Map<Hash, number>;
}

async function readExport(source: NodeJS.ReadableStream, options: ExportOptions): Promise<Seen> {
  const seen: Seen = { json: new Map(), layers: new Map() };
  const extract = tar.extract();
  const input = Readable.from(source as AsyncIterable<Uint8Array>);
  input.on('error', (error: Error) => extract.destroy(error));
  options.signal.addEventListener('abort', () => extract.destroy(options.signal.reason as Error), {
    once: true,
  });
  input.pipe(extract);
  let doneBytes = 0;
  for await (const entry of extract) {
    options.signal.throwIfAborted();
    if (entry.header.type !== 'file') {
      entry.resume();
      continue;
    }
    const what = `layer ${seen.layers.size + 1}`;
    const count = (bytes: number): void => {
      doneBytes += bytes;
      options.onProgress(what, Math.min(doneBytes, options.totalBytes), options.totalBytes);
    };
    await takeEntry(entry as unknown as Entry, { seen, blobs: options.blobs, count });
  }
  return seen;
}

type Entry = AsyncIterable<Uint8Array> & {
  readonly header: { readonly name: string; readonly size?: number };
};

async function takeEntry(
  entry: Entry,
  { seen, blobs, count }: { seen: Seen; blobs: Blobs; count: (bytes: number) => void },
): Promise<void> {
  const chunks = entry[Symbol.asyncIterator]();
  // tar-stream may deliver the start in small pieces; four bytes tell what it is.
  let head = Buffer.alloc(0);
  while (head.length < 4) {
    const next = await chunks.next();
    if (next.done === true) break;
    head = Buffer.concat([head, next.value]);
  }
  const isSmall = (entry.header.size ?? 0) <= manifestBytesMax;
  const first = String.fromCharCode(head[0] ?? 0);
  if (isSmall && (first === '{' || first === '[')) {
    if (seen.json.size >= jsonEntriesMax) throw new Error('the export has too many entries');
    seen.json.set(entry.header.name, await collect(head, chunks));
    return;
  }
  const isLayer = /(^|\/)layer\.tar$|^blobs\/sha256\/[0-9a-f]{64}$/.test(entry.header.name);
  if (!isLayer) {
    await collect(head.subarray(0, 0), chunks, true);
    return;
  }
  const stored = await blobs.put(uncompressed(head, rest(head, chunks, count)));
  seen.layers.set(stored.hash, stored.sizeBytes);
}

async function* rest(
  head: Buffer,
  chunks: AsyncIterator<Uint8Array>,
  count: (bytes: number) => void,
): AsyncGenerator<Uint8Array> {
  if (head.length > 0) yield head;
  for (;;) {
    const next = await chunks.next();
    if (next.done === true) return;
    count(next.value.length);
    yield next.value;
  }
}

/** Layers of containerd image stores may be compressed; a tar starts with neither magic number. */
function uncompressed(head: Buffer, bytes: AsyncIterable<Uint8Array>): AsyncIterable<Uint8Array> {
  const magic = head.readUIntBE(0, Math.min(4, head.length) || 1);
  const codec =
    head[0] === 0x1f && head[1] === 0x8b
      ? createGunzip()
      : magic === 0x28b52ffd
        ? createZstdDecompress()
        : null;
  if (codec === null) return bytes;
  const input = Readable.from(bytes);
  input.on('error', (error: Error) => codec.destroy(error));
  return input.pipe(codec);
}

async function collect(
  head: Buffer,
  chunks: AsyncIterator<Uint8Array>,
  isDropped = false,
): Promise<Buffer> {
  const parts: Uint8Array[] = [head];
  for (;;) {
    const next = await chunks.next();
    if (next.done === true) return Buffer.concat(parts);
    if (!isDropped) parts.push(next.value);
  }
}

function findConfig(json: ReadonlyMap<string, Buffer>, image: string): Buffer {
  const list = json.get('manifest.json');
  const raw =
    list === undefined ? null : (JSON.parse(list.toString('utf8')) as { Config?: unknown }[]);
  const name = raw?.[0]?.Config;
  const config = typeof name === 'string' ? json.get(name) : undefined;
  if (config === undefined)
    throw imageUnavailable(image, "the engine's export has no configuration");
  return config;
}

async function sizeOf(blobs: Blobs, hash: Hash): Promise<number | null> {
  const path = blobs.path(hash);
  return path === null ? null : (await stat(path)).size;
}
