/**
 * Daemon, guard and engine of the holder end, hang and are replaced, alone and in pairs: the workload is never twice, and what
 * needs not move does not. The full run does it a hundred times in random order.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../await.ts';
import { ExclusiveRig } from '../testbed/exclusive-rig.ts';

type Part = 'daemon' | 'guard' | 'engine';

let rig: ExclusiveRig;
const rounds = Number(process.env['TRELLIS_KILL_ROUNDS'] ?? 3);
const report: Record<string, number> = { rounds, moves: 0 };

beforeAll(async () => {
  rig = await ExclusiveRig.create({ hosts: 3 });
}, 240_000);

afterAll(async () => {
  console.log('killed:', JSON.stringify(report));
  await rig?.cluster.destroy();
});

const all: readonly Part[] = ['daemon', 'guard', 'engine'];

async function kill(index: number, part: Part): Promise<void> {
  if (part === 'daemon') await rig.cluster.signalDaemon(index, 'KILL');
  else if (part === 'guard') await rig.cluster.signalGuard(index, 'KILL');
  else await rig.cluster.bed.host(index).stopEngine('kill');
}

async function replace(index: number, part: Part): Promise<void> {
  if (part === 'daemon') await rig.cluster.startDaemon(index);
  else if (part === 'engine') await rig.cluster.bed.host(index).startEngine();
}

/** Kills these on the holder's host, starts them again, and waits until everything is as it was. */
async function round(parts: readonly Part[]): Promise<{ isSame: boolean }> {
  const index = await rig.holder();
  const before = await rig.waitWriting();
  const offset = rig.size;
  for (const part of parts) await kill(index, part);
  for (const part of parts) await replace(index, part);
  await rig.cluster.login(index);
  await rig.waitReady();
  const after = await rig.waitWriting();
  rig.expectNeverTwo();
  expect(rig.proof(offset).falls).toEqual([]);
  if (after.epoch !== before.epoch) report['moves'] = (report['moves'] ?? 0) + 1;
  return { isSame: after.epoch === before.epoch };
}

describe('on the host of the holder', { timeout: 600_000 }, () => {
  it('the daemon dies: nothing moves, nothing restarts [trellis:R3]', async () => {
    expect(await round(['daemon'])).toEqual({ isSame: true });
  });

  it('the guard dies and is back: never two', async () => {
    await round(['guard']);
  });

  it('the guard dies while the daemon is stopped: it is back without it, never two', async () => {
    const index = await rig.holder();
    const before = await rig.cluster.guardPid(index);
    const offset = rig.size;
    await rig.cluster.signalDaemon(index, 'STOP');
    try {
      await rig.cluster.signalGuard(index, 'KILL');
      await eventually(async () => (await rig.cluster.leaseStatus(index)).pid !== before, {
        withinMs: 20_000,
        what: 'the guard answers again',
      });
      await rig.waitWriting();
      rig.expectNeverTwo();
    } finally {
      await rig.cluster.signalDaemon(index, 'CONT');
    }
    await rig.waitReady();
    expect(rig.proof(offset).falls).toEqual([]);
    rig.expectNeverTwo();
  });

  it('two die together: never two', async () => {
    await round(['daemon', 'guard']);
    await round(['guard', 'daemon']);
  });

  it('the engine hangs: nothing moves, and fencing does not need it', async () => {
    const index = await rig.holder();
    const before = await rig.waitWriting();
    await rig.cluster.signalEngine(index, 'STOP');
    try {
      const host = rig.cluster.bed.host(index);
      await rig.cluster.bed.switch.cut(index);
      const next = await rig.waitWriting({ notBy: host.name });
      expect(next.epoch).toBeGreaterThan(before.epoch);
      rig.expectNeverTwo();
    } finally {
      await rig.cluster.bed.switch.healAll();
      await rig.cluster.signalEngine(index, 'CONT');
    }
    await rig.cluster.waitReady(3);
    await rig.waitReady();
    rig.expectNeverTwo();
  });

  it(`anything dies, ${rounds} times: never two`, async () => {
    // Every subset comes up in turn; what varies is the moment within the period of renewals.
    const subsets: readonly (readonly Part[])[] = [
      ['engine'],
      ['guard', 'engine'],
      ['daemon', 'engine'],
      ['guard'],
      ['daemon', 'guard'],
      all,
    ];
    for (let count = 0; count < rounds; count++)
      await round(subsets[count % subsets.length] ?? all);
  });
});

describe('of all hosts', { timeout: 600_000 }, () => {
  it('daemons and guards are replaced one after the other: no failover, no restart [trellis:R3]', async () => {
    const before = await rig.waitWriting();
    for (const index of [0, 1, 2]) {
      await rig.cluster.signalGuard(index, 'TERM');
      await rig.waitReady();
      await rig.cluster.signalDaemon(index, 'TERM');
      await rig.cluster.startDaemon(index);
      await rig.cluster.login(index);
      await rig.waitReady();
    }
    const after = await rig.waitWriting();
    expect([after.host, after.epoch]).toEqual([before.host, before.epoch]);
    rig.expectNeverTwo();
  });

  it('daemons and guards are stopped after parking: it runs on, and nobody takes over [trellis:R20]', async () => {
    const before = await rig.waitWriting();
    const index = await rig.holder();
    await rig.cluster.json(index, ['lease', 'park', 'writer-disk', '--yes']);
    for (const one of [0, 1, 2]) {
      await rig.cluster.signalDaemon(one, 'TERM');
      await rig.cluster.signalGuard(one, 'TERM');
    }
    // Far longer than any lease lives.
    const stoppedAt = before.lastMs;
    const later = await eventually(
      () => {
        const last = rig.proof().tenures.at(-1);
        return last !== undefined && last.lastMs - stoppedAt > 20_000 ? last : null;
      },
      { withinMs: 60_000, everyMs: 250 },
    );
    expect([later.host, later.epoch]).toEqual([before.host, before.epoch]);
    for (const one of [0, 1, 2]) await rig.cluster.startDaemon(one);
    for (const one of [0, 1, 2]) await rig.cluster.login(one);
    await rig.cluster.json(index, ['lease', 'unpark', 'writer-disk', '--yes']);
    await rig.waitReady();
    const after = await rig.waitWriting();
    expect([after.host, after.epoch]).toEqual([before.host, before.epoch]);
    rig.expectNeverTwo();
  });
});
