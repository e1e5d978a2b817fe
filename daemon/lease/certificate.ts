/**
 * How a guard proves whose it is. Its own key proves itself in the handshake of a connection; this certificate, signed by
 * the host's key, says for which member that key speaks. The host's key itself never leaves the daemon.
 */
import { hex, unhex } from '../../crdt/ids.ts';
import type { ClusterId, HostId, NodeId } from '../../crdt/ids.ts';
import type { Crypto, KeyPair } from '../ports.ts';

/** As in `certificate.json` and as the first frame of a connection. */
export interface LeaseCertificate {
  readonly v: 1;
  readonly clusterId: ClusterId;
  readonly host: HostId;
  /** The signer: the host's public key. */
  readonly node: NodeId;
  /** Ed25519 public key of the guard, 64 hex digits. */
  readonly leaseKey: string;
  /** Signature of `certifiedBytes`, 128 hex digits. */
  readonly sig: string;
}

export function certifyLeaseKey(
  subject: { readonly clusterId: ClusterId; readonly host: HostId; readonly leaseKey: Uint8Array },
  hostKeys: KeyPair,
): LeaseCertificate {
  const { clusterId, host } = subject;
  const unsigned = {
    v: 1,
    clusterId,
    host,
    node: hex(hostKeys.publicKey) as NodeId,
    leaseKey: hex(subject.leaseKey),
  } as const;
  return { ...unsigned, sig: hex(hostKeys.sign(certifiedBytes(unsigned))) };
}

/** Null when it is malformed or not signed by the key that it names. Whether that is a member is for the caller to ask. */
export function readLeaseCertificate(
  value: unknown,
  crypto: Pick<Crypto, 'verify'>,
): LeaseCertificate | null {
  if (typeof value !== 'object' || value === null) return null;
  const { v, clusterId, host, node, leaseKey, sig } = value as Record<string, unknown>;
  if (v !== 1) return null;
  if (!isHex(clusterId, 32) || !isHex(host, 32) || !isHex(node, 64)) return null;
  if (!isHex(leaseKey, 64) || !isHex(sig, 128)) return null;
  const certificate = { v, clusterId, host, node, leaseKey, sig } as LeaseCertificate;
  const [publicKey, signature] = [unhex(node), unhex(sig)];
  if (publicKey === null || signature === null) return null;
  return crypto.verify(publicKey, certifiedBytes(certificate), signature) ? certificate : null;
}

function certifiedBytes(certificate: Omit<LeaseCertificate, 'sig'>): Uint8Array {
  const { clusterId, host, node, leaseKey } = certificate;
  return new TextEncoder().encode(
    `trellis lease key 1\n${clusterId}\n${host}\n${node}\n${leaseKey}\n`,
  );
}

function isHex(value: unknown, digits: number): value is string {
  return typeof value === 'string' && value.length === digits && /^[0-9a-f]*$/.test(value);
}
