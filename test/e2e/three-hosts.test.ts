/** The main journey on three hosts with real engines: apply, heal, adopt, fail over, come back. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { webImage } from '../testbed/image.ts';
import { requestLoop } from '../testbed/request-loop.ts';

const timings: Record<string, number> = {};
let cluster: TestCluster;

const desired = `
apiVersion: trellis/v1
roles:
  web: {}
services:
  site:
    role: web
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80, host: 8080 } ]
  api:
    role: web
    image: demo/site:1
    count: { perRole: { min: 2, max: 4 } }
    ports: [ { name: http, container: 80 } ]
    health: { http: { port: http, path: / }, interval: 1s, timeout: 1s, retries: 2, startPeriod: 5s }
`;

beforeAll(async () => {
  const start = performance.now();
  cluster = await TestCluster.create({ hosts: 3, roles: [['web'], ['web'], ['web']] });
  timings['cluster of three'] = Math.round(performance.now() - start);
}, 180_000);

afterAll(async () => {
  await cluster?.destroy();
  console.log('three hosts, ms:', timings);
});

const running = async (from: number, service: string) =>
  (await cluster.ps(from, service)).filter(
    (row) => row.state === 'running' && (row.health === 'none' || row.health === 'healthy'),
  );

describe('three hosts', { timeout: 180_000 }, () => {
  it('agree on who is there', async () => {
    for (const index of [0, 1, 2]) {
      expect((await cluster.hosts(index)).map((row) => [row.name, row.state, row.roles])).toEqual([
        ['h1', 'ready', ['web']],
        ['h2', 'ready', ['web']],
        ['h3', 'ready', ['web']],
      ]);
    }
  });

  it('run what was applied on any of them, from an image that one of them has [trellis:P6] [trellis:H1] [coreos:A4] [coreos:A10]', async () => {
    await webImage(cluster.bed.host(1), 'demo/site:1', 'site');
    await cluster.login(1);
    const start = performance.now();
    await cluster.mustApply(1, desired);
    timings['apply --wait'] = Math.round(performance.now() - start);
    for (const index of [0, 1, 2]) {
      expect((await running(index, 'site')).map((row) => row.host).toSorted()).toEqual([
        'h1',
        'h2',
        'h3',
      ]);
      expect(await running(index, 'api')).toHaveLength(2);
    }
    const status = await cluster.trellis(2, ['status', '--json']);
    expect(status.code, status.stdout).toBe(0);
  });

  it('answer under the name and number of a service on every host', async () => {
    const details = await cluster.json<{ address: string; ports: { number: number }[] }>(0, [
      'service',
      'show',
      'api',
    ]);
    for (const index of [0, 1, 2]) {
      const answer = await cluster.bed
        .host(index)
        .mustExec(`curl -fsS --max-time 5 http://${details.address}:${details.ports[0]?.number}/`);
      expect(answer).toContain('site');
    }
  });

  it('bring a killed container back and leave foreign ones alone [trellis:R2] [trellis:H2]', async () => {
    const host = cluster.bed.host(0);
    await host.mustExec(
      `docker run -d --name trellis-lookalike $(docker images -q | head -1) sleep 1000`,
    );
    const [name] = (await cluster.containers(0)).filter((one) => one.includes('-site-'));
    const before = await host.mustExec(`docker inspect -f '{{.State.StartedAt}}' ${name}`);
    await host.mustExec(`docker kill ${name}`);
    await eventually(
      async () => {
        const now = await host.mustExec(
          `docker inspect -f '{{.State.Running}} {{.State.StartedAt}}' ${name}`,
        );
        return now.startsWith('true') && !now.includes(before.trim());
      },
      { withinMs: 30_000, everyMs: 200 },
    );
    expect(await cluster.containers(0)).toContain('trellis-lookalike');
  });

  it('do nothing when nothing has changed [trellis:R5]', async () => {
    const before = await Promise.all(
      [0, 1, 2].map((index) => cluster.bed.host(index).mustExec('docker ps -q --no-trunc | sort')),
    );
    const again = await cluster.apply(1, desired);
    expect(again.code, again.stderr).toBe(0);
    expect(again.data).toMatchObject({ changed: 0 });
    const after = await Promise.all(
      [0, 1, 2].map((index) => cluster.bed.host(index).mustExec('docker ps -q --no-trunc | sort')),
    );
    expect(after).toEqual(before);
  });

  it('adopt what runs when all daemons were stopped meanwhile [trellis:R3]', async () => {
    const ids = () =>
      Promise.all(
        [0, 1, 2].map((index) =>
          cluster.bed
            .host(index)
            .mustExec(`docker ps --no-trunc --format '{{.ID}} {{.Names}}' | sort`),
        ),
      );
    const started = () =>
      Promise.all(
        [0, 1, 2].map((index) =>
          cluster.bed
            .host(index)
            .mustExec(`docker inspect -f '{{.State.StartedAt}}' $(docker ps -q) | sort`),
        ),
      );
    const before = [await ids(), await started()];
    const details = await cluster.json<{ address: string; ports: { number: number }[] }>(0, [
      'service',
      'show',
      'api',
    ]);
    for (const index of [0, 1, 2]) await cluster.signalDaemon(index, 'TERM');
    await cluster.bed
      .host(2)
      .mustExec(`curl -fsS --max-time 5 http://${details.address}:${details.ports[0]?.number}/`);
    for (const index of [0, 1, 2]) await cluster.startDaemon(index);
    await cluster.waitReady(3);
    await eventually(async () => (await cluster.trellis(0, ['status'])).code === 0, {
      withinMs: 30_000,
      everyMs: 200,
    });
    expect([await ids(), await started()]).toEqual(before);
  });

  it('replace a host that lost its power, and hand back when it returns [trellis:R8] [stackato:S30]', async () => {
    const placed = (await running(0, 'api')).map((row) => row.host);
    const victim = placed.includes('h3') ? 2 : placed.includes('h2') ? 1 : 0;
    const observer = [0, 1, 2].find((index) => index !== victim) ?? 0;
    const details = await cluster.json<{ address: string; ports: { number: number }[] }>(observer, [
      'service',
      'show',
      'api',
    ]);
    const loop = await requestLoop(cluster.bed.host(observer), {
      url: `http://${details.address}:${details.ports[0]?.number}/`,
      everyMs: 50,
      timeoutMs: 1_000,
    });
    const survivors = [0, 1, 2].filter((index) => index !== victim);
    const startedAt = () =>
      Promise.all(
        survivors.map((index) =>
          cluster.bed
            .host(index)
            .mustExec(`docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q) | sort`),
        ),
      );
    const untouched = await startedAt();
    const start = performance.now();
    await cluster.bed.host(victim).powerCut();
    await eventually(
      async () =>
        (await running(observer, 'api')).filter((row) => row.host !== `h${victim + 1}`).length ===
        2,
      { withinMs: 30_000, everyMs: 100 },
    );
    timings['failover'] = Math.round(performance.now() - start);
    await cluster.bed.host(victim).boot();
    await cluster.bed.host(victim).startEngine();
    await cluster.startDaemon(victim);
    await cluster.waitReady(3);
    await eventually(
      async () => {
        const rows = await running(observer, 'api');
        expect(rows.map((row) => row.host).toSorted()).toEqual(placed.toSorted());
        return true;
      },
      { withinMs: 60_000, everyMs: 250 },
    );
    // The successor's container is gone again; nothing else was restarted.
    await eventually(async () => JSON.stringify(await startedAt()) === JSON.stringify(untouched), {
      withinMs: 30_000,
      everyMs: 250,
    });
    const result = await loop.stop();
    timings['failed requests'] = result.failed;
    timings['longest gap'] = Math.round(result.longestGapMs);
    expect(result.ok).toBeGreaterThan(100);
  });

  it('leave nothing of ours and everything foreign behind on a host that leaves [trellis:H2]', async () => {
    await cluster.json(2, ['leave', '--yes']);
    expect(await cluster.containers(2)).toEqual([]);
    await eventually(
      async () => (await cluster.hosts(0)).filter((row) => row.state === 'ready').length === 2,
      { withinMs: 20_000 },
    );
    expect((await cluster.bed.host(2).exec('iptables-save | grep -i trellis')).stdout).toBe('');
    expect((await cluster.bed.host(2).exec('grep -i trellis /etc/hosts')).stdout).toBe('');
  });
});
