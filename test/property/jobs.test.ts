/**
 * Jobs on several hosts over a lease that keeps its epochs and nothing else: hosts crash, are cut off, disagree about the time
 * of day, and lose answers. No tick is begun twice.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { HostId, NodeId } from '../../crdt/ids.ts';
import type { HostView } from '../../crdt/model.ts';
import { ClusterError } from '../../daemon/errors.ts';
import type { JobRun, JobSchedulerOptions } from '../../daemon/jobs.ts';
import { JobScheduler, jobsTopic } from '../../daemon/jobs.ts';
import type { HoldOptions, WithLease } from '../../daemon/lease-hold.ts';
import type { FactEntry } from '../../daemon/node-api.ts';
import type { Clock, Timer } from '../../daemon/ports.ts';
import { SimRandom } from '../sim/sim-random.ts';
import { settled } from '../unit/reconcile/manual-clock.ts';

const silent = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const everyMs = 5_000;
const count = 5;
/** From the last renewal: when the holder is told to stop, and when others may have it. */
const authorityMs = 3_800;
const exclusionMs = 5_000;

interface Due {
  readonly atMs: number;
  readonly fire: () => void;
  readonly alive: () => boolean;
}

interface Holder {
  readonly host: Host;
  readonly epoch: number;
  readonly controller: AbortController;
  /** Since when it cannot renew. */
  cutAtMs: number | null;
  /** It is renewed no more. */
  isOver: boolean;
}

class World {
  nowMs = 1_000_000;
  readonly random: SimRandom;
  readonly hosts: Host[];
  /** By host; hosts of one group hear each other. */
  groups = Array.from({ length: count }, () => 0);
  maxEpoch = 0;
  holder: Holder | null = null;
  readonly started: { tick: number; host: number; atMs: number }[] = [];
  readonly active = new Set<JobRun>();
  readonly events: string[] = [];
  #due: Due[] = [];

  constructor(seed: number) {
    this.random = new SimRandom(seed);
    this.hosts = Array.from({ length: count }, (_, index) => new Host(this, index));
  }

