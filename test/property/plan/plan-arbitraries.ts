/** Random clusters for the planner, and what every plan must keep to. */
import { createHash } from 'node:crypto';
import fc from 'fast-check';
import type { HostId, ObjectId } from '../../../crdt/ids.ts';
import type {
  Placement,
  Plan,
  PlanHost,
  PlanInputs,
  Role,
  Service,
  Storage,
} from '../../../crdt/model.ts';
import { leaseNameOfService, leaseSubjects } from '../../../daemon/plan/leases.ts';
import { serviceFromLeaves, serviceToLeaves } from '../../../crdt/service-leaves.ts';
import type { ServiceSpec } from '../../../crdt/service-leaves.ts';

export const sha256 = (bytes: Uint8Array) =>
  new Uint8Array(createHash('sha256').update(bytes).digest());

export const hostId = (n: number) =>
  createHash('sha256').update(`h${n}`).digest('hex').slice(0, 32) as HostId;
export const serviceId = (n: number) => (n + 1).toString(16).padStart(16, '0') as ObjectId;

export function serviceOf(n: number, spec: Partial<ServiceSpec>): Service {
  return serviceFromLeaves(
    serviceId(n),
    serviceToLeaves({ name: `s${n}`, role: 'web', image: 'i', ...spec }),
  ) as Service;
}

export function hostOf(n: number, more: Partial<PlanHost> = {}): PlanHost {
  return {
    id: hostId(n),
    name: `h${n}`,
    roles: ['web'],
    meta: {},
    isAlive: true,
    isDrained: false,
    cpu: 4,
    memoryBytes: 4 * 2 ** 30,
    ...more,
  };
}

export function inputsOf(
  services: readonly Service[],
  hosts: readonly PlanHost[],
  more: Partial<PlanInputs> = {},
): PlanInputs {
  return { v: 1, env: 'prod', roles: [], services, hosts, numbers: [], previous: [], ...more };
}

export const roleOf = (name: string, more: Partial<Role> = {}): Role => ({
  id: serviceId(1_000 + name.length),
  name,
  source: '',
  minHosts: 0,
  isDedicated: false,
  ...more,
});

const rolesOfHost = fc.subarray(['db', 'lb', 'web']);
const host = (n: number): fc.Arbitrary<PlanHost> =>
  fc
    .record({
      roles: rolesOfHost,
      meta: fc.constantFrom({}, { dc: 'east' }, { dc: 'west' }),
      isAlive: fc.boolean(),
      isDrained: fc.constantFrom(false, false, true),
      cpu: fc.constantFrom(1, 2, 4),
      memoryBytes: fc.constantFrom(1, 2, 4).map((gib) => gib * 2 ** 30),
    })
    .map((more) => hostOf(n, more));

const count = fc.oneof(
  fc.nat({ max: 2 }).map((n) => ({ perHost: { min: n, max: n } })),
  fc.nat({ max: 6 }).map((n) => ({ perRole: { min: n, max: n } })),
  fc
    .tuple(fc.nat({ max: 6 }), fc.integer({ min: 1, max: 2 }))
    .map(([n, max]) => ({ perRole: { min: n, max: n }, perHost: { min: 0, max } })),
);

const service = (n: number): fc.Arbitrary<Service> =>
  fc
    .record({
      role: fc.constantFrom('web', 'db', 'lb'),
      count,
      resources: fc.record(
        {
          cpu: fc.constantFrom(0.25, 0.5, 1),
          memoryBytes: fc.constantFrom(2 ** 28, 2 ** 29, 2 ** 30),
        },
        { requiredKeys: [] },
      ),
      ports: fc.constantFrom(
        [],
        [{ name: 'http', container: 80, host: 8080 }],
        [{ name: 'http', container: 80, host: 8081 }],
      ),
      relocatable: fc.constantFrom(undefined, 'yes' as const, 'no' as const, 'careful' as const),
      placement: fc.record({
        policy: fc.constantFrom('spread' as const, 'pack' as const),
        where: fc.constantFrom({}, {}, { dc: 'east' }),
      }),
    })
    .map((spec) => serviceOf(n, JSON.parse(JSON.stringify(spec)) as Partial<ServiceSpec>));

const placement = fc.constantFrom<Storage['placement']>(
  { policy: 'spread', where: {} },
  { policy: 'pack', where: {} },
  { policy: 'load', where: {} },
  { policy: 'order', where: {}, hosts: ['h3', 'h1'] },
  { policy: 'pinned', where: { dc: 'east' }, hosts: ['h0', 'h2', 'h4'] },
  { policy: 'score', where: {}, key: 'rank' },
  { policy: 'sticky', where: {} },
  { policy: 'location', where: {}, key: 'dc' },
);

export function storageOf(n: number, more: Partial<Storage> = {}): Storage {
  return {
    id: serviceId(2_000 + n),
    name: `d${n}`,
    source: '',
    role: 'web',
    driver: 'local',
    path: `/srv/d${n}`,
    isExclusive: true,
    placement: { policy: 'spread', where: {} },
    ...more,
  };
}

const storage = (n: number): fc.Arbitrary<Storage> =>
  fc
    .record({
      role: fc.constantFrom('web', 'db'),
      driver: fc.constantFrom('local' as const, 'sync' as const),
      isExclusive: fc.boolean(),
      placement,
    })
    .map((more) =>
      storageOf(n, {
        ...more,
        driver: more.isExclusive ? more.driver : 'local',
        placement: more.isExclusive ? more.placement : { policy: 'spread', where: {} },
      }),
    );

