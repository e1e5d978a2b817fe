/** Connections between guards over real sockets on loopback. */
import { randomBytes } from 'node:crypto';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { hex, type ClusterId, type HostId, type NodeId } from '../../../crdt/ids.ts';
import { keyPairFromSeed } from '../../../daemon/crypto.ts';
import { certifyLeaseKey, type LeaseCertificate } from '../../../daemon/lease/certificate.ts';
import type { GuardPeer } from '../../../daemon/lease/guard-api.ts';
import { FrameEncoder } from '../../../daemon/lease/codec.ts';
import { frameKinds } from '../../../daemon/lease/guard/link.ts';
import {
  channelOpener,
  type Frame,
  type SecureChannel,
} from '../../../daemon/lease/guard/secure-channel.ts';
import { Transport } from '../../../daemon/lease/guard/transport.ts';
import type { Message } from '../../../daemon/lease/messages.ts';
import { leaseLimits } from '../../../daemon/lease/model.ts';
import { systemRandom } from '../../../daemon/random.ts';
import { eventually, measureFor } from '../../await.ts';
import { quietLog } from './scratch-gates.ts';

const clusterId = hex(randomBytes(16)) as ClusterId;

class Node {
  readonly host = hex(randomBytes(16)) as HostId;
  readonly hostKeys = keyPairFromSeed(randomBytes(32));
  readonly seed = randomBytes(32);
  readonly got: { from: HostId; text: string }[] = [];
  readonly errors: string[] = [];
  transport!: Transport;
  port = 0;

  certificate(changes: Partial<LeaseCertificate> = {}): LeaseCertificate {
    const leaseKey = keyPairFromSeed(this.seed).publicKey;
    return {
      ...certifyLeaseKey({ clusterId, host: this.host, leaseKey }, this.hostKeys),
      ...changes,
    };
  }

  async start(certificate = this.certificate(), port = 0): Promise<this> {
    this.transport = new Transport({
      open: channelOpener(this.seed),
      certificate,
      log: { ...quietLog, error: (event) => void this.errors.push(event) },
      random: systemRandom,
      nowMs: () => performance.now(),
      onMessages: (from, messages) => {
        for (const message of messages) this.got.push({ from, text: textOf(message) });
      },
      onPeer: () => undefined,
    });
    this.port = await this.transport.listen('127.0.0.1', port);
    nodes.push(this);
    return this;
  }

  entry(address = `127.0.0.1:${this.port}`): GuardPeer {
    const node = hex(this.hostKeys.publicKey) as NodeId;
    return { host: this.host, name: '', node, addresses: [address] };
  }

  send(to: Node, text: string): void {
    this.transport.send(to.host, [messageOf(text)]);
  }

  reaches(other: Node): Promise<unknown> {
    return eventually(() => this.transport.isReachable(other.host), { withinMs: 10_000 });
  }
}

function messageOf(name: string): Message {
  return { kind: 'expired', env: 'prod', name, epoch: 1 };
}

function textOf(message: Message): string {
  return message.kind === 'expired' ? message.name : `${message.kind}`;
}

const nodes: Node[] = [];
const others: (Server | Socket)[] = [];
afterEach(() => {
  for (const node of nodes.splice(0)) node.transport.close();
  for (const other of others.splice(0)) {
    if ('destroy' in other) other.destroy();
    else other.close();
  }
});

async function pair(): Promise<[Node, Node]> {
  const [a, b] = [await new Node().start(), await new Node().start()];
  a.transport.setPeers([b.entry()]);
  b.transport.setPeers([a.entry()]);
  await Promise.all([a.reaches(b), b.reaches(a)]);
  return [a, b];
}

/** Passes bytes on until it is cut; what was under way then hangs, as on a dead link. */
async function middle(target: number): Promise<{ port: number; cut(): void; heal(): void }> {
  let isCut = false;
  const server = createServer((inbound) => {
    const outbound = connect(target, '127.0.0.1');
    for (const [from, to] of [
      [inbound, outbound],
      [outbound, inbound],
    ] as const) {
      from.on('data', (bytes) => void (isCut || to.write(bytes)));
      from.on('close', () => void (isCut || to.destroy()));
      from.on('error', () => from.destroy());
      others.push(from);
    }
    if (isCut) outbound.destroy();
  });
  others.push(server);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('no address');
  return { port: address.port, cut: () => (isCut = true), heal: () => (isCut = false) };
}

