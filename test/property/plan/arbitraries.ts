/** Random desired files, and a document made of plain maps. */
import fc from 'fast-check';
import type { DesiredFile } from '../../../crdt/desired-file.ts';
import type { ObjectId } from '../../../crdt/ids.ts';
import type { LeafOwner, LeafSource } from '../../../crdt/leaf-source.ts';
import type { LeafPut, LeafValue } from '../../../crdt/leaves.ts';
import type { LeaseSpec, PlacementSpec } from '../../../crdt/lease-leaves.ts';
import type { RoleSpec, ServiceSpec } from '../../../crdt/service-leaves.ts';
import type { StorageSpec } from '../../../crdt/storage-leaves.ts';

/** Last write wins, like one replica of the document. */
export class MemoryDocument implements LeafSource {
  readonly maps = new Map<LeafOwner, Map<string, LeafValue>>();

  put(puts: readonly LeafPut[]): LeafOwner[] {
    for (const { object, pointer, value } of puts) {
      const map = this.maps.get(object) ?? new Map<string, LeafValue>();
      this.maps.set(object, map);
      if (value === null) map.delete(pointer);
      else map.set(pointer, value);
    }
    return [...new Set(puts.map((put) => put.object))];
  }

  copy(): MemoryDocument {
    const copy = new MemoryDocument();
    for (const [owner, map] of this.maps) copy.maps.set(owner, new Map(map));
    return copy;
  }

  leaf(object: LeafOwner, pointer: string): LeafValue {
    return this.maps.get(object)?.get(pointer) ?? null;
  }

  leaves(object: LeafOwner): ReadonlyMap<string, LeafValue> {
    return this.maps.get(object) ?? new Map();
  }

  objectIds(): ObjectId[] {
    return [...this.maps.keys()].filter(
      (owner): owner is ObjectId => owner !== 'names' && owner !== 'settings',
    );
  }
}

export function idMaker(): () => ObjectId {
  let next = 1;
  return () => (next++).toString(16).padStart(16, '0') as ObjectId;
}

const serviceNames = ['api', 'db', 'job', 'site', 'web'] as const;
const portNames = ['admin', 'http', 'sql'] as const;
const awkward = fc.constantFrom(
  '',
  'x',
  'a/b',
  '~',
  '0',
  ' { "a": 1 }',
  'é\n',
  'yes',
  '08',
  '{{.Names}}',
  '{{host.name}}',
);

const range = (max: number) =>
  fc
    .tuple(fc.nat({ max }), fc.nat({ max }))
    .chain(([a, b]) =>
      fc.constantFrom<{ min?: number; max?: number }>(
        { min: Math.min(a, b), max: Math.max(a, b) },
        { min: a },
        { max: b },
        {},
      ),
    );

const port = (name: string) =>
  fc.record(
    {
      name: fc.constant(name),
      container: fc.integer({ min: 1, max: 65_535 }),
      host: fc.integer({ min: 1, max: 19_999 }),
      protocol: fc.constantFrom('tcp' as const, 'udp' as const),
      expose: fc.constantFrom('members' as const),
    },
    { requiredKeys: ['name', 'container'] },
  );

const ms = fc.integer({ min: 100, max: 3_600_000 });

export function serviceSpec(name: string): fc.Arbitrary<ServiceSpec> {
  const ports = fc
    .tuple(...portNames.map((portName) => fc.option(port(portName), { nil: undefined })))
    .map((all) => {
      const seen = new Set<number>();
      return all
        .filter((one) => one !== undefined)
        .filter((one) => one.host === undefined || (!seen.has(one.host) && seen.add(one.host)));
    });
  return fc.record(
    {
      name: fc.constant(name),
      role: fc.constantFrom('web', 'database'),
      image: fc.constantFrom('demo/site:7.1', 'demo/db@sha256:0a', 'x'),
      command: fc.array(awkward, { maxLength: 3 }),
      count: fc.record({ perHost: range(4), perRole: range(9) }, { requiredKeys: [] }),
      ports,
      env: fc.dictionary(fc.constantFrom('A', 'DB_URL', 'a.b-c', '__proto__'), awkward, {
        noNullPrototype: true,
      }),
      resources: fc.record(
        {
          cpu: fc.integer({ min: 1, max: 8_000 }).map((m) => m / 1_000),
          memoryBytes: fc.integer({ min: 6 << 20, max: 2 ** 40 }),
        },
        { requiredKeys: [] },
      ),
      health: fc.record(
        {
          kind: fc.constant('exec' as const),
          command: fc.array(awkward, { minLength: 1, maxLength: 2 }),
          intervalMs: ms,
          timeoutMs: ms,
          retries: fc.integer({ min: 1, max: 9 }),
          startPeriodMs: ms,
        },
        { requiredKeys: ['kind', 'command'] },
      ),
      relocatable: fc.constantFrom('yes' as const, 'no' as const, 'careful' as const),
      placement: fc.record(
        {
          policy: fc.constantFrom('spread' as const, 'pack' as const),
          where: fc.dictionary(fc.constantFrom('dc', 'a/b', '~1'), awkward, {
            noNullPrototype: true,
          }),
        },
        { requiredKeys: [] },
      ),
      onIsolation: fc.constantFrom('keep' as const, 'stop' as const),
      stopGraceMs: fc.nat({ max: 3_600_000 }),
    },
    { requiredKeys: ['name', 'role', 'image'] },
  ) as fc.Arbitrary<ServiceSpec>;
}

