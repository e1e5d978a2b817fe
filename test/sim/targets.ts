import { membershipTarget } from './membership-target.ts';
import type { Target } from './target.ts';
import { trellisTarget } from './trellis-target.ts';

export const targets: readonly Target[] = [membershipTarget, trellisTarget];

export function targetNamed(name: string): Target {
  const target = targets.find((candidate) => candidate.name === name);
  if (target === undefined)
    throw new Error(
      `no simulated target ${name}; there are: ${targets.map((t) => t.name).join(', ')}`,
    );
  return target;
}
