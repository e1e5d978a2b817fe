import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { encode } from '../../../crdt/codec.ts';
import { unhex } from '../../../crdt/ids.ts';
import type { ClusterId, Hash } from '../../../crdt/ids.ts';
import { decodeMessage, encodeMessage } from '../../../daemon/replication/wire.ts';
import type { Message } from '../../../daemon/replication/wire.ts';

const cluster = 'ab'.repeat(16) as ClusterId;
const c = unhex(cluster);
const bytes = Uint8Array.from([1, 2, 3]);
const hash = 'c'.repeat(64) as Hash;

const messages: readonly Message[] = [
  { t: 'push', r: [bytes], e: [bytes], f: [[bytes, 5]], p: [], more: true },
  { t: 'push' },
  { t: 'sum', r: hash, d: { cluster: hash }, f: hash, p: {} },
  {
    t: 'det',
    back: false,
    r: new Uint8Array(16),
    d: { 'env/prod': { s: [1, hash] } },
    f: { n: { host: [1, 2] } },
    p: { prod: hash },
  },
  { t: 'det', back: true },
  { t: 'want', h: hash, o: 0 },
  { t: 'part', h: hash, o: 0, n: 3, b: bytes },
  { t: 'swim', b: { anything: [1] } },
];

describe('frames', () => {
  test.each(messages)('$t comes back as it was sent', (message) => {
    expect(decodeMessage(cluster, encodeMessage(cluster, message))).toMatchObject(message);
  });

  test('a newer version with unknown fields is understood, an unknown type named as such', () => {
    expect(decodeMessage(cluster, encode({ v: 9, c, t: 'push', r: [], later: 1 }))).toMatchObject({
      t: 'push',
    });
    expect(decodeMessage(cluster, encode({ v: 1, c, t: 'later' }))).toEqual({ rejected: 'type' });
    expect(decodeMessage(cluster, encode({ v: 1, c, t: 'toString' }))).toEqual({
      rejected: 'type',
    });
  });

  test.each<[string, unknown, string]>([
    ['nothing', null, 'shape'],
    ['a list', [1], 'shape'],
    ['a number', 7, 'shape'],
    ['no version', { c, t: 'push' }, 'version'],
    ['version zero', { v: 0, c, t: 'push' }, 'version'],
    ['no cluster', { v: 1, t: 'push' }, 'cluster'],
    ['another cluster', { v: 1, c: new Uint8Array(16), t: 'push' }, 'cluster'],
    ['a short cluster', { v: 1, c: c?.slice(0, 15), t: 'push' }, 'cluster'],
    ['a cluster in words', { v: 1, c: cluster, t: 'push' }, 'cluster'],
    ['no type', { v: 1, c }, 'type'],
    ['a type that is no text', { v: 1, c, t: 5 }, 'type'],
    ['records that are no list', { v: 1, c, t: 'push', r: bytes }, 'shape'],
    ['records that are no bytes', { v: 1, c, t: 'push', e: [bytes, 'x'] }, 'shape'],
    ['facts without an age', { v: 1, c, t: 'push', f: [[bytes]] }, 'shape'],
    ['facts that are records', { v: 1, c, t: 'push', f: [bytes] }, 'shape'],
    ['plans as a map', { v: 1, c, t: 'push', p: { a: bytes } }, 'shape'],
    ['a summary without documents', { v: 1, c, t: 'sum', r: '', f: '', p: {} }, 'shape'],
    ['a summary of bytes', { v: 1, c, t: 'sum', r: bytes, d: {}, f: '', p: {} }, 'shape'],
    ['digests as numbers', { v: 1, c, t: 'sum', r: '', d: { cluster: 1 }, f: '', p: {} }, 'shape'],
    ['half a hash', { v: 1, c, t: 'det', back: false, r: new Uint8Array(9) }, 'shape'],
    ['heads as a list', { v: 1, c, t: 'det', back: false, d: [1] }, 'shape'],
    [
      'heads without numbers',
      { v: 1, c, t: 'det', back: false, d: { a: { s: ['x', 1] } } },
      'shape',
    ],
    ['versions of one number', { v: 1, c, t: 'det', back: false, f: { n: { t: [1] } } }, 'shape'],
    ['versions below zero', { v: 1, c, t: 'det', back: false, f: { n: { t: [-1, 1] } } }, 'shape'],
    ['an offset below zero', { v: 1, c, t: 'want', h: hash, o: -1 }, 'shape'],
    ['an offset of a half', { v: 1, c, t: 'want', h: hash, o: 0.5 }, 'shape'],
    ['a part without bytes', { v: 1, c, t: 'part', h: hash, o: 0, n: 1 }, 'shape'],
    ['a part without a total', { v: 1, c, t: 'part', h: hash, o: 0, b: bytes }, 'shape'],
  ])('%s is refused', (_, value, reason) => {
    expect(decodeMessage(cluster, encode(value))).toEqual({ rejected: reason });
  });

  test('no bytes make it throw: random, cut, flipped, or nested without end', () => {
    const never = (frame: Uint8Array): void => {
      expect(typeof decodeMessage(cluster, frame)).toBe('object');
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 300 }), never), { numRuns: 500 });
    const frames = messages.map((message) => encodeMessage(cluster, message));
    fc.assert(
      fc.property(fc.constantFrom(...frames), fc.nat(), fc.nat(255), (frame, at, byte) => {
        const changed = Uint8Array.from(frame);
        changed[at % changed.length] = byte;
        never(changed);
        never(frame.subarray(0, at % frame.length));
      }),
      { numRuns: 1_000 },
    );
    never(new Uint8Array(1 << 20).fill(0x81));
  });

  test('no value of any shape makes it throw', () => {
    const type = fc.constantFrom('push', 'sum', 'det', 'want', 'part', 'swim');
    const field = fc.oneof(
      fc.anything({ withTypedArray: false, maxDepth: 3 }),
      fc.array(fc.uint8Array({ maxLength: 4 }), { maxLength: 3 }),
      fc.constant(bytes),
    );
    const keys = ['r', 'e', 'f', 'p', 'd', 'b', 'h', 'o', 'n', 'back', 'more'];
    const value = fc.dictionary(fc.constantFrom(...keys), field);
    fc.assert(
      fc.property(type, value, (t, fields) => {
        let frame: Uint8Array;
        try {
          frame = encode({ ...fields, v: 1, c, t });
        } catch {
          // Not every value of the language has a form on the wire.
          return;
        }
        expect(decodeMessage(cluster, frame)).toBeTypeOf('object');
      }),
      { numRuns: 500 },
    );
  });
});
