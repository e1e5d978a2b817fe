/** Ids are hashes of public keys: nobody assigns them, and nobody can claim another's. */
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, HostId, NodeId, SessionId } from '../../crdt/ids.ts';
import { systemCrypto } from '../crypto.ts';
import { systemRandom } from '../random.ts';

export function clusterIdOf(authorityKey: Uint8Array): ClusterId {
  return hex(systemCrypto.sha256(authorityKey)).slice(0, 32) as ClusterId;
}

export function sessionIdOf(sessionKey: Uint8Array): SessionId {
  return hex(systemCrypto.sha256(sessionKey)).slice(0, 32) as SessionId;
}

export function nodeIdOf(hostKey: Uint8Array): NodeId {
  return hex(hostKey) as NodeId;
}

export function randomHostId(): HostId {
  return hex(systemRandom.bytes(16)) as HostId;
}

/**
 * A DNS label made from any machine name ("Büro PC.local" gives "b-ro-pc"); `host` when nothing is left of it.
 * Only for names that a machine supplies; what people type is refused instead (`nameSchema`).
 */
export function dnsLabelOf(name: string): string {
  const label = (name.split('.')[0] ?? '')
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, '-')
    .slice(0, 63)
    .replaceAll(/^-+|-+$/g, '');
  return label === '' ? 'host' : label;
}
