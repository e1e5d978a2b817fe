/**
 * Who votes, on hosts that need no engine: every choice of a cluster of two, growing to three while a lease is in use, and
 * voters replaced one by one until none of the first is left.
 */
import { afterEach, describe, expect, it } from 'vitest';
import type { DoctorAnswer } from '../../daemon/operations/answers.ts';
import type { EnvDetails } from '../../daemon/operations/lease-answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';

let cluster: TestCluster;

afterEach(async () => {
  await cluster?.destroy();
});

async function start(hosts: number): Promise<void> {
  const roles = Array.from({ length: hosts }, () => ['data']);
  cluster = await TestCluster.create({ hosts, engines: false, roles });
  for (let index = 1; index < hosts; index++) await cluster.login(index);
}

const nameOf = (index: number): string => cluster.bed.host(index).name;

/** Runs a command under the lease `lock/job` on that host; its epoch, or null when it was not acquired in time. */
async function epochOn(index: number, waitSeconds = 30): Promise<number | null> {
  const command = ['sh', '-c', 'echo $TRELLIS_EPOCH'];
  const result = await cluster.trellis(index, [
    'lock',
    'job',
    '--wait',
    `${waitSeconds}s`,
    '--',
    ...command,
  ]);
  if (result.code === 5) return null;
  expect(result.code, result.stderr).toBe(0);
  return Number(result.stdout.trim());
}

async function votersAre(names: readonly string[], from = 0): Promise<void> {
  await eventually(
    async () => {
      const env = await cluster.json<EnvDetails>(from, ['env', 'show']);
      expect(env.voters.toSorted()).toEqual(names.toSorted());
      return true;
    },
    { withinMs: 120_000, everyMs: 250, what: `voters are ${names.join(', ')}` },
  );
}

async function setVoters(choice: string, from = 0): Promise<void> {
  await cluster.json(from, ['env', 'set', 'voters', choice, '--yes']);
}

describe('two hosts', { timeout: 300_000 }, () => {
  it('the first votes until somebody chooses: it alone goes on when the other is gone [trellis:A21]', async () => {
    await start(2);
    await votersAre([nameOf(0)]);
    // Without an engine it is not content, but it says what each choice loses.
    const { checks } = (await cluster.trellis(0, ['doctor', '--json'])).data as DoctorAnswer;
    const { detail, todo } = checks.find(({ name }) => name === 'voters') ?? {};
    expect(`${detail} ${todo}`).toMatch(/only voter.*pair.*witness/s);
    const first = await epochOn(1);
    expect(first).toBeGreaterThan(0);
    await cluster.bed.switch.cut(1);
    expect(await epochOn(1, 2)).toBeNull();
    expect(await epochOn(0)).toBeGreaterThan(first ?? 0);
  });

  it('a pair: what is held goes on through a cut, and nothing is taken on either side', async () => {
    await start(2);
    await setVoters('pair');
    await votersAre([nameOf(0), nameOf(1)]);
    const first = await epochOn(0);
    const file = '/run/held';
    const held = await cluster.bed
      .host(0)
      .spawn(['trellis', 'lock', 'held', '--', 'sh', '-c', `echo up > ${file}; sleep 600`], {
        label: 'held',
      });
    await eventually(
      async () => (await cluster.bed.host(0).exec(['cat', file])).stdout === 'up\n',
      { withinMs: 30_000 },
    );
    await cluster.bed.switch.cut(1);
    expect(await epochOn(0, 3)).toBeNull();
    expect(await epochOn(1, 3)).toBeNull();
    // Longer than any authority without renewal: it is still held.
    const { leases } = await cluster.leaseStatus(0);
    expect(leases.find(({ name }) => name === 'lock/held')?.state).toBe('active');
    await cluster.bed.switch.heal(1);
    await eventually(async () => (await epochOn(1, 5)) !== null, { withinMs: 60_000 });
    expect(await epochOn(1)).toBeGreaterThan(first ?? 0);
    await held.signal('TERM');
    await held.exited;
  });

  it('grow to three while a lease is used all the time: epochs only grow', async () => {
    await start(2);
    await setVoters('pair');
    await votersAre([nameOf(0), nameOf(1)]);
    const epochs: number[] = [];
    const joining = (async () => {
      await cluster.bed.grow({ engine: false });
      await cluster.join(2);
      await setVoters('auto');
    })();
    let isJoined = false;
    joining.then(
      () => (isJoined = true),
      () => (isJoined = true),
    );
    while (!isJoined) epochs.push((await epochOn(epochs.length % 2)) ?? -1);
    await joining;
    await votersAre([0, 1, 2].map(nameOf));
    epochs.push((await epochOn(0)) ?? -1);
    expect(epochs).toEqual(epochs.toSorted((a, b) => a - b));
    expect(new Set(epochs).size).toBe(epochs.length);
    expect(epochs[0]).toBeGreaterThan(0);
    // Three stand the loss of one.
    await cluster.bed.host(0).powerCut();
    expect(await epochOn(1)).toBeGreaterThan(epochs.at(-1) ?? 0);
  });
});

describe('six hosts', { timeout: 300_000 }, () => {
  it('voters are replaced one by one until none of the first is left; the epoch never goes back', async () => {
    await start(6);
    await setVoters([0, 1, 2].map(nameOf).join(','));
    await votersAre([0, 1, 2].map(nameOf));
    let last = (await epochOn(5)) ?? 0;
    expect(last).toBeGreaterThan(0);
    for (const voters of [
      [1, 2, 3],
      [2, 3, 4],
      [3, 4, 5],
    ]) {
      await setVoters(voters.map(nameOf).join(','));
      await votersAre(voters.map(nameOf));
      const epoch = (await epochOn(voters[0] ?? 0)) ?? 0;
      expect(epoch).toBeGreaterThan(last);
      last = epoch;
    }
    // None of the first is needed any more.
    for (const index of [0, 1, 2]) await cluster.bed.host(index).powerCut();
    expect(await epochOn(4)).toBeGreaterThan(last);
  });
});

describe('a majority that is gone for good', { timeout: 300_000 }, () => {
  it('is replaced by force, with two confirmations, and the old voters step back', async () => {
    await start(3);
    await votersAre([0, 1, 2].map(nameOf));
    const before = (await epochOn(0)) ?? 0;
    for (const index of [1, 2]) await cluster.bed.host(index).powerCut();
    expect(await epochOn(0, 3)).toBeNull();
    const force = [
      'env',
      'force-voters',
      '--voters',
      nameOf(0),
      '--dead',
      `${nameOf(1)},${nameOf(2)}`,
    ];
    expect((await cluster.trellis(0, force)).code).toBe(3);
    await cluster.json(0, [...force, '--yes', '--confirm', 'prod']);
    await votersAre([nameOf(0)]);
    const after = (await epochOn(0)) ?? 0;
    expect(after).toBeGreaterThan(before);
    // Back from the dead, an old voter learns that it is none any more.
    await cluster.bed.host(1).boot();
    await cluster.startDaemon(1);
    await eventually(
      async () => {
        const { chosen } = await cluster.leaseStatus(1);
        return chosen?.config.generation === 1;
      },
      { withinMs: 60_000, everyMs: 250 },
    );
    expect(await epochOn(0)).toBeGreaterThan(after);
  });
});
