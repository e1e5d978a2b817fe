import { generateKeyPairFromSeed } from '@libp2p/crypto/keys';
import { expect, test } from 'vitest';
import { systemClock } from '../../daemon/clock.ts';
import { startSha256, systemCrypto } from '../../daemon/crypto.ts';
import { systemRandom } from '../../daemon/random.ts';

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);

test('the same seed gives the key and the signatures that libp2p makes from it', async () => {
  const seed = systemRandom.bytes(32);
  const ours = systemCrypto.keyPair(seed);
  const theirs = await generateKeyPairFromSeed('Ed25519', seed);
  expect(ours.publicKey).toEqual(new Uint8Array(theirs.publicKey.raw));
  expect(ours.sign(bytes('x'))).toEqual(new Uint8Array(await theirs.sign(bytes('x'))));
});

test('verify accepts the exact bytes only and never throws', () => {
  const keys = systemCrypto.keyPair(new Uint8Array(32).fill(7));
  const { publicKey } = keys;
  const signature = keys.sign(bytes('hello'));
  expect(systemCrypto.verify(publicKey, bytes('hello'), signature)).toBe(true);
  expect(systemCrypto.verify(publicKey, bytes('hellp'), signature)).toBe(false);
  expect(systemCrypto.verify(new Uint8Array(32), bytes('hello'), signature)).toBe(false);
  expect(systemCrypto.verify(new Uint8Array(3), bytes('hello'), signature)).toBe(false);
  expect(systemCrypto.verify(publicKey, bytes('hello'), new Uint8Array(64))).toBe(false);
});

test('sha-256 in one piece and in several agree', () => {
  const sum = startSha256();
  sum.update(bytes('ab'));
  sum.update(bytes('c'));
  expect(sum.digest()).toEqual(systemCrypto.sha256(bytes('abc')));
});

test('a timer never fires early and not after cancel', async () => {
  const begin = systemClock.monotonicMs();
  const cancelled = systemClock.setTimer(1, () => {
    throw new Error('fired after cancel');
  });
  cancelled.cancel();
  cancelled.cancel();
  await new Promise<void>((resolve) => systemClock.setTimer(5, resolve));
  expect(systemClock.monotonicMs() - begin).toBeGreaterThanOrEqual(5);
});
