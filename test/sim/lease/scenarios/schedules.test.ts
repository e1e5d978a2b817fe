/** Every scripted schedule passes on the production core. What each is about is said where it is written. */
import { describe, expect, test } from 'vitest';
import { scripts } from './scripts.ts';

describe('[trellis:P8] adversarial schedules of leases', () => {
  test.each(Object.entries(scripts))('%s', { timeout: 60_000 }, (_name, script) => {
    expect(() => script()).not.toThrow();
  });
});
