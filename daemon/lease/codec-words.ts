/** Numbers and limits of what travels between guards. Append only: nothing here is ever reused. */
import type { Message } from './messages.ts';

export const codecLimits = Object.freeze({
  /** What one direction of a connection remembers; the writer lets the reader forget all of it before it would be more. */
  envsMax: 64,
  linksMax: 256,
  ownersMax: 1024,
  namesMax: 8192,
  /** Names of all `watch` of one frame. */
  watchedMax: 48 << 10,
  watchNamesMax: 1024,
  /** Commas and brackets of all JSON of one frame: a small text must not become a large heap. */
  marksMax: 48 << 10,
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

/** Parts of a frame that are no messages: what is said once on a connection, and named by its place from then on. */
export const definitions = { forget: 64, env: 65, link: 66, owner: 67, name: 68 } as const;

/** No kind is ever above this. */
export const kindMax = 127;
