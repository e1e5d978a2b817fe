/** From one host to two under requests: nobody notices but those who asked for more room. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { ServiceDetails } from '../../daemon/operations/answers.ts';
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
  timings['join'] = Math.round(performance.now() - start);
  // Reads and writes go on meanwhile, too.
  await cluster.json(0, ['host', 'set', 'h1', 'rack=a']);
  for (const index of [0, 1]) {
    await eventually(
      async () => {
        const rows = await cluster.ps(index, 'site');
        expect(rows.map(({ host, state, health }) => [host, state, health]).toSorted()).toEqual([
          ['h1', 'running', 'healthy'],
          ['h2', 'running', 'healthy'],
        ]);
        return true;
      },
      { withinMs: 60_000, everyMs: 250, what: `h${index + 1} sees the service on both` },
    );
  }
  timings['join to running on both'] = Math.round(performance.now() - start);
  // Both are asked from now on, by the first host as well.
  await eventually(() => Object.keys(loop.peek().answers).length === 2, { withinMs: 20_000 });
  const seen = loop.peek().ok;
  await eventually(() => loop.peek().ok > seen + 100, { withinMs: 20_000 });
  const result = await loop.stop();
  timings['requests'] = result.ok;
  timings['longest gap'] = Math.round(result.longestGapMs);
  expect([result.failed, Object.keys(result.answers).length]).toEqual([0, 2]);
  expect(await h1.mustExec(`docker inspect -f '{{.State.StartedAt}}' $(docker ps -q)`)).toBe(
    started,
  );
  expect((await cluster.trellis(1, ['status'])).code).toBe(0);
});
