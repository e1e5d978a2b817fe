import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeFrame, encodeHeader, scanLog } from '../../daemon/store/framing.ts';

const records = fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 8 });

function fileOf(list: readonly Uint8Array[]): Uint8Array {
  return new Uint8Array(Buffer.concat([encodeHeader(), ...list.map(encodeFrame)]));
}

test('a log cut anywhere gives a prefix of its records and is never called corrupt', () => {
  fc.assert(
    fc.property(records, fc.double({ min: 0, max: 1, noNaN: true }), (list, where) => {
      const whole = fileOf(list);
      const cut = whole.subarray(0, Math.floor(where * whole.length));
      const scan = scanLog(cut);
      expect(scan.records).toEqual(list.slice(0, scan.records.length));
      expect(scan.kind).not.toBe('corrupt');
      expect(scan.kind === 'clean').toBe(scan.badBytes === 0);
    }),
  );
});

test('one changed byte costs at most one record', () => {
  fc.assert(
    fc.property(records, fc.nat(), fc.integer({ min: 1, max: 255 }), (list, at, change) => {
      const bytes = fileOf(list);
      const index = at % bytes.length;
      bytes[index] = (bytes[index] ?? 0) ^ change;
      const scan = scanLog(bytes);
      if (scan.kind === 'newer') throw new Error('a flip must not look like a newer version');
      expect(scan.kind).not.toBe('clean');
      expect(scan.records.length).toBeGreaterThanOrEqual(list.length - 1);
      const kept = new Set(list.map((record) => Buffer.from(record).toString('hex')));
      for (const record of scan.records)
        expect(kept).toContain(Buffer.from(record).toString('hex'));
    }),
  );
});
