import { describe, expect, test } from 'vitest';
import { BenchWorld } from './bench-world.ts';

describe('one lease, three voters', () => {
  test('the best candidate becomes active, once, and renews', () => {
    const world = new BenchWorld({ hosts: 3 }).begin();
    world.run(500);
    expect(world.holder()).toBe(world.hosts[0]);
    const { epoch } = world.hosts[0]!.lease();
    world.run(10_000);
    expect(world.holder()).toBe(world.hosts[0]);
    expect(world.hosts[0]!.lease().epoch).toBe(epoch);
    expect(world.hosts[0]!.noticesOf('open')).toHaveLength(1);
  });

  test('after the death of its host another is active within exclusion plus its turn', () => {
    const world = new BenchWorld({ hosts: 3 }).begin();
    world.run(2_345);
    world.hosts[0]!.isAlive = false;
    const took = world.runUntil(() => world.holder() !== null, 5_000);
    expect(took).toBeLessThan(1_800);
    expect(took).toBeGreaterThan(1_000);
    expect(world.holder()!.lease().epoch).toBe(2);
  });
});
