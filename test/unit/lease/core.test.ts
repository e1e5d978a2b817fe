import { describe, expect, test } from 'vitest';
import { handoverLimits } from '../../../daemon/lease/handover.ts';
import { moveLimits } from '../../../daemon/lease/moves.ts';
import type { Accept } from '../../../daemon/lease/messages.ts';
import { authorityWithin } from '../../../daemon/lease/profiles.ts';
import { Bench, BenchWorld, chosenOf, db, env, hostId, leaseOf } from './bench-world.ts';

function running(options: Partial<ConstructorParameters<typeof BenchWorld>[0]> = {}): BenchWorld {
  const world = new BenchWorld({ hosts: 3, ...options }).begin();
  world.runUntil(() => world.holder() !== null, 2_000);
  return world;
}

function accepts(world: BenchWorld, purpose: Accept['purpose']): readonly Accept[] {
  return world.sent.flatMap(({ message }) =>
    message.kind === 'accept' && message.purpose === purpose ? [message] : [],
  );
}

describe('one lease, three voters', () => {
  test('the best candidate becomes active, once, and renews in one round', () => {
    const world = running();
    expect(world.holder()).toBe(world.hosts[0]);
    world.sent.length = 0;
    world.run(10_000);
    expect(world.holder()).toBe(world.hosts[0]);
    expect(world.hosts[0]!.lease().epoch).toBe(1);
    expect(world.hosts[0]!.noticesOf('open')).toHaveLength(1);
    expect(
      world.sent.some(({ from, message }) => from === hostId(0) && message.kind === 'prepare'),
    ).toBe(false);
  });

  test('[trellis:P8] after the death of its host another is active within exclusion plus its turn', () => {
    const world = running();
    world.run(2_345);
    world.hosts[0]!.isAlive = false;
    const took = world.runUntil(() => world.holder() !== null, 5_000);
    expect(took).toBeLessThan(1_800);
    expect(took).toBeGreaterThan(1_000);
    expect(world.holder()!.lease().epoch).toBe(2);
    expect(world.holder()!.lease().history.at(-1)).toMatchObject({
      what: 'acquired',
      epoch: 2,
      why: `${hostId(0)} did not renew it`,
    });
  });

  test('every guard has the history of all holders', () => {
    const world = running();
    for (let moves = 0; moves < 2; moves++) {
      const before = world.holder()!;
      world.run(6_000);
      before.command({ kind: 'start-failed', name: db, epoch: before.lease().epoch, why: 'no' });
      world.runUntil(() => world.holder() !== before && world.holder() !== null, 3_000);
    }
    world.run(6_000);
    for (const host of world.hosts) {
      const holders = host.lease().history.filter(({ what }) => what === 'acquired');
      expect(holders.map(({ epoch, host: by }) => [epoch, by])).toEqual([
        [1, hostId(0)],
        [2, hostId(1)],
        [3, hostId(2)],
      ]);
    }
  });

  test('a release passes it on without waiting for exclusion, and not back here for a while', () => {
    const world = running();
    world.run(1_000);
    const id = world.hosts[0]!.command({ kind: 'release', name: db, reason: 'asked' });
    world.run(1);
    const [stop] = world.hosts[0]!.noticesOf('stop');
    if (stop?.kind !== 'stop') throw new Error('the daemon was not asked to stop it');
    world.hosts[0]!.command({ kind: 'stopped', name: db, id: stop.id, isStopped: true, why: '' });
    const took = world.runUntil(() => world.holder() === world.hosts[1], 1_000);
    expect(took).toBeLessThan(200);
    expect(world.hosts[0]!.replies.get(id)).toMatchObject({ isOk: true });
    world.hosts[1]!.isAlive = false;
    world.hosts[2]!.isAlive = false;
    expect(world.hosts[0]!.lease().why).toBe('released');
  });

  test('waiting candidates disturb nothing: the voters see few of their messages', () => {
    const world = running();
    world.run(5_000);
    world.sent.length = 0;
    world.run(20_000);
    const prepares = world.sent.filter(({ message }) => message.kind === 'prepare').length;
    expect(prepares).toBeLessThan(60);
    expect(world.holder()).toBe(world.hosts[0]);
  });
});

