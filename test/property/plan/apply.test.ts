import fc from 'fast-check';
import { expect, test } from 'vitest';
import { stringify } from 'yaml';
import { applyEdits, diffFile } from '../../../crdt/apply-file.ts';
import type { DesiredFile } from '../../../crdt/desired-file.ts';
import { parseDesiredFile } from '../../../crdt/desired-file.ts';
import { exportFile } from '../../../crdt/export-file.ts';
import type { ObjectId } from '../../../crdt/ids.ts';
import type { LeafValue } from '../../../crdt/leaves.ts';
import type { EnvView, Service, Storage } from '../../../crdt/model.ts';
import { resolveNumbers } from '../../../crdt/numbers.ts';
import {
  roleFromLeaves,
  roleToLeaves,
  serviceFromLeaves,
  serviceToLeaves,
} from '../../../crdt/service-leaves.ts';
import { storageFromLeaves, storageToLeaves } from '../../../crdt/storage-leaves.ts';
import { buildEnvView, EnvViewCache } from '../../../crdt/view.ts';
import { desiredFile, idMaker, MemoryDocument, serviceSpec } from './arbitraries.ts';

const id = '00000000000000aa' as ObjectId;
const options = { prune: true, overwrite: false };

function apply(
  doc: MemoryDocument,
  file: DesiredFile,
  more: Partial<Parameters<typeof applyEdits>[0]> = {},
) {
  const view = buildEnvView('prod', doc);
  const inputs = {
    file,
    source: 'site.yaml',
    current: { view, reader: doc },
    lastApplied: null,
    options,
    newId: idMaker(),
    ...more,
  };
  const result = applyEdits(inputs);
  doc.put(result.edit.puts);
  return result;
}

/** What a view says, without who made it and under which id. */
function content(view: EnvView): unknown {
  const plain = (object: { id: ObjectId; source: string }) => ({ ...object, id: '', source: '' });
  return {
    roles: [...view.roles].map(([name, role]) => [name, plain(role)]),
    services: [...view.services].map(([name, service]) => [name, plain(service)]),
    storage: [...view.storage].map(([name, storage]) => [name, plain(storage)]),
  };
}

test('a service goes through leaves and comes back the same', () => {
  fc.assert(
    fc.property(serviceSpec('site'), (spec) => {
      const service = serviceFromLeaves(id, serviceToLeaves(spec)) as Service;
      expect(service).toMatchObject({
        id,
        name: 'site',
        role: spec.role,
        command: spec.command ?? [],
      });
      expect(serviceFromLeaves(id, serviceToLeaves(service))).toEqual(service);
      expect(serviceFromLeaves(id, new Map([...serviceToLeaves(spec)].toReversed()))).toEqual(
        service,
      );
    }),
  );
});

test('leaves of a newer version are ignored on reading and survive an apply', () => {
  fc.assert(
    fc.property(desiredFile, desiredFile, (first, second) => {
      const doc = new MemoryDocument();
      apply(doc, first);
      const foreign = doc
        .objectIds()
        .map((object) => ({ object, pointer: '/ports/http/future', value: 'x' as LeafValue }));
      doc.put(foreign);
      doc.put([{ object: 'ffffffffffffffff' as ObjectId, pointer: '/kind', value: 'volume' }]);
      expect(buildEnvView('prod', doc).problems.filter((p) => p.kind === 'poison')).toEqual([]);
      apply(doc, second);
      for (const { object, pointer } of foreign) expect(doc.leaf(object, pointer)).toBe('x');
    }),
  );
});

test('a role goes through leaves and comes back the same', () => {
  const role = { id, name: 'web', source: 'f', minHosts: 2, isDedicated: true };
  expect(roleFromLeaves(id, roleToLeaves(role))).toEqual(role);
});

