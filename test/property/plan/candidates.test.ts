import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { HostId } from '../../../crdt/ids.ts';
import type { PlanInputs, Service, Storage } from '../../../crdt/model.ts';
import {
  candidatesFor,
  candidatesOf,
  fitCandidates,
  mayHold,
  quietDynamics,
} from '../../../daemon/plan/candidates.ts';
import type { CandidateDynamics, Candidates } from '../../../daemon/plan/candidates.ts';
import { eligibilityOf } from '../../../daemon/plan/eligibility.ts';
import { gateOf, leaseNameOf, leaseOf, leaseSubjects } from '../../../daemon/plan/leases.ts';
import { plan } from '../../../daemon/plan/plan.ts';
import {
  cluster,
  hostId,
  hostOf,
  inputsOf,
  roleOf,
  serviceOf,
  sha256,
  storageOf,
} from './plan-arbitraries.ts';

const someHosts = fc.subarray([0, 1, 2, 3, 4, 5].map(hostId));
const dynamics: fc.Arbitrary<CandidateDynamics> = fc.record({
  inSync: fc.option(
    someHosts.map((hosts) => new Set(hosts)),
    { nil: null },
  ),
  load: fc
    .array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 6, maxLength: 6 })
    .map((loads) => new Map(loads.map((load, n) => [hostId(n), load]))),
  lastHolder: fc.option(fc.constantFrom(...[0, 1, 2, 3, 4, 5].map(hostId)), { nil: null }),
  frozen: someHosts.map((hosts) => new Set(hosts)),
});

/** A cluster with what its plan reserves, and something of the moment. */
const world = fc
  .tuple(cluster, dynamics)
  .map(([inputs, dynamic]): [PlanInputs, CandidateDynamics] => [
    { ...inputs, previous: plan(inputs, sha256).placements },
    dynamic,
  ]);

const subjectsOf = (inputs: PlanInputs) => [...leaseSubjects(inputs).values()];

function shuffled<T>(items: readonly T[]): fc.Arbitrary<T[]> {
  return fc.shuffledSubarray([...items], { minLength: items.length });
}

