/**
 * One exclusive service on three hosts with real engines and real guards: it runs on one of them, is ready on the others,
 * survives its daemon, and is elsewhere soon after its host's power is gone.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DoctorAnswer, ServiceDetails } from '../../daemon/operations/answers.ts';
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

  it('survives its guard: the next one goes on with it, or it is elsewhere when that takes too long', async () => {
    const before = await holder();
    const started = await startedOn(before.index);
    const pid = await cluster.guardPid(before.index);
    const beganMs = performance.now();
    await cluster.signalGuard(before.index, 'KILL');
    await eventually(
      async () => {
        const status = await cluster.leaseStatus(before.index);
        return status.pid !== pid && status.env === 'prod';
      },
      { withinMs: 20_000, everyMs: 20, what: 'another guard is there' },
    );
    timings['until the next guard answers'] = Math.round(performance.now() - beganMs);
    const after = await holder();
    // On a busy machine a guard from sources may start more slowly than a lease runs out.
    if (after.epoch === before.epoch) expect(await startedOn(before.index)).toBe(started);
    timings['epochs spent on it'] = after.epoch - before.epoch;
    await eventually(async () => (await stateOn(after.index)) === 'running', { withinMs: 10_000 });
    for (const other of indexes.filter((index) => index !== after.index))
      await eventually(async () => (await stateOn(other)) !== 'running', { withinMs: 10_000 });
  });

  it('is handed over in order on request', async () => {
    await cluster.waitVoters(3);
    const before = await holder();
    // The guard was replaced a moment ago: its daemon must have found the new one.
    await eventually(
      async () => {
        const { checks } = (await cluster.trellis(before.index, ['doctor', '--json']))
          .data as DoctorAnswer;
        return checks.find(({ name }) => name === 'guard')?.result === 'ok';
      },
      { withinMs: 20_000, everyMs: 250, what: 'the daemon speaks with its guard' },
    );
    const to = (before.index + 1) % 3;
    const beganMs = performance.now();
    await cluster.json(0, ['lease', 'switch', 'one', '--to', `h${to + 1}`, '--yes']);
    timings['switch'] = Math.round(performance.now() - beganMs);
    expect(await holder()).toMatchObject({ index: to, epoch: before.epoch + 1 });
    await eventually(async () => (await stateOn(to)) === 'running', { withinMs: 10_000 });
    expect(await stateOn(before.index)).toBe('exited');
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
    // The host comes back and is ready to take over again; its old container does not run.
    await cluster.bed.host(before.index).boot();
    await cluster.bed.host(before.index).startEngine();
    await cluster.startDaemon(before.index);
    await cluster.waitReady(3);
    expect(await holder()).toMatchObject(after);
    expect(await stateOn(before.index)).toBe('exited');
  });

  it('is given up in order by a host that leaves, which leaves nothing behind', async () => {
    const before = await holder();
    const leaving = cluster.bed.host(before.index);
    const id = (await leaving.mustExec('cat /var/lib/trellis/host.id')).slice(0, 6);
    const gates = `ls -d /sys/fs/cgroup/*/trellis-x-*-${id}`;
    expect((await leaving.exec(gates)).code).toBe(0);
    const beganMs = performance.now();
    await cluster.json(before.index, ['leave', '--yes']);
    timings['leave of the holder'] = Math.round(performance.now() - beganMs);
    const after = await holder();
    expect(after.epoch).toBeGreaterThan(before.epoch);
    expect(after.index).not.toBe(before.index);
    expect(await stateOn(before.index)).toBeNull();
    expect((await leaving.exec(gates)).stdout).toBe('');
    expect(leaving.exists('/run/trellis/guard')).toBe(false);
    expect(leaving.exists('/var/lib/trellis/lease')).toBe(false);
    const { stdout } = await leaving.exec(`ps -eo args | grep '[g]uard/main.ts'`);
    expect(stdout).toBe('');
    // Of two hosts one votes until somebody chooses; on the way there are two.
    const left = await eventually(
      async () => {
        const status = await cluster.leaseStatus(after.index);
        return status.chosen?.config.voters.length === 1 && status.hasQuorum ? status : null;
      },
      { withinMs: 60_000, everyMs: 250, what: 'one of the two votes' },
    );
    expect(left.chosen?.config.voters.some((voter) => voter.startsWith(id))).toBe(false);
    expect(left.hasQuorum).toBe(true);
  });
});

describe('a guard', { timeout: 120_000 }, () => {
  it('ends with the daemon of a lone host, and stays where others may need it', async () => {
    const pair = await TestCluster.create({ hosts: 2, engines: false });
    try {
      const guards = async (index: number): Promise<string> =>
        (await pair.bed.host(index).exec(`ps -eo args | grep '[g]uard/main.ts'`)).stdout;
      await pair.signalDaemon(0, 'TERM');
      expect(await guards(0)).not.toBe('');
      await pair.startDaemon(0);
      await pair.waitReady(2);
      await pair.json(1, ['leave', '--yes']);
      await eventually(async () => (await pair.hosts(0)).length === 1, { withinMs: 20_000 });
      await pair.signalDaemon(0, 'TERM');
      expect(await guards(0)).toBe('');
    } finally {
      await pair.destroy();
    }
  });
});
