/** Addresses are facts: a host may change its own at any time, and nobody has to say so anywhere. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import type { ServiceDetails } from '../../daemon/operations/answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { webImage } from '../testbed/image.ts';
import { requestLoop } from '../testbed/request-loop.ts';
import { Testbed } from '../testbed/testbed.ts';

const healedMsMax = 30_000;
const timings: Record<string, number> = {};

const desired = `
apiVersion: trellis/v1
roles: { web: {} }
services:
  site:
    role: web
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80 } ]
    stopGrace: 1s
  open:
    role: web
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80, host: 8080 } ]
    stopGrace: 1s
`;

afterAll(() => console.log('addresses, ms:', timings));

describe('a host that changes its address', { timeout: 120_000 }, () => {
  let cluster: TestCluster;
  let h2: LocalHost;

  beforeAll(async () => {
    cluster = new TestCluster(await Testbed.create({ hosts: 3, engines: false }));
    h2 = cluster.bed.host(1);
    await h2.startEngine();
    await cluster.found();
    await cluster.join(1, ['web']);
    await cluster.join(2);
    await cluster.waitReady(3);
    await webImage(h2, 'demo/site:1', 'site');
    await cluster.login(1);
    await cluster.mustApply(1, desired);
  }, 120_000);
  afterAll(() => cluster?.destroy());

  it('is found again by all within 30 s, and so is what it serves [stackato:S8]', async () => {
    const h1 = cluster.bed.host(0);
    const details = await cluster.json<ServiceDetails>(0, ['service', 'show', 'site']);
    const url = `http://${details.address}:${details.ports[0]?.number}/`;
    const loop = await requestLoop(h1, { url, everyMs: 50, timeoutMs: 500 });
    await eventually(() => loop.peek().ok > 10, { withinMs: 20_000 });
    const startWall = Date.now();
    const start = performance.now();
    await h2.changeAddress('10.44.0.77');
    for (const index of [0, 1, 2]) {
      await eventually(
        async () => {
          const row = (await cluster.hosts(index)).find(({ name }) => name === 'h2');
          expect([row?.addresses, row?.state]).toEqual([['10.44.0.77'], 'ready']);
          return true;
        },
        { withinMs: healedMsMax, everyMs: 100, what: `h${index + 1} sees the new address` },
      );
    }
    timings['new address seen by all'] = Math.round(performance.now() - start);
    const isServed = () =>
      loop.peek().samples.some(({ atMs, isOk }) => isOk && atMs > startWall + 500);
    await eventually(isServed, { withinMs: healedMsMax, everyMs: 50 });
    timings['requests work again'] = Math.round(performance.now() - start);
    await cluster.waitReady(3);
    expect(performance.now() - start).toBeLessThan(healedMsMax);
    // The port that the engine publishes moves with the address.
    await eventually(
      async () => (await h1.exec(['curl', '-fs', '-m', '1', `http://${h2.ip}:8080/`])).code === 0,
      { withinMs: healedMsMax, everyMs: 200, what: 'the published port at the new address' },
    );
    timings['published port works again'] = Math.round(performance.now() - start);
    await loop.stop();
    // Connected again, both ways: an edit of each reaches all.
    await cluster.json(0, ['host', 'set', 'h1', 'a=1', '--wait', '--timeout', '10s']);
    await cluster.json(1, ['host', 'set', 'h2', 'b=2', '--wait', '--timeout', '10s']);
    await eventually(async () => (await cluster.trellis(2, ['status'])).code === 0, {
      withinMs: healedMsMax,
      everyMs: 250,
    });
  });

  it('is found when it changes while it is off [stackato:S56]', async () => {
    await h2.powerCut();
    h2.ip = '10.44.0.78';
    await h2.boot();
    await h2.startEngine();
    await cluster.startDaemon(1);
    for (const index of [0, 1, 2]) {
      await eventually(
        async () => {
          const row = (await cluster.hosts(index)).find(({ name }) => name === 'h2');
          return row?.state === 'ready' && row.addresses.join() === '10.44.0.78';
        },
        { withinMs: healedMsMax, everyMs: 100 },
      );
    }
    const details = await cluster.json<ServiceDetails>(0, ['service', 'show', 'site']);
    const url = `http://${details.address}:${details.ports[0]?.number}/`;
    await eventually(
      async () => (await cluster.bed.host(2).exec(['curl', '-fs', '-m', '1', url])).code === 0,
      { withinMs: healedMsMax, everyMs: 200 },
    );
  });
});

describe('two clusters on one LAN', { timeout: 120_000 }, () => {
  let clusters: TestCluster;
  const first = [0, 1];
  const second = [2, 3];

  beforeAll(async () => {
    clusters = new TestCluster(await Testbed.create({ hosts: 4, engines: false }));
    await clusters.found();
    await clusters.join(1);
    await clusters.startDaemon(2);
    await clusters.json(2, ['init', '--name', 'other', '--env', 'prod']);
    await clusters.join(3, [], 2);
  }, 120_000);
  afterAll(() => clusters?.destroy());

  const members = async (index: number) => (await clusters.hosts(index)).map(({ name }) => name);
  const expectApart = async () => {
    await clusters.waitReady(2, [0, 1, 2, 3]);
    for (const index of first) expect(await members(index)).toEqual(['h1', 'h2']);
    for (const index of second) expect(await members(index)).toEqual(['h3', 'h4']);
  };

  it('never mix, also when two hosts swap their addresses [stackato:S8]', async () => {
    await expectApart();
    const [h2, h4] = [clusters.bed.host(1), clusters.bed.host(3)];
    const [old2, old4] = [h2.ip, h4.ip];
    const start = performance.now();
    await h2.changeAddress('10.44.0.90');
    await h4.changeAddress(old2);
    await h2.changeAddress(old4);
    const addressOf = async (from: number, name: string) =>
      (await clusters.hosts(from)).find((row) => row.name === name)?.addresses;
    await eventually(
      async () => {
        expect(await addressOf(0, 'h2')).toEqual([old4]);
        expect(await addressOf(2, 'h4')).toEqual([old2]);
        return true;
      },
      { withinMs: healedMsMax, everyMs: 200, what: 'both clusters see the swap' },
    );
    await expectApart();
    timings['addresses of two clusters swapped'] = Math.round(performance.now() - start);
    await clusters.json(0, ['host', 'set', 'h1', 'side=one', '--wait', '--timeout', '20s']);
    await clusters.json(2, ['host', 'set', 'h3', 'side=two', '--wait', '--timeout', '20s']);
    const sides = async (index: number) =>
      (await clusters.hosts(index)).flatMap(({ meta }) => Object.values(meta));
    expect(await Promise.all([0, 1, 2, 3].map(sides))).toEqual([
      ['one'],
      ['one'],
      ['two'],
      ['two'],
    ]);
  });

  it('refuse the code of the other one', async () => {
    const ticket = await clusters.trellis(0, ['invite', '--json']);
    clusters.bed.host(2).writeFile('/run/foreign', ticket.stdout, 0o600);
    const answer = await clusters.trellis(2, ['join', '--code-file', '/run/foreign', '--json']);
    expect([answer.code, answer.data]).toMatchObject([3, { error: { code: expect.any(String) } }]);
    await expectApart();
  });
});
