/**
 * Adversarial schedules, one behaviour each: they must pass on the production core and fall on the mutant that they name. Each
 * throws when a law is broken, or what it waits for does not come.
 */
import type { HostId } from '../../../../crdt/ids.ts';
import type { Message } from '../../../../daemon/lease/messages.ts';
import { Breach } from '../checkers/checks.ts';
import { hostIdOf } from '../machine.ts';
import { calm, serviceLease, type LeaseWorldOptions } from '../options.ts';
import { LeaseWorld } from '../world.ts';

const name = serviceLease.name;

function worldOf(options: Partial<LeaseWorldOptions> = {}, seed = 1): LeaseWorld {
  const hostCount = options.hostCount ?? calm.hostCount;
  return new LeaseWorld({
    seed,
    options: {
      ...calm,
      rates: Array.from({ length: hostCount }, () => 1),
      candidates: [Array.from({ length: hostCount }, (_, index) => index)],
      ...options,
    },
  });
}

/** Runs until the workload runs on `host`; answers how long that took. */
function untilRunsOn(world: LeaseWorld, host: number, withinMs = 5_000): number {
  return world.runUntil(() => world.machines[host]?.gates.get(name)?.isRunning === true, {
    withinMs,
    what: `${name} runs on h${host}`,
  });
}

function untilNext(
  world: LeaseWorld,
  isIt: (message: Message, from: number, to: number) => boolean,
): void {
  let seen = false;
  const before = world.network.rule;
  world.network.rule = (from, to, message) => {
    if (isIt(message, from, to)) seen = true;
    return before === null ? 'pass' : before(from, to, message);
  };
  world.runUntil(() => seen, { withinMs: 10_000, what: 'the message' });
  world.network.rule = before;
}

function park(world: LeaseWorld, host: number): void {
  let isParked = false;
  world.command(host, { kind: 'park', name: null }, (reply) => (isParked = reply.isOk));
  world.runUntil(() => isParked, { withinMs: 3_000, what: 'parked' });
}

function insist(isTrue: boolean, law: string, text: string): void {
  if (!isTrue) throw new Breach(law, text);
}

function cutOff(world: LeaseWorld, host: number): void {
  for (const { index } of world.machines) {
    if (index === host) continue;
    world.network.setCut(host, index, true);
    world.network.setCut(index, host, true);
  }
}

/** The holder loses power: somebody else runs it within the bound of the design (without the engine's own time). */
function powerCut(): void {
  for (let seed = 1; seed <= 20; seed++) {
    const world = worldOf({ exactVolatile: false }, seed);
    untilRunsOn(world, 0);
    world.run({ forMs: 1_000 + seed * 37 });
    world.cutPower(0);
    const tookMs = world.runUntil(() => world.machines[1]?.gates.get(name)?.isFrozen === false, {
      withinMs: 3_000,
      what: 'h1 opens its gate',
    });
    insist(tookMs <= 1_800, 'L1', `failover took ${Math.round(tookMs)} ms`);
  }
}

/** Both voters that granted it forget, and the holder cannot be heard. */
function quarantine(): void {
  for (const delayMs of [0, 100, 300]) {
    const world = worldOf({ resumeOrder: 'messages-first' }, delayMs + 1);
    untilRunsOn(world, 0);
    untilNext(world, (message) => message.kind === 'accepted');
    world.run({ forMs: 20 });
    cutOff(world, 0);
    world.killGuard(1, { isVolatileKept: false });
    world.killGuard(2, { isVolatileKept: false });
    world.run({ forMs: delayMs });
    world.startGuard(1);
    world.startGuard(2);
    world.run({ forMs: 1_200 });
    insist(world.machines[1]?.gates.get(name)?.isFrozen !== false, 'I1', 'h1 too early');
    world.runUntil(() => (world.runningOn(name) ?? 0) > 0, {
      withinMs: 8_000,
      what: 'a successor',
    });
  }
}