describe('authority', () => {
  test('[trellis:P8] is counted from before the first message, out of the exclusion that travels', () => {
    const world = running();
    const host = world.hosts[0]!;
    const { exclusionMs } = accepts(world, 'acquire')[0]!;
    expect(exclusionMs).toBe(1_600);
    world.lose = ({ message }) => message.kind === 'accept';
    const { remainMs } = host.lease();
    expect(remainMs).toBeLessThanOrEqual(Math.min(1_500, authorityWithin(exclusionMs)));
  });

  test('[trellis:P8] a renewal whose last answer is handled after the old end does not extend', () => {
    const world = running();
    const host = world.hosts[0]!;
    world.run(200);
    world.park = ({ to, message }) => to === host.self && message.kind === 'accepted';
    world.run(400);
    expect(world.parked.length).toBeGreaterThan(0);
    // The process stands still; the answers come before any timer.
    world.nowMs += 1_400;
    const late = world.parked.splice(0);
    world.park = () => false;
    for (const flight of late) world.deliver(flight);
    expect(host.lease().state).not.toBe('active');
    expect(host.gate).toBe('frozen');
  });

  test('one voter that answers twice is one voter', () => {
    const world = new BenchWorld({ hosts: 4, voters: 3, lease: { candidates: [hostId(3)] } });
    world.lose = ({ from, to }) => from === hostId(3) && to !== hostId(0);
    world.begin();
    world.run(50);
    for (let round = 0; round < 20; round++) {
      for (const flight of world.sent.slice(-40))
        if (flight.to === hostId(3)) world.deliver(flight);
      world.run(100);
    }
    expect(world.hosts[3]!.lease().state).not.toBe('active');
  });

  test('a frozen gate thaws when a renewal comes before the end', () => {
    const world = running();
    const host = world.hosts[0]!;
    world.lose = ({ from }) => from === host.self;
    world.runUntil(() => host.gate === 'frozen', 1_300);
    expect(host.lease().state).toBe('frozen');
    world.lose = () => false;
    world.runUntil(() => host.lease().state === 'active', 200);
    expect(host.lease().epoch).toBe(1);
    expect(host.noticesOf('open').at(-1)).toMatchObject({ isResumed: true });
  });

  test('a holder that a rival outran goes on under a higher epoch, the workload keeps its own', () => {
    const world = running();
    const [holder, , voter] = world.hosts;
    // The third voter granted it to a rival that got no further.
    const flight = { from: hostId(1), to: voter!.self };
    voter!.restart({ isIntact: false, isFreshBoot: true });
    const ballot = { counter: 1_000, host: hostId(1), session: 'x'.repeat(24) };
    const accept: Accept = { ...accepts(world, 'acquire')[0]!, ballot, epoch: 2 };
    world.deliver({ ...flight, message: accept });
    world.settle();
    world.run(4_000);
    expect(holder!.lease()).toMatchObject({ state: 'active', epoch: 1 });
    expect(accepts(world, 'renew').at(-1)!.epoch).toBe(3);
    // And that voter alone keeps it alive now.
    world.lose = ({ from, to }) => from === hostId(1) || to === hostId(1);
    world.run(5_000);
    expect(holder!.lease().state).toBe('active');
  });
});

describe('a restart', () => {
  test('[trellis:R3] of a guard with intact state is not noticed, and it is the same session', () => {
    const world = running();
    const host = world.hosts[0]!;
    const { session } = host.core.status(host.now());
    const count = host.effects.length;
    host.restart({ isIntact: true });
    world.settle();
    expect(host.core.status(host.now())).toMatchObject({ session, silentMs: 0 });
    world.run(5_000);
    expect(host.lease()).toMatchObject({ state: 'active', epoch: 1 });
    expect(host.effects.slice(count).filter(({ kind }) => kind === 'gate')).toEqual([]);
  });

  test('without its memory it is silent, has another session, and kills what it finds', () => {
    const world = running();
    const host = world.hosts[0]!;
    const before = host.core.status(host.now()).session;
    host.isPopulated = true;
    host.restart({ isIntact: false });
    world.settle();
    const { silentMs, session } = host.core.status(host.now());
    expect(silentMs).toBe(5_000);
    expect(session).not.toBe(before);
    expect(host.isPopulated).toBe(false);
    world.sent.length = 0;
    world.run(4_900);
    const answers = world.sent.filter(
      ({ from, message }) =>
        from === host.self && ['promise', 'accepted', 'reject'].includes(message.kind),
    );
    expect(answers).toEqual([]);
  });

  test('after a reboot the silence counts from the boot of the kernel', () => {
    const world = running();
    world.hosts[2]!.restart({ isIntact: false, isFreshBoot: true });
    expect(world.hosts[2]!.core.status(world.hosts[2]!.now()).silentMs).toBe(0);
  });
});

