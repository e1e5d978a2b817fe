import { describe, expect, test } from 'vitest';
import { eventually } from '../../await.ts';

describe('eventually', () => {
  test('returns the first value that is there', async () => {
    let looks = 0;
    expect(
      await eventually(() => (++looks < 3 ? null : looks), { withinMs: 2000, everyMs: 1 }),
    ).toBe(3);
  });

  test('accepts assertions as "not yet"', async () => {
    let looks = 0;
    const check = (): true => {
      expect(++looks).toBeGreaterThan(2);
      return true;
    };
    expect(await eventually(check, { withinMs: 2000, everyMs: 1 })).toBe(true);
  });

  test('names what is still pending at the deadline', async () => {
    const never = eventually(
      () => {
        throw new Error('n3 still suspects n1');
      },
      { withinMs: 30, everyMs: 5, what: 'convergence' },
    );
    await expect(never).rejects.toThrow(
      'convergence not met within 30 ms; still pending: n3 still suspects n1',
    );
  });

  test('a look that never returns does not outlive the deadline', async () => {
    const never = eventually(() => new Promise<boolean>(() => undefined), { withinMs: 30 });
    await expect(never).rejects.toThrow('a look did not return');
  });
});
