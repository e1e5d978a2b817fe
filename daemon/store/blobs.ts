/**
 * Content-addressed bytes of this host: `blobs/sha256/ab/<hash>`. A file appears under its hash only when its bytes have
 * been hashed and fsynced, so what is here is whole. Parts of fetches that were interrupted wait in `blobs/parts/`.
 */
import { createReadStream, mkdirSync, readdirSync, rmSync, statSync, utimesSync } from 'node:fs';
import { open, rename, rm, statfs } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { randomUUID } from 'node:crypto';
import { hex } from '../../crdt/ids.ts';
import type { Hash } from '../../crdt/ids.ts';
import { startSha256 } from '../crypto.ts';
import { ClusterError, reasonOf } from '../errors.ts';
import type { Log } from '../ports.ts';
import { isAbsent, privateDirMode, privateFileMode, syncDirectory } from './durable.ts';

const hashPattern = /^[0-9a-f]{64}$/;
/** The floor is looked at again after so much has been written. */
const floorCheckBytes = 16 << 20;

export interface BlobStoreOptions {
  /** `blobsDir` of the store. */
  readonly dir: string;
  /** Writes that would leave less on the disk are refused. */
  readonly diskFloorBytes: number;
  /** Size of the pieces that `read` gives. */
  readonly chunkBytes: number;
  readonly log: Log;
  /** Bytes that an unprivileged writer may still use; for tests. */
  readonly freeBytes?: () => Promise<number>;
}

export interface Collected {
  readonly removed: number;
  readonly freedBytes: number;
}

export class BlobStore {
  readonly #options: BlobStoreOptions;
  readonly #sizes = new Map<Hash, number>();

