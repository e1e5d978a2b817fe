/** Leases that are taken by command: locks, jobs, uses of invites, slots of rollouts. */
import { describe, expect, test } from 'vitest';
import type { GuardCommand, GuardReply } from '../../../daemon/lease/guard-api.ts';
import type { ObjectId } from '../../../crdt/ids.ts';
import { rolloutLeaseOf } from '../../../daemon/plan/leases.ts';
import type { Bench } from './bench-world.ts';
import { BenchWorld, env, leaseOf } from './bench-world.ts';

const name = 'job/prod/sweep';

function world(hosts = 3): BenchWorld {
  const made = new BenchWorld({ hosts }).begin();
  made.runUntil(() => made.holder() !== null, 2_000);
  return made;
}

function acquire(host: Bench, changes: Partial<GuardCommand & { kind: 'acquire' }> = {}): number {
  const lease = leaseOf({ name, title: name, gate: null, traffic: [], candidates: [host.self] });
  return host.command({ kind: 'acquire', lease, waitMs: 0, ...changes });
}

function release(host: Bench): number {
  return host.command({ kind: 'release', name, reason: 'done' });
}

function reply(bed: BenchWorld, host: Bench, id: number, withinMs = 3_000): GuardReply {
  bed.runUntil(() => host.replies.has(id), withinMs);
  return host.replies.get(id) as GuardReply;
}

describe('the epoch that is asked for', () => {
  test('[trellis:Y10] is given once: whoever asks for it again gets a higher one, on any host', () => {
    const bed = world();
    const epochs = [0, 1, 2, 0].map((index) => {
      const host = bed.hosts[index] as Bench;
      const granted = reply(bed, host, acquire(host, { epochMin: 5_000 }));
      expect(reply(bed, host, release(host))).toMatchObject({ isOk: true });
      return granted.isOk ? granted.epoch : 0;
    });
    expect(epochs).toEqual([5_000, 5_001, 5_002, 5_003]);
    const next = bed.hosts[1] as Bench;
    expect(reply(bed, next, acquire(next, { epochMin: 6_000 }))).toMatchObject({ epoch: 6_000 });
  });

  test('[trellis:Y10] is remembered by a majority through a restart of everything', () => {
    const bed = world();
    const [first, , last] = bed.hosts as [Bench, Bench, Bench];
    // The third knows nothing of it.
    bed.lose = ({ from, to }) => from === last.self || to === last.self;
    expect(reply(bed, first, acquire(first, { epochMin: 700 }))).toMatchObject({ epoch: 700 });
    bed.lose = () => false;
    for (const host of bed.hosts) host.restart({ isIntact: false });
    bed.run(10_000);
    expect(reply(bed, last, acquire(last, { epochMin: 700 }), 20_000)).toMatchObject({
      epoch: 701,
    });
  });

  test.each([Number.NaN, -1, 1.5, 2 ** 60])('%s is none', (epochMin) => {
    const bed = world();
    const host = bed.hosts[0] as Bench;
    expect(reply(bed, host, acquire(host, { epochMin }))).toMatchObject({ epoch: 1 });
  });
});

describe('whoever asked is gone', () => {
  test('before the grant: it is not held for nobody', () => {
    const bed = world();
    const [holder, waiting] = bed.hosts as [Bench, Bench];
    reply(bed, holder, acquire(holder));
    const asked = acquire(waiting, { waitMs: 60_000 });
    bed.run(1_000);
    expect(reply(bed, waiting, release(waiting))).toMatchObject({ isOk: true });
    expect(reply(bed, waiting, asked)).toMatchObject({ isOk: false, code: 'LEASE_TIMED_OUT' });
    reply(bed, holder, release(holder));
    bed.run(10_000);
    expect(bed.hosts.some((host) => host.lease(name) !== undefined)).toBe(false);
    expect(reply(bed, holder, acquire(holder))).toMatchObject({ isOk: true });
  });

  test('in the middle of it: what voters granted already is given back', () => {
    const bed = world();
    const [gone, next] = bed.hosts as [Bench, Bench];
    bed.park = ({ to, message }) => to === gone.self && message.kind === 'accepted';
    acquire(gone);
    bed.run(20);
    expect(bed.parked.length).toBeGreaterThan(0);
    release(gone);
    bed.park = () => false;
    for (const flight of bed.parked.splice(0)) bed.deliver(flight);
    // At once, and not only after what was granted has run out.
    expect(reply(bed, next, acquire(next), 200)).toMatchObject({ isOk: true });
    expect(gone.lease(name)).toBeUndefined();
  });
});

describe('whoever waits in vain is told', () => {
  test('that another has it, even when it never heard of that one itself', () => {
    const bed = world();
    const [holder, waiting] = bed.hosts as [Bench, Bench];
    bed.lose = ({ from, to }) =>
      (from === holder.self && to === waiting.self) ||
      (from === waiting.self && to === holder.self);
    reply(bed, holder, acquire(holder));
    const asked = acquire(waiting, { waitMs: 5_000 });
    expect(reply(bed, waiting, asked, 8_000)).toMatchObject({
      code: 'LEASE_BUSY',
      details: { holder: holder.self },
    });
  });

  test('that no majority answers', () => {
    const bed = world();
    const waiting = bed.hosts[1] as Bench;
    bed.lose = ({ from, to }) => from === waiting.self || to === waiting.self;
    const asked = acquire(waiting, { waitMs: 5_000 });
    expect(reply(bed, waiting, asked, 8_000)).toMatchObject({ code: 'LEASE_TIMED_OUT' });
  });
});

test('a second one who asks on the same host is told so, and the first keeps it', () => {
  const bed = world();
  const host = bed.hosts[0] as Bench;
  const first = reply(bed, host, acquire(host));
  expect(reply(bed, host, acquire(host))).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
  bed.run(5_000);
  expect(host.lease(name)).toMatchObject({ state: 'active', epoch: first.isOk && first.epoch });
});

test('a frozen environment moves nothing by itself, and lets people and jobs take what they ask for', () => {
  const bed = world();
  for (const host of bed.hosts) host.desire({ isFrozen: true });
  const host = bed.hosts[1] as Bench;
  expect(reply(bed, host, acquire(host))).toMatchObject({ isOk: true });
});

test('[trellis:R3] a slot of a rollout is held by one host', () => {
  const bed = world();
  const [first, second] = bed.hosts as [Bench, Bench];
  const slot = leaseOf({ name: rolloutLeaseOf(env, '0a' as ObjectId), gate: null, candidates: [] });
  const asked = first.command({ kind: 'acquire', lease: slot, waitMs: 0 });
  expect(reply(bed, first, asked)).toMatchObject({ isOk: true });
  const refused = second.command({ kind: 'acquire', lease: slot, waitMs: 0 });
  expect(reply(bed, second, refused)).toMatchObject({
    code: 'LEASE_BUSY',
    details: { holder: first.self },
  });
});

test('what somebody waits for is not parked: it ends with whoever asked', () => {
  const bed = world();
  const host = bed.hosts[0] as Bench;
  const lease = leaseOf({ name: 'lock/x', title: 'lock x', candidates: [host.self] });
  reply(bed, host, host.command({ kind: 'acquire', lease, waitMs: 0 }));
  const alone = host.command({ kind: 'park', name: 'lock/x' });
  expect(reply(bed, host, alone)).toMatchObject({ isOk: false, code: 'LEASE_DENIED' });
  const all = host.command({ kind: 'park', name: null });
  expect(reply(bed, host, all)).toMatchObject({ isOk: true });
  expect(bed.hosts.some((one) => one.lease('lock/x')?.state === 'parked')).toBe(false);
});
