import { beforeEach, describe, expect, test } from 'vitest';
import { applyOperations } from '../../../daemon/operations/apply.ts';
import type { HostTools } from '../../../daemon/operations/tools.ts';
import type {
  LeaseDetails,
  LeaseRow,
  MoveAnswer,
} from '../../../daemon/operations/lease-answers.ts';
import { ClusterError } from '../../../daemon/errors.ts';
import { leaseOperations } from '../../../daemon/operations/lease.ts';
import { lockOperations } from '../../../daemon/operations/lock.ts';
import type { LockTicket } from '../../../daemon/operations/lock.ts';
import type { StatusAnswer } from '../../../daemon/operations/answers.ts';
import { statusOf } from '../../../daemon/operations/status.ts';
import type { GuardReply } from '../../../daemon/lease/guard-api.ts';
import { ManualClock } from '../reconcile/manual-clock.ts';
import { FakeLeases } from './fake-leases.ts';
import { FakeNode, runOperation } from './fake-node.ts';
import type { RunOptions } from './fake-node.ts';

const tools = { guardSocket: () => '/run/x/guard/guard.sock' } as unknown as HostTools;
const all = [...leaseOperations, ...applyOperations, ...lockOperations(tools)];

let node: FakeNode;
let leases: FakeLeases;
let db: string;

function run<T>(name: string, given: object = {}, options: RunOptions = {}): Promise<T> {
  return runOperation(all, name, given, { node, leases, ...options }) as Promise<T>;
}

const file = `apiVersion: trellis/v1
roles: { database: { minHosts: 1 } }
services:
  db: { role: database, image: x, exclusive: true }
  site: { role: database, image: y, count: { perRole: { min: 1, max: 1 } } }
`;

beforeEach(async () => {
  node = new FakeNode(['h1', 'h2', 'h3']);
  for (const host of node.hostList) host.roles = ['database'];
  leases = new FakeLeases(node, ['h1', 'h2', 'h3']);
  await run('desired/apply', { text: file });
  db = `service/prod/${node.envView().services.get('db')?.id ?? ''}`;
});

function holdDb(epoch = 7) {
  return leases.hold(db, epoch, {
    title: 'service db',
    candidates: node.hostList.map(({ id }) => id),
    history: [
      { epoch: 6, host: node.host('h2').id, what: 'expired', why: '', atWallMs: 1_000 },
      { epoch, host: node.host('h1').id, what: 'acquired', why: 'it ran out', atWallMs: 2_000 },
    ],
  });
}