test('a storage goes through leaves and comes back the same', () => {
  fc.assert(
    fc.property(desiredFile, ({ storage = [] }) => {
      for (const spec of storage) {
        const once = storageFromLeaves(id, storageToLeaves(spec)) as Storage;
        expect(once).toMatchObject({ name: spec.name, role: spec.role, path: spec.path });
        expect(storageFromLeaves(id, storageToLeaves(once))).toEqual(once);
      }
    }),
  );
});

test('[trellis:R5] applying twice writes nothing the second time, and the file is what is there', () => {
  fc.assert(
    fc.property(desiredFile, desiredFile, (first, second) => {
      const doc = new MemoryDocument();
      const newId = idMaker();
      apply(doc, first, { newId });
      const then = doc.copy();
      expect(apply(doc, second, { newId, lastApplied: then }).stale).toEqual([]);
      const fresh = new MemoryDocument();
      apply(fresh, second);
      expect(content(buildEnvView('prod', doc))).toEqual(content(buildEnvView('prod', fresh)));
      const again = apply(doc, second, { newId, lastApplied: doc.copy() });
      expect(again.edit.puts).toEqual([]);
      expect(again.summary).toEqual([]);
      const view = buildEnvView('prod', doc);
      expect(diffFile({ file: second, source: 'x', current: { view, reader: doc } })).toEqual([]);
    }),
  );
});

test('an exported environment read back changes nothing, under any source', () => {
  fc.assert(
    fc.property(desiredFile, (file) => {
      const doc = new MemoryDocument();
      apply(doc, file);
      const view = buildEnvView('prod', doc);
      const parsed = parseDesiredFile(stringify(exportFile(view)), 'all.yaml', view);
      if ('errors' in parsed) throw new Error(JSON.stringify(parsed.errors));
      for (const source of ['site.yaml', 'all.yaml']) {
        expect(apply(doc, parsed.ok, { source, lastApplied: doc.copy() }).edit.puts).toEqual([]);
      }
      const fresh = new MemoryDocument();
      apply(fresh, parsed.ok);
      expect(content(buildEnvView('prod', fresh))).toEqual(content(view));
    }),
  );
});

test('only fields that differ are written', () => {
  fc.assert(
    fc.property(desiredFile, desiredFile, (first, second) => {
      const doc = new MemoryDocument();
      const newId = idMaker();
      apply(doc, first, { newId });
      const before = doc.copy();
      for (const put of apply(doc, second, { newId }).edit.puts) {
        expect(before.leaf(put.object, put.pointer)).not.toEqual(put.value);
      }
    }),
  );
});

test('three-way: a field changed elsewhere is refused, and overwritten only on demand', () => {
  const file = (image: string): DesiredFile => ({
    fileName: 'f',
    roles: [],
    services: [{ name: 'site', role: 'web', image, env: { A: '1' } }],
  });
  const doc = new MemoryDocument();
  apply(doc, file('a:1'));
  const applied = doc.copy();
  const object = buildEnvView('prod', doc).services.get('site')?.id as ObjectId;
  doc.put([
    { object, pointer: '/image', value: 'a:2' },
    { object, pointer: '/isEnabled', value: false },
  ]);

  const refused = apply(doc, file('a:1'), { lastApplied: applied });
  expect(refused.stale).toEqual([
    {
      object: 'service',
      name: 'site',
      pointer: '/image',
      applied: 'a:1',
      current: 'a:2',
      wanted: 'a:1',
    },
  ]);
  expect(refused.edit.puts).toEqual([]);
  // The same change made in the file meanwhile is no disagreement.
  expect(apply(doc, file('a:2'), { lastApplied: applied })).toMatchObject({
    stale: [],
    summary: [],
  });
  // A field added elsewhere that the file leaves out is one.
  doc.put([{ object, pointer: '/env/B', value: 'x' }]);
  expect(apply(doc, file('a:2'), { lastApplied: applied }).stale).toMatchObject([
    { pointer: '/env/B' },
  ]);

  const forced = apply(doc, file('a:3'), {
    lastApplied: applied,
    options: { prune: true, overwrite: true },
  });
  expect(forced.stale).toEqual([]);
  const service = buildEnvView('prod', doc).services.get('site');
  expect(service).toMatchObject({ image: 'a:3', env: { A: '1' }, isEnabled: false });
});

