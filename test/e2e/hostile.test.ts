/** Strangers on the same network: refused, counted, bounded, and the members do not notice. Issue 2, Show 8. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EditAnswer, HostRow } from '../../daemon/operations/answers.ts';
import { repoDir } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { Testbed } from '../testbed/testbed.ts';
import type { Attack, AttackResult } from '../testbed/stranger.ts';

/** h1 and h2 are the cluster, h3 is a cluster of its own, h4 is a bare host. */
const [first, second, foreign, bare] = [0, 1, 2, 3] as const;
const memberIp = '10.44.0.1';
const peerPort = 7440;
const apiPort = 8443;
/** Generous: garbage collection of what was refused comes when it comes. */
const residentBytesMax = 400 << 20;
const growthBytesMax = 150 << 20;

const timings: Record<string, unknown> = {};
let cluster: TestCluster;
let ticket: { id: string; code: string; peers: string[]; caPem: string };

beforeAll(async () => {
  cluster = new TestCluster(await Testbed.create({ hosts: 4, engines: false }));
  await cluster.found();
  ticket = await cluster.json(first, ['invite']);
  cluster.bed.host(second).writeFile('/run/ticket', JSON.stringify(ticket), 0o600);
  await cluster.startDaemon(second);
  await cluster.json(second, ['join', '--code-file', '/run/ticket']);
  await cluster.startDaemon(foreign);
  await cluster.json(foreign, ['init', '--name', 'other', '--env', 'prod']);
  await cluster.startDaemon(bare);
  await cluster.waitReady(2);
});
afterAll(async () => {
  await cluster?.destroy();
  console.log('hostile:', timings);
});

async function metrics(index: number): Promise<Map<string, number>> {
  const text = await cluster.bed
    .host(index)
    .mustExec('curl -fsS --unix-socket /run/trellis/trellis.sock http://d/metrics');
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const at = line.lastIndexOf(' ');
      return [line.slice(0, at), Number(line.slice(at + 1))];
    }),
  );
}

async function attack(what: Omit<Attack, 'host' | 'port'> & { port?: number }) {
  const given: Attack = { host: memberIp, port: peerPort, ...what };
  const command = ['node', `${repoDir}/test/testbed/stranger.ts`, JSON.stringify(given)];
  const text = await cluster.bed.host(foreign).mustExec(command, { timeoutMs: 40_000 });
  return JSON.parse(text) as AttackResult;
}

/** An edit on one member is seen by the other. */
async function editSpreads(key: string): Promise<number> {
  const start = performance.now();
  const args = ['host', 'set', 'h1', `${key}=yes`, '--wait', '--timeout', '15s'];
  const answer = await cluster.json<EditAnswer>(first, args);
  expect(answer.seenBy?.toSorted()).toEqual(['h1', 'h2']);
  return Math.round(performance.now() - start);
}

/** Status and body of a request from h3 over HTTPS; TLS is not what is tested here. */
async function https(
  method: string,
  path: string,
  options: { body?: string; token?: string } = {},
): Promise<{ status: number; body: string }> {
  const args = ['-sk', '-m', '20', '-X', method, '-w', '\\n%{http_code}'];
  if (options.token !== undefined) args.push('-H', `Authorization: Bearer ${options.token}`);
  if (options.body !== undefined)
    args.push('-H', 'Content-Type: application/json', '--data-binary', '@-');
  const url = `https://${memberIp}:${apiPort}${path}`;
  const { stdout } = await cluster.bed
    .host(foreign)
    .exec(['curl', ...args, url], { input: options.body ?? '' });
  const at = stdout.lastIndexOf('\n');
  return { status: Number(stdout.slice(at + 1)), body: stdout.slice(0, at) };
}

async function assertUnharmed(before: ReadonlyMap<string, number>): Promise<void> {
  const after = await metrics(first);
  const resident = after.get('process_resident_memory_bytes') ?? 0;
  timings['resident MB'] = Math.round(resident / 2 ** 20);
  expect(resident).toBeLessThan(residentBytesMax);
  const grown = resident - (before.get('process_resident_memory_bytes') ?? 0);
  expect(grown).toBeLessThan(growthBytesMax);
  expect(after.get('trellis_connections')).toBe(1);
  const rows = await cluster.hosts(second);
  expect(rows.map((row) => row.state)).toEqual(['ready', 'ready']);
}

describe('the peer port', { timeout: 120_000 }, () => {
  let before: Map<string, number>;
  const grown = async (name: string) =>
    ((await metrics(first)).get(name) ?? 0) - (before.get(name) ?? 0);

  it('ends random garbage, TLS clients and 64 MB of anything, and counts them', async () => {
    before = await metrics(first);
    const garbage = await attack({ attack: 'garbage', connections: 5 });
    expect(garbage).toMatchObject({ opened: 5, closed: 5 });
    expect(await attack({ attack: 'tls' })).toMatchObject({ closed: 1 });
    for (const isPolite of [false, true]) {
      const large = await attack({ attack: 'garbage', bytes: 64 << 20, isPolite });
      expect(large.closed).toBe(1);
      expect(large.sentBytes).toBeLessThan(64 << 20);
    }
    expect(await grown('trellis_handshakes_failed_total')).toBeGreaterThanOrEqual(8);
    await assertUnharmed(before);
    timings['edit after garbage, ms'] = await editSpreads('garbage');
  });

  it('refuses a key that is in no roster, and a member of another cluster', async () => {
    before = await metrics(first);
    const { clusterId } = await cluster.json<{ clusterId: string }>(first, ['info']);
    const other = await cluster.json<{ clusterId: string }>(foreign, ['info']);
    const node = (await metricsNode()).node;
    const seed = cluster.bed
      .host(foreign)
      .readFile('/var/lib/trellis/host.key')
      .trim()
      .slice(0, 64);
    const stranger = await attack({ attack: 'libp2p', clusterId, node });
    expect(stranger.isConnected).toBe(false);
    for (const claimed of [clusterId, other.clusterId]) {
      const result = await attack({ attack: 'libp2p', clusterId: claimed, node, seed });
      expect(result.isConnected).toBe(false);
    }
    expect(await grown('trellis_strangers_refused_total')).toBeGreaterThanOrEqual(3);
    await assertUnharmed(before);
    await editSpreads('stranger');
  });

  it('outlives a thousand connections at once while edits go on', async () => {
    before = await metrics(first);
    const flood = attack({ attack: 'flood', connections: 1_000 });
    await eventually(async () => (await grown('trellis_connections_limited_total')) > 0, {
      withinMs: 15_000,
      what: 'the flood has begun',
    });
    timings['edit under a flood, ms'] = await editSpreads('flood');
    expect(await flood).toMatchObject({ closed: 1_000 });
    const refused =
      (await grown('trellis_connections_limited_total')) +
      (await grown('trellis_handshakes_failed_total'));
    expect(refused).toBeGreaterThan(900);
    await assertUnharmed(before);
    await editSpreads('after-flood');
  });
});

