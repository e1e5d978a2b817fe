/**
 * One number for the state of a directory tree: when it is the same before and after a copy, nothing was written
 * meanwhile. Made of what the file system says of each entry, never of contents.
 *
 * The kernel stamps files by a clock that moves in steps of some milliseconds: a second write within a step changes no stamp.
 * What was changed that recently is therefore not settled, and its number proves nothing.
 */
import { createHash } from 'node:crypto';
import { lstat, readdir, utimes } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

/** Entries of one storage. More are refused: a scan a second would cost too much. */
const entriesMax = 200_000;
/** Entries that are looked at together: one by one each would wait its turn on a busy host. */
const parallelMax = 64;
/** Longer than a step of the clock that stamps files: 10 ms on the slowest kernels. */
const stampStepMs = 20;

export interface Scan {
  readonly fingerprint: string;
  /** Any later change gives another fingerprint. */
  readonly isSettled: boolean;
  readonly bytes: number;
  readonly entries: number;
}

type Entry = NonNullable<Awaited<ReturnType<typeof lstatOrNull>>>;

/** Rejects with an Error when there are more than `entriesMax` entries or the tree cannot be read. */
export async function scanTree(root: string): Promise<Scan> {
  const hash = createHash('sha256');
  const fromMs = Date.now() - stampStepMs;
  const stamps: number[] = [];
  let bytes = 0;
  const entries = await walk(root, (path, found) => {
    bytes += found.isFile() ? Number(found.size) : 0;
    const ctimeMs = Number(found.ctimeNs / 1_000_000n);
    if (ctimeMs >= fromMs) stamps.push(ctimeMs);
    // The directory itself is another one on every host, and renamed with its storage.
    const ino = path === '' ? 0n : found.ino;
    const stamp = path === '' ? 0n : found.ctimeNs;
    hash.update(
      `${path}\0${ino} ${found.mode} ${found.uid} ${found.gid} ${found.size} ${found.mtimeNs} ${stamp}\n`,
    );
  });
  // Stamps far in the future are of a clock that was set back; what is written now gets others.
  const untilMs = Date.now() + stampStepMs;
  const isSettled = !stamps.some((stamp) => stamp <= untilMs);
  return { fingerprint: hash.digest('hex').slice(0, 32), isSettled, bytes, entries };
}

/** The same; what is at rest is settled then, even when it came to rest just now. */
export async function scanAtRest(root: string): Promise<Scan> {
  const scan = await scanTree(root);
  if (scan.isSettled) return scan;
  await sleep(stampStepMs + 1);
  return await scanTree(root);
}

/**
 * After a copy that something was written beneath: what was changed about as late as it was copied may have been read half
 * written, with a stamp that never tells. It gets one that no file has, so that the next copy takes it again.
 */
export async function distrust(root: string, changedSinceMs: number): Promise<void> {
  const doubtful: string[] = [];
  await walk(root, (path, found) => {
    // With several links it is shared with an earlier copy, which is whole.
    if (found.isFile() && found.nlink === 1n && found.mtimeNs / 1_000_000n >= changedSinceMs)
      doubtful.push(join(root, path));
  });
  for (const path of doubtful) await utimes(path, 0, 0);
}

/** All entries but the directories that are gone meanwhile; returns how many. */
async function walk(root: string, look: (path: string, found: Entry) => void): Promise<number> {
  const directories = [''];
  let entries = 0;
  const top = await lstatOrNull(root);
  if (top !== null) look('', top);
  for (let directory = directories.pop(); directory !== undefined; directory = directories.pop()) {
    const names = (await namesIn(join(root, directory))).toSorted();
    entries += names.length;
    if (entries > entriesMax) throw new Error(`more than ${entriesMax} files in ${root}`);
    for (let from = 0; from < names.length; from += parallelMax) {
      const paths = names.slice(from, from + parallelMax).map((name) => join(directory, name));
      const all = await Promise.all(paths.map((path) => lstatOrNull(join(root, path))));
      for (const [index, found] of all.entries()) {
        // Gone since the listing: the next scan differs.
        if (found === null) continue;
        const path = paths[index] ?? '';
        if (found.isDirectory()) directories.push(path);
        look(path, found);
      }
    }
  }
  return entries;
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