describe('voters', () => {
  test('[trellis:A21] of a pair: the holder runs on alone, the other side never takes over', () => {
    const world = running({ hosts: 2 });
    world.lose = () => true;
    world.run(60_000);
    expect(world.holder()).toBe(world.hosts[0]);
    world.lose = () => false;
    world.run(1_000);
    world.hosts[0]!.isAlive = false;
    world.run(20_000);
    expect(world.holder()).toBeNull();
  });

  test('a pair that is about to change needs both for every renewal', () => {
    const world = new BenchWorld({ hosts: 2 });
    world.hosts[0]!.durable.push({ kind: 'intent', n: 0, isOn: true });
    world.hosts[0]!.restart({ isIntact: false, isFreshBoot: true });
    world.hosts[0]!.event({ kind: 'daemon', isConnected: true });
    world.begin();
    world.runUntil(() => world.holder() !== null, 2_000);
    world.lose = () => true;
    world.run(2_000);
    expect(world.holder()).toBeNull();
  });

  test('[trellis:P8] a holder that grew into a pair renews alone only when both have granted under it', () => {
    const world = running({ hosts: 2, voters: 1, lease: { candidates: [hostId(1), hostId(0)] } });
    const [old, holder] = world.hosts;
    expect(world.holder()).toBe(holder);
    const { config } = world.chosen;
    const next = { ...config, n: 1, voters: [hostId(0), hostId(1)] };
    // Only the holder hears of the new link; its own new acceptor must not be enough.
    world.lose = ({ from, to }) => from !== to;
    holder!.durable.push({
      kind: 'chosen',
      chosen: { config: next, electorate: [hostId(0)], votes: [hostId(0)] },
    });
    const kept = holder!.core.volatileState();
    expect(kept.generation).toBe(0);
    holder!.restart({ isIntact: true });
    world.run(2_000);
    expect(holder!.lease().state).not.toBe('active');
    expect(old!.lease().state).toBe('active');
  });

  test('who acts under older voters is told of ours, and nothing is granted', () => {
    const world = running();
    const host = world.hosts[1]!;
    const accept = accepts(world, 'acquire')[0]!;
    world.run(60);
    world.sent.length = 0;
    world.deliver({ from: hostId(0), to: host.self, message: { ...accept, n: -1 } });
    expect(world.sent).toMatchObject([{ to: hostId(0), message: { kind: 'config' } }]);
    world.sent.length = 0;
    world.run(60);
    world.sent.length = 0;
    world.deliver({ from: hostId(0), to: host.self, message: { ...accept, n: 7 } });
    expect(world.sent).toMatchObject([{ to: hostId(0), message: { kind: 'config-ask' } }]);
  });

  test('who is not the host of its ballot is not answered', () => {
    const world = running();
    const message = accepts(world, 'acquire')[0]!;
    world.sent.length = 0;
    world.deliver({ from: hostId(2), to: hostId(1), message });
    expect(world.sent).toEqual([]);
  });

  test('the founder makes itself the first voter', () => {
    const world = new BenchWorld({ hosts: 1 });
    const host = world.hosts[0]!;
    host.durable = [];
    host.restart({ isIntact: false });
    host.event({ kind: 'daemon', isConnected: true });
    host.desire({ isFounder: true });
    world.settle();
    expect(host.core.status(host.now()).chosen?.config).toMatchObject({
      n: 0,
      voters: [host.self],
    });
    world.runUntil(() => world.holder() !== null, 500);
  });

  test('are not changed while they keep a lease parked', () => {
    const world = running();
    world.hosts[0]!.command({ kind: 'park', name: db });
    world.run(100);
    for (const host of world.hosts) host.desire({ votersWanted: [hostId(0), hostId(1)] });
    world.run(30_000);
    expect(world.hosts[0]!.core.status(world.hosts[0]!.now()).chosen?.config.n).toBe(0);
    world.hosts[0]!.command({ kind: 'unpark', name: db });
    world.run(30_000);
    expect(world.hosts[0]!.core.status(world.hosts[0]!.now()).chosen?.config.voters).toHaveLength(
      2,
    );
  });
});

