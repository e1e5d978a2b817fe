/** One seed of any target, of either kind of world. */
import { runLeaseSeed } from './lease/run-lease-seed.ts';
import { runSeed, type Outcome } from './run-seed.ts';
import { targetNamed, targets } from './targets.ts';

export const targetNames: readonly string[] = [...targets.map(({ name }) => name), 'lease'];

/** Lines of a failing world of leases that are shown. */
const linesMax = 80;

export function runAny(
  name: string,
  seed: number,
  options: { print?: (line: string) => void } = {},
): Outcome {
  if (name !== 'lease') return runSeed(targetNamed(name), seed, options);
  const outcome = runLeaseSeed(seed, options);
  const lines: string[] = [];
  if (outcome.failure !== null && options.print === undefined) {
    // The same again, this time with its lines: they are not kept in a run that passes.
    runLeaseSeed(seed, {
      print: (line) => {
        lines.push(line);
        if (lines.length > linesMax) lines.shift();
      },
    });
  }
  return {
    seed,
    target: 'lease',
    nodeCount: outcome.options.hostCount,
    simulatedMs: outcome.simulatedMs,
    traceHash: outcome.traceHash,
    convergedMs: outcome.convergedMs,
    failure: outcome.failure,
    lines,
    swarm: outcome.options,
    steps: outcome.steps,
  };
}
