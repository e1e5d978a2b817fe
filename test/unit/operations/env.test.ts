import { beforeEach, describe, expect, test } from 'vitest';
import type { EditAnswer } from '../../../daemon/operations/answers.ts';
import { doctorOperations } from '../../../daemon/operations/doctor.ts';
import type { CheckRow, DoctorAnswer } from '../../../daemon/operations/answers.ts';
import { envOperations } from '../../../daemon/operations/env.ts';
import type { EnvDetails, EnvRow } from '../../../daemon/operations/lease-answers.ts';
import { hostOperations } from '../../../daemon/operations/host.ts';
import { applyOperations } from '../../../daemon/operations/apply.ts';
import type { HostTools } from '../../../daemon/operations/tools.ts';
import { chosenOf, FakeLeases } from './fake-leases.ts';
import { FakeNode, runOperation } from './fake-node.ts';
import type { RunOptions } from './fake-node.ts';

const probed: string[] = [];
let missing: readonly string[] = [];
const tools = {
  tryProgram: (program) => Promise.resolve(missing.includes(program) ? 'not found' : null),
  stateDiskFreeBytes: () => 2 ** 40,
  probe: (address, port) => {
    probed.push(`${address}:${port}`);
    return Promise.resolve(port === 7442 ? 'refused' : null);
  },
} as Partial<HostTools> as HostTools;

const all = [
  ...envOperations,
  ...hostOperations(tools),
  ...applyOperations,
  ...doctorOperations(tools),
];

let node: FakeNode;
let leases: FakeLeases;

beforeEach(() => {
  node = new FakeNode(['h1', 'h2', 'h3']);
  for (const name of ['h1', 'h2']) node.host(name).roles = ['database'];
  leases = new FakeLeases(node, ['h1', 'h2', 'h3']);
  missing = [];
  probed.length = 0;
});

function run<T>(name: string, given: object = {}, options: RunOptions = {}): Promise<T> {
  return runOperation(all, name, given, { node, leases, ...options }) as Promise<T>;
}

const ids = (...names: string[]) => names.map((name) => node.host(name).id);
const set = (key: string, value: string | string[]) => run<EditAnswer>('env/set', { key, value });