describe('park', () => {
  test('[trellis:R20] the workload runs on for hours with no guard, nobody takes over, and it goes on', () => {
    const world = running();
    const host = world.hosts[0]!;
    const id = host.command({ kind: 'park', name: null });
    world.run(100);
    expect(host.replies.get(id)).toMatchObject({ isOk: true });
    host.isAlive = false;
    world.run(2 * 3_600_000);
    expect(world.holder()).toBeNull();
    expect(host.gate).toBe('open');
    host.restart({ isIntact: true });
    host.command({ kind: 'unpark', name: null });
    world.run(100);
    expect(host.lease()).toMatchObject({ state: 'active', epoch: 1 });
    expect(host.noticesOf('open')).toHaveLength(1);
  });

  test('a reboot of the host that parked gives it up: others take it', () => {
    const world = running();
    const host = world.hosts[0]!;
    host.command({ kind: 'park', name: db });
    world.run(100);
    host.isAlive = false;
    world.run(30_000);
    expect(world.holder()).toBeNull();
    world.leases = [leaseOf({ candidates: [hostId(1), hostId(2)] })];
    for (const each of world.hosts) each.desired = { ...world.desired(each.self) };
    for (const each of world.hosts.slice(1)) each.desire({});
    host.restart({ isIntact: false, isFreshBoot: true });
    world.runUntil(() => world.holder() !== null, 15_000);
    expect(world.holder()).not.toBe(host);
  });

  test('is passed over by force, after the longest authority, and the old host then stops', () => {
    const world = running();
    const host = world.hosts[0]!;
    host.command({ kind: 'park', name: db });
    world.run(100);
    world.lose = ({ from, to }) => from === host.self || to === host.self;
    const id = world.hosts[1]!.command({ kind: 'force-active', name: db, of: host.self });
    world.run(5_000);
    expect(world.hosts[1]!.lease().state).not.toBe('active');
    world.run(500);
    expect(world.hosts[1]!.lease().state).toBe('active');
    expect(world.hosts[1]!.replies.get(id)).toMatchObject({ isOk: true });
    world.lose = () => false;
    world.run(6_000);
    expect(host.gate).toBe('frozen');
    expect(host.lease().state).not.toBe('parked');
  });

  test('of another host than the operator has named is not passed over', () => {
    for (const named of [2, null]) {
      const world = running();
      const [holder, taker] = world.hosts;
      holder!.command({ kind: 'park', name: db });
      world.run(100);
      const of = named === null ? null : world.ids[named]!;
      const id = taker!.command({ kind: 'force-active', name: db, of });
      world.run(60_000);
      expect(taker!.replies.get(id)).toMatchObject({
        code: 'LEASE_BUSY',
        details: { holder: holder!.self },
      });
      expect(holder!.lease().state).toBe('parked');
      expect(holder!.gate).toBe('open');
    }
  });

  test('what nothing runs under is released instead, so that others go on', () => {
    const world = running({ lease: { gate: null, traffic: [] } });
    world.hosts[0]!.command({ kind: 'park', name: null });
    world.runUntil(() => world.holder() === world.hosts[1], 500);
  });
});

