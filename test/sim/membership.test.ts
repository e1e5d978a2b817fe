/** The failure detector alone, in the simulator: `[trellis:R8]` needs it to be quick, `[trellis:R1]` to be calm. */
import { describe, expect, test } from 'vitest';
import type { NodeId } from '../../crdt/ids.ts';
import { disagreement, MembershipWorld } from './membership-node.ts';

const seeds = (count: number): number[] => Array.from({ length: count }, (_, index) => index + 1);

function settled(seed: number, nodeCount: number, network: object = {}): MembershipWorld {
  const world = new MembershipWorld({ seed, nodeCount, network });
  world.converge({ withinMs: 10_000 });
  world.run({ forMs: 5_000 });
  world.changes.length = 0;
  return world;
}

/** Milliseconds from the cut until every other node had declared the last one dead. */
function detectionMs(world: MembershipWorld, withinMs: number): number {
  const [victim, sinceMs] = [world.nodeCount - 1, world.nowMs];
  world.isolate(victim);
  const others = world.up().filter((index) => index !== victim);
  const isDone = world.runUntil(() => others.every((by) => world.status(by, victim) === 'dead'), {
    withinMs,
  });
  if (!isDone) throw new Error(`seed ${world.seed}: not declared dead within ${withinMs} ms`);
  return world.nowMs - sinceMs;
}

