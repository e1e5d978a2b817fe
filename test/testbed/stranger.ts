/**
 * What somebody without any right does to a member's ports, run inside a host of the testbed:
 * `node stranger.ts '{"attack":"garbage","host":"10.44.0.1","port":7440,...}'`. Prints what came of it as one line of JSON.
 */
import { randomBytes } from 'node:crypto';
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { unhex } from '../../crdt/ids.ts';
import type { ClusterId, NodeId } from '../../crdt/ids.ts';
import { defaultConfig } from '../../daemon/config.ts';
import { silentLog } from '../../daemon/logger.ts';
import { createNetwork } from '../../daemon/net/create-network.ts';
import { systemRandom } from '../../daemon/random.ts';

export interface Attack {
  readonly attack: 'garbage' | 'flood' | 'tls' | 'libp2p';
  readonly host: string;
  readonly port: number;
  readonly connections?: number;
  /** Sent on each connection. */
  readonly bytes?: number;
  /** Begin as a libp2p dialer would, so that the bytes meet the next layer. */
  readonly isPolite?: boolean;
  readonly seed?: string;
  readonly clusterId?: string;
  readonly node?: string;
}

export interface AttackResult {
  readonly opened: number;
  readonly closed: number;
  /** Bytes that the other side took. */
  readonly sentBytes: number;
  readonly isConnected: boolean;
}

const limitMs = 15_000;
const chunkBytes = 1 << 20;
const greeting = Buffer.concat(
  ['/multistream/1.0.0\n', '/noise\n'].map((line) =>
    Buffer.concat([Buffer.from([line.length]), Buffer.from(line)]),
  ),
);

async function run(attack: Attack): Promise<AttackResult> {
  if (attack.attack === 'libp2p') return joinUnasked(attack);
  const sockets = Array.from({ length: attack.connections ?? 1 }, () => open(attack));
  const limit = Promise.withResolvers<void>();
  const timer = setTimeout(limit.resolve, limitMs);
  await Promise.race([Promise.all(sockets.map((one) => one.closed)), limit.promise]);
  clearTimeout(timer);
  const result = {
    opened: sockets.filter((one) => one.isOpened()).length,
    closed: sockets.filter((one) => one.socket.destroyed).length,
    sentBytes: sockets.reduce((sum, one) => sum + one.socket.bytesWritten, 0),
    isConnected: false,
  };
  for (const { socket } of sockets) socket.destroy();
  return result;
}

function open(attack: Attack): {
  socket: Socket;
  closed: Promise<void>;
  isOpened: () => boolean;
} {
  const { host, port } = attack;
  const socket =
    attack.attack === 'tls'
      ? connectTls({ host, port, rejectUnauthorized: false })
      : connect({ host, port });
  let isOpened = false;
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()));
  // To be thrown out is what is expected here.
  socket.on('error', () => socket.destroy());
  socket.on('connect', () => {
    isOpened = true;
    if (attack.attack === 'garbage') send(socket, attack);
  });
  socket.resume();
  return { socket, closed, isOpened: () => isOpened };
}

function send(socket: Socket, attack: Attack): void {
  let left = attack.bytes ?? 65_536;
  if (attack.isPolite === true) socket.write(greeting);
  const more = (): void => {
    while (left > 0 && !socket.destroyed) {
      const size = Math.min(left, chunkBytes);
      left -= size;
      if (!socket.write(randomBytes(size))) return void socket.once('drain', more);
    }
  };
  more();
}

/** As a daemon would whose key is in no roster, or in another cluster's. */
async function joinUnasked(attack: Attack): Promise<AttackResult> {
  const seed = attack.seed === undefined ? systemRandom.bytes(32) : unhex(attack.seed);
  const node = attack.node as NodeId;
  const network = createNetwork({
    seed: seed ?? new Uint8Array(32),
    clusterId: attack.clusterId as ClusterId,
    listen: ['/ip4/0.0.0.0/tcp/0'],
    isMember: () => true,
    addressesOf: () => [`/ip4/${attack.host}/tcp/${attack.port}`],
    roster: () => [node],
    log: silentLog,
    config: defaultConfig,
    random: systemRandom,
  });
  let isConnected = false;
  network.onPeer((_, is) => (isConnected ||= is));
  await network.start();
  const { promise, resolve } = Promise.withResolvers<void>();
  const timer = setInterval(() => {
    if (isConnected || network.counters().dialsFailed >= 3) resolve();
  }, 50);
  await promise;
  clearInterval(timer);
  const { dials, dialsFailed } = network.counters();
  return { opened: dials, closed: dialsFailed, sentBytes: 0, isConnected };
}

const result = await run(JSON.parse(process.argv[2] ?? '{}') as Attack);
process.stdout.write(`${JSON.stringify(result)}\n`);
process.exit(0);
