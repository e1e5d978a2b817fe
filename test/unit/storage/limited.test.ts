import { expect, test } from 'vitest';
import { limited } from '../../../plugins/storage/limited.ts';
import { streamPair } from '../../conformance/storage/two-hosts.ts';

const word = new Uint8Array([1]);

test('what comes in time comes, and what is sent is sent', async () => {
  const [near, far] = streamPair();
  const messages = limited(near, 1_000).messages[Symbol.asyncIterator]();
  await limited(far, 1_000).send(word);
  expect(await messages.next()).toEqual({ done: false, value: word });
});

test('a side that vanished is given up, and so is the stream', async () => {
  const [near] = streamPair();
  const messages = limited(near, 20).messages[Symbol.asyncIterator]();
  await expect(messages.next()).rejects.toThrow('silent for 20 ms');
  expect(near.ended.aborted).toBe(true);
});

test('a send that never ends is given up', async () => {
  const [near] = streamPair();
  const stuck = { ...near, send: () => new Promise<void>(() => undefined) };
  await expect(limited(stuck, 20).send(word)).rejects.toThrow('silent');
  expect(near.ended.aborted).toBe(true);
});
