/** Failover of work that may run twice, by the whole node in the simulator: time, overlap and the limit of moves. */
import { describe, expect, test } from 'vitest';
import type { ObjectId } from '../../crdt/ids.ts';
import { ClusterError } from '../../daemon/errors.ts';
import { serviceLeaves, TrellisWorld } from './trellis-world.ts';

const ids = { service: 'a'.repeat(16) as ObjectId, role: 'b'.repeat(16) as ObjectId };
/** Detection, 3 s of hold-down, start of the container; the published time of `failover-shared` is 10 s. */
const failoverWithinMs = 10_000;
/** Overlap allowed after a cut has ended. */
const overlapMs = 15_000;

/** A cluster that runs `count` instances of one service, planned by an operator. */
function running(seed: number, nodeCount: number, count: number): TrellisWorld {
  const world = new TrellisWorld({ seed, nodeCount });
  world.converge({ withinMs: 10_000 });
  const spec = {
    name: 'site',
    role: 'web',
    image: 'demo',
    count: { perRole: { min: count, max: count } },
  };
  let problem: ClusterError | null = null;
  world.node(0).edit(serviceLeaves(spec, ids), (result) => {
    if (result instanceof ClusterError) problem = result;
  });
  world.run({ forMs: 1_000 });
  world.node(0).apply((error) => (problem ??= error));
  world.run({ forMs: 5_000 });
  expect(problem).toBeNull();
  for (let slot = 0; slot < count; slot++)
    expect(world.hostsRunning(`site-${slot}`)).toHaveLength(1);
  return world;
}

function owner(world: TrellisWorld, instance: string): number {
  const [index] = world.hostsRunning(instance);
  if (index === undefined) throw new Error(`${instance} runs nowhere`);
  return index;
}

/** Milliseconds during which an instance ran on more than one host, and the longest gap without any, since `sinceMs`. */
function timeline(
  world: TrellisWorld,
  instance: string,
  sinceMs: number,
): { overlapMs: number; gapMs: number } {
  const on = new Set<number>();
  let [overlap, gap, lastMs] = [0, 0, sinceMs];
  const account = (atMs: number): void => {
    const forMs = atMs - Math.max(lastMs, sinceMs);
    if (forMs > 0 && on.size > 1) overlap += forMs;
    if (forMs > 0 && on.size === 0) gap = Math.max(gap, forMs);
    lastMs = atMs;
  };
  for (const change of world.engineChanges.filter((one) => one.instance === instance)) {
    account(change.atMs);
    if (change.isRunning) on.add(change.host);
    else on.delete(change.host);
  }
  account(world.nowMs);
  return { overlapMs: overlap, gapMs: gap };
}

describe('failover of work that may run twice', () => {
  test('[trellis:R8] a power-cut host: its instance runs elsewhere within 10 s, and goes back alone when it returns', () => {
    for (const seed of [1, 2, 3, 4, 5]) {
      const world = running(seed, 5, 3);
      const others = ['site-1', 'site-2'].map((name) => [name, owner(world, name)] as const);
      const victim = owner(world, 'site-0');
      const cutMs = world.nowMs;
      world.crash(victim, 'power');
      const isBack = world.runUntil(() => world.hostsRunning('site-0').length === 1, {
        withinMs: failoverWithinMs,
      });
      expect(isBack).toBe(true);
      expect(owner(world, 'site-0')).not.toBe(victim);
      world.run({ forMs: 30_000 });
      const returnedMs = world.nowMs;
      world.start(victim);
      world.run({ forMs: 30_000 });
      expect(world.hostsRunning('site-0')).toEqual([victim]);
      // It ran twice only while its own host was proving that it can; nothing else moved or restarted.
      expect(timeline(world, 'site-0', returnedMs).overlapMs).toBeLessThan(overlapMs);
      expect(timeline(world, 'site-0', cutMs).gapMs).toBeLessThan(failoverWithinMs);
      for (const [name, host] of others) {
        if (host !== victim)
          expect(
            world.engineChanges.filter((one) => one.instance === name && one.atMs > cutMs),
          ).toEqual([]);
      }
    }
  });

  test('[trellis:R8] a cut host keeps its work; the overlap ends within 15 s of the cut', () => {
    for (const seed of [1, 2, 3, 4, 5]) {
      const world = running(seed, 5, 3);
      const victim = owner(world, 'site-0');
      world.isolate(victim);
      world.run({ forMs: 60_000 });
      expect(world.hostsRunning('site-0')).toContain(victim);
      expect(world.hostsRunning('site-0')).toHaveLength(2);
      world.heal();
      world.run({ forMs: overlapMs });
      expect(world.hostsRunning('site-0')).toEqual([victim]);
    }
  });

  test('[trellis:R1] a dead daemon is no dead host for its own containers: they run on, and are adopted', () => {
    const world = running(6, 3, 3);
    const victim = owner(world, 'site-0');
    const sinceMs = world.nowMs;
    world.crash(victim, 'kill');
    world.run({ forMs: 1_000 });
    world.start(victim);
    world.run({ forMs: 20_000 });
    expect(world.engineChanges.filter((change) => change.atMs > sinceMs)).toEqual([]);
  });

  test(
    '[trellis:R8] a flapping host: at most 3 moves of a slot an hour, and right counts when it stops',
    { timeout: 60_000 },
    () => {
      for (const seed of [1, 2]) {
        const world = running(seed, 5, 3);
        const victim = owner(world, 'site-0');
        const sinceMs = world.nowMs;
        for (let i = 0; i < 14; i++) {
          world.isolate(victim);
          world.run({ forMs: 25_000 });
          world.heal();
          world.run({ forMs: 25_000 });
        }
        expect(world.nowMs - sinceMs).toBeLessThan(3_600_000);
        const moves = world.engineChanges.filter(
          (change) =>
            change.instance === 'site-0' &&
            change.isRunning &&
            change.atMs > sinceMs &&
            change.host !== victim,
        );
        expect(moves.length).toBeGreaterThan(0);
        expect(moves.length).toBeLessThanOrEqual(3);
        world.expectEvent('failover.limited');
        world.run({ forMs: overlapMs });
        for (const instance of ['site-0', 'site-1', 'site-2'])
          expect(world.hostsRunning(instance)).toHaveLength(1);
        expect(world.hostsRunning('site-0')).toEqual([victim]);
      }
    },
  );

  test('[trellis:R8] half of the hosts vanish: the brake holds failover back, and nothing runs twice for long', () => {
    const world = running(8, 6, 6);
    const sinceMs = world.nowMs;
    world.partition([0, 1, 2], [3, 4, 5]);
    world.run({ forMs: 12_000 });
    world.expectEvent('failover.brake');
    expect(world.engineChanges.filter((change) => change.atMs > sinceMs)).toEqual([]);
    world.heal();
    world.run({ forMs: 2 * overlapMs });
    for (let slot = 0; slot < 6; slot++) expect(world.hostsRunning(`site-${slot}`)).toHaveLength(1);
  });

  test('an isolated host in a cluster of five takes nothing over', () => {
    for (const seed of [9, 10, 11, 12, 13, 14]) {
      const world = running(seed, 5, 5);
      world.isolate(4);
      const before = world.engines[4]?.running();
      world.run({ forMs: 120_000 });
      expect(world.engines[4]?.running()).toEqual(before);
    }
  });
});
