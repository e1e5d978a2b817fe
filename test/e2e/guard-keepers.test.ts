/**
 * Three real guards, each with its keeper, and no daemon anywhere: a killed guard is back by itself, and its lease goes on or
 * moves. The workload writes "(epoch, monotonic clock)" every millisecond into one file, as in guards.test.ts.
 */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { isKept } from '../../daemon/lease/guard/keeper.ts';
import { lockedStatus } from '../../daemon/lease/guard-start.ts';
import { eventually, measureFor } from '../await.ts';
import { GuardWorld, webLease, type GuardHost } from '../testbed/guard-hosts.ts';

let world: GuardWorld;
const rounds = process.env['TRELLIS_E2E'] === 'full' ? 30 : 6;
const backMs: number[] = [];

beforeAll(async () => {
  world = new GuardWorld({ count: 3, isKept: true });
  await world.start();
  await world.holding();
  await world.settled(3);
});
afterAll(async () => {
  console.log('killed guards were back after (ms):', backMs.map(Math.round).join(' '));
  await world.stop();
});

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

async function somebodyWrites(): Promise<void> {
  const { bytes } = world.progress();
  await eventually(() => world.progress().bytes > bytes, {
    withinMs: 20_000,
    what: 'somebody writes',
  });
}

/** Everybody runs and votes, one holds and writes. */
async function whole(): Promise<GuardHost> {
  for (const host of world.hosts) if (!host.isUp) host.start();
  await Promise.all(world.hosts.map((host) => host.greeted()));
  await world.settled(3);
  const holder = await world.holding();
  await somebodyWrites();
  return holder;
}

/** Kills them at once. Resolves when each of them answers again, as another process. */
async function killed(hosts: readonly GuardHost[]): Promise<void> {
  const startMs = performance.now();
  const pids = hosts.map(({ pid }) => pid);
  for (const host of hosts) host.signal('SIGKILL');
  await Promise.all(
    hosts.map(async (host, index) => {
      await eventually(() => host.pid !== 0 && host.pid !== pids[index] && host.status !== null, {
        withinMs: 20_000,
        everyMs: 1,
        what: `${host.name} is back`,
      });
      backMs.push(performance.now() - startMs);
    }),
  );
}

/** True: it went on. False: it was late, and somebody has it under another epoch, without what ran under the old one. */
async function wentOn(hosts: readonly GuardHost[]): Promise<boolean> {
  const holder = await whole();
  await holder.renewed();
  const epoch = holder.lease()?.epoch ?? 0;
  const { workload } = holder;
  await killed(hosts.length === 0 ? [holder] : hosts);
  const next = await whole();
  await next.renewed();
  expectOneWriterAtATime();
  if (next === holder && next.lease()?.epoch === epoch) {
    expect(holder.workload?.pid).toBe(workload?.pid);
    expect(workload?.signalCode).toBe(null);
    return true;
  }
  expect(next.lease()?.epoch).toBeGreaterThan(epoch);
  await eventually(() => (workload?.signalCode ?? null) !== null, {
    withinMs: 10_000,
    what: 'the stale workload is killed',
  });
  expectOneWriterAtATime();
  return false;
}

describe('with no daemon anywhere', () => {
  test('[trellis:R3] a killed guard is back, and its workload goes on as if nothing had been', async () => {
    let times = 0;
    for (let round = 0; round < rounds; round += 1) if (await wentOn([])) times += 1;
    // Every round was judged. A machine that is busy with other things may make some of them late.
    expect(times).toBeGreaterThanOrEqual(Math.ceil(rounds / 2));
  });

  test('guards that are killed all at once are back, and one holds', async () => {
    for (let round = 0; round < 2; round += 1) await wentOn(world.hosts);
  });

  test('a guard that is killed again and again while it starts is back in the end', async () => {
    const holder = await whole();
    for (let round = 0; round < 4; round += 1) {
      await killed([holder]);
      expectOneWriterAtATime();
    }
    await whole();
    expectOneWriterAtATime();
  });

  test('a guard that is told to end is not started again, and its gate is closed', async () => {
    const holder = await whole();
    await holder.killGuard('SIGTERM');
    await measureFor(1_000);
    expect(isKept(holder.runDir)).toBe(false);
    expect(holder.pid).toBe(0);
    await whole();
    expectOneWriterAtATime();
  });
});

describe('two that would start it', () => {
  test('do no harm: the second ends, the first guard holds on', async () => {
    const holder = await whole();
    const epoch = holder.lease()?.epoch;
    const { pid } = holder;
    const second = holder.run();
    await eventually(() => second.exitCode !== null, { withinMs: 20_000 });
    expect(second.exitCode).toBe(lockedStatus);
    await holder.renewed();
    expect(holder.pid).toBe(pid);
    expect(holder.lease(webLease)).toMatchObject({ state: 'active', epoch });
    expectOneWriterAtATime();
  });
});
