/** Blobs over a directory, and what a peer has over another: enough of the blob plane for the docker plugin. */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream, createWriteStream, existsSync } from 'node:fs';
import { mkdir, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Hash } from '../../../crdt/ids.ts';
import { type Blobs, PluginError } from '../../../plugins/api.ts';

export interface DirBlobs extends Blobs {
  /** Hashes that came from a peer, in order. */
  readonly fetched: readonly Hash[];
}

/** `peers` are directories of other hosts' blobs. */
export async function openDirBlobs(dir: string, peers: readonly string[]): Promise<DirBlobs> {
  await mkdir(dir, { recursive: true });
  const fetched: Hash[] = [];
  const transfers = new Map<Hash, Promise<string>>();

  async function put(
    bytes: AsyncIterable<Uint8Array> | Uint8Array,
  ): Promise<{ hash: Hash; sizeBytes: number }> {
    const temp = join(dir, `${randomBytes(6).toString('hex')}.tmp`);
    const hasher = createHash('sha256');
    const tap = new Transform({
      transform(chunk: Uint8Array, _, done) {
        hasher.update(chunk);
        done(null, chunk);
      },
    });
    const source = bytes instanceof Uint8Array ? Readable.from([bytes]) : Readable.from(bytes);
    await pipeline(source, tap, createWriteStream(temp));
    const hash = hasher.digest('hex') as Hash;
    await rename(temp, join(dir, hash));
    return { hash, sizeBytes: (await stat(join(dir, hash))).size };
  }

  async function transfer(
    hash: Hash,
    onProgress: ((done: number, total: number) => void) | undefined,
  ): Promise<string> {
    for (const peer of peers) {
      if (!existsSync(join(peer, hash))) continue;
      const stored = await put(createReadStream(join(peer, hash)));
      onProgress?.(stored.sizeBytes, stored.sizeBytes);
      if (stored.hash !== hash) continue;
      fetched.push(hash);
      return join(dir, hash);
    }
    throw new PluginError('BLOB_UNAVAILABLE', { hash }, `blob ${hash} is nowhere`);
  }

  const path = (hash: Hash): string | null =>
    existsSync(join(dir, hash)) ? join(dir, hash) : null;
  return {
    fetched,
    has: (hash) => path(hash) !== null,
    path,
    put,
    fetch: async (hash, options) => {
      const local = path(hash);
      if (local !== null) return local;
      const running =
        transfers.get(hash) ??
        transfer(hash, options.onProgress).finally(() => transfers.delete(hash));
      transfers.set(hash, running);
      return await running;
    },
  };
}
