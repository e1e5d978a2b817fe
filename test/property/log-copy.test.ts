/** Two copies of a log: what one lost comes back from the other, whatever each of them lost. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { mergeLogs } from '../../daemon/replication/log-copy.ts';

const records = fc.uniqueArray(fc.uint8Array({ minLength: 1, maxLength: 6 }), {
  maxLength: 30,
  selector: (bytes) => bytes.join(),
});
const text = (list: readonly Uint8Array[]) => list.map((bytes) => bytes.join());

test('everything that either copy has is read, in the order it was written', () => {
  fc.assert(
    fc.property(records, fc.array(fc.nat(3), { minLength: 30, maxLength: 30 }), (all, fate) => {
      const own = all.filter((_, index) => fate[index] !== 0);
      const copy = all.filter((_, index) => fate[index] !== 1);
      const merged = mergeLogs(own, copy);
      expect(text(merged.all).toSorted()).toEqual(text(all).toSorted());
      expect(text(merged.missing)).toEqual(text(all.filter((_, index) => fate[index] === 0)));
      expect(text(merged.missingInCopy)).toEqual(text(all.filter((_, index) => fate[index] === 1)));
      // What the log itself has keeps its order; so does what the copy has.
      const kept = new Set(text(own));
      expect(text(merged.all).filter((key) => kept.has(key))).toEqual(text(own));
      const copied = new Set(text(copy));
      expect(text(merged.all).filter((key) => copied.has(key))).toEqual(text(copy));
    }),
  );
});

test('records written twice, as after a second try, do no harm', () => {
  const [a, b, c] = [1, 2, 3].map((byte) => Uint8Array.of(byte)) as [
    Uint8Array,
    Uint8Array,
    Uint8Array,
  ];
  expect(text(mergeLogs([a, b, a], [a, c, b, b]).all)).toEqual(['1', '3', '2', '1']);
  expect(mergeLogs([a, b], [a, b])).toMatchObject({ missing: [], missingInCopy: [] });
  expect(text(mergeLogs([], [a, b]).all)).toEqual(['1', '2']);
});