describe('lease ls', () => {
  test('the promised fields, with what this guard knows first-hand', async () => {
    holdDb();
    const rows = await run<LeaseRow[]>('lease/ls');
    expect(rows.find(({ name }) => name === db)).toMatchObject({
      title: 'service db',
      holder: 'h1',
      epoch: 7,
      state: 'active',
      voters: ['h1', 'h2', 'h3'],
      expiresInMs: 1_200,
      candidates: ['h1', 'h2', 'h3'],
      profile: 'fast',
      onLoss: 'stop',
      trouble: [],
    });
    expect(rows.map(({ title }) => title)).toEqual(['planner prod', 'service db']);
  });

  test('of several claims the highest epoch counts; a dead host claims nothing unless parked', async () => {
    leases.setFact('h2', { held: [{ name: db, epoch: 4, state: 'active' }] });
    leases.setFact('h3', { held: [{ name: db, epoch: 5, state: 'active' }] });
    const holder = async () =>
      (await run<LeaseRow[]>('lease/ls')).find(({ name }) => name === db)?.holder;
    expect(await holder()).toBe('h3');
    node.host('h3').liveness = 'dead';
    expect(await holder()).toBe('h2');
    leases.setFact('h3', { held: [{ name: db, epoch: 5, state: 'parked' }] });
    expect(await holder()).toBe('h3');
  });

  test('what the guard heard of another holder gives the time left', async () => {
    const owner = { host: node.host('h2').id, session: 's' };
    leases.lease(db, {
      title: 'service db',
      epoch: 3,
      holder: { owner, state: 'active', remainMs: 900 },
    });
    const row = (await run<LeaseRow[]>('lease/ls')).find(({ name }) => name === db);
    expect(row).toMatchObject({ holder: 'h2', epoch: 3, expiresInMs: 900 });
  });

  test('a park that the voters know of is one, though its host never said so', async () => {
    const owner = { host: node.host('h2').id, session: 's' };
    leases.lease(db, { epoch: 3, holder: { owner, state: 'parked', remainMs: 0 } });
    leases.setFact('h2', { held: [{ name: db, epoch: 3, state: 'active' }] });
    node.host('h2').liveness = 'dead';
    const row = (await run<LeaseRow[]>('lease/ls')).find(({ name }) => name === db);
    expect(row).toMatchObject({ holder: 'h2', epoch: 3, state: 'parked' });
  });

  test('an epoch that somebody else tried in vain is not the holder’s', async () => {
    const owner = { host: node.host('h2').id, session: 's' };
    const holder = { owner, state: 'active', remainMs: 900 } as const;
    leases.lease(db, { title: 'service db', epoch: 4, holder });
    leases.setFact('h2', { held: [{ name: db, epoch: 3, state: 'frozen' }] });
    const row = (await run<LeaseRow[]>('lease/ls')).find(({ name }) => name === db);
    expect(row).toMatchObject({ holder: 'h2', epoch: 3, state: 'frozen', expiresInMs: 900 });
  });

  test('without a guard it is what the others say', async () => {
    leases.isConnected = false;
    leases.setFact('h2', { held: [{ name: db, epoch: 4, state: 'active' }] });
    const row = (await run<LeaseRow[]>('lease/ls')).find(({ name }) => name === db);
    expect(row).toMatchObject({ holder: 'h2', epoch: 4, expiresInMs: null, state: 'active' });
    expect(row?.candidates.toSorted()).toEqual(['h1', 'h2', 'h3']);
  });
});

describe('names', () => {
  test.each([['db'], ['service db'], ['service/db'], [['service', 'db']]])(
    '%j is the lease of the service',
    async (name) => {
      expect((await run<LeaseDetails>('lease/show', { name })).name).toBe(db);
    },
  );

  test('its whole name, and the planner', async () => {
    expect((await run<LeaseDetails>('lease/show', { name: db })).title).toBe('service db');
    expect((await run<LeaseDetails>('lease/show', { name: 'planner' })).name).toBe('planner/prod');
  });

  test('several of one name are listed', async () => {
    leases.lease('lock/db', { title: 'lock db' });
    await expect(run('lease/show', { name: 'db' })).rejects.toMatchObject({
      code: 'AMBIGUOUS',
      details: { choices: ['lock db', 'service db'] },
    });
    expect((await run<LeaseDetails>('lease/show', { name: 'lock db' })).name).toBe('lock/db');
  });

  test('none, and one that is not exclusive', async () => {
    await expect(run('lease/show', { name: 'nope' })).rejects.toMatchObject({
      code: 'LEASE_UNKNOWN',
    });
    await expect(run('lease/show', { name: 'site' })).rejects.toMatchObject({
      code: 'INVALID',
      message: expect.stringContaining('not exclusive') as string,
    });
    await expect(run('lease/show', { name: '' })).rejects.toThrow();
  });

  test('a host with a stale copy is shown with its reason, and not switched to [trellis:P37]', async () => {
    await run('desired/apply', {
      text: `${file.replace('exclusive: true', 'exclusive: true, follows: data')}storage:\n  data: { role: database, driver: sync, path: /srv/db, exclusive: true }\n`,
    });
    const id = node.envView().storage.get('data')?.id;
    const name = `storage/prod/${id}`;
    const candidates = ['h1', 'h2'].map((host) => node.host(host).id);
    leases.hold(name, 3, { title: 'storage data', candidates });
    const copy = {
      name: 'data',
      id,
      state: 'replica',
      epoch: 3,
      version: 1,
      bytes: 1,
      reason: null,
    };
    node.setFact('storage', 'h3', { v: 1, storage: [{ ...copy, lagMs: 12_000, isInSync: false }] });
    const shown = await run<LeaseDetails>('lease/show', { name: 'db' });
    expect(shown.candidates.find(({ host }) => host === 'h3')).toMatchObject({
      place: null,
      mayTake: false,
      reasons: [{ code: 'not-in-sync', text: expect.stringContaining('12000 ms') }],
    });
    await expect(run('lease/switch', { name: 'db', to: 'h3' })).rejects.toMatchObject({
      code: 'STALE_COPY',
    });
  });

  test('services that follow storage are names of its lease', async () => {
    await run('desired/apply', {
      text: `${file.replace('exclusive: true', 'exclusive: true, follows: data')}storage:\n  data: { role: database, driver: local, path: /srv/db, exclusive: true }\n`,
    });
    const shown = await run<LeaseDetails>('lease/show', { name: 'db' });
    expect(shown).toMatchObject({ title: 'storage data', services: ['db'] });
    expect((await run<LeaseDetails>('lease/show', { name: 'data' })).name).toBe(shown.name);
  });
});

