/** How something exclusive is held and where it is preferred, as leaves; storage and services share them. */
import type { LeaseSettings, Service } from './model.ts';

export const leaseDefaults: LeaseSettings = Object.freeze({
  profile: 'fast',
  onLoss: 'stop',
  fence: 'none',
  fenceCommand: [],
  lockDelayMs: 0,
  onDaemonDown: 'stay',
  preemptAfterMs: null,
  isFrozen: false,
});

export const placementDefault: Service['placement'] = Object.freeze({
  policy: 'spread',
  where: {},
});
