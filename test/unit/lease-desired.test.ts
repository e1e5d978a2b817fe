/** What the daemon tells its guard, and what it makes of what others say. */
import { describe, expect, test } from 'vitest';
import type { ClusterId, HostId, NodeId, ObjectId } from '../../crdt/ids.ts';
import { leaseDefaults, placementDefault } from '../../crdt/lease-leaves.ts';
import type { HostView, LeaseFact, PlanHost, PlanInputs, Service } from '../../crdt/model.ts';
import { guardDesired, leaseOutlooks } from '../../daemon/lease-desired.ts';
import type { LeaseDesiredInput } from '../../daemon/lease-desired.ts';
import { holdersOf, leaseFactOf, newestChosen, readLeaseFact } from '../../daemon/lease-facts.ts';
import { LeaseMoves, moveRetryMs, movesPerHourMax } from '../../daemon/lease-moves.ts';
import type { MoveInput } from '../../daemon/lease-moves.ts';
import type { GuardStatus, LeaseStatus } from '../../daemon/lease/guard-api.ts';
import type { ChosenConfig } from '../../daemon/lease/model.ts';

const [h1, h2, h3] = ['1', '2', '3'].map((digit) => digit.repeat(32)) as [HostId, HostId, HostId];
const clusterId = 'c1a2b3c4d5e6f708192a3b4c5d6e7f80' as ClusterId;
const dbId = '00000000000000aa' as ObjectId;
const db = `service/prod/${dbId}`;

function service(changes: Partial<Service> = {}): Service {
  return {
    id: dbId,
    name: 'db',
    source: 'f',
    role: 'data',
    image: 'i',
    command: [],
    count: { perRole: { min: 1, max: 1 } },
    ports: [],
    env: {},
    resources: {},
    dependsOn: [],
    placement: { policy: 'order', where: {}, hosts: ['h1', 'h2', 'h3'] },
    isExclusive: true,
    onIsolation: 'keep',
    stopGraceMs: 1_000,
    isEnabled: true,
    restarts: 0,
    ...changes,
  };
}

function planHost(id: HostId, name: string, changes: Partial<PlanHost> = {}): PlanHost {
  const size = { cpu: 2, memoryBytes: 1 << 30 };
  return {
    id,
    name,
    roles: ['data'],
    meta: {},
    isAlive: true,
    isDrained: false,
    ...size,
    ...changes,
  };
}

function hostView(id: HostId, name: string): HostView {
  return {
    id,
    node: id.repeat(2) as unknown as NodeId,
    name,
    env: 'prod',
    roles: ['data'],
    meta: {},
    liveness: 'alive',
    isDrained: false,
    capacity: null,
    address: '10.0.0.1',
  };
}

function inputs(services: readonly Service[], hosts?: readonly PlanHost[]): PlanInputs {
  return {
    v: 1,
    env: 'prod',
    roles: [],
    services,
    hosts: hosts ?? [planHost(h1, 'h1'), planHost(h2, 'h2'), planHost(h3, 'h3')],
    numbers: [],
    previous: [],
  };
}

function input(changes: Partial<LeaseDesiredInput> = {}): LeaseDesiredInput {
  return {
    clusterId,
    env: 'prod',
    self: h1,
    inputs: inputs([service()]),
    view: {
      services: new Map([['db', service()]]),
      storage: new Map(),
      hosts: new Map(),
      isFrozen: false,
    },
    hosts: [hostView(h1, 'h1'), hostView(h2, 'h2'), hostView(h3, 'h3')],
    addresses: new Map([[h2, ['10.0.0.2', 'fd00::2']]]),
    leaseFacts: [],
    storageFacts: new Map(),
    load: new Map(),
    holders: new Map(),
    ownHeld: new Set(),
    ownChosen: null,
    isFounder: false,
    votersWanted: null,
    engine: 'ok',
    gateFault: null,
    startFailures: new Map(),
    unready: new Map(),
    failingProbes: [],
    isLeaving: false,
    containers: new Map([['db', ['172.16.0.2']]]),
    ...changes,
  };
}

const leaseIn = (changes: Partial<LeaseDesiredInput>, name = db) =>
  guardDesired(input(changes)).leases.find((lease) => lease.name === name);

