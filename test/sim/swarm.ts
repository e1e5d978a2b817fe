/**
 * What goes wrong in one seed. Every probability is drawn per seed and some kinds are off altogether: a run in which
 * everything fails a little never shows what many crashes on a perfect network, or a perfect disk behind a rotten link, do.
 *
 * Fault budget: what the design claims to survive and no more. Crashes lose or tear only unsynced writes; damage that
 * takes synced bytes away (`corrupt`) is announced to the target, which refuses it when it would destroy the last copy.
 */
import type { NetworkOptions } from './sim-network.ts';
import type { SimRandom } from './sim-random.ts';
import type { StorageOptions } from './sim-storage.ts';
import type { SimNode, World } from './world.ts';

export const faultKinds = [
  'kill',
  'power',
  'pause',
  'partition',
  'one-way',
  'isolate',
  'clog',
  'wall-jump',
  'rate',
  'full-disk',
  'corrupt',
] as const;
export type FaultKind = (typeof faultKinds)[number];

export interface SwarmOptions {
  readonly nodeCount: number;
  readonly network: Partial<NetworkOptions>;
  readonly storage: Partial<StorageOptions>;
  readonly driftMax: number;
  readonly wallOffsetMsMax: number;
  /** Those switched on in this seed. */
  readonly faults: readonly FaultKind[];
  readonly faultEveryMsMin: number;
  readonly faultEveryMsMax: number;
  readonly faultForMsMax: number;
  /** How long the safety phase lasts. */
  readonly forMs: number;
}

export function swarmOptions(
  random: SimRandom,
  limits: { nodesMin: number; nodesMax: number; forMsMax: number },
): SwarmOptions {
  const sometimes = (max: number): number => (random.chance(0.5) ? random.between(0, max) : 0);
  const faultEveryMsMin = random.pick([300, 1_000, 5_000]);
  return {
    nodeCount: limits.nodesMin + random.index(limits.nodesMax - limits.nodesMin + 1),
    network: {
      latencyMs: random.pick([0.2, 1, 20]),
      jitterMs: random.pick([0, 5, 60]),
      loss: sometimes(0.3),
      duplicate: sometimes(0.5),
      reorder: sometimes(0.5),
      breakMsMin: random.pick([500, 5_000]),
      breakMsMax: random.pick([6_000, 30_000]),
    },
    storage: {
      syncMsMax: random.pick([1, 6, 300]),
      stallChance: sometimes(0.05),
      tornChance: sometimes(1),
    },
    driftMax: random.pick([0, 0.0002, 0.05]),
    wallOffsetMsMax: random.pick([0, 1_000, 3_600_000]),
    faults: faultKinds.filter(() => random.chance(0.45)),
    faultEveryMsMin,
    faultEveryMsMax: faultEveryMsMin * random.pick([2, 10]),
    faultForMsMax: random.pick([2_000, 10_000, 60_000]),
    forMs: Math.min(limits.forMsMax, random.pick([30_000, 60_000, 180_000])),
  };
}

/** Asks for a fault that takes synced bytes; null when this node must not be damaged now. */
export type CorruptibleFile = (index: number) => string | null;

/** Plans the faults of the safety phase; each ends by itself, at the latest when `stopFaults` ends all. */
export class FaultInjector<N extends SimNode> {
  readonly #world: World<N>;
  readonly #options: SwarmOptions;
  readonly #corruptible: CorruptibleFile;
  #isStopped = false;
  readonly counts = new Map<FaultKind, number>();

  constructor(world: World<N>, options: SwarmOptions, corruptible: CorruptibleFile) {
    this.#world = world;
    this.#options = options;
    this.#corruptible = corruptible;
    this.#scheduleNext();
  }

  /** Liveness phase: the network is whole, clocks run evenly, everybody is up, disks have room. */
  stopFaults(): void {
    const world = this.#world;
    this.#isStopped = true;
    world.network.options = {
      ...world.network.options,
      loss: 0,
      duplicate: 0,
      reorder: 0,
      jitterMs: 1,
    };
    world.heal();
    for (let index = 0; index < world.nodeCount; index++) {
      world.disk(index).isFull = false;
      world.resume(index);
      if (!world.isUp(index)) world.start(index);
    }
  }

  #scheduleNext(): void {
    const { faultEveryMsMin, faultEveryMsMax, faults } = this.#options;
    if (faults.length === 0) return;
    const world = this.#world;
    world.scheduler.after(world.random.between(faultEveryMsMin, faultEveryMsMax), () => {
      if (this.#isStopped) return;
      this.#inject(world.random.pick(faults));
      this.#scheduleNext();
    });
  }

  #inject(kind: FaultKind): void {
    this.counts.set(kind, (this.counts.get(kind) ?? 0) + 1);
    const world = this.#world;
    const index = world.random.index(world.nodeCount);
    const forMs = world.random.between(0, this.#options.faultForMsMax);
    switch (kind) {
      case 'kill':
      case 'power':
        this.#crash(index, kind, forMs);
        break;
      case 'pause':
        if (world.isUp(index)) world.pause(index, { forMs: forMs / 4 });
        break;
      case 'partition':
      case 'one-way':
      case 'isolate':
      case 'clog':
        this.#cut(kind, index, forMs);
        break;
      case 'wall-jump':
        world.jumpWallClock(index, Math.floor(world.random.between(-86_400_000, 86_400_000)));
        break;
      case 'rate':
        world.host(index).rate =
          1 + world.random.between(-this.#options.driftMax, this.#options.driftMax);
        break;
      case 'full-disk':
        world.disk(index).isFull = true;
        this.#later(forMs, () => (world.disk(index).isFull = false));
        break;
      case 'corrupt':
        this.#corrupt(index, forMs);
        break;
    }
  }

  #crash(index: number, how: 'kill' | 'power', forMs: number): void {
    const world = this.#world;
    if (!world.isUp(index)) return;
    world.crash(index, how);
    this.#later(forMs, () => {
      if (!world.isUp(index)) world.start(index);
    });
  }

  #cut(kind: 'partition' | 'one-way' | 'isolate' | 'clog', index: number, forMs: number): void {
    const world = this.#world;
    const others = world.ids.map((_, other) => other).filter((other) => other !== index);
    if (others.length === 0) return;
    const some = others.filter(() => world.random.chance(0.5));
    if (kind === 'isolate') world.isolate(index);
    else if (kind === 'clog') {
      const [from, to] = [world.ids[index], world.ids[world.random.pick(others)]];
      if (from !== undefined && to !== undefined) world.network.clog(from, to);
    } else if (kind === 'one-way') world.partition([index], some, { bothWays: false });
    else
      world.partition(
        [index, ...some],
        others.filter((other) => !some.includes(other)),
      );
    this.#later(forMs, () => world.heal());
  }

  #corrupt(index: number, forMs: number): void {
    const world = this.#world;
    const file = this.#corruptible(index);
    if (file === null) return;
    world.crash(index, 'power');
    const isLost = world.random.chance(0.3);
    if (isLost) world.disk(index).lose(file);
    else world.disk(index).flipByte(file);
    this.#later(forMs, () => {
      if (!world.isUp(index)) world.start(index);
    });
  }

  #later(forMs: number, act: () => void): void {
    this.#world.scheduler.after(forMs, () => {
      if (!this.#isStopped) act();
    });
  }
}