  /** Sync, at start: lists what is here and removes what a crash left half-written. */
  constructor(options: BlobStoreOptions) {
    this.#options = options;
    rmSync(this.#temporary(), { recursive: true, force: true });
    for (const dir of [this.#temporary(), this.#parts(), join(options.dir, 'sha256')]) {
      mkdirSync(dir, { recursive: true, mode: privateDirMode });
    }
    for (const prefix of readdirSync(join(options.dir, 'sha256'))) {
      for (const name of readdirSync(join(options.dir, 'sha256', prefix))) {
        if (!hashPattern.test(name)) continue;
        this.#sizes.set(name as Hash, statSync(join(options.dir, 'sha256', prefix, name)).size);
      }
    }
  }

  has(hash: Hash): boolean {
    return this.#sizes.has(hash);
  }

  /** Bytes, null when not here. */
  size(hash: Hash): number | null {
    return this.#sizes.get(hash) ?? null;
  }

  path(hash: Hash): string | null {
    return this.#sizes.has(hash) ? this.#file(hash) : null;
  }

  list(): readonly { readonly hash: Hash; readonly sizeBytes: number }[] {
    return [...this.#sizes].map(([hash, sizeBytes]) => ({ hash, sizeBytes }));
  }

  /** From `offset` to the end, in pieces of `chunkBytes`. Throws BLOB_UNAVAILABLE when it is not here (any more). */
  async *read(hash: Hash, offset: number): AsyncIterable<Uint8Array> {
    if (!this.#sizes.has(hash)) throw new ClusterError('BLOB_UNAVAILABLE', { hash });
    const { chunkBytes } = this.#options;
    try {
      const stream = createReadStream(this.#file(hash), {
        start: offset,
        highWaterMark: chunkBytes,
      });
      for await (const chunk of stream) yield chunk as Uint8Array;
    } catch (error) {
      if (!isAbsent(error)) throw error;
      // Somebody removed the file behind our back: it can be fetched again.
      this.#sizes.delete(hash);
      throw new ClusterError('BLOB_UNAVAILABLE', { hash }, error);
    }
  }

  /** Hashes what is on the disk; a blob that is no longer what its name says is removed, so that it can be fetched again. */
  async verify(hash: Hash): Promise<boolean> {
    const sum = startSha256();
    for await (const chunk of this.read(hash, 0)) sum.update(chunk);
    if (hex(sum.digest()) === hash) return true;
    this.#options.log.error('blobs.rotten', { hash });
    await this.discard(hash);
    return false;
  }

  /** Idempotent: bytes that are here already are kept as they are and count as new for `collect`. Rejects DISK_FULL. */
  async put(
    bytes: AsyncIterable<Uint8Array> | Uint8Array,
  ): Promise<{ hash: Hash; sizeBytes: number }> {
    const temporary = join(this.#temporary(), randomUUID());
    const chunks = bytes instanceof Uint8Array ? [bytes] : bytes;
    const sum = startSha256();
    let sizeBytes = 0;
    try {
      const file = await open(temporary, 'wx', privateFileMode);
      try {
        for await (const chunk of chunks) {
          await this.checkFloor(sizeBytes, chunk.length);
          await writeAll(file, chunk, sizeBytes);
          sum.update(chunk);
          sizeBytes += chunk.length;
        }
        await file.datasync();
      } finally {
        await file.close();
      }
      const hash = hex(sum.digest()) as Hash;
      await this.#adopt(temporary, hash, sizeBytes);
      return { hash, sizeBytes };
    } catch (error) {
      throw this.#diskError(error);
    } finally {
      await rm(temporary, { force: true });
    }
  }

  /** Continues the part of `hash` that is here. Rejects DISK_FULL when `sizeBytes` would not leave the floor. */
  async openPart(hash: Hash): Promise<BlobPart> {
    const path = join(this.#parts(), `${hash}.part`);
    try {
      return await BlobPart.open(path, hash, {
        adopt: (size) => this.#adopt(path, hash, size),
        checkFloor: (doneBytes, moreBytes) => this.checkFloor(doneBytes, moreBytes),
        diskError: (error) => this.#diskError(error),
      });
    } catch (error) {
      throw this.#diskError(error);
    }
  }

  /**
   * Removes blobs that nobody refers to and that have been here for `graceMs` (what was just stored may not be referred
   * to yet), and parts of unwanted blobs. Files that are being read stay readable.
   */
  async collect(isReferenced: (hash: Hash) => boolean, graceMs: number): Promise<Collected> {
    let removed = 0;
    let freedBytes = 0;
    for (const [hash, sizeBytes] of this.#sizes) {
      const path = this.#file(hash);
      if (isReferenced(hash) || isYounger(path, graceMs)) continue;
      this.#sizes.delete(hash);
      await rm(path, { force: true });
      removed++;
      freedBytes += sizeBytes;
    }
    for (const name of readdirSync(this.#parts())) {
      const path = join(this.#parts(), name);
      if (isReferenced(name.replace('.part', '') as Hash) || isYounger(path, graceMs)) continue;
      await rm(path, { force: true });
      removed++;
    }
    return { removed, freedBytes };
  }

  /** For a blob whose bytes turned out not to be what its name says. */
  async discard(hash: Hash): Promise<void> {
    this.#sizes.delete(hash);
    await rm(this.#file(hash), { force: true });
  }

  /** Rejects DISK_FULL when writing `moreBytes` would not leave the floor. Looks at the disk now and then only. */
  async checkFloor(doneBytes: number, moreBytes: number): Promise<void> {
    const isDue =
      doneBytes === 0 ||
      Math.floor(doneBytes / floorCheckBytes) !==
        Math.floor((doneBytes + moreBytes) / floorCheckBytes);
    if (!isDue) return;
    const { dir, diskFloorBytes } = this.#options;
    const free = await (this.#options.freeBytes?.() ?? freeBytesOf(dir));
    if (free - moreBytes >= diskFloorBytes) return;
    const reason = `${free} bytes are free and ${diskFloorBytes} must stay free`;
    throw new ClusterError('DISK_FULL', { dir, reason });
  }

  async #adopt(from: string, hash: Hash, sizeBytes: number): Promise<void> {
    const path = this.#file(hash);
    if (this.#sizes.has(hash)) {
      const now = new Date();
      try {
        utimesSync(path, now, now);
        await rm(from, { force: true });
        return;
      } catch (error) {
        // Somebody removed the file behind our back: then this copy takes its place.
        if (!isAbsent(error)) throw error;
      }
    }
    const dir = join(path, '..');
    mkdirSync(dir, { recursive: true, mode: privateDirMode });
    await rename(from, path);
    await syncDirectory(dir);
    this.#sizes.set(hash, sizeBytes);
  }

  #diskError(error: unknown): unknown {
    const code = error instanceof Error && 'code' in error ? error.code : '';
    if (code !== 'ENOSPC' && code !== 'EDQUOT') return error;
    return new ClusterError(
      'DISK_FULL',
      { dir: this.#options.dir, reason: reasonOf(error) },
      error,
    );
  }

  #file(hash: Hash): string {
    return join(this.#options.dir, 'sha256', hash.slice(0, 2), hash);
  }

  #temporary(): string {
    return join(this.#options.dir, 'tmp');
  }

  #parts(): string {
    return join(this.#options.dir, 'parts');
  }
}

interface PartHost {
  adopt(sizeBytes: number): Promise<void>;
  checkFloor(doneBytes: number, moreBytes: number): Promise<void>;
  diskError(error: unknown): unknown;
}

/** The bytes of a blob that have arrived so far. Hashed as they come; what an earlier run left is hashed from disk. */
export class BlobPart {
  readonly #path: string;
  readonly #hash: Hash;
  readonly #host: PartHost;
  readonly #file: FileHandle;
  #sum = startSha256();
  #size = 0;

  private constructor(path: string, hash: Hash, host: PartHost, file: FileHandle) {
    this.#path = path;
    this.#hash = hash;
    this.#host = host;
    this.#file = file;
  }

  static async open(path: string, hash: Hash, host: PartHost): Promise<BlobPart> {
    const file = await open(path, 'a+', privateFileMode);
    const part = new BlobPart(path, hash, host, file);
    for await (const chunk of createReadStream(path, { highWaterMark: 1 << 20 })) {
      part.#sum.update(chunk as Uint8Array);
      part.#size += (chunk as Uint8Array).length;
    }
    return part;
  }

  get size(): number {
    return this.#size;
  }

  /** Rejects DISK_FULL. */
  async reserve(totalBytes: number): Promise<void> {
    await this.#host.checkFloor(0, Math.max(0, totalBytes - this.#size));
  }

  async append(chunk: Uint8Array): Promise<void> {
    try {
      await this.#host.checkFloor(this.#size, chunk.length);
      await writeAll(this.#file, chunk, null);
    } catch (error) {
      await this.#file.truncate(this.#size);
      throw this.#host.diskError(error);
    }
    this.#sum.update(chunk);
    this.#size += chunk.length;
  }

  /** All bytes are here: true and in place when they are the blob, else false and the part is empty again. */
  async finish(): Promise<boolean> {
    if (hex(this.#sum.digest()) !== this.#hash) {
      this.#sum = startSha256();
      await this.reset();
      return false;
    }
    try {
      await this.#file.datasync();
      await this.#host.adopt(this.#size);
      return true;
    } catch (error) {
      this.#sum = startSha256();
      await this.reset();
      throw this.#host.diskError(error);
    }
  }

  /** Begins again at 0. */
  async reset(): Promise<void> {
    await this.#file.truncate(0);
    this.#sum = startSha256();
    this.#size = 0;
  }

  /** Keeps what has arrived for another try, unless `isWanted` is false. */
  async close(isWanted: boolean): Promise<void> {
    await this.#file.close();
    if (!isWanted) await rm(this.#path, { force: true });
  }
}

async function writeAll(
  file: FileHandle,
  bytes: Uint8Array,
  position: number | null,
): Promise<void> {
  let done = 0;
  while (done < bytes.length) {
    const at = position === null ? null : position + done;
    done += (await file.write(bytes, done, bytes.length - done, at)).bytesWritten;
  }
}

async function freeBytesOf(dir: string): Promise<number> {
  const { bavail, bsize } = await statfs(dir);
  return bavail * bsize;
}

function isYounger(path: string, ageMs: number): boolean {
  try {
    return Date.now() - statSync(path).mtimeMs < ageMs;
  } catch (error) {
    if (isAbsent(error)) return false;
    throw error;
  }
}
