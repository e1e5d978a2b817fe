/** Three hosts parted and healed: what both sides did is kept, what they disagree on is shown, and a pick ends it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ConflictRow, HistoryRow, StatusAnswer } from '../../daemon/operations/answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { webImage } from '../testbed/image.ts';
import { Testbed } from '../testbed/testbed.ts';

const everywhere = [0, 1, 2];
const timings: Record<string, number> = {};
let cluster: TestCluster;
let sessions: string[];

const service = (name: string, role: string, level: string) => `
  ${name}:
    role: ${role}
    image: demo/site:1
    count: { perHost: { min: 1, max: 1 } }
    ports: [ { name: http, container: 80 } ]
    env: { LEVEL: ${level} }
    stopGrace: 1s`;
const file = (roles: readonly string[], services: readonly string[]) => `
apiVersion: trellis/v1
roles: { ${roles.map((role) => `${role}: {}`).join(', ')} }
services:${services.join('')}
`;
const base = (level: string) => file(['web'], [service('base', 'web', level)]);

/** Two engines are enough: h3 only takes part in what is agreed. */
async function start(): Promise<void> {
  cluster = new TestCluster(await Testbed.create({ hosts: 3, engines: false }));
  await Promise.all([0, 1].map((index) => cluster.bed.host(index).startEngine()));
  await cluster.found(['web', 'left']);
  await cluster.join(1, ['web', 'right']);
  await cluster.join(2);
  await cluster.waitReady(3);
  await cluster.login(1);
  await webImage(cluster.bed.host(0), 'demo/site:1', 'site');
  await cluster.mustApply(0, base('info'), ['--source', 'base', '--wait']);
  const people = await Promise.all(
    [0, 1].map((index) => cluster.json<{ operator: string; session: string }>(index, ['whoami'])),
  );
  expect(people.map(({ operator }) => operator)).toEqual(['admin', 'admin']);
  sessions = people.map(({ session }) => session).toSorted();
}

beforeAll(start, 120_000);
afterAll(async () => {
  await cluster?.destroy();
  console.log('partition, ms:', timings);
});

const stateOf = async (from: number, name: string) =>
  (await cluster.hosts(from)).find((row) => row.name === name)?.state;
const conflicts = (index: number) => cluster.json<ConflictRow[]>(index, ['conflicts', 'ls']);
const exported = (index: number) => cluster.trellis(index, ['export', '--format', 'json']);
const specOf = async (index: number, name: string) =>
  (
    await cluster.json<{ id: string; spec: { env: Record<string, string>; role: string } }>(index, [
      'service',
      'show',
      name,
    ])
  ).spec;
const runningOn = async (from: number) =>
  (await cluster.ps(from))
    .filter((row) => row.state === 'running')
    .map((row) => `${row.service} ${row.host}`)
    .toSorted();
const ourContainers = async () =>
  (await Promise.all([0, 1].map((index) => cluster.containers(index)))).map((names) =>
    names.map((name) => name.replace(/^trellis-[0-9a-f]{8}-([a-z]+)-.*$/, '$1')),
  );

/** The same non-empty answer on all hosts, which is returned. */
function sameEverywhere<T>(ask: (index: number) => Promise<T>, what: string): Promise<T> {
  return eventually(
    async () => {
      const answers = await Promise.all(everywhere.map(ask));
      for (const answer of answers) expect(answer).toEqual(answers[0]);
      return { answer: answers[0] as T };
    },
    { withinMs: 30_000, everyMs: 200, what },
  ).then(({ answer }) => answer);
}

