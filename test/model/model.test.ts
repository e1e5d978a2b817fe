import { expect, test } from 'vitest';
import { modelRuns } from './runs.ts';
import { searchModel } from './spin.ts';

/** Spin, the compiler and the search, on a machine that does other things too. */
const limitMs = 240_000;

for (const run of modelRuns.filter(({ isQuick }) => isQuick)) {
  test(`[I1 I8] ${run.model}: ${run.variant} (${run.expects})`, { timeout: limitMs }, async () => {
    const result = await searchModel(run, limitMs);
    expect(result.violation === null).toBe(run.expects === 'safe');
    expect(result.isAsExpected).toBe(true);
    if (run.expects === 'safe') expect(result.isComplete).toBe(true);
  });
}

test('every rule that is broken on purpose stands in the list once, and each model has all kinds', () => {
  const names = modelRuns.map(({ model, variant }) => `${model} ${variant}`);
  expect(new Set(names).size).toBe(names.length);
  for (const model of ['acquire', 'renew', 'chain'])
    for (const expects of ['safe', 'caught', 'reached'])
      expect(modelRuns.some((run) => run.model === model && run.expects === expects)).toBe(true);
});
