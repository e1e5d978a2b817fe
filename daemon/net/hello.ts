/**
 * The first frame on a control stream, from the dialer and then from the other side. A dialer's `dial()` resolves even
 * when the listener refuses it, so a peer counts as connected only after this exchange.
 */
import { decode, encode } from '../../crdt/codec.ts';
import type { ClusterId } from '../../crdt/ids.ts';

/** Versions of the frames that this release speaks. */
export const protocolMin = 1;
export const protocolMax = 1;

export interface Hello {
  readonly clusterId: ClusterId;
  readonly min: number;
  readonly max: number;
  /** Random per start of the sender: tells a restart from a second connection. */
  readonly run: string;
}

export function encodeHello(hello: Hello): Uint8Array {
  return encode({ kind: 'hello', ...hello });
}

/** Unknown fields of newer versions are ignored. Null: not a hello. */
export function decodeHello(bytes: Uint8Array): Hello | null {
  const value = decode(bytes);
  if (typeof value !== 'object' || value === null) return null;
  const { kind, clusterId, min, max, run } = value as Record<string, unknown>;
  if (kind !== 'hello' || typeof clusterId !== 'string' || typeof run !== 'string') return null;
  if (!Number.isSafeInteger(min) || !Number.isSafeInteger(max) || run.length > 64) return null;
  return { clusterId: clusterId as ClusterId, min: min as number, max: max as number, run };
}

/** Null when both can talk, else why not. */
export function incompatibility(own: Hello, other: Hello): string | null {
  if (other.clusterId !== own.clusterId)
    return `it belongs to cluster ${other.clusterId.slice(0, 32)}`;
  if (other.min > own.max) return `it speaks version ${other.min} and later, we up to ${own.max}`;
  if (other.max < own.min) return `it speaks up to version ${other.max}, we ${own.min} and later`;
  return null;
}
