import { describe, expect, test } from 'vitest';
import type { HostId, ObjectId } from '../../../crdt/ids.ts';
import { leaseDefaults } from '../../../crdt/lease-leaves.ts';
import type { LeafValue } from '../../../crdt/leaves.ts';
import { roleToLeaves, serviceToLeaves } from '../../../crdt/service-leaves.ts';
import type { ServiceSpec } from '../../../crdt/service-leaves.ts';
import { storageToLeaves } from '../../../crdt/storage-leaves.ts';
import { buildEnvView, EnvViewCache } from '../../../crdt/view.ts';
import { MemoryDocument } from '../../property/plan/arbitraries.ts';

const idOf = (n: number) => n.toString(16).padStart(16, '0') as ObjectId;

function docOf(...services: (Partial<ServiceSpec> & { name: string })[]): MemoryDocument {
  const doc = new MemoryDocument();
  for (const [i, service] of services.entries()) {
    const leaves = serviceToLeaves({ role: 'web', image: 'i', ...service });
    doc.put([...leaves].map(([pointer, value]) => ({ object: idOf(i + 1), pointer, value })));
  }
  return doc;
}

const problemsOf = (doc: MemoryDocument) =>
  buildEnvView('prod', doc).problems.map((p) => `${p.kind}: ${p.detail}`);

