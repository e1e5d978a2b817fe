import { describe, expect, test } from 'vitest';
import type { ObjectId } from '../../../crdt/ids.ts';
import { ClusterError } from '../../../daemon/errors.ts';
import { Peer, World } from './replicas.ts';

const object = 'a'.repeat(16) as ObjectId;
const put = (pointer: string, value: number) => [{ object, pointer, value }];

describe('edits that cannot be written', () => {
  test('are taken back and said so; the session signs no more, the next one does', async () => {
    const world = new World(1);
    const peer = world.peer(0);
    const login = peer.login();
    await peer.edit(login, put('/a', 1));
    peer.disk.isFull = true;
    expect(await peer.edit(login, put('/a', 2))).toMatchObject({ code: 'DISK_FULL' });
    expect(peer.replica.documents.document('env/prod').leaf(object, '/a')).toBe(1);
    expect(peer.retired).toEqual([login.session.id]);
    peer.disk.isFull = false;
    expect(await peer.edit(login, put('/a', 3))).toMatchObject({ code: 'LOGIN_REQUIRED' });
    expect(await peer.edit(peer.login(), put('/a', 3))).toMatchObject({ changed: 1 });
  });

  test('take along what was built on them, even where that was written: nobody could ever apply it', async () => {
    const world = new World(2);
    const peer = world.peer(0);
    const [one, two] = [peer.login(), peer.login()];
    await peer.edit(one, put('/a', 1));
    world.frames.length = 0;
    peer.disk.isHeld = true;
    peer.disk.isFull = true;
    const lost = peer.edit(one, put('/a', 2));
    peer.disk.isFull = false;
    const after = peer.edit(two, put('/b', 1));
    peer.disk.release();
    expect(await lost).toBeInstanceOf(ClusterError);
    expect(await after).toMatchObject({ code: 'DISK_FULL' });
    expect(peer.retired.toSorted()).toEqual([one.session.id, two.session.id].toSorted());
    expect(world.frames).toEqual([]);
    expect([...peer.replica.documents.document('env/prod').leaves(object)]).toEqual([['/a', 1]]);
  });
});

describe('coming back from disk', () => {
  test('everything acknowledged is there after a restart, and peers have nothing to add', async () => {
    const world = new World(2);
    const peer = world.peer(0);
    const login = peer.login();
    for (let count = 0; count < 5; count++) await peer.edit(login, put('/a', count));
    world.rounds(2);
    for (const isSaved of [true, false]) {
      if (isSaved) peer.replica.saveDocuments(true);
      const again = new Peer(world, peer.host, peer.disk, 2);
      again.replica.load();
      expect(again.replica.journal.damages()).toEqual([]);
      const { d, r } = again.replica.sync.summary();
      expect(d).toEqual(world.peer(1).replica.sync.summary().d);
      expect(r).toEqual(world.peer(1).replica.sync.summary().r);
    }
  });

  test('a snapshot ahead of the log, behind it, or of another world is no harm', async () => {
    const world = new World(1);
    const peer = world.peer(0);
    const login = peer.login();
    for (let count = 0; count < 3; count++) await peer.edit(login, put('/a', count));
    peer.replica.saveDocuments(true);
    const behind = peer.disk.files.get('document-env-prod') ?? new Uint8Array();
    await peer.edit(login, put('/a', 9));
    const log = peer.disk.logs.get('envelopes') ?? [];
    const cases = [
      { file: behind, records: log, value: 9 },
      { file: behind, records: log.slice(0, 2), value: 1 },
      { file: Uint8Array.from([1, 2, 3]), records: log, value: 9 },
      { file: new Uint8Array(), records: log, value: 9 },
    ];
    for (const { file, records, value } of cases) {
      peer.disk.files.set('document-env-prod', file);
      for (const name of ['envelopes', 'envelopes-copy']) peer.disk.logs.set(name, [...records]);
      const again = new Peer(world, peer.host, peer.disk, 2);
      again.replica.load();
      expect(again.replica.documents.document('env/prod').leaf(object, '/a')).toBe(value);
    }
  });

  test('a gap in the log: what follows waits, is reported, and counts again once peers have filled it', async () => {
    const world = new World(2);
    const peer = world.peer(0);
    const login = peer.login();
    for (let count = 0; count < 4; count++) await peer.edit(login, put(`/${count}`, count));
    world.rounds(2);
    for (const name of ['envelopes', 'envelopes-copy'])
      peer.disk.logs.set(name, (peer.disk.logs.get(name) ?? []).toSpliced(1, 1));
    const again = new Peer(world, peer.host, peer.disk, 2);
    world.peers[0] = again;
    again.replica.load();
    expect(again.replica.documents.document('env/prod').leaves(object).size).toBe(1);
    expect(again.replica.documents.parkedCount()).toBe(2);
    expect(again.replica.journal.damages()).toMatchObject([{ name: 'envelopes', kind: 'corrupt' }]);
    world.rounds(2);
    expect(again.replica.documents.document('env/prod').leaves(object).size).toBe(4);
  });

  test('records that make no sense are left out and reported', () => {
    const world = new World(1);
    const peer = world.peer(0);
    for (const name of ['envelopes', 'roster']) peer.disk.logs.set(name, [Uint8Array.from([1, 2])]);
    peer.disk.files.set('plan-prod', Uint8Array.from([7]));
    peer.disk.files.set('addresses', Uint8Array.from([7]));
    const again = new Peer(world, peer.host, peer.disk, 2);
    again.replica.load();
    expect(again.replica.journal.damages().map((damage) => damage.name)).toContain('envelopes');
    expect(again.replica.plans.current('prod')).toBeNull();
  });
});

test('a fact that is too large is left out and the node goes on', () => {
  const world = new World(1, { factBytesMax: 1_000 });
  const { replica, host } = world.peer(0);
  replica.publish('docker', 'small');
  replica.publish('docker', 'x'.repeat(2_000));
  expect(replica.facts.get('docker', host.node, 0)?.value).toBe('small');
});