describe('handover', () => {
  function answered(world: BenchWorld, host: Bench, step: 'prepare' | 'stop' | 'settle'): void {
    world.runUntil(() => host.noticesOf(step).length > 0, 2_000);
    const notice = host.noticesOf(step).at(-1)!;
    if (!('id' in notice)) throw new Error('no id');
    const { name, id } = notice;
    if (step === 'prepare') host.command({ kind: 'prepared', name, id, isReady: true, why: '' });
    if (step === 'stop') host.command({ kind: 'stopped', name, id, isStopped: true, why: '' });
    if (step === 'settle') host.command({ kind: 'settled', name, id, isSettled: true, why: '' });
  }

  test('[trellis:P37] goes through every step, with a gap of a few messages', () => {
    const world = running();
    const [from, , to] = world.hosts;
    const id = from!.command({ kind: 'switch', name: db, to: to!.self, reason: 'asked' });
    answered(world, to!, 'prepare');
    answered(world, from!, 'stop');
    answered(world, to!, 'settle');
    const took = world.runUntil(() => world.holder() === to, 1_000);
    expect(took).toBeLessThan(60);
    world.run(10);
    expect(from!.replies.get(id)).toEqual({ isOk: true, epoch: 2, holder: to!.self });
    const release = world.sent.find(({ message }) => message.kind === 'release');
    expect(release?.message).toMatchObject({ successor: to!.self });
  });

  test('a target that dies at any step before the release: the holder goes on under its epoch', () => {
    for (const step of ['prepare', 'stop', 'settle'] as const) {
      const world = running();
      const [from, , to] = world.hosts;
      const id = from!.command({ kind: 'switch', name: db, to: to!.self, reason: 'asked' });
      if (step !== 'prepare') answered(world, to!, 'prepare');
      if (step === 'settle') answered(world, from!, 'stop');
      world.run(1);
      to!.isAlive = false;
      // Its workload is stopped to the end first: only then is the target asked again.
      if (step === 'stop') answered(world, from!, 'stop');
      const { silentMsMax, resendMs } = handoverLimits;
      world.runUntil(() => from!.replies.has(id), silentMsMax + resendMs);
      expect(from!.lease()).toMatchObject({ epoch: 1, state: 'active' });
      expect(from!.replies.get(id)).toMatchObject({ isOk: false, code: 'HANDOVER_ABORTED' });
      world.run(1_250_000);
      expect(from!.lease()).toMatchObject({ epoch: 1, state: 'active', moving: null });
      expect(world.sent.some(({ message }) => message.kind === 'release')).toBe(false);
    }
  });

  test('a target that is slow but there has its time to get ready and to settle', () => {
    const world = running();
    const [from, , to] = world.hosts;
    const id = from!.command({ kind: 'switch', name: db, to: to!.self, reason: 'asked' });
    world.run(handoverLimits.prepareMsMax - 5_000);
    expect(from!.lease().moving).toEqual({ to: to!.self, step: 'preparing' });
    answered(world, to!, 'prepare');
    world.run(1);
    expect(from!.lease().moving?.step).toBe('stopping');
    answered(world, from!, 'stop');
    world.run(handoverLimits.settleMsMax - 5_000);
    expect(from!.lease().moving?.step).toBe('settling');
    answered(world, to!, 'settle');
    world.runUntil(() => world.holder() === to, 1_000);
    world.run(10);
    expect(from!.replies.get(id)).toMatchObject({ isOk: true, holder: to!.self });
  });

  test('a target whose daemon goes is waited for a moment, and for no longer', () => {
    const world = running();
    const [from, , to] = world.hosts;
    const id = from!.command({ kind: 'switch', name: db, to: to!.self, reason: 'asked' });
    world.run(5_000);
    to!.event({ kind: 'daemon', isConnected: false });
    world.run(2_000);
    to!.event({ kind: 'daemon', isConnected: true });
    world.run(60_000);
    expect(from!.lease().moving?.step).toBe('preparing');
    to!.event({ kind: 'daemon', isConnected: false });
    world.runUntil(() => from!.replies.has(id), 4_000);
    expect(from!.replies.get(id)).toMatchObject({ code: 'HANDOVER_ABORTED' });
    expect(world.holder()).toBe(from);
  });

  test('with several targets those that are not there are left out', () => {
    const world = running();
    const [from, best, to] = world.hosts;
    const id = from!.command({ kind: 'switch', name: db, to: null, reason: 'asked' });
    best!.isAlive = false;
    expect(from!.lease().moving).toEqual({ to: null, step: 'preparing' });
    world.run(5_000);
    expect(from!.lease().moving).toEqual({ to: to!.self, step: 'preparing' });
    answered(world, to!, 'prepare');
    answered(world, from!, 'stop');
    answered(world, to!, 'settle');
    world.runUntil(() => from!.replies.has(id), 500);
    expect(from!.replies.get(id)).toMatchObject({ isOk: true, holder: to!.self });
  });

  test('a target that forgot says so', () => {
    const world = running();
    const [from, , to] = world.hosts;
    from!.command({ kind: 'switch', name: db, to: to!.self, reason: 'asked' });
    answered(world, to!, 'prepare');
    to!.restart({ isIntact: true });
    answered(world, from!, 'stop');
    world.run(600);
    expect(from!.noticesOf('resume')).toHaveLength(1);
    expect(from!.lease()).toMatchObject({ state: 'active', epoch: 1 });
  });

  test('failing probes move it to whoever is ready, and nowhere when nobody is', () => {
    const world = running();
    const [from, best] = world.hosts;
    from!.desire({ failingProbes: ['engine'] });
    world.run(30_000);
    expect(world.holder()).toBe(from);
    answered(world, best!, 'prepare');
    answered(world, from!, 'stop');
    answered(world, best!, 'settle');
    world.runUntil(() => world.holder() === best, 500);
  });

  test('what only a daemon needs moves to one when its own is gone or was stopped, and is not taken without one', () => {
    for (const isStopped of [false, true]) {
      const planner = { gate: null, traffic: [], onDaemonDown: 'move' } as const;
      const world = running({ lease: planner });
      const [first, , last] = world.hosts;
      last!.event({ kind: 'daemon', isConnected: false });
      if (isStopped) first!.command({ kind: 'daemon-stopping' });
      first!.event({ kind: 'daemon', isConnected: false });
      world.run(moveLimits.daemonGoneMs - 1_000);
      expect(world.holder()).toBe(first);
      world.runUntil(() => world.holder() === world.hosts[1], 12_000);
      // The only one with a daemon dies: the others have no use for it.
      world.hosts[1]!.isAlive = false;
      world.run(10_000);
      expect(world.holder()).toBeNull();
      expect(last!.lease().why).toBe('its daemon does not run');
      last!.event({ kind: 'daemon', isConnected: true });
      world.runUntil(() => world.holder() === last, 3_000);
    }
  });

  test('a guard that could start nothing leaves it to one that can', () => {
    const world = running();
    const [first, best, last] = world.hosts;
    best!.event({ kind: 'daemon', isConnected: false });
    first!.isAlive = false;
    world.runUntil(() => world.holder() === last, 3_000);
    expect(best!.lease().why).toBe('its daemon does not run');
    best!.event({ kind: 'daemon', isConnected: true });
    expect(best!.lease().why).toBe('');
  });

  test('what still stands frozen in its gate goes on without a daemon, too', () => {
    const world = running({ lease: { onLoss: 'freeze' } });
    const [first] = world.hosts;
    first!.isPopulated = true;
    first!.event({ kind: 'daemon', isConnected: false });
    for (const other of world.hosts.slice(1)) other.event({ kind: 'daemon', isConnected: false });
    world.lose = ({ from, to }) => from === first!.self || to === first!.self;
    world.run(5_000);
    expect(world.holder()).toBeNull();
    world.lose = () => false;
    world.runUntil(() => world.holder() === first, 5_000);
  });

  test('what only a daemon needs moves as often as it has to', () => {
    const world = running({ lease: { gate: null, traffic: [], onDaemonDown: 'move' } });
    for (let moves = 0; moves < 6; moves++) {
      const before = world.holder()!;
      before.event({ kind: 'daemon', isConnected: false });
      world.runUntil(() => world.holder() !== before && world.holder() !== null, 45_000);
      before.event({ kind: 'daemon', isConnected: true });
      world.run(10_000);
    }
  });

  test('is refused while frozen, for strangers, and where it is not held', () => {
    const world = running();
    const [holder, other] = world.hosts;
    const code = (host: Bench, id: number) => host.replies.get(id);
    const away = { kind: 'switch', name: db, to: hostId(1), reason: '' } as const;
    expect(code(other!, other!.command(away))).toMatchObject({ code: 'LEASE_NOT_HELD' });
    expect(code(holder!, holder!.command({ ...away, to: hostId(7) }))).toMatchObject({
      code: 'LEASE_DENIED',
    });
    expect(code(holder!, holder!.command({ ...away, name: 'service/prod/x' }))).toMatchObject({
      code: 'LEASE_UNKNOWN',
    });
    holder!.desire({ isFrozen: true });
    expect(code(holder!, holder!.command(away))).toMatchObject({ code: 'LEASE_FROZEN' });
  });
});

