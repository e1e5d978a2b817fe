/**
 * What a host does alone: its link is cut, its power goes, and it comes back with nobody to ask, once with its daemon
 * and once without. Then every daemon of the cluster is stopped, and nothing else notices.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import type { ServiceDetails } from '../../daemon/operations/answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { makeImage } from '../testbed/image.ts';
import { requestLoop } from '../testbed/request-loop.ts';

const timings: Record<string, number> = {};
let cluster: TestCluster;
let h2: LocalHost;
let url: string;
let virtualAddress: string;
let before: string;

const desired = `
apiVersion: trellis/v1
roles: { web: {}, first: {} }
services:
  site:
    role: web
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80, host: 8080 } ]
    stopGrace: 1s
  api:
    role: web
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80 } ]
    env: { SITE: "{{services.site.host}}:{{services.site.ports.http}}" }
    stopGrace: 1s
  lone:
    role: first
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80 } ]
    stopGrace: 1s
`;

beforeAll(async () => {
  cluster = await TestCluster.create({ hosts: 2, roles: [['web', 'first'], ['web']] });
  h2 = cluster.bed.host(1);
  await makeImage(cluster.bed.host(0), 'demo/site:1', {
    files: {
      '/www/index.html': 'site\n',
      '/bin/serve': '#!/bin/sh\nhttpd -f -p 80 -h /www &\ntrap exit TERM\nwait\n',
    },
    command: ['/bin/serve'],
    // Static busybox cannot resolve names.
    programs: ['/usr/bin/curl'],
  });
  await cluster.mustApply(0, desired);
  const details = await cluster.json<ServiceDetails>(1, ['service', 'show', 'site']);
  url = `http://${details.address}:${details.ports[0]?.number}/`;
  virtualAddress = (await h2.mustExec(`getent hosts ${details.address}`)).split(' ')[0] ?? '';
  before = await containersOf(h2);
  await eventually(async () => (await get(h2, url)) === 'site', { withinMs: 20_000, what: url });
  // What a unit of the service manager does on a host that was installed.
  h2.bootCommands.push('/var/lib/trellis/plugins/names/restore.sh');
}, 120_000);

afterAll(async () => {
  await cluster?.destroy();
  console.log('reboot, ms:', timings);
});

/** Ids and names of what runs; the same ids: nothing was made anew. */
const containersOf = (host: LocalHost) =>
  host.mustExec(`docker ps --no-trunc --format '{{.ID}} {{.Names}}' | sort`);
const startedOn = (host: LocalHost) =>
  host.mustExec(`docker inspect -f '{{.Name}} {{.State.StartedAt}}' $(docker ps -q) | sort`);
const get = async (host: LocalHost, to: string) =>
  (await host.exec(['curl', '-fsS', '-m', '3', to])).stdout.trim();

/** Own containers, names, numbers and published ports, from the host and from a container. */
async function expectWork(): Promise<void> {
  await eventually(
    async () => {
      expect(await containersOf(h2)).toBe(before);
      return true;
    },
    { withinMs: 20_000, everyMs: 100, what: 'the same containers to run' },
  );
  await eventually(async () => (await get(h2, url)) === 'site', { withinMs: 10_000, what: url });
  expect(await get(h2, `http://${h2.ip}:8080/`)).toBe('site');
  const [api] = before.split('\n').filter((line) => line.includes('-api-'));
  const inside = `docker exec ${api?.split(' ')[1]} sh -c 'curl -fsS -m 5 http://$SITE/'`;
  await eventually(async () => (await h2.exec(inside)).stdout.trim() === 'site', {
    withinMs: 10_000,
    everyMs: 100,
    what: 'the service from a container',
  });
  expect(await h2.mustExec('cat /etc/hosts')).toContain(`${virtualAddress} site.prod.internal`);
}

async function cutAndReboot(): Promise<void> {
  await cluster.bed.switch.cut(1);
  await h2.powerCut();
  await h2.boot();
  await h2.startEngine();
}

