import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { PlanInputs } from '../../../crdt/model.ts';
import { inputHash, plan } from '../../../daemon/plan/plan.ts';
import { breaches, cluster, keyOf, placesOf, sha256 } from './plan-arbitraries.ts';

const shuffled = (inputs: PlanInputs): fc.Arbitrary<PlanInputs> =>
  fc
    .record({
      services: fc.shuffledSubarray([...inputs.services], { minLength: inputs.services.length }),
      hosts: fc.shuffledSubarray(
        inputs.hosts.map((host) => ({ ...host, roles: host.roles.toReversed() })),
        { minLength: inputs.hosts.length },
      ),
      roles: fc.shuffledSubarray([...inputs.roles], { minLength: inputs.roles.length }),
      previous: fc.shuffledSubarray([...inputs.previous], { minLength: inputs.previous.length }),
      ...(inputs.storage === undefined
        ? {}
        : {
            storage: fc.shuffledSubarray([...inputs.storage], { minLength: inputs.storage.length }),
          }),
    })
    .map((parts) => ({ ...inputs, ...parts }));

/** A cluster that ran under one set of inputs and is now planned under another. */
const grown = fc
  .tuple(cluster, cluster)
  .map(([before, after]): PlanInputs => ({ ...after, previous: plan(before, sha256).placements }));

test('[trellis:P10] the order of the inputs plays no part, neither in the plan nor in its hash', () => {
  fc.assert(
    fc.property(
      grown.chain((inputs) => fc.tuple(fc.constant(inputs), shuffled(inputs))),
      ([inputs, other]) => {
        expect(inputHash(other, sha256)).toBe(inputHash(inputs, sha256));
        expect(plan(other, sha256)).toEqual(plan(inputs, sha256));
      },
    ),
  );
});

test('[trellis:R5] planning again changes nothing', () => {
  fc.assert(
    fc.property(grown, (inputs) => {
      const first = plan(inputs, sha256);
      const second = plan({ ...inputs, previous: first.placements }, sha256);
      expect(second.placements).toEqual(first.placements);
    }),
    { numRuns: 400 },
  );
});

test('[trellis:P6 P11] what is placed keeps to roles, selectors, limits, room and ports', () => {
  fc.assert(
    fc.property(cluster, (inputs) => {
      expect(breaches(inputs, plan(inputs, sha256))).toEqual([]);
    }),
    { numRuns: 400 },
  );
  fc.assert(
    fc.property(grown, (inputs) => {
      expect(breaches(inputs, plan(inputs, sha256))).toEqual([]);
    }),
    { numRuns: 400 },
  );
});

test('[trellis:P21] liveness moves nothing: dead hosts keep what they have', () => {
  fc.assert(
    fc.property(cluster, fc.infiniteStream(fc.boolean()), (inputs, alive) => {
      const first = plan(inputs, sha256);
      const hosts = inputs.hosts.map((host) => ({ ...host, isAlive: alive.next().value === true }));
      const after = placesOf(plan({ ...inputs, hosts, previous: first.placements }, sha256));
      for (const [key, host] of placesOf(first)) expect(after.get(key)).toBe(host);
    }),
  );
});

test('an inventory that is not there yet moves and stops nothing', () => {
  fc.assert(
    fc.property(cluster, (inputs) => {
      const first = plan(inputs, sha256);
      const hosts = inputs.hosts.map((host) => ({ ...host, cpu: 0, memoryBytes: 0 }));
      const after = placesOf(plan({ ...inputs, hosts, previous: first.placements }, sha256));
      for (const [key, host] of placesOf(first)) expect(after.get(key)).toBe(host);
    }),
  );
});

test('[trellis:P14] a new service disturbs none that runs, wherever it fits or not', () => {
  fc.assert(
    fc.property(cluster, (inputs) => {
      const newest = inputs.services.at(-1);
      const first = plan({ ...inputs, services: inputs.services.slice(0, -1) }, sha256);
      const after = placesOf(plan({ ...inputs, previous: first.placements }, sha256));
      for (const placement of first.placements) {
        if (placement.service !== newest?.id)
          expect(after.get(keyOf(placement))).toBe(placement.host);
      }
    }),
  );
});

test('[trellis:P12] only a drain, or a host that may not have it any more, moves what may not be moved', () => {
  fc.assert(
    fc.property(grown, (inputs) => {
      const after = placesOf(plan(inputs, sha256));
      const services = new Map(inputs.services.map((service) => [service.id, service]));
      for (const before of inputs.previous) {
        const service = services.get(before.service);
        const host = inputs.hosts.find((one) => one.id === before.host);
        const now = after.get(keyOf(before));
        if (service === undefined || host === undefined || now === undefined || now === before.host)
          continue;
        const isAllowed =
          host.roles.includes(service.role) &&
          Object.entries(service.placement.where).every(([k, v]) => host.meta[k] === v);
        const isDedicated = inputs.roles.some(
          (role) =>
            role.isDedicated && role.name !== service.role && host.roles.includes(role.name),
        );
        const hasLimit =
          service.ports.some((port) => port.host !== undefined) ||
          service.count.perHost !== undefined;
        if (!isAllowed || isDedicated || hasLimit) continue;
        expect([service.relocatable, host.isDrained]).not.toEqual(['no', expect.anything()]);
        if (service.relocatable !== 'yes') expect(host.isDrained).toBe(true);
      }
    }),
    { numRuns: 400 },
  );
});
