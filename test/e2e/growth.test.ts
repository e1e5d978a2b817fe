/** From one host to two under requests: nobody notices but those who asked for more room. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { EventRow, HistoryRow, ServiceDetails } from '../../daemon/operations/answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { webImage } from '../testbed/image.ts';
import { requestLoop } from '../testbed/request-loop.ts';
import { Testbed } from '../testbed/testbed.ts';

const timings: Record<string, number> = {};
let cluster: TestCluster;

const desired = `
apiVersion: trellis/v1
roles: { web: {} }
services:
  site:
    role: web
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80 } ]
    health: { http: { port: http, path: / }, interval: 1s, timeout: 1s, retries: 2, startPeriod: 5s }
    stopGrace: 1s
`;

beforeAll(async () => {
  cluster = new TestCluster(await Testbed.create({ hosts: 1 }));
  await cluster.found(['web']);
  await webImage(cluster.bed.host(0), 'demo/site:1', 'site');
  await cluster.mustApply(0, desired);
}, 90_000);

afterAll(async () => {
  await cluster?.destroy();
  console.log('growth, ms:', timings);
});

it('a cluster of one becomes one of two without a failed request [coreos:A31]', async () => {
  const h1 = cluster.bed.host(0);
  const details = await cluster.json<ServiceDetails>(0, ['service', 'show', 'site']);
  const url = `http://${details.address}:${details.ports[0]?.number}/hostname`;
  const started = await h1.mustExec(`docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)`);
  const loop = await requestLoop(h1, { url, everyMs: 20 });
  await eventually(() => loop.peek().ok > 20, { withinMs: 10_000 });
  await cluster.bed.grow({ engine: true });
  const start = performance.now();
  await cluster.join(1, ['web']);
  await cluster.login(1);
  timings['join'] = Math.round(performance.now() - start);
  for (const index of [0, 1]) {
    await eventually(
      async () => {
        const rows = await cluster.ps(index, 'site');
        expect(
          rows.map(({ host, state, health }) => `${host} ${state} ${health}`).toSorted(),
        ).toEqual(['h1 running healthy', 'h2 running healthy']);
        return true;
      },
      { withinMs: 60_000, everyMs: 250, what: `h${index + 1} sees the service on both` },
    );
  }
  // Nobody planned: that was the cluster's own doing.
  const events = await cluster.json<EventRow[]>(0, ['events']);
  expect(events.map(({ kind }) => kind)).toContain('plan.automatic');
  await cluster.json(1, ['host', 'set', 'h1', 'rack=a', '--wait']);
  timings['join to running on both'] = Math.round(performance.now() - start);
  // Both are asked from now on, by the first host as well.
  const answered = () =>
    new Set(loop.peek().samples.flatMap(({ isOk, answer }) => (isOk ? [answer] : []))).size;
  await eventually(() => answered() === 2, { withinMs: 20_000 });
  const seen = loop.peek().ok;
  await eventually(() => loop.peek().ok > seen + 100, { withinMs: 20_000 });
  const result = await loop.stop();
  timings['requests'] = result.ok;
  timings['longest gap'] = Math.round(result.longestGapMs);
  expect([result.failed, result.answers]).toEqual([0, expect.any(Object)]);
  expect(await h1.mustExec(`docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)`)).toBe(
    started,
  );
  expect((await cluster.trellis(1, ['status'])).code).toBe(0);
});

it('the new host knows what happened and who did what, also before it came', async () => {
  const history = await cluster.json<HistoryRow[]>(1, ['history']);
  expect(history.map(({ operator, message }) => [operator, message.split(':')[0]])).toEqual([
    ['admin', 'host h1'],
    ['admin', 'apply desired.yaml'],
  ]);
  const image = await cluster.json<HistoryRow[]>(1, ['history', 'services/site/image']);
  expect(image.map(({ hash }) => hash)).toEqual([history[1]?.hash]);
  const events = await cluster.json<EventRow[]>(1, ['events']);
  expect(events.map(({ host, kind }) => `${host} ${kind}`)).toEqual(
    expect.arrayContaining([
      'h1 host.alive',
      'h2 host.alive',
      'h1 docker.changed',
      'h2 docker.changed',
    ]),
  );
  for (const index of [0, 1]) {
    const doctor = await cluster.trellis(index, ['doctor', '--json']);
    expect([doctor.code, doctor.stdout]).toEqual([0, expect.stringContaining('"ok":true')]);
  }
});