describe('frames', () => {
  test('arrive in both directions, in order, from who sent them', async () => {
    const [a, b] = await pair();
    for (let n = 0; n < 100; n += 1) {
      a.send(b, `a${n}`);
      b.send(a, `b${n}`);
    }
    await eventually(() => a.got.length === 100 && b.got.length === 100, { withinMs: 10_000 });
    expect(b.got).toEqual(Array.from({ length: 100 }, (_, n) => ({ from: a.host, text: `a${n}` })));
  });

  test('as large as the limit pass', async () => {
    const [a, b] = await pair();
    const names = Array.from({ length: 1_024 }, (_, n) => `${n}${'x'.repeat(150)}`);
    const before = a.transport.counters.bytesOut;
    a.transport.send(b.host, [{ kind: 'watch', env: 'prod', names }, messageOf('last')]);
    await eventually(() => b.got.length === 2, { withinMs: 10_000 });
    expect(b.got.map(({ text }) => text)).toEqual(['watch', 'last']);
    expect(a.transport.counters.bytesOut - before).toBeGreaterThan(150_000);
  });

  test('are small when what they name was named before', async () => {
    const [a, b] = await pair();
    const sent = (): number => a.transport.counters.bytesOut;
    a.send(b, 'service/prod/0123456789abcdef');
    const first = sent();
    a.send(b, 'service/prod/0123456789abcdef');
    expect(sent() - first).toBeLessThan(6);
    await eventually(() => b.got.length === 2, { withinMs: 10_000 });
    expect(b.got[1]).toEqual(b.got[0]);
  });

  test('that wait for a connection are few, and old ones go first', async () => {
    const a = await new Node().start();
    const b = await new Node().start();
    a.transport.setPeers([b.entry()]);
    for (let n = 0; n < 40; n += 1) a.send(b, `${n}`);
    b.transport.setPeers([a.entry()]);
    await eventually(() => b.got.some(({ text }) => text === '39'), { withinMs: 10_000 });
    expect(b.got.length).toBeLessThanOrEqual(16);
    expect(a.transport.counters.framesDropped).toBeGreaterThanOrEqual(24);
  });

  test('to who is no peer are dropped', async () => {
    const a = await new Node().start();
    a.transport.send('00'.repeat(16) as HostId, [messageOf('x')]);
    expect(a.transport.counters.framesDropped).toBe(1);
  });
});

/** A member that does as it is told: certificate first, then frames. */
async function raw(
  node: Node,
  target: Node,
  wire: unknown,
): Promise<{ channel: SecureChannel; frames: Frame[]; isClosed: () => boolean }> {
  const socket = connect(target.port, '127.0.0.1');
  others.push(socket);
  socket.on('error', () => socket.destroy());
  const open = await channelOpener(node.seed)(socket, 'outbound', AbortSignal.timeout(10_000));
  const frames: Frame[] = [];
  let isClosed = false;
  const channel = open({
    onFrame: ({ kind, body }) => frames.push({ kind, body: Uint8Array.from(body) }),
    onClose: () => (isClosed = true),
    onDrain: () => undefined,
    bodyBytesMax: () => leaseLimits.frameBytesMax,
  });
  const hello = Buffer.from(JSON.stringify({ ...node.certificate(), wire }));
  channel.send({ kind: frameKinds.certificate, body: hello });
  return { channel, frames, isClosed: () => isClosed };
}

describe('members', () => {
  test.each([
    ['of another version of frames', [5, 6]],
    ['of before versions were named', undefined],
  ])('%s are told ours and disconnected, and it is said once', async (_what, wire) => {
    const a = await new Node().start();
    const b = new Node();
    a.transport.setPeers([b.entry('127.0.0.1:1')]);
    for (let round = 1; round <= 2; round += 1) {
      const { frames, isClosed } = await raw(b, a, wire);
      await eventually(isClosed, { withinMs: 10_000 });
      const hello = JSON.parse(Buffer.from(frames[0]!.body).toString()) as { wire: unknown };
      expect(hello).toMatchObject({ host: a.host, wire: [2, 2] });
      expect(a.transport.counters).toMatchObject({ otherVersions: round, strangers: 0 });
    }
    expect(a.errors).toEqual(['guard.other-version']);
    expect(a.transport.isReachable(b.host)).toBe(false);
  });

  test('whose frames cannot be read are disconnected, and heard again on a new connection', async () => {
    const a = await new Node().start();
    const b = new Node();
    a.transport.setPeers([b.entry('127.0.0.1:1')]);
    const first = await raw(b, a, [2, 3]);
    await a.reaches(b);
    const [body] = new FrameEncoder().encode([messageOf('one')]);
    // The second names what the first, which is missing, would have said.
    first.channel.send({ kind: frameKinds.messages, body: body!.subarray(6) });
    await eventually(first.isClosed, { withinMs: 10_000 });
    expect(a.transport.counters.framesRejected).toBe(1);
    expect(a.got).toEqual([]);
    const second = await raw(b, a, [2, 3]);
    await a.reaches(b);
    second.channel.send({ kind: frameKinds.messages, body: body! });
    await eventually(() => a.got.length === 1, { withinMs: 10_000 });
  });
});