/** A release that was held back arrives after everybody has forgotten and the same host holds it again. */
function releaseOfAnotherLife(): void {
  // Host 3 is no voter: its word is all in messages.
  const world = worldOf({ hostCount: 4, voterCount: 3, candidates: [[3, 0, 1, 2]] });
  untilRunsOn(world, 3);
  world.run({ forMs: 8_000 });
  world.network.rule = (_from, _to, message) => (message.kind === 'release' ? 'hold' : 'pass');
  world.command(3, { kind: 'release', name, reason: 'asked' });
  world.run({ forMs: 700 });
  // Nobody else may take it for now, so that host 3 gets it back.
  allow(world, [3]);
  world.killGuard(3, { isVolatileKept: false });
  for (const voter of [0, 1, 2]) {
    world.killGuard(voter, { isVolatileKept: false });
    world.startGuard(voter);
  }
  world.startGuard(3);
  untilRunsOn(world, 3, 30_000);
  allow(world, [0, 1, 2, 3]);
  world.run({ forMs: 100 });
  insist(world.network.release() > 0, 'I11', 'no release was held back');
  world.network.rule = null;
  cutOff(world, 3);
  world.run({ forMs: 4_000 });
}

/** The same, within one life of the guard: the later tenure has a later ballot. */
function releaseOfEarlierTenure(): void {
  const world = worldOf({ hostCount: 4, voterCount: 3, candidates: [[3, 0, 1, 2]] });
  untilRunsOn(world, 3);
  allow(world, [3]);
  world.network.rule = (_from, _to, message) => (message.kind === 'release' ? 'hold' : 'pass');
  world.command(3, { kind: 'release', name, reason: 'asked' });
  world.run({ forMs: 2_500 });
  untilRunsOn(world, 3, 30_000);
  world.run({ forMs: 3_000 });
  insist(world.network.release() > 0, 'I11', 'no release was held back');
  world.network.rule = null;
  allow(world, [0, 1, 2, 3]);
  cutOff(world, 3);
  world.run({ forMs: 4_000 });
}

function allow(world: LeaseWorld, hosts: readonly number[]): void {
  world.truth = {
    ...world.truth,
    leases: world.truth.leases.map((lease) => ({
      ...lease,
      mayAcquire: world.truth.hosts.map((_, index) => hosts.includes(index)),
    })),
  };
  for (const daemon of world.daemons) daemon.refresh();
}

/** A release that was held back arrives at voters that have granted it to somebody else since. */
function releaseAcrossVoters(): void {
  const world = worldOf();
  untilRunsOn(world, 0);
  world.run({ forMs: 2_000 });
  world.network.rule = (from, to, message) =>
    message.kind === 'release' && from === 0 && to !== 1 ? 'hold' : 'pass';
  world.command(0, { kind: 'release', name, reason: 'asked' });
  untilRunsOn(world, 1, 6_000);
  world.run({ forMs: 300 });
  world.network.release();
  world.run({ forMs: 3_000 });
  insist(world.runningOn(name) === 1, 'I6', 'h1 lost it to an old release');
}

/** The holder's guard stands still past its authority with answers waiting; then messages come before timers. */
function suspendedLoop(): void {
  for (const resumeOrder of ['messages-first', 'reversed', 'timer-first'] as const) {
    // Past the end of the old authority only, and past that of the renewal under way too.
    for (const pauseMs of [1_200, 1_300, 1_400, 1_700]) {
      const world = worldOf({ resumeOrder });
      untilRunsOn(world, 0);
      untilNext(world, (message, from) => message.kind === 'accept' && from === 0);
      world.stopGuard(0);
      world.run({ forMs: pauseMs });
      world.resumeGuard(0);
      world.run({ forMs: 3_000 });
    }
  }
}

/** The same with everybody else free to take over meanwhile, for longer. */
function longPause(): void {
  for (let seed = 1; seed <= 10; seed++) {
    const world = worldOf({ resumeOrder: 'messages-first' }, seed);
    untilRunsOn(world, 0);
    world.run({ forMs: seed * 61 });
    world.stopGuard(0);
    world.run({ forMs: 10_000 });
    world.resumeGuard(0);
    world.run({ forMs: 3_000 });
    insist(world.runningOn(name) !== 0, 'I1', 'the old holder runs on');
  }
}