function fact(changes: Partial<LeaseFact> = {}): LeaseFact {
  return {
    v: 1,
    leasePort: 7441,
    chosen: null,
    hasQuorum: true,
    gateFault: null,
    held: [],
    unfit: [],
    ...changes,
  };
}

function chosen(n: number, generation = 0): ChosenConfig {
  const config = {
    env: 'prod',
    n,
    prevHash: '',
    generation,
    voters: [h1],
    ttlMsMax: 5_000,
    floors: [],
    floorRest: 0,
  };
  return { config, electorate: [], votes: [] };
}

describe('what a guard is told', () => {
  test('every lease with its candidates in order, its gate, and the planner', () => {
    const desired = guardDesired(input());
    expect(desired.leases.map(({ name }) => name)).toEqual(['planner/prod', db]);
    expect(leaseIn({})).toMatchObject({
      title: 'service db',
      profile: 'fast',
      candidates: [h1, h2, h3],
      mayAcquire: true,
      why: '',
      gate: `trellis-x-${clusterId.slice(0, 8)}-${dbId.slice(0, 12)}-111111`,
      traffic: ['172.16.0.2'],
    });
    const planner = leaseIn({}, 'planner/prod');
    expect(planner).toMatchObject({ gate: null, mayAcquire: true });
    expect([...(planner?.candidates ?? [])].toSorted()).toEqual([h1, h2, h3]);
  });

  test('nothing was committed yet: the planner alone', () => {
    const { leases } = guardDesired(input({ inputs: null }));
    expect(leases.map(({ name }) => name)).toEqual(['planner/prod']);
  });

  test.each([
    [{ engine: 'hung' as const }, 'the container engine is hung'],
    [{ gateFault: 'no freezer' }, 'exclusive work cannot be fenced here: no freezer'],
    [{ startFailures: new Map([[db, 'exit code 1']]) }, 'it did not start here: exit code 1'],
    [{ unready: new Map([[db, 'trellis-db is not made yet']]) }, 'trellis-db is not made yet'],
    [{ failingProbes: ['disk'] }, 'failing here: disk'],
    [{ isLeaving: true }, 'this host: it leaves the cluster'],
    [{ inputs: inputs([service({ isEnabled: false })]) }, 'db is stopped'],
    [
      { inputs: inputs([service()], [planHost(h1, 'h1', { roles: [] }), planHost(h2, 'h2')]) },
      'this host has no role data',
    ],
    [
      {
        inputs: inputs([service()], [planHost(h1, 'h1', { isDrained: true }), planHost(h2, 'h2')]),
      },
      'this host is drained',
    ],
  ])('this host would not take it: %j', (changes, why) => {
    expect(leaseIn(changes)).toMatchObject({
      mayAcquire: false,
      why: expect.stringContaining(why),
    });
  });

  test('what is held is not given up because its container is being made anew', () => {
    const changes = { ownHeld: new Set([db]), unready: new Map([[db, 'being made']]) };
    expect(leaseIn(changes)).toMatchObject({ mayAcquire: true });
  });

  test('a host that may not have it has no gate for it', () => {
    const roles = [planHost(h1, 'h1', { roles: [] }), planHost(h2, 'h2')];
    expect(leaseIn({ inputs: inputs([service()], roles) })).toMatchObject({
      gate: null,
      traffic: [],
      candidates: [h2],
    });
  });

  test('freezes take effect without a commit, and end without one', () => {
    const frozen = service({ lease: { ...leaseDefaults, isFrozen: true } });
    const view = { ...input().view, services: new Map([['db', frozen]]) };
    expect(leaseIn({ view })).toMatchObject({ isFrozen: true, mayAcquire: true });
    expect(leaseIn({ inputs: inputs([frozen]) })).toMatchObject({ isFrozen: false });
    const hosts = new Map([[h1, { roles: {}, meta: {}, isDrained: false, isFrozen: true }]]);
    expect(guardDesired(input({ view: { ...input().view, hosts } }))).toMatchObject({
      isFrozen: true,
    });
  });

  test('what is held and wanted no more is listed until it is given up, on every host', () => {
    const holders = new Map([[db, { host: h2, epoch: 4 }]]);
    const gone = { inputs: inputs([]), holders };
    expect(leaseIn(gone)).toMatchObject({ candidates: [h2], mayAcquire: false, gate: null });
    expect(leaseIn({ ...gone, self: h2, ownHeld: new Set([db]) })?.gate).toMatch(/-222222$/);
    expect(leaseIn({ ...gone, holders: new Map() })).toBeUndefined();
    const dead = [hostView(h1, 'h1'), { ...hostView(h2, 'h2'), liveness: 'dead' as const }];
    expect(leaseIn({ ...gone, hosts: dead })).toBeUndefined();
  });

  test('a host whose metadata says witness only votes', () => {
    expect(guardDesired(input()).isWitness).toBe(false);
    const hosts = input().hosts.map((host) =>
      host.id === h1 ? { ...host, meta: { witness: 'true' } } : host,
    );
    expect(guardDesired(input({ hosts })).isWitness).toBe(true);
  });

  test('peers are reached at all their addresses, at the port that they say or the default', () => {
    const facts = [{ host: h2, fact: fact({ leasePort: 7999 }) }];
    const { peers } = guardDesired(input({ leaseFacts: facts }));
    expect(peers.map(({ host }) => host)).toEqual([h2, h3]);
    expect(peers[0]?.addresses).toEqual(['10.0.0.2:7999', '[fd00::2]:7999']);
    expect(guardDesired(input()).peers[0]?.addresses[0]).toBe('10.0.0.2:7441');
  });

  test('voters are said by the holder of the planner alone; the newest configuration by everybody', () => {
    expect(guardDesired(input({ votersWanted: [h1] })).votersWanted).toBeNull();
    const ownHeld = new Set(['planner/prod']);
    expect(guardDesired(input({ votersWanted: [h1], ownHeld })).votersWanted).toEqual([h1]);
    const facts = [{ host: h2, fact: fact({ chosen: chosen(3) }) }];
    const known = { leaseFacts: facts, ownChosen: chosen(2) };
    expect(guardDesired(input(known)).chosen?.config.n).toBe(3);
  });

  test('a copy that lags is no candidate, unless there is no copy at all', () => {
    const storage = {
      id: '00000000000000bb' as ObjectId,
      name: 'data',
      source: 'f',
      role: 'data',
      driver: 'sync' as const,
      path: '/srv/db',
      isExclusive: true,
      placement: placementDefault,
    };
    const { isExclusive: _, ...rest } = service({ follows: 'data' });
    const wanted = { ...inputs([rest]), storage: [storage] };
    const name = `storage/prod/${storage.id}`;
    const copyOf = (epoch: number, isInSync: boolean) => ({
      v: 1 as const,
      storage: [
        {
          name: 'data',
          id: storage.id,
          state: 'replica' as const,
          epoch,
          version: 1,
          lagMs: 0,
          isInSync,
          bytes: 0,
          reason: null,
        },
      ],
    });
    expect(leaseIn({ inputs: wanted }, name)?.mayAcquire).toBe(true);
    const storageFacts = new Map([
      [h1, copyOf(2, false)],
      [h2, copyOf(2, true)],
    ]);
    const lease = leaseIn({ inputs: wanted, storageFacts }, name);
    expect(lease).toMatchObject({ candidates: [h2], mayAcquire: false });
    expect(lease?.why).toContain('in sync');
    // An operator may prefer an old copy to none: it has a gate, and acceptors are told.
    expect(lease).toMatchObject({ gate: expect.stringContaining('trellis-x-') });
    expect(lease?.forceable).toContain(h1);
    expect(lease?.forceable).not.toContain(h2);
    expect(leaseIn({ inputs: wanted }, name)?.forceable).toBeUndefined();
  });
});

