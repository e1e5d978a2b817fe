/** A bounded share of what `npm run sim -- --target lease` does: first every seed that ever failed, then fresh ones. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { mutants } from './mutants.ts';
import { applyMutant } from './mutate.ts';
import { runLeaseSeed } from './run-lease-seed.ts';

const known = readFileSync(new URL('seeds.txt', import.meta.url), 'utf8')
  .split('\n')
  .filter((line) => /^\d/.test(line))
  .map((line) => Number(line.split(' ')[0]));

/** Events of fresh seeds in one run of the tests. */
const stepsMax = 2_000_000;
const msMax = 25_000;

describe('leases in a swarm of faulty worlds', () => {
  test('seeds that once failed', { timeout: 120_000 }, () => {
    for (const seed of known) {
      const { failure } = runLeaseSeed(seed);
      expect(failure, `seed ${seed}`).toBeNull();
    }
  });

  test(
    '[trellis:P8] [trellis:E5] never two, and one again when the faults stop',
    { timeout: 180_000 },
    () => {
      const startedMs = performance.now();
      let steps = 0;
      let seeds = 0;
      while (steps < stepsMax && (performance.now() - startedMs < msMax || seeds < 60)) {
        const outcome = runLeaseSeed(++seeds);
        steps += outcome.steps;
        expect(
          outcome.failure,
          `npm run sim -- --target lease --seed ${seeds} --log full`,
        ).toBeNull();
      }
    },
  );

  test('the same seed twice gives the same trace', () => {
    for (const seed of [1, 2, 3, 4, 5]) {
      const first = runLeaseSeed(seed);
      const second = runLeaseSeed(seed);
      expect(second.traceHash).toBe(first.traceHash);
      expect(second.steps).toBe(first.steps);
    }
  });

  test('every mutant still fits the source that it breaks', () => {
    const read = (file: string): string =>
      readFileSync(new URL(`../../../${file}`, import.meta.url), 'utf8');
    for (const mutant of mutants) expect(applyMutant(mutant, read).size).toBeGreaterThan(0);
  });
});