test('prune removes only what the same source made, and refuses what was changed meanwhile', () => {
  const one = (name: string): DesiredFile => ({
    fileName: 'f',
    roles: [],
    services: [{ name, role: 'web', image: 'a', ports: [{ name: 'http', container: 80 }] }],
  });
  const nothing: DesiredFile = { fileName: 'f', roles: [], services: [] };
  const doc = new MemoryDocument();
  const newId = idMaker();
  apply(doc, one('mine'), { newId });
  apply(doc, one('theirs'), { newId, source: 'other.yaml' });
  expect(apply(doc, nothing, { options: { prune: false, overwrite: false } })).toMatchObject({
    edit: { puts: [] },
    summary: [{ kind: 'absent', name: 'mine' }],
  });
  const applied = doc.copy();
  const mine = buildEnvView('prod', doc).services.get('mine')?.id as ObjectId;
  doc.put([{ object: mine, pointer: '/image', value: 'b' }]);
  expect(apply(doc, nothing, { lastApplied: applied }).stale).toMatchObject([
    { name: 'mine', pointer: '/deleted' },
  ]);
  expect(apply(doc, nothing, { lastApplied: doc.copy() }).summary).toMatchObject([
    { kind: 'delete', name: 'mine' },
  ]);
  expect([...buildEnvView('prod', doc).services.keys()]).toEqual(['theirs']);
  expect(doc.leaf('names', '/service/mine')).toBe(null);
  expect(doc.leaf('settings', '/numbers/mine/http')).toBe(null);
  // Re-created: a new object, the same number.
  const before = buildEnvView('prod', applied).numbers.get('mine/http');
  apply(doc, one('mine'), { newId });
  const again = buildEnvView('prod', doc);
  expect(again.services.get('mine')?.id).not.toBe(mine);
  expect(again.numbers.get('mine/http')).toBe(before);
});

test('objects of commands are taken over, objects of other files keep what this one does not name', () => {
  const doc = new MemoryDocument();
  const file: DesiredFile = {
    fileName: 'f',
    roles: [{ name: 'web', minHosts: 3 }],
    services: [{ name: 'site', role: 'web', image: 'b' }],
  };
  doc.put(
    [...roleToLeaves({ name: 'web', source: 'command', minHosts: 1, isDedicated: true })].map(
      ([pointer, value]) => ({ object: id, pointer, value }),
    ),
  );
  apply(
    doc,
    {
      fileName: 'g',
      roles: [],
      services: [{ name: 'site', role: 'web', image: 'a', env: { A: '1' } }],
    },
    { source: 'other.yaml' },
  );
  apply(doc, file);
  const view = buildEnvView('prod', doc);
  expect(view.roles.get('web')).toMatchObject({
    source: 'site.yaml',
    minHosts: 3,
    isDedicated: false,
  });
  expect(view.services.get('site')).toMatchObject({
    source: 'other.yaml',
    image: 'b',
    env: { A: '1' },
  });
  apply(doc, file, { options: { prune: false, overwrite: true } });
  expect(buildEnvView('prod', doc).services.get('site')).toMatchObject({
    source: 'site.yaml',
    env: {},
  });
});

