/** Junk on the peer port: refused, counted, bounded, and members do not notice. */
import { once } from 'node:events';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { makeConfig } from '../../../daemon/config.ts';
import { eventually } from '../../await.ts';
import { bytes, meshed, TestCluster } from './cluster.ts';
import type { TestNode } from './cluster.ts';

let cluster: TestCluster;
const sockets: Socket[] = [];

beforeEach(() => {
  cluster = new TestCluster();
});

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await cluster.close();
});

/** A connection that may be refused at any time. */
function raw(node: TestNode): Socket {
  const socket = connect(node.network.port(), '127.0.0.1');
  // Being thrown out is what the test expects.
  socket.on('error', () => socket.destroy());
  sockets.push(socket);
  return socket;
}

test('a thousand silent connections: few are kept, for a short time, and members talk on', async () => {
  const limits = { handshakeMsMax: 1_500, knownConnectionsPerSecondMax: 300, unprovenMax: 64 };
  const [a, b] = [await cluster.start({ limits }), await cluster.start()];
  await meshed([a, b]);
  let closed = 0;
  for (let i = 0; i < 1_000; i++) {
    const socket = raw(a);
    socket.on('close', () => closed++);
  }
  await eventually(() => a.network.counters().connectionsLimited > 500, { withinMs: 15_000 });
  b.network.send(a.id, bytes('still here'));
  await eventually(() => a.frames.length === 1, { withinMs: 5_000 });
  expect(a.network.counters().connections).toBe(1);
  await eventually(() => closed === 1_000, {
    withinMs: 15_000,
    what: 'silent ones run out of time',
  });
  const { connectionsLimited, handshakesFailed } = a.network.counters();
  expect(handshakesFailed).toBeGreaterThan(0);
  expect(connectionsLimited + handshakesFailed).toBe(1_000);
  const c = await cluster.start();
  await meshed([a, b, c]);
});

test('garbage bytes, before and in place of noise, end the connection and are counted', async () => {
  const limits = { handshakeMsMax: 1_000 };
  const [a, b] = [await cluster.start({ limits }), await cluster.start()];
  await meshed([a, b]);
  const garbage = Buffer.alloc(70_000, 0xa5);
  const selectNoise = Buffer.concat(
    ['/multistream/1.0.0\n', '/noise\n'].map((line) =>
      Buffer.concat([Buffer.from([line.length]), Buffer.from(line)]),
    ),
  );
  for (const junk of [
    garbage,
    Buffer.from('GET / HTTP/1.1\r\n\r\n'),
    Buffer.concat([selectNoise, garbage]),
  ]) {
    const before = a.network.counters().handshakesFailed;
    const socket = raw(a);
    await once(socket, 'connect');
    const ended = new Promise((resolve) => socket.on('close', resolve));
    socket.write(junk);
    socket.resume();
    await ended;
    await eventually(() => a.network.counters().handshakesFailed > before, { withinMs: 5_000 });
  }
  expect(a.network.connected()).toEqual([b.id]);
});

test('unknown addresses get few connections a second', async () => {
  const a = await cluster.start();
  // Without a second member nobody is known at 127.0.0.1.
  cluster.addresses.clear();
  cluster.changed();
  let closed = 0;
  for (let i = 0; i < 50; i++) raw(a).on('close', () => closed++);
  await eventually(() => closed >= 30, { withinMs: 5_000 });
  expect(a.network.counters().connectionsLimited).toBeGreaterThanOrEqual(30);
});

test('a member that sends an oversized frame loses its session, is counted, and may come back', async () => {
  const small = makeConfig({
    frameBytesMax: 300_000,
    editBytesMax: 200_000,
    factBytesMax: 100_000,
  });
  const a = await cluster.start({ config: small });
  const b = await cluster.start({ limits: { redialMsMin: 20 } });
  await meshed([a, b]);
  b.network.send(a.id, new Uint8Array(2_000_000));
  await eventually(() => a.network.counters().protocolErrors === 1, { withinMs: 5_000 });
  expect(a.frames).toEqual([]);
  await meshed([a, b]);
  b.network.send(a.id, bytes('better'));
  await eventually(() => a.frames.length === 1, { withinMs: 5_000 });
});

test('a peer that takes nothing: its queue is bounded, the oldest frames go, others are served', async () => {
  const limits = { queuedBytesPerPeerMax: 1 << 20 };
  const [a, b, c] = [await cluster.start({ limits }), await cluster.start(), await cluster.start()];
  await meshed([a, b, c]);
  // All in one turn: nothing can drain meanwhile.
  for (let i = 0; i < 100; i++) a.network.send(b.id, new Uint8Array(100_000).fill(i));
  a.network.send(c.id, bytes('c'));
  await eventually(() => c.frames.length === 1, { withinMs: 5_000 });
  expect(a.network.counters().framesDroppedFull).toBe(90);
  await eventually(() => b.frames.length === 10, { withinMs: 5_000 });
});