describe('hold still', () => {
  test('[trellis:I19] frozen: no acquisition, but renewal and fencing go on', () => {
    const world = running();
    for (const host of world.hosts) host.desire({ isFrozen: true });
    world.run(10_000);
    expect(world.holder()).toBe(world.hosts[0]);
    const cut = hostId(0);
    world.lose = ({ from, to }) => from === cut || to === cut;
    world.run(10_000);
    expect(world.holder()).toBeNull();
    expect(world.hosts[0]!.gate).toBe('frozen');
    for (const host of world.hosts) host.desire({ isFrozen: false });
    world.runUntil(() => world.holder() === world.hosts[1], 2_000);
  });

  test('a suspend drops everything: gate, session, grants', () => {
    const world = running();
    const host = world.hosts[0]!;
    const { session } = host.core.status(host.now());
    host.event({ kind: 'clock', what: 'suspend' });
    world.settle();
    expect(host.gate).toBe('frozen');
    expect(host.core.status(host.now()).session).not.toBe(session);
    expect(host.core.status(host.now()).silentMs).toBe(5_000);
    expect(host.lease().state).not.toBe('active');
  });

  test('a step of the wall clock freezes, renews once and thaws', () => {
    const world = running();
    const host = world.hosts[0]!;
    world.run(100);
    world.park = ({ message }) => message.kind === 'accept';
    host.event({ kind: 'clock', what: 'wall' });
    world.settle();
    expect(host.gate).toBe('frozen');
    world.park = () => false;
    for (const flight of world.parked.splice(0)) world.deliver(flight);
    world.settle();
    expect(host.gate).toBe('open');
    expect(host.lease()).toMatchObject({ state: 'active', epoch: 1 });
  });

  test('[trellis:R3] the daemon may be gone: renewals go on, an alarm says so', () => {
    const world = running();
    const host = world.hosts[0]!;
    host.event({ kind: 'daemon', isConnected: false });
    world.run(120_000);
    expect(world.holder()).toBe(host);
    const events = host.noticesOf('event').map((notice) => 'event' in notice && notice.event);
    expect(events).toContain('lease.daemon-down');
  });
});