describe('view of an environment', () => {
  test('the name index decides between twins; the other is a problem', () => {
    const doc = docOf({ name: 'site', image: 'a' }, { name: 'site', image: 'b' });
    expect(buildEnvView('prod', doc).services.get('site')?.image).toBe('a');
    doc.put([{ object: 'names', pointer: '/service/site', value: idOf(2) }]);
    const view = buildEnvView('prod', doc);
    expect(view.services.get('site')?.image).toBe('b');
    expect(view.problems).toEqual([
      {
        kind: 'duplicate-name',
        object: idOf(1),
        detail: `service site exists twice: ${idOf(2)} is in force, ${idOf(1)} is not`,
      },
    ]);
    doc.put([{ object: idOf(1), pointer: '/deleted', value: true }]);
    expect(problemsOf(doc)).toEqual([]);
  });

  test('a poison object is a problem and the rest goes on', () => {
    const doc = docOf({ name: 'site' }, { name: 'db' });
    doc.put([
      { object: idOf(1), pointer: '/relocatable', value: 'sometimes' },
      { object: idOf(9), pointer: '/name', value: 'x' },
    ]);
    expect([...buildEnvView('prod', doc).services.keys()]).toEqual(['db']);
    expect(problemsOf(doc)).toEqual([
      `poison: object ${idOf(9)} does not say what it is`,
      'poison: service site: /relocatable holds "sometimes", which this version cannot use',
    ]);
  });

  test('[trellis:P1] a role without hosts, or that nobody made, is no problem', () => {
    expect(problemsOf(docOf({ name: 'site', role: 'nobody' }))).toEqual([]);
  });

  test('[trellis:P5] edits that are invalid together are listed', () => {
    const everywhere = {
      count: { perHost: { min: 1, max: 1 } },
      ports: [{ name: 'http', container: 80, host: 8080 }],
    };
    const some = { ...everywhere, count: { perRole: { min: 1, max: 1 } } };
    expect(problemsOf(docOf({ name: 'a', ...everywhere }, { name: 'b', ...some }))).toEqual([
      'combined: services a and b both need port 8080/tcp on hosts of role web',
    ]);
    expect(problemsOf(docOf({ name: 'a', ...some }, { name: 'b', ...some }))).toEqual([]);
    expect(
      problemsOf(docOf({ name: 'a', ...everywhere }, { name: 'b', ...everywhere, role: 'lb' })),
    ).toEqual([]);
    const east = { placement: { where: { dc: 'east' } } };
    const west = { placement: { where: { dc: 'west' } } };
    expect(
      problemsOf(
        docOf({ name: 'a', ...everywhere, ...east }, { name: 'b', ...everywhere, ...west }),
      ),
    ).toEqual([]);
  });

  test('[trellis:P36] exclusive edits that are invalid together are listed, and what was edited is read', () => {
    const doc = docOf({ name: 'db', follows: 'data', isExclusive: true });
    const put = (pointer: string, value: LeafValue, object = idOf(9)) =>
      doc.put([{ object, pointer, value }]);
    const storage = { name: 'data', role: 'web', path: '/srv/data', isExclusive: true };
    for (const [pointer, value] of storageToLeaves(storage)) put(pointer, value);
    const cache = new EnvViewCache('prod');
    expect(cache.update(doc, 'all').problems).toEqual([]);
    expect(cache.update(doc, []).storage.get('data')).toMatchObject({
      driver: 'local',
      placement: { policy: 'spread', where: {} },
    });
    const problems = (owner: ObjectId) =>
      cache.update(doc, [owner]).problems.map((problem) => problem.detail);
    put('/role', 'database');
    expect(problems(idOf(9))).toEqual([
      'service db: storage data is of role database, the service of role web',
    ]);
    put('/deleted', true);
    expect(problems(idOf(9))).toEqual(['service db: there is no storage named data']);
    put('/deleted', null);
    put('/role', 'web');
    expect(problems(idOf(9))).toEqual([]);
    put('/count/perRole/min', 3, idOf(1));
    expect(problems(idOf(1))).toEqual([
      'service db: an exclusive service has one instance: leave `count` out',
    ]);
    put('/count/perRole/min', null, idOf(1));
    expect(problems(idOf(1))).toEqual([]);
    for (const [pointer, value] of storageToLeaves({ ...storage, name: 'twin' }))
      put(pointer, value, idOf(8));
    expect(problems(idOf(8))).toEqual([
      'storage twin: /srv/data overlaps /srv/data of storage data on hosts of role web',
    ]);
    put('/path', '/etc', idOf(8));
    expect(problems(idOf(8))).toEqual([
      'storage twin: /path is in /etc, which belongs to the system or to us',
    ]);
  });

  test('a freeze is read from wherever it is set, and changes nothing else', () => {
    const doc = docOf({ name: 'db', isExclusive: true });
    const host = 'a'.repeat(32) as HostId;
    expect(buildEnvView('prod', doc)).toMatchObject({ voters: null, isFrozen: false });
    const settings = (pointer: string, value: LeafValue) => ({
      object: 'settings' as const,
      pointer,
      value,
    });
    doc.put([
      settings('/frozen', true),
      settings('/voters', ['b'.repeat(32), host]),
      settings(`/hosts/${host}/frozen`, true),
      { object: idOf(1), pointer: '/lease/frozen', value: true },
    ]);
    const view = buildEnvView('prod', doc);
    expect(view).toMatchObject({ isFrozen: true, voters: [host, 'b'.repeat(32)] });
    expect(view.hosts.get(host)?.isFrozen).toBe(true);
    expect(view.services.get('db')?.lease).toEqual({ ...leaseDefaults, isFrozen: true });
    for (const bad of [[], [host, host], ['x'], 'x', Array(8).fill(host)]) {
      doc.put([settings('/voters', bad)]);
      expect(buildEnvView('prod', doc).voters).toBeNull();
    }
  });

  test('circles and references to nothing are listed', () => {
    const doc = docOf(
      { name: 'a', dependsOn: [{ service: 'b' }] },
      {
        name: 'b',
        dependsOn: [{ service: 'a', port: 'http' }],
        env: { X: '{{services.gone.host}}' },
      },
    );
    expect(problemsOf(doc)).toEqual([
      'combined: service b needs port http of service a, which does not exist',
      'combined: service b needs service gone, which does not exist',
      'combined: services a, b depend on each other in a circle',
    ]);
  });

  test('a number given twice moves for one of the two, the same everywhere', () => {
    const ports = [{ name: 'http', container: 80 }];
    const doc = docOf({ name: 'a', ports }, { name: 'b', ports });
    doc.put(
      ['a', 'b'].map((name) => ({
        object: 'settings' as const,
        pointer: `/numbers/${name}/http`,
        value: 21_000,
      })),
    );
    const view = buildEnvView('prod', doc);
    expect([...view.numbers]).toEqual([
      ['a/http', 21_000],
      ['b/http', 21_001],
    ]);
    expect(problemsOf(doc)).toEqual([
      'combined: number 21000 was given to a/http and to b/http; b/http uses 21001',
    ]);
  });

  test('reads settings of hosts, images and policies', () => {
    const doc = docOf();
    const host = 'ab'.repeat(16) as HostId;
    const put = (pointer: string, value: unknown) =>
      doc.put([{ object: 'settings', pointer, value: value as string }]);
    put(`/hosts/${host}/name`, 'h1');
    put(`/hosts/${host}/roles/web`, true);
    put(`/hosts/${host}/roles/db`, false);
    put(`/hosts/${host}/meta/dc`, 'east');
    put(`/hosts/${host}/drained`, true);
    put('/images/demo~1site:7.1', ['0'.repeat(64), 'sha256:x', 12]);
    put('/images/bad', ['zz']);
    put('/autoApply', 'off');
    put('/hosts/nonsense/name', 'x');
    const view = buildEnvView('prod', doc);
    expect([...view.hosts]).toEqual([
      [
        host,
        { name: 'h1', roles: { web: true, db: false }, meta: { dc: 'east' }, isDrained: true },
      ],
    ]);
    expect([...view.images.values()]).toEqual([
      { reference: 'demo/site:7.1', manifest: '0'.repeat(64), imageId: 'sha256:x', sizeBytes: 12 },
    ]);
    expect(view.autoApply).toBe('off');
  });

  test('one edit among 10,000 services reads one object and keeps the rest', () => {
    const doc = docOf(
      ...Array.from({ length: 10_000 }, (_, i) => ({
        name: `s${i}`,
        ports: [{ name: 'http', container: 80 }],
      })),
    );
    doc.put(
      [...roleToLeaves({ name: 'web' })].map(([pointer, value]) => ({
        object: idOf(99_999),
        pointer,
        value,
      })),
    );
    const cache = new EnvViewCache('prod');
    const before = cache.update(doc, 'all');
    let reads = 0;
    const counting = {
      leaf: doc.leaf.bind(doc),
      objectIds: () => doc.objectIds(),
      leaves: (object: Parameters<typeof doc.leaves>[0]) => (reads++, doc.leaves(object)),
    };
    const after = cache.update(
      counting,
      doc.put([{ object: idOf(5), pointer: '/image', value: 'new' }]),
    );
    expect(reads).toBe(1);
    expect(after.services.get('s4')?.image).toBe('new');
    expect(after.services.get('s5')).toBe(before.services.get('s5'));
    expect(after.numbers).toBe(before.numbers);
  });
});