/** Only one voter answers, twice. */
function scalarCount(): void {
  const world = worldOf({ hostCount: 4, voterCount: 3, candidates: [[3]] });
  world.network.rule = (_from, to, message) =>
    message.kind === 'accept' && to !== 0 ? 'drop' : 'pass';
  Object.assign(world.network.options, { duplicate: 1 });
  world.run({ forMs: 5_000 });
  insist(world.runningOn(name) === null, 'I5', 'one voter was enough');
}

/** A pair whose holder was cut off for longer than its authority: it is gone, not renewed. */
function pairAfterExpiry(): void {
  const world = worldOf({ hostCount: 2, voterCount: 2 });
  untilRunsOn(world, 0);
  world.run({ forMs: 1_000 });
  world.stopGuard(0);
  world.run({ forMs: 1_650 });
  world.resumeGuard(0);
  world.run({ forMs: 6_000 });
}

/** Both halves of a pair: the holder runs on when they are cut apart, the other side never takes over. */
function pairSplit(): void {
  const world = worldOf({ hostCount: 2, voterCount: 2 });
  untilRunsOn(world, 0);
  cutOff(world, 0);
  world.run({ forMs: 20_000 });
  insist(world.runningOn(name) === 0, 'L1', 'the holder of a pair stopped');
  world.network.heal();
  world.run({ forMs: 5_000 });
  insist(world.runningOn(name) === 0, 'L1', 'the holder of a pair was replaced');
}

/** A container whose start comes 25 s late, after the lease has moved away and come back. */
function lateStart(): void {
  for (let seed = 1; seed <= 10; seed++) {
    const world = worldOf({ engineStartMsMax: 30_000 }, seed);
    world.run({ forMs: 2_000 });
    for (let round = 0; round < 6; round++) {
      const holder = world.holderOf(name) ?? 0;
      cutOff(world, holder);
      world.run({ forMs: 4_000 });
      world.network.heal();
      world.run({ forMs: 2_500 });
    }
  }
}

/** Two voters become three while the answer that says "full" is lost, and the pair is cut apart. */
function growWhileSplit(): void {
  for (let seed = 1; seed <= 12; seed++) {
    const world = worldOf(
      {
        hostCount: 3,
        voterCount: 2,
        leases: [serviceLease, plannerLease],
        candidates: [
          [0, 1, 2],
          [1, 0, 2],
        ],
      },
      seed,
    );
    untilRunsOn(world, 0);
    want(world, [0, 1, 2]);
    world.run({ forMs: 200 + seed * 250 });
    world.network.setCut(0, 1, true);
    world.network.setCut(1, 0, true);
    world.network.setCut(0, 2, true);
    world.network.setCut(2, 0, true);
    world.run({ forMs: 6_000 });
    world.network.heal();
    world.run({ forMs: 6_000 });
  }
}

/**
 * One of a pair has voted for a third and does not hear that it was chosen; the holder, no voter itself, reaches only that one,
 * while the other voter and the new one are a majority. `restarts`: the guard of the one starts anew after its vote.
 */
function votedPair(restarts: boolean): void {
  const world = worldOf({
    hostCount: 4,
    voterCount: 2,
    leases: [serviceLease, plannerLease],
    candidates: [
      [2, 1, 3, 0],
      [1, 3],
    ],
  });
  untilRunsOn(world, 2);
  world.run({ forMs: 2_000 });
  want(world, [0, 1, 3]);
  untilNext(
    world,
    (message, from) => message.kind === 'chain-accepted' && message.isAccepted && from === 0,
  );
  world.network.partition([0, 2], [1, 3]);
  if (restarts) {
    world.killGuard(0, { isVolatileKept: true });
    world.startGuard(0);
  }
  world.run({ forMs: 12_000 });
  insist(world.chosenOf(1)?.config.voters.length === 3, 'L1', 'the third is no voter');
  insist(world.runningOn(name) !== 2, 'I1', 'h2 renews with a voter that has gone on');
}

/** One voter becomes two by the word of the holder, who is cut off before the first has heard of it. */
function growFromOne(): void {
  const world = worldOf({
    hostCount: 3,
    voterCount: 1,
    leases: [serviceLease, plannerLease],
    candidates: [[1, 2, 0], [1]],
  });
  untilRunsOn(world, 1);
  world.run({ forMs: 2_000 });
  want(world, [0, 1]);
  untilNext(world, (message) => message.kind === 'chain-accepted' && message.isAccepted);
  world.network.rule = (_from, to, message) =>
    message.kind === 'config' && to === 0 ? 'drop' : 'pass';
  world.run({ forMs: 30 });
  cutOff(world, 1);
  world.run({ forMs: 10_000 });
}

