/** Work under a lease, against a guard that says what the test wants. */
import { beforeEach, describe, expect, test } from 'vitest';
import type { Hold, HoldOptions } from '../../daemon/lease-hold.ts';
import { holdLimits, LeaseHolds } from '../../daemon/lease-hold.ts';
import type { GuardCommand, GuardReply } from '../../daemon/lease/guard-api.ts';
import { FakeLeases } from './operations/fake-leases.ts';
import { FakeNode } from './operations/fake-node.ts';
import { ManualClock, settled } from './reconcile/manual-clock.ts';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const name = 'job/prod/sweep';
let clock: ManualClock;
let guard: FakeLeases;
let holds: LeaseHolds;
let epoch: number;

/** As a guard does it: one at a time for each name. */
function answer(command: GuardCommand): GuardReply {
  if (command.kind === 'release') {
    const at = guard.leases.findIndex((lease) => lease.name === command.name);
    if (at >= 0) guard.leases.splice(at, 1);
    return { isOk: true };
  }
  if (command.kind !== 'acquire') return { isOk: true };
  if (guard.leases.some((lease) => lease.name === command.lease.name)) return busy;
  epoch = Math.max(epoch + 1, command.epochMin ?? 0);
  guard.hold(command.lease.name, epoch, { remainMs: 4_600, gate: 'none' });
  return { isOk: true, epoch };
}

const busy: GuardReply = {
  isOk: false,
  code: 'LEASE_BUSY',
  details: { name, reason: 'elsewhere' },
};

beforeEach(() => {
  const node = new FakeNode(['h1', 'h2', 'h3']);
  clock = new ManualClock();
  guard = new FakeLeases(node, ['h1']);
  guard.answer = answer;
  epoch = 6;
  holds = new LeaseHolds({
    guard,
    clock,
    log: silent,
    env: 'prod',
    self: node.self.host,
    hostName: () => 'h1',
    hosts: () => node.hostList.map(({ id }) => id),
  });
});

/** Work that ends when the test says so. */
function working(options: HoldOptions = {}, of = name) {
  const end = Promise.withResolvers<string>();
  const begun = Promise.withResolvers<Hold>();
  const done = holds.withLease(of, options, (hold) => {
    begun.resolve(hold);
    return end.promise;
  });
  done.catch(() => begun.reject(new Error('never begun')));
  begun.promise.catch(() => {});
  return { done, hold: begun.promise, end: (result = 'ok') => end.resolve(result) };
}

const kinds = () => guard.commands.map(({ kind }) => kind);

describe('a lease that is granted', () => {
  test('covers the work, and is given back after it', async () => {
    const work = working({ title: 'job sweep', epochMin: 40 });
    const hold = await work.hold;
    expect([hold.epoch, hold.signal.aborted]).toEqual([40, false]);
    expect(guard.commands[0]).toMatchObject({
      kind: 'acquire',
      waitMs: 0,
      lease: { name, title: 'job sweep', profile: 'wan', gate: null, candidates: { length: 3 } },
    });
    expect(kinds()).toEqual(['acquire']);
    work.end();
    expect(await work.done).toBe('ok');
    expect(kinds()).toEqual(['acquire', 'release']);
  });

  test('goes on for as long as the guard renews it', async () => {
    const work = working();
    const hold = await work.hold;
    await clock.advance(60_000);
    hold.assertHeld();
    work.end();
    expect(await work.done).toBe('ok');
    expect(clock.pending()).toEqual([]);
  });

  test('what the work fails with is what the caller gets, after the lease was given back', async () => {
    const failing = holds.withLease(name, {}, () => Promise.reject(new Error('no')));
    await expect(failing).rejects.toThrow('no');
    expect(kinds()).toEqual(['acquire', 'release']);
  });
});