describe('lease show', () => {
  test('who holds it since when, in which order others may take over, timing, quorum', async () => {
    holdDb();
    const shown = await run<LeaseDetails>('lease/show', { name: 'db' });
    expect(shown).toMatchObject({
      holder: 'h1',
      since: new Date(2_000).toISOString(),
      services: ['db'],
      gate: { host: 'h1', state: 'open', fault: null },
      timing: { exclusionMs: 1_600, renewMs: 400 },
      quorum: { mode: 'majority', needed: 2, survives: 1, hasQuorum: true, n: 2, generation: 0 },
      survives: 1,
      seenFrom: 'h1',
    });
    expect(shown.candidates.map(({ host, place, mayTake }) => [host, place, mayTake])).toEqual([
      ['h1', 1, false],
      ['h2', 2, true],
      ['h3', 3, true],
    ]);
    expect(shown.history.map(({ host, what }) => `${host} ${what}`)).toEqual([
      'h2 expired',
      'h1 acquired',
    ]);
  });

  test('every reason against a candidate is told', async () => {
    holdDb();
    const reasons = async (host: string) =>
      (await run<LeaseDetails>('lease/show', { name: 'db' })).candidates
        .find((row) => row.host === host)
        ?.reasons.map(({ code }) => code);
    node.host('h2').liveness = 'dead';
    expect(await reasons('h2')).toEqual(['dead']);
    node.host('h2').liveness = 'alive';
    leases.setFact('h2', { leasePort: 0 });
    expect(await reasons('h2')).toEqual(['guard-down']);
    leases.setFact('h2', { leasePort: 7441, gateFault: 'no freezer' });
    expect(await reasons('h2')).toEqual(['gate-fault']);
    leases.setFact('h2', {
      gateFault: null,
      unfit: [{ name: db, why: 'it did not start here: no' }],
    });
    node.setHostFact('h2', { engine: 'hung' });
    expect(await reasons('h2')).toEqual(['engine-down', 'start-failed']);
    node.setHostFact('h2', {});
    leases.setFact('h2', { unfit: [{ name: db, why: 'an image is being pulled' }] });
    expect(await reasons('h2')).toEqual(['unfit']);
    leases.setFact('h2', { unfit: [] });
    await run('lease/freeze', { name: 'db' });
    expect(await reasons('h2')).toEqual(['lease-frozen']);
  });

  test('a host with the role that is no candidate is listed with what keeps it out', async () => {
    const held = holdDb();
    held.candidates = held.candidates.slice(0, 2);
    node.host('h3').liveness = 'dead';
    await run('desired/apply', {
      text: file.replace(
        'role: database, image: x',
        'role: database, image: x, placement: { where: { dc: east } }',
      ),
    });
    const shown = await run<LeaseDetails>('lease/show', { name: 'db' });
    const third = shown.candidates.find(({ host }) => host === 'h3');
    expect(third).toMatchObject({ place: null, mayTake: false, reasons: [{ code: 'dead' }] });
  });

  test('is asked of the holder, and answered from here when that is not possible', async () => {
    leases.setFact('h2', { held: [{ name: db, epoch: 4, state: 'active' }] });
    const asked: unknown[] = [];
    const remote: RunOptions['remote'] = (host, call) => {
      asked.push([host, call]);
      return Promise.resolve({ seenFrom: 'h2' });
    };
    expect(await run('lease/show', { name: 'db' }, { remote })).toEqual({ seenFrom: 'h2' });
    const call = { group: 'lease', command: 'show', params: { name: db, here: true } };
    expect(asked).toEqual([[node.host('h2').id, call]]);
    const loggedOut = await run<LeaseDetails>('lease/show', { name: 'db' }, { isLoggedOut: true });
    expect(loggedOut).toMatchObject({ seenFrom: 'h1', holder: 'h2' });
  });
});

