/**
 * Three real guards with their gates and a workload that writes "(epoch, monotonic clock)" every millisecond into one file:
 * no engine, no daemon. What may be killed is killed; the order of lines in the file is the proof, since a frozen or killed
 * writer writes nothing.
 */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { LeaseDesired } from '../../daemon/lease/guard-api.ts';
import { eventually, measureFor } from '../await.ts';
import {
  GuardWorld,
  lockLease,
  plannerLease,
  webLease,
  type GuardHost,
} from '../testbed/guard-hosts.ts';

let world: GuardWorld;
const cuts = process.env['TRELLIS_E2E'] === 'full' ? 30 : 2;

beforeAll(async () => {
  world = new GuardWorld({ count: 3 });
  await world.start();
  await world.holding();
  await world.settled(3);
});
afterAll(() => world.stop());

/** Epochs never fall in the order of the file, and no two hosts write under one epoch. */
function expectOneWriterAtATime(): void {
  const owners = new Map<number, string>();
  let newest = 0;
  for (const { epoch, host } of world.lines()) {
    expect(epoch).toBeGreaterThanOrEqual(newest);
    expect(owners.get(epoch) ?? host).toBe(host);
    owners.set(epoch, host);
    newest = epoch;
  }
}

async function isWriting(host: GuardHost, withinMs = 20_000): Promise<void> {
  const before = world.progress().bytes;
  await eventually(
    () => {
      const { bytes, host: last } = world.progress();
      return bytes > before && last === host.name;
    },
    { withinMs, what: `${host.name} writes` },
  );
}

/** Everybody runs and votes again. */
async function whole(): Promise<GuardHost> {
  for (const host of world.hosts) if (!host.isUp) host.reboot();
  await Promise.all(world.hosts.map((host) => host.greeted()));
  const holder = await world.holding();
  await world.settled(3);
  await isWriting(holder);
  return holder;
}

describe('a lease with a gate', () => {
  test('is renewed under one epoch, and one host writes', async () => {
    const holder = await whole();
    const before = holder.lease()?.epoch;
    await measureFor(3_000);
    expect(holder.lease()).toMatchObject({ state: 'active', gate: 'open', epoch: before });
    expectOneWriterAtATime();
  });

  test.each(['SIGKILL', 'SIGSTOP'] as const)(
    'the workload of a guard that got %s and stays away is closed in time',
    async (signal) => {
      const holder = await whole();
      const epoch = holder.lease()?.epoch ?? 0;
      holder.signal(signal);
      const next = await eventually(
        () =>
          world.hosts.find(
            (host) =>
              host !== holder &&
              (host.lease()?.epoch ?? 0) > epoch &&
              host.lease()?.state === 'active',
          ),
        { withinMs: 15_000, what: 'a new holder' },
      );
      await isWriting(next);
      await measureFor(2_000);
      expectOneWriterAtATime();
      if (signal === 'SIGSTOP') holder.signal('SIGCONT');
      else holder.start();
      await eventually(() => (holder.workload?.signalCode ?? null) !== null, {
        withinMs: 10_000,
        what: 'the stale workload is killed',
      });
      expectOneWriterAtATime();
    },
  );

  test('[trellis:R3] a guard that is stopped in order pauses its workload and goes on', async () => {
    const holder = await whole();
    const epoch = holder.lease()?.epoch;
    await holder.killGuard('SIGTERM');
    const frozenAt = world.progress().bytes;
    await measureFor(50);
    expect(world.progress().bytes).toBe(frozenAt);
    holder.start();
    await eventually(() => holder.lease()?.state === 'active', { withinMs: 5_000 });
    expect(holder.lease()?.epoch).toBe(epoch);
    await isWriting(holder);
    expectOneWriterAtATime();
  });

  test('guards of the others may go and come', async () => {
    const holder = await whole();
    const epoch = holder.lease()?.epoch;
    for (const host of world.hosts) {
      if (host === holder) continue;
      await host.killGuard();
      await measureFor(2_000);
      expect(holder.lease()).toMatchObject({ state: 'active', epoch });
      host.start();
      await world.settled(3);
    }
    expectOneWriterAtATime();
  });

  test('without a majority the workload is frozen, killed, and taken up again afterwards', async () => {
    const holder = await whole();
    const epoch = holder.lease()?.epoch ?? 0;
    const others = world.hosts.filter((host) => host !== holder);
    for (const host of others) await host.killGuard();
    await eventually(
      () => holder.workload?.exitCode !== null || holder.workload.signalCode !== null,
      {
        withinMs: 10_000,
        what: 'the workload is killed',
      },
    );
    expect(holder.lease()?.state).not.toBe('active');
    const ended = world.progress().bytes;
    await measureFor(1_000);
    expect(world.progress().bytes).toBe(ended);
    for (const host of others) host.reboot();
    const next = await world.holding();
    expect(next.lease()?.epoch).toBeGreaterThan(epoch);
    await isWriting(next);
    expectOneWriterAtATime();
  });

  test('a host that is cut off from power is followed within two seconds', async () => {
    const times: number[] = [];
    for (let round = 0; round < cuts; round += 1) {
      const holder = await whole();
      const epoch = holder.lease()?.epoch ?? 0;
      const startMs = performance.now();
      holder.kill();
      const next = await eventually(
        () => {
          const found = world.holder();
          return found !== holder && (found?.lease()?.epoch ?? 0) > epoch ? found : null;
        },
        { withinMs: 15_000, everyMs: 2, what: 'a new holder' },
      );
      times.push(performance.now() - startMs);
      await isWriting(next);
    }
    expectOneWriterAtATime();
    expect(Math.min(...times)).toBeLessThan(4_000);
  });

  test('a holder that was stopped for ten seconds with all that is its own writes nothing stale', async () => {
    const holder = await whole();
    const stale = holder.lease()?.epoch ?? 0;
    holder.workload?.kill('SIGSTOP');
    holder.signal('SIGSTOP');
    const next = await eventually(
      () => world.hosts.find((host) => host !== holder && host.lease()?.state === 'active'),
      { withinMs: 15_000, what: 'a new holder' },
    );
    await isWriting(next);
    await measureFor(8_000);
    const before = world.lines().length;
    holder.signal('SIGCONT');
    holder.workload?.kill('SIGCONT');
    await eventually(() => holder.lease()?.state !== 'active', { withinMs: 10_000 });
    await eventually(() => (holder.workload?.signalCode ?? null) !== null, {
      withinMs: 10_000,
      what: 'the stale workload is killed',
    });
    // What a probe that knows the newest epoch refuses: written between the wake-up and the kill.
    const late = world
      .lines()
      .slice(before)
      .filter(({ epoch }) => epoch === stale);
    expect(late.length).toBeLessThan(500);
    expect(next.lease()).toMatchObject({ state: 'active' });
    await eventually(() => holder.lease()?.holder?.owner.host === next.host, { withinMs: 10_000 });
  });
});

