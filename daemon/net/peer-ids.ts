/** Between our node ids (hex of an Ed25519 key) and libp2p's peer ids and multiaddrs. The only place that converts. */
import { publicKeyFromRaw } from '@libp2p/crypto/keys';
import type { PeerId } from '@libp2p/interface';
import { peerIdFromPublicKey } from '@libp2p/peer-id';
import { multiaddr } from '@multiformats/multiaddr';
import type { Multiaddr } from '@multiformats/multiaddr';
import { hex, unhex } from '../../crdt/ids.ts';
import type { NodeId } from '../../crdt/ids.ts';

/** Null for keys of other kinds: no member has one. */
export function nodeIdOf(peer: PeerId): NodeId | null {
  return peer.type === 'Ed25519' ? (hex(peer.publicKey.raw) as NodeId) : null;
}

/** Throws when `node` is not a key; node ids of the roster always are. */
export function peerIdOf(node: NodeId): PeerId {
  const raw = unhex(node);
  if (raw?.length !== 32) throw new Error(`not a node id: ${node}`);
  return peerIdFromPublicKey(publicKeyFromRaw(raw));
}

/** `address` with the key that must answer there; null for text that is no TCP address. */
export function dialAddress(node: NodeId, address: string): Multiaddr | null {
  try {
    const parsed = multiaddr(address);
    const names = parsed.getComponents().map((component) => component.name);
    if (!names.includes('tcp') || names.includes('p2p')) return null;
    return parsed.encapsulate(`/p2p/${peerIdOf(node).toString()}`);
  } catch {
    // Addresses come from other hosts' facts: nonsense is skipped, the rest is dialled.
    return null;
  }
}

/** '10.0.0.2' of '/ip4/10.0.0.2/tcp/7440'; the whole text when it has no address part. */
export function hostOf(address: Multiaddr | string): string {
  const text = address.toString();
  return /^\/(?:ip4|ip6|dns|dns4|dns6)\/([^/]+)/.exec(text)?.[1]?.replace(/^::ffff:/, '') ?? text;
}

export function portOf(address: Multiaddr | string): number {
  return Number(/\/tcp\/(\d+)/.exec(address.toString())?.[1] ?? 0);
}
