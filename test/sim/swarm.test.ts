/** A bounded share of what `npm run sim` does: first every seed that ever failed, then a few fresh ones by number. */
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { runSeed } from './run-seed.ts';
import { targetNamed, targets } from './targets.ts';

const known = readFileSync(new URL('seeds.txt', import.meta.url), 'utf8')
  .split('\n')
  .filter((line) => /^[a-z]/.test(line))
  .map((line) => line.split(/\s+/));

/** Bounded so that the whole file takes seconds; `npm run sim` runs thousands. */
const freshSeeds: Readonly<Record<string, number>> = { membership: 150, trellis: 25 };

describe('seeds that once failed', () => {
  test('the list is readable', () => {
    for (const [target, seed] of known) {
      expect(targetNamed(target ?? '').name).toBe(target);
      expect(Number.isSafeInteger(Number(seed))).toBe(true);
    }
  });

  for (const [target, seed, ...what] of known) {
    test(`${target} ${seed}: ${what.join(' ')}`, () => {
      expect(runSeed(targetNamed(target ?? ''), Number(seed)).failure).toBeNull();
    });
  }
});

describe.each(targets.map((target) => [target.name, target] as const))('%s', (name, target) => {
  test(
    '[trellis:E5] a swarm of faulty worlds stays safe and converges when the faults stop',
    { timeout: 120_000 },
    () => {
      for (let seed = 1; seed <= (freshSeeds[name] ?? 20); seed++) {
        const { failure, lines } = runSeed(target, seed);
        expect(failure, lines.join('\n')).toBeNull();
      }
    },
  );

  test('the same seed twice gives the same trace', () => {
    for (const seed of [1, 2, 3]) {
      const { traceHash } = runSeed(target, seed);
      expect(runSeed(target, seed).traceHash).toBe(traceHash);
    }
  });
});
