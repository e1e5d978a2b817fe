/**
 * The holder's processes stop for ten seconds, all of them, and go on as if nothing had happened: what they then write under
 * their old epoch must reach nobody. A host without the role keeps the resource that everybody writes to.
 */
import { readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../await.ts';
import { monotonicMs } from '../testbed/exclusive-proof.ts';
import { ExclusiveRig } from '../testbed/exclusive-rig.ts';
import { processesOf, signalAll } from '../testbed/process-tree.ts';

const probeOn = 3;
const pausedMs = 10_000;
let rig: ExclusiveRig;
let stateFile: string;

interface ProbeState {
  readonly highest: number;
  readonly accepted: number;
  readonly refused: number;
  readonly refusedFrom: Readonly<Record<string, number>>;
  readonly fell: number;
}

const probe = (): ProbeState => JSON.parse(readFileSync(stateFile, 'utf8')) as ProbeState;

beforeAll(async () => {
  rig = await ExclusiveRig.create({ hosts: 4, probeOn, voters: 3 });
  const host = rig.cluster.bed.host(probeOn);
  stateFile = join(rig.cluster.bed.dir, 'shared', 'probe.json');
  const program = resolve(import.meta.dirname, '../testbed/epoch-probe.mjs');
  await host.spawn([process.execPath, program, '/srv/shared/probe.json'], { label: 'probe' });
  await eventually(() => probe().accepted > 0, {
    withinMs: 30_000,
    what: 'the probe is written to',
  });
}, 240_000);

afterAll(async () => {
  await rig?.cluster.destroy();
});

describe('a holder that sleeps', { timeout: 120_000 }, () => {
  it('writes nothing that counts when it wakes up', async () => {
    const index = await rig.holder();
    const host = rig.cluster.bed.host(index);
    const before = await rig.waitWriting();
    const pids = processesOf(host.initPid ?? 0);
    signalAll(pids, 'SIGSTOP');
    const stoppedMs = monotonicMs();
    const next = await rig.waitWriting({ notBy: host.name, sinceMs: stoppedMs });
    await eventually(() => monotonicMs() - stoppedMs >= pausedMs, { withinMs: 2 * pausedMs });
    await eventually(() => probe().highest === next.epoch, { withinMs: 5_000 });
    const wokenMs = monotonicMs();
    // The workload first: it must not be its guard that happens to be quicker.
    signalAll(pids.toReversed(), 'SIGCONT');
    await rig.cluster.waitReady(4);
    await rig.waitReady();
    const stale = rig
      .proof()
      .tenures.find((one) => one.host === host.name && one.epoch === before.epoch);
    const windowMs = Math.max(0, (stale?.lastMs ?? 0) - wokenMs);
    console.log('paused:', { windowMs: Math.round(windowMs), probe: probe() });
    expect(probe().fell).toBe(0);
    // The kernel's own gate: it needs nobody to wake up first.
    expect(probe().refusedFrom[host.name] ?? 0).toBe(0);
    expect((await rig.waitWriting()).epoch).toBe(next.epoch);
    expect(windowMs).toBeLessThan(5_000);
  });
});
