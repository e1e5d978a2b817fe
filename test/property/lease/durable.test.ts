import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { DurableRecord } from '../../../daemon/lease/core-api.ts';
import {
  compactRecords,
  decodeLog,
  encodeBatch,
  encodeSlot,
  pickSlot,
} from '../../../daemon/lease/durable.ts';
import { chosenConfig, leaseName, owner } from './arbitraries.ts';

const epoch = fc.nat(1_000);
const name = fc.oneof(fc.constantFrom('lock/a', 'lock/b', 'planner/prod'), leaseName);
const record: fc.Arbitrary<DurableRecord> = fc.oneof(
  fc.record({ kind: fc.constant('epoch' as const), name, epoch, owner }),
  fc.record({
    kind: fc.constant('parked' as const),
    name,
    owner: fc.option(owner, { nil: null }),
    epoch,
  }),
  fc.record({ kind: fc.constant('chosen' as const), chosen: chosenConfig }),
  fc.record({
    kind: fc.constant('chain' as const),
    state: fc.record({ v: fc.constant(1), slot: fc.constant(null), n: epoch }),
  }),
  fc.record({ kind: fc.constant('intent' as const), n: epoch, isOn: fc.boolean() }),
  fc.record({ kind: fc.constant('floor-rest' as const), epoch }),
);
const batches = fc.array(fc.array(record, { maxLength: 4 }), { maxLength: 6 });
const where = fc.double({ min: 0, max: 1, noNaN: true });

function joined(parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

/** How many whole batches stand before `bytes`. */
function wholeBefore(frames: readonly Uint8Array[], bytes: number): number {
  let end = 0;
  return frames.filter((frame) => (end += frame.length) <= bytes).length;
}

test('[trellis:I22] a log cut at any byte gives the batches before it, and is never called corrupt', () => {
  fc.assert(
    fc.property(batches, where, (all, at) => {
      const frames = all.map((batch) => encodeBatch(batch));
      const whole = joined(frames);
      const cut = whole.subarray(0, Math.floor(at * whole.length));
      const read = decodeLog(cut);
      const kept = wholeBefore(frames, cut.length);
      expect(read.records).toEqual(all.slice(0, kept).flat());
      expect(read.damage).toBe(read.goodBytes === cut.length ? null : 'torn-tail');
      expect(read.goodBytes).toBe(joined(frames.slice(0, kept)).length);
    }),
  );
});

test('[trellis:I22] a log that grew before its bytes were written is cut there', () => {
  fc.assert(
    fc.property(
      batches,
      fc.array(record, { minLength: 1, maxLength: 3 }),
      where,
      (all, last, at) => {
        const before = joined(all.map((batch) => encodeBatch(batch)));
        const frame = encodeBatch(last);
        frame.fill(0, Math.floor(at * (frame.length - 1)));
        const read = decodeLog(joined([before, frame]));
        expect(read).toEqual({
          records: all.flat(),
          damage: 'torn-tail',
          goodBytes: before.length,
        });
      },
    ),
  );
});

test('one changed byte costs its batch and what follows, and is reported', () => {
  fc.assert(
    fc.property(batches, fc.nat(), fc.integer({ min: 1, max: 255 }), (all, position, change) => {
      const frames = all.map((batch) => encodeBatch(batch));
      const bytes = joined(frames);
      fc.pre(bytes.length > 0);
      const at = position % bytes.length;
      bytes[at] = (bytes[at] ?? 0) ^ change;
      const read = decodeLog(bytes);
      const kept = wholeBefore(frames, at);
      expect(read.records).toEqual(all.slice(0, kept).flat());
      expect(read.damage).not.toBeNull();
      if (kept < all.length - 1) expect(read.damage).toBe('corrupt');
    }),
  );
});

test('any bytes are read', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      const read = decodeLog(bytes);
      expect(read.goodBytes).toBeLessThanOrEqual(bytes.length);
    }),
  );
});

test('a compacted log says the same, and no more than once', () => {
  const meaning = (records: readonly DurableRecord[]) => {
    const last = new Map<string, DurableRecord>();
    for (const one of records) last.set('name' in one ? `${one.kind} ${one.name}` : one.kind, one);
    return last;
  };
  fc.assert(
    fc.property(fc.array(record, { maxLength: 30 }), (records) => {
      const compact = compactRecords(records);
      const before = meaning(records);
      const after = meaning(compact);
      expect(after.size).toBe(compact.length);
      expect(compactRecords(compact)).toEqual(compact);
      for (const [key, one] of before) {
        const isVoid =
          (one.kind === 'intent' && !one.isOn) ||
          (one.kind === 'parked' && one.owner === null) ||
          (one.kind === 'floor-rest' && one.epoch === 0);
        expect(after.get(key)).toEqual(isVoid ? undefined : one);
      }
    }),
  );
});

test('[trellis:I22] slots written in turn, the last one cut anywhere, give the newest whole state', () => {
  const states = fc.array(fc.jsonValue({ maxDepth: 2 }), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(states, where, (list, at) => {
      const slots: [Uint8Array | null, Uint8Array | null] = [null, null];
      const write = (seq: number, bytes: Uint8Array) => {
        const old = slots[seq % 2] ?? new Uint8Array(0);
        const rest = old.subarray(bytes.length);
        slots[seq % 2] = joined([bytes, rest]);
      };
      list.forEach((state, seq) => write(seq, encodeSlot(seq, 'boot', state)));
      const newest = list.length - 1;
      const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
      const seen = { seq: newest, state: plain(list[newest]) };
      expect(pickSlot(slots[0], slots[1], 'boot')).toEqual(seen);
      expect(pickSlot(slots[1], slots[0], 'boot')).toEqual(seen);
      expect(pickSlot(slots[0], slots[1], 'another boot')).toBeNull();
      const next = encodeSlot(list.length, 'boot', 'next');
      write(list.length, next.subarray(0, Math.floor(at * (next.length - 1))));
      expect(pickSlot(slots[0], slots[1], 'boot')).toEqual(seen);
    }),
  );
});

test('a slot of an earlier boot is not resumed, even when it is the only intact one', () => {
  const old = encodeSlot(9, 'old', { a: 1 });
  expect(pickSlot(old, encodeSlot(3, 'new', { a: 2 }), 'new')).toBeNull();
  expect(pickSlot(old, null, 'old')).toEqual({ seq: 9, state: { a: 1 } });
  expect(pickSlot(null, null, 'old')).toBeNull();
});
