/**
 * Small files without which a host is lost: kept as `<name>` and `<name>.copy`, each with a check of its own. What one of
 * them lost comes back from the other; a value is never made up.
 */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { isAbsent, writeFileDurablySync } from './durable.ts';

export type Found<T> =
  | { readonly kind: 'found'; readonly value: T }
  /** Neither file is there. */
  | { readonly kind: 'absent' }
  /** Something is there, and nothing of it is good. */
  | { readonly kind: 'damaged' };

export function copyPathOf(path: string): string {
  return `${path}.copy`;
}

/** Throws DISK_FULL; then what was there may be replaced in one of the two. */
export function writeTwice(path: string, bytes: Uint8Array): void {
  writeFileDurablySync(path, bytes);
  writeFileDurablySync(copyPathOf(path), bytes);
}

/**
 * `parse` gives null for bytes that are not what was written. A missing or outdated copy is made again in silence; for a
 * file that came back from its copy its name is added to `mended`.
 */
export function readTwice<T>(
  path: string,
  parse: (bytes: Buffer) => T | null,
  mended: string[],
): Found<T> {
  const own = read(path);
  const copy = read(copyPathOf(path));
  const value = own === null ? null : parse(own);
  if (own !== null && value !== null) {
    if (copy === null || !copy.equals(own)) writeFileDurablySync(copyPathOf(path), own);
    return { kind: 'found', value };
  }
  const fromCopy = copy === null ? null : parse(copy);
  if (copy !== null && fromCopy !== null) {
    writeFileDurablySync(path, copy);
    mended.push(basename(path));
    return { kind: 'found', value: fromCopy };
  }
  return { kind: own === null && copy === null ? 'absent' : 'damaged' };
}

function read(path: string): Buffer | null {
  try {
    return readFileSync(path);
  } catch (error) {
    if (!isAbsent(error)) throw error;
    return null;
  }
}
