/** What one daemon of an environment does for all: automatic plans, uses of invitations, recurring jobs. No engines. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { EventRow } from '../../daemon/operations/answers.ts';
import type { EnvDetails } from '../../daemon/operations/lease-answers.ts';
import { eventually, measureFor } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { Testbed } from '../testbed/testbed.ts';

/** The last two join in the middle of it. */
const members = [0, 1, 2];
const names = ['h1', 'h2', 'h3'];
let cluster: TestCluster;
/** Of daemons that are gone, too. */
const logs: string[] = [];

const desired = `
apiVersion: trellis/v1
roles: { web: {}, other: {} }
services:
  site:
    role: web
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    stopGrace: 1s
`;

beforeAll(async () => {
  cluster = new TestCluster(await Testbed.create({ hosts: 5, engines: false }));
  await cluster.found(['web']);
  for (const index of [1, 2]) await cluster.join(index);
  await cluster.waitReady(3, members);
  for (const index of [1, 2]) await cluster.login(index);
  await whole();
  const { code, stdout } = await cluster.apply(0, desired, []);
  expect([code, stdout]).toEqual([0, stdout]);
}, 240_000);

afterAll(async () => {
  await cluster?.destroy();
});

const details = (index: number) => cluster.json<EnvDetails>(index, ['env', 'show']);

/** Changes what automatic plans are made of. It is no planner: it is frozen. */
async function joinFourth(from: number): Promise<void> {
  const ticket = await cluster.trellis(from, ['invite', '--json', '--role', 'web']);
  cluster.bed.host(3).writeFile('/run/ticket', ticket.stdout, 0o600);
  await cluster.json(3, ['join', '--code-file', '/run/ticket']);
}

async function freezeFourth(from: number): Promise<void> {
  await cluster.json(from, ['host', 'set', 'h4', '--frozen', 'on']);
}

/** Three voters, and everybody names one planner. */
async function whole(): Promise<{ readonly index: number; readonly epoch: number }> {
  return eventually(
    async () => {
      const all = await Promise.all(members.map(details));
      const [first] = all;
      for (const one of all) {
        expect(one.quorum.voters.filter(({ isReachable }) => isReachable)).toHaveLength(3);
        expect(one.planner).toEqual(first?.planner);
      }
      const index = names.indexOf(first?.planner?.host ?? '');
      expect(index).toBeGreaterThanOrEqual(0);
      return { index, epoch: first?.planner?.epoch ?? 0 };
    },
    { withinMs: 90_000, everyMs: 250, what: 'three voters and one planner' },
  );
}

/** 'h1 under 3', as all of `from` tell it, oldest first. */
async function automatic(from: readonly number[]): Promise<string[]> {
  const seen = await Promise.all(
    from.map(async (index) => {
      const events = await cluster.json<EventRow[]>(index, ['events', '-n', '500']);
      return events
        .filter(({ kind, host }) => kind === 'plan.automatic' && host === names[index])
        .map(({ host, details: said }) => `${host} under ${String(said?.['planEpoch'])}`);
    }),
  );
  return seen.flat();
}

async function oneMore(
  before: readonly string[],
  from: readonly number[],
  planner: { readonly index: number; readonly epoch: number },
): Promise<void> {
  const more = async (): Promise<string[]> => {
    const now = await automatic(from);
    for (const known of before) {
      const at = now.indexOf(known);
      if (at >= 0) now.splice(at, 1);
    }
    return now;
  };
  await eventually(async () => (await more()).length > 0, {
    withinMs: 30_000,
    everyMs: 250,
    what: 'an automatic plan',
  });
  // Nobody else follows with another.
  await measureFor(3_000);
  expect(await more()).toEqual([`${names[planner.index]} under ${planner.epoch}`]);
}

