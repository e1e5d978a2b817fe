/**
 * The recovery key: the authority's private seed as text, shown or written once at `init` and kept on no member. Whoever
 * has it can make a new first operator; without it and without operators nobody can.
 */
import { systemCrypto } from '../crypto.ts';
import { base32, unbase32 } from './base32.ts';
import { clusterIdOf } from './identity.ts';
import type { ClusterId } from '../../crdt/ids.ts';

const checkBytes = 4;

/** `trellis-recovery-1:<cluster name>:<seed and checksum>`; one line, safe to print and to copy. */
export function recoveryText(seed: Uint8Array, clusterName: string): string {
  const check = systemCrypto.sha256(seed).subarray(0, checkBytes);
  return `trellis-recovery-1:${clusterName}:${base32(Buffer.concat([seed, check]))}`;
}

/** Null when it is not a recovery key or was mistyped. `clusterId` says which cluster it can recover. */
export function parseRecovery(
  text: string,
): { seed: Uint8Array; clusterName: string; clusterId: ClusterId } | null {
  const match = /^\s*trellis-recovery-1:([a-z0-9-]{1,63}):([0-9a-zA-Z\s-]+)$/.exec(text);
  const bytes = unbase32(match?.[2] ?? '', 32 + checkBytes);
  if (match?.[1] === undefined || bytes === null) return null;
  const seed = bytes.slice(0, 32);
  const check = systemCrypto.sha256(seed).subarray(0, checkBytes);
  if (!Buffer.from(check).equals(bytes.subarray(32))) return null;
  return {
    seed,
    clusterName: match[1],
    clusterId: clusterIdOf(systemCrypto.keyPair(seed).publicKey),
  };
}
