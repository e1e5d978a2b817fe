import { describe, expect, test } from 'vitest';
import { encode } from '../../../crdt/codec.ts';
import type { ObjectId } from '../../../crdt/ids.ts';
import { decodeMessage, encodeMessage } from '../../../daemon/replication/wire.ts';
import { emptyInputs, kit, planOf, World } from './replicas.ts';
import type { Frame, Peer } from './replicas.ts';

const object = (index: number): ObjectId => index.toString(16).padStart(16, '0') as ObjectId;

function typeOf(frame: Frame): string {
  const message = decodeMessage(kit.clusterId, frame.bytes);
  return 'rejected' in message ? message.rejected : message.t;
}

/** Something on every plane. */
async function busy(peer: Peer, label: number): Promise<void> {
  const login = peer.login();
  for (let count = 0; count < 3; count++) {
    await peer.edit(login, [{ object: object(label), pointer: `/n${count}`, value: count }]);
    await peer.edit(
      login,
      [{ object: 'settings', pointer: `/s${label}`, value: count }],
      'cluster',
    );
    peer.replica.publish('host', { label, count });
  }
}

function same(world: World): void {
  const [first, ...others] = world.peers.map((peer) => peer.state());
  for (const other of others) expect(other).toEqual(first);
}

describe('anti-entropy', () => {
  test('digests alone bring everything everywhere when every rumour is lost', async () => {
    const world = new World(3);
    for (const [index, peer] of world.peers.entries()) await busy(peer, index);
    const plan = emptyInputs(['h1']);
    const { replica } = world.peer(1);
    const login = world.peer(1).login();
    replica.commitPlan(login.session, 'prod', { inputs: plan, plan: planOf(plan) }, () => {});
    world.frames.length = 0;
    world.rounds(8);
    same(world);
    for (const peer of world.peers) {
      expect(peer.replica.documents.parkedCount()).toBe(0);
      expect(peer.replica.documents.document('env/prod').objectIds()).toHaveLength(3);
      expect(peer.replica.facts.all('host', 0)).toHaveLength(3);
      expect(peer.replica.plans.current('prod')).not.toBeNull();
    }
  });

  test.each([2, 3])('%d replicas converge though a third of all frames is lost', async (count) => {
    const world = new World(count);
    for (const [index, peer] of world.peers.entries()) await busy(peer, index);
    let number = 0;
    world.rounds(20, () => ++number % 3 === 0);
    world.rounds(3);
    same(world);
  });

  test('equal digests end it: two who agree exchange summaries and nothing else', async () => {
    const world = new World(2);
    await busy(world.peer(0), 0);
    world.rounds(4);
    same(world);
    const seen: string[] = [];
    world.rounds(3, (frame) => {
      seen.push(typeOf(frame));
      return false;
    });
    expect(new Set(seen)).toEqual(new Set(['sum']));
  });

  test('a newcomer gets more than one answer holds, in bounded frames', async () => {
    const world = new World(2);
    const source = world.peer(0);
    const login = source.login();
    const text = 'x'.repeat(100_000);
    for (let count = 0; count < 60; count++)
      await source.edit(login, [{ object: object(1), pointer: `/${count}`, value: text }]);
    world.frames.length = 0;
    const types = new Map<string, number>();
    world.rounds(1, (frame) => {
      types.set(typeOf(frame), (types.get(typeOf(frame)) ?? 0) + 1);
      return false;
    });
    same(world);
    expect(types.get('push')).toBeGreaterThan(20);
    expect(world.largestFrame).toBeLessThan(700_000);
  });

  test('what the other refuses is not sent without a pause', async () => {
    const world = new World(2);
    const source = world.peer(0);
    const login = source.login();
    const text = 'x'.repeat(300_000);
    for (let count = 0; count < 20; count++)
      await source.edit(login, [{ object: object(1), pointer: '/p', value: `${count} ${text}` }]);
    world.frames.length = 0;
    const other = world.peer(1);
    other.replica.documents.accept = () => [];
    world.sent = 0;
    world.rounds(1);
    // One exchange each way, started by both; a storm would never end.
    expect(world.sent).toBeLessThan(80);
  });
});