test('numbers: one each, kept for ever, the same whatever the order', () => {
  fc.assert(
    fc.property(
      fc.uniqueArray(fc.string({ minLength: 1, maxLength: 3 }), { maxLength: 40 }),
      fc.array(fc.tuple(fc.nat({ max: 39 }), fc.integer({ min: 19_990, max: 20_010 })), {
        maxLength: 40,
      }),
      (keys, pairs) => {
        const recorded = new Map(
          pairs.flatMap(([i, n]) => (keys[i] === undefined ? [] : [[keys[i], n] as const])),
        );
        const { numbers, moved } = resolveNumbers(recorded, keys);
        expect(new Set(numbers.values()).size).toBe(keys.length);
        for (const n of numbers.values()) expect(n >= 20_000 && n <= 29_999).toBe(true);
        expect(resolveNumbers(new Map([...recorded].toReversed()), keys.toReversed())).toEqual({
          numbers,
          moved,
          without: [],
        });
        expect(resolveNumbers(numbers, keys)).toEqual({ numbers, moved: [], without: [] });
      },
    ),
  );
  const all = Array.from({ length: 10_001 }, (_, i) => `s/${i}`);
  expect(resolveNumbers(new Map(), all).without).toHaveLength(1);
});

test('after any edit the cached view is the view built from nothing', () => {
  const values = fc.constantFrom<LeafValue>(
    null,
    true,
    false,
    1,
    7,
    'web',
    'db',
    'service',
    'role',
    'storage',
    '/srv/db',
    'order',
    'a:1',
    ['x'],
  );
  const pointers = fc.constantFrom(
    '/kind',
    '/name',
    '/role',
    '/image',
    '/deleted',
    '/dependsOn/db',
    '/dependsOn/db/port',
    '/ports/http/container',
    '/ports/http/host',
    '/env/A',
    '/count/perHost/min',
    '/placement/policy',
    '/isExclusive',
    '/follows',
    '/path',
    '/lease/preemptAfterMs',
    '/lease/frozen',
    '/restarts',
  );
  const owners = fc.constantFrom(
    ...['1', '2', '3', 'a'].map((n) => n.padStart(16, '0') as ObjectId),
  );
  const put = fc.oneof(
    { weight: 6, arbitrary: fc.record({ object: owners, pointer: pointers, value: values }) },
    {
      weight: 1,
      arbitrary: fc.record({
        object: fc.constant('names' as const),
        pointer: fc.constantFrom('/service/db', '/role/web', '/storage/db'),
        value: fc.constantFrom<LeafValue>(null, '1'.padStart(16, '0'), '2'.padStart(16, '0')),
      }),
    },
    {
      weight: 1,
      arbitrary: fc.record({
        object: fc.constant('settings' as const),
        pointer: fc.constantFrom(
          '/numbers/db/http',
          '/autoApply',
          '/frozen',
          '/voters',
          `/hosts/${'a'.repeat(32)}/frozen`,
          `/hosts/${'a'.repeat(32)}/roles/web`,
        ),
        value: values,
      }),
    },
  );
  fc.assert(
    fc.property(
      desiredFile,
      fc.array(fc.array(put, { maxLength: 3 }), { maxLength: 12 }),
      (file, edits) => {
        const doc = new MemoryDocument();
        apply(doc, file);
        const cache = new EnvViewCache('prod');
        cache.update(doc, 'all');
        for (const edit of edits) {
          const view = cache.update(doc, doc.put(edit));
          const fresh = buildEnvView('prod', doc);
          expect(view).toEqual(fresh);
          expect([...view.services.keys()]).toEqual([...fresh.services.keys()]);
        }
      },
    ),
  );
});

test('the view is a function of the leaves, not of the order in which objects are listed', () => {
  fc.assert(
    fc.property(desiredFile, desiredFile, (a, b) => {
      const doc = new MemoryDocument();
      const newId = idMaker();
      apply(doc, a, { newId });
      apply(doc, b, {
        newId,
        source: 'b',
        current: { view: buildEnvView('x', new MemoryDocument()), reader: new MemoryDocument() },
      });
      const reversed = {
        leaf: doc.leaf.bind(doc),
        leaves: doc.leaves.bind(doc),
        objectIds: () => doc.objectIds().toReversed(),
      };
      expect(buildEnvView('prod', reversed)).toEqual(buildEnvView('prod', doc));
    }),
  );
});
