/** Numbers and limits of what travels between guards. Append only: nothing here is ever reused. */
import type { Message } from './messages.ts';

export const codecLimits = Object.freeze({
  /** Commas and brackets of one frame. */
  marksMax: 48 << 10,
  /** Different hosts, sessions and environments in one frame. */
  stringsMax: 4096,
  watchNamesMax: 1024,
  reasonCharsMax: 200,
});

// The place in these lists is what travels: append only.
export const purposes = ['acquire', 'renew', 'park', 'unpark'] as const;
export const refusals = ['ballot', 'busy', 'epoch', 'parked', 'denied', 'ttl', 'limit'] as const;
export const learnStates = ['active', 'parked', 'released'] as const;
export const steps = [
  'ask',
  'prepare',
  'ready',
  'stopped',
  'settled',
  'go',
  'done',
  'abort',
  'here',
] as const;

export const kinds = {
  prepare: 1,
  promise: 2,
  accept: 3,
  accepted: 4,
  reject: 5,
  config: 6,
  'config-ask': 7,
  release: 8,
  learn: 9,
  watch: 10,
  expired: 11,
  handover: 12,
  'chain-prepare': 13,
  'chain-promise': 14,
  'chain-accept': 15,
  'chain-accepted': 16,
} as const satisfies Record<Message['kind'], number>;
