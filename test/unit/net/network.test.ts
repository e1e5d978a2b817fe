import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeConfig } from '../../../daemon/config.ts';
import { eventually } from '../../await.ts';
import { addressOf, bytes, clusterB, meshed, TestCluster } from './cluster.ts';

let cluster: TestCluster;

beforeEach(() => {
  cluster = new TestCluster();
});

afterEach(async () => {
  await cluster.close();
});

test('three members connect and exchange frames, in order per sender', async () => {
  const [a, b, c] = [await cluster.start(), await cluster.start(), await cluster.start()];
  await meshed([a, b, c]);
  for (let i = 0; i < 200; i++) {
    a.network.send(c.id, bytes(`a${i}`));
    b.network.send(c.id, bytes(`b${i}`));
  }
  await eventually(() => c.frames.length === 400, { withinMs: 5_000 });
  const texts = (from: string): string[] =>
    c.frames.filter((f) => f.from === from).map((f) => f.text);
  expect(texts(a.id)).toEqual(Array.from({ length: 200 }, (_, i) => `a${i}`));
  expect(texts(b.id)).toEqual(Array.from({ length: 200 }, (_, i) => `b${i}`));
});

test('empty and largest frames arrive, a larger one is dropped and counted', async () => {
  const config = makeConfig({});
  const [a, b] = [await cluster.start({ config }), await cluster.start({ config })];
  await meshed([a, b]);
  a.network.send(b.id, bytes(''));
  a.network.send(b.id, new Uint8Array(config.frameBytesMax).fill(65));
  a.network.send(b.id, new Uint8Array(config.frameBytesMax + 1));
  a.network.send(b.id, bytes('end'));
  await eventually(() => b.frames.length === 3, { withinMs: 10_000 });
  expect(b.frames.map((frame) => frame.text.length)).toEqual([0, config.frameBytesMax, 3]);
  expect(a.network.counters().framesDroppedTooLarge).toBe(1);
});

test('simultaneous dials leave one session in use and lose no connection', async () => {
  for (let round = 0; round < 5; round++) {
    const [a, b] = await Promise.all([cluster.start(), cluster.start()]);
    cluster.changed();
    await meshed([a, b]);
    await eventually(
      () => a.network.counters().connections === 1 && b.network.counters().connections === 1,
      { withinMs: 5_000, what: 'the second connection is closed' },
    );
    expect(a.network.connected()).toEqual([b.id]);
    expect(b.network.connected()).toEqual([a.id]);
    await cluster.close();
    cluster = new TestCluster();
  }
});

test('frames to a member that is not connected are dropped and counted', async () => {
  const a = await cluster.start();
  cluster.roster.add('00'.repeat(32) as never);
  cluster.changed();
  a.network.send('00'.repeat(32) as never, bytes('x'));
  expect(a.network.counters().framesDroppedUnconnected).toBe(1);
});

test('a stranger is refused, counted, and connects once it is a member', async () => {
  const a = await cluster.start();
  const stranger = await cluster.start({ isStranger: true, limits: { redialMsMax: 300 } });
  await eventually(() => a.network.counters().strangersRefused >= 2, { withinMs: 5_000 });
  expect(a.network.connected()).toEqual([]);
  expect(stranger.network.connected()).toEqual([]);
  expect(stranger.peerEvents).toEqual([]);
  cluster.roster.add(stranger.id);
  cluster.addresses.set(stranger.id, addressOf(stranger));
  cluster.changed();
  await meshed([a, stranger]);
});

test('a member that is removed loses its connections at once', async () => {
  const [a, b] = [await cluster.start(), await cluster.start()];
  await meshed([a, b]);
  cluster.roster.delete(b.id);
  a.network.rosterChanged();
  expect(a.network.connected()).toEqual([]);
  await eventually(() => b.network.connected().length === 0, { withinMs: 5_000 });
});

test('members of another cluster never mix, even with keys in the roster', async () => {
  const a = await cluster.start({ limits: { redialMsMax: 300 } });
  const other = await cluster.start({ clusterId: clusterB, limits: { redialMsMax: 300 } });
  await eventually(
    () => a.network.counters().dialsFailed >= 2 && other.network.counters().dialsFailed >= 2,
    { withinMs: 10_000 },
  );
  expect(a.network.connected()).toEqual([]);
  expect(a.peerEvents).toEqual([]);
  expect(other.peerEvents).toEqual([]);
});

test('[stackato:S8] a member that restarts on another port is found again through its new address', async () => {
  const [a, b] = [await cluster.start(), await cluster.start()];
  await meshed([a, b]);
  await cluster.stop(b);
  await eventually(() => a.network.connected().length === 0, { withinMs: 5_000 });
  const again = await cluster.start({ seed: b.seed });
  await meshed([a, again]);
  a.network.send(again.id, bytes('hello again'));
  await eventually(() => again.frames.length === 1, { withinMs: 5_000 });
  expect(a.peerEvents.map((event) => event.isConnected)).toEqual([true, false, true]);
});

test('a dead member is dialled for ever, and found when it is back at its old address', async () => {
  const a = await cluster.start({ limits: { redialMsMin: 20, redialMsMax: 200 } });
  const b = await cluster.start();
  await meshed([a, b]);
  const port = b.network.port();
  await cluster.stop(b);
  const { dials } = a.network.counters();
  await eventually(() => a.network.counters().dials >= dials + 12, { withinMs: 10_000 });
  // Without addresses of its own it cannot dial: `a` must come to it.
  const again = await cluster.start({ seed: b.seed, port });
  await meshed([a, again]);
});

test('disconnect drops the peer and dials it again', async () => {
  const [a, b] = [await cluster.start(), await cluster.start()];
  await meshed([a, b]);
  a.network.disconnect(b.id, 'found silent');
  await eventually(() => a.peerEvents.length >= 2, { withinMs: 5_000 });
  await meshed([a, b]);
  expect(a.peerEvents[1]).toEqual({ peer: b.id, isConnected: false });
});

test('a taken port is refused with PORT_TAKEN', async () => {
  const a = await cluster.start();
  await expect(cluster.start({ port: a.network.port() })).rejects.toMatchObject({
    code: 'PORT_TAKEN',
  });
});