const plannerLease = { ...serviceLease, name: 'planner/e', hasGate: false };

function want(world: LeaseWorld, hosts: readonly number[]): void {
  world.truth = { ...world.truth, votersWanted: hosts.map((index) => hostIdOf(index)).toSorted() };
  for (const daemon of world.daemons) daemon.refresh();
}

/** Every voter replaced, one by one, with the lease held throughout: epochs never fall, nothing restarts. */
function allVotersReplaced(): void {
  const world = worldOf({
    hostCount: 6,
    voterCount: 3,
    leases: [serviceLease, plannerLease],
    candidates: [
      [0, 1, 2, 3, 4, 5],
      [0, 1, 2, 3, 4, 5],
    ],
  });
  untilRunsOn(world, 0);
  want(world, [3, 4, 5]);
  const isDone = (): boolean =>
    [3, 4, 5].every((index) => world.chosenOf(index)?.config.voters.join() === voters([3, 4, 5]));
  world.runUntil(isDone, { withinMs: 120_000, what: 'the voters are replaced' });
  insist(world.runningOn(name) === 0, 'L1', 'it moved');
  world.cutPower(0);
  world.runUntil(() => world.runningOn(name) !== null, { withinMs: 5_000, what: 'it moves' });
}

function voters(indexes: readonly number[]): string {
  return indexes.map((index): HostId => hostIdOf(index)).join();
}

/** 1 -> 2 -> 3 -> 5 -> 3 -> 1 with a holder that must not be disturbed. */
function growAndShrink(): void {
  const world = worldOf({
    hostCount: 5,
    voterCount: 1,
    leases: [serviceLease, plannerLease],
    candidates: [
      [1, 2, 3, 4, 0],
      [0, 1, 2, 3, 4],
    ],
  });
  untilRunsOn(world, 1);
  for (const wanted of [[0, 1], [0, 1, 2], [0, 1, 2, 3, 4], [2, 3, 4], [4]]) {
    want(world, wanted);
    world.runUntil(() => world.chosenOf(4)?.config.voters.join() === voters(wanted), {
      withinMs: 90_000,
      what: `voters become ${wanted.join()}`,
    });
    insist(world.runningOn(name) === 1, 'L1', 'the holder was disturbed');
  }
}

/** All guards stopped in order under a park, and hours pass: nobody promotes, and the holder goes on. */
function parkedForHours(): void {
  const world = worldOf({ exactVolatile: true });
  untilRunsOn(world, 0);
  park(world, 0);
  world.killGuard(0, { isVolatileKept: true });
  world.run({ forMs: 7_200_000 });
  insist(world.runningOn(name) === 0, 'I18', 'the parked workload does not run');
  for (const other of [1, 2]) {
    world.killGuard(other, { isVolatileKept: false });
    world.startGuard(other);
  }
  world.run({ forMs: 30_000 });
  insist(world.runningOn(name) === 0, 'I18', 'somebody took a parked lease');
  world.startGuard(0);
  world.run({ forMs: 1_000 });
  world.command(0, { kind: 'unpark', name: null });
  world.run({ forMs: 5_000 });
  insist(world.runningOn(name) === 0, 'L1', 'the holder did not come back from its park');
}

/**
 * Everything of every host is parked and stopped in order, guards and daemons alike, and two hours pass: what ran runs on, nobody
 * promotes anything, and afterwards everything is held where it was, under the epoch it had, without a restart. [trellis:R20]
 */
