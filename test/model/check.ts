/**
 * Model checking of the lease protocol: `npm run model`. Prints one line per search and exits 0 only when the real rules
 * hold everywhere and every mutant is caught. `--quick`: what `npm test` runs. `--only TEXT`: lines that contain it.
 */
import { parseArgs } from 'node:util';
import { modelRuns } from './runs.ts';
import type { ModelRun } from './runs.ts';
import { searchModel } from './spin.ts';
import type { ModelResult } from './spin.ts';

const limitMs = 30 * 60_000;
const widths = [8, 40, 12, 13, 7, 7, 8, 12];

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
  },
});
process.exitCode = await main(
  modelRuns.filter(
    (run) => (run.isQuick || !values.quick) && `${run.model} ${run.variant}`.includes(values.only),
  ),
);

async function main(runs: readonly ModelRun[]): Promise<number> {
  if (runs.length === 0) {
    console.error('no model has that in its name');
    return 1;
  }
  print([
    'model',
    'variant',
    'states',
    'transitions',
    'depth',
    'MB',
    'seconds',
    'search',
    'result',
  ]);
  let failures = 0;
  for (const run of runs) {
    try {
      const result = await searchModel(run, limitMs);
      if (!result.isAsExpected) failures += 1;
      print(cells(result));
    } catch (error) {
      failures += 1;
      print([run.model, run.variant, '', '', '', '', '', '', `FAILED: ${String(error)}`]);
    }
  }
  console.log(`${runs.length - failures} as expected, ${failures} not`);
  return failures === 0 ? 0 : 1;
}

function cells(result: ModelResult): string[] {
  const { run } = result;
  return [
    run.model,
    run.variant,
    String(result.states),
    String(result.transitions),
    String(result.depth),
    String(result.memoryMb),
    result.seconds.toFixed(1),
    searchOf(result),
    `${result.violation ?? 'no violation'}${result.isAsExpected ? '' : ' UNEXPECTED'}`,
  ];
}

function searchOf(result: ModelResult): string {
  if (result.violation !== null) return 'until found';
  if (!result.isComplete) return 'INCOMPLETE';
  return 'exhaustive';
}

function print(columns: readonly string[]): void {
  console.log(
    columns
      .map((text, index) => text.padEnd(widths[index] ?? 0))
      .join(' ')
      .trimEnd(),
  );
}
