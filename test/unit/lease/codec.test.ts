/**
 * `node test/unit/lease/golden.ts` prints what this version writes; the fixture holds what the first one wrote, and guards
 * of neighbouring versions speak with each other.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { unhex } from '../../../crdt/ids.ts';
import { ByteWriter } from '../../../daemon/lease/codec-bytes.ts';
import { codecLimits, definitions, kinds } from '../../../daemon/lease/codec-words.ts';
import {
  FrameDecoder,
  FrameEncoder,
  commonVersion,
  wireVersions,
} from '../../../daemon/lease/codec.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import { leaseLimits } from '../../../daemon/lease/model.ts';
import { goldenFrames } from './golden.ts';
import { sampleChosen, sampleMessages } from './messages.ts';

const golden = JSON.parse(
  readFileSync(new URL('../../fixtures/golden/lease-wire-v2.json', import.meta.url), 'utf8'),
) as { frames: Record<string, string> };

const all: Message[] = Object.values(sampleMessages);

/** One frame of parts: kind, then fields as numbers, texts, or bytes. */
function frameOf(...parts: readonly (readonly [number, ...(number | string | Uint8Array)[]])[]) {
  const frame = new ByteWriter();
  for (const [kind, ...fields] of parts) {
    const part = new ByteWriter();
    for (const field of fields) {
      if (typeof field === 'number') part.number(field);
      else if (typeof field === 'string') part.text(field);
      else part.raw(field);
    }
    frame.number(kind);
    frame.part(part);
  }
  return frame.slice(0, frame.length);
}

const env = [definitions.env, 'prod'] as const;
const lock = [definitions.name, 'lock/x'] as const;
const link = [definitions.link, 0, 2, 8] as const;
const owner = [definitions.owner, new Uint8Array(28)] as const;
const expired = [kinds.expired, 0, 0, 1] as const;
const expiredMessage = { kind: 'expired', env: 'prod', name: 'lock/x', epoch: 1 };

function decoded(...frames: readonly Uint8Array[]): readonly Message[] {
  const decoder = new FrameDecoder();
  return frames.flatMap((frame) => {
    const read = decoder.decode(frame);
    if ('rejected' in read) throw new Error(read.rejected);
    return read;
  });
}

describe('golden bytes of version 2', () => {
  test('this version writes the same', () => {
    expect(wireVersions).toEqual([2, 2]);
    expect(goldenFrames()).toEqual(golden.frames);
  });

  test.each(Object.keys(sampleMessages))('%s is understood', (name) => {
    const message = sampleMessages[name as keyof typeof sampleMessages];
    expect(decoded(unhex(golden.frames[name] ?? '')!)).toEqual([message]);
  });

  test('a renewal that names what was said before is understood', () => {
    const [first, again] = ['accept', 'accept again'].map((name) => unhex(golden.frames[name]!)!);
    const { accept } = sampleMessages;
    expect(decoded(first!, again!)).toEqual([accept, accept]);
    expect(again!.length).toBeLessThan(first!.length / 4);
  });
});

describe('versions of frames', () => {
  test('the highest that both ends speak is spoken', () => {
    expect(commonVersion([2, 2])).toBe(2);
    expect(commonVersion([2, 9])).toBe(2);
    expect(commonVersion([2, 3], [2, 4])).toBe(3);
    expect(commonVersion([4, 6], [2, 4])).toBe(4);
    expect(commonVersion([5, 6], [2, 4])).toBe(null);
  });

  test('an end that names none, or nonsense, speaks version 1, which is not spoken here', () => {
    for (const theirs of [undefined, null, 2, [], [2], ['2', '2'], [3, 2], [2, 2.5], {}])
      expect(commonVersion(theirs)).toBe(null);
  });
});

