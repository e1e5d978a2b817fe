import fc from 'fast-check';
import { expect, test } from 'vitest';
import { decodeFrame, encodeFrame, encodeFrames } from '../../../daemon/lease/codec.ts';
import { message } from './arbitraries.ts';

const messages = fc.array(message, { maxLength: 6 });
const where = fc.double({ min: 0, max: 1, noNaN: true });

function isResult(read: ReturnType<typeof decodeFrame>): boolean {
  return Array.isArray(read) || typeof (read as { rejected: string }).rejected === 'string';
}

function bytesOf(text: string): Uint8Array {
  return Uint8Array.from([1, ...new TextEncoder().encode(text)]);
}

test('what is written is read', () => {
  fc.assert(
    fc.property(messages, (all) => {
      expect(decodeFrame(encodeFrame(all))).toEqual(all);
      expect(encodeFrames(all).map((frame) => decodeFrame(frame))).toEqual(
        all.length > 0 ? [all] : [],
      );
    }),
    { numRuns: 300 },
  );
});

test('what is read is written the same', () => {
  fc.assert(
    fc.property(messages, (all) => {
      const frame = encodeFrame(all);
      const read = decodeFrame(frame);
      expect('rejected' in read ? null : encodeFrame(read)).toEqual(frame);
    }),
  );
});

test('a frame that was cut short is rejected', () => {
  fc.assert(
    fc.property(messages, where, (all, at) => {
      const frame = encodeFrame(all);
      const cut = frame.subarray(0, Math.floor(at * (frame.length - 1)));
      expect(decodeFrame(cut)).toMatchObject({ rejected: expect.any(String) });
    }),
  );
});

test('changed bytes are read or rejected, never thrown at us', () => {
  const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(messages, changes, (all, list) => {
      const frame = encodeFrame(all);
      for (const [at, byte] of list) frame[at % frame.length] = byte;
      expect(isResult(decodeFrame(frame))).toBe(true);
    }),
    { numRuns: 500 },
  );
});

test('any bytes, and any JSON, are read or rejected', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      expect(isResult(decodeFrame(bytes))).toBe(true);
    }),
  );
  fc.assert(
    fc.property(fc.json({ maxDepth: 5 }), (json) => {
      expect(isResult(decodeFrame(bytesOf(json)))).toBe(true);
    }),
  );
});

test('lists with the right kinds and any fields are read or rejected', () => {
  const field = fc.oneof(fc.nat(5), fc.jsonValue({ maxDepth: 3 }), fc.constantFrom('lock/x', null));
  const list = fc.tuple(fc.integer({ min: 1, max: 17 }), fc.array(field, { maxLength: 14 }));
  const strings = fc.constant(['prod', 'a'.repeat(32), '1'.repeat(24)]);
  fc.assert(
    fc.property(strings, fc.array(list, { maxLength: 3 }), (table, lists) => {
      const all = [table, ...lists.map(([kind, fields]) => [kind, ...fields])];
      expect(isResult(decodeFrame(bytesOf(JSON.stringify(all))))).toBe(true);
    }),
    { numRuns: 1_000 },
  );
});