describe('env set voters', () => {
  test.each([
    ['h1,h2,h3', ['h1', 'h2', 'h3']],
    ['h2 h1 h2', ['h1', 'h2']],
    ['witness h3', ['h1', 'h2', 'h3']],
    ['pair h1 h3', ['h1', 'h3']],
    ['h2', ['h2']],
  ])('%s', async (value, voters) => {
    await set('voters', value);
    expect(node.envView().voters).toEqual(ids(...voters).toSorted());
    expect((await run<EnvDetails>('env/show')).votersWanted).toEqual(voters);
  });

  test('auto takes the choice back', async () => {
    await set('voters', ['h1,h2']);
    expect((await set('voters', 'auto')).changed).toBe(1);
    expect(node.envView().voters).toBe(null);
    expect((await run<EnvDetails>('env/show')).votersWanted).toBe('auto');
  });

  test('what a choice costs is said', async () => {
    expect((await set('voters', 'h1,h2')).warnings?.join()).toContain(
      'nobody takes over by itself',
    );
    expect((await set('voters', 'h1')).warnings?.join()).toContain('without h1');
    node.host('h3').liveness = 'dead';
    expect((await set('voters', 'h1,h2,h3')).warnings?.join()).toContain('h3 is dead');
    node.host('h3').liveness = 'alive';
    node.host('h3').roles = ['web'];
    expect((await set('voters', 'witness h3')).warnings?.join()).toContain('h3 carries web');
  });

  test.each([
    ['pair', 'three hosts are no pair'],
    ['auto h1', 'auto stands alone'],
    ['witness', 'nobody is named'],
    ['witness h1 h2', 'two are named'],
    [',', 'none'],
  ])('%s is refused: %s', async (value) => {
    await expect(set('voters', value)).rejects.toMatchObject({ code: 'INVALID' });
    expect(node.envView().voters).toBe(null);
  });

  test('hosts that are not there', async () => {
    await expect(set('voters', 'h1,h9')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    node.host('h3').liveness = 'left';
    await expect(set('voters', 'h1,h3')).rejects.toMatchObject({ code: 'INVALID' });
    expect((await set('voters', 'pair')).hash).not.toBe(null);
  });

  test('more than seven are refused', async () => {
    node = new FakeNode(['a', 'b', 'c', 'd', 'e', 'f', 'g', 'i']);
    leases = new FakeLeases(node, ['a']);
    await expect(set('voters', 'a,b,c,d,e,f,g,i')).rejects.toMatchObject({ code: 'INVALID' });
    expect((await set('voters', 'a,b,c,d')).warnings?.join()).toContain('no more losses than 3');
  });

  test('--wait returns when the configuration is the wanted one', async () => {
    leases.chosen = chosenOf(ids('h1'));
    const said: string[] = [];
    const onProgress = (text: string) => {
      said.push(text);
      leases.chosen = chosenOf(ids('h1', 'h2', 'h3'), 4);
    };
    const given = { key: 'voters', value: 'h1,h2,h3', wait: true, timeoutMs: 5_000 };
    await run('env/set', given, { onProgress });
    expect(said).toEqual(['voters are h1', 'voters are h1, h2, h3']);
    const late = { ...given, value: 'h1,h2', timeoutMs: 50 };
    await expect(run('env/set', late)).rejects.toMatchObject({ code: 'TIMED_OUT' });
  });
});

describe('env set, other keys', () => {
  test('frozen on and off', async () => {
    await set('frozen', 'on');
    expect(node.envView().isFrozen).toBe(true);
    expect((await run<EnvRow[]>('env/ls'))[0]).toMatchObject({ name: 'prod', frozen: true });
    await set('frozen', 'off');
    expect(node.envView().isFrozen).toBe(false);
  });

  test('automatic planning', async () => {
    await set('auto-apply', 'off');
    expect(node.envView().autoApply).toBe('off');
    await set('auto-apply', 'safe');
    expect(node.envView().autoApply).toBe('safe');
  });

  test.each([
    ['frozen', 'maybe'],
    ['frozen', 'on off'],
    ['auto-apply', 'on'],
  ])('%s %s is refused', async (key, value) => {
    await expect(set(key, value)).rejects.toMatchObject({ code: 'INVALID' });
  });

  test('an unknown key, no value', async () => {
    await expect(set('colour', 'red')).rejects.toThrow();
    await expect(run('env/set', { key: 'frozen' })).rejects.toThrow();
  });

  test('a host is frozen and thawed', async () => {
    await run('host/set', { host: 'h2', frozen: 'on' });
    expect(node.envView().hosts.get(node.host('h2').id)?.isFrozen).toBe(true);
    expect(await run('host/show', { host: 'h2' })).toMatchObject({ frozen: true });
    await run('host/set', { host: 'h2', frozen: 'off' });
    expect(node.envView().hosts.get(node.host('h2').id)?.isFrozen ?? false).toBe(false);
    await expect(run('host/set', { host: 'h2' })).rejects.toMatchObject({ code: 'USAGE' });
  });
});

describe('env show', () => {
  test('voters, who of them answers, how many losses are survived, the chain', async () => {
    leases.chosen = chosenOf(ids('h1', 'h2', 'h3'), 9, 1);
    leases.setFact('h2', { held: [{ name: 'planner/prod', epoch: 12, state: 'active' }] });
    const shown = await run<EnvDetails>('env/show');
    expect(shown).toMatchObject({
      name: 'prod',
      hosts: 3,
      live: 3,
      voters: ['h1', 'h2', 'h3'],
      planner: { host: 'h2', epoch: 12 },
      quorum: { n: 9, generation: 1, needed: 2, survives: 1, hasQuorum: true, note: '' },
      choices: [],
    });
    leases.deaf.add(node.host('h3').id);
    const { quorum } = await run<EnvDetails>('env/show');
    expect(quorum).toMatchObject({ survives: 0, hasQuorum: true });
    expect(quorum.ifOneMoreGoes).toContain('if one of h1, h2 goes too');
    leases.deaf.add(node.host('h2').id);
    expect((await run<EnvDetails>('env/show')).quorum).toMatchObject({
      survives: -1,
      hasQuorum: false,
    });
  });

  test('without a guard here the facts of the others are shown, and said to be that', async () => {
    leases.isConnected = false;
    node.host('h3').liveness = 'dead';
    const { quorum } = await run<EnvDetails>('env/show');
    expect(quorum.note).not.toBe('');
    expect(quorum.voters.map(({ host, isReachable }) => [host, isReachable])).toEqual([
      ['h1', true],
      ['h2', true],
      ['h3', false],
    ]);
    expect(quorum).toMatchObject({ hasQuorum: true, survives: 0 });
  });

  test('another environment is refused', async () => {
    await expect(run('env/show', { name: 'uat' })).rejects.toMatchObject({ code: 'INVALID' });
  });

  test('two hosts: every choice and what it loses', async () => {
    node.host('h3').liveness = 'left';
    leases.chosen = chosenOf(ids('h1'));
    const { choices, quorum } = await run<EnvDetails>('env/show');
    expect(choices.length).toBe(3);
    expect(choices.join('\n')).toMatch(/keep h1[^]*pair[^]*witness/);
    expect(quorum).toMatchObject({ mode: 'single', survives: 0 });
  });
});

describe('env force-voters', () => {
  const force = (given: object, options: RunOptions = {}) =>
    run('env/force-voters', given, options);

  beforeEach(() => {
    for (const name of ['h2', 'h3']) {
      node.host(name).liveness = 'dead';
      leases.deaf.add(node.host(name).id);
    }
  });

  test('says what it risks, and needs the name of the environment', async () => {
    const given = { voters: ['h1'], dead: ['h2,h3'] };
    const { plan } = (await force({ ...given, dryRun: true })) as { plan: string[] };
    expect(plan.join(' ')).toContain('two hosts may run it at once');
    await expect(force(given)).rejects.toMatchObject({ code: 'CONFIRMATION_NEEDED' });
    await expect(force({ ...given, confirm: 'uat' })).rejects.toMatchObject({
      code: 'CONFIRMATION_NEEDED',
    });
    expect(leases.commands).toEqual([]);
    await force({ ...given, confirm: 'prod' });
    expect(leases.commands).toEqual([
      { kind: 'force-voters', voters: ids('h1'), assertDead: ids('h2', 'h3') },
    ]);
  });

  test('nobody is dead where voters have lost memory: they do not count as answering', async () => {
    for (const name of ['h2', 'h3']) {
      node.host(name).liveness = 'alive';
      leases.deaf.delete(node.host(name).id);
    }
    const given = { voters: ['h1,h2,h3'], confirm: 'prod' };
    await expect(force(given)).rejects.toThrow(/a majority answers/);
    for (const name of ['h2', 'h3']) leases.setFact(name, { hasForgotten: true });
    await force(given);
    expect(leases.commands).toEqual([
      { kind: 'force-voters', voters: ids('h1', 'h2', 'h3'), assertDead: [] },
    ]);
  });

  test('every present voter is named, none twice, and not while a majority answers', async () => {
    const confirm = 'prod';
    await expect(force({ voters: ['h1'], dead: ['h2'], confirm })).rejects.toMatchObject({
      code: 'VOTERS_REFUSED',
      message: expect.stringContaining('h3 votes now') as string,
    });
    await expect(
      force({ voters: ['h1', 'h2'], dead: ['h2', 'h3'], confirm }),
    ).rejects.toMatchObject({
      code: 'VOTERS_REFUSED',
    });
    leases.deaf.clear();
    await expect(force({ voters: ['h1', 'h2'], dead: ['h3'], confirm })).rejects.toMatchObject({
      code: 'VOTERS_REFUSED',
    });
    await expect(force({ voters: ['h1'], dead: ['h9'], confirm })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
    await expect(force({ voters: [], dead: ['h2'], confirm })).rejects.toThrow();
  });

  test('runs on a survivor', async () => {
    node.host('h2').liveness = 'alive';
    const calls: unknown[] = [];
    const remote: RunOptions['remote'] = (host, call) => {
      calls.push([host, call]);
      return Promise.resolve({});
    };
    const given = { voters: ['h2'], dead: ['h1', 'h3'], confirm: 'prod' };
    await force(given, { remote });
    expect(calls).toEqual([
      [node.host('h2').id, { group: 'env', command: 'force-voters', params: given }],
    ]);
  });
});

describe('doctor', () => {
  const check = async (name: string): Promise<CheckRow | undefined> =>
    (await run<DoctorAnswer>('cluster/doctor')).checks.find((row) => row.name === name);

  const needLeases = () =>
    run('desired/apply', {
      text: 'apiVersion: trellis/v1\nroles: { database: { minHosts: 1 } }\nservices:\n  db: { role: database, image: x, exclusive: true }\n',
    });

  test('the gate is tested for real; a fault fails where something exclusive is wanted', async () => {
    expect(await check('gate')).toMatchObject({ result: 'ok' });
    leases.gateFault = 'a frozen process ran on';
    expect(await check('gate')).toMatchObject({
      result: 'warn',
      detail: 'a frozen process ran on',
    });
    await needLeases();
    expect(await check('gate')).toMatchObject({ result: 'fail' });
    expect((await check('gate'))?.todo).toContain('refused on this host');
  });

  test('a guard that is gone, old, or silent', async () => {
    expect(await check('guard')).toMatchObject({ result: 'ok' });
    leases.silentMs = 4_200;
    expect((await check('guard'))?.detail).toContain('silent for 5 s');
    leases.silentMs = 0;
    leases.version = '0.0.9';
    expect(await check('guard')).toMatchObject({ result: 'warn' });
    leases.isConnected = false;
    expect(await check('guard')).toMatchObject({ result: 'warn' });
    await needLeases();
    expect(await check('guard')).toMatchObject({ result: 'fail' });
    expect((await check('gate'))?.detail).toContain('not tested');
  });

  test('the port of leases of every member is tried', async () => {
    leases.setFact('h2', { leasePort: 7442 });
    leases.setFact('h3', { leasePort: 0 });
    expect((await check('ports'))?.detail).toContain('h2 10.0.0.2:7442 (refused)');
    expect(probed.toSorted()).toEqual([
      '10.0.0.2:7440',
      '10.0.0.2:7442',
      '10.0.0.2:8443',
      '10.0.0.3:7440',
      '10.0.0.3:8443',
    ]);
  });

  test('voters: two hosts without a choice are told what each choice loses', async () => {
    expect(await check('voters')).toMatchObject({ result: 'ok' });
    node.host('h3').liveness = 'left';
    leases.chosen = chosenOf(ids('h1'));
    const row = await check('voters');
    expect(row?.result).toBe('warn');
    expect(row?.todo).toContain('whichever holds goes on');
    await set('voters', 'pair');
    leases.chosen = chosenOf(ids('h1', 'h2'));
    expect((await check('voters'))?.todo).not.toContain('whichever');
    leases.chosen = chosenOf(ids('h1', 'h2', 'h3'));
    for (const id of ids('h2', 'h3')) leases.deaf.add(id);
    expect(await check('voters')).toMatchObject({ result: 'fail' });
  });

  test('cgroups and the tool of the traffic gate', async () => {
    expect(await check('cgroups')).toMatchObject({ result: 'warn' });
    node.setFact('inventory', 'h1', { v: 1, kernel: { release: '6', cgroup: 'v2' } });
    expect(await check('cgroups')).toMatchObject({ result: 'ok', detail: 'v2' });
    missing = ['nft'];
    expect(await check('traffic gate')).toMatchObject({ result: 'warn' });
  });
});