describe('a host alone', { timeout: 120_000 }, () => {
  it('comes back from its own disk without its daemon [trellis:R1] [trellis:R3] [trellis:R4]', async () => {
    const start = performance.now();
    await cutAndReboot();
    await expectWork();
    timings['power back to work, no daemon'] = Math.round(performance.now() - start);
    // The other host cannot be asked: everything goes to its own instance.
    const loop = await requestLoop(h2, { url, everyMs: 20 });
    await eventually(() => loop.peek().samples.length > 50, { withinMs: 20_000 });
    expect((await loop.stop()).failed).toBe(0);
  });

  it('comes back from its own disk with its daemon, which restarts nothing [trellis:R1] [trellis:R3]', async () => {
    const start = performance.now();
    await cutAndReboot();
    // Not one request fails while the daemon finds out what it can of a cluster that it does not reach.
    await eventually(async () => (await get(h2, url)) === 'site', { withinMs: 10_000, what: url });
    const started = await startedOn(h2);
    const loop = await requestLoop(h2, { url, everyMs: 50 });
    await cluster.startDaemon(1);
    await expectWork();
    timings['power back to work, with daemon'] = Math.round(performance.now() - start);
    await eventually(
      async () => {
        const rows = await cluster.ps(1);
        expect(rows.filter((row) => row.host === 'h2').map((row) => row.state)).toEqual([
          'running',
          'running',
        ]);
        return (await cluster.hosts(1)).find((row) => row.name === 'h1')?.state === 'dead';
      },
      { withinMs: 30_000, everyMs: 200 },
    );
    expect(await startedOn(h2)).toBe(started);
    expect(await containersOf(h2)).toBe(before);
    const result = await loop.stop();
    expect([result.failed, result.ok > 10]).toEqual([0, true]);
  });

  it('takes no edit back and starts nothing anew when it meets the others again', async () => {
    const started = await startedOn(h2);
    await cluster.bed.switch.heal(1);
    await cluster.waitReady(2);
    await eventually(async () => (await cluster.trellis(0, ['status'])).code === 0, {
      withinMs: 30_000,
      everyMs: 250,
    });
    expect(await startedOn(h2)).toBe(started);
    expect(await containersOf(h2)).toBe(before);
  });

  it('is asked by others also while its daemon is stopped [trellis:R3]', async () => {
    const lone = await cluster.json<ServiceDetails>(1, ['service', 'show', 'lone']);
    const loneUrl = `http://${lone.address}:${lone.ports[0]?.number}/`;
    const loop = await requestLoop(h2, { url: loneUrl, everyMs: 50 });
    await eventually(() => loop.peek().ok > 10, { withinMs: 20_000 });
    await cluster.signalDaemon(0, 'TERM');
    await eventually(
      async () => (await cluster.hosts(1)).find(({ name }) => name === 'h1')?.state === 'dead',
      { withinMs: 30_000, everyMs: 100 },
    );
    const seen = loop.peek().ok;
    await eventually(() => loop.peek().ok > seen + 40, { withinMs: 20_000 });
    await cluster.startDaemon(0);
    await cluster.waitReady(2);
    const { failed } = await loop.stop();
    expect(failed).toBe(0);
  });

  it('does not need any daemon anywhere [trellis:R3] [trellis:R4]', async () => {
    const hosts = [0, 1];
    const state = async () =>
      Promise.all(
        hosts.map(async (index) => {
          const host = cluster.bed.host(index);
          const rules = await host.mustExec('iptables-save | grep -i trellis | sort');
          const names = await host.mustExec('cat /etc/hosts');
          return [
            await containersOf(host),
            await startedOn(host),
            rules.replaceAll(/\[\d+:\d+\]/g, ''),
            names,
          ];
        }),
      );
    // Each host forwards to the other one, too.
    for (const [index, other] of [h2, cluster.bed.host(0)].entries()) {
      const count = `iptables-save -t nat | grep -c -- '--to-destination ${other.ip}:'`;
      const wanted = index === 0 ? '2' : '3';
      await eventually(
        async () => (await cluster.bed.host(index).exec(count)).stdout.trim() === wanted,
        { withinMs: 20_000, everyMs: 200 },
      );
    }
    const then = await state();
    const loops = await Promise.all(
      hosts.map((index) => requestLoop(cluster.bed.host(index), { url, everyMs: 50 })),
    );
    for (const index of hosts) await cluster.signalDaemon(index, 'TERM');
    await eventually(() => loops.every((loop) => loop.peek().ok > 60), { withinMs: 30_000 });
    expect(await state()).toEqual(then);
    await expectWork();
    for (const index of hosts) await cluster.startDaemon(index);
    await cluster.waitReady(2);
    await eventually(async () => (await cluster.trellis(0, ['status'])).code === 0, {
      withinMs: 30_000,
      everyMs: 250,
    });
    expect(await state()).toEqual(then);
    const results = await Promise.all(loops.map((loop) => loop.stop()));
    expect(results.map(({ failed }) => failed)).toEqual([0, 0]);
  });
});