function allStoppedForHours(): void {
  const second = { ...serviceLease, name: 'storage/e/b' };
  const world = worldOf({
    leases: [serviceLease, second, plannerLease],
    candidates: [
      [0, 1, 2],
      [1, 2, 0],
      [2, 0, 1],
    ],
  });
  const places = [
    [name, 0],
    [second.name, 1],
  ] as const;
  for (const [lease, host] of places)
    world.runUntil(
      () => world.runningOn(lease) === host && world.stateOf(host, lease) === 'active',
      {
        withinMs: 10_000,
        what: `${lease} runs on h${host}`,
      },
    );
  world.run({ forMs: 5_000 });
  const before = places.map(([lease, host]) => {
    const gate = world.machines[host]?.gate(lease);
    return { process: gate?.process, epoch: world.epochOf(host, lease) };
  });
  for (const { index } of world.machines) {
    world.command(index, { kind: 'daemon-stopping' });
    park(world, index);
    world.daemons[index]?.kill();
    world.killGuard(index, { isVolatileKept: true });
  }
  const insistSame = (law: string, what: string): void => {
    for (const [at, [lease, host]] of places.entries()) {
      const gate = world.machines[host]?.gate(lease);
      insist(world.runningOn(lease) === host, law, `${lease} does not run on h${host} ${what}`);
      insist(gate?.process === before[at]?.process, law, `${lease} was started anew ${what}`);
      const isReached = gate !== undefined && gate.trafficUntilMs > world.nowMs + 1e9;
      insist(isReached || what !== 'meanwhile', law, `traffic of ${lease} is cut ${what}`);
    }
  };
  for (let minutes = 0; minutes < 120; minutes += 10) {
    world.run({ forMs: 600_000 });
    insistSame('I18', 'meanwhile');
  }
  for (const { index } of world.machines) {
    world.startGuard(index);
    world.daemons[index]?.start();
    world.run({ forMs: 3_000 });
    insistSame('I18', 'when others are back');
  }
  for (const { index } of world.machines) world.command(index, { kind: 'unpark', name: null });
  world.runUntil(() => places.every(([lease, host]) => world.stateOf(host, lease) === 'active'), {
    withinMs: 5_000,
    what: 'the same holders hold',
  });
  world.run({ forMs: 5_000 });
  insistSame('L1', 'afterwards');
  for (const [at, [lease, host]] of places.entries())
    insist(world.epochOf(host, lease) === before[at]?.epoch, 'I8', `${lease} has another epoch`);
}

/** The voters hear of an unpark whose answers are lost: the holder runs on, parked, and so the voters must keep it. */
function unparkInVain(): void {
  const world = worldOf();
  untilRunsOn(world, 0);
  park(world, 0);
  world.run({ forMs: 2_000 });
  world.network.rule = (_from, to) => (to === 0 ? 'drop' : 'pass');
  world.command(0, { kind: 'unpark', name: null });
  world.run({ forMs: 400 });
  // Killed in the middle, it comes back as parked as it was.
  world.killGuard(0, { isVolatileKept: true });
  world.startGuard(0);
  world.run({ forMs: 15_000 });
  insist(world.runningOn(name) === 0, 'I18', 'it does not run on');
  world.network.rule = null;
  world.run({ forMs: 1_000 });
  world.command(0, { kind: 'unpark', name: null });
  world.run({ forMs: 5_000 });
  insist(world.holderOf(name) === 0 && world.runningOn(name) === 0, 'L1', 'it does not hold again');
}

/**
 * Parked with two of three votes, one of which dies; the third has not heard of it lately, and the host is no candidate any more. It
 * slept since, so that it has to acquire its lease anew.
 */
function unparkAmongStrangers(): void {
  for (const isOneDead of [false, true]) {
    const world = worldOf({ candidates: [[2, 0, 1]] });
    untilRunsOn(world, 2);
    world.network.rule = (_from, to, message) =>
      message.kind === 'accept' && message.purpose === 'park' && to === 1 ? 'drop' : 'pass';
    park(world, 2);
    world.run({ forMs: 2_000 });
    world.network.rule = null;
    world.truth = {
      ...world.truth,
      leases: world.truth.leases.map((lease) => ({
        ...lease,
        candidates: [hostIdOf(0)],
      })),
    };
    for (const daemon of world.daemons) daemon.refresh();
    world.sleep(2, 700);
    world.run({ forMs: 20_000 });
    if (isOneDead) world.cutPower(0);
    world.command(2, { kind: 'unpark', name: null });
    world.runUntil(() => world.stateOf(2, name) === 'active', {
      withinMs: 6_000,
      what: 'h2 holds what it had parked',
    });
    world.run({ forMs: 5_000 });
    insist(world.runningOn(name) === 2, 'L1', 'it does not run on');
  }
}

