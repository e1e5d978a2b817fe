/**
 * Every log of the journal is kept twice, because in a cluster of one there is no peer to give back what one flipped byte
 * has cost, and a lost envelope takes everything with it that was built on it. A record goes to the copy once it is
 * durable in the log itself, so that the copy never holds what was refused. Reading merges the two: what one of them lost
 * comes back from the other.
 */
import { equalBytes } from '../../crdt/codec.ts';

export interface MergedLogs {
  /** In the order of the log; what only the copy has stands where the copy has it. */
  readonly all: readonly Uint8Array[];
  /** What the log itself lost. */
  readonly missing: readonly Uint8Array[];
  /** What did not reach the copy, or was lost there. */
  readonly missingInCopy: readonly Uint8Array[];
}

export function copyNameOf(log: string): string {
  return `${log}-copy`;
}

/** Usually equal, or the copy is a little behind: then only the ends are compared one by one. */
export function mergeLogs(own: readonly Uint8Array[], copy: readonly Uint8Array[]): MergedLogs {
  const length = Math.min(own.length, copy.length);
  let same = 0;
  while (same < length && equalBytes(own[same] as Uint8Array, copy[same] as Uint8Array)) same++;
  const ownRest = own.slice(same);
  const copyRest = copy.slice(same);
  const inOwn = new Set(ownRest.map(keyOf));
  const inCopy = new Set(copyRest.map(keyOf));
  const missing = copyRest.filter((record) => !inOwn.has(keyOf(record)));
  const missingInCopy = ownRest.filter((record) => !inCopy.has(keyOf(record)));
  if (missing.length === 0) return { all: own, missing, missingInCopy };
  return {
    all: [...own.slice(0, same), ...woven(ownRest, copyRest, inOwn)],
    missing,
    missingInCopy,
  };
}

/** Walks along the copy; what only the log has comes before the next record that both have. */
function woven(
  own: readonly Uint8Array[],
  copy: readonly Uint8Array[],
  inOwn: ReadonlySet<string>,
): readonly Uint8Array[] {
  const out: Uint8Array[] = [];
  const done = new Set<string>();
  let next = 0;
  for (const record of copy) {
    const key = keyOf(record);
    if (done.has(key)) continue;
    if (inOwn.has(key)) {
      for (; next < own.length && !done.has(key); next++) {
        const before = own[next] as Uint8Array;
        out.push(before);
        done.add(keyOf(before));
      }
    } else {
      out.push(record);
      done.add(key);
    }
  }
  return [...out, ...own.slice(next)];
}

/** Equal for equal bytes only. */
function keyOf(bytes: Uint8Array): string {
  let text = '';
  for (let at = 0; at < bytes.length; at += 4_096)
    text += String.fromCharCode(...bytes.subarray(at, at + 4_096));
  return text;
}
