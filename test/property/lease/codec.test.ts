import fc from 'fast-check';
import { expect, test } from 'vitest';
import { definitions } from '../../../daemon/lease/codec-words.ts';
import { FrameDecoder, FrameEncoder } from '../../../daemon/lease/codec.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import { message } from './arbitraries.ts';

const messages = fc.array(message, { maxLength: 6 });
/** Of one connection, turn by turn. */
const turns = fc.array(messages, { minLength: 1, maxLength: 6 });
const where = fc.double({ min: 0, max: 1, noNaN: true });

type Read = ReturnType<FrameDecoder['decode']>;

function isResult(read: Read): boolean {
  return Array.isArray(read) || typeof (read as { rejected: string }).rejected === 'string';
}

function framesOf(all: readonly (readonly Message[])[]): Uint8Array[] {
  const encoder = new FrameEncoder();
  return all.flatMap((each) => encoder.encode(each));
}

test('what is written is read: all kinds of messages, turn after turn of a connection', () => {
  fc.assert(
    fc.property(turns, (all) => {
      const encoder = new FrameEncoder();
      const decoder = new FrameDecoder();
      for (const each of all)
        expect(encoder.encode(each).map((frame) => decoder.decode(frame))).toEqual(
          each.length > 0 ? [each] : [],
        );
    }),
    { numRuns: 500 },
  );
});

test('what is read is written the same', () => {
  fc.assert(
    fc.property(turns, (all) => {
      const decoder = new FrameDecoder();
      const frames = framesOf(all);
      const read = frames.map((frame) => decoder.decode(frame));
      const again = read.map((each) => ('rejected' in each ? [] : each));
      expect(framesOf(again)).toEqual(frames);
    }),
  );
});

test('of a frame that was cut short, what is read is its beginning', () => {
  fc.assert(
    fc.property(messages, where, (all, at) => {
      for (const frame of framesOf([all])) {
        const cut = frame.subarray(0, Math.floor(at * frame.length));
        const read = new FrameDecoder().decode(cut);
        if (!('rejected' in read)) expect(read).toEqual(all.slice(0, read.length));
        expect(isResult(read)).toBe(true);
      }
    }),
  );
});

test('a connection of which a frame is missing is read or rejected, never thrown at us', () => {
  fc.assert(
    fc.property(turns, fc.nat(), (all, missing) => {
      const frames = framesOf(all);
      const decoder = new FrameDecoder();
      for (const [at, frame] of frames.entries())
        if (at !== missing % frames.length) expect(isResult(decoder.decode(frame))).toBe(true);
    }),
  );
});

test('changed bytes are read or rejected, never thrown at us', () => {
  const changes = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 8 });
  fc.assert(
    fc.property(turns, changes, (all, list) => {
      const decoder = new FrameDecoder();
      for (const frame of framesOf(all)) {
        for (const [at, byte] of list) frame[at % frame.length] = byte;
        expect(isResult(decoder.decode(frame))).toBe(true);
      }
    }),
    { numRuns: 500 },
  );
});

test('any bytes are read or rejected', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (bytes) => {
      expect(isResult(new FrameDecoder().decode(bytes))).toBe(true);
    }),
    { numRuns: 1_000 },
  );
});

test('parts with the right kinds and any fields are read or rejected', () => {
  const kind = fc.oneof(
    fc.integer({ min: 1, max: 17 }),
    fc.constantFrom(...Object.values(definitions)),
  );
  const fields = fc.oneof(
    fc.uint8Array({ maxLength: 40 }),
    fc.array(fc.nat(5), { maxLength: 14 }).map((all) => Uint8Array.from(all)),
    fc.json({ maxDepth: 5 }).map((json) => {
      const bytes = new TextEncoder().encode(json).subarray(0, 100);
      return Uint8Array.of(bytes.length, ...bytes);
    }),
  );
  const part = fc.tuple(kind, fields).map(([of, bytes]) => [of, bytes.length, ...bytes]);
  fc.assert(
    fc.property(messages, fc.array(part, { maxLength: 5 }), (all, parts) => {
      const decoder = new FrameDecoder();
      // Something is known already, so that places mean something.
      for (const frame of framesOf([all])) decoder.decode(frame);
      expect(isResult(decoder.decode(Uint8Array.from(parts.flat())))).toBe(true);
    }),
    { numRuns: 1_000 },
  );
});
