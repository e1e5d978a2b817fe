/**
 * Small file operations that survive a power cut: nothing exists until it is fsynced under its final name, and the
 * directory entry is fsynced too. Errors of the disk become DISK_FULL, the one thing a caller can say about them.
 */
import {
  closeSync,
  fsyncSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { ClusterError, reasonOf } from '../errors.ts';

export const privateDirMode = 0o700;
export const privateFileMode = 0o600;

/** Copies of damaged files kept per name; the oldest goes first. */
const damagedFilesMax = 4;

/** Replaces `path` as a whole. Throws DISK_FULL; then `path` is as it was. */
export function writeFileDurablySync(path: string, bytes: Uint8Array): void {
  const temporary = `${path}.tmp`;
  try {
    const fd = openSync(temporary, 'w', privateFileMode);
    try {
      writeAllSync(fd, bytes);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    renameSync(temporary, path);
    syncDirectorySync(dirname(path));
  } catch (error) {
    rmSync(temporary, { force: true });
    throw diskError(path, error);
  }
}

/** As above, without blocking the event loop. One call per path at a time. */
export async function writeFileDurably(path: string, chunks: readonly Uint8Array[]): Promise<void> {
  const temporary = `${path}.tmp`;
  try {
    const file = await open(temporary, 'w', privateFileMode);
    try {
      for (const chunk of chunks) await file.writeFile(chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    await syncDirectory(dirname(path));
  } catch (error) {
    await rm(temporary, { force: true });
    throw diskError(path, error);
  }
}

/** Makes a rename, creation or removal in `directory` durable. */
export async function syncDirectory(directory: string): Promise<void> {
  const handle = await open(directory, 'r');
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

export function syncDirectorySync(directory: string): void {
  const fd = openSync(directory, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Renames a damaged file to `<name>.damaged-<n>` and returns the new path. */
export function setAside(path: string): string {
  const numbers = damagedNumbers(path);
  const next = (numbers.at(-1) ?? 0) + 1;
  const target = `${path}.damaged-${next}`;
  renameSync(path, target);
  for (const old of numbers.slice(0, Math.max(0, numbers.length + 1 - damagedFilesMax))) {
    unlinkSync(`${path}.damaged-${old}`);
  }
  syncDirectorySync(dirname(path));
  return target;
}

function damagedNumbers(path: string): number[] {
  const prefix = `${basename(path)}.damaged-`;
  return readdirSync(dirname(path))
    .filter((name) => name.startsWith(prefix))
    .map((name) => Number(name.slice(prefix.length)))
    .filter((number) => Number.isSafeInteger(number))
    .toSorted((a, b) => a - b);
}

/** Any name as one file name: 'env/prod' becomes 'env%2Fprod'. */
export function fileNameOf(directory: string, name: string, suffix = ''): string {
  return join(directory, encodeURIComponent(name).replaceAll('.', '%2E') + suffix);
}

export function diskError(path: string, error: unknown): ClusterError {
  if (error instanceof ClusterError) return error;
  return new ClusterError('DISK_FULL', { dir: dirname(path), reason: reasonOf(error) }, error);
}

export function isAbsent(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'ENOENT';
}

function writeAllSync(fd: number, bytes: Uint8Array): void {
  let done = 0;
  while (done < bytes.length) done += writeSync(fd, bytes, done);
}
