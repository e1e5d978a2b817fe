import { beforeEach, describe, expect, test } from 'vitest';
import type {
  ApplyAnswer,
  EditAnswer,
  HostRow,
  InstanceRow,
  RoleRow,
  StatusAnswer,
} from '../../../daemon/operations/answers.ts';
import { applyOperations } from '../../../daemon/operations/apply.ts';
import { conflictsOperations } from '../../../daemon/operations/conflicts.ts';
import { hostOperations } from '../../../daemon/operations/host.ts';
import type { Operation } from '../../../daemon/operations/operation.ts';
import { psOperations } from '../../../daemon/operations/ps.ts';
import { roleOperations } from '../../../daemon/operations/role.ts';
import { serviceOperations } from '../../../daemon/operations/service.ts';
import { statusOf } from '../../../daemon/operations/status.ts';
import type { HostTools } from '../../../daemon/operations/tools.ts';
import { FakeNode, runOperation } from './fake-node.ts';
import type { RunOptions } from './fake-node.ts';

const removed: string[] = [];
const tools = {
  removeMember: (_session, member) => {
    removed.push(member.host);
    return Promise.resolve();
  },
  rescanInventory: () => Promise.resolve({ v: 1 } as never),
} as Partial<HostTools> as HostTools;

const all: readonly Operation[] = [
  ...hostOperations(tools),
  ...roleOperations,
  ...serviceOperations,
  ...psOperations,
  ...applyOperations,
  ...conflictsOperations,
];

let node: FakeNode;
beforeEach(() => {
  removed.length = 0;
  node = new FakeNode(['h1', 'h2', 'h3']);
});

function run<T>(name: string, given: object = {}, options: RunOptions = {}): Promise<T> {
  return runOperation(all, name, given, { node, ...options }) as Promise<T>;
}

const applySite = () =>
  run('desired/apply', {
    text: 'apiVersion: trellis/v1\nroles: { web: { minHosts: 1 } }\nservices:\n  site: { role: web, image: x, count: { perRole: { min: 2, max: 2 } } }\n',
  });

async function states(): Promise<string[]> {
  return (await run<HostRow[]>('host/ls')).map(({ name, state }) => `${name} ${state}`);
}

