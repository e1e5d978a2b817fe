/** The guard's ciphers against the ones that Noise brings. */
import { randomBytes } from 'node:crypto';
import { pureJsCrypto } from '@libp2p/noise';
import { describe, expect, test } from 'vitest';
import { noiseCrypto } from '../../../daemon/lease/guard/noise-crypto.ts';

const bytesOf = (given: Uint8Array | { subarray(): Uint8Array }): Uint8Array =>
  Uint8Array.from(given.subarray());

describe('the ciphers of a guard', () => {
  test.each([0, 1, 16, 1_199, 1_200, 65_519])('seal %i bytes as others do', (length) => {
    const [key, nonce, ad] = [randomBytes(32), randomBytes(12), randomBytes(32)];
    const text = randomBytes(length);
    const sealed = bytesOf(noiseCrypto.chaCha20Poly1305Encrypt(text, nonce, ad, key));
    const theirs = pureJsCrypto.chaCha20Poly1305Encrypt(text, nonce, ad, key);
    expect(sealed).toEqual(bytesOf(theirs));
    const opened = noiseCrypto.chaCha20Poly1305Decrypt(sealed, nonce, ad, key);
    expect(bytesOf(opened)).toEqual(Uint8Array.from(text));
  });

  test('open nothing that was changed, cut, or sealed for something else', () => {
    const [key, nonce, ad] = [randomBytes(32), randomBytes(12), randomBytes(32)];
    const sealed = bytesOf(noiseCrypto.chaCha20Poly1305Encrypt(randomBytes(40), nonce, ad, key));
    const changed = sealed.with(3, (sealed[3] ?? 0) ^ 1);
    for (const bytes of [changed, sealed.subarray(1), sealed.subarray(0, 15), new Uint8Array(0)])
      expect(() => noiseCrypto.chaCha20Poly1305Decrypt(bytes, nonce, ad, key)).toThrow();
    expect(() =>
      noiseCrypto.chaCha20Poly1305Decrypt(sealed, nonce, randomBytes(32), key),
    ).toThrow();
  });

  test.each([0, 32])('derive the same keys from %i bytes', (length) => {
    const [chainingKey, material] = [randomBytes(32), randomBytes(length)];
    const theirs = pureJsCrypto.getHKDF(chainingKey, material);
    expect(noiseCrypto.getHKDF(chainingKey, material).map(bytesOf)).toEqual(theirs.map(bytesOf));
    expect(bytesOf(noiseCrypto.hashSHA256(material))).toEqual(
      bytesOf(pureJsCrypto.hashSHA256(material)),
    );
  });

  test('agree on a shared key', () => {
    const seed = randomBytes(32);
    const ours = noiseCrypto.generateX25519KeyPairFromSeed(seed);
    expect(bytesOf(ours.publicKey)).toEqual(
      bytesOf(pureJsCrypto.generateX25519KeyPairFromSeed(seed).publicKey),
    );
    const theirs = pureJsCrypto.generateX25519KeyPair();
    const fresh = noiseCrypto.generateX25519KeyPair();
    for (const pair of [ours, fresh])
      expect(
        bytesOf(noiseCrypto.generateX25519SharedKey(pair.privateKey, theirs.publicKey)),
      ).toEqual(bytesOf(pureJsCrypto.generateX25519SharedKey(theirs.privateKey, pair.publicKey)));
  });
});