/** One of three voters loses the middle of its log: it is silent, the holder goes on, and its vote comes back by two changes of voters. */
function damagedLog(): void {
  const world = worldOf({
    leases: [serviceLease, plannerLease],
    candidates: [
      [0, 1, 2],
      [0, 1, 2],
    ],
  });
  untilRunsOn(world, 0);
  world.run({ forMs: 3_000 });
  world.killGuard(2, { isVolatileKept: false });
  world.damageLog(2, 0.5);
  world.startGuard(2);
  const hasForgotten = (): boolean => {
    const guard = world.guards[2];
    return guard?.core?.status(guard.now()).hasForgotten === true;
  };
  world.run({ forMs: 10_000 });
  insist(hasForgotten() && world.runningOn(name) === 0, 'I7', 'it does not say that it forgot');
  for (const wanted of [
    [0, 1],
    [0, 1, 2],
  ]) {
    want(world, wanted);
    world.runUntil(() => world.chosenOf(2)?.config.voters.join() === voters(wanted), {
      withinMs: 30_000,
      what: `voters become ${wanted.join()}`,
    });
    insist(!hasForgotten(), 'I7', 'it is silent although it was let in anew');
  }
  world.run({ forMs: 2_000 });
  insist(world.runningOn(name) === 0, 'L1', 'the holder was disturbed');
  world.cutPower(1);
  world.run({ forMs: 5_000 });
  insist(world.runningOn(name) === 0, 'L1', 'its vote does not count again');
}

/** A service is removed while it is parked, and its host loses its power: what voters keep of it is in nobody's way for long. */
function parkOfNothing(): void {
  const world = worldOf({
    hostCount: 4,
    voterCount: 3,
    leases: [serviceLease, plannerLease],
    candidates: [
      [0, 1, 2],
      [1, 2, 0],
    ],
  });
  untilRunsOn(world, 0);
  park(world, 0);
  world.cutPower(0);
  world.truth = {
    ...world.truth,
    leases: world.truth.leases.filter(({ spec }) => spec.name !== name),
  };
  for (const daemon of world.daemons) daemon.refresh();
  world.run({ forMs: 1_000 });
  world.boot(0, 50);
  world.run({ forMs: 5_000 });
  want(world, [0, 1, 2, 3]);
  world.runUntil(() => world.chosenOf(3)?.config.voters.join() === voters([0, 1, 2, 3]), {
    withinMs: 30_000,
    what: 'the voters change',
  });
}

/** The only voter dies while a lease is parked with its vote; the others are forced to be the voters. */
function forcedWhileParked(): void {
  const world = worldOf({ hostCount: 3, voterCount: 1, candidates: [[1, 2]] });
  untilRunsOn(world, 1);
  park(world, 1);
  world.cutPower(0);
  world.run({ forMs: 1_000 });
  const machines = world.machines.slice(1);
  world.command(2, {
    kind: 'force-voters',
    voters: machines.map(({ id }) => id),
    assertDead: [hostIdOf(0)],
  });
  world.run({ forMs: 20_000 });
  insist(world.chosenOf(2)?.config.generation === 1, 'L1', 'nothing was forced');
  insist(world.runningOn(name) !== null, 'L1', 'nobody runs it');
}

/** The profile becomes shorter, and the answers to the first short renewal are lost. */
function shorterProfile(): void {
  const world = worldOf({ ttlMsMax: 5_000, leases: [{ ...serviceLease, profile: 'wan' }] });
  untilRunsOn(world, 0, 12_000);
  world.run({ forMs: 5_000 });
  untilNext(world, (message, from) => message.kind === 'accepted' && from !== 0);
  world.run({ forMs: 20 });
  world.truth = {
    ...world.truth,
    leases: world.truth.leases.map((lease) => ({ ...lease, profile: 'fast' as const })),
  };
  for (const daemon of world.daemons) daemon.refresh();
  untilNext(world, (message) => message.kind === 'accept' && message.exclusionMs === 1_600);
  world.run({ forMs: 0.2 });
  for (const other of [1, 2]) world.network.setCut(other, 0, true);
  world.run({ forMs: 20 });
  cutOff(world, 0);
  world.run({ forMs: 8_000 });
}