describe('moving', () => {
  test('switch on the holder: the guard is told, steps are shown, the answer says who has it', async () => {
    holdDb();
    const h2 = node.host('h2').id;
    const said: string[] = [];
    leases.answer = () => {
      const lease = leases.leases[0];
      if (lease !== undefined) lease.state = 'handing-over';
      leases.changed();
      return { isOk: true, epoch: 8, holder: h2 };
    };
    const onProgress = (text: string) => said.push(text);
    const answer = await run<MoveAnswer>('lease/switch', { name: 'db', to: 'h2' }, { onProgress });
    expect(answer).toMatchObject({ title: 'service db', from: 'h1', to: 'h2', epoch: 8 });
    expect(leases.commands).toEqual([
      { kind: 'switch', name: db, to: h2, reason: 'switched by ada' },
    ]);
    expect(said).toEqual(['service db: h1 handing-over, epoch 7, gate open here']);
  });

  test('switch elsewhere is passed on to the holder, once', async () => {
    leases.setFact('h2', { held: [{ name: db, epoch: 4, state: 'active' }] });
    const calls: unknown[] = [];
    const remote: RunOptions['remote'] = (host, call) => {
      calls.push({ host, ...call });
      return Promise.resolve({ to: 'h3' });
    };
    await run('lease/switch', { name: 'db', to: 'h3' }, { remote });
    expect(calls).toEqual([
      {
        host: node.host('h2').id,
        group: 'lease',
        command: 'switch',
        params: { to: 'h3', name: db, here: true },
      },
    ]);
    await expect(
      run('lease/switch', { name: db, to: 'h3', here: true }, { remote }),
    ).rejects.toMatchObject({ code: 'LEASE_NOT_HELD' });
    expect(calls.length).toBe(1);
  });

  test('refusals before anything is asked of the guard', async () => {
    await expect(run('lease/switch', { name: 'db' })).rejects.toMatchObject({
      code: 'LEASE_NOT_HELD',
    });
    holdDb();
    const to = (host: string) => run('lease/switch', { name: 'db', to: host });
    await expect(to('h9')).rejects.toMatchObject({ code: 'NOT_FOUND' });
    node.host('h2').liveness = 'dead';
    await expect(to('h2')).rejects.toMatchObject({ code: 'LEASE_DENIED' });
    leases.setFact('h3', { gateFault: 'no freezer' });
    await expect(to('h3')).rejects.toMatchObject({ code: 'GATE_FAULT', details: { host: 'h3' } });
    await expect(run('lease/switch', { name: 'db' })).rejects.toMatchObject({
      code: 'HANDOVER_ABORTED',
    });
    expect(leases.commands).toEqual([]);
    expect(await to('h1')).toMatchObject({ from: 'h1', to: 'h1', tookMs: 0 });
  });

  test('a frozen lease does not move', async () => {
    holdDb();
    await run('lease/freeze', { name: 'db' });
    await expect(run('lease/switch', { name: 'db', to: 'h2' })).rejects.toMatchObject({
      code: 'LEASE_FROZEN',
    });
    await run('lease/unfreeze', { name: 'db' });
    expect(node.envView().services.get('db')?.lease?.isFrozen ?? false).toBe(false);
  });

  test('what the guard refuses keeps its code, with names for people', async () => {
    holdDb();
    leases.answer = () => ({
      isOk: false,
      code: 'HANDOVER_ABORTED',
      details: { name: db, host: node.host('h2').id, reason: 'no image' },
    });
    await expect(run('lease/switch', { name: 'db', to: 'h2' })).rejects.toMatchObject({
      code: 'HANDOVER_ABORTED',
      details: { name: 'service db', host: 'h2', reason: 'no image' },
    });
    leases.answer = () => ({ isOk: false, code: 'NEVER_HEARD', details: {} });
    await expect(run('lease/release', { name: 'db' })).rejects.toMatchObject({ code: 'INTERNAL' });
    const none = runOperation(all, 'lease/park', {}, { node });
    await expect(none).rejects.toMatchObject({ code: 'GUARD_UNREACHABLE' });
  });

  test('a guard that was replaced a moment ago is waited for, and one that is gone is not waited for long', async () => {
    holdDb();
    const clock = new ManualClock();
    const said: string[] = [];
    const ask = (name: string, given: object) =>
      run<MoveAnswer>(name, given, { clock, onProgress: (text) => said.push(text) });
    leases.isConnected = false;
    leases.factList.clear();
    const moving = ask('lease/switch', { name: 'db', to: 'h2' });
    await clock.advance(900);
    expect(said).toEqual([]);
    await clock.advance(600);
    expect(said).toEqual(['waiting for the guard of this host']);
    leases.isConnected = true;
    leases.answer = () => ({ isOk: true, epoch: 8, holder: node.host('h2').id });
    for (const { name } of node.hostList) leases.setFact(name, {});
    await clock.advance(500);
    expect(await moving).toMatchObject({ from: 'h1', to: 'h2', epoch: 8 });
    leases.isConnected = false;
    leases.factList.clear();
    for (const [name, given] of [
      ['lease/park', {}],
      ['lease/release', { name: 'db' }],
    ] as const) {
      const lost = ask(name, given);
      const refused = expect(lost).rejects.toMatchObject({ code: 'GUARD_UNREACHABLE' });
      await clock.advance(5_000);
      await refused;
    }
  });

  test('a guard that is replaced while it is asked to switch is asked again; a release is not repeated', async () => {
    holdDb();
    let isLost = true;
    leases.answer = () => {
      if (!isLost) return { isOk: true, epoch: 8, holder: node.host('h2').id };
      isLost = false;
      throw new ClusterError('GUARD_UNREACHABLE', { host: 'h1', reason: 'ECONNRESET' });
    };
    const moved = await run<MoveAnswer>('lease/switch', { name: 'db', to: 'h2' });
    expect(moved).toMatchObject({ to: 'h2', epoch: 8 });
    expect(leases.commands.map(({ kind }) => kind)).toEqual(['switch', 'switch']);
    isLost = true;
    await expect(run('lease/release', { name: 'db' })).rejects.toMatchObject({
      code: 'GUARD_UNREACHABLE',
    });
  });

  test('a guard that has not heard yet what it is for is asked again for a moment', async () => {
    holdDb();
    const clock = new ManualClock();
    const isNew = (): GuardReply => ({ isOk: false, code: 'GUARD_UNREACHABLE', details: {} });
    leases.answer = isNew;
    const released = run<MoveAnswer>('lease/release', { name: 'db' }, { clock });
    await clock.advance(600);
    leases.answer = () => ({ isOk: true, epoch: 8 });
    await clock.advance(200);
    expect(await released).toMatchObject({ from: 'h1' });
    leases.answer = isNew;
    const refused = expect(run('lease/release', { name: 'db' }, { clock })).rejects.toMatchObject({
      code: 'GUARD_UNREACHABLE',
    });
    await clock.advance(6_000);
    await refused;
  });

  test.each([
    ['whose guard is said to be away', () => ({ leasePort: 0 })],
    ['that would not a moment ago', () => ({ unfit: [{ name: db, why: 'it is not made yet' }] })],
  ])('a target %s is asked by the holder', async (_words, fact) => {
    holdDb();
    leases.setFact('h2', fact());
    leases.answer = () => ({
      isOk: false,
      code: 'HANDOVER_ABORTED',
      details: { name: db, reason: `no answer from ${node.host('h2').id} for 3 s` },
    });
    await expect(run('lease/switch', { name: 'db', to: 'h2' })).rejects.toMatchObject({
      code: 'HANDOVER_ABORTED',
      message: expect.stringMatching(/no answer from h2 for 3 s; the holder goes on/) as unknown,
    });
  });

  test('every step is said, and again when one takes long', async () => {
    const lease = holdDb();
    const clock = new ManualClock();
    const said: string[] = [];
    const answer = Promise.withResolvers<GuardReply>();
    leases.command = () => answer.promise;
    const options = { clock, onProgress: (text: string) => said.push(text) };
    const moved = run<MoveAnswer>('lease/switch', { name: 'db', to: 'h2' }, options);
    await clock.advance(10);
    for (const step of ['preparing', 'stopping', 'settling'] as const) {
      lease.moving = { to: node.host('h2').id, step };
      const { moving } = await run<LeaseDetails>('lease/show', { name: 'db' });
      expect(moving).toEqual({ to: 'h2', step });
      leases.changed();
      await clock.advance(step === 'settling' ? 20_000 : 100);
    }
    expect(said).toEqual([
      'service db: h2 gets ready, h1 goes on',
      'service db: h2 is ready, it is stopped on h1',
      'service db: h2 takes over what was written last',
      'service db: h2 takes over what was written last, for 20 s',
    ]);
    answer.resolve({ isOk: true, epoch: 8, holder: node.host('h2').id });
    expect(await moved).toMatchObject({ to: 'h2', epoch: 8 });
    expect(clock.pending()).toEqual([]);
  });

  test('release says first what stops', async () => {
    holdDb();
    const { plan } = await run<MoveAnswer>('lease/release', { name: 'db', dryRun: true });
    expect(plan?.[0]).toBe('stop db on h1 and give service db up');
    expect(leases.commands).toEqual([]);
    expect(await run('lease/release', { name: 'db' })).toMatchObject({ from: 'h1', to: null });
    expect(leases.commands).toEqual([{ kind: 'release', name: db, reason: 'released by ada' }]);
  });

  test('only what has settings can be frozen', async () => {
    await expect(run('lease/freeze', { name: 'planner' })).rejects.toMatchObject({
      code: 'INVALID',
    });
  });
});

