/**
 * Measures `lease-sim` in a process of its own: how many steps of simulated leases one core does in a second, checks and
 * all. Prints one sample per seed as JSON. Argument: seconds.
 */
import { runLeaseSeed } from '../sim/lease/run-lease-seed.ts';

export interface SimulatedLeases {
  readonly stepsPerSecond: readonly number[];
  readonly steps: number;
  readonly failures: readonly string[];
}

function main(seconds: number): SimulatedLeases {
  const stepsPerSecond: number[] = [];
  const failures: string[] = [];
  const untilMs = performance.now() + seconds * 1_000;
  let steps = 0;
  // The first ones only warm up.
  for (let seed = 1; stepsPerSecond.length === 0 || performance.now() < untilMs; seed++) {
    const before = process.cpuUsage();
    const outcome = runLeaseSeed(seed);
    const { user, system } = process.cpuUsage(before);
    if (outcome.failure !== null) failures.push(`seed ${seed}: ${outcome.failure.slice(0, 200)}`);
    if (seed <= warmUpSeeds) continue;
    steps += outcome.steps;
    stepsPerSecond.push((outcome.steps * 1e6) / (user + system));
  }
  return { stepsPerSecond, steps, failures };
}

const warmUpSeeds = 3;

process.stdout.write(`${JSON.stringify(main(Number(process.argv[2])))}\n`);