/** All voters are replaced while nobody holds the lease; then somebody takes it who knows nothing of its past. */
function floorsOfNewVoters(): void {
  const all = [0, 1, 2, 3, 4, 5, 6];
  const world = worldOf({
    hostCount: 7,
    voterCount: 3,
    leases: [serviceLease, plannerLease],
    candidates: [all, [6, 3, 4, 5, 0, 1, 2]],
  });
  untilRunsOn(world, 0);
  world.cutPower(0);
  world.run({ forMs: 3_000 });
  world.boot(0, 50);
  world.run({ forMs: 3_000 });
  const only = (hosts: readonly number[]): void => {
    world.truth = {
      ...world.truth,
      leases: world.truth.leases.map((lease) =>
        lease === world.truth.leases[0]
          ? { ...lease, mayAcquire: all.map((index) => hosts.includes(index)) }
          : lease,
      ),
    };
    for (const daemon of world.daemons) daemon.refresh();
  };
  const holder = world.runningOn(name) ?? 0;
  only([]);
  world.command(holder, { kind: 'release', name, reason: 'asked' });
  world.run({ forMs: 3_000 });
  want(world, [3, 4, 5]);
  world.runUntil(
    () =>
      [3, 4, 5].every((index) => world.chosenOf(index)?.config.voters.join() === voters([3, 4, 5])),
    { withinMs: 120_000, what: 'the voters are replaced' },
  );
  world.killGuard(6, { isVolatileKept: false });
  world.startGuard(6);
  world.run({ forMs: 500 });
  only([6]);
  untilRunsOn(world, 6, 10_000);
}

/** The planned way: the gap without a holder is short, the old one has stopped before. */
function handover(): void {
  const world = worldOf({ exactVolatile: false });
  untilRunsOn(world, 0);
  let isDone = false;
  world.command(0, { kind: 'switch', name, to: hostIdOf(1), reason: 'asked' }, (reply) => {
    isDone = reply.isOk;
  });
  let releasedMs = 0;
  world.network.rule = (from, _to, message) => {
    if (message.kind === 'release' && from === 0) releasedMs = world.nowMs;
    return 'pass';
  };
  world.runUntil(() => world.machines[1]?.gates.get(name)?.isFrozen === false, {
    withinMs: 8_000,
    what: 'h1 takes over',
  });
  const gapMs = world.nowMs - releasedMs;
  insist(gapMs < 60, 'L4', `a gap of ${Math.round(gapMs)} ms`);
  world.runUntil(() => isDone, { withinMs: 2_000, what: 'the answer to the operator' });
}

/** The target is lost at some point of a handover: given up soon, the holder goes on, and the move after it succeeds. */
function targetLost(): void {
  const steps = ['here', 'ready', 'stopped'];
  for (const [index, step] of steps.entries()) {
    const world = worldOf({ exactVolatile: false }, index + 1);
    untilRunsOn(world, 0);
    let code = '';
    const move = (): void =>
      world.command(0, { kind: 'switch', name, to: hostIdOf(1), reason: 'asked' }, (reply) => {
        code = reply.isOk ? 'done' : reply.code;
      });
    move();
    untilNext(world, (message) => message.kind === 'handover' && message.step === step);
    cutOff(world, 1);
    // What stops in order stops first; then the target is asked for the last of the storage.
    const tookMs = world.runUntil(() => code !== '', { withinMs: 5_000, what: 'an answer' });
    insist(code === 'HANDOVER_ABORTED', 'handover', `${step}: ${code} after ${tookMs} ms`);
    untilRunsOn(world, 0);
    insist(world.checks.activationsOf(name).length === 1, 'handover', `${step}: it moved`);
    world.network.heal();
    code = '';
    world.run({ forMs: 3_000 });
    move();
    world.runUntil(() => code === 'done', { withinMs: 8_000, what: 'the second move' });
  }
}

