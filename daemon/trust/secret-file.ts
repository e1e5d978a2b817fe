/** Files that only this user may read, replaced whole or not at all. */
import {
  closeSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { dirname } from 'node:path';
import { ClusterError, reasonOf } from '../errors.ts';

export interface SecretFileOptions {
  /** Default 0o600. */
  readonly mode?: number;
  /** Refuse to replace a file that is there (CONFLICT). */
  readonly isNew?: boolean;
}

/** Temp file, fsync, rename, fsync of the directory. Fails with DISK_FULL for whatever the disk refuses. */
export function writeSecretFile(
  path: string,
  content: string | Uint8Array,
  { mode = 0o600, isNew = false }: SecretFileOptions = {},
): void {
  const bytes = typeof content === 'string' ? Buffer.from(content) : content;
  const temporary = isNew ? path : `${path}.${process.pid}.tmp`;
  try {
    mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
    // A leftover of a crash would keep its own mode: start anew.
    if (!isNew) rmSync(temporary, { force: true });
    const fd = openSync(temporary, 'wx', mode);
    try {
      for (let done = 0; done < bytes.length;) done += writeSync(fd, bytes, done);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    if (!isNew) renameSync(temporary, path);
    syncDirectory(dirname(path));
  } catch (error) {
    if (isNew && isCode(error, 'EEXIST')) {
      throw new ClusterError('CONFLICT', {
        reason: `${path} exists already`,
        todo: 'name a file that does not exist',
      });
    }
    throw new ClusterError('DISK_FULL', { dir: dirname(path), reason: reasonOf(error) }, error);
  }
}

/** Null when there is none. */
export function readSecretFile(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch (error) {
    if (isCode(error, 'ENOENT')) return null;
    throw error;
  }
}

export function isCode(error: unknown, code: string): boolean {
  return error instanceof Error && 'code' in error && error.code === code;
}

function syncDirectory(path: string): void {
  const fd = openSync(path, 'r');
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
