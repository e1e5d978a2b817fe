/** The small parts around the node: whose events are whose, names of hosts, views, introductions, the gateway. */
import { describe, expect, test } from 'vitest';
import { TrellisDocument } from '../../crdt/document.ts';
import type { ObjectId, HostId, NodeId, SessionId } from '../../crdt/ids.ts';
import type { HostSettings, HostView } from '../../crdt/model.ts';
import { EnvViews } from '../../daemon/env-views.ts';
import { Events } from '../../daemon/events.ts';
import { Introductions } from '../../daemon/introductions.ts';
import { defaultGateway } from '../../daemon/net/gateway.ts';
import type { EventEntry, FactEntry, MemberInfo } from '../../daemon/node-api.ts';
import { resolvePaths } from '../../daemon/paths.ts';
import { buildHostViews, effectiveRoles } from '../../daemon/replication/host-views.ts';
import { listHistory } from '../../daemon/replication/history.ts';
import type { MemberEntry } from '../../daemon/replication/roster.ts';
import { ManualClock } from './reconcile/manual-clock.ts';
import { World } from './replication/replicas.ts';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const [self, peer, stranger] = ['a', 'b', 'c'].map((digit) => digit.repeat(64)) as [
  NodeId,
  NodeId,
  NodeId,
];

describe('events', () => {
  const event = { kind: 'x', severity: 'info' as const, text: 'said' };
  const fact = (owner: NodeId, value: unknown): FactEntry => ({
    owner,
    topic: 'events',
    value,
    ageMs: 0,
  });
  const hostOf = (owner: NodeId): string | null => (owner === stranger ? null : `of ${owner[0]}`);

  test('the newest are kept, numbers never go back over restarts', () => {
    const events = new Events(3, 7_000_000);
    for (let count = 0; count < 5; count++) events.add('me', event, count + 0.4);
    expect(events.own().map(({ seq, atWallMs }) => [seq, atWallMs])).toEqual([
      [7_000_003, 2],
      [7_000_004, 3],
      [7_000_005, 4],
    ]);
  });

  test('events of others bear the name of who signed them, whatever they say; garbage is left out', () => {
    const events = new Events(3, 0);
    events.add('of a', event, 5);
    const others: EventEntry[] = [9, 1].map((atWallMs) => ({
      ...event,
      host: 'of a',
      seq: 1,
      atWallMs,
    }));
    const bad = [
      null,
      5,
      {},
      { ...others[0], severity: 'loud' },
      { ...others[0], atWallMs: Number.NaN },
    ];
    const facts = [
      fact(peer, [...bad, ...others]),
      fact(stranger, others),
      fact(peer, 'x'),
      fact(self, others),
    ];
    const all = events.all(facts, self, hostOf);
    expect(all.map(({ host, atWallMs }) => [host, atWallMs])).toEqual([
      ['of b', 1],
      ['of a', 5],
      ['of b', 9],
    ]);
  });

  test('one host cannot crowd out the others', () => {
    const events = new Events(3, 0);
    const many = Array.from({ length: 500 }, (_, seq) => ({
      ...event,
      host: '',
      seq,
      atWallMs: seq,
    }));
    expect(events.all([fact(peer, many)], self, hostOf)).toHaveLength(3);
  });
});

