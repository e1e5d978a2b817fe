/**
 * Runs many seeds on all cores and reports what failed, with the line that reproduces it.
 *
 *   npm run sim                                  a few thousand seeds of every target
 *   npm run sim -- --seeds 20000 --from 100000   so many, beginning there
 *   npm run sim -- --hours 8                     until so much real time is over
 *   npm run sim -- --target trellis --seed 123   one seed, its options and its trace
 *   npm run sim -- --target trellis --seed 123 --log full   and every log line
 *   npm run sim -- --target lease --steps 100000000   leases, until so many events have been handled
 *   npm run sim -- --mutants                     every known-broken variant of the leases has to be caught
 */
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';
import { isMainThread, parentPort, Worker } from 'node:worker_threads';
import { runMutants } from './lease/mutate.ts';
import { runAny, targetNames } from './run-any.ts';
import type { Outcome } from './run-seed.ts';

interface Job {
  readonly target: string;
  readonly seed: number;
}

const usage = `npm run sim -- [FLAGS]: simulated clusters, each from one seed, with faults; then without, and they must converge

  --seeds N        that many seeds of each target (default 2000)
  --hours H        until so much real time has passed
  --steps N        until targets that count events have handled so many
  --from N         the first seed (default: from the clock)
  --target NAME    only ${targetNames.join(' or ')}
  --seed X         one seed alone; --log full prints every line of it
  --workers N      threads (default: one per core)
  --mutants        no swarm: leases with one rule broken at a time; each has to be caught. --only NAME,NAME

A failure prints the seed, the commit and the line that repeats it.
`;
const progressEveryMs = 10_000;
/** After so many failures a run ends: they will mostly be one bug. */
const failuresMax = 10;

if (isMainThread) await main();
else serve();

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      seeds: { type: 'string' },
      hours: { type: 'string' },
      from: { type: 'string' },
      seed: { type: 'string' },
      target: { type: 'string' },
      log: { type: 'string' },
      workers: { type: 'string' },
      steps: { type: 'string' },
      mutants: { type: 'boolean' },
      only: { type: 'string' },
      help: { type: 'boolean', short: 'h' },
    },
  });
  if (values.help === true) {
    process.stdout.write(usage);
    return;
  }
  if (values.mutants === true) {
    const areCaught = runMutants(values.only?.split(',') ?? null, (line) => console.log(line));
    console.log(areCaught ? 'every mutant was caught' : 'NOT every mutant was caught');
    process.exitCode = areCaught ? 0 : 1;
    return;
  }
  const names = values.target === undefined ? targetNames : [values.target];
  for (const name of names)
    if (!targetNames.includes(name))
      throw new Error(`no simulated target ${name}; there are: ${targetNames.join(', ')}`);
  if (values.seed !== undefined) {
    process.exitCode = names
      .map((name) => runOne(name, count('--seed', values.seed), values.log))
      .includes(false)
      ? 1
      : 0;
    return;
  }
  const hours = values.hours === undefined ? null : Number(values.hours);
  if (hours !== null && !(hours > 0)) throw new Error('--hours takes a positive number');
  process.exitCode = await runMany({
    names,
    seeds:
      hours === null && values.steps === undefined
        ? count('--seeds', values.seeds ?? '2000')
        : Number.POSITIVE_INFINITY,
    steps: values.steps === undefined ? Number.POSITIVE_INFINITY : count('--steps', values.steps),
    from: count('--from', values.from ?? String(Math.floor(Date.now() / 1000))),
    untilMs: hours === null ? Number.POSITIVE_INFINITY : performance.now() + hours * 3_600_000,
    workers: count('--workers', values.workers ?? String(availableParallelism())),
  });
}

function count(option: string, text: string | undefined): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0)
    throw new Error(`${option} takes a whole number, not '${text}'`);
  return value;
}

/** Verbose: for one seed. True when it passed. */
function runOne(name: string, seed: number, log: string | undefined): boolean {
  const outcome = runAny(name, seed, log === 'full' ? { print: (line) => console.log(line) } : {});
  console.log(`${name} seed ${seed}: ${JSON.stringify(outcome.swarm)}`);
  if (outcome.failure !== null) console.log(describe(outcome));
  const seconds = Math.round(outcome.simulatedMs / 1000);
  console.log(
    `${outcome.failure === null ? 'passed' : 'FAILED'} after ${seconds} s simulated, trace ${outcome.traceHash}`,
  );
  return outcome.failure === null;
}

