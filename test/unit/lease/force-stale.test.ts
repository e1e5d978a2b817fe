import { expect, test } from 'vitest';
import { BenchWorld, db } from './bench-world.ts';

test('a host with a stale copy takes over only by force [trellis:P37]', () => {
  const world = new BenchWorld({ hosts: 3 });
  const [holder, , stale] = world.hosts;
  const [first, , last] = world.ids;
  world.leases = world.leases.map((lease) => ({
    ...lease,
    candidates: [first!],
    forceable: [last!],
  }));
  world.begin();
  world.run(2_000);
  expect(world.holder()).toBe(holder);
  holder!.isAlive = false;
  // It would not even be let when it tried by itself.
  world.run(10_000);
  expect(world.holder()).toBeNull();
  const id = stale!.command({ kind: 'force-active', name: db, of: world.ids[0]! });
  world.run(10_000);
  expect(stale!.replies.get(id)).toMatchObject({ isOk: true });
  expect(world.holder()).toBe(stale);
  world.run(5_000);
  expect(world.holder()).toBe(stale);
});

test('a host that is neither may not even by force', () => {
  const world = new BenchWorld({ hosts: 3 });
  world.leases = world.leases.map((lease) => ({ ...lease, candidates: [world.ids[0]!] }));
  world.begin();
  const id = world.hosts[1]!.command({ kind: 'force-active', name: db, of: world.ids[0]! });
  expect(world.hosts[1]!.replies.get(id)).toMatchObject({ isOk: false, code: 'LEASE_DENIED' });
});

test('force of a host that has it no more, or not any longer alone, leaves it to the other', () => {
  for (const isCut of [false, true]) {
    const world = new BenchWorld({ hosts: 3 });
    const [first, second, third] = world.hosts;
    world.begin();
    world.run(2_000);
    expect(world.holder()).toBe(first);
    // It moves on, and the operator still means the first.
    world.lose = ({ from, to }) => from === first!.self || to === first!.self;
    world.run(10_000);
    expect(world.holder()).toBe(second);
    // Others wait for its end; by force or in their turn is one here.
    world.leases = world.leases.map((lease) => ({ ...lease, candidates: [...world.ids] }));
    if (isCut) second!.isAlive = false;
    const id = third!.command({ kind: 'force-active', name: db, of: first!.self });
    world.run(1_000);
    expect(third!.replies.get(id)).toMatchObject({
      code: 'LEASE_BUSY',
      details: { holder: second!.self },
    });
  }
});