describe('[trellis:Y10] a lease that goes', () => {
  const ways: readonly (readonly [string, () => void])[] = [
    ['ran out', () => void guard.leases.splice(0)],
    ['is another’s of this host', () => Object.assign(guard.leases[0] as object, { epoch: 8 })],
    ['is about to end', () => Object.assign(guard.leases[0] as object, { state: 'opening' })],
    [
      'was released by somebody',
      () => Object.assign(guard.leases[0] as object, { state: 'handing-over' }),
    ],
    ['has no guard any more', () => (guard.isConnected = false)],
  ];

  test.each(ways)(
    '%s: the work is told at once, and has failed whatever it made',
    async (_, go) => {
      const work = working();
      const hold = await work.hold;
      go();
      guard.changed();
      expect(hold.signal.aborted).toBe(true);
      expect(() => hold.assertHeld()).toThrow(expect.objectContaining({ code: 'LEASE_LOST' }));
      guard.isConnected = true;
      work.end();
      await expect(work.done).rejects.toMatchObject({ code: 'LEASE_LOST', details: { name } });
      expect(kinds()).toEqual(['acquire', 'release']);
    },
  );

  test('with a guard that says nothing: before its end, counted from before the question', async () => {
    const asked = Promise.withResolvers<void>();
    const look = guard.look.bind(guard);
    guard.look = async () => {
      const status = await look();
      await asked.promise;
      return status;
    };
    const work = working();
    await settled();
    // The answer takes two seconds; then there is none.
    await clock.advance(2_000);
    guard.look = () => new Promise(() => {});
    asked.resolve();
    const hold = await work.hold;
    // 4,600 in all, 800 of them for whoever has to stop.
    await clock.advance(1_700);
    hold.assertHeld();
    // No timer has fired yet: the clock alone says so.
    clock.nowMs += 100;
    expect(() => hold.assertHeld()).toThrow(expect.objectContaining({ code: 'LEASE_LOST' }));
    expect(hold.signal.aborted).toBe(true);
    work.end();
    await expect(work.done).rejects.toMatchObject({ code: 'LEASE_LOST' });
  });

  test('in the moment in which it came: the work is not begun', async () => {
    guard.look = () => Promise.reject(new Error('gone'));
    const work = working();
    await expect(work.done).rejects.toMatchObject({ code: 'LEASE_LOST' });
    await expect(work.hold).rejects.toThrow('never begun');
    expect(kinds()).toEqual(['acquire', 'release']);
  });
});

describe('a lease that is not granted', () => {
  const refusals: readonly (readonly [string, string])[] = [
    ['LEASE_BUSY', 'LEASE_BUSY'],
    ['LEASE_TIMED_OUT', 'NO_QUORUM'],
    ['GUARD_UNREACHABLE', 'GUARD_UNREACHABLE'],
    ['LEASE_DENIED', 'LEASE_DENIED'],
    ['SOMETHING_NEW', 'INTERNAL'],
  ];

  test.each(refusals)('%s of the guard is %s', async (code, expected) => {
    guard.answer = () => ({ isOk: false, code, details: { reason: 'so' } });
    await expect(working().done).rejects.toMatchObject({ code: expected });
  });

  test('without a guard: at once', async () => {
    guard.isConnected = false;
    await expect(working().done).rejects.toMatchObject({ code: 'GUARD_UNREACHABLE' });
  });

  test('one of this very host that is being given back is asked for again', async () => {
    let left = 3;
    guard.answer = (command) => (command.kind === 'acquire' && left-- > 0 ? busy : answer(command));
    const work = working({ waitMs: 1_000 });
    await clock.advance(500);
    await work.hold;
    work.end();
    expect(await work.done).toBe('ok');
    expect(guard.commands.flatMap((one) => (one.kind === 'acquire' ? [one.waitMs] : []))).toEqual([
      1_000, 900, 800, 700,
    ]);
  });

  test('what is not wanted any more is given up', async () => {
    guard.command = (command, signal?: AbortSignal) => {
      guard.commands.push(command);
      if (command.kind === 'release') return Promise.resolve({ isOk: true });
      return new Promise((_, reject) => {
        signal?.addEventListener('abort', () => reject(signal.reason as Error));
      });
    };
    const caller = new AbortController();
    const work = working({ waitMs: 60_000, signal: caller.signal });
    await settled();
    caller.abort(new Error('enough'));
    await expect(work.done).rejects.toThrow('enough');
    expect(kinds()).toEqual(['acquire', 'release']);
  });
});

describe('several', () => {
  test('of one name on one host come one after the other', async () => {
    const first = working();
    const second = working({ waitMs: 5_000 });
    const third = working();
    await clock.advance(0);
    await expect(third.done).rejects.toMatchObject({ code: 'LEASE_BUSY' });
    expect((await first.hold).epoch).toBe(7);
    await clock.advance(1_000);
    expect(kinds()).toEqual(['acquire']);
    first.end();
    await first.done;
    expect((await second.hold).epoch).toBe(8);
    second.end();
    await second.done;
    expect(kinds()).toEqual(['acquire', 'release', 'acquire', 'release']);
  });

  test('of other names go side by side, so many and no more', async () => {
    const works = Array.from({ length: holdLimits.holdsMax }, (_, index) =>
      working({}, `lock/${index}`),
    );
    await Promise.all(works.map(({ hold }) => hold));
    await expect(working().done).rejects.toMatchObject({ code: 'BUSY' });
    for (const work of works) work.end();
    await Promise.all(works.map(({ done }) => done));
    const next = working();
    await next.hold;
    next.end();
    expect(await next.done).toBe('ok');
  });

  test('all end with the daemon', async () => {
    const works = [working(), working({}, 'lock/a')];
    const [hold] = await Promise.all(works.map((work) => work.hold));
    holds.stop();
    expect(hold?.signal.aborted).toBe(true);
    for (const work of works) work.end();
    for (const { done } of works)
      await expect(done).rejects.toMatchObject({ code: 'GUARD_UNREACHABLE' });
    await expect(working().done).rejects.toMatchObject({ code: 'GUARD_UNREACHABLE' });
  });
});
