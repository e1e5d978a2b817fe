import { describe, expect, test } from 'vitest';
import type { PlanHost, PlanInputs, Service } from '../../../crdt/model.ts';
import { inputHash, plan } from '../../../daemon/plan/plan.ts';
import { diffPlans } from '../../../daemon/plan/plan-diff.ts';
import {
  hostId,
  hostOf,
  inputsOf,
  roleOf,
  serviceOf,
  sha256,
  storageOf,
} from '../../property/plan/plan-arbitraries.ts';

const perRole = (n: number) => ({ count: { perRole: { min: n, max: n } } });
const perHost = (n: number) => ({ count: { perHost: { min: n, max: n } } });
const hosts = (n: number, more: Partial<PlanHost> = {}) =>
  Array.from({ length: n }, (_, i) => hostOf(i, more));

function planned(services: Service[], on: PlanHost[], more: Partial<PlanInputs> = {}) {
  const result = plan(inputsOf(services, on, more), sha256);
  const nameOf = new Map(on.map((host) => [host.id, host.name]));
  return {
    ...result,
    places: result.placements.map((p) => `${p.serviceName}-${p.slot}@${nameOf.get(p.host)}`),
  };
}

describe('plan', () => {
  test('[trellis:P6] perHost runs one on every host of the role, named after the host', () => {
    const id = (n: number) => hostId(n).slice(0, 6);
    const { places } = planned([serviceOf(0, perHost(1))], [...hosts(2), hostOf(2, { roles: [] })]);
    expect(places.toSorted()).toEqual([`s0-${id(0)}-0@h0`, `s0-${id(1)}-0@h1`].toSorted());
  });

  test('[trellis:P9] perRole raised from 4 to 8 adds four and moves none', () => {
    const four = planned([serviceOf(0, perRole(4))], hosts(4));
    const eight = planned([serviceOf(0, perRole(8))], hosts(4), { previous: four.placements });
    expect(eight.places).toEqual(expect.arrayContaining(four.places));
    expect(eight.places).toHaveLength(8);
    for (const host of ['h0', 'h1', 'h2', 'h3'])
      expect(eight.places.filter((p) => p.endsWith(host))).toHaveLength(2);
  });

  test('[trellis:P10] pack fills one host, spread uses all', () => {
    const small = { ...perRole(3), resources: { cpu: 0.5 } };
    const pack = planned([serviceOf(0, { ...small, placement: { policy: 'pack' } })], hosts(3));
    expect(new Set(pack.placements.map((p) => p.host)).size).toBe(1);
    expect(
      new Set(planned([serviceOf(0, small)], hosts(3)).placements.map((p) => p.host)).size,
    ).toBe(3);
  });

  test('[trellis:P15] what fits nowhere says why for every host and disturbs nothing', () => {
    const fine = serviceOf(1, perRole(2));
    const big = serviceOf(0, { ...perRole(1), resources: { cpu: 8 } });
    const on = [
      hostOf(0),
      hostOf(1, { roles: [] }),
      hostOf(2, { isAlive: false }),
      hostOf(3, { isDrained: true }),
    ];
    const result = planned([big, fine], on);
    expect(result.places).toHaveLength(2);
    expect(result.unplaceable).toEqual([
      {
        service: 's0',
        slot: '0',
        perHost: [
          { host: 'h0', reason: 'needs 8 processors, has 4 left' },
          { host: 'h2', reason: 'does not answer' },
          { host: 'h3', reason: 'is drained' },
          { host: 'h1', reason: 'has no role web' },
        ],
      },
    ]);
  });

  test('a drain empties a host of what may move, and says what stays and why', () => {
    const services = [
      serviceOf(0, perRole(2)),
      serviceOf(1, { ...perRole(2), relocatable: 'no' }),
      serviceOf(2, perHost(1)),
    ];
    const before = planned(services, hosts(2));
    const drained = [hostOf(0, { isDrained: true }), hostOf(1)];
    const after = planned(services, drained, { previous: before.placements });
    expect(after.places.filter((p) => p.endsWith('h0'))).toEqual([expect.stringContaining('s1-')]);
    expect(after.warnings).toEqual([
      's1 stays on h0 although the host is drained: it may not be moved',
    ]);
    const alone = planned(services.slice(0, 1), [hostOf(0, { isDrained: true })], {
      previous: before.placements,
    });
    expect(alone.places).toContain('s0-0@h0');
    expect(alone.warnings).toEqual(['s0 stays on h0: no other host can take it']);
  });

  test('[trellis:P12] on a host that shrank only relocatable: yes moves; nothing is stopped', () => {
    const big = { ...perRole(1), resources: { cpu: 3 } };
    for (const [relocatable, moves] of [
      ['yes', true],
      ['careful', false],
      ['no', false],
      [undefined, false],
    ] as const) {
      const service = serviceOf(0, {
        ...big,
        ...(relocatable === undefined ? {} : { relocatable }),
      });
      const before = planned([service], [hostOf(0), hostOf(1, { cpu: 1 })]);
      expect(before.places).toEqual(['s0-0@h0']);
      const after = planned([service], [hostOf(0, { cpu: 1 }), hostOf(1)], {
        previous: before.placements,
      });
      expect(after.places).toEqual([moves ? 's0-0@h1' : 's0-0@h0']);
      expect(after.warnings).toHaveLength(moves ? 0 : 1);
      const nowhere = planned([service], [hostOf(0, { cpu: 1 }), hostOf(1, { cpu: 1 })], {
        previous: before.placements,
      });
      expect(nowhere.places).toEqual(['s0-0@h0']);
    }
  });

  test('a dedicated role keeps its host to itself', () => {
    const on = [hostOf(0, { roles: ['lb', 'web'] }), hostOf(1)];
    const { places } = planned(
      [serviceOf(0, perHost(1)), serviceOf(1, { ...perHost(1), role: 'lb' })],
      on,
      {
        roles: [roleOf('lb', { isDedicated: true })],
      },
    );
    expect(places).toEqual([
      expect.stringMatching(/^s0-.*@h1$/),
      expect.stringMatching(/^s1-.*@h0$/),
    ]);
  });

  test('two instances with one fixed port are never on one host', () => {
    const { places, unplaceable } = planned(
      [serviceOf(0, { ...perRole(3), ports: [{ name: 'a', container: 1, host: 80 }] })],
      hosts(2),
    );
    expect(places).toHaveLength(2);
    expect(unplaceable[0]?.perHost[0]?.reason).toBe('port 80 is taken by s0');
  });

  test('a dead host keeps what it has, gets nothing new and is not called a shortage', () => {
    const before = planned([serviceOf(0, perHost(1))], hosts(1));
    const dead = hosts(2).map((host) => ({ ...host, isAlive: false }));
    const after = planned([serviceOf(0, perHost(1)), serviceOf(1, perHost(1))], dead, {
      previous: before.placements,
    });
    expect(after.places).toEqual(before.places);
    expect(after.unplaceable).toEqual([]);
  });

  test('[trellis:P24] a role with too few hosts is a warning', () => {
    expect(planned([], hosts(1), { roles: [roleOf('web', { minHosts: 2 })] }).warnings).toEqual([
      'role web wants 2 hosts and has 1',
    ]);
  });
});

