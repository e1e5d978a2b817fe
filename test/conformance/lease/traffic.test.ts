/** The kernel's traffic gate with real packets: a client, a host that forwards, and a container, each a network namespace. */
import { execFileSync, spawnSync } from 'node:child_process';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { TrafficGate } from '../../../daemon/lease/guard/traffic.ts';
import type { Log } from '../../../daemon/ports.ts';
import { eventually, measureFor } from '../../await.ts';
import { quietLog } from './scratch-gates.ts';

const [client, host, container] = ['c', 'h', 'x'].map((name) => `tt${process.pid}${name}`) as [
  string,
  string,
  string,
];
const address = '10.99.0.2';
const ip = (...args: string[]): void => void execFileSync('ip', args);
const inside = (namespace: string): string[] => [`--net=/run/netns/${namespace}`];

function join(namespace: string, subnet: string): void {
  const link = `v${namespace.slice(-1)}${process.pid}`;
  ip('-n', host, 'link', 'add', link, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', namespace);
  ip('-n', host, 'addr', 'add', `${subnet}.1/24`, 'dev', link);
  ip('-n', namespace, 'addr', 'add', `${subnet}.2/24`, 'dev', 'eth0');
  ip('-n', host, 'link', 'set', link, 'up');
  ip('-n', namespace, 'link', 'set', 'eth0', 'up');
  ip('-n', namespace, 'route', 'add', 'default', 'via', `${subnet}.1`);
}

beforeAll(() => {
  for (const namespace of [client, host, container]) ip('netns', 'add', namespace);
  join(client, '10.98.0');
  join(container, '10.99.0');
  execFileSync('nsenter', [...inside(host), 'sysctl', '-qw', 'net.ipv4.ip_forward=1']);
  // As engines and firewalls do: whatever is established passes.
  const accept = 'FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT';
  execFileSync('nsenter', [...inside(host), 'iptables', '-I', ...accept.split(' ')]);
});
afterAll(() => {
  for (const namespace of [client, host, container]) ip('netns', 'del', namespace);
});

let gate: TrafficGate | null = null;
afterEach(() => {
  gate?.close();
  execFileSync('nsenter', [...inside(host), 'nft', 'delete table ip trellis_x_0a0a0a0a_0102']);
});

const nowMs = (): number => performance.now();

function start(log: Log = quietLog, until?: ReadonlyMap<string, number>): TrafficGate {
  const command = ['nsenter', ...inside(host), 'nft'];
  const ours = { cluster8: '0a0a0a0a', host4: '0102', log, nowMs, command };
  gate = new TrafficGate(until === undefined ? ours : { ...ours, untilMs: until });
  gate.setLeases(new Map([['web', [address]]]));
  return gate;
}

/** From the client through the host, and from the host itself. */
function passes(from: string): boolean {
  const args = [...inside(from), 'busybox', 'ping', '-c', '1', '-W', '1', address];
  return spawnSync('nsenter', args, { stdio: 'ignore' }).status === 0;
}

const through = (is: boolean): Promise<unknown> =>
  eventually(() => passes(client) === is && passes(host) === is, {
    withinMs: 15_000,
    what: is ? 'packets pass' : 'packets are dropped',
  });

test('nothing passes before the lease is held, everything while it is, nothing after', async () => {
  expect(passes(client)).toBe(true);
  const { set, flush } = bound(start());
  await through(false);
  set(nowMs() + 60_000);
  flush();
  await through(true);
  set(null);
  flush();
  await through(false);
});

test('what is established is cut too, by the kernel, when nobody refreshes', async () => {
  const { set, flush } = bound(start());
  set(nowMs() + 60_000);
  flush();
  await through(true);
  const startMs = nowMs();
  set(startMs + 1_500);
  flush();
  gate?.close();
  await through(false);
  expect(nowMs() - startMs).toBeGreaterThan(1_400);
});

test('refreshes keep it open longer than any one of them', async () => {
  const { set, flush } = bound(start());
  for (let round = 0; round < 8; round += 1) {
    set(nowMs() + 900);
    flush();
    await measureFor(300);
  }
  expect(passes(client)).toBe(true);
  expect(gate?.fault).toBeNull();
});

test('a guard that continues cuts nothing', async () => {
  const before = bound(start());
  before.set(nowMs() + 60_000);
  before.flush();
  await through(true);
  gate?.close();
  start(quietLog, new Map([['web', nowMs() + 60_000]]));
  for (let round = 0; round < 10; round += 1) expect(passes(client)).toBe(true);
});

test('parked work has no end, and what is exclusive no more passes', async () => {
  const { set, flush } = bound(start());
  set(1e15);
  flush();
  await through(true);
  set(null);
  flush();
  await through(false);
  gate?.setLeases(new Map());
  await through(true);
});

test('a tool that is not there is a warning', async () => {
  start();
  const lame = new TrafficGate({
    cluster8: '0b0b0b0b',
    host4: '0102',
    log: quietLog,
    nowMs,
    command: ['/absent/nft'],
  });
  lame.setLeases(new Map([['web', [address]]]));
  lame.set('web', 1);
  lame.flush();
  await eventually(() => lame.fault !== null, { withinMs: 5_000 });
  lame.close();
  await through(false);
});

function bound(of: TrafficGate): { set: (untilMs: number | null) => void; flush: () => void } {
  return { set: (untilMs) => of.set('web', untilMs), flush: () => of.flush() };
}
