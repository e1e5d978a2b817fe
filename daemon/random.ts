/** Unpredictable randomness from the operating system. */
import { randomBytes, randomInt } from 'node:crypto';
import type { Random } from './ports.ts';

const steps = 2 ** 47;

export const systemRandom: Random = {
  next: () => randomInt(steps) / steps,
  bytes: (count) => new Uint8Array(randomBytes(count)),
};