describe('what hosts say', () => {
  const lease = (changes: Partial<LeaseStatus>): LeaseStatus => ({
    name: db,
    title: 'service db',
    state: 'idle',
    epoch: 3,
    holder: null,
    remainMs: null,
    gate: 'closed',
    profile: 'fast',
    onLoss: 'stop',
    candidates: [h1, h2],
    mayAcquire: true,
    why: '',
    history: [],
    ...changes,
  });
  const status = (leases: readonly LeaseStatus[]) =>
    ({ chosen: null, hasQuorum: true, gateFault: null, leases }) as unknown as GuardStatus;

  test('what is held, and what a candidate would not take', () => {
    const leases = [
      lease({ state: 'active' }),
      lease({ name: 'a', mayAcquire: false, why: 'the container engine is hung' }),
      lease({ name: 'b', mayAcquire: false, why: 'no role', candidates: [h2] }),
    ];
    const said = leaseFactOf(status(leases), 7441, h1);
    expect(said.held).toEqual([{ name: db, epoch: 3, state: 'active' }]);
    expect(said.unfit).toEqual([{ name: 'a', why: 'the container engine is hung' }]);
    expect(readLeaseFact(structuredClone(said))).toEqual(said);
    expect(leaseFactOf(null, 0, h1)).toMatchObject({ leasePort: 0, gateFault: 'no guard runs' });
  });

  test('the highest epoch counts, and what makes no sense is as if it had not been said', () => {
    const holders = holdersOf([
      { host: h1, fact: fact({ held: [{ name: db, epoch: 3, state: 'active' }] }) },
      { host: h2, fact: fact({ held: [{ name: db, epoch: 4, state: 'active' }] }) },
    ]);
    expect(holders.get(db)).toEqual({ host: h2, epoch: 4 });
    expect(readLeaseFact({ v: 2, leasePort: 1 })).toBeNull();
    expect(readLeaseFact({ v: 1, leasePort: 70_000 })).toBeNull();
    const odd = { v: 1, leasePort: 1, held: [{ name: 7 }, null], chosen: { config: {} }, unfit: 3 };
    expect(readLeaseFact(odd)).toMatchObject({ held: [], unfit: [], chosen: null });
  });

  test('a generation beats any number, and another environment says nothing', () => {
    expect(newestChosen([chosen(9), chosen(1, 1), null], 'prod')?.config.generation).toBe(1);
    expect(newestChosen([chosen(9)], 'dev')).toBeNull();
  });
});

