import { beforeEach, describe, expect, test } from 'vitest';
import type { HostId } from '../../../crdt/ids.ts';
import { AlertBook, findAlerts } from '../../../daemon/lease-alarms.ts';
import type { AlertHost, AlertSnapshot } from '../../../daemon/lease-alarms.ts';
import { AlertWatch, alertsOfAll, alertSnapshot } from '../../../daemon/alert-watch.ts';
import type { EventEntry } from '../../../daemon/node-api.ts';
import { alertOperations } from '../../../daemon/operations/alert.ts';
import { applyOperations } from '../../../daemon/operations/apply.ts';
import type { AlertRow } from '../../../daemon/operations/lease-answers.ts';
import { statusOf } from '../../../daemon/operations/status.ts';
import { FakeLeases } from '../operations/fake-leases.ts';
import { FakeNode, runOperation } from '../operations/fake-node.ts';

class PublishingNode extends FakeNode {
  override publishFact(topic?: string, value?: unknown): void {
    if (topic !== undefined) this.setFact(topic, this.hostList[0]?.name ?? '', value);
  }
}

const lease = 'service/prod/0123456789abcdef';
let node: PublishingNode;
let leases: FakeLeases;
let nowMs: number;

beforeEach(() => {
  node = new PublishingNode(['h1', 'h2', 'h3']);
  leases = new FakeLeases(node, ['h1', 'h2', 'h3']);
  nowMs = 100_000;
});

const id = (name: string): HostId => node.host(name).id;
const clock = {
  monotonicMs: () => nowMs,
  wallMs: () => 1_000_000 + nowMs,
  setTimer: () => ({ cancel: () => undefined }),
};

function snapshot(changes: Partial<AlertSnapshot> = {}): AlertSnapshot {
  const seen = alertSnapshot(node, leases, { version: '0.1.0', wallMs: clock.wallMs() });
  return { ...seen, ...changes };
}

const found = (changes: Partial<AlertSnapshot> = {}) =>
  findAlerts(snapshot(changes)).map((one) => one.id);

function withHost(name: string, changes: Partial<AlertHost>): Partial<AlertSnapshot> {
  const hosts = snapshot().hosts.map((host) =>
    host.name === name ? { ...host, ...changes } : host,
  );
  return { hosts };
}

