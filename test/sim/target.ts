/** What the swarm may be let loose on: a way to make one world from a seed, keep it busy, and judge it. */
import type { SimRandom } from './sim-random.ts';
import type { CorruptibleFile, SwarmOptions } from './swarm.ts';
import type { SimNode, World } from './world.ts';

export interface TargetRun {
  readonly world: World<SimNode>;
  /** Keeps the cluster busy during the safety phase; schedules itself on the world. */
  begin?(forMs: number): void;
  /** Which file of this node may be damaged now without exceeding the fault budget; null: none. */
  readonly corruptible?: CorruptibleFile;
  /** After convergence: throws when something acknowledged is missing or replicas differ. */
  judge?(): void;
  /** Time the liveness phase may take. */
  readonly convergeWithinMs: number;
}

export interface Target {
  readonly name: string;
  readonly nodesMin: number;
  readonly nodesMax: number;
  /** Longest safety phase. */
  readonly forMsMax: number;
  make(options: {
    readonly seed: number;
    readonly swarm: SwarmOptions;
    readonly random: SimRandom;
    readonly print?: (line: string) => void;
  }): TargetRun;
}
