/**
 * What operators do to an exclusive service while it runs: make it anew, stop it, drain its host, take it away; and what
 * becomes of it on a host where it does not come up.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AlertRow, LeaseDetails } from '../../daemon/operations/lease-answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { makeImage } from '../testbed/image.ts';

const timings: Record<string, number> = {};
let cluster: TestCluster;

const desired = `
apiVersion: trellis/v1
roles: { data: {} }
services:
  one:
    role: data
    image: demo/one:1
    exclusive: true
    count: { perRole: { min: 1, max: 1 } }
    env: { BROKEN: "{{host.meta.broken}}" }
    stopGrace: 5s
`;

/** Ends at once where it is told to; otherwise exits with 0 when it is stopped in order. */
const serve = `#!/bin/sh
[ -z "$BROKEN" ] || exit 3
trap 'exit 0' TERM
while :; do sleep 0.1; done
`;

beforeAll(async () => {
  cluster = await TestCluster.create({ hosts: 2, roles: [['data'], ['data']] });
  await makeImage(cluster.bed.host(0), 'demo/one:1', {
    files: { '/bin/serve': serve },
    command: ['/bin/serve'],
  });
  await cluster.mustApply(0, desired, []);
}, 180_000);

afterAll(async () => {
  await cluster?.destroy();
  console.log('changes of exclusive work, ms:', timings);
});

/** 'running <id>'; null: there is no container. */
async function containerOn(index: number): Promise<string | null> {
  const filter = ['--no-trunc', '--filter', 'label=trellis.service=one'];
  const { stdout } = await cluster.bed
    .host(index)
    .docker(['ps', '-a', ...filter, '--format', '{{.State}} {{.ID}}']);
  return stdout.trim() || null;
}

async function runningOn(): Promise<{ index: number; epoch: number; id: string }> {
  return eventually(
    async () => {
      const [holder] = await cluster.holders('service one');
      const container = holder === undefined ? null : await containerOn(holder.index);
      if (holder === undefined || container?.startsWith('running ') !== true) return null;
      const other = await containerOn(1 - holder.index);
      expect(other?.startsWith('running ') ?? false).toBe(false);
      return { index: holder.index, epoch: holder.epoch, id: container.slice('running '.length) };
    },
    { withinMs: 40_000, everyMs: 100, what: 'it runs on one host' },
  );
}

/** 0: it was stopped in order; 137: it was killed. The engine remembers its events longer than its containers. */
async function endOf(index: number, id: string): Promise<string> {
  const script = `docker events --since 10m --until $(($(date +%s) + 1)) --filter container=${id} --filter event=die \
    --format '{{.Actor.Attributes.exitCode}}' | tail -n 1`;
  return (await cluster.bed.host(index).mustExec(script)).trim();
}

describe('an exclusive service', { timeout: 120_000 }, () => {
  it('is made anew in place, under the same lease', async () => {
    const before = await runningOn();
    await cluster.json(0, ['service', 'restart', 'one', '--yes']);
    await eventually(async () => (await containerOn(before.index)) !== `running ${before.id}`, {
      withinMs: 20_000,
    });
    expect(await runningOn()).toMatchObject({ index: before.index, epoch: before.epoch });
  });

  it('is started again by the daemon when it ends by itself', async () => {
    const before = await runningOn();
    await cluster.bed.host(before.index).mustExec(`docker kill ${before.id}`);
    await eventually(async () => (await containerOn(before.index)) === `running ${before.id}`, {
      withinMs: 20_000,
    });
    expect(await runningOn()).toEqual(before);
  });

  it('gives its lease up while it is stopped, and takes one again', async () => {
    const before = await runningOn();
    await cluster.json(0, ['service', 'stop', 'one', '--yes']);
    await eventually(async () => (await cluster.holders('service one')).length === 0, {
      withinMs: 20_000,
    });
    expect(await endOf(before.index, before.id)).toBe('0');
    await cluster.json(0, ['service', 'start', 'one']);
    expect((await runningOn()).epoch).toBeGreaterThan(before.epoch);
  });

  it('leaves a host that is drained, in order', async () => {
    const before = await runningOn();
    const name = `h${before.index + 1}`;
    await cluster.json(0, ['host', 'drain', name, '--yes']);
    await eventually(async () => (await runningOn()).index !== before.index, { withinMs: 40_000 });
    expect(await endOf(before.index, before.id)).toBe('0');
    await cluster.json(0, ['host', 'undrain', name]);
    await eventually(async () => (await containerOn(before.index)) !== null, { withinMs: 20_000 });
  });

  it('is tried elsewhere when it does not come up, and not here again', async () => {
    const before = await runningOn();
    const beganMs = performance.now();
    await cluster.json(0, ['host', 'set', `h${before.index + 1}`, 'broken=yes']);
    await cluster.mustApply(0, desired, []);
    await eventually(async () => (await runningOn()).index !== before.index, { withinMs: 60_000 });
    timings['gives up a host where it does not come up'] = Math.round(performance.now() - beganMs);
    const status = await cluster.leaseStatus(before.index);
    const lease = status.leases.find(({ title }) => title === 'service one');
    expect(lease).toMatchObject({ mayAcquire: false });
    expect(lease?.why).toContain('did not start here');
  });

  it('that comes up nowhere is not tried again and again; an alert says so until it is corrected', async () => {
    const last = await runningOn();
    const alert = async (): Promise<AlertRow | null> => {
      const rows = await cluster.json<AlertRow[]>(0, ['alert', 'ls']);
      return rows.find(({ id }) => id === 'all-failed:service one') ?? null;
    };
    await cluster.json(0, ['host', 'set', `h${last.index + 1}`, 'broken=yes']);
    await cluster.mustApply(0, desired, []);
    const raised = await eventually(alert, {
      withinMs: 90_000,
      everyMs: 250,
      what: 'the alert is listed',
    });
    expect(raised.text).toMatch(/h1: .*did not start here.*h2: .*did not start here/);
    const shown = await cluster.json<LeaseDetails>(0, ['lease', 'show', 'one']);
    expect(shown).toMatchObject({
      holder: null,
      trouble: ['nobody holds it', 'no host may take it'],
    });
    expect(shown.epoch - last.epoch).toBeLessThanOrEqual(1);
    for (const name of ['h1', 'h2']) await cluster.json(0, ['host', 'set', name, 'broken=']);
    await cluster.mustApply(0, desired, []);
    expect((await runningOn()).epoch).toBeGreaterThan(last.epoch);
    await eventually(async () => (await alert()) === null, {
      withinMs: 30_000,
      everyMs: 250,
      what: 'the alert is over',
    });
  });

  it('ends in order when it is taken away, and leaves no gate', async () => {
    const before = await runningOn();
    const gates = `ls -d /sys/fs/cgroup/freezer/trellis-x-*-$(head -c 6 /var/lib/trellis/host.id)`;
    expect((await cluster.bed.host(before.index).exec(gates)).code).toBe(0);
    await cluster.mustApply(0, 'apiVersion: trellis/v1\nroles: { data: {} }\n', [
      '--prune',
      '--yes',
    ]);
    for (const index of [0, 1]) {
      await eventually(async () => (await containerOn(index)) === null, { withinMs: 30_000 });
      await eventually(async () => (await cluster.bed.host(index).exec(gates)).stdout === '', {
        withinMs: 30_000,
        what: `h${index + 1} has no gate left`,
      });
    }
    expect(await endOf(before.index, before.id)).toBe('0');
  });
});
