/** What goes wrong, and what operators do meanwhile, in one seed. Every fault ends by itself or when `stopAll` ends all. */
import type { HostId } from '../../../crdt/ids.ts';
import type { GuardCommand } from '../../../daemon/lease/guard-api.ts';
import type { CoreEffect } from '../../../daemon/lease/core-api.ts';
import type { SimRandom } from '../sim-random.ts';
import { clockRateError, profiles } from '../../../daemon/lease/profiles.ts';
import type { LeaseFault, OperatorAct } from './options.ts';
import { leaseByCommand } from './truth.ts';
import type { LeaseTruth, Truth } from './truth.ts';
import type { LeaseWorld } from './world.ts';

function isPlannerless({ spec, candidates }: LeaseTruth): boolean {
  return spec.name.startsWith('planner/') && candidates.length === 0;
}

/** As the daemon numbers them. */
const epochsPerTick = 256;

/** The longest wait of a force, and what its questions may take. */
const forceMsMax = 75_000;

export class Faults {
  readonly #world: LeaseWorld;
  readonly #random: SimRandom;
  #isStopped = false;
  /** The host whose disk damages what it has. */
  readonly #badDisk: number;
  readonly counts = new Map<string, number>();

  constructor(world: LeaseWorld) {
    this.#world = world;
    this.#random = world.random.fork('faults');
    this.#badDisk = world.random.fork('bad disk').index(world.machines.length);
    if (world.options.faults.length > 0) this.#nextFault();
    if (world.options.acts.length > 0) this.#nextAct();
  }