describe('a gate that cannot be emptied', () => {
  test('is not opened, not released; the lease runs out and another host takes it', () => {
    const world = new BenchWorld({ hosts: 3 });
    const host = world.hosts[0]!;
    host.clearAnswers.push('empty', 'populated', 'populated', 'populated', 'populated');
    world.begin();
    world.runUntil(() => world.holder() !== null, 6_000);
    expect(world.holder()).not.toBe(host);
    expect(host.noticesOf('open')).toEqual([]);
    const released = world.sent.some(
      ({ from, message }) => from === host.self && message.kind === 'release',
    );
    expect(released).toBe(false);
  });

  test('a workload that did not start is given up, and not tried here again', () => {
    const world = running();
    const host = world.hosts[0]!;
    host.command({ kind: 'start-failed', name: db, epoch: 1, why: 'no such image' });
    world.runUntil(() => world.holder() === world.hosts[1], 1_000);
    expect(host.lease().why).toContain('no such image');
    expect(host.lease().history.slice(-2)).toMatchObject([
      { what: 'start-failed', epoch: 1, host: hostId(0) },
      { what: 'acquired', epoch: 2, host: hostId(1) },
    ]);
  });

  test('the fence command runs before a start after an unreleased expiry, and its failure prevents it', () => {
    const world = running({ lease: { fence: 'command', fenceCommand: ['off'] } });
    world.hosts[0]!.isAlive = false;
    const winner = world.hosts[1]!;
    const asked = () => winner.effects.find((effect) => effect.kind === 'fence');
    world.runUntil(() => asked() !== undefined, 3_000);
    expect(asked()).toMatchObject({ how: 'command', victim: hostId(0), epoch: 2 });
    world.run(3_000);
    expect(winner.gate).toBe('frozen');
    winner.event({ kind: 'fenced', name: db, epoch: 2, isFenced: true });
    world.settle();
    expect(winner.gate).toBe('open');
  });

  /** The first has lost its power; the command of the second, which took over, is running. */
  function fencing(hosts = 3): { world: BenchWorld; second: Bench; third: Bench } {
    const world = running({ hosts, lease: { fence: 'command', fenceCommand: ['off'] } });
    world.hosts[0]!.isAlive = false;
    const [, second, third] = world.hosts;
    world.runUntil(() => fencedBy(second!).length > 0, 3_000);
    return { world, second: second!, third: third! };
  }

  const fencedBy = (host: Bench) =>
    host.effects.flatMap((effect) => (effect.kind === 'fence' ? [effect.victim] : []));

  test('a fence command that fails: the next holder has to fence the same host, and nothing has started', () => {
    const { world, second, third } = fencing();
    second.event({ kind: 'fenced', name: db, epoch: 2, isFenced: false });
    world.runUntil(() => fencedBy(third).length > 0, 3_000);
    expect(fencedBy(third)).toEqual([hostId(0)]);
    world.run(3_000);
    for (const host of [second, third]) expect(host.noticesOf('open')).toEqual([]);
    third.event({ kind: 'fenced', name: db, epoch: 3, isFenced: true });
    world.settle();
    expect(third.gate).toBe('open');
  });

  test('a host that dies while its fence command runs: the next one fences both', () => {
    const { world, second, third } = fencing(5);
    second.isAlive = false;
    world.runUntil(() => fencedBy(third).length > 0, 10_000);
    third.event({ kind: 'fenced', name: db, epoch: 3, isFenced: true });
    world.settle();
    expect(third.gate).not.toBe('open');
    expect(fencedBy(third)).toEqual([hostId(0), hostId(1)]);
    third.event({ kind: 'fenced', name: db, epoch: 3, isFenced: true });
    world.settle();
    expect(third.gate).toBe('open');
  });

  test('a guard that was started anew while the fence command ran: it is run again', () => {
    const { world, second } = fencing();
    second.effects.length = 0;
    second.restart({ isIntact: true });
    world.run(500);
    expect(second.gate).not.toBe('open');
    expect(fencedBy(second).at(-1)).toBe(hostId(0));
    second.event({ kind: 'fenced', name: db, epoch: 2, isFenced: true });
    world.settle();
    expect(second.gate).toBe('open');
  });

  test('an operator who takes the fence command away answers for it', () => {
    const { world, second } = fencing();
    second.desire({ leases: [{ ...world.leases[0]!, fence: 'none', fenceCommand: [] }] });
    world.settle();
    expect(second.gate).toBe('open');
  });
});

describe('locks', () => {
  test('are taken by command, refused while held, free after their release', () => {
    const world = running();
    const lock = leaseOf({ name: 'lock/backup', gate: null, traffic: [], candidates: [] });
    const [one, two] = world.hosts;
    const first = one!.command({ kind: 'acquire', lease: lock, waitMs: 0 });
    world.run(100);
    expect(one!.replies.get(first)).toMatchObject({ isOk: true, epoch: 1 });
    const second = two!.command({ kind: 'acquire', lease: lock, waitMs: 0 });
    world.run(300);
    expect(two!.replies.get(second)).toMatchObject({ isOk: false, code: 'LEASE_BUSY' });
    const third = two!.command({ kind: 'acquire', lease: lock, waitMs: 10_000 });
    world.run(5_000);
    one!.command({ kind: 'release', name: 'lock/backup', reason: 'done' });
    world.run(500);
    expect(two!.replies.get(third)).toMatchObject({ isOk: true, epoch: 2 });
    expect(one!.core.status(one!.now()).leases.some(({ name }) => name === 'lock/backup')).toBe(
      false,
    );
  });
});