describe('host views', () => {
  const id = (text: string): HostId => text.padEnd(32, '0') as HostId;
  const member = (host: HostId, name: string): MemberEntry =>
    ({
      node: `${host}${host}` as NodeId,
      host,
      hash: '',
      record: { name, env: 'prod', roles: ['web'], meta: { rack: 'a' } },
    }) as unknown as MemberEntry;
  const build = (
    members: readonly MemberEntry[],
    facts: Record<string, unknown> = {},
    settings: HostSettings | null = null,
  ): readonly HostView[] =>
    buildHostViews({
      members,
      settings: () => settings,
      fact: (topic) => facts[topic] ?? null,
      liveness: () => 'alive',
    });

  test('twins are told apart, the lowest id keeps the name, and no made name is that of another', () => {
    const members = [
      member(id('1'), 'web'),
      member(id('abcd1'), 'web'),
      member(id('abcd2'), 'web'),
      member(id('f'), 'web-abcd'),
    ];
    const expected = [
      ['web', id('1')],
      ['web-abcd', id('f')],
      ['web-abcd1000', id('abcd1')],
      ['web-abcd2000', id('abcd2')],
    ];
    for (const order of [members, members.toReversed()])
      expect(build(order).map((view) => [view.name, view.id])).toEqual(expected);
  });

  test('what operators set goes before what the host was admitted with', () => {
    const settings: HostSettings = {
      name: 'renamed',
      roles: { web: false, db: true },
      meta: { rack: 'b' },
      isDrained: true,
    };
    expect(build([member(id('1'), 'web')], {}, settings)).toMatchObject([
      { name: 'renamed', roles: ['db'], meta: { rack: 'b' }, isDrained: true },
    ]);
    expect(effectiveRoles(['b', 'a'], {})).toEqual(['a', 'b']);
  });

  test('what a host says of itself is taken only as far as it makes sense', () => {
    const view = (facts: Record<string, unknown>) => build([member(id('1'), 'web')], facts)[0];
    expect(view({ host: 5, inventory: 'x' })).toMatchObject({ address: null, capacity: null });
    const wild = { cpu: { count: -1 }, memory: { totalBytes: Number.POSITIVE_INFINITY } };
    expect(view({ inventory: wild })?.capacity).toBeNull();
    for (const advertise of ['10.0.0.1\n-A INPUT', 'host', '', 5, {}])
      expect(view({ host: { advertise } })?.address).toBeNull();
    expect(view({ host: { advertise: '10.0.0.1' } })?.address).toBe('10.0.0.1');
    const memory = (totalBytes: number) => ({ cpu: { count: 2 }, memory: { totalBytes } });
    expect(view({ inventory: memory(2 ** 30 + 5) })?.capacity).toEqual(
      view({ inventory: memory(2 ** 30 + 60 * 2 ** 20) })?.capacity,
    );
  });
});

describe('views of environments', () => {
  const object = 'a'.repeat(16) as ObjectId;
  const write = (document: TrellisDocument): void => {
    document.edit('ab'.repeat(16) as SessionId, 'm', [
      { object: 'settings', pointer: '/autoApply', value: 'off' },
      { object, pointer: '/unused', value: 1 },
    ]);
  };

  test('are built once and again only after a change, also when the document was replaced', () => {
    let document = new TrellisDocument(null);
    const views = new EnvViews(() => document);
    const empty = views.view('prod');
    expect(views.view('prod')).toBe(empty);
    write(document);
    expect(views.view('prod')).toBe(empty);
    views.invalidate('cluster', null);
    views.invalidate('env/other', null);
    expect(views.view('prod')).toBe(empty);
    views.invalidate('env/prod', new Set(['settings' as const, object]));
    expect(views.view('prod').autoApply).toBe('off');
    document = new TrellisDocument(null);
    views.invalidate('env/prod', new Set([object]));
    views.invalidate('env/prod', null);
    expect(views.view('prod').autoApply).toBe('safe');
  });
});

describe('introductions', () => {
  const info = (node: string, isConnected: boolean): MemberInfo =>
    ({ node: node as NodeId, isConnected }) as MemberInfo;

  function world() {
    const clock = new ManualClock();
    const asked: string[] = [];
    const introductions = new Introductions({
      clock,
      log: silent,
      introduce: (node) => {
        asked.push(node);
        return Promise.reject(new Error('nobody there'));
      },
    });
    return { clock, asked, introductions };
  }

  test('a member that stays away is shown our chain after a while, again now and then, until it is here', async () => {
    const { clock, asked, introductions } = world();
    introductions.look([info('a', true), info('b', false)]);
    introductions.look([info('a', true), info('b', false)]);
    await clock.advance(4_999);
    expect(asked).toEqual([]);
    await clock.advance(1);
    expect(asked).toEqual(['b']);
    await clock.advance(120_000);
    expect(asked).toEqual(['b', 'b', 'b']);
    introductions.look([info('b', true)]);
    await clock.advance(200_000);
    expect(asked).toHaveLength(3);
    expect(clock.pending()).toEqual([]);
  });

  test('only so many wait at once, and none after the end', async () => {
    const { clock, asked, introductions } = world();
    introductions.look(Array.from({ length: 500 }, (_, at) => info(`n${at}`, false)));
    expect(clock.pending()).toHaveLength(64);
    introductions.stop();
    await clock.advance(100_000);
    expect(asked).toEqual([]);
  });

  test('those who never answer do not keep others from their turn', async () => {
    const { clock, asked, introductions } = world();
    introductions.look(Array.from({ length: 150 }, (_, at) => info(`n${at}`, false)));
    await clock.advance(16_000);
    expect(new Set(asked).size).toBe(150);
    await clock.advance(600_000);
    const times = new Map<string, number>();
    for (const node of asked) times.set(node, (times.get(node) ?? 0) + 1);
    expect(Math.min(...times.values())).toBeGreaterThan(1);
    expect(clock.pending()).toHaveLength(64);
  });
});