describe('maintenance and force', () => {
  test('park: everything here, one lease where it is held, everything of another host', async () => {
    holdDb();
    expect(await run('lease/park')).toEqual({ host: 'h1', leases: [], parked: true });
    expect(await run('lease/unpark', { name: 'db' })).toEqual({
      host: 'h1',
      leases: ['service db'],
      parked: false,
    });
    expect(leases.commands).toEqual([
      { kind: 'park', name: null },
      { kind: 'unpark', name: db },
    ]);
    const calls: unknown[] = [];
    const remote: RunOptions['remote'] = (host, call) => {
      calls.push([host, call.command, call.params]);
      return Promise.resolve({});
    };
    await run('lease/park', { host: 'h2' }, { remote });
    expect(calls).toEqual([[node.host('h2').id, 'park', { here: true }]]);
    await expect(run('lease/park', { name: 'planner' })).rejects.toMatchObject({
      code: 'LEASE_NOT_HELD',
    });
  });

  test('force needs its name as a second confirmation, and says what it risks', async () => {
    leases.setFact('h2', { held: [{ name: db, epoch: 4, state: 'parked' }] });
    const plan = (await run<MoveAnswer>('lease/force-active', { name: 'db', dryRun: true })).plan;
    expect(plan?.join(' ')).toContain('if h2 still runs db, two hosts run it at once');
    for (const confirm of [undefined, 'yes', 'service']) {
      const given = confirm === undefined ? {} : { confirm };
      await expect(run('lease/force-active', { name: 'db', ...given })).rejects.toMatchObject({
        code: 'CONFIRMATION_NEEDED',
      });
    }
    expect(leases.commands).toEqual([]);
    leases.answer = () => ({ isOk: true, epoch: 5 });
    const answer = await run<MoveAnswer>('lease/force-active', { name: 'db', confirm: 'db' });
    expect(answer).toMatchObject({ from: 'h2', to: 'h1', epoch: 5 });
    expect(leases.commands).toEqual([{ kind: 'force-active', name: db, of: node.host('h2').id }]);
  });

  test('force is about the host that people were told of, not about who has it by then', async () => {
    const force = (of: string) => run('lease/force-active', { name: 'db', confirm: 'db', of });
    leases.setFact('h3', { held: [{ name: db, epoch: 5, state: 'active' }] });
    await expect(force('h2')).rejects.toMatchObject({ code: 'LEASE_BUSY' });
    expect(leases.commands).toEqual([]);
    await force('h3');
    // Nobody was known: the guard sees for itself.
    await force('');
    expect(leases.commands).toEqual([
      { kind: 'force-active', name: db, of: node.host('h3').id },
      { kind: 'force-active', name: db, of: null },
    ]);
  });
});