describe('what goes over the wire while nothing happens', () => {
  /** Kinds of messages between hosts, with when they were sent. */
  function listen(world: BenchWorld): { kind: string; from: string; to: string; atMs: number }[] {
    const sent: { kind: string; from: string; to: string; atMs: number }[] = [];
    world.lose = ({ from, to, message }) => {
      sent.push({ kind: message.kind, from, to, atMs: world.nowMs });
      return false;
    };
    return sent;
  }

  test('candidates that vote wait with their own voter: nothing but renewals, and news that go with them', () => {
    const world = running();
    world.run(15_000);
    const sent = listen(world);
    world.run(20_000);
    const isRenewal = (kind: string): boolean => kind === 'accept' || kind === 'accepted';
    expect(new Set(sent.map(({ kind }) => kind))).toEqual(new Set(['accept', 'accepted', 'learn']));
    const news = sent.filter(({ kind }) => kind === 'learn');
    expect(news.length).toBeGreaterThanOrEqual(2 * 3);
    expect(news.length).toBeLessThanOrEqual(2 * 4);
    for (const { to, atMs } of news)
      expect(sent).toContainEqual({ kind: 'accept', from: hostId(0), to, atMs });
    const renewals = sent.filter(({ kind }) => isRenewal(kind)).length;
    expect(renewals / 20 / 4).toBeLessThan(1_000 / (400 * 0.9));
  });

  test('candidates that do not vote ask all voters', () => {
    const world = running({ hosts: 4, voters: 3 });
    world.run(5_000);
    const sent = listen(world);
    world.run(10_000);
    const watches = sent.filter(({ kind }) => kind === 'watch');
    expect(new Set(watches.map(({ from }) => from))).toEqual(new Set([hostId(3)]));
    expect(new Set(watches.map(({ to }) => to))).toEqual(new Set(world.ids.slice(0, 3)));
    expect(watches.length / 3).toBeGreaterThanOrEqual(3);
  });

  test('a candidate whose own voter hears nothing of the holder asks the others, and takes over when they tell', () => {
    const world = running();
    world.run(3_000);
    const [holder, candidate] = [hostId(0), hostId(1)];
    const sent = listen(world);
    const record = world.lose;
    world.lose = (flight) =>
      record(flight) || [flight.from, flight.to].toSorted().join() === [holder, candidate].join();
    world.run(12_000);
    const asked = sent.filter(
      ({ kind, from, to }) => kind === 'watch' && from === candidate && to === hostId(2),
    );
    expect(asked.length).toBeGreaterThanOrEqual(3);
    world.hosts[2]!.desire({ leases: [leaseOf({ candidates: world.ids, mayAcquire: false })] });
    world.hosts[0]!.isAlive = false;
    expect(world.runUntil(() => world.holder() !== null, 5_000)).toBeLessThan(1_900);
    expect(world.holder()!.self).toBe(candidate);
  });

  test('a candidate whose own voter is silent asks the others', () => {
    const world = running();
    world.run(3_000);
    world.hosts[1]!.event({ kind: 'clock', what: 'suspend' });
    const sent = listen(world);
    world.run(3_500);
    const asked = sent.filter(({ kind, from }) => kind === 'watch' && from === hostId(1));
    expect(new Set(asked.map(({ to }) => to))).toEqual(new Set([hostId(0), hostId(2)]));
  });
});

test('renewals of one host go together', () => {
  const names = Array.from({ length: 20 }, (_, index) => `service/${env}/s${index}`);
  const world = new BenchWorld({ hosts: 3 });
  world.leases = names.map((name) => leaseOf({ name, candidates: world.ids }));
  world.begin();
  world.run(10_000);
  const before = world.hosts[0]!.core.status(world.hosts[0]!.now()).counters['turns']!;
  world.sent.length = 0;
  world.run(10_000);
  const times = accepts(world, 'renew').length / 2 / names.length;
  expect(times).toBeGreaterThan(20);
  expect(times).toBeLessThan(32);
  expect(
    world.hosts[0]!.core.status(world.hosts[0]!.now()).counters['turns']! - before,
  ).toBeGreaterThan(0);
});

test('voter configurations of the test are whole', () => {
  expect(chosenOf([hostId(0)]).config.n).toBe(0);
});
