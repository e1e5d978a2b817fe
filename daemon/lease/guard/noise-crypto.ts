/**
 * What Noise computes, by node:crypto alone. Its own choice takes WebAssembly for short messages: that is faster by some
 * microseconds a frame, and costs a guard 5 MB for good, of which a bundle now carries nothing.
 */
import {
  createCipheriv,
  createDecipheriv,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  hash,
  hkdfSync,
  randomBytes,
} from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import type { ICryptoInterface } from '@libp2p/noise';

type Bytes = Uint8Array | { subarray(): Uint8Array };

const cipher = 'chacha20-poly1305';
const tagBytes = 16;
/** DER in front of raw X25519 keys (RFC 8410): PKCS #8 of a private, SPKI of a public one. */
const pkcs8Prefix = Buffer.from('302e020100300506032b656e04220420', 'hex');
const spkiPrefix = Buffer.from('302a300506032b656e032100', 'hex');

export const noiseCrypto: ICryptoInterface = {
  hashSHA256: (data) => hash('sha256', whole(data), 'buffer'),
  // Three keys of 32 bytes. Noise's HKDF is RFC 5869 with the chaining key as salt and no context.
  getHKDF: (chainingKey, material) => {
    const keys = new Uint8Array(hkdfSync('sha256', material, chainingKey, '', 96));
    return [keys.subarray(0, 32), keys.subarray(32, 64), keys.subarray(64, 96)];
  },
  generateX25519KeyPair: () => pairOf(randomBytes(32)),
  generateX25519KeyPairFromSeed: pairOf,
  generateX25519SharedKey: (privateKey, publicKey) =>
    diffieHellman({
      privateKey: privateKeyObject(whole(privateKey)),
      publicKey: createPublicKey({
        key: Buffer.concat([spkiPrefix, whole(publicKey)]),
        format: 'der',
        type: 'spki',
      }),
    }),
  chaCha20Poly1305Encrypt: (plaintext, nonce, ad, key) => {
    const encryption = createCipheriv(cipher, key, nonce, { authTagLength: tagBytes });
    const bytes = whole(plaintext);
    encryption.setAAD(ad, { plaintextLength: bytes.length });
    // A stream cipher: `final` has nothing left to give.
    const sealed = encryption.update(bytes);
    encryption.final();
    return Buffer.concat([sealed, encryption.getAuthTag()]);
  },
  chaCha20Poly1305Decrypt: (ciphertext, nonce, ad, key) => {
    const bytes = whole(ciphertext);
    const length = bytes.length - tagBytes;
    if (length < 0) throw new Error('a message is shorter than its proof');
    const decryption = createDecipheriv(cipher, key, nonce, { authTagLength: tagBytes });
    decryption.setAAD(ad, { plaintextLength: length });
    decryption.setAuthTag(bytes.subarray(length));
    const plaintext = decryption.update(bytes.subarray(0, length));
    // Throws when it is not what the other end sealed.
    decryption.final();
    return plaintext;
  },
};

function pairOf(seed: Uint8Array): { publicKey: Uint8Array; privateKey: Uint8Array } {
  const spki = createPublicKey(privateKeyObject(seed)).export({ format: 'der', type: 'spki' });
  return { publicKey: new Uint8Array(spki.subarray(spkiPrefix.length)), privateKey: seed };
}

function privateKeyObject(raw: Uint8Array): KeyObject {
  return createPrivateKey({
    key: Buffer.concat([pkcs8Prefix, raw]),
    format: 'der',
    type: 'pkcs8',
  });
}

/** In one piece. */
function whole(bytes: Bytes): Uint8Array {
  return bytes instanceof Uint8Array ? bytes : bytes.subarray();
}