describe('what is an alert', () => {
  test('nothing, when all is well', () => {
    leases.hold(lease, 3, { title: 'service db' });
    expect(found()).toEqual([]);
  });

  test('no-quorum: of this guard, once it knows any voters', () => {
    leases.deaf.add(id('h2')).add(id('h3'));
    expect(found()).toEqual(['no-quorum:prod']);
    leases.chosen = null;
    expect(found()).toEqual([]);
    leases.isConnected = false;
    expect(found()).toEqual([]);
  });

  test('unsafe-keep: the gate is open and the lease is not ours', () => {
    const held = leases.hold(lease, 3, { title: 'service db', onLoss: 'keep' });
    expect(found()).toEqual([]);
    held.state = 'waiting';
    expect(found()).toContain('unsafe-keep:service db on h1');
    held.onLoss = 'stop';
    expect(found()).not.toContain('unsafe-keep:service db on h1');
  });

  test('flapping: more than three moves within an hour; renewals and old moves do not count', () => {
    const wallMs = clock.wallMs();
    const entry = (i: number, host: string, agoMs: number) => ({
      epoch: i,
      host: id(host),
      what: 'acquired' as const,
      why: '',
      atWallMs: wallMs - agoMs,
    });
    const held = leases.hold(lease, 9, { title: 'service db' });
    const hosts = ['h1', 'h2', 'h1', 'h2', 'h1'];
    held.history = hosts.map((host, i) => entry(i, host, (5 - i) * 60_000));
    expect(found()).toEqual(['flapping:service db']);
    held.history = hosts.map((host, i) => entry(i, host, 3_700_000 - i));
    expect(found()).toEqual([]);
    held.history = hosts.map((_, i) => entry(i, 'h1', (5 - i) * 60_000));
    expect(found()).toEqual([]);
  });

  test('[trellis:A41] daemon-down: silent for 5 s while its guard still holds; an alert and no more', () => {
    const owner = { host: id('h2'), session: 's' };
    const known = leases.lease(lease, {
      title: 'service db',
      holder: { owner, state: 'active', remainMs: 900 },
    });
    const quiet = (lastSeenMs: number | null, isConnected = false) =>
      found(withHost('h2', { lastSeenMs, isConnected }));
    expect(quiet(4_900)).toEqual([]);
    expect(quiet(5_000)).toEqual(['daemon-down:h2']);
    expect(quiet(null)).toEqual(['daemon-down:h2']);
    expect(quiet(60_000, true)).toEqual([]);
    const words = (movesWithoutDaemon: boolean): string => {
      const work = [{ lease, service: 'db', runsOn: [], movesWithoutDaemon }];
      const silent = withHost('h2', { lastSeenMs: 5_000, isConnected: false });
      return findAlerts({ ...snapshot(silent), work })[0]?.text ?? '';
    };
    expect(words(false)).toContain('nothing moves');
    expect(words(true)).toContain('service db will move soon');
    leases.lease('planner/prod', { title: 'planner prod', holder: known.holder });
    expect(words(false)).toContain('still holds service db, planner prod; planner prod will move');
    leases.leases.pop();
    known.holder = { owner, state: 'parked', remainMs: 900 };
    expect(quiet(60_000)).toEqual([]);
    known.holder = { owner, state: 'active', remainMs: 0 };
    expect(quiet(60_000)).toEqual([]);
    expect(leases.commands).toEqual([]);
  });

  test('gate-fault: each host says it of itself', () => {
    leases.setFact('h2', { gateFault: 'no freezer' });
    expect(found()).toEqual([]);
    leases.gateFault = 'no freezer';
    expect(found()).toEqual(['gate-fault:h1']);
  });

  test('voter-forgot: a voter says it of itself, and what to do', () => {
    leases.setFact('h2', { hasForgotten: true });
    expect(found()).toEqual([]);
    leases.hasForgotten = true;
    expect(found()).toEqual(['voter-forgot:h1']);
    expect(findAlerts(snapshot())[0]?.todo).toContain('env');
  });

  test('all-failed: nobody holds it, and every live candidate would not', () => {
    const known = leases.lease(lease, {
      title: 'service db',
      candidates: [id('h1'), id('h2')],
      mayAcquire: false,
      why: 'it did not start here: exit 1',
    });
    expect(found()).toEqual([]);
    leases.setFact('h2', { unfit: [{ name: lease, why: 'it did not start here: exit 1' }] });
    expect(found()).toEqual(['all-failed:service db']);
    leases.setFact('h3', { held: [{ name: lease, epoch: 1, state: 'active' }] });
    expect(found()).toEqual([]);
    leases.setFact('h3', { held: [] });
    known.gate = 'none';
    expect(found()).toEqual([]);
  });

  test('zombie: runs where it is not held, while it is held elsewhere', () => {
    leases.setFact('h2', { held: [{ name: lease, epoch: 4, state: 'active' }] });
    const work = (...names: string[]) => [
      { lease, service: 'db', runsOn: names.map(id), movesWithoutDaemon: false },
    ];
    expect(found({ work: work('h2') })).toEqual([]);
    expect(found({ work: work('h2', 'h3') })).toEqual(['zombie:db on h3']);
    leases.setFact('h2', { held: [] });
    expect(found({ work: work('h3') })).toEqual([]);
  });

  test('stale-guard-version', () => {
    leases.version = '0.0.9';
    expect(findAlerts(snapshot())).toMatchObject([
      { id: 'stale-guard-version:h1', severity: 'warn' },
    ]);
  });

  test('never more than fit', () => {
    const work = Array.from({ length: 100 }, (_, i) => ({
      lease,
      service: `s${i}`,
      runsOn: [id('h3')],
      movesWithoutDaemon: false,
    }));
    leases.setFact('h2', { held: [{ name: lease, epoch: 4, state: 'active' }] });
    expect(found({ work }).length).toBe(64);
  });
});