describe('rumours', () => {
  test('what is new is passed on once; what is known is not', async () => {
    const world = new World(3);
    await busy(world.peer(0), 0);
    world.deliver();
    same(world);
    world.sent = 0;
    const login = world.peer(0).login();
    world.deliver();
    expect(world.sent).toBeLessThanOrEqual(4);
    world.sent = 0;
    await world.peer(0).edit(login, [{ object: 'settings', pointer: '/a', value: 1 }]);
    world.deliver();
    expect(world.sent).toBeLessThanOrEqual(4);
    same(world);
  });

  test('nothing of an edit is sent before it is on disk', async () => {
    const world = new World(2);
    const peer = world.peer(0);
    const login = peer.login();
    world.deliver();
    peer.disk.isHeld = true;
    const done = peer.edit(login, [{ object: 'settings', pointer: '/a', value: 1 }]);
    expect(world.frames).toEqual([]);
    peer.disk.release();
    expect(await done).toMatchObject({ changed: 1 });
    expect(world.frames).toHaveLength(1);
  });

  test('an edit too large for a rumour arrives all the same', async () => {
    const world = new World(2);
    const login = world.peer(0).login();
    const value = 'x'.repeat(900_000);
    await world.peer(0).edit(login, [{ object: 'settings', pointer: '/a', value }]);
    world.deliver();
    same(world);
  });

  test('in a large cluster a few are told, the ring neighbour among them', () => {
    const world = new World(20);
    const peer = world.peer(0);
    peer.replica.publish('host', 1);
    const told = world.frames.map((frame) => frame.to);
    expect(new Set(told).size).toBe(world.config.rumourFanout);
    const others = world.hosts.map((host) => host.node).filter((node) => node !== peer.host.node);
    const next = others.toSorted().find((node) => node > peer.host.node) ?? others.toSorted()[0];
    expect(told).toContain(next);
  });
});

describe('garbage', () => {
  test('damaged records of every plane are counted and change nothing', async () => {
    const world = new World(2);
    await busy(world.peer(0), 0);
    const frames = world.frames.splice(0);
    const before = world.peer(1).state();
    for (const frame of frames) {
      const message = decodeMessage(kit.clusterId, frame.bytes);
      if ('rejected' in message || message.t !== 'push') continue;
      const cut = (bytes: Uint8Array): Uint8Array =>
        bytes.map((byte, at) => (at % 9 ? byte : byte ^ 1));
      const { r = [], e = [], f = [], p = [] } = message;
      const push = {
        r: r.map(cut),
        e: e.map(cut),
        f: f.map(([bytes, age]) => [cut(bytes), age] as const),
        p: p.map(cut),
      };
      world.peer(1).replica.onMessage(frame.from, { t: 'push', ...push, more: true });
    }
    expect(world.peer(1).state()).toEqual(before);
    expect(world.frames).toEqual([]);
    expect(world.peer(1).replica.facts.rejected).toBeGreaterThan(0);
  });

  test('digests that make no sense get an answer and do no harm', () => {
    const world = new World(2);
    const [a, b] = [world.peer(0), world.peer(1)];
    const nonsense = 'zz' as never;
    const docs = Object.fromEntries(
      Array.from({ length: 500 }, (_, at) => [`env/e${at}`, nonsense]),
    );
    a.replica.onMessage(b.host.node, {
      t: 'sum',
      r: nonsense,
      d: docs,
      f: nonsense,
      p: { x: nonsense },
    });
    a.replica.onMessage(b.host.node, {
      t: 'det',
      back: false,
      r: new Uint8Array(16),
      d: { 'no name': { s: [5, nonsense] } },
      f: { nobody: { t: [9, 9] } },
      p: { constructor: nonsense },
    });
    a.replica.onMessage(b.host.node, { t: 'want', h: nonsense, o: 2 ** 50 });
    a.replica.onMessage(b.host.node, { t: 'part', h: nonsense, o: 0, n: 1, b: new Uint8Array(1) });
    world.deliver();
    expect(a.replica.documents.names().filter((name) => name.startsWith('env/e'))).toEqual([]);
    same(world);
    expect(decodeMessage(kit.clusterId, encode({ v: 1 }))).toHaveProperty('rejected');
    expect(encodeMessage(kit.clusterId, { t: 'push' }).length).toBeGreaterThan(0);
  });
});
