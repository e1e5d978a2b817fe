/**
 * `node test/unit/lease/golden.ts` prints what this version writes; the fixture holds what the first one wrote, and guards
 * of neighbouring versions speak with each other.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { codecLimits } from '../../../daemon/lease/codec-words.ts';
import { decodeFrame, encodeFrame, encodeFrames } from '../../../daemon/lease/codec.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import { leaseLimits } from '../../../daemon/lease/model.ts';
import { goldenFrames } from './golden.ts';
import { sampleChosen, sampleMessages } from './messages.ts';

const golden = JSON.parse(
  readFileSync(new URL('../../fixtures/golden/lease-v1.json', import.meta.url), 'utf8'),
) as { frames: Record<string, string> };

const all: Message[] = Object.values(sampleMessages);

function frameOf(json: string, version = 1): Uint8Array {
  return Uint8Array.from([version, ...new TextEncoder().encode(json)]);
}

describe('golden bytes of version 1', () => {
  test('this version writes the same', () => {
    expect(goldenFrames()).toEqual(golden.frames);
  });

  test.each(Object.entries(golden.frames))('%s is understood', (name, text) => {
    const [version, json] = [Number(text[0]), text.slice(1)];
    const message = sampleMessages[name as keyof typeof sampleMessages];
    expect(decodeFrame(frameOf(json, version))).toEqual([message]);
  });
});

describe('frames between guards', () => {
  test('hold one of everything', () => {
    expect(decodeFrame(encodeFrame(all))).toEqual(all);
    expect(encodeFrames(all)).toEqual([encodeFrame(all)]);
    expect(encodeFrames([])).toEqual([]);
  });

  test('may be empty', () => {
    expect(decodeFrame(encodeFrame([]))).toEqual([]);
  });

  test('are small: a renewal alone, and one of many', () => {
    const accept = sampleMessages.accept;
    expect(encodeFrame([accept]).length).toBeLessThan(140);
    const many = Array.from({ length: 500 }, (_, i) => ({ ...accept, name: `${accept.name}${i}` }));
    expect(encodeFrame(many).length / many.length).toBeLessThan(70);
  });

  test('what a newer version adds is passed over', () => {
    const strings = '["prod"]';
    const message = { kind: 'expired', env: 'prod', name: 'lock/x', epoch: 1 };
    const newer = `[${strings},[11,0,"lock/x",1,"new",[7]],[99,"what",{}],[11,0,"lock/x",1]]`;
    expect(decodeFrame(frameOf(newer))).toEqual([message, message]);
    const config = JSON.stringify({
      ...sampleChosen,
      config: { ...sampleChosen.config, extra: 1 },
    });
    expect(decodeFrame(frameOf(`[[],[6,${config}]]`))).toEqual([sampleMessages.config]);
  });

  test.each([
    ['nothing', new Uint8Array(0)],
    ['another version', frameOf('[[]]', 2)],
    ['no JSON', frameOf('[[],')],
    ['no list', frameOf('{"a":1}')],
    ['no strings', frameOf('[]')],
    ['a message that is no list', frameOf('[[],5]')],
    ['a kind that is no number', frameOf('[[],["accept"]]')],
    ['a kind below the first', frameOf('[[],[0]]')],
    ['a place behind the strings', frameOf('[["prod"],[11,1,"lock/x",1]]')],
    ['a place before the strings', frameOf('[["prod"],[11,-1,"lock/x",1]]')],
    ['half a place', frameOf('[["prod"],[11,0.5,"lock/x",1]]')],
    ['an environment with a capital', frameOf('[["Prod"],[11,0,"lock/x",1]]')],
    ['a string that is a number', frameOf('[[5],[11,0,"lock/x",1]]')],
    ['a lease with a space', frameOf('[["prod"],[11,0,"lock x",1]]')],
    ['a lease without a name', frameOf('[["prod"],[11,0,"",1]]')],
    ['a lease with a long name', frameOf(`[["prod"],[11,0,"${'x'.repeat(161)}",1]]`)],
    ['an epoch below 0', frameOf('[["prod"],[11,0,"lock/x",-1]]')],
    ['an epoch and a half', frameOf('[["prod"],[11,0,"lock/x",1.5]]')],
    ['an epoch too high', frameOf('[["prod"],[11,0,"lock/x",1e300]]')],
    ['a missing field', frameOf('[["prod"],[11,0,"lock/x"]]')],
    ['a null field', frameOf('[["prod"],[11,0,"lock/x",null]]')],
    ['a frame too long', new Uint8Array(leaseLimits.frameBytesMax + 1).fill(1)],
    ['deep brackets', frameOf('['.repeat(leaseLimits.frameBytesMax - 1))],
    ['brackets that end', frameOf(`${'['.repeat(40_000)}${']'.repeat(40_000)}`)],
    ['many small values', frameOf(`[[${'1,'.repeat(codecLimits.marksMax)}1]]`)],
    ['too many messages', frameOf(`[[]${',[99]'.repeat(leaseLimits.messagesPerFrameMax + 1)}]`)],
    ['too many strings', frameOf(`[[${'"",'.repeat(codecLimits.stringsMax)}""]]`)],
  ])('with %s are rejected', (_, bytes) => {
    expect(decodeFrame(bytes)).toMatchObject({ rejected: expect.any(String) });
  });

  test('durations are whole milliseconds, never less than meant', () => {
    const sent = { ...sampleMessages.reject, remainMs: 0.2 };
    expect(decodeFrame(encodeFrame([sent]))).toEqual([{ ...sent, remainMs: 1 }]);
    const endless = { ...sampleMessages.reject, remainMs: Infinity };
    expect(decodeFrame(encodeFrame([endless]))).toEqual([{ ...endless, remainMs: 86_400_000 }]);
  });

  test('many messages become several frames, each within the limits', () => {
    const floors = Array.from({ length: 512 }, (_, i) => ({
      name: `lock/${i}${'x'.repeat(150)}`,
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
    const frames = encodeFrames(messages);
    const decoded = frames.flatMap((frame) => {
      expect(frame.length).toBeLessThanOrEqual(leaseLimits.frameBytesMax);
      const read = decodeFrame(frame);
      if ('rejected' in read) throw new Error(read.rejected);
      return read;
    });
    expect(decoded.slice(0, 2_003)).toEqual(messages.slice(0, 2_003));
    const watched = decoded.slice(2_003);
    expect(watched.length).toBe(3);
    expect(watched.flatMap((one) => (one.kind === 'watch' ? one.names : []))).toEqual(names);
  });
});