describe('raised once, cleared when over', () => {
  const one = (kind: 'no-quorum' | 'daemon-down') =>
    ({ id: `${kind}:x`, kind, severity: 'alarm', subject: 'x', text: 't', todo: '' }) as const;

  test('after it has lasted, and only once', () => {
    const book = new AlertBook();
    const look = (atMs: number, isThere = true) =>
      book.look(isThere ? [one('no-quorum')] : [], { nowMs: atMs, wallMs: atMs });
    expect(look(0).raised).toEqual([]);
    expect(look(4_999).raised).toEqual([]);
    expect(look(5_000).raised).toMatchObject([{ id: 'no-quorum:x', sinceWallMs: 5_000 }]);
    expect(look(6_000).raised).toEqual([]);
    expect(book.current().length).toBe(1);
    expect(look(7_000, false)).toMatchObject({ raised: [], cleared: [{ id: 'no-quorum:x' }] });
    expect(look(8_000, false).cleared).toEqual([]);
  });

  test('what heals before it was raised is never told', () => {
    const book = new AlertBook();
    book.look([one('no-quorum')], { nowMs: 0, wallMs: 0 });
    expect(book.look([], { nowMs: 3_000, wallMs: 0 }).cleared).toEqual([]);
    expect(book.look([one('no-quorum')], { nowMs: 6_000, wallMs: 0 }).raised).toEqual([]);
  });

  test('one that needs no waiting is raised at once', () => {
    const book = new AlertBook();
    expect(book.look([one('daemon-down')], { nowMs: 0, wallMs: 7.6 }).raised).toMatchObject([
      { sinceWallMs: 8 },
    ]);
  });
});

describe('the watch', () => {
  const watch = () => new AlertWatch({ node, leases, clock, version: '0.1.0' });
  const told = (): Pick<EventEntry, 'kind' | 'severity'>[] =>
    node.eventList.map(({ kind, severity }) => ({ kind, severity }));

  test('tells and publishes what it raises, and that it is over', () => {
    const watching = watch();
    watching.look();
    expect(node.facts('alerts')).toEqual([]);
    leases.gateFault = 'no freezer';
    watching.look();
    // It may be that the gate was not tried yet.
    expect(told()).toEqual([]);
    nowMs += 5_000;
    watching.look();
    watching.look();
    expect(told()).toEqual([{ kind: 'alert.gate-fault', severity: 'alarm' }]);
    expect(alertsOfAll(node).map(({ alert }) => alert.id)).toEqual(['gate-fault:h1']);
    leases.gateFault = null;
    watching.look();
    expect(told()[1]).toEqual({ kind: 'alert.gate-fault', severity: 'info' });
    expect(alertsOfAll(node)).toEqual([]);
  });

  test('of several hosts that see it, one tells', () => {
    leases.deaf.add(id('h2')).add(id('h3'));
    const first = watch();
    first.look();
    nowMs += 5_000;
    first.look();
    expect(told()).toEqual([{ kind: 'alert.no-quorum', severity: 'alarm' }]);
    node.eventList.length = 0;
    const last = new PublishingNode(['h1', 'h2', 'h3']);
    Object.assign(last.self, { node: last.host('h3').node, host: last.host('h3').id });
    const other = new AlertWatch({ node: last, leases, clock, version: '0.1.0' });
    other.look();
    nowMs += 5_000;
    other.look();
    expect(last.eventList).toEqual([]);
    expect(alertsOfAll(last).length).toBe(1);
  });

  test('a running copy is seen in what engines say', async () => {
    const text =
      'apiVersion: trellis/v1\nroles: { database: {} }\nservices: { db: { role: database, image: x, exclusive: true } }\n';
    node.host('h1').roles = ['database'];
    await runOperation(applyOperations, 'desired/apply', { text }, { node });
    const name = `service/prod/${node.envView().services.get('db')?.id ?? ''}`;
    leases.setFact('h2', { held: [{ name, epoch: 4, state: 'active' }] });
    node.setInstances('h3', [{ instance: 'db-0' }]);
    expect(found()).toEqual(['zombie:db on h3']);
  });

  test('facts of others that make no sense are passed over', () => {
    node.setFact('alerts', 'h2', { v: 1, alerts: [{ id: 7 }, null, 'x'] });
    node.setFact('alerts', 'h3', 'nonsense');
    expect(alertsOfAll(node)).toEqual([]);
  });
});

