/**
 * Real SHA-256, and a keyed hash in place of Ed25519: same shapes, deterministic, about fifty times cheaper. Anybody who
 * knows a public key could forge it, which no simulated node tries; any changed byte is still refused.
 */
import { hash } from 'node:crypto';
import { equalBytes } from '../../crdt/codec.ts';
import type { Crypto, KeyPair } from '../../daemon/ports.ts';

export class SimCrypto implements Crypto {
  sha256(bytes: Uint8Array): Uint8Array {
    return digest('sha256', bytes);
  }

  keyPair(seed: Uint8Array): KeyPair {
    if (seed.length !== 32) throw new Error('a key seed has 32 bytes');
    const publicKey = digest('sha256', joined(keyLabel, seed));
    return { publicKey, sign: (bytes) => signature(publicKey, bytes) };
  }

  verify(publicKey: Uint8Array, bytes: Uint8Array, claimed: Uint8Array): boolean {
    if (publicKey.length !== 32 || claimed.length !== 64) return false;
    return equalBytes(signature(publicKey, bytes), claimed);
  }
}

const keyLabel = new TextEncoder().encode('simulated key');

function signature(publicKey: Uint8Array, bytes: Uint8Array): Uint8Array {
  return digest('sha512', joined(publicKey, bytes));
}

function digest(algorithm: 'sha256' | 'sha512', bytes: Uint8Array): Uint8Array {
  return new Uint8Array(hash(algorithm, bytes, 'buffer'));
}

function joined(a: Uint8Array, b: Uint8Array): Uint8Array {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}