describe('status', () => {
  const status = (): StatusAnswer => statusOf(node, 1_000, leases);

  test('an exclusive service without a holder, and trouble with voters, are differences', () => {
    expect(status().differences.join('\n')).toContain('exclusive service db has no holder');
    holdDb();
    expect(status().differences.join('\n')).not.toContain('has no holder');
    leases.deaf.add(node.host('h2').id).add(node.host('h3').id);
    expect(status().differences.join('\n')).toContain('no majority of 3 voters answers');
  });

  test('redundancy: voters and takers limit each other', () => {
    const row = () => status().exclusive[0];
    expect(row()).toMatchObject({ service: 'db', survives: -1, limit: 'nobody holds it' });
    holdDb();
    expect(row()).toMatchObject({ survives: 1, limit: '2 of 3 voters must answer' });
    leases.deaf.add(node.host('h2').id);
    expect(row()).toMatchObject({ survives: 0 });
    leases.deaf.clear();
    node.host('h3').liveness = 'dead';
    leases.setFact('h2', { gateFault: 'no freezer' });
    expect(row()).toMatchObject({ survives: 0 });
    expect(row()?.limit).toContain('h2: no freezer');
  });

  test('two voters survive the loss of the other one only', () => {
    leases = new FakeLeases(node, ['h1', 'h2']);
    holdDb();
    expect(status().exclusive[0]).toMatchObject({ survives: 0 });
    expect(status().quorum).toMatchObject({ mode: 'pair', needed: 2 });
  });
});

test('lock prepare: where the guard is, and a lease that any member may have', async () => {
  const ticket = await run<LockTicket>('lock/prepare', { name: 'back.up-1', profile: 'wan' });
  expect(ticket.socket).toBe('/run/x/guard/guard.sock');
  expect(ticket.lease).toMatchObject({
    name: 'lock/back.up-1',
    title: 'lock back.up-1',
    profile: 'wan',
    onLoss: 'stop',
    mayAcquire: true,
  });
  expect(ticket.lease.candidates).toEqual(node.hostList.map(({ id }) => id));
  expect(ticket.lease.gate).toMatch(/^trellis-x-c1c1c1c1-l[0-9a-f]{11}-111111$/);
  const other = await run<LockTicket>('lock/prepare', { name: 'other' });
  expect(other.lease.gate).not.toBe(ticket.lease.gate);
  for (const name of ['', 'a/b', '-x', 'x'.repeat(64), 'ü'])
    await expect(run('lock/prepare', { name })).rejects.toThrow();
});