describe('alert ls and ack', () => {
  const run = <T>(name: string, given: object = {}, isLoggedOut = false): Promise<T> =>
    runOperation(alertOperations, name, given, { node, leases, isLoggedOut }) as Promise<T>;
  const raised = (kind: string, subject: string, sinceWallMs: number) => ({
    id: `${kind}:${subject}`,
    kind,
    subject,
    severity: 'alarm',
    text: `${kind} of ${subject}`,
    todo: 'look',
    sinceWallMs,
  });

  beforeEach(() => {
    node.setFact('alerts', 'h1', { v: 1, alerts: [raised('no-quorum', 'prod', 2_000)] });
    node.setFact('alerts', 'h2', {
      v: 1,
      alerts: [raised('no-quorum', 'prod', 1_000), raised('daemon-down', 'h3', 3_000)],
    });
  });

  test('one row for each, whoever reports it; dead hosts report nothing', async () => {
    const rows = await run<AlertRow[]>('alert/ls');
    expect(rows.map((row) => [row.id, row.since, row.reportedBy])).toEqual([
      ['no-quorum:prod', new Date(1_000).toISOString(), ['h1', 'h2']],
      ['daemon-down:h3', new Date(3_000).toISOString(), ['h2']],
    ]);
    node.host('h2').liveness = 'dead';
    expect((await run<AlertRow[]>('alert/ls')).map((row) => row.id)).toEqual(['no-quorum:prod']);
  });

  test('an acknowledgement is an edit; the alert is no difference any more, until it comes back', async () => {
    const differences = () => statusOf(node, 1_000, leases).differences.join('\n');
    expect(differences()).toContain('alert daemon-down:h3');
    const answer = await run<{ acknowledged: string[] }>('alert/ack', { id: 'daemon' });
    expect(answer.acknowledged).toEqual(['daemon-down:h3']);
    expect(differences()).not.toContain('daemon-down');
    const row = (await run<AlertRow[]>('alert/ls'))[1];
    expect(row?.acknowledged).toMatchObject({ operator: 'ada' });
    const later = Date.now() + 3_600_000;
    node.setFact('alerts', 'h2', { v: 1, alerts: [raised('daemon-down', 'h3', later)] });
    expect(differences()).toContain('alert daemon-down:h3');
    expect(
      (await run<{ acknowledged: string[] }>('alert/ack', { all: true })).acknowledged.length,
    ).toBe(2);
    expect((await run<{ hash: null }>('alert/ack', { all: true })).hash).toBe(null);
  });

  test('bad input', async () => {
    await expect(run('alert/ack')).rejects.toMatchObject({ code: 'USAGE' });
    await expect(run('alert/ack', { id: 'nope' })).rejects.toMatchObject({ code: 'NOT_FOUND' });
    node.setFact('alerts', 'h3', { v: 1, alerts: [raised('daemon-down', 'h4', 1)] });
    await expect(run('alert/ack', { id: 'daemon-down' })).rejects.toMatchObject({
      code: 'AMBIGUOUS',
    });
    await expect(run('alert/ack', { all: true }, true)).rejects.toMatchObject({
      code: 'LOGIN_REQUIRED',
    });
  });
});
