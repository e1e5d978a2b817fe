/**
 * Frames between members: `{v, c, t, ...}` in CBOR. `c` is the cluster id, `t` the type.
 *
 * Peer bytes are values, never throws: what does not parse is a reason to count and drop. Unknown types are ignored, so
 * that a newer peer can speak more; unknown fields of known types too. Golden bytes in `test/fixtures/` hold every type.
 */
import { decode, encode } from '../../crdt/codec.ts';
import { unhex } from '../../crdt/ids.ts';
import type { ClusterId, Hash } from '../../crdt/ids.ts';
import type { SignedBytes } from '../../crdt/records.ts';
import { invariant } from '../errors.ts';
import type { ChainHeads } from './documents.ts';
import type { FactVersion } from './facts.ts';

export const wireVersion = 1;

/** A fact and its age in milliseconds at the moment of sending. */
export type AgedFact = readonly [SignedBytes, number];

export interface PushMessage {
  readonly t: 'push';
  readonly r?: readonly SignedBytes[];
  readonly e?: readonly SignedBytes[];
  readonly f?: readonly AgedFact[];
  readonly p?: readonly SignedBytes[];
  /** There is more than fitted: ask again at once. */
  readonly more?: boolean;
}

/** Digests of everything: equal ones end the exchange. */
export interface SummaryMessage {
  readonly t: 'sum';
  readonly r: Hash;
  readonly d: Record<string, Hash>;
  readonly f: Hash;
  /** Newest plan by environment. */
  readonly p: Record<string, Hash>;
  /** The sender waits for the other's summary, also when it says the same. */
  readonly ask?: boolean;
}

/** What the sender has, for the planes that differ. The other pushes what it lacks and, unless `back`, answers in kind. */
export interface DetailMessage {
  readonly t: 'det';
  readonly back: boolean;
  /** First 8 bytes of every record's hash, concatenated. */
  readonly r?: Uint8Array;
  readonly d?: Record<string, ChainHeads>;
  readonly f?: Record<string, Record<string, FactVersion>>;
  readonly p?: Record<string, Hash>;
}

/** Piece of a plan blob from offset `o`. */
export interface WantMessage {
  readonly t: 'want';
  readonly h: Hash;
  readonly o: number;
}

export interface PartMessage {
  readonly t: 'part';
  readonly h: Hash;
  readonly o: number;
  /** Total bytes. */
  readonly n: number;
  readonly b: Uint8Array;
}

/** Membership's own message, opaque here. */
export interface SwimMessage {
  readonly t: 'swim';
  readonly b: unknown;
}

export type Message =
  | PushMessage
  | SummaryMessage
  | DetailMessage
  | WantMessage
  | PartMessage
  | SwimMessage;

export function encodeMessage(clusterId: ClusterId, message: Message): Uint8Array {
  const cluster = unhex(clusterId);
  invariant(cluster !== null, 'a cluster id is hex');
  return encode({ v: wireVersion, c: cluster, ...message });
}

export type Rejected = { readonly rejected: 'shape' | 'version' | 'cluster' | 'type' };

export function decodeMessage(clusterId: ClusterId, frame: Uint8Array): Message | Rejected {
  const value = decode(frame);
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return { rejected: 'shape' };
  const { v, c, t } = value as Record<string, unknown>;
  if (typeof v !== 'number' || v < 1) return { rejected: 'version' };
  const cluster = unhex(clusterId);
  if (!(c instanceof Uint8Array) || cluster === null || c.length !== cluster.length)
    return { rejected: 'cluster' };
  if (c.some((byte, index) => byte !== cluster[index])) return { rejected: 'cluster' };
  const check =
    typeof t === 'string' && Object.hasOwn(shapes, t) ? shapes[t as Message['t']] : undefined;
  if (check === undefined) return { rejected: 'type' };
  return check(value as Record<string, unknown>)
    ? (value as unknown as Message)
    : { rejected: 'shape' };
}

const shapes: Record<Message['t'], (value: Record<string, unknown>) => boolean> = {
  push: (value) =>
    isBytesList(value['r']) &&
    isBytesList(value['e']) &&
    isFacts(value['f']) &&
    isBytesList(value['p']),
  sum: (value) =>
    typeof value['r'] === 'string' &&
    typeof value['f'] === 'string' &&
    isStrings(value['d']) &&
    isStrings(value['p']),
  det: (value) =>
    (value['r'] === undefined ||
      (value['r'] instanceof Uint8Array && value['r'].length % 8 === 0)) &&
    (value['d'] === undefined || isMapOf(value['d'], (chains) => isMapOf(chains, isPair))) &&
    (value['f'] === undefined || isMapOf(value['f'], (topics) => isMapOf(topics, isPair))) &&
    (value['p'] === undefined || isStrings(value['p'])),
  want: (value) => typeof value['h'] === 'string' && isCount(value['o']),
  part: (value) =>
    typeof value['h'] === 'string' &&
    isCount(value['o']) &&
    isCount(value['n']) &&
    value['b'] instanceof Uint8Array,
  swim: () => true,
};

function isBytesList(value: unknown): boolean {
  return (
    value === undefined ||
    (Array.isArray(value) && value.every((item) => item instanceof Uint8Array))
  );
}

function isFacts(value: unknown): boolean {
  return (
    value === undefined ||
    (Array.isArray(value) &&
      value.every(
        (item) =>
          Array.isArray(item) && item[0] instanceof Uint8Array && typeof item[1] === 'number',
      ))
  );
}

function isStrings(value: unknown): boolean {
  return isMapOf(value, (item) => typeof item === 'string');
}

function isMapOf(value: unknown, check: (item: unknown) => boolean): boolean {
  return (
    typeof value === 'object' &&
    value !== null &&
    !Array.isArray(value) &&
    Object.values(value).every(check)
  );
}

function isPair(value: unknown): boolean {
  return Array.isArray(value) && value.length >= 2 && isCount(value[0]);
}

function isCount(value: unknown): boolean {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}