describe('hosts', () => {
  test('states come from liveness first, then from what the host says', async () => {
    expect(await states()).toEqual(['h1 ready', 'h2 ready', 'h3 ready']);
    node.host('h2').liveness = 'dead';
    node.setHostFact('h3', { isReady: false });
    expect(await states()).toEqual(['h1 ready', 'h2 dead', 'h3 joining']);
    node.host('h2').liveness = 'left';
    expect(await states()).toEqual(['h1 ready', 'h3 joining']);
  });

  test('a host without roles is spare; the answer has the promised fields', async () => {
    node.host('h1').roles = ['web'];
    const [first, second] = await run<HostRow[]>('host/ls');
    expect([first?.spare, second?.spare]).toEqual([false, true]);
    for (const field of [
      'id',
      'name',
      'state',
      'env',
      'roles',
      'addresses',
      'version',
      'lastSeenMs',
      'meta',
      'inventory',
    ])
      expect(first).toHaveProperty(field);
  });

  test('a drained host is draining until nothing runs there that was moved away', async () => {
    for (const name of ['h1', 'h2', 'h3']) node.host(name).roles = ['web'];
    await applySite();
    node.runEverything();
    const placed = node.committed?.plan.placements[0];
    const name = node.hostList.find(({ id }) => id === placed?.host)?.name ?? '';
    const answer = await run<EditAnswer>('host/drain', { host: name });
    expect(answer.hash).not.toBe(null);
    expect(await states()).toContain(`${name} draining`);
    node.runEverything();
    expect(await states()).toContain(`${name} drained`);
    await run('host/undrain', { host: name });
    expect(await states()).toContain(`${name} ready`);
  });

  test('metadata is set and taken away, also what the invitation gave', async () => {
    node.host('h2').meta = { dc: 'west' };
    await run('host/set', { host: 'h2', pairs: ['rack=4', 'dc='] });
    const rows = await run<HostRow[]>('host/ls');
    expect(rows[1]?.meta).toEqual({ rack: '4' });
    await expect(run('host/set', { host: 'h2', pairs: ['=x'] })).rejects.toMatchObject({
      code: 'USAGE',
    });
  });

  test('names stay unique', async () => {
    await expect(run('host/rename', { host: 'h2', name: 'h1' })).rejects.toMatchObject({
      code: 'CONFLICT',
    });
    await run('host/rename', { host: 'h2', name: 'web-1' });
    expect(await states()).toContain('web-1 ready');
    await expect(run('host/show', { host: 'h2' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
  });

  test('a live host is removed only with --force, this one never', async () => {
    await expect(run('host/remove', { host: 'h2' })).rejects.toMatchObject({ code: 'CONFLICT' });
    await expect(run('host/remove', { host: 'h1', force: true })).rejects.toMatchObject({
      code: 'CONFLICT',
    });
    node.host('h2').liveness = 'dead';
    const dry = await run<EditAnswer>('host/remove', { host: 'h2', dryRun: true });
    expect([dry.plan?.[0], removed]).toEqual([`remove host h2 (${node.host('h2').id}), dead`, []]);
    await run('host/remove', { host: 'h2' });
    node.host('h3').liveness = 'left';
    await run('host/remove', { host: 'h3' });
    expect(removed).toEqual([node.host('h2').id, node.host('h3').id]);
  });

  test('waiting for a state ends with it, or with words', async () => {
    node.setHostFact('h2', { isReady: false });
    const waiting = run('host/wait', { host: 'h2', state: 'ready', timeoutMs: 5_000 });
    node.setHostFact('h2', { isReady: true });
    expect(await waiting).toMatchObject({ host: 'h2', state: 'ready' });
    const never = run('host/wait', { host: 'h9', timeoutMs: 20 });
    await expect(never).rejects.toMatchObject({ code: 'TIMED_OUT' });
    await expect(never).rejects.toThrow('not known');
  });

  test('a rescan runs on the host that is meant', async () => {
    const calls: unknown[] = [];
    const remote: NonNullable<RunOptions['remote']> = (host, call) => {
      calls.push([host, call.group, call.command]);
      return Promise.resolve({ host: 'h2' });
    };
    expect(await run('host/rescan', {}, { remote })).toMatchObject({
      host: 'h1',
      inventory: { v: 1 },
    });
    await run('host/rescan', { host: 'h2' }, { remote });
    expect(calls).toEqual([[node.host('h2').id, 'host', 'rescan']]);
  });
});

describe('roles', () => {
  test('are given and taken; a service follows at once', async () => {
    await applySite();
    expect(node.committed?.plan.placements).toEqual([]);
    await run('role/add', { roles: ['web'], hosts: ['h1', 'h2'] });
    expect(node.committed?.plan.placements.length).toBe(2);
    expect(await run<RoleRow[]>('role/ls')).toMatchObject([
      { name: 'web', live: 2, services: ['site'] },
    ]);
    await run('role/rm', { roles: ['web'], hosts: ['h2'] });
    expect(node.hosts()[1]?.roles).toEqual([]);
  });

  test('--all-but gives the others', async () => {
    for (const role of ['web', 'lb', 'db']) await run('role/create', { role });
    await run('role/add', { allBut: ['lb'], hosts: ['h2'] });
    expect(node.hosts()[1]?.roles).toEqual(['db', 'web']);
    await expect(run('role/add', { hosts: ['h2'] })).rejects.toMatchObject({ code: 'USAGE' });
  });

  test('a dedicated role stands alone', async () => {
    await run('role/create', { role: 'lb', isDedicated: true });
    await run('role/create', { role: 'web' });
    await run('role/add', { roles: ['lb'], hosts: ['h1'] });
    await expect(run('role/add', { roles: ['web'], hosts: ['h1'] })).rejects.toMatchObject({
      code: 'CONFLICT',
    });
  });

  test('one that is not created yet may be given, with a warning', async () => {
    const answer = await run<EditAnswer>('role/add', { roles: ['web'], hosts: ['h1'] });
    expect(answer.warnings?.join()).toContain('no role web');
    await expect(run('role/rm', { roles: ['wbe'], hosts: ['h1'] })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
  });

  test('one in use is not deleted', async () => {
    await applySite();
    await expect(run('role/delete', { role: 'web' })).rejects.toMatchObject({ code: 'CONFLICT' });
    await run('role/create', { role: 'old' });
    await run('role/add', { roles: ['old'], hosts: ['h1'] });
    await run('role/delete', { role: 'old' });
    expect((await run<RoleRow[]>('role/ls')).map(({ name }) => name)).toEqual(['web']);
  });
});

describe('status and ps', () => {
  const status = (): StatusAnswer => statusOf(node, 1_000_000);

  test('all is well only when every slot runs healthily', async () => {
    for (const name of ['h1', 'h2', 'h3']) node.host(name).roles = ['web'];
    expect(status()).toMatchObject({ ok: true, differences: [] });
    await applySite();
    expect(status().differences).toEqual(['service site: 0 of 2 instances run']);
    node.runEverything();
    expect(status()).toMatchObject({
      ok: true,
      services: [{ desired: 2, running: 2, healthy: 2 }],
    });
    const owner = node.hostList.find(({ id }) => id === node.committed?.plan.placements[0]?.host);
    node.setInstances(owner?.name ?? '', [{ instance: 'site-0', health: 'starting' }]);
    expect(status().differences).toEqual(['service site: 1 of 2 instances are healthy']);
  });

  test('a dead host is a difference, its instances are unknown, its successor counts', async () => {
    for (const name of ['h1', 'h2', 'h3']) node.host(name).roles = ['web'];
    await applySite();
    node.runEverything();
    const [placement] = node.committed?.plan.placements ?? [];
    const dead = node.hostList.find(({ id }) => id === placement?.host);
    const spare = node.hostList.find(({ id }) =>
      node.committed?.plan.placements.every(({ host }) => host !== id),
    );
    if (dead === undefined || spare === undefined) throw new Error('no such hosts');
    dead.liveness = 'dead';
    expect(status().differences).toContain('service site: 1 of 2 instances run');
    node.setInstances(spare.name, [{ instance: 'site-0' }]);
    expect(status().differences).toEqual([`host ${dead.name} is dead`]);
    expect((await run<object[]>('service/ps', {})).length).toBe(2);
    const everything = await run<{ state: string }[]>('service/ps', { all: true });
    expect(everything.filter(({ state }) => state === 'unknown').length).toBe(1);
    dead.liveness = 'alive';
    expect(status().differences).toEqual([
      `site-0 on ${spare.name} runs, and nothing wants it there`,
    ]);
  });

  test('a stopped service is right when nothing of it runs', async () => {
    node.host('h1').roles = ['web'];
    node.host('h2').roles = ['web'];
    await applySite();
    node.runEverything();
    await run('service/stop', { service: 'site' });
    expect(status().ok).toBe(false);
    node.runEverything();
    expect(status().services[0]).toMatchObject({ enabled: false, desired: 0, running: 0 });
    const before = node.committed?.inputs.services[0]?.restarts;
    await run('service/start', { service: 'site' });
    await run('service/restart', { service: 'site' });
    expect(node.committed?.inputs.services[0]).toMatchObject({
      isEnabled: true,
      restarts: (before ?? 0) + 1,
    });
  });

  test('[trellis:P8] an exclusive service runs where its lease is held; the others stand by', async () => {
    for (const name of ['h1', 'h2', 'h3']) node.host(name).roles = ['web'];
    await run('desired/apply', {
      text: 'apiVersion: trellis/v1\nservices: { db: { role: web, image: x, exclusive: true } }\n',
    });
    const lease = `service/prod/${node.envView().services.get('db')?.id ?? ''}`;
    const made = { instance: 'db-0', state: 'created' as const };
    for (const name of ['h1', 'h2', 'h3']) node.setInstances(name, [made]);
    // Who holds what is told to `status` by the leases themselves, which are not here.
    const differences = () =>
      status().differences.filter((text) => !text.startsWith('exclusive service'));
    expect(differences()).toEqual(['service db: 0 of 1 instances run']);
    node.holders.set(lease, { host: node.host('h2').id, epoch: 7 });
    expect(differences()).toEqual(['service db: 0 of 1 instances run']);
    node.setInstances('h2', [{ instance: 'db-0' }]);
    expect(differences()).toEqual([]);
    expect(status()).toMatchObject({
      services: [{ desired: 1, running: 1, healthy: 1 }],
    });
    const rows = await run<InstanceRow[]>('service/ps', { service: 'db' });
    expect(rows.map(({ host, state, epoch }) => [host, state, epoch])).toEqual([
      ['h1', 'standby', null],
      ['h2', 'running', 7],
      ['h3', 'standby', null],
    ]);
    node.holders.set(lease, { host: node.host('h1').id, epoch: 8 });
    expect(differences()).toEqual([
      'service db: 0 of 1 instances run',
      'db-0 on h2 runs, and nothing wants it there',
    ]);
    await expect(run('service/scale', { service: 'db', count: '2' })).rejects.toMatchObject({
      code: 'CONFLICT',
    });
  });

  test('[trellis:P35] storage that nobody holds is a difference; deleting what is followed is refused', async () => {
    for (const name of ['h1', 'h2']) node.host(name).roles = ['db'];
    const text = (services: string, storage: string) =>
      `apiVersion: trellis/v1\nservices: {${services}}\nstorage: {${storage}}\n`;
    const db = ' db: { role: db, image: x, follows: data } ';
    const data = ' data: { role: db, driver: sync, exclusive: true, path: /srv/data } ';
    const answer = await run<ApplyAnswer>('desired/apply', { text: text(db, data) });
    expect(answer.plan?.steps.map(({ kind, service }) => `${kind} ${service}`)).toEqual([
      'start data',
      'start db',
    ]);
    const unheld = 'exclusive storage data has no holder: see `trellis lease show storage data`';
    expect(status().differences).not.toContain(unheld);
    await expect(run('desired/apply', { text: text(db, ''), prune: true })).rejects.toThrow(
      'there is no storage named data',
    );
    await run('desired/apply', { text: text('', data), prune: true });
    expect(status().differences).toContain(unheld);
    const id = node.envView().storage.get('data')?.id ?? '';
    node.holders.set(`storage/prod/${id}`, { host: node.host('h1').id, epoch: 1 });
    expect(status().differences).not.toContain(unheld);
    await expect(run('role/delete', { role: 'db' })).rejects.toThrow('is used by storage data');
    const gone = await run<ApplyAnswer>('desired/apply', { text: text('', ''), prune: true });
    expect(gone.pruned).toEqual(['storage data']);
    expect(node.committed?.inputs).not.toHaveProperty('storage');
  });

  test('alarms count while they are new', () => {
    const alarm = {
      host: node.self.host,
      seq: 1,
      kind: 'x.y',
      severity: 'alarm',
      text: 'trouble',
    } as const;
    node.eventList.push({ ...alarm, atWallMs: 990_000 });
    expect(status().differences).toEqual(['alarm on h1: trouble']);
    expect(statusOf(node, 2_000_000).ok).toBe(true);
  });

  test('a service that is not known is not found', async () => {
    await expect(run('service/ps', { service: 'nope' })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
    await expect(run('service/show', { service: 'nope' })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
    await expect(run('service/scale', { service: 'nope', count: '1' })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
  });
});

describe('conflicts', () => {
  beforeEach(async () => {
    await applySite();
    const service = node.envView().services.get('site');
    const value = (image: string) => ({
      value: image,
      operator: 'ada',
      session: 's' as never,
      hash: 'h' as never,
      atWallMs: 0,
    });
    node.conflictList.push({
      id: 'abcdef012345',
      doc: 'env/prod',
      object: service?.id ?? 'names',
      subject: 'service site',
      pointer: '/image',
      values: [value('x'), value('y')],
    });
  });

  test.each([
    ['2', 'y'],
    ['y', 'y'],
    ['"y"', 'y'],
    ['=y', 'y'],
    ['1', 'x'],
  ])('pick %s means %s', async (choice, image) => {
    await run('conflicts/pick', { id: 'abcdef', choice });
    expect(node.envView().services.get('site')?.image).toBe(image);
    expect(node.picked).toEqual(['abcdef012345']);
  });

  test('nothing else can be picked', async () => {
    await expect(run('conflicts/pick', { id: 'abcdef', choice: '3' })).rejects.toMatchObject({
      code: 'INVALID',
    });
    await expect(run('conflicts/pick', { id: '999999', choice: '1' })).rejects.toMatchObject({
      code: 'NOT_FOUND',
    });
  });
});

test('operations of a member are refused before there is a cluster, and of another environment', async () => {
  await expect(run('host/ls', {}, { node: null })).rejects.toMatchObject({
    code: 'NOT_INITIALISED',
  });
  await expect(run('host/ls', { env: 'uat' })).rejects.toMatchObject({ code: 'INVALID' });
});
