import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { DurableRecord } from '../../../daemon/lease/core-api.ts';
import { compactRecords, decodeLog, encodeBatch } from '../../../daemon/lease/durable.ts';
import { VolatileStore } from '../../../daemon/lease/guard/volatile-store.ts';
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

test('[trellis:I22] also where only some bytes of the first word were written', () => {
  const before = encodeBatch([{ kind: 'intent', n: 1, isOn: true }]);
  for (let written = 0; written <= 20; written++) {
    const frame = encodeBatch([{ kind: 'intent', n: 2, isOn: false }]);
    frame.fill(0, written);
    const { damage, goodBytes } = decodeLog(joined([before, frame]));
    expect([written, damage, goodBytes]).toEqual([written, 'torn-tail', before.length]);
  }
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

test('[trellis:I22] a guard that is killed at any byte of a write finds what it last wrote whole', () => {
  const states = fc.array(fc.jsonValue({ maxDepth: 2 }), { minLength: 1, maxLength: 6 });
  const dir = mkdtempSync(join(tmpdir(), 'trellis-slots-'));
  const file = join(dir, 'lease.state');
  try {
    fc.assert(
      fc.property(states, where, (list, at) => {
        rmSync(file, { force: true });
        const store = new VolatileStore(dir, slotBytes);
        const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));
        for (const state of list) store.write(state);
        const whole = sized(readFileSync(file));
        expect(store.read()).toEqual(plain(list.at(-1)));
        store.write('next');
        store.close();
        const next = sized(readFileSync(file));
        // The kill: some bytes of the last write are there, the rest are as they were.
        const start = next.findIndex((byte, index) => byte !== whole[index]);
        const cut = start + Math.floor(at * 60);
        writeFileSync(file, Buffer.concat([next.subarray(0, cut), whole.subarray(cut)]));
        const again = new VolatileStore(dir, slotBytes);
        const isWritten = next.equals(sized(readFileSync(file)));
        expect(again.read()).toEqual(isWritten ? 'next' : plain(list.at(-1)));
        again.close();
      }),
      { numRuns: 50 },
    );
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});

const slotBytes = 1 << 16;

/** Both slots in full length: what was never written is zeros. */
function sized(bytes: Buffer): Buffer {
  return Buffer.concat([bytes, Buffer.alloc(2 * slotBytes - bytes.length)]);
}
