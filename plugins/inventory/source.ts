/**
 * Where an inventory reads from: the files of a root directory ('/' in production, a prepared tree in tests), and the
 * few things that no file says. Every read is bounded and every failure becomes a gap, never a throw: half an inventory
 * is worth more than none.
 */
import { readFile, readdir, statfs } from 'node:fs/promises';
import type { NetworkInterfaceInfo } from 'node:os';
import os from 'node:os';
import path from 'node:path';

export interface Source {
  /** '/' or the root of a prepared tree. */
  readonly root: string;
  readonly gaps: string[];
}

const fileBytesMax = 256 << 10;
const gapsMax = 16;

export function noteGap(source: Source, what: string, error: unknown): void {
  const reason = error instanceof Error ? error.message : String(error);
  if (source.gaps.length < gapsMax) source.gaps.push(`${what}: ${reason.slice(0, 200)}`);
}

/** Text of a small file below the root; null when it is not there (a gap only if it is `expected`). */
export async function textOf(
  source: Source,
  file: string,
  expected = false,
): Promise<string | null> {
  try {
    const text = await readFile(path.join(source.root, file), 'utf8');
    return text.slice(0, fileBytesMax);
  } catch (error) {
    if (expected) noteGap(source, file, error);
    return null;
  }
}

/** Sorted names in a directory below the root; [] when it is not there. */
export async function namesIn(source: Source, dir: string): Promise<string[]> {
  try {
    return (await readdir(path.join(source.root, dir))).sort();
  } catch (error) {
    noteGap(source, dir, error);
    return [];
  }
}

export interface Room {
  readonly totalBytes: number;
  /** What an unprivileged process may still write. */
  readonly freeBytes: number;
}

/** Null when it cannot be asked within two seconds: a network file system whose server is gone blocks for ever. */
export async function roomOf(source: Source, mount: string): Promise<Room | null> {
  try {
    const asked = statfs(path.join(source.root, mount));
    const { bsize, blocks, bavail } = await withinMs(2_000, asked, `statfs ${mount}`);
    return { totalBytes: bsize * blocks, freeBytes: bsize * bavail };
  } catch (error) {
    noteGap(source, mount, error);
    return null;
  }
}

/** Addresses of this machine's interfaces; a prepared tree has none. */
export function liveInterfaces(
  source: Source,
): Readonly<Record<string, NetworkInterfaceInfo[] | undefined>> {
  return source.root === '/' ? os.networkInterfaces() : {};
}

/** Rejects when `promise` takes longer; what it waits for goes on unheard. */
export async function withinMs<T>(limitMs: number, promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: no answer within ${limitMs} ms`)), limitMs);
  });
  try {
    return await Promise.race([promise, limit]);
  } finally {
    clearTimeout(timer);
  }
}