describe('candidates of every lease', () => {
  test('[trellis:P8] each host is a candidate once or passed over with a reason', () => {
    fc.assert(
      fc.property(world, ([inputs, dynamic]) => {
        for (const subject of subjectsOf(inputs)) {
          const { hosts, passedOver, leaving } = candidatesFor(subject, inputs, dynamic);
          const all = [...hosts, ...passedOver.map(({ host }) => host)];
          expect(all.toSorted()).toEqual(inputs.hosts.map(({ id }) => id).toSorted());
          for (const { reason } of passedOver) expect(reason.length).toBeGreaterThan(3);
          if (leaving !== null) expect(hosts.at(-1)).toBe(leaving.host);
          for (const { id } of inputs.hosts)
            expect(mayHold(subject, inputs, dynamic, id)).toBe(hosts.includes(id));
          const fit = hosts.filter((host) => host !== leaving?.host);
          expect(fitCandidates(subject, inputs, dynamic, 9).toSorted()).toEqual(fit.toSorted());
        }
      }),
    );
  });

  test('[trellis:P8] every peer says the same, in whatever order it heard of things', () => {
    const reordered = world.chain(([inputs, dynamic]) =>
      fc.tuple(
        fc.constant([inputs, dynamic] as const),
        fc.record({
          hosts: shuffled(inputs.hosts),
          services: shuffled(inputs.services),
          previous: shuffled(inputs.previous),
          roles: shuffled(inputs.roles),
          storage: shuffled(inputs.storage ?? []),
          load: shuffled([...dynamic.load]).map((pairs) => new Map(pairs)),
        }),
      ),
    );
    fc.assert(
      fc.property(reordered, ([[inputs, dynamic], { load, ...parts }]) => {
        const other = { ...inputs, ...parts };
        const theirs = leaseSubjects(other);
        for (const subject of subjectsOf(inputs)) {
          const same = theirs.get(subject.lease);
          if (same === undefined) throw new Error(`${subject.lease} is unknown to the other`);
          expect(candidatesFor(same, other, { ...dynamic, load })).toEqual(
            candidatesFor(subject, inputs, dynamic),
          );
        }
      }),
    );
  });

  test('[trellis:P8] taking a host away moves only what it held (I20)', () => {
    const smaller = world.chain(([inputs, dynamic]) =>
      fc.tuple(
        fc.constant(inputs),
        fc.constant(dynamic),
        fc.constantFrom(...(inputs.hosts.length === 0 ? [hostOf(0)] : inputs.hosts)),
      ),
    );
    fc.assert(
      fc.property(smaller, ([inputs, dynamic, gone]) => {
        const rest = { ...inputs, hosts: inputs.hosts.filter(({ id }) => id !== gone.id) };
        for (const subject of subjectsOf(inputs)) {
          if (dynamic.lastHolder === gone.id) continue;
          // Bound to the host that is gone: it is free now.
          if (subject.services.some((service) => service.relocatable === 'no')) continue;
          const before = candidatesFor(subject, inputs, dynamic);
          const after = candidatesFor(subject, rest, dynamic);
          const wasLast = before.leaving !== null && after.leaving === null;
          const expected = before.hosts.filter((host) => host !== gone.id);
          // Who was to leave stays out when the only one that could have taken over is gone.
          expect(after.hosts).toEqual(wasLast ? expected.slice(0, -1) : expected);
        }
      }),
    );
  });

  test('[trellis:P8] nobody gets what it may not have: role, selector, dedication, freeze, drain, sync', () => {
    fc.assert(
      fc.property(world, ([inputs, dynamic]) => {
        const mayCarry = eligibilityOf(inputs.roles);
        for (const subject of subjectsOf(inputs)) {
          const { hosts } = candidatesFor(subject, inputs, dynamic);
          for (const id of hosts) {
            if (id === dynamic.lastHolder) continue;
            const host = inputs.hosts.find((one) => one.id === id);
            if (host === undefined) throw new Error('a candidate that is no host');
            const { storage, services } = subject;
            for (const member of [...services, ...(storage === null ? [] : [storage])])
              expect(mayCarry(member, host)).toBe(true);
            expect(host.isDrained || dynamic.frozen.has(id)).toBe(false);
            if (subject.storage?.driver === 'sync' && dynamic.inSync !== null)
              expect(dynamic.inSync.has(id)).toBe(true);
            if (subject.placement.policy === 'pinned')
              expect(subject.placement.hosts).toContain(host.name);
          }
        }
      }),
    );
  });

  test('[trellis:P36] storage and all that follows it have the same candidates', () => {
    fc.assert(
      fc.property(world, ([inputs, dynamic]) => {
        for (const { storage, services } of subjectsOf(inputs)) {
          const all: (Service | Storage)[] = [...services, ...(storage === null ? [] : [storage])];
          const found = all.map((one) => candidatesOf(one, inputs, dynamic));
          for (const one of found) expect(one).toEqual(found[0]);
        }
      }),
    );
  });

  test('[trellis:P8] the plan prefers a host that may hold the lease, and stays', () => {
    fc.assert(
      fc.property(cluster, (inputs) => {
        const first = plan(inputs, sha256);
        for (const subject of subjectsOf(inputs)) {
          const [service] = subject.services;
          const place = first.placements.find((one) => one.service === service?.id);
          if (place === undefined) continue;
          const { hosts } = candidatesFor(subject, inputs, quietDynamics);
          expect(hosts).toContain(place.host);
        }
      }),
    );
  });
});