/** Five candidates after the holder's death: one wins soon, and nobody disturbs its renewals (L2, L3). */
function duel(): void {
  for (let seed = 1; seed <= 20; seed++) {
    const world = worldOf(
      {
        hostCount: 5,
        voterCount: 5,
        links: { ...calm.links, latencyMs: 2, jitterMs: 30 },
        exactVolatile: false,
      },
      seed,
    );
    world.runUntil(() => world.runningOn(name) !== null, {
      withinMs: 8_000,
      what: 'a first holder',
    });
    const first = world.holderOf(name) ?? 0;
    world.cutPower(first);
    world.runUntil(() => world.runningOn(name) !== null, { withinMs: 4_000, what: 'a successor' });
    const second = world.holderOf(name);
    world.run({ forMs: 30_000 });
    insist(world.holderOf(name) === second, 'L3', 'a renewal failed with nothing wrong');
  }
}

/** Sleep of the holder's host: when it wakes it is nobody, and says so. */
function sleepingHolder(): void {
  for (const forMs of [600, 1_550, 5_000]) {
    for (const resumeOrder of ['messages-first', 'timer-first'] as const) {
      const world = worldOf({ resumeOrder });
      untilRunsOn(world, 0);
      world.run({ forMs: 777 });
      world.sleep(0, forMs);
      world.run({ forMs: forMs + 4_000 });
      world.runUntil(() => world.runningOn(name) !== null, { withinMs: 8_000, what: 'a holder' });
    }
  }
}

/** A host that is no candidate asks; somebody speaks for another; a learn is forged. */
function forgeries(): void {
  const world = worldOf({ hostCount: 4, voterCount: 3, candidates: [[0, 1]] });
  untilRunsOn(world, 0);
  const header = { env: 'e', generation: 0, n: 2, name };
  const ballot = { counter: 1_000, host: hostIdOf(3), session: 'f'.repeat(24) };
  const stolen = { ...ballot, host: hostIdOf(0) };
  for (const each of [ballot, stolen]) {
    const accept: Message = {
      kind: 'accept',
      ...header,
      ballot: each,
      purpose: 'acquire',
      epoch: 99,
      exclusionMs: 1_600,
      isForced: false,
      unfenced: [],
    };
    for (const to of [1, 2])
      world.guards[to]?.deliver({ kind: 'message', from: hostIdOf(3), message: accept });
  }
  for (const to of [0, 1, 2])
    world.guards[to]?.deliver({
      kind: 'message',
      from: hostIdOf(3),
      message: {
        kind: 'learn',
        env: 'e',
        name,
        owner: { host: hostIdOf(3), session: 'f'.repeat(24) },
        epoch: 2 ** 40,
        remainMs: 1e9,
        state: 'active',
      },
    });
  world.run({ forMs: 5_000 });
  insist(world.runningOn(name) === 0, 'I21', 'a forger had its way');
}

/** Whoever holds it has a failing probe, for an hour: it moves three times and stays (L5). */
function oscillatingProbes(): void {
  const world = worldOf({ exactVolatile: false });
  untilRunsOn(world, 0);
  for (let round = 0; round < 100; round++) {
    const holder = world.holderOf(name);
    const failing = world.truth.hosts.map((_, index) => index === holder && round % 2 === 0);
    world.truth = { ...world.truth, failing };
    for (const daemon of world.daemons) daemon.refresh();
    world.run({ forMs: 30_000 });
  }
  const moves = world.checks.activationsOf(name).length - 1;
  insist(moves === 3, 'L5', `it moved ${moves} times within an hour`);
}

export const scripts: Readonly<Record<string, () => void>> = {
  powerCut,
  quarantine,
  releaseOfAnotherLife,
  releaseOfEarlierTenure,
  releaseAcrossVoters,
  suspendedLoop,
  longPause,
  scalarCount,
  pairAfterExpiry,
  pairSplit,
  lateStart,
  growWhileSplit,
  growFromOne,
  votedPair: () => votedPair(false),
  forgottenIntent: () => votedPair(true),
  allVotersReplaced,
  growAndShrink,
  parkedForHours,
  allStoppedForHours,
  unparkInVain,
  unparkAmongStrangers,
  damagedLog,
  parkOfNothing,
  forcedWhileParked,
  shorterProfile,
  floorsOfNewVoters,
  handover,
  targetLost,
  duel,
  sleepingHolder,
  forgeries,
  oscillatingProbes,
};
