/**
 * One exclusive service on three hosts with real engines and real guards: it runs on one of them, is ready on the others,
 * survives its daemon, and is elsewhere soon after its host's power is gone.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ServiceDetails } from '../../daemon/operations/answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { makeImage } from '../testbed/image.ts';

const timings: Record<string, number> = {};
let cluster: TestCluster;
let url: string;

const desired = `
apiVersion: trellis/v1
roles: { data: {} }
services:
  one:
    role: data
    image: demo/one:1
    exclusive: true
    count: { perRole: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80 } ]
    stopGrace: 2s
`;

/** Answers with the epoch under which it was started, which it reads once. */
const serve = `#!/bin/sh
cp /run/trellis/lease/epoch /www/index.html
httpd -f -p 80 -h /www &
trap exit TERM
wait
`;

beforeAll(async () => {
  cluster = await TestCluster.create({ hosts: 3, roles: [['data'], ['data'], ['data']] });
  await makeImage(cluster.bed.host(0), 'demo/one:1', {
    files: { '/bin/serve': serve, '/www/index.html': '' },
    command: ['/bin/serve'],
  });
}, 180_000);

afterAll(async () => {
  await cluster?.destroy();
  console.log('exclusive, ms:', timings);
});

const indexes = [0, 1, 2] as const;

/** 'created', 'running', 'exited'; null: not there. */
async function stateOn(index: number): Promise<string | null> {
  const { stdout } = await cluster.bed
    .host(index)
    .docker(['ps', '-a', '--filter', 'label=trellis.service=one', '--format', '{{.State}}']);
  return stdout.trim() || null;
}

async function startedOn(index: number): Promise<string> {
  const filter = 'docker ps -q --no-trunc --filter label=trellis.service=one';
  return cluster.bed
    .host(index)
    .mustExec(`docker inspect -f '{{.Id}} {{.State.StartedAt}}' $(${filter})`);
}

/** The epoch that the service answers with under its name; null: no answer. */
async function epochFrom(index: number): Promise<number | null> {
  const { code, stdout } = await cluster.bed
    .host(index)
    .exec(['curl', '-fsS', '-m', '0.5', url], { timeoutMs: 5_000 });
  return code === 0 ? Number(stdout) : null;
}

async function holder(): Promise<{ index: number; epoch: number }> {
  return eventually(
    async () => {
      const [one, ...others] = await cluster.holders('service one');
      expect(others).toEqual([]);
      return one ?? null;
    },
    { withinMs: 30_000, everyMs: 100, what: 'somebody holds it' },
  );
}

describe('an exclusive service', { timeout: 180_000 }, () => {
  it('runs on exactly one host and is ready on the others [trellis:A41]', async () => {
    await cluster.mustApply(0, desired, []);
    const { index, epoch } = await holder();
    for (const other of indexes) {
      const wanted = other === index ? 'running' : 'created';
      await eventually(async () => (await stateOn(other)) === wanted, {
        withinMs: 30_000,
        everyMs: 200,
        what: `it is ${wanted} on h${other + 1}`,
      });
    }
    const details = await cluster.json<ServiceDetails>(0, ['service', 'show', 'one']);
    url = `http://${details.address}:${details.ports[0]?.number}/`;
    for (const from of indexes)
      await eventually(async () => (await epochFrom(from)) === epoch, {
        withinMs: 20_000,
        everyMs: 200,
        what: `h${from + 1} reaches it`,
      });
  });

  it('stays where it is when its daemon is killed, and is adopted by the next one [trellis:R3]', async () => {
    const before = await holder();
    const started = await startedOn(before.index);
    await cluster.signalDaemon(before.index, 'KILL');
    const other = (before.index + 1) % 3;
    await eventually(async () => (await cluster.hosts(other))[before.index]?.state === 'dead', {
      withinMs: 60_000,
      everyMs: 250,
      what: 'the daemon counts as dead',
    });
    expect(await cluster.holders('service one')).toMatchObject([before]);
    expect(await startedOn(before.index)).toBe(started);
    await cluster.startDaemon(before.index);
    await cluster.waitReady(3);
    expect(await cluster.holders('service one')).toMatchObject([before]);
    expect(await startedOn(before.index)).toBe(started);
    expect(await epochFrom(before.index)).toBe(before.epoch);
  });

  it('runs elsewhere under a higher epoch after a power cut', async () => {
    const growingMs = performance.now();
    await cluster.waitVoters(3);
    timings['still to three voters'] = Math.round(performance.now() - growingMs);
    const before = await holder();
    const from = (before.index + 1) % 3;
    const beganMs = performance.now();
    await cluster.bed.host(before.index).powerCut();
    const cutMs = performance.now();
    const epoch = await eventually(
      async () => {
        const answer = await epochFrom(from);
        return answer !== null && answer > before.epoch && answer;
      },
      { withinMs: 30_000, everyMs: 10, what: 'it answers again' },
    );
    timings['power cut to first answer'] = Math.round(performance.now() - beganMs);
    timings['of that the cut itself'] = Math.round(cutMs - beganMs);
    const after = await holder();
    expect(after.index).not.toBe(before.index);
    expect(after.epoch).toBe(epoch);
  });
});
