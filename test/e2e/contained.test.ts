/**
 * A daemon that sees its host's cgroups as a container does, read-only: what may run twice runs, what is exclusive does not,
 * and everybody is told why. Nothing is taken from an earlier guard of this boot, for which gates worked.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { HostProcess } from '../../bootstrap/local-cluster/local-host.ts';
import type { DoctorAnswer } from '../../daemon/operations/answers.ts';
import type { AlertRow, LeaseDetails } from '../../daemon/operations/lease-answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { makeImage } from '../testbed/image.ts';
import { Testbed } from '../testbed/testbed.ts';

const contained = `for at in $(awk '$2 ~ "^/sys/fs/cgroup" { print $2 }' /proc/self/mounts); do
  mount -o remount,bind,ro "$at" || exit 1
done
exec trellis daemon`;

class ContainedCluster extends TestCluster {
  isContained = false;

  override async startDaemon(index: number): Promise<HostProcess> {
    if (!this.isContained) return super.startDaemon(index);
    const host = this.bed.host(index);
    const daemon = await host.spawn(['unshare', '-m', 'sh', '-c', contained], { label: 'trellis' });
    this.keepDaemon(host, daemon);
    await eventually(async () => (await this.trellis(index, ['info', '--json'])).code === 0, {
      withinMs: 30_000,
    });
    return daemon;
  }
}

let cluster: ContainedCluster;

const desired = `
apiVersion: trellis/v1
roles: { data: {} }
services:
  one: { role: data, image: demo/idle:1, exclusive: true }
  many: { role: data, image: demo/idle:1, count: { perRole: { min: 1, max: 1 } } }
`;

beforeAll(async () => {
  cluster = new ContainedCluster(await Testbed.create({ hosts: 1 }));
  await cluster.found(['data']);
  await makeImage(cluster.bed.host(0), 'demo/idle:1', { command: ['sleep', '1000000'] });
  await eventually(async () => (await cluster.leaseStatus(0)).gateFault === null, {
    withinMs: 30_000,
    what: 'gates work outside of a container',
  });
  await cluster.signalDaemon(0, 'TERM');
  cluster.isContained = true;
  await cluster.startDaemon(0);
  await cluster.login(0);
}, 180_000);

afterAll(async () => {
  await cluster?.destroy();
});

describe('a daemon in a container', { timeout: 120_000 }, () => {
  it('has a guard that holds nothing that has to be fenced, and doctor says so', async () => {
    const { checks } = (await cluster.trellis(0, ['doctor', '--json'])).data as DoctorAnswer;
    const gate = checks.find(({ name }) => name === 'gate');
    expect(gate).toMatchObject({ result: 'warn' });
    expect(gate?.detail).toMatch(/cannot be written.*container/);
    const locked = await cluster.trellis(0, ['lock', 'job', '--', 'true']);
    expect([locked.code, locked.stderr]).toEqual([1, expect.stringContaining('GATE_FAULT')]);
  });

  it('runs what may run twice, and refuses what is exclusive', async () => {
    await cluster.mustApply(0, desired, []);
    await eventually(async () => (await cluster.containers(0)).some((name) => /many/.test(name)), {
      withinMs: 60_000,
      what: 'the shared service runs',
    });
    const alerts = await eventually(
      async () => {
        const rows = await cluster.json<AlertRow[]>(0, ['alert', 'ls']);
        const kinds = rows.map(({ kind }) => kind);
        return kinds.includes('gate-fault') && kinds.includes('all-failed') ? rows : null;
      },
      { withinMs: 60_000, everyMs: 250, what: 'alerts say so' },
    );
    expect(alerts.map(({ text }) => text).join()).toContain('cannot be written');
    const { holder, candidates } = await cluster.json<LeaseDetails>(0, ['lease', 'show', 'one']);
    expect([holder, candidates]).toMatchObject([null, [{ mayTake: false }]]);
    expect(candidates[0]?.reasons).toMatchObject([{ code: 'gate-fault' }]);
    const { checks } = (await cluster.trellis(0, ['doctor', '--json'])).data as DoctorAnswer;
    expect(checks.find(({ name }) => name === 'gate')?.result).toBe('fail');
    expect((await cluster.containers(0)).filter((name) => /one/.test(name))).toEqual([]);
  });
});