describe('strangers', () => {
  test.each([
    ['who is not listed', (b: Node) => b.certificate(), false],
    [
      'whose certificate is for another lease key',
      (b: Node) => b.certificate({ leaseKey: 'ab'.repeat(32) }),
      true,
    ],
    [
      'of another cluster',
      (b: Node) => b.certificate({ clusterId: 'cd'.repeat(16) as ClusterId }),
      true,
    ],
    ['whose certificate nobody signed', (b: Node) => b.certificate({ sig: 'ef'.repeat(64) }), true],
    [
      'who say that they are somebody else',
      (b: Node) => b.certificate({ host: '12'.repeat(16) as HostId }),
      true,
    ],
  ] as const)('%s are refused', async (_what, certificateOf, isListed) => {
    const a = await new Node().start();
    const b = new Node();
    await b.start(certificateOf(b));
    if (isListed) a.transport.setPeers([b.entry('127.0.0.1:1')]);
    b.transport.setPeers([a.entry()]);
    b.send(a, 'hello');
    await eventually(() => a.transport.counters.strangers > 0, { withinMs: 10_000 });
    expect(a.got).toEqual([]);
    expect(a.transport.isReachable(b.host)).toBe(false);
    expect(b.transport.isReachable(a.host)).toBe(false);
  });

  test('a member that answers for another one is not believed', async () => {
    const [a, b, c] = [
      await new Node().start(),
      await new Node().start(),
      await new Node().start(),
    ];
    b.transport.setPeers([a.entry()]);
    a.transport.setPeers([
      { ...c.entry(), addresses: [`127.0.0.1:${b.port}`] },
      b.entry('127.0.0.1:1'),
    ]);
    await eventually(() => a.transport.counters.strangers > 0, { withinMs: 10_000 });
    expect(a.transport.isReachable(c.host)).toBe(false);
  });

  test('who say nothing, or anything, are closed and keep nobody out', async () => {
    const [a, b] = [await new Node().start(), await new Node().start()];
    const silent = Array.from({ length: 100 }, () => connect(a.port, '127.0.0.1'));
    const ended = new Set<Socket>();
    for (const socket of silent) {
      others.push(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => ended.add(socket));
      // Nothing is awaited from the other side; what is not read would keep the end from being seen.
      socket.resume();
    }
    silent[0]?.write(randomBytes(4_000));
    a.transport.setPeers([b.entry()]);
    b.transport.setPeers([a.entry()]);
    await Promise.all([a.reaches(b), b.reaches(a)]);
    b.send(a, 'hello');
    await eventually(() => a.got.length === 1, { withinMs: 10_000 });
    await eventually(() => ended.size === silent.length, { withinMs: 10_000 });
  });
});

describe('connections', () => {
  test('of a member that was removed are closed, and it does not come back', async () => {
    const [a, b] = await pair();
    a.transport.setPeers([]);
    await eventually(() => !b.transport.isReachable(a.host), { withinMs: 10_000 });
    b.send(a, 'late');
    await measureFor(300);
    expect(a.got).toEqual([]);
  });

  test('come back after the other end was started again', async () => {
    const [a, b] = await pair();
    const { port } = b;
    b.transport.close();
    await eventually(() => !a.transport.isReachable(b.host), { withinMs: 10_000 });
    await b.start(b.certificate(), port);
    b.transport.setPeers([a.entry()]);
    await Promise.all([a.reaches(b), b.reaches(a)]);
    a.send(b, 'again');
    await eventually(() => b.got.some(({ text }) => text === 'again'), { withinMs: 10_000 });
  });

  test('over a dead link are given up after about a second, and are back soon after it heals', async () => {
    const [a, b] = [await new Node().start(), await new Node().start()];
    const link = await middle(b.port);
    a.transport.setPeers([b.entry(`127.0.0.1:${link.port}`)]);
    b.transport.setPeers([a.entry('127.0.0.1:1')]);
    await a.reaches(b);
    a.send(b, 'one');
    await eventually(() => b.got.length === 1, { withinMs: 10_000 });
    link.cut();
    const startMs = performance.now();
    a.send(b, 'two');
    await eventually(() => !a.transport.isReachable(b.host), { withinMs: 10_000 });
    expect(performance.now() - startMs).toBeLessThan(5_000);
    link.heal();
    await a.reaches(b);
    a.send(b, 'three');
    await eventually(() => b.got.some(({ text }) => text === 'three'), { withinMs: 10_000 });
  });

  test('an idle one costs next to nothing', async () => {
    const [a, b] = await pair();
    const before = { ...a.transport.counters };
    await measureFor(1_500);
    expect(a.transport.counters).toMatchObject({ framesIn: before.framesIn, dials: before.dials });
    expect(b.transport.counters.linksLost).toBe(0);
  });
});