describe('commands', () => {
  test('a switch moves the workload in order and leaves one epoch more', async () => {
    const holder = await whole();
    const epoch = holder.lease()?.epoch ?? 0;
    const target = world.hosts.find((host) => host !== holder);
    if (target === undefined) throw new Error('no target');
    const reply = await holder.command({
      kind: 'switch',
      name: webLease,
      to: target.host,
      reason: 'test',
    });
    expect(reply).toMatchObject({ isOk: true });
    await eventually(() => target.lease()?.state === 'active', { withinMs: 10_000 });
    expect(target.lease()?.epoch).toBe(epoch + 1);
    await isWriting(target);
  });

  test('a command under a lease ends with the connection of whoever took it', async () => {
    await whole();
    const [host, other] = world.hosts;
    if (host === undefined || other === undefined) throw new Error('no hosts');
    const lease = (of: GuardHost): LeaseDesired => ({
      ...lockLease,
      candidates: world.hosts.map((each) => each.host),
      gate: of.gate(900),
    });
    const tool = await host.tool();
    const reply = await tool.command({ kind: 'acquire', lease: lease(host), waitMs: 5_000 });
    if (!reply.isOk || reply.leaseDir === undefined) throw new Error(JSON.stringify(reply));
    const [procs = ''] = reply.gateProcs ?? [];
    expect(readFileSync(path.join(reply.leaseDir, 'epoch'), 'utf8')).toBe(`${reply.epoch}\n`);
    const child = spawn('/bin/sh', ['-c', 'echo $$ > "$0"; while :; do :; done', procs]);
    await eventually(() => readFileSync(procs, 'utf8').includes(String(child.pid)), {
      withinMs: 5_000,
    });

    const rival = await other.tool();
    const refused = await rival.command({ kind: 'acquire', lease: lease(other), waitMs: 100 });
    expect(refused).toMatchObject({ isOk: false });
    tool.close();
    await eventually(() => child.signalCode === 'SIGKILL', {
      withinMs: 10_000,
      what: 'it is killed',
    });
    const next = await rival.command({ kind: 'acquire', lease: lease(other), waitMs: 10_000 });
    expect(next).toMatchObject({ isOk: true, epoch: (reply.epoch ?? 0) + 1 });
    rival.close();
    await eventually(() => other.lease(lockLease.name)?.state !== 'active', { withinMs: 10_000 });
  });

  test('[trellis:R20] parked work runs on with no guard anywhere, and nobody else takes it', async () => {
    const holder = await whole();
    const epoch = holder.lease()?.epoch;
    const workload = holder.workload?.pid;
    expect(await holder.command({ kind: 'park', name: null })).toMatchObject({ isOk: true });
    for (const host of world.hosts) await host.killGuard('SIGTERM');
    await isWriting(holder);
    await measureFor(3_000);
    await isWriting(holder);
    for (const host of world.hosts) host.start();
    await world.settled(3);
    await measureFor(2_000);
    for (const host of world.hosts) {
      expect(host.lease()?.state).toBe(host === holder ? 'parked' : 'waiting');
    }
    expect(await holder.command({ kind: 'unpark', name: null })).toMatchObject({ isOk: true });
    await eventually(() => holder.lease()?.state === 'active', { withinMs: 15_000 });
    expect(holder.lease()?.epoch).toBe(epoch);
    expect(holder.workload?.pid).toBe(workload);
    await isWriting(holder);
  });

  test('the gate is tried for real on demand', async () => {
    const [host] = world.hosts;
    expect(await host?.testGate()).toEqual({ isOk: true });
    expect(host?.status?.counters['gateFreezeMs']).toBeGreaterThan(0);
  });

  test('the planner has one holder', () => {
    const holders = world.hosts.filter((host) => host.lease(plannerLease)?.state === 'active');
    expect(holders).toHaveLength(1);
  });
});
