/**
 * Holders that do not come back by themselves: a daemon that stays dead, a host that was parked and then lost for good. What
 * operators are told, what moves without them, and what only they may decide.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { AlertRow, LeaseDetails, MoveAnswer } from '../../daemon/operations/lease-answers.ts';
import { eventually } from '../await.ts';
import { monotonicMs } from '../testbed/exclusive-proof.ts';
import { ExclusiveRig, lease } from '../testbed/exclusive-rig.ts';

let rig: ExclusiveRig;

beforeAll(async () => {
  rig = await ExclusiveRig.create({ hosts: 3, lease: '{ onDaemonDown: move }' });
  for (const index of [1, 2]) await rig.cluster.login(index);
}, 240_000);

afterAll(async () => {
  await rig?.cluster.destroy();
});

const nameOf = (index: number): string => rig.cluster.bed.host(index).name;

async function alertOf(id: string, from: number): Promise<AlertRow | null> {
  const rows = await rig.cluster.json<AlertRow[]>(from, ['alert', 'ls']);
  return rows.find((row) => row.id === id) ?? null;
}

async function isOver(id: string, from: number): Promise<void> {
  await eventually(async () => (await alertOf(id, from)) === null, {
    withinMs: 60_000,
    everyMs: 250,
    what: `${id} is over`,
  });
}

/** Of the workload's containers on that host, those that run. */
async function runningOn(index: number): Promise<string> {
  const filter = ['ps', '-q', '--filter', 'label=trellis.service=writer'];
  return (await rig.cluster.bed.host(index).docker(filter)).stdout.trim();
}

describe('an exclusive workload', { timeout: 240_000 }, () => {
  it('whose daemon stays dead moves where its lease says so, and the alert says that it will', async () => {
    const index = await rig.holder();
    const other = (index + 1) % 3;
    const before = await rig.waitWriting();
    await rig.cluster.signalDaemon(index, 'KILL');
    const id = `daemon-down:${nameOf(index)}`;
    const raised = await eventually(() => alertOf(id, other), {
      withinMs: 25_000,
      everyMs: 250,
      what: 'the alert is listed',
    });
    expect(raised.text).toContain(`${lease} will move soon`);
    // It has its time to come back first.
    expect((await rig.waitWriting()).epoch).toBe(before.epoch);
    const next = await rig.waitWriting({ notBy: nameOf(index), withinMs: 90_000 });
    expect(next.epoch).toBeGreaterThan(before.epoch);
    await isOver(id, other);
    await rig.cluster.startDaemon(index);
    await rig.cluster.login(index);
    await rig.cluster.waitReady(3);
    await rig.waitReady();
    expect((await rig.waitWriting()).epoch).toBe(next.epoch);
    rig.expectNeverTwo();
  });

  it('that moves again and again raises an alert, which somebody can acknowledge', async () => {
    const id = `flapping:${lease}`;
    expect(await alertOf(id, 0)).toBe(null);
    for (let moves = 0; moves < 4; moves++) {
      const to = nameOf(((await rig.holder()) + 1) % 3);
      const argv = ['lease', 'switch', 'writer-disk', '--to', to, '--yes'];
      expect(await rig.cluster.json<MoveAnswer>(0, argv)).toMatchObject({ to });
      await rig.waitReady();
    }
    await eventually(() => alertOf(id, 0), { withinMs: 20_000, everyMs: 250, what: 'it is told' });
    expect((await rig.cluster.trellis(0, ['status'])).stdout).toContain(`alert ${id}`);
    await rig.cluster.json(0, ['alert', 'ack', id]);
    expect((await alertOf(id, 0))?.acknowledged?.operator).not.toBe(null);
    rig.expectNeverTwo();
  });

  it('that was parked and lost for good is taken by force, and its old host does not run it again', async () => {
    const index = await rig.holder();
    const taker = (index + 1) % 3;
    const before = await rig.waitWriting();
    await rig.cluster.json(index, ['lease', 'park']);
    await rig.cluster.bed.host(index).powerCut();
    const cutMs = monotonicMs();
    // Long after any lease of it would have run out: nobody has taken it.
    await eventually(async () => (await rig.cluster.hosts(taker))[index]?.state === 'dead', {
      withinMs: 60_000,
      everyMs: 250,
      what: 'its host counts as dead',
    });
    const parked = await rig.cluster.json<LeaseDetails>(taker, ['lease', 'show', 'writer-disk']);
    expect(parked).toMatchObject({ holder: nameOf(index), state: 'parked', epoch: before.epoch });
    expect(rig.proof().tenures.at(-1)?.epoch).toBe(before.epoch);
    const force = ['lease', 'force-active', 'writer-disk', '--yes'];
    const once = await rig.cluster.trellis(taker, [...force, '--json']);
    expect([once.code, once.data]).toMatchObject([3, { error: { code: 'CONFIRMATION_NEEDED' } }]);
    const argv = [...force, '--confirm', 'writer-disk'];
    const taken = await rig.cluster.json<MoveAnswer>(taker, argv);
    expect(taken).toMatchObject({ from: nameOf(index), to: nameOf(taker) });
    expect(taken.epoch).toBeGreaterThan(before.epoch);
    const next = await rig.waitWriting({ notBy: nameOf(index), sinceMs: cutMs });
    expect(next).toMatchObject({ host: nameOf(taker), epoch: taken.epoch });
    await rig.restore(index);
    await eventually(
      async () => {
        const argv = ['lease', 'show', 'writer-disk'];
        const seen = await rig.cluster.json<LeaseDetails>(index, argv);
        expect(seen).toMatchObject({ holder: nameOf(taker), state: 'active', epoch: taken.epoch });
        return true;
      },
      { withinMs: 30_000, everyMs: 250, what: 'the old host knows the new holder' },
    );
    const own = (await rig.cluster.leaseStatus(index)).leases.find(({ title }) => title === lease);
    expect(own).toMatchObject({ state: 'waiting', holder: { state: 'active' } });
    expect(await runningOn(index)).toBe('');
    // Its vote counts for the new holder: the third one is not needed.
    await rig.cluster.bed.switch.cut((index + 2) % 3);
    const later = await rig.waitWriting({ sinceMs: monotonicMs() + 4_000 });
    expect(later).toMatchObject({ host: nameOf(taker), epoch: taken.epoch });
    await rig.cluster.bed.switch.healAll();
    rig.expectNeverTwo();
  });
});