  later(delayMs: number, fire: () => void, alive: () => boolean): Timer {
    const due = { atMs: this.nowMs + delayMs, fire, alive };
    this.#due.push(due);
    return { cancel: () => void (this.#due = this.#due.filter((one) => one !== due)) };
  }

  hear(a: Host, b: Host): boolean {
    return this.groups[a.index] === this.groups[b.index];
  }

  hasMajority(host: Host): boolean {
    const near = this.hosts.filter((other) => other.isUp && this.hear(host, other));
    return host.isUp && near.length > count / 2;
  }

  async run(forMs: number): Promise<void> {
    const endMs = this.nowMs + forMs;
    for (;;) {
      this.#due = this.#due.filter((due) => due.alive());
      let next: Due | null = null;
      for (const due of this.#due) if (next === null || due.atMs < next.atMs) next = due;
      if (next === null || next.atMs > endMs) break;
      this.nowMs = next.atMs;
      this.#due = this.#due.filter((due) => due !== next);
      this.#lapse();
      next.fire();
      await settled();
    }
    this.nowMs = endMs;
    this.#lapse();
    await settled();
  }

  #lapse(): void {
    const { holder } = this;
    if (holder === null) return;
    const isLost = holder.isOver || holder.controller.signal.aborted;
    if (this.hasMajority(holder.host) && !isLost) {
      holder.cutAtMs = null;
      return;
    }
    holder.cutAtMs ??= this.nowMs;
    if (this.nowMs >= holder.cutAtMs + authorityMs) holder.controller.abort(new Error('lost'));
    if (this.nowMs >= holder.cutAtMs + exclusionMs) this.holder = null;
  }
}

class Host {
  readonly index: number;
  readonly id: HostId;
  readonly node: NodeId;
  readonly #world: World;
  isUp = false;
  incarnation = 0;
  wallMs = 0;
  scheduler: JobScheduler | null = null;
  /** What it has heard, by owner. */
  facts = new Map<NodeId, FactEntry>();
  own: unknown = null;

  constructor(world: World, index: number) {
    this.#world = world;
    this.index = index;
    this.id = String.fromCharCode(97 + index).repeat(32) as HostId;
    this.node = String.fromCharCode(97 + index).repeat(64) as NodeId;
  }

  start(): void {
    if (this.isUp) return;
    this.isUp = true;
    this.incarnation += 1;
    const scheduler = new JobScheduler(this.#options());
    scheduler.register({ id: 'sweep', everyMs, run: (run) => this.#job(run) });
    scheduler.start();
    this.scheduler = scheduler;
  }

  /** Nothing of it runs on, not even to say that it ended. */
  crash(): void {
    if (!this.isUp) return;
    this.isUp = false;
    if (this.#world.holder?.host === this) this.#world.holder.isOver = true;
    this.scheduler = null;
    this.facts = new Map();
    this.own = null;
  }

  #options(): JobSchedulerOptions {
    const world = this.#world;
    const { incarnation } = this;
    const isAlive = (): boolean => this.isUp && this.incarnation === incarnation;
    const clock: Clock = {
      monotonicMs: () => world.nowMs,
      wallMs: () => world.nowMs + this.wallMs,
      setTimer: (delayMs, fire) => world.later(delayMs, fire, isAlive),
    };
    const node: JobSchedulerOptions['node'] = {
      env: 'prod',
      self: { node: this.node, host: this.id },
      hosts: () =>
        world.hosts.map((host) => ({
          id: host.id,
          node: host.node,
          name: `h${host.index}`,
          env: 'prod',
          liveness: host === this || (host.isUp && world.hear(this, host)) ? 'alive' : 'dead',
        })) as HostView[],
      facts: (topic) => (topic === jobsTopic ? [...this.facts.values()] : []),
      publishFact: (topic, value) => this.#publish(topic, value),
      emit: ({ kind }) => void world.events.push(kind),
    };
    return { node, clock, log: silent, withLease: this.#withLease(clock, isAlive) };
  }

  #publish(topic: string, value: unknown): void {
    const world = this.#world;
    this.own = value;
    const entry: FactEntry = { owner: this.node, topic, value, ageMs: 0 };
    this.facts.set(this.node, entry);
    for (const other of world.hosts)
      world.later(
        world.random.next() * 300,
        () => world.hear(this, other) && other.facts.set(this.node, entry),
        () => other.isUp,
      );
  }

  #withLease(clock: Clock, isAlive: () => boolean): WithLease {
    const world = this.#world;
    const pause = (ms: number): Promise<void> =>
      new Promise((resolve) => clock.setTimer(ms, resolve));
    return async <T>(
      name: string,
      options: HoldOptions,
      work: (hold: Parameters<Parameters<WithLease>[2]>[0]) => Promise<T>,
    ): Promise<T> => {
      await pause(5 + 40 * world.random.next());
      if (!world.hasMajority(this))
        throw new ClusterError('NO_QUORUM', { env: 'prod', reason: '' });
      if (world.holder !== null) throw new ClusterError('LEASE_BUSY', { name, reason: 'held' });
      const epoch = Math.max(world.maxEpoch + 1, options.epochMin ?? 0);
      world.maxEpoch = epoch;
      // Granted by a majority that could not say so.
      if (world.random.next() < 0.1)
        throw new ClusterError('NO_QUORUM', { env: 'prod', reason: '' });
      const controller = new AbortController();
      const holder: Holder = { host: this, epoch, controller, cutAtMs: null, isOver: false };
      world.holder = holder;
      const { signal } = controller;
      const assertHeld = (): void => {
        if (signal.aborted) throw new ClusterError('LEASE_LOST', { name, reason: '' });
      };
      await pause(5 + 40 * world.random.next());
      try {
        assertHeld();
        const result = await work({ name, epoch, signal, assertHeld });
        assertHeld();
        return result;
      } finally {
        if (isAlive()) holder.isOver = true;
        if (isAlive() && world.holder === holder && world.hasMajority(this)) world.holder = null;
      }
    };
  }

  async #job(run: JobRun): Promise<void> {
    const world = this.#world;
    world.started.push({ tick: run.tick, host: this.index, atMs: world.nowMs });
    const { incarnation } = this;
    for (const other of world.active) if (other.signal.aborted) world.active.delete(other);
    expect(world.active.size).toBe(0);
    world.active.add(run);
    const isAlive = (): boolean => this.isUp && this.incarnation === incarnation;
    await new Promise<void>((resolve) => {
      world.later(8_000 * world.random.next() ** 3, resolve, isAlive);
      run.signal.addEventListener('abort', () => isAlive() && resolve());
    });
    world.active.delete(run);
  }
}

const host = fc.nat(count - 1);
const fault = fc.oneof(
  fc.record({ do: fc.constant('crash' as const), host }),
  fc.record({ do: fc.constant('start' as const), host }),
  fc.record({
    do: fc.constant('cut' as const),
    groups: fc.array(fc.nat(2), { minLength: count, maxLength: count }),
  }),
  fc.record({ do: fc.constant('heal' as const) }),
  fc.record({
    do: fc.constant('wall' as const),
    host,
    wallMs: fc.integer({ min: -40_000, max: 40_000 }),
  }),
  fc.record({ do: fc.constant('wall' as const), host, wallMs: fc.constant(3_600_000) }),
);
const step = fc.record({ fault, forMs: fc.integer({ min: 100, max: 9_000 }) });

function apply(world: World, what: typeof fault extends fc.Arbitrary<infer T> ? T : never): void {
  switch (what.do) {
    case 'crash':
      return world.hosts[what.host]?.crash();
    case 'start':
      return world.hosts[what.host]?.start();
    case 'cut':
      world.groups = what.groups;
      return;
    case 'heal':
      world.groups = world.groups.map(() => 0);
      return;
    case 'wall':
      Object.assign(world.hosts[what.host] as Host, { wallMs: what.wallMs });
  }
}

test('[trellis:Y10] no tick is begun twice, one run at a time, and ticks go on when faults end', async () => {
  await fc.assert(
    fc.asyncProperty(fc.nat(), fc.array(step, { maxLength: 25 }), async (seed, steps) => {
      const world = new World(seed);
      for (const one of world.hosts) one.start();
      await world.run(everyMs);
      for (const { fault: what, forMs } of steps) {
        apply(world, what);
        await world.run(forMs);
      }
      world.groups = world.groups.map(() => 0);
      for (const one of world.hosts) one.start();
      await world.run(20_000);
      const before = world.started.length;
      await world.run(12 * everyMs);
      const ticks = world.started.map(({ tick }) => tick);
      expect(new Set(ticks).size).toBe(ticks.length);
      expect(world.started.length - before).toBeGreaterThanOrEqual(4);
    }),
    { numRuns: process.env['TRELLIS_E2E'] === 'full' ? 1_000 : 40 },
  );
}, 120_000);

test('a host that dies in the middle of a run: the tick is skipped, and said so', async () => {
  const world = new World(3);
  for (const one of world.hosts) one.start();
  await world.run(60_000);
  const runs = world.started.length;
  expect(runs).toBeGreaterThan(6);
  let dead: Host | undefined;
  for (let tries = 0; dead === undefined && tries < 5_000; tries++) {
    await world.run(20);
    if (world.active.size > 0 && world.holder !== null) dead = world.holder.host;
  }
  const tick = world.started.at(-1)?.tick ?? 0;
  // Everybody has heard that it began.
  await world.run(1);
  dead?.crash();
  await world.run(10 * everyMs);
  expect(world.started.filter((run) => run.tick === tick)).toHaveLength(1);
  expect(world.started.at(-1)?.tick).toBeGreaterThan(tick);
  expect(world.events).toContain('job.skipped');
});