describe('policies', () => {
  const six = [0, 1, 2, 3, 4, 5].map((n) =>
    hostOf(n, { meta: { rank: String(n % 3), dc: n < 3 ? 'east' : 'west' } }),
  );
  const names = (found: Candidates) =>
    found.hosts.map((id) => six.find((host) => host.id === id)?.name);
  const order = (
    placement: Partial<Service['placement']>,
    dynamic: Partial<CandidateDynamics> = {},
    more: Partial<PlanInputs> = {},
  ) => {
    const service = serviceOf(0, { isExclusive: true, placement });
    return names(
      candidatesOf(service, inputsOf([service], six, more), { ...quietDynamics, ...dynamic }),
    );
  };
  const spread = order({});

  test('[trellis:P10] spread gives each lease an order of its own, all of them used evenly', () => {
    expect(spread).toHaveLength(6);
    const services = Array.from({ length: 600 }, (_, n) => serviceOf(n, { isExclusive: true }));
    const inputs = inputsOf(services, six);
    const firsts = services.map(
      (service) => candidatesOf(service, inputs, quietDynamics).hosts[0] as HostId,
    );
    for (const { id } of six) {
      const share = firsts.filter((host) => host === id).length;
      expect(share).toBeGreaterThan(60);
      expect(share).toBeLessThan(150);
    }
  });

  test('[trellis:P10] order and pinned follow the list; order knows all others, pinned nobody else', () => {
    const listed = order({ policy: 'order', hosts: ['h4', 'h1'] });
    expect(listed.slice(0, 2)).toEqual(['h4', 'h1']);
    expect(listed.slice(2)).toEqual(spread.filter((name) => name !== 'h4' && name !== 'h1'));
    expect(order({ policy: 'pinned', hosts: ['h4', 'h1', 'nowhere'] })).toEqual(['h4', 'h1']);
  });

  test('[trellis:P10] score takes the highest number, and hosts without one last', () => {
    const scored = order({ policy: 'score', key: 'rank' });
    expect(new Set(scored.slice(0, 2))).toEqual(new Set(['h2', 'h5']));
    expect(new Set(scored.slice(4))).toEqual(new Set(['h0', 'h3']));
    const odd = [
      hostOf(0, { meta: { rank: 'much' } }),
      hostOf(1, { meta: { rank: '-5' } }),
      hostOf(2, { meta: { rank: '' } }),
      hostOf(3, { meta: { rank: '1e3' } }),
    ];
    const service = serviceOf(0, {
      isExclusive: true,
      placement: { policy: 'score', key: 'rank' },
    });
    const found = candidatesOf(service, inputsOf([service], odd), quietDynamics);
    expect(found.hosts.slice(0, 2)).toEqual([hostId(3), hostId(1)]);
  });

  test('[trellis:P10] sticky keeps the last holder, location its neighbourhood', () => {
    for (const { id, name } of six) {
      expect(order({ policy: 'sticky' }, { lastHolder: id })[0]).toBe(name);
      const near = order({ policy: 'location', key: 'dc' }, { lastHolder: id }).slice(0, 3);
      const isEast = ['h0', 'h1', 'h2'].includes(name);
      expect(new Set(near)).toEqual(new Set(isEast ? ['h0', 'h1', 'h2'] : ['h3', 'h4', 'h5']));
    }
    expect(order({ policy: 'sticky' })).toEqual(spread);
    expect(order({ policy: 'location', key: 'dc' })).toEqual(spread);
  });

  test('[trellis:P10] load takes who has promised least, then who does least; less than a tenth is noise', () => {
    const busy = serviceOf(1, { resources: { cpu: 2 } });
    const previous = [0, 1].map((n) => ({
      service: busy.id,
      serviceName: busy.name,
      slot: String(n),
      host: hostId(n),
    }));
    const service = serviceOf(0, { isExclusive: true, placement: { policy: 'load' } });
    const inputs = inputsOf([service, busy], six, { previous });
    const at = (pairs: [number, number][]) =>
      names(
        candidatesOf(service, inputs, {
          ...quietDynamics,
          load: new Map(pairs.map(([n, load]) => [hostId(n), load])),
        }),
      );
    const idle = at([]);
    expect(new Set(idle.slice(4))).toEqual(new Set(['h0', 'h1']));
    expect(at(six.map((_, n) => [n, 0.05 + n / 1_000]))).toEqual(idle);
    const first = six.findIndex((host) => host.name === idle[0]);
    expect(at([[first, 0.35]])[3]).toBe(idle[0]);
  });

  test('who does not answer comes last, who has no room before that, and a reason for the rest', () => {
    const service = serviceOf(0, { isExclusive: true, resources: { memoryBytes: 2 ** 30 } });
    const other = serviceOf(1, { resources: { memoryBytes: 3 * 2 ** 30 } });
    const fixed = serviceOf(2, { ports: [{ name: 'a', container: 80, host: 8080 }] });
    const hosts = [
      hostOf(0, { isAlive: false }),
      hostOf(1),
      hostOf(2),
      hostOf(3, { memoryBytes: 2 ** 29 }),
      hostOf(4, { isDrained: true }),
      hostOf(5, { roles: [] }),
      hostOf(6, { roles: ['web', 'lb'] }),
      hostOf(7),
      hostOf(8),
    ];
    const placed = (one: Service, n: number) => ({
      service: one.id,
      serviceName: one.name,
      slot: '0',
      host: hostId(n),
    });
    const inputs = inputsOf([{ ...service, ports: fixed.ports }, other, fixed], hosts, {
      roles: [roleOf('lb', { isDedicated: true })],
      previous: [placed(other, 1), placed(fixed, 7)],
    });
    const found = candidatesOf(service, inputs, {
      ...quietDynamics,
      frozen: new Set([hostId(8)]),
    });
    expect(found.hosts).toEqual([2, 1, 0].map(hostId));
    expect(found.passedOver.map(({ name, reason }) => `${name} ${reason}`)).toEqual([
      'h3 has too little memory for it',
      'h4 is drained',
      'h5 has no role web',
      'h6 has a dedicated role',
      'h7 gives port 8080 of s0 to s2',
      'h8 is frozen',
    ]);
  });

  test('the holder stays listed until another can take over, frozen or out of sync or not', () => {
    const storage = storageOf(0, { driver: 'sync' });
    const inputs = (more: Partial<PlanInputs['hosts'][number]>, isOtherAlive = true) =>
      inputsOf([], [hostOf(0, more), hostOf(1, { isAlive: isOtherAlive })], { storage: [storage] });
    const holder: CandidateDynamics = {
      ...quietDynamics,
      lastHolder: hostId(0),
      frozen: new Set([hostId(0)]),
      inSync: new Set([hostId(1)]),
    };
    const held = candidatesOf(storage, inputs({}), holder);
    expect([held.hosts.length, held.leaving]).toEqual([2, null]);
    const drained = candidatesOf(storage, inputs({ isDrained: true }), holder);
    expect(drained.hosts).toEqual([hostId(1), hostId(0)]);
    expect(drained.leaving).toMatchObject({ host: hostId(0), reason: 'is drained' });
    expect(candidatesOf(storage, inputs({ roles: [] }), holder).leaving?.isLasting).toBe(true);
    expect(candidatesOf(storage, inputs({ roles: [] }, false), holder).hosts).toEqual([hostId(1)]);
    expect(candidatesOf(storage, inputs({ isDrained: true }, false), holder).hosts).toHaveLength(2);
    const alone = { ...holder, inSync: new Set<HostId>() };
    const stuck = candidatesOf(storage, inputs({ isDrained: true }), alone);
    expect(stuck.hosts).toEqual([hostId(0)]);
    expect(stuck.passedOver[0]?.reason).toBe('has no copy of d0 that is in sync');
  });

  test('relocatable: no binds to the place it has', () => {
    const service = serviceOf(0, { isExclusive: true, relocatable: 'no' });
    const home = { service: service.id, serviceName: 's0', slot: '0', host: hostId(2) };
    const inputs = inputsOf([service], six, { previous: [home] });
    const { hosts, passedOver } = candidatesOf(service, inputs, quietDynamics);
    expect(hosts).toEqual([hostId(2)]);
    expect(passedOver[0]?.reason).toContain('is not h2, which it may not leave');
    expect(candidatesOf(service, inputsOf([service], six), quietDynamics).hosts).toHaveLength(6);
  });
});