describe('the default gateway', () => {
  const head = 'Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n';
  const route = (destination: string, gateway: string, metric: number, mask = '00000000'): string =>
    `eth0\t${destination}\t${gateway}\t0003\t0\t0\t${metric}\t${mask}\t0\t0\t0   \n`;

  test.each<[string, string, string | null]>([
    [
      'of a usual table',
      head + route('00000000', '0101A8C0', 0) + route('0001A8C0', '00000000', 0, '00FFFFFF'),
      '192.168.1.1',
    ],
    [
      'with the lowest metric',
      head + route('00000000', '0102A8C0', 600) + route('00000000', '0101A8C0', 100),
      '192.168.1.1',
    ],
    ['not half of everything', head + route('00000000', '0102A8C0', 0, '00000080'), null],
    ['not a link without one', head + route('00000000', '00000000', 0), null],
    ['of an empty table', head, null],
    ['of nonsense', 'x\n00000000 zz\n\t\t\t\n', null],
  ])('%s', (_, table, expected) => {
    expect(defaultGateway(() => table)).toBe(expected);
  });

  test('where there is no such table there is none, and no crash', () => {
    const missing = (): never => {
      throw new Error('ENOENT');
    };
    expect(defaultGateway(missing)).toBeNull();
  });
});

describe('paths', () => {
  const of = (env: Record<string, string>, isRoot = false, state: string | null = null) =>
    resolvePaths(env, { state, isRoot, home: '/home/me' });

  test.each<[string, ReturnType<typeof of>, [string, string, string]]>([
    ['root', of({}, true), ['/var/lib/trellis', '/run/trellis', '/run/trellis/trellis.sock']],
    [
      'a user',
      of({}),
      [
        '/home/me/.local/state/trellis',
        '/home/me/.local/state/trellis/run',
        '/home/me/.local/state/trellis/run/trellis.sock',
      ],
    ],
    [
      'a user with directories',
      of({ XDG_STATE_HOME: '/s', XDG_RUNTIME_DIR: '/r' }),
      ['/s/trellis', '/r/trellis', '/r/trellis/trellis.sock'],
    ],
    [
      'the option before the variable',
      of({ TRELLIS_STATE: '/v' }, true, '/o'),
      ['/o', '/run/trellis', '/run/trellis/trellis.sock'],
    ],
    [
      'a socket of one’s own',
      of({ TRELLIS_SOCKET: '/x/y.sock' }, true),
      ['/var/lib/trellis', '/x', '/x/y.sock'],
    ],
    [
      'everything',
      of({ TRELLIS_STATE: '/a', TRELLIS_RUN: '/b', TRELLIS_SOCKET: '/c/d' }),
      ['/a', '/b', '/c/d'],
    ],
    [
      'empty variables',
      of({ TRELLIS_STATE: '', TRELLIS_RUN: '', XDG_RUNTIME_DIR: '' }, true),
      ['/var/lib/trellis', '/run/trellis', '/run/trellis/trellis.sock'],
    ],
  ])('%s', (_, { state, run, socket }, expected) => {
    expect([state, run, socket]).toEqual(expected);
  });
});

describe('history', () => {
  test('no document crowds out another, and the newest come first', async () => {
    const world = new World(1);
    const one = world.peer(0);
    const login = one.login();
    for (let count = 0; count < 30; count++) {
      world.nowMs = count;
      await one.edit(login, [{ object: 'settings', pointer: '/c', value: count }], 'cluster');
    }
    for (let count = 0; count < 5; count++) {
      world.nowMs = 100 + count;
      await one.edit(login, [
        { object: 'a'.repeat(16) as ObjectId, pointer: '/image', value: count },
      ]);
    }
    const newest = listHistory(one.replica, { max: 10 });
    expect(newest.map((entry) => entry.doc)).toEqual([
      ...Array.from({ length: 5 }, () => 'env/prod'),
      ...Array.from({ length: 5 }, () => 'cluster'),
    ]);
    expect(newest[0]).toMatchObject({ operator: 'admin', atWallMs: 104 });
    expect(listHistory(one.replica, { max: 10, pointerPrefix: '/image' })).toHaveLength(5);
  });
});