async function runMany(options: {
  names: readonly string[];
  seeds: number;
  steps: number;
  from: number;
  untilMs: number;
  workers: number;
}): Promise<number> {
  const startedMs = performance.now();
  const totals = new Map(
    options.names.map((name) => [
      name,
      { seeds: 0, clusterMs: 0, nodeMs: 0, slowestMs: 0, steps: 0 },
    ]),
  );
  const failures: Outcome[] = [];
  let reportedMs = startedMs;
  let steps = 0;
  const jobs = makeJobs(options, () => failures.length >= failuresMax || steps >= options.steps);
  await Promise.all(
    Array.from({ length: options.workers }, () =>
      work(jobs, (outcome) => {
        const total = totals.get(outcome.target);
        if (total === undefined) return;
        total.seeds++;
        total.steps += outcome.steps ?? 0;
        steps += outcome.steps ?? 0;
        total.clusterMs += outcome.simulatedMs;
        total.nodeMs += outcome.simulatedMs * outcome.nodeCount;
        total.slowestMs = Math.max(total.slowestMs, outcome.convergedMs);
        if (outcome.failure !== null) {
          failures.push(outcome);
          console.log(describe(outcome));
        }
        if (performance.now() - reportedMs < progressEveryMs) return;
        reportedMs = performance.now();
        console.log(
          `... ${[...totals].map(([name, total]) => `${name} ${total.seeds}${stepsOf(total.steps)}`).join(', ')}`,
        );
      }),
    ),
  );
  const seconds = (performance.now() - startedMs) / 1000;
  for (const [name, total] of totals) {
    console.log(
      `${name}: ${total.seeds} seeds from ${options.from}, ${hoursOf(total.clusterMs)} cluster-hours ` +
        `(${hoursOf(total.nodeMs)} node-hours) simulated, slowest convergence ${Math.round(total.slowestMs)} ms${stepsOf(total.steps, seconds)}`,
    );
  }
  console.log(
    `${failures.length === 0 ? 'no failure' : `${failures.length} FAILED`} in ${seconds.toFixed(1)} s on ${options.workers} cores`,
  );
  return failures.length === 0 ? 0 : 1;
}

/** Targets take turns, so that each has its share whenever the run ends. */
function* makeJobs(
  options: { names: readonly string[]; seeds: number; from: number; untilMs: number },
  isOver: () => boolean,
): Generator<Job> {
  for (let index = 0; index < options.seeds; index++) {
    for (const target of options.names) {
      if (isOver() || performance.now() > options.untilMs) return;
      yield { target, seed: options.from + index };
    }
  }
}

/** One worker takes jobs until there are none. */
async function work(jobs: Iterator<Job>, onOutcome: (outcome: Outcome) => void): Promise<void> {
  const worker = new Worker(new URL(import.meta.url));
  try {
    await new Promise<void>((resolve, reject) => {
      const next = (): void => {
        const job = jobs.next();
        if (job.done === true) resolve();
        else worker.postMessage(job.value);
      };
      worker.on('message', (outcome: Outcome) => {
        onOutcome(outcome);
        next();
      });
      worker.on('error', reject);
      next();
    });
  } finally {
    await worker.terminate();
  }
}

function serve(): void {
  parentPort?.on('message', (job: Job) => {
    parentPort?.postMessage(runAny(job.target, job.seed));
  });
}

function describe(outcome: Outcome): string {
  return [
    `FAILED ${outcome.target} seed ${outcome.seed}, commit ${commit()}, node ${process.version}`,
    outcome.failure ?? '',
    ...outcome.lines.map((line) => `  ${line}`),
    `reproduce: npm run sim -- --target ${outcome.target} --seed ${outcome.seed} --log full`,
    `then add '${outcome.target} ${outcome.seed}' to ${outcome.target === 'lease' ? 'test/sim/lease/seeds.txt' : 'test/sim/seeds.txt'}`,
  ].join('\n');
}

function commit(): string {
  try {
    return execFileSync('git', ['rev-parse', '--short', 'HEAD'], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    // A release without its history: the version of the source has to be known otherwise.
    return 'unknown';
  }
}

function stepsOf(steps: number, seconds?: number): string {
  if (steps === 0) return '';
  const rate = seconds === undefined ? '' : `, ${Math.round(steps / seconds)} a second`;
  return `, ${steps} steps${rate}`;
}

function hoursOf(ms: number): string {
  return (ms / 3_600_000).toFixed(1);
}
