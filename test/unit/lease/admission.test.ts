import { describe, expect, test } from 'vitest';
import { Admission, admissionLimits } from '../../../daemon/lease/admission.ts';
import { leaseOf } from './bench-world.ts';
import { BusyWorld } from './busy-world.ts';

const { windowMax, windowMin, halvedMsMin } = admissionLimits;

/** Leases from..to, each host the best for its share. */
function spread(world: BusyWorld, from: number, to: number): void {
  for (let index = from; index < to; index++) {
    const first = index % world.ids.length;
    const candidates = [...world.ids.slice(first), ...world.ids.slice(0, first)];
    const name = `service/prod/s${index}`;
    world.leases.push(leaseOf({ name, gate: name, traffic: [], candidates }));
  }
}

function busyWorld(hosts: number, leases: number): BusyWorld {
  const world = new BusyWorld({ hosts });
  world.leases = [];
  spread(world, 0, leases);
  return world.begin() as BusyWorld;
}

function heldCount(world: BusyWorld): number {
  const leases = world.hosts.flatMap((host) => host.core.status(host.now()).leases);
  return leases.filter(({ state }) => state === 'active').length;
}

function runUntilHeld(world: BusyWorld, count: number, withinMs: number): void {
  for (let ms = 0; ms < withinMs && heldCount(world) < count; ms += 100) world.run(100);
  expect(heldCount(world)).toBe(count);
}

function lostCount(world: BusyWorld): number {
  const events = world.hosts.flatMap((host) => host.noticesOf('event'));
  return events.filter((notice) => notice.kind === 'event' && notice.event === 'lease.lost').length;
}

describe('a rush', () => {
  test.each([3, 5])(
    '%i guards, 500 leases that are new at one instant: all are held soon',
    (hosts) => {
      const world = busyWorld(hosts, 500);
      runUntilHeld(world, 500, 4_000);
      expect(world.count('prepare')).toBeLessThan(500 * hosts * 4);
      expect(lostCount(world)).toBe(0);
    },
  );

  test('what is held stays held while hundreds come', () => {
    const world = busyWorld(5, 150);
    runUntilHeld(world, 150, 3_000);
    spread(world, 150, 450);
    world.begin();
    runUntilHeld(world, 450, 4_000);
    expect(lostCount(world)).toBe(0);
  });

  test('a host that held a hundred dies: the others have them soon', () => {
    const world = busyWorld(5, 500);
    runUntilHeld(world, 500, 4_000);
    world.run(2_000);
    world.kill(world.hosts[0]!);
    world.run(1_000);
    for (let ms = 0; ms < 5_000 && heldBy(world) < 500; ms += 100) world.run(100);
    expect(heldBy(world)).toBe(500);
    expect(lostCount(world)).toBe(0);
  });
});

function heldBy(world: BusyWorld): number {
  const alive = world.hosts.filter(({ isAlive }) => isAlive);
  const leases = alive.flatMap((host) => host.core.status(host.now()).leases);
  return leases.filter(({ state }) => state === 'active').length;
}

describe('admission', () => {
  function full(): { admission: Admission; trying: Set<string> } {
    const admission = new Admission();
    const trying = new Set<string>();
    for (let index = 0; index < windowMax; index++) {
      expect(admission.enter(`a${index}`, false)).toBe(true);
      trying.add(`a${index}`);
    }
    return { admission, trying };
  }

  test('beyond the window they wait, and are called in the order of their turns', () => {
    const { admission, trying } = full();
    for (const name of ['x', 'y', 'x', 'z']) expect(admission.enter(name, false)).toBe(false);
    const isTrying = (name: string): boolean => trying.has(name);
    expect(admission.call(isTrying)).toEqual([]);
    trying.delete('a3');
    trying.delete('a5');
    expect(admission.call(isTrying)).toEqual(['x', 'y']);
    expect(admission.isWaiting('x')).toBe(false);
    expect(admission.enter('newcomer', false)).toBe(false);
    expect(admission.enter('x', false)).toBe(true);
    trying.add('x');
    // `y` has lost interest.
    expect(admission.call(isTrying)).toEqual(['z']);
  });

  test('what somebody waits for does not wait', () => {
    const { admission } = full();
    expect(admission.enter('x', false)).toBe(false);
    expect(admission.enter('x', true)).toBe(true);
    expect(admission.isWaiting('x')).toBe(false);
  });

  test('the window shrinks when answers are late, once for all that were late together, and grows again', () => {
    const admission = new Admission();
    admission.onEnd(true, 1_000);
    admission.onEnd(true, 1_000 + halvedMsMin - 1);
    expect(admission.window).toBe(windowMax / 2);
    for (let at = 2_000; at < 20_000; at += halvedMsMin) admission.onEnd(true, at);
    expect(admission.window).toBe(windowMin);
    for (let count = 0; count < 100; count++) admission.onEnd(false, 20_000);
    expect(admission.window).toBe(windowMax);
  });
});