describe('frames between guards', () => {
  test('hold one of everything', () => {
    const frames = new FrameEncoder().encode(all);
    expect(frames.length).toBe(1);
    expect(decoded(...frames)).toEqual(all);
    expect(new FrameEncoder().encode([])).toEqual([]);
  });

  test('may be empty', () => {
    expect(decoded(new Uint8Array(0))).toEqual([]);
  });

  test('are small: a renewal and its answer, alone and of many', () => {
    const encoder = new FrameEncoder();
    const { accept, accepted } = sampleMessages;
    encoder.encode([accept, accepted]);
    const counter = 1_000_000;
    const next = { ...accept, ballot: { ...accept.ballot, counter }, epoch: 100_000 };
    expect(encoder.encode([next])[0]?.length).toBeLessThanOrEqual(16);
    const answer = { ...accepted, ballot: next.ballot };
    expect(encoder.encode([answer])[0]?.length).toBeLessThanOrEqual(11);
    const many = Array.from({ length: 500 }, (_, i) => ({ ...next, name: `${accept.name}${i}` }));
    encoder.encode(many);
    const [frame] = encoder.encode(many);
    expect(frame!.length / many.length).toBeLessThan(17);
  });

  test('name whom nobody has fenced yet, at the end of their parts', () => {
    const { accept, promise } = sampleMessages;
    const unfenced = [accept.ballot.host];
    for (const message of [
      { ...accept, unfenced },
      { ...promise, unfenced },
      { ...promise, unfenced: [] },
    ])
      expect(decoded(...new FrameEncoder().encode([message]))).toEqual([message]);
  });

  test('what a newer version adds is passed over', () => {
    const frames = [
      frameOf([...env, 7], [...lock, 7], [...expired, 5, 'new'], [99, 1, 2, 'what'], [50], expired),
      frameOf([definitions.name, 'lock/y'], [40, 5], expired),
    ];
    expect(decoded(...frames)).toEqual([expiredMessage, expiredMessage, expiredMessage]);
    const chosen = { ...sampleChosen, config: { ...sampleChosen.config, extra: 1 } };
    const config = frameOf([kinds.config, JSON.stringify(chosen)]);
    expect(decoded(config)).toEqual([sampleMessages.config]);
  });

  test.each([
    ['a kind without a length', Uint8Array.of(11)],
    ['a kind too high', Uint8Array.of(128, 1, 0)],
    ['a part longer than the frame', Uint8Array.of(11, 5, 1)],
    ['a field behind the end of its part', frameOf(env, lock, [kinds.expired, 0, 0])],
    ['a number in a longer form than needed', Uint8Array.of(11, 128, 0)],
    ['a number without an end', new Uint8Array(20).fill(255)],
    ['a place of nothing', frameOf([kinds.expired, 0, 0, 1])],
    ['a place behind what was said', frameOf(env, lock, [kinds.expired, 0, 1, 1])],
    ['a place that was forgotten', frameOf(env, lock, [definitions.forget], expired)],
    ['a link of an environment that was not said', frameOf([definitions.link, 0, 1, 1])],
    ['an environment with a capital', frameOf([definitions.env, 'Prod'])],
    ['a lease with a space', frameOf([definitions.name, 'lock x'])],
    ['a lease without a name', frameOf([definitions.name, ''])],
    ['a lease with a long name', frameOf([definitions.name, 'x'.repeat(161)])],
    ['a name that is no UTF-8', frameOf([definitions.name, Uint8Array.of(2, 0xff, 0xfe)])],
    ['an owner cut short', frameOf([definitions.owner, new Uint8Array(27)])],
    ['an epoch too high', frameOf(env, lock, [kinds.expired, 0, 0, hexBytes('81808080808040')])],
    ['an epoch higher', frameOf(env, lock, [kinds.expired, 0, 0, hexBytes('ffffffffffff7f')])],
    ['a purpose that is none', frameOf(env, lock, link, owner, [kinds.accepted, 0, 0, 0, 1, 8])],
    ['a flag that is none', frameOf(env, lock, link, owner, [kinds.prepare, 0, 0, 0, 1, 2])],
    ['a state that is none', frameOf(env, lock, owner, [kinds.learn, 0, 0, 1, 0, 5, 3])],
    ['a duration too long', frameOf(env, lock, owner, [kinds.learn, 0, 0, 1, 0, 86_400_001, 0])],
    ['a generation too high', frameOf(env, [definitions.link, 0, 2 ** 31 + 1, 1])],
    ['a configuration that is no JSON', frameOf([kinds.config, '{'])],
    ['a configuration that is none', frameOf([kinds.config, '{"config":{}}'])],
    ['a frame too long', new Uint8Array(leaseLimits.frameBytesMax + 1)],
    ['deep brackets', frameOf([kinds.config, '['.repeat(400_000)])],
    ['brackets that end', frameOf([kinds.config, `${'['.repeat(40_000)}${']'.repeat(40_000)}`])],
    ['many small values', frameOf([kinds.config, `[${'1,'.repeat(codecLimits.marksMax)}1]`])],
    ['too many messages', frameOf(env, lock, ...Array.from({ length: 1_025 }, () => expired))],
    ['too many names to remember', frameOf(...Array.from({ length: 8_193 }, () => lock))],
    ['too many owners to remember', frameOf(...Array.from({ length: 1_025 }, () => owner))],
    ['too many environments to remember', frameOf(...Array.from({ length: 65 }, () => env))],
    ['too many links to remember', frameOf(env, ...Array.from({ length: 257 }, () => link))],
    [
      'too many names in one watch',
      frameOf(env, lock, [kinds.watch, 0, 1_025, new Uint8Array(1_025)]),
    ],
    [
      'too many names in all',
      frameOf(
        env,
        lock,
        ...Array.from(
          { length: 49 },
          () => [kinds.watch, 0, 1_024, new Uint8Array(1_024)] as const,
        ),
      ),
    ],
  ])('with %s are rejected', (_, bytes) => {
    const decoder = new FrameDecoder();
    expect(decoder.decode(bytes)).toMatchObject({ rejected: expect.any(String) });
    // What it names may be something else at the other end from now on.
    expect(decoder.decode(frameOf())).toMatchObject({ rejected: expect.any(String) });
  });

  test('the highest number passes', () => {
    const epoch = leaseLimits.counterMax;
    expect(decoded(frameOf(env, lock, [kinds.expired, 0, 0, epoch]))).toEqual([
      { ...expiredMessage, epoch },
    ]);
  });

  test('durations are whole milliseconds, never less than meant', () => {
    const sent = { ...sampleMessages.reject, remainMs: 0.2 };
    expect(decoded(...new FrameEncoder().encode([sent]))).toEqual([{ ...sent, remainMs: 1 }]);
    const endless = { ...sampleMessages.reject, remainMs: Infinity };
    const read = decoded(...new FrameEncoder().encode([endless]));
    expect(read).toEqual([{ ...endless, remainMs: 86_400_000 }]);
  });

  test('many messages become several frames, each within the limits', () => {
    const floors = Array.from({ length: 512 }, (_, i) => ({
      name: `lock/${i}${'"'.repeat(150)}`,
      epoch: i,
      owner: { host: sampleChosen.config.voters[0]!, session: 'e'.repeat(24) },
    }));
    const config = { ...sampleChosen.config, floors };
    const big = {
      ...sampleMessages['chain-promise'],
      floors,
      accepted: { ballot: sampleMessages.prepare.ballot, config },
    };
    const names = Array.from({ length: 2_500 }, (_, i) => `lock/${i}`);
    const messages: Message[] = [
      ...Array.from({ length: 2_000 }, () => sampleMessages.promise),
      big,
      big,
      big,
      { ...sampleMessages.watch, names },
    ];
    const frames = new FrameEncoder().encode(messages);
    for (const frame of frames) expect(frame.length).toBeLessThanOrEqual(leaseLimits.frameBytesMax);
    const read = decoded(...frames);
    expect(read.slice(0, 2_003)).toEqual(messages.slice(0, 2_003));
    const watched = read.slice(2_003);
    expect(watched.length).toBe(3);
    expect(watched.flatMap((one) => (one.kind === 'watch' ? one.names : []))).toEqual(names);
  });

  test('a connection that has said more than anybody remembers begins anew, and goes on', () => {
    const encoder = new FrameEncoder();
    const decoder = new FrameDecoder();
    for (let round = 0; round < 3 * codecLimits.namesMax; round += 100) {
      const messages = Array.from({ length: 100 }, (_, i): Message => ({
        ...sampleMessages.accept,
        name: `lock/${round + i}`,
        ballot: {
          ...sampleMessages.accept.ballot,
          session: String(round + i).padStart(24, '0'),
        },
      }));
      expect(encoder.encode(messages).map((frame) => decoder.decode(frame))).toEqual([messages]);
    }
  });
});

function hexBytes(text: string): Uint8Array {
  return unhex(text) ?? new Uint8Array(0);
}