test('[trellis:P22] differences come as steps with reasons', () => {
  const one = inputsOf([serviceOf(0, perRole(2)), serviceOf(1, perRole(1))], hosts(2));
  const first = { inputs: one, plan: plan(one, sha256) };
  const reasons = (a: typeof first | null, b: typeof first) =>
    diffPlans(a, b).map((s) => `${s.kind} ${s.service}-${s.slot} ${s.reason}`);
  expect(reasons(null, first)).toEqual([
    'start s0-0 the service is new',
    'start s0-1 the service is new',
    'start s1-0 the service is new',
  ]);
  expect(reasons(first, first)).toEqual([]);
  const two = {
    ...one,
    services: [serviceOf(0, { ...perRole(1), image: 'new' })],
    hosts: [hostOf(0, { isDrained: true }), hostOf(1)],
    previous: first.plan.placements,
  };
  const steps = reasons(first, { inputs: two, plan: plan(two, sha256) });
  expect(steps).toContain('stop s1-0 the service is gone');
  expect(steps).toContain('stop s0-1 fewer instances are wanted');
});

describe('what runs under a lease', () => {
  const exclusive = (n: number, more: Parameters<typeof serviceOf>[1] = {}) =>
    serviceOf(n, { isExclusive: true, ...more });
  const oneVote = 'one host votes on leases: while it is gone, nothing exclusive is taken over';

  test('[trellis:P8] has one place, slot 0, and keeps it whatever else changes', () => {
    const services = [exclusive(0), exclusive(1, perRole(3))];
    const first = planned(services, hosts(3));
    expect(first.placements.map((one) => one.slot)).toEqual(['0', '0']);
    expect(first.warnings).toEqual([]);
    const more = planned(services, hosts(9), { previous: first.placements });
    expect(more.places).toEqual(first.places);
    const dead = planned(services, hosts(3, { isAlive: false }), { previous: first.placements });
    expect(dead.places).toEqual(first.places);
  });

  test('[trellis:P36] follows its storage, all of it to one host, by the policy of any of them', () => {
    const storage = [storageOf(0, { placement: { policy: 'order', hosts: ['h2'], where: {} } })];
    const services = [exclusive(0, { follows: 'd0' }), serviceOf(1, { follows: 'd0' })];
    expect(planned(services, hosts(3), { storage }).places).toEqual(['s0-0@h2', 's1-0@h2']);
    const full = hosts(3).map((host) => ({ ...host, isDrained: host.name === 'h2' }));
    const moved = planned(services, full, { storage });
    expect(new Set(moved.placements.map((one) => one.host)).size).toBe(1);
    expect(moved.places[0]).not.toContain('h2');
  });

  test('goes from a drained host, unless there is no other', () => {
    const on = hosts(2);
    const [place] = planned([exclusive(0)], on).placements;
    const drained = on.map((host) => ({ ...host, isDrained: host.id === place?.host }));
    const moved = planned([exclusive(0)], drained, {
      previous: place === undefined ? [] : [place],
    });
    expect(moved.placements[0]?.host).not.toBe(place?.host);
    const alone = planned([exclusive(0)], [hostOf(0, { isDrained: true })], {
      previous: [{ service: serviceOf(0, {}).id, serviceName: 's0', slot: '0', host: hostId(0) }],
    });
    expect(alone.places).toEqual(['s0-0@h0']);
    expect(alone.warnings).toContain(
      'service s0 stays on h0 although it is drained: no other host can take it',
    );
  });

  test('is rather on a full host than on none, and says so', () => {
    const big = exclusive(0, { resources: { cpu: 3 } });
    const other = serviceOf(1, { ...perHost(1), resources: { cpu: 2 } });
    const result = planned([big, other], hosts(2), {
      previous: planned([other], hosts(2)).placements,
    });
    expect(result.places).toHaveLength(3);
    expect(result.warnings.join()).toMatch(/service s0 is on h\d although it needs 3 processors/);
  });

  test('[trellis:P15] that nobody may hold is unplaceable, with every host’s reason', () => {
    const on = [
      hostOf(0, { roles: [] }),
      hostOf(1, { isAlive: false }),
      hostOf(2, { isDrained: true }),
      hostOf(3, { cpu: 1 }),
    ];
    const result = planned([exclusive(0, { resources: { cpu: 2 } })], on);
    expect(result.unplaceable).toEqual([
      {
        service: 's0',
        slot: '0',
        perHost: [
          { host: 'h1', reason: 'does not answer' },
          { host: 'h0', reason: 'has no role web' },
          { host: 'h2', reason: 'is drained' },
          { host: 'h3', reason: 'has too few processors for it' },
        ],
      },
    ]);
  });

  test('two that share a host and want one port: the first has it, the other is told', () => {
    const ports = [{ name: 'http', container: 80, host: 8080 }];
    const services = [0, 1].map((n) => serviceOf(n, { follows: 'd0', ports }));
    const result = planned(services, hosts(3), { storage: [storageOf(0)] });
    expect(result.placements.map((one) => one.serviceName)).toEqual(['s0']);
    expect(result.unplaceable).toMatchObject([
      { service: 's1', perHost: [{ reason: 'port 8080 is taken by s0' }] },
    ]);
  });

  test('[trellis:P8] warnings say what cannot be survived: too few candidates, too few voters', () => {
    const only = exclusive(0, { placement: { where: { dc: 'east' } } });
    const on = [hostOf(0, { meta: { dc: 'east' } }), hostOf(1)];
    expect(planned([only], on).warnings).toEqual([
      oneVote,
      'service s0 can only be on h0: nothing takes over when that host is gone',
    ]);
    const storage = [storageOf(0, { role: 'db' })];
    expect(planned([], hosts(5), { storage }).warnings).toEqual([
      'storage d0: no host may hold its lease',
    ]);
    const voters = [0, 1].map(hostId);
    expect(planned([exclusive(0)], hosts(3), { voters }).warnings).toEqual([
      'two hosts vote on leases: when one is gone, the other keeps what it has and takes nothing',
    ]);
    expect(planned([serviceOf(0, {})], hosts(1)).warnings).toEqual([]);
  });

  test('steps show storage: new, changed, gone', () => {
    const at = (storage: PlanInputs['storage'] = [], services: Service[] = []) => {
      const inputs = inputsOf(services, hosts(3), { storage });
      return { inputs, plan: plan(inputs, sha256) };
    };
    const named = storageOf(0, { placement: { policy: 'pinned', where: {}, hosts: ['h1', 'h2'] } });
    const free = storageOf(1, { isExclusive: false });
    const first = diffPlans(null, at([named, free]));
    expect(first).toEqual([
      {
        kind: 'start',
        object: 'storage',
        service: 'd0',
        slot: '',
        host: 'h1',
        reason: 'the storage is new',
      },
      {
        kind: 'start',
        object: 'storage',
        service: 'd1',
        slot: '',
        host: 'all hosts of role web',
        reason: 'the storage is new',
      },
    ]);
    expect(diffPlans(at([named]), at([{ ...named, path: '/srv/x' }]))).toMatchObject([
      { kind: 'update', service: 'd0', reason: 'changed: path' },
    ]);
    expect(diffPlans(at([named]), at())).toMatchObject([{ kind: 'stop', object: 'storage' }]);
    expect(diffPlans(at([named]), at([named]))).toEqual([]);
  });

  test('inputs without any of it have the hash they always had', () => {
    const inputs = inputsOf([serviceOf(0, perRole(2))], hosts(2));
    expect(inputHash({ ...inputs, storage: [] }, sha256)).toBe(inputHash(inputs, sha256));
    expect(Object.keys(inputs.services[0] ?? {})).not.toContain('isExclusive');
    expect(inputHash({ ...inputs, storage: [storageOf(0)] }, sha256)).not.toBe(
      inputHash(inputs, sha256),
    );
  });
});
