import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encode } from '../../../crdt/codec.ts';
import { decodeHello, encodeHello, incompatibility } from '../../../daemon/net/hello.ts';
import type { Hello } from '../../../daemon/net/hello.ts';
import { clusterA, clusterB } from './cluster.ts';

const hello: Hello = { clusterId: clusterA, min: 2, max: 4, run: 'r1' };

test('a hello survives the wire, also with fields of a newer version', () => {
  expect(decodeHello(encodeHello(hello))).toEqual(hello);
  const newer = encode({ kind: 'hello', ...hello, max: 9, features: ['x'] });
  expect(decodeHello(newer)).toEqual({ ...hello, max: 9 });
});

test('anything else is not a hello, and never throws', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (junk) => {
      expect(decodeHello(junk)).toBeNull();
    }),
  );
  expect(
    decodeHello(encode({ kind: 'hello', clusterId: clusterA, min: 'x', max: 1, run: '' })),
  ).toBeNull();
  expect(decodeHello(encode({ kind: 'hello', ...hello, run: 'r'.repeat(65) }))).toBeNull();
});

test('versions must overlap and the cluster must be the same; the reason says which', () => {
  const with_ = (changes: Partial<Hello>): string | null =>
    incompatibility(hello, { ...hello, ...changes });
  expect(with_({})).toBeNull();
  expect(with_({ min: 4, max: 9 })).toBeNull();
  expect(with_({ min: 1, max: 2 })).toBeNull();
  expect(with_({ min: 5, max: 9 })).toContain('version 5 and later');
  expect(with_({ min: 1, max: 1 })).toContain('up to version 1');
  expect(with_({ clusterId: clusterB })).toContain('cluster bbbb');
});
