/** The commands of people against real daemons and engines: two hosts, one image that only the first one has. */
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { ApplyAnswer, InstanceRow, StatusAnswer } from '../../daemon/operations/answers.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { makeImage } from '../testbed/image.ts';

const site = (count: number) => `
apiVersion: trellis/v1
roles: { web: { minHosts: 2 } }
services:
  site:
    role: web
    image: demo/site:1
    count: { perRole: { min: ${count}, max: ${count} } }
    stopGrace: 1s
`;

let cluster: TestCluster;
beforeAll(async () => {
  cluster = await TestCluster.create({ hosts: 2, roles: [['web'], ['web']] });
  await cluster.login(1);
  await makeImage(cluster.bed.host(0), 'demo/site:1', {
    command: [
      'sh',
      '-c',
      'echo hello from $HOSTNAME; echo trouble >&2; trap exit TERM; while :; do sleep 86400 & wait $!; done',
    ],
  });
});
afterAll(() => cluster?.destroy());

test('[trellis:X22] apply pushes the local image, runs on both hosts, and a second time does nothing', async () => {
  const first = await cluster.apply(0, site(2));
  expect([first.code, first.stderr]).toEqual([0, expect.stringContaining('demo/site:1')]);
  const answer = first.data as ApplyAnswer;
  expect([answer.pushed, answer.seenBy?.toSorted()]).toEqual([['demo/site:1'], ['h1', 'h2']]);
  const again = (await cluster.apply(1, site(2))).data as ApplyAnswer;
  expect([again.hash, again.pushed, again.plan?.steps]).toEqual([null, [], []]);
  const rows = await cluster.ps(1, 'site');
  expect(rows.map(({ host, state }) => `${host} ${state}`).toSorted()).toEqual([
    'h1 running',
    'h2 running',
  ]);
  const status = await cluster.trellis(0, ['status', '--json']);
  expect([status.code, (status.data as StatusAnswer).differences]).toEqual([0, []]);
});

async function instanceOn(host: string): Promise<InstanceRow> {
  const row = (await cluster.ps(0, 'site')).find((one) => one.host === host);
  if (row === undefined) throw new Error(`nothing runs on ${host}`);
  return row;
}

test('[trellis:X42] logs and exec work on any host for instances on any other', async () => {
  const { instance } = await instanceOn('h2');
  const logs = await cluster.json<{ host: string; stream: string; line: string }[]>(0, [
    'logs',
    'site',
  ]);
  expect(
    logs
      .filter(({ stream }) => stream === 'stderr')
      .map(({ host }) => host)
      .toSorted(),
  ).toEqual(['h1', 'h2']);
  expect(logs.some(({ host, line }) => host === 'h2' && line.startsWith('hello from'))).toBe(true);
  const code = await cluster.trellis(0, [
    'exec',
    'site',
    '--instance',
    instance,
    '--',
    'sh',
    '-c',
    'echo out; echo err >&2; exit 7',
  ]);
  expect([code.code, code.stdout, code.stderr]).toEqual([7, 'out\n', 'err\n']);
  const input = await cluster.bed
    .host(0)
    .exec(['trellis', 'exec', 'site', '--instance', instance, '--', 'wc', '-c'], {
      input: 'x'.repeat(300_000),
    });
  expect([input.code, input.stdout.trim()]).toEqual([0, '300000']);
  const json = (
    await cluster.trellis(1, ['exec', '--json', 'site', '--host', 'h1', '--', 'echo', 'hi'])
  ).data;
  expect(json).toMatchObject({ host: 'h1', exitCode: 0, stdout: 'hi\n' });
});

test('a shell gets a terminal of the right size and gives its exit code back', async () => {
  const { instance } = await instanceOn('h2');
  // An engine of this age learns the size only after the command has started; so the command looks until it is there.
  const look = `n=0; until [ "$(stty size 2>/dev/null)" = "33 99" ] || [ $n -gt 2000 ]; do n=$((n+1)); done; test -t 0 && stty size; exit 5`;
  const typed = `stty rows 33 cols 99; trellis exec site --instance ${instance} -- sh -c '${look}'`;
  const answer = await cluster.bed.host(0).exec(['script', '-qec', typed, '/dev/null']);
  // The driver of the terminal echoes its own end of input before the command's words.
  expect([answer.code, answer.stdout]).toEqual([5, expect.stringContaining('33 99')]);
});

test('services are scaled, stopped, started and restarted', async () => {
  const running = async () =>
    (await cluster.ps(0, 'site')).filter(({ state }) => state === 'running');
  await cluster.json(1, ['service', 'scale', 'site', '3', '--wait']);
  expect((await running()).length).toBe(3);
  await cluster.json(1, ['service', 'stop', 'site', '--wait']);
  expect(await running()).toEqual([]);
  await cluster.json(0, ['service', 'start', 'site', '--wait']);
  const before = new Set((await running()).map(({ containerId }) => containerId));
  await cluster.json(0, ['service', 'restart', 'site', '--wait']);
  const after = await running();
  expect(after.length).toBe(3);
  expect(after.filter(({ containerId }) => before.has(containerId))).toEqual([]);
  const stale = await cluster.apply(0, site(2));
  expect([stale.code, stale.data]).toMatchObject([3, { error: { code: 'STALE' } }]);
  await cluster.mustApply(0, site(2), ['--overwrite', '--wait']);
  expect((await running()).length).toBe(2);
});

test('a drained host is left by what may move, and status says so', async () => {
  const movable = site(2).replace('stopGrace', 'relocatable: yes\n    stopGrace');
  await cluster.mustApply(0, movable);
  const drained = await cluster.trellis(0, [
    'host',
    'drain',
    'h2',
    '--wait',
    '--timeout',
    '60s',
    '--json',
  ]);
  expect([drained.code, drained.stderr.includes('h2 is drained')]).toEqual([0, true]);
  expect((await cluster.ps(0, 'site')).map(({ host }) => host)).toEqual(['h1', 'h1']);
  await cluster.json(1, ['host', 'undrain', 'h2']);
  await cluster.json(0, ['host', 'wait', 'h2', '--for', 'ready', '--timeout', '30s']);
  await eventually(async () => (await cluster.trellis(0, ['status'])).code === 0, {
    withinMs: 30_000,
  });
});

test('errors have their codes on any host', async () => {
  expect((await cluster.trellis(1, ['service', 'show', 'nope', '--json'])).code).toBe(4);
  expect(
    (await cluster.trellis(1, ['host', 'wait', 'h2', '--for', 'dead', '--timeout', '200ms'])).code,
  ).toBe(5);
  expect((await cluster.trellis(1, ['host', 'remove', 'h1', '--json'])).data).toMatchObject({
    error: { code: 'CONFLICT' },
  });
  const doctor = await cluster.trellis(0, ['doctor', '--host', 'h2', '--json']);
  expect([doctor.code, doctor.stdout]).toEqual([0, expect.stringContaining('"members"')]);
});
