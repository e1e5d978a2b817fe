import { beforeEach, describe, expect, test } from 'vitest';
import { BenchWorld, db, type Bench } from './bench-world.ts';

let world: BenchWorld;
let holder: Bench;

beforeEach(() => {
  world = new BenchWorld({ hosts: 3 }).begin();
  world.run(2_500);
  holder = world.hosts[0]!;
  expect(world.holder()).toBe(holder);
});

const pause = (maxMs = 500): number => {
  const id = holder.command({ kind: 'pause', name: db, maxMs });
  world.settle();
  return id;
};
const resume = () => {
  const id = holder.command({ kind: 'resume', name: db });
  world.settle();
  return holder.replies.get(id);
};
const gateActs = (): string[] =>
  holder.effects.flatMap((effect) => (effect.kind === 'gate' ? [effect.act] : []));

describe('a pause', () => {
  test('freezes what runs, and a resume in time says that it stood still until then', () => {
    const { epoch } = holder.lease();
    expect(holder.replies.get(pause())).toMatchObject({ isOk: true, epoch });
    expect(holder.gate).toBe('frozen');
    expect(holder.lease()).toMatchObject({ state: 'active', gate: 'open' });
    world.run(300);
    expect(resume()).toMatchObject({ isOk: true });
    expect(holder.gate).toBe('open');
    // Nobody had to look again: it is the same tenure, and nothing was closed.
    expect(holder.noticesOf('closed')).toEqual([]);
    expect(holder.noticesOf('open')).toHaveLength(1);
  });

  test('ends by itself, whatever becomes of who asked for it', () => {
    pause();
    holder.event({ kind: 'daemon', isConnected: false });
    world.run(499);
    expect(holder.gate).toBe('frozen');
    world.run(20);
    expect(holder.gate).toBe('open');
    expect(resume()).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
  });

  test('does not keep the lease from being renewed', () => {
    const { epoch } = holder.lease();
    pause(1_000);
    world.run(1_500);
    expect(holder.lease()).toMatchObject({ state: 'active', epoch });
    world.run(5_000);
    expect(world.holder()).toBe(holder);
    expect(holder.lease().epoch).toBe(epoch);
  });

  test('never outlasts authority: what is paused then is closed and killed like what runs', () => {
    world.lose = () => true;
    world.run(900);
    pause(1_000);
    expect(holder.gate).toBe('frozen');
    const from = holder.effects.length;
    world.run(3_000);
    const acts = holder.effects
      .slice(from)
      .flatMap((effect) => (effect.kind === 'gate' ? [effect.act] : []));
    expect(acts).not.toContain('thaw');
    expect(acts).toContain('clear');
    expect(holder.lease().state).not.toBe('active');
    expect(resume()).toMatchObject({ isOk: false });
    expect(holder.gate).toBe('frozen');
  });

  test('is not ended by a resume that comes when authority is over', () => {
    world.lose = () => true;
    world.run(900);
    pause(1_000);
    holder.effects.length = 0;
    // Nothing of the guard ran meanwhile.
    world.nowMs += 2_000;
    resume();
    expect(gateActs()).not.toContain('thaw');
  });

  test('is refused where nothing is active, and twice within two seconds', () => {
    const other = world.hosts[1]!;
    const id = other.command({ kind: 'pause', name: db, maxMs: 500 });
    expect(other.replies.get(id)).toMatchObject({ isOk: false, code: 'LEASE_NOT_HELD' });
    expect(holder.replies.get(pause(1_001))).toMatchObject({ isOk: false, code: 'INVALID' });
    expect(holder.replies.get(pause(Number.NaN))).toMatchObject({ isOk: false, code: 'INVALID' });
    expect(holder.replies.get(pause())).toMatchObject({ isOk: true });
    expect(holder.replies.get(pause())).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
    resume();
    world.run(1_900);
    expect(holder.replies.get(pause())).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
    world.run(200);
    expect(holder.replies.get(pause())).toMatchObject({ isOk: true });
  });

  test('that the kernel does not carry out in time is refused and taken back', () => {
    holder.isGateHeld = true;
    const id = pause(200);
    expect(holder.replies.get(id)).toBeUndefined();
    world.run(250);
    expect(holder.replies.get(id)).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
    expect(holder.heldGates.map(({ act }) => act)).toEqual(['freeze', 'thaw']);
    holder.isGateHeld = false;
    for (const effect of holder.heldGates) holder.answerGate(effect);
    world.run(50);
    expect(holder.gate).toBe('open');
    expect(holder.lease()).toMatchObject({ state: 'active', gate: 'open' });
  });

  test('is over after a restart of the guard, which opens again what is held', () => {
    const { epoch } = holder.lease();
    pause();
    holder.restart({ isIntact: true });
    world.run(100);
    expect(holder.gate).toBe('open');
    expect(holder.lease()).toMatchObject({ state: 'active', epoch });
    expect(resume()).toMatchObject({ isOk: false });
    world.run(3_000);
    expect(world.holder()).toBe(holder);
  });

  test('is ended by whatever else closes the gate', () => {
    pause(1_000);
    holder.event({ kind: 'clock', what: 'wall' });
    expect(resume()).toMatchObject({ isOk: false });
    world.run(100);
    expect(holder.gate).toBe('open');
    expect(holder.lease().state).toBe('active');
  });

  test('goes on over a park, and ends', () => {
    pause(1_000);
    const parked = holder.command({ kind: 'park', name: db });
    world.settle();
    expect(holder.replies.get(parked)).toMatchObject({ isOk: true });
    world.run(1_100);
    expect(holder.gate).toBe('open');
    expect(holder.lease().state).toBe('parked');
  });
});
