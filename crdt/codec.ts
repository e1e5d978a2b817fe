/**
 * Deterministic CBOR (RFC 8949 core rules via cborg): equal values give equal bytes, so hashes and signatures are stable.
 * Received bytes are kept and forwarded as they came, never re-encoded: that is how fields of a newer version survive.
 */
import { decode as cborDecode, encode as cborEncode } from 'cborg';

const decodeOptions = {
  allowIndefinite: false,
  allowUndefined: false,
  allowBigInt: false,
  strict: true,
} as const;

/** `undefined` properties are left out. */
export function encode(value: unknown): Uint8Array {
  return cborEncode(value, { ignoreUndefinedProperties: true });
}

/** Peer bytes are values, never throws: null when they are not exactly one item in canonical form. */
export function decode(bytes: Uint8Array): unknown {
  try {
    return cborDecode(bytes, decodeOptions) as unknown;
  } catch {
    // Garbage from a peer is an expected input; the caller counts and drops it.
    return null;
  }
}

/** Compares byte strings as unsigned bytes, shorter first on a tie. The one order used for hashes and keys. */
export function compareBytes(a: Uint8Array, b: Uint8Array): number {
  const length = Math.min(a.length, b.length);
  for (let i = 0; i < length; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return a.length - b.length;
}

/** Compares strings by code unit: the only string order in the core (never a locale). */
export function compareText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

export function equalBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && compareBytes(a, b) === 0;
}