const role = (name: string): fc.Arbitrary<RoleSpec> =>
  fc.record(
    { name: fc.constant(name), minHosts: fc.nat({ max: 9 }), isDedicated: fc.boolean() },
    { requiredKeys: ['name'] },
  );

const leaseSpec: fc.Arbitrary<LeaseSpec> = fc.record(
  {
    profile: fc.constantFrom('fast' as const, 'wan' as const, 'fenced' as const),
    onLoss: fc.constantFrom('stop' as const, 'freeze' as const, 'keep' as const),
    lockDelayMs: fc.nat({ max: 600_000 }),
    onDaemonDown: fc.constantFrom('stay' as const, 'move' as const),
    preemptAfterMs: fc.constantFrom(null, 1_000, 600_000),
  },
  { requiredKeys: [] },
);

const fenced: fc.Arbitrary<LeaseSpec> = fc.oneof(
  leaseSpec,
  leaseSpec.map((lease) => ({
    ...lease,
    fence: 'command' as const,
    fenceCommand: ['/bin/fence', ''],
  })),
);

const ordered: fc.Arbitrary<PlacementSpec> = fc.constantFrom<PlacementSpec>(
  { policy: 'order', hosts: ['h2', 'h1'] },
  { policy: 'pinned', hosts: ['h1'] },
  { policy: 'score', key: 'rank' },
  { policy: 'location', key: 'dc' },
  { policy: 'sticky' },
  { policy: 'load', where: { dc: 'east' } },
  { policy: 'pack' },
  {},
);

const storageSpec = (name: string, path: string): fc.Arbitrary<StorageSpec> =>
  fc
    .record(
      {
        role: fc.constantFrom('web', 'database'),
        isExclusive: fc.boolean(),
        isCopied: fc.boolean(),
        lease: fenced,
        placement: ordered,
      },
      { requiredKeys: ['role', 'isExclusive', 'isCopied'] },
    )
    .map(({ isCopied, lease, placement, ...rest }) => ({
      name,
      path,
      ...rest,
      ...(isCopied && rest.isExclusive ? { driver: 'sync' as const } : {}),
      ...(rest.isExclusive && lease !== undefined ? { lease } : {}),
      ...(rest.isExclusive && placement !== undefined ? { placement } : {}),
    }));

/** What a service is made into: as it was, exclusive, or bound to a storage of its role. */
type Bond =
  | { kind: 'none' }
  | { kind: 'alone'; lease: LeaseSpec; placement: PlacementSpec }
  | { kind: 'follows'; name: string };

const bond: fc.Arbitrary<Bond> = fc.oneof(
  fc.constant<Bond>({ kind: 'none' }),
  fc.record({ kind: fc.constant('alone' as const), lease: fenced, placement: ordered }),
  fc.record({ kind: fc.constant('follows' as const), name: fc.constantFrom('data', 'logs') }),
);

function bonded(service: ServiceSpec, how: Bond, storage: readonly StorageSpec[]): ServiceSpec {
  if (how.kind === 'none') return service;
  const { count: _count, placement: _placement, ...others } = service;
  // Those that share a lease share a host.
  const rest = { ...others, ports: (service.ports ?? []).map(({ host: _host, ...port }) => port) };
  if (how.kind === 'alone')
    return { ...rest, isExclusive: true, lease: how.lease, placement: how.placement };
  const followed = storage.find((one) => one.name === how.name);
  if (followed?.role !== service.role) return service;
  return followed.isExclusive === true
    ? { ...rest, follows: followed.name }
    : { ...service, follows: followed.name };
}

export const desiredFile: fc.Arbitrary<DesiredFile> = fc
  .record({
    roles: fc
      .tuple(...['database', 'web'].map((name) => fc.option(role(name), { nil: undefined })))
      .map((all) => all.filter((one) => one !== undefined)),
    services: fc.tuple(
      ...serviceNames.map((name) =>
        fc.option(fc.tuple(serviceSpec(name), bond), { nil: undefined }),
      ),
    ),
    storage: fc
      .tuple(
        fc.option(storageSpec('data', '/srv/data'), { nil: undefined }),
        fc.option(storageSpec('logs', '/srv/logs'), { nil: undefined }),
      )
      .map((all) => all.filter((one) => one !== undefined)),
  })
  .map(({ roles, services, storage }) => ({
    fileName: 'site.yaml',
    roles,
    services: services
      .filter((one) => one !== undefined)
      .map(([service, how]) => bonded(service, how, storage)),
    ...(storage.length > 0 ? { storage } : {}),
  }));