  /** Everybody is up, the network whole, disks quick, nothing frozen or parked: now it has to converge. */
  stopAll(): void {
    const world = this.#world;
    this.#isStopped = true;
    world.network.heal();
    world.network.forgetClasses();
    Object.assign(world.network.options, {
      latencyMs: 1,
      jitterMs: 2,
      loss: 0,
      duplicate: 0,
      slow: 0,
      park: 0,
    });
    world.lateChance = 0;
    world.syncMsMax = 5;
    world.isKind = true;
    for (const machine of world.machines) {
      const { index } = machine;
      const guard = world.guards[index];
      if (guard !== undefined) guard.onEffect = null;
      world.stallDisk(index, 0);
      // Declared dead by an operator: not back before the force is over.
      if (!machine.isUp && machine.isKeptOff)
        world.scheduler.after(forceMsMax, () => {
          machine.isKeptOff = false;
          world.boot(index, 50);
        });
      else if (!machine.isUp) world.boot(index, 50);
      else if (machine.isAsleep) continue;
      else {
        world.resumeGuard(index);
        world.startGuard(index);
      }
    }
    this.#change({
      isFrozen: false,
      why: 'try again',
      votersWanted: null,
      leases: world.truth.leases.map((lease) => ({
        ...lease,
        isFrozen: false,
        mayAcquire: lease.mayAcquire.map(() => true),
        // Without a planner nobody makes the voters grant what a longer profile needs.
        candidates: isPlannerless(lease) ? this.#able() : lease.candidates,
      })),
      failing: world.truth.failing.map(() => false),
    });
    // Daemons that swallowed a question are asked again when they come back.
    for (const daemon of world.daemons) {
      daemon.kill();
      daemon.start();
    }
  }

  #able(): readonly HostId[] {
    const { hosts, witness } = this.#world.truth;
    return hosts.filter((_, index) => index !== witness);
  }

  #count(what: string): void {
    this.counts.set(what, (this.counts.get(what) ?? 0) + 1);
  }

  #nextFault(): void {
    const { faults, faultEveryMs } = this.#world.options;
    this.#world.scheduler.after(this.#random.between(0, 2 * faultEveryMs), () => {
      if (this.#isStopped) return;
      const fault = this.#random.pick(faults);
      this.#count(fault);
      this.#inject(fault);
      this.#nextFault();
    });
  }

  #nextAct(): void {
    const { acts, actEveryMs } = this.#world.options;
    this.#world.scheduler.after(this.#random.between(0, 2 * actEveryMs), () => {
      if (this.#isStopped) return;
      const act = this.#random.pick(acts);
      this.#count(act);
      this.#operate(act);
      this.#nextAct();
    });
  }

  #anyHost(): number {
    return this.#random.index(this.#world.machines.length);
  }

  /** Holders are more interesting. */
  #host(): number {
    if (this.#random.chance(0.4)) {
      const lease = this.#random.pick(this.#world.truth.leases);
      const last = this.#world.checks.activationsOf(lease.spec.name).at(-1);
      if (last !== undefined) return last.host;
    }
    return this.#anyHost();
  }

  #forMs(): number {
    return this.#random.between(0, this.#world.options.faultForMsMax);
  }

  #inject(fault: LeaseFault): void {
    const world = this.#world;
    const random = this.#random;
    const host = this.#host();
    switch (fault) {
      case 'kill':
      case 'kill-lost':
        this.#kill(host, fault === 'kill');
        return;
      case 'power':
        this.#power(host);
        return;
      case 'log-damage':
        this.#damage();
        return;
      case 'stop':
        this.#pause(host);
        return;
      case 'stop-between':
      case 'crash-at-effect':
        this.#arm(host, fault);
        return;
      case 'sleep':
        world.sleep(host, random.between(20, 2 * world.options.faultForMsMax));
        return;
      case 'storm':
        this.#storm();
        return;
      case 'partition':
      case 'isolate':
      case 'one-way':
      case 'flap':
        this.#cut(fault, host);
        return;
      case 'rate':
        world.machines[host]?.setRate(
          1 + random.pick([-clockRateError, clockRateError, 0]),
          world.nowMs,
        );
        return;
      case 'wall':
        world.guards[host]?.notice({ kind: 'clock', what: 'wall' });
        return;
      case 'fsync-stall':
        world.stallDisk(host, random.pick([200, 1_500, 10_000]) * random.next());
        return;
      case 'daemon-kill':
        world.daemons[host]?.kill();
        world.scheduler.after(this.#forMs() * 3, () => world.daemons[host]?.start());
    }
  }

  #restartMs(): number {
    const { restartMsMax } = this.#world.options;
    return this.#random.chance(0.1)
      ? this.#random.between(0, 6_000)
      : this.#random.between(20, restartMsMax);
  }

  #kill(host: number, isVolatileKept: boolean): void {
    const world = this.#world;
    world.killGuard(host, { isVolatileKept });
    world.scheduler.after(this.#restartMs(), () => world.startGuard(host));
  }

  #power(host: number): void {
    const world = this.#world;
    world.cutPower(host);
    world.scheduler.after(this.#random.between(50, 2_000) + this.#forMs() * 2, () =>
      world.boot(host, this.#random.between(20, 500)),
    );
  }

  /** It is seen when the guard starts. Always of the same host: see the fault budget. */
  #damage(): void {
    const world = this.#world;
    const host = this.#badDisk;
    if (this.#random.chance(0.5)) this.#power(host);
    else this.#kill(host, this.#random.chance(0.5));
    const kept = this.#random.chance(0.3) ? 0 : this.#random.next();
    world.damageLog(host, kept);
  }

  #pause(host: number): void {
    const world = this.#world;
    world.stopGuard(host);
    world.scheduler.after(this.#forMs(), () => world.resumeGuard(host));
  }

  /** The next turn of this guard is cut short: before, or after, one of its effects. */
  #arm(host: number, fault: 'stop-between' | 'crash-at-effect'): void {
    const world = this.#world;
    const guard = world.guards[host];
    if (guard === undefined) return;
    const kind: CoreEffect['kind'] = this.#random.pick([
      'send',
      'persist',
      'gate',
      'traffic',
      'lease-file',
    ]);
    let left = this.#random.index(5);
    const isKept = this.#random.chance(0.6);
    const isPower = this.#random.chance(0.3);
    guard.onEffect = (_index, effect) => {
      if (effect.kind !== kind || left-- > 0) return 'go';
      guard.onEffect = null;
      if (fault === 'stop-between') {
        this.#pause(host);
        return 'stopped';
      }
      if (isPower) this.#power(host);
      else this.#kill(host, isKept);
      return 'dead';
    };
  }

  #storm(): void {
    const world = this.#world;
    const random = this.#random;
    const kind = random.pick(['kept', 'lost', 'power', 'rotation'] as const);
    for (const machine of world.machines) {
      const { index } = machine;
      if (kind === 'rotation') {
        world.scheduler.after(index * random.between(50, 1_500), () => {
          if (!this.#isStopped) this.#kill(index, false);
        });
      } else if (!random.chance(0.6)) continue;
      else if (kind === 'power') this.#power(index);
      else this.#kill(index, kind === 'kept');
    }
  }

  #cut(fault: 'partition' | 'isolate' | 'one-way' | 'flap', host: number): void {
    const world = this.#world;
    const random = this.#random;
    const all = world.machines.map(({ index }) => index);
    const cuts: [number, number][] = [];
    const others = all.filter((index) => index !== host);
    if (fault === 'partition') {
      const left = all.filter(() => random.chance(0.5));
      for (const a of left) for (const b of all) if (!left.includes(b)) cuts.push([a, b], [b, a]);
    } else if (fault === 'isolate') for (const b of others) cuts.push([host, b], [b, host]);
    else if (fault === 'one-way') {
      const isOut = random.chance(0.5);
      const some = random.chance(0.5) ? others : others.filter(() => random.chance(0.5));
      for (const b of some) cuts.push(isOut ? [host, b] : [b, host]);
    } else {
      this.#flap(host, others, 2 + random.index(12));
      return;
    }
    for (const [a, b] of cuts) world.network.setCut(a, b, true);
    world.scheduler.after(this.#forMs() * 1.5, () => {
      for (const [a, b] of cuts) world.network.setCut(a, b, false);
    });
  }

  /** At about the period of renewals. */
  #flap(host: number, others: readonly number[], times: number): void {
    const world = this.#world;
    if (times === 0 || this.#isStopped) {
      for (const b of others) {
        world.network.setCut(host, b, false);
        world.network.setCut(b, host, false);
      }
      return;
    }
    for (const b of others) {
      world.network.setCut(host, b, times % 2 === 0);
      world.network.setCut(b, host, times % 2 === 0);
    }
    world.scheduler.after(this.#random.between(300, 500), () =>
      this.#flap(host, others, times - 1),
    );
  }

  // ---- Operators --------------------------------------------------------------------------------------------------------

  #change(change: Partial<Truth>): void {
    const world = this.#world;
    world.truth = { ...world.truth, ...change, version: world.truth.version + 1 };
    for (const daemon of world.daemons) {
      const lateMs = this.#isStopped ? 1 : this.#random.pick([5, 100, 3_000]) * this.#random.next();
      world.scheduler.after(lateMs, () => daemon.refresh());
    }
  }

  #changeLease(at: number, change: Partial<LeaseTruth>): void {
    this.#change({
      leases: this.#world.truth.leases.map((lease, index) =>
        index === at ? { ...lease, ...change } : lease,
      ),
    });
  }

  #operate(act: OperatorAct): void {
    const world = this.#world;
    const random = this.#random;
    const at = random.index(world.truth.leases.length);
    const lease = world.truth.leases[at] as LeaseTruth;
    const name = lease.spec.name;
    const holder = world.checks.activationsOf(name).at(-1)?.host ?? 0;
    const onHolder = random.chance(0.85) ? holder : this.#anyHost();
    switch (act) {
      case 'switch': {
        const to = random.chance(0.5) ? null : random.pick(world.truth.hosts);
        world.command(onHolder, { kind: 'switch', name, to, reason: 'asked' });
        return;
      }
      case 'release':
        world.command(onHolder, { kind: 'release', name, reason: 'asked' });
        return;
      case 'park':
      case 'unpark':
        this.#park(act, onHolder, random.chance(0.5) ? null : name);
        return;
      case 'freeze':
        if (random.chance(0.5)) this.#change({ isFrozen: !world.truth.isFrozen });
        else this.#changeLease(at, { isFrozen: !lease.isFrozen });
        return;
      case 'start-failed': {
        const epoch = world.machines[holder]?.gate(name).fileEpoch ?? 0;
        world.command(holder, { kind: 'start-failed', name, epoch, why: 'exit 1' });
        return;
      }
      case 'force-active':
      case 'force-voters':
        this.#force(act, name);
        return;
      case 'lock':
        this.#lock();
        return;
      case 'tick':
        this.#tick();
        return;
      case 'candidates':
      case 'may-acquire':
      case 'voters':
      case 'profile':
      case 'probes':
        this.#policy(act, at, lease);
    }
  }

  /** A lock, or the uses of an invitation: held for a while by whoever asked, unless its daemon dies before. */
  #lock(): void {
    const random = this.#random;
    const name = random.pick(['lock/x', 'lock/x', 'invite/i']);
    const host = this.#anyHost();
    const waitMs = random.pick([0, 3_000, 20_000]) * random.next();
    const lease = leaseByCommand(name, this.#world.truth.hosts[host] as HostId);
    this.#world.daemons[host]?.acquire(
      { kind: 'acquire', lease, waitMs },
      random.between(10, 8_000),
    );
  }

  /** Hosts whose clocks disagree want to run the same tick, or one that is over. */
  #tick(): void {
    const world = this.#world;
    const host = this.#anyHost();
    const periodMs = 2_000;
    const tick = 1 + Math.floor((world.nowMs + this.#random.between(0, 2 * periodMs)) / periodMs);
    const lease = leaseByCommand('job/e/j', world.truth.hosts[host] as HostId);
    const command = { kind: 'acquire', lease, waitMs: 0, epochMin: tick * epochsPerTick } as const;
    world.daemons[host]?.acquire(command, this.#random.between(1, 500), (epoch) => {
      if (epoch === tick * epochsPerTick) world.checks.onTick(host, tick);
    });
  }

  #park(act: 'park' | 'unpark', host: number, name: string | null): void {
    const command: GuardCommand = { kind: act, name };
    this.#world.command(host, command);
    if (act === 'park')
      this.#world.scheduler.after(this.#random.between(100, 15_000), () =>
        this.#world.command(host, { kind: 'unpark', name }),
      );
  }

  #policy(
    act: 'candidates' | 'may-acquire' | 'voters' | 'profile' | 'probes',
    at: number,
    lease: LeaseTruth,
  ): void {
    const world = this.#world;
    const random = this.#random;
    const { hosts, witness } = world.truth;
    switch (act) {
      case 'candidates': {
        const some = hosts.filter((_, index) => index !== witness && random.chance(0.7));
        const from = random.index(Math.max(1, some.length));
        this.#changeLease(at, { candidates: [...some.slice(from), ...some.slice(0, from)] });
        return;
      }
      case 'may-acquire':
        this.#changeLease(at, { mayAcquire: hosts.map(() => random.chance(0.7)) });
        return;
      case 'voters':
        this.#change({ votersWanted: hosts.filter(() => random.chance(0.6)).toSorted() });
        if (world.truth.votersWanted?.length === 0) this.#change({ votersWanted: null });
        return;
      case 'profile':
        this.#changeLease(at, {
          // Longer ones than the voters allow are never granted.
          profile: random.pick(
            (['fast', 'wan', 'fenced'] as const).filter(
              (name) => profiles[name].exclusionMs <= world.options.ttlMsMax,
            ),
          ),
          onLoss: lease.onLoss === 'keep' ? 'keep' : random.pick(['stop', 'freeze'] as const),
        });
        return;
      case 'probes':
        this.#change({ failing: hosts.map(() => random.chance(0.25)) });
    }
  }

  /** Only against hosts that are without power, and stay so: see the fault budget. */
  #force(act: 'force-active' | 'force-voters', name: string): void {
    const world = this.#world;
    const dead = world.machines.filter(({ isUp }) => !isUp);
    const alive = world.machines.filter(({ isUp }) => isUp);
    if (dead.length === 0 || alive.length === 0) return;
    const { index } = this.#random.pick(alive);
    if (act === 'force-active') {
      const last = world.checks.activationsOf(name).at(-1);
      if (last === undefined || world.machines[last.host]?.isUp === true) return;
      world.command(index, {
        kind: 'force-active',
        name,
        of: world.truth.hosts[last.host] ?? null,
      });
      return;
    }
    // The dead ones stay dead until the liveness phase, which begins with a whole network.
    for (const machine of dead) machine.isKeptOff = true;
    world.command(index, {
      kind: 'force-voters',
      voters: alive.map(({ id }) => id).toSorted(),
      assertDead: dead.map(({ id }) => id).toSorted(),
    });
  }
}