describe('moving what is well', () => {
  const decide = (
    moves: LeaseMoves,
    nowMs: number,
    changes: Partial<LeaseDesiredInput>,
    more: Partial<MoveInput> = {},
  ) =>
    moves.decide({
      nowMs,
      self: changes.self ?? h1,
      outlooks: leaseOutlooks(input({ ownHeld: new Set([db]), ...changes })),
      active: new Set([db]),
      isFit: () => true,
      isFrozen: false,
      ...more,
    });
  const preempting = (afterMs: number | null) =>
    inputs([service({ lease: { ...leaseDefaults, preemptAfterMs: afterMs } })]);

  test('a drained holder hands over to the best that would take it, and asks again later', () => {
    const hosts = [planHost(h1, 'h1', { isDrained: true }), planHost(h2, 'h2'), planHost(h3, 'h3')];
    const drained = { inputs: inputs([service()], hosts) };
    const moves = new LeaseMoves();
    const isFit = (host: HostId): boolean => host === h3;
    expect(decide(moves, 0, drained, { isFit: () => false })).toEqual([]);
    expect(decide(moves, 0, drained, { isFit })).toEqual([
      { kind: 'switch', lease: db, to: h3, reason: 'its holder is drained' },
    ]);
    expect(decide(moves, moveRetryMs - 1, drained, { isFit })).toEqual([]);
    expect(decide(moves, moveRetryMs, drained, { isFit })).toHaveLength(1);
    expect(decide(new LeaseMoves(), 0, drained, { isFit, isFrozen: true })).toEqual([]);
  });

  test('what was stopped is given up', () => {
    const stopped = { inputs: inputs([service({ isEnabled: false })]) };
    expect(decide(new LeaseMoves(), 0, stopped)).toMatchObject([{ kind: 'release', lease: db }]);
  });

  test('a better candidate takes over after its time only, and not too often', () => {
    const moves = new LeaseMoves();
    expect(decide(new LeaseMoves(), 0, { self: h2, inputs: preempting(null) })).toEqual([]);
    const better = { self: h2, inputs: preempting(1_000) };
    expect(decide(moves, 0, better)).toEqual([]);
    expect(decide(moves, 999, better)).toEqual([]);
    expect(decide(moves, 1_000, better)).toMatchObject([{ kind: 'switch', to: h1 }]);
    // Gone for a moment: its time begins anew.
    expect(decide(moves, 20_000, better, { isFit: (host) => host !== h1 })).toEqual([]);
    expect(decide(moves, 20_500, better)).toEqual([]);
    const asked = Array.from({ length: 20 }, (_, index) =>
      decide(moves, 30_000 + index * moveRetryMs, better),
    ).flat();
    expect(asked).toHaveLength(movesPerHourMax - 1);
  });
});
