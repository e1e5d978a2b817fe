/**
 * Another release under a running exclusive workload, host by host: a bundle beside the old one, the command led to it, daemon
 * and guard started anew. Both bundles are of this work tree and differ in their version, so hosts of two releases work
 * together for a while.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { layOut } from '../../bootstrap/build.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { ExclusiveRig, lease } from '../testbed/exclusive-rig.ts';
import { Testbed } from '../testbed/testbed.ts';

const indexes = [0, 1, 2] as const;
const releases = { old: '0.0.1-old', new: '0.0.2-new' } as const;
let dir: string;
let rig: ExclusiveRig;

class BundledCluster extends TestCluster {
  async lead(index: number, release: keyof typeof releases): Promise<void> {
    const command = path.join(dir, release, 'bin/trellis');
    await this.bed
      .host(index)
      .mustExec(`mkdir -p /usr/local/bin && ln -sfn ${command} /usr/local/bin/trellis`);
  }

  override async signalDaemon(index: number, signal: 'TERM' | 'KILL'): Promise<void> {
    const daemon = this.daemon(index);
    await daemon.signal(signal);
    await daemon.exited;
  }
}

let cluster: BundledCluster;

beforeAll(async () => {
  dir = mkdtempSync('/var/tmp/trellis-upgrade-');
  for (const [release, version] of Object.entries(releases)) {
    mkdirSync(path.join(dir, release));
    await layOut(path.join(dir, release), version);
  }
  cluster = new BundledCluster(
    await Testbed.create({ hosts: 3, engines: true, hasTrellis: false, hasSharedDisk: true }),
  );
  for (const index of indexes) await cluster.lead(index, 'old');
  await cluster.found(['data']);
  await cluster.join(1, ['data']);
  await cluster.join(2, ['data']);
  await cluster.waitReady(3);
  rig = await ExclusiveRig.on(cluster, { hosts: 3 });
}, 240_000);

afterAll(async () => {
  await cluster?.bed.destroy();
  rmSync(dir, { recursive: true, force: true });
});

/** Of the guard to which the daemon is connected, as the daemon's log has it. */
function guardOf(index: number): { readonly pid: number; readonly version: string } | null {
  const said = cluster
    .log(index)
    .split('\n')
    .findLast((line) => line.includes('"guard.connected"'));
  return said === undefined ? null : (JSON.parse(said) as { pid: number; version: string });
}

/** Changes with every start. */
async function startedAt(index: number): Promise<string> {
  const { stdout } = await cluster.bed
    .host(index)
    .docker(['ps', '-q', '--filter', 'label=trellis.service=writer']);
  const format = '{{.State.StartedAt}} {{.RestartCount}}';
  return (await cluster.bed.host(index).docker(['inspect', '-f', format, stdout.trim()])).stdout;
}

describe('another release', { timeout: 240_000 }, () => {
  it('of all daemons and guards, one after the other: no failover, no restart of the workload [trellis:R3]', async () => {
    const before = await rig.waitWriting();
    const holder = await rig.holder();
    const started = await startedAt(holder);
    const offset = rig.size;
    // The holder's host is one of them.
    for (const index of indexes) {
      await cluster.lead(index, 'new');
      await cluster.signalDaemon(index, 'TERM');
      await cluster.startDaemon(index);
      await cluster.login(index);
      expect(await cluster.json(index, ['info'])).toMatchObject({ version: releases.new });
      // The daemon is new, the guard still old: they understand each other, and nothing was replaced behind anybody's back.
      await eventually(() => guardOf(index)?.version === releases.old, {
        withinMs: 30_000,
        what: 'the new daemon works with the old guard',
      });
      await rig.waitReady();
      await cluster.signalGuard(index, 'TERM');
      await eventually(() => guardOf(index)?.version === releases.new, {
        withinMs: 30_000,
        what: 'the guard is new too',
      });
      await rig.waitReady();
    }
    const after = await rig.waitWriting();
    expect([after.host, after.epoch]).toEqual([before.host, before.epoch]);
    expect(await startedAt(holder)).toBe(started);
    expect(rig.proof(offset).tenures).toHaveLength(1);
    rig.expectNeverTwo();
  });

  it('and back again', async () => {
    const before = await rig.waitWriting();
    const index = await rig.holder();
    await cluster.lead(index, 'old');
    await cluster.signalDaemon(index, 'TERM');
    await cluster.startDaemon(index);
    await cluster.login(index);
    await cluster.signalGuard(index, 'TERM');
    await eventually(() => guardOf(index)?.version === releases.old, { withinMs: 30_000 });
    await rig.waitReady();
    const after = await rig.waitWriting();
    expect([after.host, after.epoch]).toEqual([before.host, before.epoch]);
    const [held] = await cluster.holders(lease);
    expect(held).toMatchObject({ index, epoch: before.epoch });
  });
});
