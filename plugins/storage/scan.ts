/**
 * One number for the state of a directory tree: when it is the same before and after a copy, nothing was written
 * meanwhile. Made of what the file system says of each entry, never of contents.
 */
import { createHash } from 'node:crypto';
import { lstat, readdir } from 'node:fs/promises';
import { join } from 'node:path';

/** Entries of one storage. More are refused: a scan a second would cost too much. */
const entriesMax = 200_000;

export interface Scan {
  readonly fingerprint: string;
  readonly bytes: number;
  readonly entries: number;
}

/** Rejects with an Error when there are more than `entriesMax` entries or the tree cannot be read. */
export async function scanTree(root: string): Promise<Scan> {
  const hash = createHash('sha256');
  const directories = [''];
  let bytes = 0;
  let entries = 0;
  for (let directory = directories.pop(); directory !== undefined; directory = directories.pop()) {
    const names = await namesIn(join(root, directory));
    for (const name of names.toSorted()) {
      if (++entries > entriesMax) throw new Error(`more than ${entriesMax} files in ${root}`);
      const path = join(directory, name);
      const found = await lstatOrNull(join(root, path));
      // Gone since the listing: the next scan differs.
      if (found === null) continue;
      if (found.isDirectory()) directories.push(path);
      bytes += found.isFile() ? Number(found.size) : 0;
      hash.update(
        `${path}\0${found.ino} ${found.mode} ${found.uid} ${found.gid} ${found.size} ${found.mtimeNs} ${found.ctimeNs}\n`,
      );
    }
  }
  return { fingerprint: hash.digest('hex').slice(0, 32), bytes, entries };
}

async function namesIn(path: string): Promise<readonly string[]> {
  try {
    return await readdir(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

async function lstatOrNull(path: string) {
  try {
    return await lstat(path, { bigint: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}