describe('a partition', { timeout: 120_000 }, () => {
  it('lets both sides work, the same operator logged in on both [trellis:E5]', async () => {
    await cluster.bed.switch.partition([[0], [1, 2]]);
    await eventually(
      async () =>
        (await stateOf(0, 'h2')) === 'dead' &&
        (await stateOf(0, 'h3')) === 'dead' &&
        (await stateOf(1, 'h1')) === 'dead',
      { withinMs: 30_000, everyMs: 200 },
    );
    const left = file(['left'], [service('mine', 'left', 'left')]);
    const right = file(['right'], [service('yours', 'right', 'right')]);
    await cluster.mustApply(0, left, ['--source', 'left', '--wait']);
    await cluster.mustApply(1, right, ['--source', 'right', '--wait']);
    await cluster.json(0, ['role', 'add', 'spare', '--host', 'h3']);
    await cluster.json(1, ['role', 'add', 'cold', '--host', 'h3']);
    await cluster.json(0, ['host', 'set', 'h1', 'rack=a']);
    await cluster.json(1, ['host', 'set', 'h2', 'rack=b']);
    // What both change: a field of a service, one of a host, and a name that is new to both.
    await cluster.json(0, ['host', 'set', 'h3', 'dc=east']);
    await cluster.json(1, ['host', 'set', 'h3', 'dc=west']);
    // Not waited for: the instance of the other side cannot be seen to run.
    await cluster.mustApply(0, base('debug'), ['--source', 'base']);
    await cluster.mustApply(1, base('trace'), ['--source', 'base']);
    const twin = (role: string) => file([], [service('twin', role, role)]);
    await cluster.mustApply(0, twin('left'), ['--source', 'twin', '--wait']);
    await cluster.mustApply(1, twin('right'), ['--source', 'twin', '--wait']);
    await eventually(
      async () => {
        expect(await ourContainers()).toEqual([
          ['base', 'mine', 'twin'],
          ['base', 'twin', 'yours'],
        ]);
        return true;
      },
      { withinMs: 20_000, everyMs: 200 },
    );
    expect(await conflicts(0)).toEqual([]);
    expect(await conflicts(1)).toEqual([]);
  });

  it('ends with the work of both, and everything of both runs without a command [trellis:E5]', async () => {
    const startMs = performance.now();
    await cluster.bed.switch.healAll();
    await cluster.bed.switch.partition([]);
    await cluster.waitReady(3);
    const text = (await sameEverywhere(exported, 'one export everywhere')).stdout;
    timings['healed to one export'] = Math.round(performance.now() - startMs);
    const { services, roles } = JSON.parse(text) as Record<string, object>;
    expect(Object.keys(services ?? {}).toSorted()).toEqual(['base', 'mine', 'twin', 'yours']);
    expect(Object.keys(roles ?? {})).toEqual(expect.arrayContaining(['left', 'right', 'web']));
    for (const index of everywhere) {
      const rows = new Map((await cluster.hosts(index)).map((row) => [row.name, row]));
      expect(rows.get('h3')?.roles).toEqual(['cold', 'spare']);
      expect([rows.get('h1')?.meta['rack'], rows.get('h2')?.meta['rack']]).toEqual(['a', 'b']);
    }
    const twinHost = (await specOf(0, 'twin')).role === 'left' ? 'h1' : 'h2';
    const wanted = ['base h1', 'base h2', 'mine h1', `twin ${twinHost}`, 'yours h2'];
    for (const index of everywhere) {
      await eventually(
        async () => {
          expect(await runningOn(index)).toEqual(wanted);
          return true;
        },
        { withinMs: 30_000, everyMs: 250, what: `h${index + 1} sees what both sides want` },
      );
    }
    timings['healed to both running'] = Math.round(performance.now() - startMs);
  });

  it('shows on every host what both sides changed, with both sessions, and one value everywhere [trellis:E5]', async () => {
    const listed = await sameEverywhere(conflicts, 'the same conflicts everywhere');
    expect(listed.map(({ subject, pointer }) => `${subject} ${pointer}`).toSorted()).toEqual([
      expect.stringMatching(/^host h3 .*\/meta\/dc$/),
      'name service/twin /service/twin',
      'service base /env/LEVEL',
    ]);
    for (const { values } of listed) {
      expect(values).toHaveLength(2);
      expect(values.map(({ session }) => session).toSorted()).toEqual(sessions);
      expect(values.map(({ operator }) => operator)).toEqual(['admin', 'admin']);
    }
    const specs = await sameEverywhere((index) => specOf(index, 'base'), 'one base everywhere');
    const level = listed.find(({ pointer }) => pointer === '/env/LEVEL');
    expect(specs.env['LEVEL']).toBe(level?.values.find(({ inForce }) => inForce)?.value);
    await sameEverywhere((index) => specOf(index, 'twin'), 'one twin everywhere');
    const status = await cluster.trellis(2, ['status', '--json']);
    expect([status.code, (status.data as StatusAnswer).conflicts]).toEqual([1, 3]);
  });

  it('is over when somebody has picked, on any host [trellis:E5]', async () => {
    await cluster.login(2);
    const listed = await conflicts(2);
    const pick = async (part: string) => {
      const startMs = performance.now();
      const entry = listed.find((row) => `${row.subject} ${row.pointer}`.includes(part));
      // The value not in force, so that the pick is seen to decide.
      const other = entry?.values.find(({ inForce }) => !inForce);
      await cluster.json(2, ['conflicts', 'pick', entry?.id ?? '', String(other?.n), '--wait']);
      timings[`pick ${part}`] = Math.round(performance.now() - startMs);
      return other?.value;
    };
    const before = (await specOf(0, 'twin')).role;
    const level = await pick('/env/LEVEL');
    const dc = await pick('/dc');
    const id = await pick('twin');
    expect(await sameEverywhere(conflicts, 'no conflict anywhere')).toEqual([]);
    const role = before === 'left' ? 'right' : 'left';
    for (const index of everywhere) {
      expect((await specOf(index, 'base')).env['LEVEL']).toBe(level);
      expect((await cluster.hosts(index)).find(({ name }) => name === 'h3')?.meta['dc']).toBe(dc);
      const twin = await cluster.json<{ id: string; spec: { role: string } }>(index, [
        'service',
        'show',
        'twin',
      ]);
      expect([twin.id, twin.spec.role]).toEqual([id, role]);
    }
    await eventually(
      async () => {
        expect(await ourContainers()).toEqual(
          role === 'left'
            ? [
                ['base', 'mine', 'twin'],
                ['base', 'yours'],
              ]
            : [
                ['base', 'mine'],
                ['base', 'twin', 'yours'],
              ],
        );
        for (const index of everywhere) {
          const status = (await cluster.trellis(index, ['status', '--json'])).data as StatusAnswer;
          // That two hosts vanished at once stays an alarm for a while.
          const lasting = status.differences.filter((line) => !line.startsWith('alarm on'));
          expect([status.problems, lasting]).toEqual([[], []]);
        }
        return true;
      },
      { withinMs: 30_000, everyMs: 250 },
    );
    const history = await cluster.json<HistoryRow[]>(0, ['history', '--max', '3']);
    expect(history.every(({ message }) => message.startsWith('pick'))).toBe(true);
  });

  it('can be had again: opposite picks on both sides of a second one are a conflict of their own', async () => {
    await cluster.bed.switch.partition([[0], [1, 2]]);
    await eventually(async () => (await stateOf(0, 'h2')) === 'dead', {
      withinMs: 30_000,
      everyMs: 200,
    });
    const twin = (role: string) => file([], [service('pair', role, role)]);
    await cluster.mustApply(0, twin('left'), ['--source', 'pair']);
    await cluster.mustApply(1, twin('right'), ['--source', 'pair']);
    await cluster.bed.switch.partition([]);
    await cluster.waitReady(3);
    await sameEverywhere(async (index) => {
      const ids = (await conflicts(index)).map(({ id }) => id);
      expect(ids).toHaveLength(1);
      return ids;
    }, 'the twins in conflict everywhere');
    await cluster.bed.switch.partition([[0], [1, 2]]);
    const [entry] = await conflicts(0);
    const [first, second] = (entry?.values ?? []).map(({ value }) => value as string);
    await cluster.json(0, ['conflicts', 'pick', entry?.id ?? '', first ?? '']);
    await cluster.json(1, ['conflicts', 'pick', entry?.id ?? '', second ?? '']);
    await cluster.bed.switch.partition([]);
    await sameEverywhere(async (index) => {
      const rows = await conflicts(index);
      expect(rows.some(({ id }) => id === entry?.id)).toBe(true);
      return rows;
    }, 'the picks in conflict everywhere');
    await cluster.json(2, ['conflicts', 'pick', entry?.id ?? '', second ?? '', '--wait']);
    expect(await sameEverywhere(conflicts, 'no conflict anywhere')).toEqual([]);
    for (const index of everywhere) {
      const shown = await cluster.json<{ id: string }>(index, ['service', 'show', 'pair']);
      expect(shown.id).toBe(second);
    }
  });
});
