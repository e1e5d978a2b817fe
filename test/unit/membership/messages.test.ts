import { expect, test } from 'vitest';
import { decode, encode } from '../../../crdt/codec.ts';
import type { NodeId } from '../../../crdt/ids.ts';
import {
  incarnationMax,
  parseBody,
  rumoursPerMessageMax,
  toBody,
  type Message,
} from '../../../daemon/membership/messages.ts';

const a = 'a1'.repeat(32) as NodeId;
const b = 'b2'.repeat(32) as NodeId;
const r = [
  { node: a, status: 'suspect', incarnation: 3, from: b },
  { node: b, status: 'left', incarnation: 0, from: null },
] as const;

const messages: Message[] = [
  { k: 'ping', q: 7, i: 2, r: [] },
  { k: 'ack', q: 7, i: 2, n: null, r },
  { k: 'ack', q: 7, i: 2, n: a, r: [] },
  { k: 'ask', q: 9, n: b, r },
  { k: 'nack', q: 9, r: [] },
  { k: 'gossip', r },
  { k: 'sync', i: 0, r },
];

test.each(messages.map((message) => [message.k, message] as const))(
  '%s survives the wire',
  (_, message) => {
    expect(parseBody(decode(encode({ t: 'swim', ...toBody(message) })))).toEqual(message);
  },
);

test('a probe of an idle cluster is a few bytes', () => {
  expect(
    encode({ t: 'swim', ...toBody({ k: 'ping', q: 70_000, i: 12, r: [] }) }).length,
  ).toBeLessThan(32);
});

test('unknown keys and rumour kinds of a newer version are passed over', () => {
  const body = {
    ...toBody({ k: 'gossip', r }),
    x: 1,
    r: [[new Uint8Array(32), 9, 1], ...(toBody({ k: 'gossip', r })['r'] as unknown[])],
  };
  expect(parseBody(body)).toEqual({ k: 'gossip', r });
});

test.each([
  ['nothing', null],
  ['a list', []],
  ['an unknown kind', { k: 'pong', q: 1, i: 1 }],
  ['no sequence number', { k: 'ping', i: 1 }],
  ['a negative incarnation', { k: 'ping', q: 1, i: -1 }],
  ['an incarnation that leaves no room', { k: 'ping', q: 1, i: incarnationMax * 2 }],
  ['a fraction', { k: 'ping', q: 1.5, i: 1 }],
  ['a short node id', { k: 'ask', q: 1, n: new Uint8Array(31) }],
  ['rumours that are no list', { k: 'gossip', r: 'x' }],
  ['a rumour that is no list', { k: 'gossip', r: [7] }],
  [
    'too many rumours',
    {
      k: 'gossip',
      r: Array.from({ length: rumoursPerMessageMax + 1 }, () => [new Uint8Array(32), 0, 1]),
    },
  ],
])('%s is refused, not thrown', (_, body) => {
  expect(parseBody(body)).toBeNull();
});
