import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Placement } from '../../../crdt/model.ts';
import { worldOf } from './failover-world.ts';
import type { World } from './failover-world.ts';

const perRole = (n: number, more = {}) => ({ count: { perRole: { min: n, max: n } }, ...more });
const placement = (world: World, n = 0) => world.placements[n] as Placement;
const kinds = (world: World) => world.events.map((event) => event.kind);

describe('failover of work that may run twice', () => {
  test('[trellis:R8] one successor starts within seconds, and hands back when the owner is well again', () => {
    const world = worldOf(3, [perRole(1)]);
    world.crash(0);
    world.run(9_000);
    expect(world.holders(placement(world))).toHaveLength(1);
    expect(kinds(world)).toEqual(['failover.started']);
    world.run(60_000);
    expect(world.holders(placement(world))).toHaveLength(1);
    world.recover(0);
    world.run(4_000);
    expect(world.holders(placement(world))).toHaveLength(2);
    world.run(11_000);
    expect(world.holders(placement(world))).toEqual(['h0']);
    expect(kinds(world)).toEqual(['failover.started', 'failover.ended']);
  });

  test('all but one vanish: everything waits five times as long, and somebody is told', () => {
    const world = worldOf(4, [perRole(4)]);
    world.split([0, 1, 1, 1]);
    world.run(4_000 + 14_000);
    // The one that was cut off reaches nobody and takes nothing; the three others lost one host only.
    expect(world.events.filter((event) => event.host === 'h0').map((event) => event.kind)).toEqual([
      'failover.brake',
    ]);
    expect(world.holders(placement(world, 0))).toHaveLength(2);
    const five = worldOf(5, [perRole(5)]);
    five.split([0, 0, 1, 1, 1]);
    five.run(4_000 + 14_000);
    expect(five.events.filter((event) => event.kind === 'failover.started')).toEqual([]);
    five.run(30_000);
    for (const one of five.placements) expect(five.holders(one)).toHaveLength(2);
    five.split([]);
    five.run(15_000);
    for (const one of five.placements) expect(five.holders(one)).toHaveLength(1);
  });

  test('relocatable: no and per-host slots stay with their host', () => {
    const world = worldOf(3, [perRole(1, { relocatable: 'no' })]);
    world.crash(0);
    world.run(60_000);
    expect(world.holders(placement(world))).toEqual([]);
  });

  test('a successor never has more than perHost.max, a fixed port twice, or more than it has room for', () => {
    for (const more of [
      { count: { perRole: { min: 2, max: 2 }, perHost: { min: 0, max: 1 } } },
      { ports: [{ name: 'http', container: 80, host: 8080 }] },
      { resources: { cpu: 3 } },
    ]) {
      const world = worldOf(2, [{ ...perRole(2), ...more }]);
      world.crash(0);
      world.run(60_000);
      expect(world.holders(placement(world, 0))).toEqual([]);
    }
  });

  test('[trellis:P8] what is exclusive never passes through here, whatever dies and however often', () => {
    const world = worldOf(3, [
      { isExclusive: true },
      perRole(1),
      { ...perRole(1), follows: 'data' },
    ]);
    const [alone, shared, following] = world.placements as [Placement, Placement, Placement];
    // A service that follows is known to be exclusive only by the storage it follows.
    world.exclusive = new Set([alone.service, following.service]);
    for (const host of [0, 1, 2, 0]) {
      world.crash(host);
      world.run(30_000);
      world.recover(host);
      world.run(30_000);
    }
    const texts = world.events.map((event) => event.text).join();
    expect(texts).toContain(shared.serviceName);
    expect(texts).not.toMatch(/\b(s0|s2)-0/);
    for (const node of [0, 1, 2]) expect(world.decides(node, alone)).toBe(false);
  });

  test('what a host has taken already counts: room and ports are not given twice', () => {
    // h0 runs two services that both want most of the one host that is left.
    for (const more of [
      { resources: { cpu: 3 } },
      { ports: [{ name: 'http', container: 80, host: 8080 }] },
    ]) {
      const world = worldOf(2, [perRole(1, more), perRole(1), perRole(1, more)]);
      world.placements = world.placements.map((one) => ({
        ...one,
        host: placement(world, 0).host,
      }));
      world.crash(0);
      world.run(60_000);
      const taken = world.placements.filter((one) => world.holders(one).length > 0);
      expect(taken.map((one) => one.serviceName)).toContain('s1');
      expect(taken).toHaveLength(2);
    }
  });

  test('onIsolation: stop stops own and taken work where nobody can see it; keep goes on', () => {
    const world = worldOf(3, [perRole(3, { onIsolation: 'stop' }), perRole(3)]);
    world.crash(0);
    world.run(15_000);
    world.split([0, 1, 2]);
    world.run(10_000);
    for (const one of world.placements) {
      const hasStopped = one.serviceName === 's0';
      expect(world.holders(one)).toHaveLength(hasStopped ? 0 : 1);
    }
    world.split([]);
    world.run(10_000);
    for (const one of world.placements) expect(world.holders(one)).toHaveLength(1);
  });

  test('the survivor of two hosts is not isolated while its gateway answers', () => {
    const world = worldOf(2, [perRole(2, { onIsolation: 'stop' })]);
    world.crash(0);
    world.run(15_000);
    for (const one of world.placements) expect(world.holders(one)).toEqual(['h1']);
  });

  test('after a brake the ranks still go one after the other', () => {
    const world = worldOf(5, [perRole(5)]);
    world.crash(0);
    world.crash(1);
    world.run(60_000);
    const started = world.events.filter((event) => event.kind === 'failover.started');
    expect(started.map((event) => event.text)).toHaveLength(2);
    expect(Math.min(...started.map((event) => event.atMs))).toBeGreaterThanOrEqual(4_000 + 15_000);
  });

  test('[trellis:R8] a flapping host moves a slot at most three times an hour', () => {
    const world = worldOf(4, [perRole(1)]);
    for (let i = 0; i < 20; i++) {
      world.crash(0);
      world.run(20_000);
      world.recover(0);
      world.run(20_000);
    }
    expect(kinds(world).filter((kind) => kind === 'failover.started')).toHaveLength(3);
    expect(kinds(world)).toContain('failover.limited');
    world.run(3_600_000);
    world.crash(0);
    world.run(12_000);
    expect(world.holders(placement(world))).toHaveLength(1);
  });

  const fault = fc.oneof(
    fc.record({ kind: fc.constant('crash' as const), host: fc.nat({ max: 4 }) }),
    fc.record({ kind: fc.constant('recover' as const), host: fc.nat({ max: 4 }) }),
    fc.record({
      kind: fc.constant('split' as const),
      groups: fc.array(fc.nat({ max: 1 }), { minLength: 5, maxLength: 5 }),
    }),
    fc.record({ kind: fc.constant('heal' as const) }),
  );
  type Fault = typeof fault extends fc.Arbitrary<infer T> ? T : never;
  const script = fc.array(
    fc.tuple(
      fault,
      fc.integer({ min: 1, max: 80 }).map((quarters) => quarters * 250),
    ),
    { maxLength: 12 },
  );

  function play(steps: readonly [Fault, number][], check: (world: World) => void): World {
    const world = worldOf(5, [perRole(3), perRole(2, { resources: { cpu: 1 } })]);
    for (const [one, forMs] of steps) {
      if (one.kind === 'crash') world.crash(one.host);
      if (one.kind === 'recover') world.recover(one.host);
      if (one.kind === 'split') world.split(one.groups);
      if (one.kind === 'heal') world.split([]);
      world.run(forMs, () => check(world));
    }
    return world;
  }

  test('after any faults: 15 s of quiet and every slot runs once, on its own host', () => {
    fc.assert(
      fc.property(script, (steps) => {
        const world = play(steps, () => {});
        world.split([]);
        for (let n = 0; n < 5; n++) world.recover(n);
        world.run(15_000);
        for (const one of world.placements) {
          const owner = world.nodes.find((node) => node.host.id === one.host);
          expect(world.holders(one)).toEqual([owner?.host.name]);
        }
      }),
      { numRuns: 60 },
    );
  });

  test('the same script gives the same events', () => {
    fc.assert(
      fc.property(script, (steps) => {
        expect(play(steps, () => {}).events).toEqual(play(steps, () => {}).events);
      }),
      { numRuns: 20 },
    );
  });

  // The count dies with a process: only hosts that stayed up the whole time remember it.
  test('at most three moves of a slot an hour, in whatever rhythm its host comes and goes', () => {
    const quarters = fc.integer({ min: 4, max: 120 });
    fc.assert(
      fc.property(fc.array(fc.tuple(quarters, quarters), { maxLength: 16 }), (steps) => {
        const world = worldOf(4, [perRole(1)]);
        for (const [down, up] of steps) {
          world.crash(0);
          world.run(down * 250);
          world.recover(0);
          world.run(up * 250);
        }
        const starts = world.events.filter((event) => event.kind === 'failover.started');
        expect(starts.length).toBeLessThanOrEqual(3);
      }),
      { numRuns: 60 },
    );
  });
});
