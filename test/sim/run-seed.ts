/** One seed: safety with faults, then faults stop and it must converge, then the target judges what is left. */
import type { LeaseWorldOptions } from './lease/options.ts';
import { SimRandom } from './sim-random.ts';
import { FaultInjector, swarmOptions, type SwarmOptions } from './swarm.ts';
import type { Target } from './target.ts';

export interface Outcome {
  readonly seed: number;
  readonly target: string;
  readonly nodeCount: number;
  readonly simulatedMs: number;
  readonly traceHash: string;
  /** Of the liveness phase. */
  readonly convergedMs: number;
  readonly failure: string | null;
  /** For a failure: the newest log lines. */
  readonly lines: readonly string[];
  readonly swarm: SwarmOptions | LeaseWorldOptions;
  /** Events handled, where they are counted. */
  readonly steps?: number;
}

export function runSeed(
  target: Target,
  seed: number,
  options: { print?: (line: string) => void } = {},
): Outcome {
  const random = new SimRandom(`${target.name}/${seed}`);
  const swarm = swarmOptions(random.fork('swarm'), target);
  const run = target.make({ seed, swarm, random: random.fork('target'), ...options });
  const { world } = run;
  const faults = new FaultInjector(world, swarm, run.corruptible ?? (() => null));
  let failure: string | null = null;
  let convergedMs = 0;
  try {
    run.begin?.(swarm.forMs);
    world.run({ forMs: swarm.forMs });
    faults.stopFaults();
    convergedMs = world.converge({ withinMs: run.convergeWithinMs });
    run.judge?.();
  } catch (error) {
    failure = error instanceof Error ? (error.stack ?? error.message) : String(error);
    const { cause } = error as { cause?: unknown };
    if (cause instanceof Error) failure += `\ncaused by ${cause.stack}`;
  }
  return {
    seed,
    target: target.name,
    nodeCount: swarm.nodeCount,
    simulatedMs: world.nowMs,
    traceHash: world.traceHash(),
    convergedMs,
    failure,
    lines: failure === null ? [] : world.log.newest(40),
    swarm,
  };
}