/** Plain as it was, or exclusive by itself, or bound to storage of its role. */
function bound(
  service: Service,
  how: 'plain' | 'alone' | number,
  all: readonly Storage[],
  place: Storage['placement'],
): Service {
  if (how === 'plain') return service;
  const { placement: _, ...rest } = service;
  const count = { perRole: { min: 1, max: 1 } };
  if (how === 'alone') return { ...rest, count, placement: place, isExclusive: true };
  const followed = all.find((one, index) => index >= how && one.role === service.role);
  return followed === undefined
    ? service
    : { ...service, count, placement: { policy: 'spread', where: {} }, follows: followed.name };
}

/** `previous` is left empty. */
export const cluster: fc.Arbitrary<PlanInputs> = fc
  .tuple(fc.integer({ min: 0, max: 6 }), fc.integer({ min: 0, max: 6 }))
  .chain(([hostCount, serviceCount]) =>
    fc.record({
      hosts: fc.tuple(...Array.from({ length: hostCount }, (_, n) => host(n))),
      services: fc.tuple(...Array.from({ length: serviceCount }, (_, n) => service(n))),
      dedicated: fc.constantFrom(false, false, true),
      storage: fc.oneof(fc.constant([]), fc.tuple(storage(0), storage(1))),
      bonds: fc.array(
        fc.tuple(
          fc.constantFrom('plain' as const, 'plain' as const, 'alone' as const, 0, 1),
          placement,
        ),
        {
          minLength: serviceCount,
          maxLength: serviceCount,
        },
      ),
    }),
  )
  .map(({ hosts, services, dedicated, storage: all, bonds }) =>
    inputsOf(
      services.map((one, i) => {
        const [how, place] = bonds[i] ?? (['plain', one.placement] as const);
        return bound(one, how, all, place);
      }),
      hosts,
      {
        roles: [roleOf('web', { minHosts: 2 }), roleOf('lb', { isDedicated: dedicated })],
        ...(all.length === 0 ? {} : { storage: all }),
      },
    ),
  );

export const keyOf = (placement: Placement) => `${placement.service}/${placement.slot}`;
export const placesOf = (plan: Plan) => new Map(plan.placements.map((p) => [keyOf(p), p.host]));

/** What is wrong with new placements; what was there before is excused from room. */
export function breaches(inputs: PlanInputs, plan: Plan): string[] {
  const wrong: string[] = [];
  const isExclusive = (p: Placement) => leaseNameOfService(p.service, inputs) !== null;
  const services = new Map(inputs.services.map((one) => [one.id, one]));
  const before = new Map(inputs.previous.map((p) => [keyOf(p), p.host]));
  if (new Set(plan.placements.map(keyOf)).size !== plan.placements.length)
    wrong.push('a slot is placed twice');
  for (const one of inputs.hosts) {
    const here = plan.placements.filter((p) => p.host === one.id);
    // What becomes exclusive changes its slot and not its host.
    const fresh = here.filter(
      (p) =>
        before.get(keyOf(p)) !== one.id &&
        !(
          isExclusive(p) &&
          inputs.previous.some((q) => q.service === p.service && q.host === one.id)
        ),
    );
    const sum = (of: (s: Service) => number) =>
      here.reduce((all, p) => all + of(services.get(p.service) as Service), 0);
    if (fresh.length > 0 && (!one.isAlive || one.isDrained))
      wrong.push(`${one.name} is not alive or drained and got something new`);
    // What is exclusive goes where its lease may go, full or not.
    const isExcused = here.some(isExclusive);
    if (
      !isExcused &&
      fresh.some((p) => services.get(p.service)?.resources.cpu !== undefined) &&
      sum((s) => s.resources.cpu ?? 0) > one.cpu
    )
      wrong.push(`cpu of ${one.name}`);
    if (
      !isExcused &&
      fresh.some((p) => services.get(p.service)?.resources.memoryBytes !== undefined) &&
      sum((s) => s.resources.memoryBytes ?? 0) > one.memoryBytes
    )
      wrong.push(`memory of ${one.name}`);
    const ports = here.flatMap((p) =>
      (services.get(p.service) as Service).ports.flatMap((port) => port.host ?? []),
    );
    if (new Set(ports).size !== ports.length) wrong.push(`a port of ${one.name} is given twice`);
    for (const p of here) {
      const s = services.get(p.service) as Service;
      if (!one.roles.includes(s.role)) wrong.push(`${s.name} on ${one.name} without role`);
      const dedicated = inputs.roles.find(
        (role) => role.isDedicated && one.roles.includes(role.name),
      );
      if (dedicated !== undefined && dedicated.name !== s.role)
        wrong.push(`${s.name} on a host dedicated to ${dedicated.name}`);
      for (const [key, value] of Object.entries(s.placement.where))
        if (one.meta[key] !== value) wrong.push(`${s.name} where ${key}`);
      const siblings = here.filter((q) => q.service === p.service).length;
      if (siblings > (s.count.perHost?.max ?? Number.MAX_SAFE_INTEGER))
        wrong.push(`${siblings} of ${s.name} on ${one.name}`);
    }
  }
  for (const subject of leaseSubjects(inputs).values()) {
    const ids = new Set(subject.services.map((one) => one.id));
    const own = plan.placements.filter((p) => ids.has(p.service));
    if (own.some((p) => p.slot !== '0')) wrong.push(`${subject.title} has another slot than 0`);
    if (new Set(own.map((p) => p.host)).size > 1) wrong.push(`${subject.title} is on two hosts`);
    const names = new Set(plan.unplaceable.map((one) => one.service));
    const lost = subject.services.filter((one) => !own.some((p) => p.service === one.id));
    if (lost.some((one) => !names.has(one.name))) wrong.push(`${subject.title} is torn apart`);
  }
  return wrong;
}
