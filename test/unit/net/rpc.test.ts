import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeConfig } from '../../../daemon/config.ts';
import { ClusterError } from '../../../daemon/errors.ts';
import type { MessageStream } from '../../../daemon/net/peer-network.ts';
import { eventually } from '../../await.ts';
import { bytes, meshed, TestCluster } from './cluster.ts';
import type { TestNode } from './cluster.ts';

let cluster: TestCluster;
let a: TestNode;
let b: TestNode;

beforeEach(async () => {
  cluster = new TestCluster();
  a = await cluster.start();
  b = await cluster.start();
  await meshed([a, b]);
});

afterEach(async () => {
  await cluster.close();
});

const text = (message: Uint8Array): string => new TextDecoder().decode(message);

test('a call gets its reply; many at once get their own', async () => {
  b.network.onCall(async (from, request) => bytes(`${from === a.id ? 'a' : '?'}:${text(request)}`));
  const replies = await Promise.all(
    Array.from({ length: 40 }, (_, i) => a.network.call(b.id, bytes(`${i}`))),
  );
  expect(replies.map(text)).toEqual(Array.from({ length: 40 }, (_, i) => `a:${i}`));
});

test('an error of the other host arrives with its code and details', async () => {
  b.network.onCall(async () => {
    throw new ClusterError('NOT_FOUND', { kind: 'service', name: 'site', list: 'trellis ps' });
  });
  await expect(a.network.call(b.id, bytes('x'))).rejects.toMatchObject({
    code: 'NOT_FOUND',
    details: { kind: 'service', name: 'site' },
    message: expect.stringContaining('no service named site'),
  });
});

test('calls of a host that is not connected, too slow, or lost within the call fail with a code', async () => {
  await expect(a.network.call('00'.repeat(32) as never, bytes('x'))).rejects.toMatchObject({
    code: 'HOST_UNREACHABLE',
  });
  b.network.onCall(() => new Promise(() => {}));
  await expect(a.network.call(b.id, bytes('x'), { timeoutMs: 50 })).rejects.toMatchObject({
    code: 'TIMED_OUT',
  });
  const stop = new AbortController();
  const cancelled = a.network.call(b.id, bytes('x'), { signal: stop.signal });
  stop.abort(new Error('user left'));
  await expect(cancelled).rejects.toThrow('user left');
  const lost = a.network.call(b.id, bytes('x'));
  const seen = expect(lost).rejects.toMatchObject({ code: 'HOST_UNREACHABLE' });
  await cluster.stop(b);
  await seen;
});

test('messages flow in both directions and end with close', async () => {
  b.network.onStream(async (from, stream) => {
    for await (const message of stream.messages) await stream.send(bytes(`${text(message)}!`));
  });
  const stream = await a.network.openStream(b.id);
  for (const word of ['one', 'two', 'three']) await stream.send(bytes(word));
  await stream.close();
  const got: string[] = [];
  for await (const message of stream.messages) got.push(text(message));
  expect(got).toEqual(['one!', 'two!', 'three!']);
});

test('copies of storage have streams and a handler of their own', async () => {
  b.network.onStream((from, stream) => stream.send(bytes('calls')));
  b.network.onStream((from, stream) => stream.send(bytes('copies')), 'copies');
  for (const purpose of ['copies', 'calls'] as const) {
    const stream = await a.network.openStream(b.id, { purpose });
    await stream.send(bytes('which?'));
    await stream.close();
    for await (const message of stream.messages) expect(text(message)).toBe(purpose);
  }
});

test('a slow reader slows the sender: 40 MiB arrive whole through bounded buffers', async () => {
  let sent = 0;
  const opened = Promise.withResolvers<MessageStream>();
  b.network.onStream(async (from, stream) => {
    opened.resolve(stream);
    for (let i = 0; i < 160; i++) {
      await stream.send(new Uint8Array(256 << 10).fill(i));
      sent++;
    }
  });
  const stream = await a.network.openStream(b.id);
  await opened.promise;
  // Nobody reads yet: the sender must come to a stand far from the end.
  let last = -1;
  await eventually(
    () => {
      const isStanding = sent > 0 && sent === last;
      last = sent;
      return isStanding;
    },
    { withinMs: 10_000, everyMs: 300 },
  );
  expect(sent).toBeLessThan(100);
  let received = 0;
  for await (const message of stream.messages) {
    expect(message[0]).toBe(received++);
    expect(message.length).toBe(256 << 10);
  }
  expect(received).toBe(160);
});

test('a stream whose handler fails is lost for the caller, and streams per peer are bounded', async () => {
  b.network.onStream(async () => {
    throw new Error('no such container');
  });
  const failed = await a.network.openStream(b.id);
  await expect(
    (async () => {
      for await (const message of failed.messages) expect(message).toBeUndefined();
    })(),
  ).rejects.toMatchObject({ code: 'HOST_UNREACHABLE' });
  let open = 0;
  b.network.onStream(async (from, stream) => {
    open++;
    for await (const message of stream.messages) expect(message).toBeUndefined();
  });
  const streams = await Promise.all(Array.from({ length: 63 }, () => a.network.openStream(b.id)));
  await eventually(() => open === 63, { withinMs: 5_000 });
  await Promise.allSettled(Array.from({ length: 20 }, () => a.network.openStream(b.id)));
  await eventually(() => b.network.counters().streamsRefused > 0 || open === 64, {
    withinMs: 5_000,
  });
  expect(open).toBe(64);
  for (const stream of streams) stream.abort('enough');
});

test('the largest call passes, a larger one is refused here', async () => {
  const { frameBytesMax } = makeConfig({});
  b.network.onCall(async (_from, request) => request);
  const whole = new Uint8Array(frameBytesMax).fill(3);
  expect((await a.network.call(b.id, whole)).length).toBe(frameBytesMax);
  await expect(a.network.call(b.id, new Uint8Array(frameBytesMax + 1))).rejects.toMatchObject({
    code: 'INVALID',
  });
});
