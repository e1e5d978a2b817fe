import { describe, expect, test } from 'vitest';
import type { PlanHost, PlanInputs, Service } from '../../../crdt/model.ts';
import { plan } from '../../../daemon/plan/plan.ts';
import { diffPlans } from '../../../daemon/plan/plan-diff.ts';
import {
  hostId,
  hostOf,
  inputsOf,
  roleOf,
  serviceOf,
  sha256,
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