/** Node ids are shown by `host show`. */
async function metricsNode(): Promise<{ node: string }> {
  return cluster.json<{ node: string }>(first, ['host', 'show', 'h1']);
}

describe('HTTPS', { timeout: 120_000 }, () => {
  it('gives nothing away without a token', async () => {
    for (const [method, path] of [
      ['POST', '/api/v1/host/ls'],
      ['POST', '/api/v1/cluster/status'],
      ['POST', '/api/v1/invite/create'],
      ['GET', '/metrics'],
      ['GET', '/api/v1/events'],
    ] as const) {
      expect((await https(method, path)).status, path).toBe(401);
      expect((await https(method, path, { token: 'x'.repeat(43) })).status, path).toBe(401);
    }
  });

  it('refuses 64 MB bodies and bounds connections', async () => {
    const before = await metrics(first);
    const large = await https('POST', '/api/v1/join/check', {
      body: JSON.stringify({ code: 'x'.repeat(64 << 20) }),
    });
    expect([413, 0]).toContain(large.status);
    const flood = attack({ attack: 'flood', port: apiPort, connections: 1_000 });
    const name = 'trellis_api_connections_refused_total';
    const refused = async () => ((await metrics(first)).get(name) ?? 0) - (before.get(name) ?? 0);
    await eventually(async () => (await refused()) > 0, { withinMs: 15_000 });
    await editSpreads('https-flood');
    expect((await flood).closed).toBeGreaterThan(900);
    expect(await refused()).toBeGreaterThan(900);
    await assertUnharmed(before);
  });

  it('throttles logins of strangers, not of the host itself', async () => {
    const answers: { status: number; body: string }[] = [];
    for (let n = 0; n < 8; n++) {
      const body = JSON.stringify({ operator: 'admin', passphrase: `wrong-${n}-wrong-wrong` });
      answers.push(await https('POST', '/api/v1/operator/login', { body }));
    }
    expect(answers[0]).toMatchObject({
      status: 401,
      body: expect.stringContaining('LOGIN_REFUSED'),
    });
    expect(answers.at(-1)).toMatchObject({
      status: 429,
      body: expect.stringContaining('LOGIN_THROTTLED'),
    });
    await cluster.login(first);
  });
});

describe('codes that are not good [trellis:H13]', { timeout: 120_000 }, () => {
  const joinWith = (given: unknown) => {
    cluster.bed.host(bare).writeFile('/run/ticket', JSON.stringify(given), 0o600);
    return cluster.trellis(bare, ['join', '--code-file', '/run/ticket', '--json']);
  };

  it('are refused in distinct words and change nothing', async () => {
    const membersBefore = await cluster.json<HostRow[]>(first, ['host', 'ls']);
    const expired = await cluster.json<typeof ticket>(first, ['invite', '--ttl', '1s']);
    const revoked = await cluster.json<typeof ticket>(first, ['invite']);
    await cluster.json(first, ['invite', 'revoke', revoked.id]);
    const elsewhere = await cluster.json<typeof ticket>(foreign, ['invite']);
    const { peers, caPem } = ticket;
    await eventually(
      async () => {
        const body = JSON.stringify({ code: expired.code });
        return (await https('POST', '/api/v1/join/check', { body })).status === 403;
      },
      { withinMs: 10_000, everyMs: 250 },
    );
    const words = new Set<string>();
    for (const [given, word] of [
      [expired, 'expired'],
      [ticket, 'used as often'],
      [revoked, 'revoked'],
      [{ code: elsewhere.code, peers, caPem }, 'another cluster'],
    ] as const) {
      const { code, data } = await joinWith(given);
      expect([code, data]).toMatchObject([
        3,
        { error: { code: 'INVITE_REFUSED', message: expect.stringContaining(word) } },
      ]);
      words.add((data as { error: { message: string } }).error.message);
    }
    expect(words.size).toBe(4);
    expect(await cluster.json(first, ['host', 'ls'])).toHaveLength(membersBefore.length);
    expect(cluster.bed.host(bare).exists('/var/lib/trellis/cluster.json')).toBe(false);
    expect((await cluster.trellis(bare, ['status', '--json'])).data).toMatchObject({
      error: { code: 'NOT_INITIALISED' },
    });
  });

  it('and a good one still lets the same host in', async () => {
    expect((await joinWith(await cluster.json(first, ['invite']))).code).toBe(0);
    await cluster.waitReady(3, [first, second, bare]);
  });
});