describe('the failure detector', () => {
  test('a cluster of one is content and says nothing', () => {
    const world = new MembershipWorld({ seed: 1, nodeCount: 1 });
    world.run({ forMs: 60_000 });
    expect(world.node(0).membership.list()).toEqual([]);
    expect(world.pending()).toBeNull();
  });

  test.each([
    [2, 5_000],
    [3, 5_000],
    [5, 5_500],
  ])(
    '[trellis:R8] of %i nodes a silently cut one is dead for all within %i ms, in about 3 s, and refutes on return',
    (nodeCount, withinMs) => {
      const took = seeds(25).map((seed) => {
        const world = settled(seed, nodeCount);
        const ms = detectionMs(world, withinMs);
        world.run({ forMs: 5_000 });
        world.heal();
        world.converge({ withinMs: 5_000 });
        expect(world.expectEvent('membership.refuted')).toBeGreaterThan(0);
        return ms;
      });
      expect(took.sort((a, b) => a - b)[12]).toBeLessThan(3_800);
    },
  );

  test.each([
    [20, 7_000],
    [50, 8_000],
  ])('of %i nodes a silently cut one is dead for all within %i ms', (nodeCount, withinMs) => {
    const world = settled(3, nodeCount);
    detectionMs(world, withinMs);
    world.heal();
    world.converge({ withinMs: 10_000 });
  });

  test('a killed process is found as fast, and its next life comes back with incarnation 0', () => {
    const world = settled(4, 3);
    world.crash(2);
    expect(world.runUntil(() => world.pending() === null, { withinMs: 4_000 })).toBe(true);
    expect(world.status(0, 2)).toBe('dead');
    world.start(2);
    world.converge({ withinMs: 3_000 });
    expect(world.node(2).membership.incarnation).toBeGreaterThan(0);
  });

  test('a restart within two seconds is no death', () => {
    const world = settled(5, 5);
    world.crash(2);
    world.run({ forMs: 500 });
    world.start(2);
    world.converge({ withinMs: 5_000 });
    expect(world.changesTo('dead', 2)).toEqual([]);
  });

  test('who leaves is left at once, not dead, and may come back', () => {
    const world = settled(6, 4);
    world.stop(3);
    world.run({ forMs: 300 });
    expect([0, 1, 2].map((by) => world.status(by, 3))).toEqual(['left', 'left', 'left']);
    world.run({ forMs: 20_000 });
    expect(world.changesTo('dead')).toEqual([]);
    world.start(3);
    world.converge({ withinMs: 3_000 });
  });

  test('a one-way cut between two of four kills neither: the others vouch for both', () => {
    const world = settled(7, 4);
    world.partition([0], [1], { bothWays: false });
    world.run({ forMs: 120_000 });
    expect(world.changesTo('dead')).toEqual([]);
    expect(world.status(0, 1)).toBe('alive');
    expect(world.status(1, 0)).toBe('alive');
  });

  test('two halves see each other dead, and nobody of their own', () => {
    const world = settled(8, 6);
    world.partition([0, 1, 2], [3, 4, 5]);
    world.run({ forMs: 40_000 });
    for (const by of [0, 1, 2]) {
      const seen = [0, 1, 2, 3, 4, 5].map((about) => world.status(by, about));
      expect(seen.join(' ')).toBe('alive alive alive dead dead dead');
    }
    world.heal();
    world.converge({ withinMs: 5_000 });
  });

  test('a flapping link settles as soon as it stops, and incarnations stay small', () => {
    const world = settled(9, 5);
    for (let i = 0; i < 20; i++) {
      world.isolate(4);
      world.run({ forMs: 4_000 });
      world.heal();
      world.run({ forMs: 3_000 });
    }
    world.converge({ withinMs: 10_000 });
    expect(world.node(4).membership.incarnation).toBeLessThan(100);
    expect(
      world
        .changesTo('dead')
        .filter((change) => change.by !== 4)
        .every((change) => change.node === world.ids[4]),
    ).toBe(true);
  });

  test('a paused node distrusts itself: it accuses nobody of what it slept through', () => {
    for (const seed of seeds(20)) {
      const world = settled(seed, 5);
      world.pause(2, { forMs: 20_000 });
      world.run({ forMs: 20_000 });
      expect(world.status(0, 2)).toBe('dead');
      const sinceMs = world.nowMs;
      world.converge({ withinMs: 5_000 });
      world.expectEvent('membership.starved');
      const accusations = world.changes.filter(
        (change) => change.by === 2 && change.atMs >= sinceMs && change.status === 'dead',
      );
      expect(accusations).toEqual([]);
      for (const about of [0, 1, 3, 4]) expect(world.changesTo('dead', about)).toEqual([]);
    }
  });

  test('a node that is starved again and again harms nobody but itself', () => {
    const world = settled(10, 5);
    for (let i = 0; i < 30; i++) {
      world.pause(1, { forMs: 1_500 });
      world.run({ forMs: 2_200 });
    }
    expect(world.changesTo('dead').filter((change) => change.node !== world.ids[1])).toEqual([]);
  });

  test('10 % loss: no false death in 20 node-hours', () => {
    for (const nodeCount of [2, 3, 5]) {
      const world = settled(nodeCount, nodeCount, { loss: 0.1, jitterMs: 20 });
      world.run({ forMs: 2 * 3_600_000 });
      expect(world.changesTo('dead')).toEqual([]);
    }
  });

  test('30 % loss, duplicates and reordering: a death is rare, never lasting, and real ones are still seen', () => {
    const rough = { loss: 0.3, duplicate: 0.3, reorder: 0.3, jitterMs: 20 };
    for (const seed of seeds(5)) {
      const world = settled(seed, 5, rough);
      world.run({ forMs: 600_000 });
      expect(world.changesTo('dead').length).toBeLessThan(3);
      world.converge({ withinMs: 20_000 });
      detectionMs(world, 15_000);
      world.heal();
      expect(world.runUntil(() => disagreement(world) === null, { withinMs: 30_000 })).toBe(true);
    }
  });

  test('an idle member of ten sends about two short messages a second', () => {
    const world = settled(12, 10);
    const before = world.ids.map((id) => ({ ...world.network.traffic(id) }));
    world.run({ forMs: 60_000 });
    for (const [index, id] of world.ids.entries()) {
      const traffic = world.network.traffic(id);
      const framesPerS = (traffic.framesSent - (before[index]?.framesSent ?? 0)) / 60;
      const bytesPerS = (traffic.bytesSent - (before[index]?.bytesSent ?? 0)) / 60;
      expect(framesPerS).toBeLessThan(4);
      expect(bytesPerS).toBeLessThan(150);
    }
  });

  test('strangers are neither answered nor listed', () => {
    const world = settled(13, 2);
    const stranger = 'ab'.repeat(32) as NodeId;
    const { membership } = world.node(0);
    const before = membership.list();
    membership.onFrame(stranger, { k: 'ping', q: 1, i: 1 }, 1e9);
    membership.heard(stranger, 1e9);
    expect(membership.list()).toEqual(before);
    expect(membership.statusOf(stranger)).toBe('dead');
  });
});
