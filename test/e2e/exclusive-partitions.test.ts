/** Partitions of five hosts with five voters: whichever side has the majority has the workload, and never both. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventually } from '../await.ts';
import { monotonicMs } from '../testbed/exclusive-proof.ts';
import { ExclusiveRig } from '../testbed/exclusive-rig.ts';

let rig: ExclusiveRig;
const all = [0, 1, 2, 3, 4] as const;

beforeAll(async () => {
  rig = await ExclusiveRig.create({ hosts: 5 });
}, 300_000);

afterAll(async () => {
  await rig?.cluster.destroy();
});

const nameOf = (index: number): string => rig.cluster.bed.host(index).name;

/** The side on which the writer writes, some time after the cut; [] for none. */
async function healed(): Promise<void> {
  await rig.cluster.bed.switch.healAll();
  await rig.cluster.waitReady(5);
  await rig.waitReady();
  rig.expectNeverTwo();
  const { host, epoch } = await rig.waitWriting();
  // One after the heal too, and it is not started anew.
  const later = await rig.waitWriting();
  expect([later.host, later.epoch]).toEqual([host, epoch]);
}

describe('a partition', { timeout: 240_000 }, () => {
  it('3|2 with the holder in the minority: the majority takes over [trellis:A21]', async () => {
    const index = await rig.holder();
    const [first = 0, ...others] = all.filter((one) => one !== index);
    const cutMs = monotonicMs();
    await rig.cluster.bed.switch.partition([[index, first], others]);
    const next = await rig.waitWriting({ notBy: nameOf(index), sinceMs: cutMs });
    expect(others.map(nameOf)).toContain(next.host);
    await healed();
  });

  it('3|2 with the holder in the majority: nothing moves', async () => {
    const index = await rig.holder();
    const { epoch } = await rig.waitWriting();
    const others = all.filter((one) => one !== index);
    const [minority, majority] = [others.slice(0, 2), [index, ...others.slice(2)]];
    await rig.cluster.bed.switch.partition([minority, majority]);
    await eventually(
      async () =>
        (await rig.cluster.hosts(index)).filter(({ state }) => state === 'dead').length === 2,
      { withinMs: 60_000, everyMs: 250, what: 'the others are counted as dead' },
    );
    expect((await rig.waitWriting()).epoch).toBe(epoch);
    await healed();
    expect((await rig.waitWriting()).epoch).toBe(epoch);
  });

  it('2|2 with a fifth that hears both sides: one side has it, and never both', async () => {
    const index = await rig.holder();
    const others = all.filter((one) => one !== index);
    const [here, ...rest] = others;
    const witness = rest.pop() ?? 0;
    for (const a of [index, here ?? 0]) {
      for (const b of rest) {
        await rig.cluster.bed.switch.oneWay(a, b);
        await rig.cluster.bed.switch.oneWay(b, a);
      }
    }
    for (const seer of [index, rest[0] ?? 0]) {
      await eventually(
        async () => {
          const { voters } = await rig.cluster.leaseStatus(seer);
          return voters.filter(({ isReachable }) => !isReachable).length === 2;
        },
        { withinMs: 60_000, everyMs: 250, what: `${nameOf(seer)} misses the other side` },
      );
    }
    expect((await rig.cluster.leaseStatus(witness)).hasQuorum).toBe(true);
    await rig.waitWriting();
    await rig.waitWriting();
    await healed();
  });

  it('that comes and goes with the period of renewals', async () => {
    const index = await rig.holder();
    for (let round = 0; round < 12; round++) {
      const turn = monotonicMs();
      await rig.cluster.bed.switch.cut(index);
      await eventually(() => monotonicMs() - turn > 400, { withinMs: 10_000 });
      await rig.cluster.bed.switch.heal(index);
      await eventually(() => monotonicMs() - turn > 800, { withinMs: 10_000 });
    }
    await healed();
  });
});
