/**
 * At most one is active, whatever happens to its host, its network and its processes; and when its host dies it is elsewhere
 * in about two seconds. The workload writes down itself when it was active.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../await.ts';
import { monotonicMs } from '../testbed/exclusive-proof.ts';
import { ExclusiveRig } from '../testbed/exclusive-rig.ts';

let rig: ExclusiveRig;
const takeoverMs: number[] = [];
const report: Record<string, unknown> = {};

beforeAll(async () => {
  rig = await ExclusiveRig.create({ hosts: 3 });
}, 240_000);

afterAll(async () => {
  console.log('never two:', JSON.stringify({ takeoverMs, ...report }));
  await rig?.cluster.destroy();
});

const nameOf = (index: number): string => rig.cluster.bed.host(index).name;

describe('an exclusive workload', { timeout: 240_000 }, () => {
  it('runs elsewhere soon after the power of its host is cut, and never twice [trellis:P8] [trellis:A21]', async () => {
    for (let round = 0; round < 3; round++) {
      const index = await rig.holder();
      const cutMs = monotonicMs();
      await rig.cluster.bed.host(index).powerCut();
      const next = await rig.waitWriting({ notBy: nameOf(index), sinceMs: cutMs });
      takeoverMs.push(Math.round(next.firstMs - cutMs));
      rig.expectNeverTwo();
      await rig.restore(index);
    }
  });

  it('stops on a host that is cut off before it starts on the other side, and the winner stays after the heal', async () => {
    const index = await rig.holder();
    const before = rig.size;
    const cutMs = monotonicMs();
    await rig.cluster.bed.switch.cut(index);
    const next = await rig.waitWriting({ notBy: nameOf(index), sinceMs: cutMs });
    await rig.cluster.bed.switch.heal(index);
    await rig.cluster.waitReady(3);
    await rig.waitReady();
    rig.expectNeverTwo();
    const { tenures } = rig.proof(before);
    const last = tenures.find(({ host }) => host === nameOf(index));
    report['cutGapMs'] = Math.round(next.firstMs - (last?.lastMs ?? cutMs));
    // One after the heal too, the one that won, without a new start.
    expect((await rig.waitWriting()).epoch).toBe(next.epoch);
  });

  it('is safe when its host hears nothing but is heard, and the other way round', async () => {
    for (const isHeard of [true, false]) {
      const index = await rig.holder();
      const others = [0, 1, 2].filter((one) => one !== index);
      for (const other of others)
        await rig.cluster.bed.switch.oneWay(isHeard ? other : index, isHeard ? index : other);
      await rig.waitWriting({ notBy: nameOf(index), sinceMs: monotonicMs() });
      await rig.cluster.bed.switch.healAll();
      await rig.cluster.waitReady(3);
      await rig.waitReady();
      rig.expectNeverTwo();
    }
  });

  it('does not change hands when daemon, guard or engine is killed [trellis:R3]', async () => {
    const index = await rig.holder();
    const { epoch } = await rig.waitWriting();
    await rig.cluster.signalGuard(index, 'KILL');
    await rig.waitReady();
    expect((await rig.waitWriting()).epoch).toBe(epoch);
    await rig.cluster.signalDaemon(index, 'KILL');
    expect((await rig.waitWriting()).epoch).toBe(epoch);
    await rig.cluster.startDaemon(index);
    await rig.waitReady();
    expect((await rig.waitWriting()).epoch).toBe(epoch);
    rig.expectNeverTwo();
  });

  it('goes on where it is when the target of a switch does not answer, and moves when it does', async () => {
    const index = await rig.holder();
    const target = (index + 1) % 3;
    const before = await rig.waitWriting();
    await rig.cluster.login(index);
    const args = ['lease', 'switch', 'writer-disk', '--to', nameOf(target), '--yes', '--json'];
    await rig.cluster.signalGuard(target, 'STOP');
    const moving = rig.cluster.trellis(index, args);
    let isAnswered = false;
    void moving.finally(() => (isAnswered = true));
    // Long before the three minutes that a target has to get ready.
    await eventually(() => isAnswered, { withinMs: 30_000, what: 'the switch is given up' });
    const { code, data, stderr } = await moving;
    expect([code, data], stderr).toMatchObject([1, { error: { code: 'HANDOVER_ABORTED' } }]);
    expect(JSON.stringify(data)).toContain(`no answer from ${nameOf(target)}`);
    const later = await rig.waitWriting();
    expect([later.host, later.epoch]).toEqual([before.host, before.epoch]);
    await rig.cluster.signalGuard(target, 'CONT');
    await rig.waitReady();
    // Right after its guard was replaced: the command waits for the new one.
    await rig.cluster.signalGuard(index, 'TERM');
    const moved = await rig.cluster.trellis(index, args);
    expect(moved.code, `${moved.stdout}${moved.stderr}`).toBe(0);
    expect(await rig.holder()).toBe(target);
    await rig.waitReady();
    rig.expectNeverTwo();
  });
});