describe('automatic plans', { timeout: 180_000 }, () => {
  it('are committed by the holder of the planner’s lease alone, under its epoch', async () => {
    await cluster.startDaemon(3);
    const planner = await whole();
    const before = await automatic(members);
    await joinFourth((planner.index + 1) % 3);
    await oneMore(before, members, planner);
    await freezeFourth(planner.index);
  });

  it('after the planner’s power is cut another goes on, under a higher epoch', async () => {
    const planner = await whole();
    const others = members.filter((index) => index !== planner.index);
    logs.push(cluster.log(planner.index));
    await cluster.bed.host(planner.index).powerCut();
    const next = await eventually(
      async () => {
        const shown = await Promise.all(others.map(details));
        const [first] = shown;
        for (const one of shown) expect(one.planner).toEqual(first?.planner);
        expect(first?.planner?.epoch).toBeGreaterThan(planner.epoch);
        return {
          index: names.indexOf(first?.planner?.host ?? ''),
          epoch: first?.planner?.epoch ?? 0,
        };
      },
      { withinMs: 60_000, everyMs: 100, what: 'another planner' },
    );
    expect(others).toContain(next.index);
    const before = await automatic(others);
    await cluster.json(3, ['leave', '--yes']);
    await oneMore(before, others, next);
    await cluster.bed.host(planner.index).boot();
    await cluster.startDaemon(planner.index);
    await cluster.waitReady(3, members);
    await cluster.login(planner.index);
  });

  it('in the minority of a partition nobody plans; the majority does', async () => {
    const first = await whole();
    const joined = await automatic(members);
    await joinFourth(first.index);
    await oneMore(joined, members, first);
    await freezeFourth(first.index);
    const planner = await whole();
    const others = members.filter((index) => index !== planner.index);
    await cluster.bed.switch.partition([[planner.index, 3], others]);
    const before = await automatic([planner.index]);
    const known = await automatic(others);
    try {
      await eventually(
        async () => {
          const status = await cluster.leaseStatus(planner.index);
          return status.leases.every(({ state }) => state !== 'active');
        },
        { withinMs: 30_000, everyMs: 100, what: 'the minority has no planner' },
      );
      await cluster.json(3, ['leave', '--yes']);
      await measureFor(6_000);
      expect(await automatic([planner.index])).toEqual(before);
    } finally {
      await cluster.bed.switch.partition([]);
    }
    await cluster.waitReady(3, members);
    const next = await whole();
    expect(next.epoch).toBeGreaterThan(planner.epoch);
    await oneMore(known, others, next);
    expect(await automatic([planner.index])).toEqual(before);
  });
});

describe('an invitation', { timeout: 120_000 }, () => {
  it('for one host, used at two members at the same moment, admits one [trellis:H8]', async () => {
    await whole();
    const invite = await cluster.json<{ id: string; peers: string[] }>(0, [
      'invite',
      '--uses',
      '1',
    ]);
    const { peers } = invite;
    expect(peers.length).toBeGreaterThanOrEqual(2);
    const joiners = [3, 4];
    await cluster.startDaemon(4);
    for (const [place, index] of joiners.entries()) {
      // Each asks another member first, and the others after it.
      const ordered = [...peers.slice(place), ...peers.slice(0, place)];
      const ticket = JSON.stringify({ ...invite, peers: ordered });
      cluster.bed.host(index).writeFile('/run/ticket', ticket, 0o600);
    }
    const joins = await Promise.all(
      joiners.map((index) =>
        cluster.trellis(index, ['join', '--code-file', '/run/ticket', '--json']),
      ),
    );
    expect(joins.map(({ code }) => code).toSorted((a, b) => a - b)).toEqual([0, 3]);
    expect(joins.find(({ code }) => code === 3)?.stdout).toContain('INVITE_REFUSED');
    await cluster.waitReady(4, members);
    const said = members.flatMap((index) => cluster.log(index).split('\n'));
    const alone = said.filter(
      (line) => line.includes('invite.decided-alone') && line.includes(invite.id),
    );
    expect(alone).toEqual([]);
  });
});

it('no tick of a job was begun twice, through all of this [trellis:Y10]', () => {
  const all = [...logs, ...members.map((index) => cluster.log(index))].join('\n');
  const ticks = all
    .split('\n')
    .filter((line) => line.includes('job.begun"'))
    .map((line) => {
      const { id, tick } = JSON.parse(line) as { id: string; tick: number };
      return `${id} ${tick}`;
    });
  expect(ticks.length).toBeGreaterThan(0);
  expect(new Set(ticks).size).toBe(ticks.length);
});
