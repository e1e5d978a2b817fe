import { expect, test } from 'vitest';
import type { StorageFact } from '../../../crdt/model.ts';
import { applyOperations } from '../../../daemon/operations/apply.ts';
import type { StorageRow } from '../../../daemon/operations/lease-answers.ts';
import { storageOperations } from '../../../daemon/operations/storage.ts';
import { FakeLeases } from './fake-leases.ts';
import { FakeNode, runOperation } from './fake-node.ts';

const file = `apiVersion: trellis/v1
roles: { db: {} }
storage:
  dbdata: { role: db, driver: sync, exclusive: true, path: /srv/db }
`;

test('storage ls: who has the original, and how far each copy is [trellis:P35]', async () => {
  const node = new FakeNode(['h1', 'h2', 'h3', 'h4']);
  for (const host of node.hostList.slice(0, 3)) host.roles = ['db'];
  const leases = new FakeLeases(node, ['h1', 'h2', 'h3']);
  const all = [...storageOperations, ...applyOperations];
  await runOperation(all, 'desired/apply', { text: file }, { node, leases });
  const id = node.envView().storage.get('dbdata')?.id;
  const copy = (changes: object): StorageFact =>
    ({
      v: 1,
      storage: [{ name: 'dbdata', id, epoch: 3, version: 9, reason: null, bytes: 7, ...changes }],
    }) as unknown as StorageFact;
  leases.hold(`storage/prod/${id}`, 3, { title: 'storage dbdata' });
  node.setFact('storage', 'h1', copy({ state: 'active', lagMs: 0, isInSync: true }));
  node.setFact('storage', 'h2', copy({ state: 'replica', lagMs: 900, isInSync: true, version: 8 }));
  node.host('h2').liveness = 'dead';

  const rows = (await runOperation(all, 'storage/ls', {}, { node, leases })) as StorageRow[];
  expect(rows).toMatchObject([
    { name: 'dbdata', driver: 'sync', lease: 'storage dbdata', active: 'h1', epoch: 3 },
  ]);
  expect(rows[0]?.hosts).toMatchObject([
    { host: 'h1', state: 'active', isAlive: true, epoch: 3, version: 9, lagMs: 0, bytes: 7 },
    { host: 'h2', state: 'replica', isAlive: false, version: 8, lagMs: 900, isInSync: true },
    { host: 'h3', state: 'unknown', lagMs: null, isInSync: false, ageMs: null },
  ]);
});