describe('names', () => {
  test('[trellis:P36] what follows exclusive storage has its lease, what is exclusive alone its own', () => {
    const [plain, alone, follower] = [
      serviceOf(0, {}),
      serviceOf(1, { isExclusive: true }),
      serviceOf(2, { isExclusive: true, follows: 'd0' }),
    ];
    const free = storageOf(1, { isExclusive: false });
    expect(leaseOf(plain, undefined)).toBeNull();
    expect(leaseOf(plain, free)).toBeNull();
    expect(leaseOf(alone, free)).toEqual({ kind: 'service', id: alone.id });
    expect(leaseOf(plain, storageOf(0))).toEqual({ kind: 'storage', id: storageOf(0).id });
    const inputs = inputsOf([plain, alone, follower], [], { storage: [storageOf(0), free] });
    expect([...leaseSubjects(inputs)].map(([name, { title }]) => [name, title])).toEqual([
      [`service/prod/${alone.id}`, 'service s1'],
      [`storage/prod/${storageOf(0).id}`, 'storage d0'],
    ]);
    expect(leaseNameOf('prod', { kind: 'service', id: alone.id })).toBe(`service/prod/${alone.id}`);
  });

  test('what storage leaves unsaid the first that follows it says; a freeze of one freezes all', () => {
    const services = [
      serviceOf(0, { follows: 'd0', lease: { isFrozen: true } }),
      serviceOf(1, { follows: 'd0', lease: { profile: 'wan' }, placement: { policy: 'sticky' } }),
      serviceOf(2, { follows: 'd0', lease: { profile: 'fenced' } }),
    ];
    const of = (storage: Storage) =>
      [...leaseSubjects(inputsOf(services, [], { storage: [storage] })).values()][0];
    expect(of(storageOf(0))).toMatchObject({
      settings: { profile: 'wan', isFrozen: true },
      placement: { policy: 'sticky' },
    });
    const placement = { policy: 'load' as const, where: {} };
    expect(of(storageOf(0, { placement }))?.placement.policy).toBe('load');
  });

  test('a gate is named after cluster, object and host', () => {
    const gate = gateOf('1a2b3c4d', storageOf(0).id, hostId(0));
    expect(gate).toBe(
      `trellis-x-1a2b3c4d-${storageOf(0).id.slice(0, 12)}-${hostId(0).slice(0, 6)}`,
    );
    expect(gate).toMatch(/^[a-z0-9-]{1,40}$/);
  });
});
