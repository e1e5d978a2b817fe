/** Founding a cluster: the authority, its issuing certificate, the first operator and the first member. */
import { X509Certificate } from 'node:crypto';
import { equalBytes } from '../../crdt/codec.ts';
import type { ClusterId, HostId } from '../../crdt/ids.ts';
import { consentBytes, openAs, seal, signedBytes } from '../../crdt/records.ts';
import type { Opened, SignedBytes } from '../../crdt/records.ts';
import { systemCrypto } from '../crypto.ts';
import { systemRandom } from '../random.ts';
import { makeCertificateAuthority, pemOf } from './certificates.ts';
import type { CertificateAuthority } from './certificates.ts';
import { clusterIdOf } from './identity.ts';
import { makeLogin } from './login.ts';
import type { Login } from './login.ts';
import { generatePassphrase, makeOperator } from './operators.ts';
import { assertStrongPassphrase } from './passphrase.ts';
import { recoveryText } from './recovery.ts';

export interface Founding {
  readonly clusterId: ClusterId;
  /** Authority, operator and member: in the order in which the roster takes them. */
  readonly records: readonly SignedBytes[];
  /** Keep the key with `writeIssuingKey`. */
  readonly certificates: CertificateAuthority;
  readonly caPem: string;
  /** The first operator, logged in. Hand it to `Logins.begin`. */
  readonly login: Login;
  /** Set when it was generated. Show once. */
  readonly passphrase: string | null;
  /** Show or write once; keep nowhere. */
  readonly recovery: string;
}

/** Fails with PASSPHRASE_WEAK. Writes nothing. */
export async function foundCluster(options: {
  readonly name: string;
  readonly env: string;
  readonly operator: string;
  /** Null: generate one. */
  readonly passphrase: string | null;
  readonly hostKeySeed: Uint8Array;
  readonly hostId: HostId;
  readonly hostName: string;
  readonly roles: readonly string[];
  readonly meta: Readonly<Record<string, string>>;
  readonly nowWallMs: number;
}): Promise<Founding> {
  const { name, nowWallMs } = options;
  const passphrase = options.passphrase ?? generatePassphrase();
  if (options.passphrase !== null) assertStrongPassphrase(passphrase, [options.operator, name]);
  const seed = systemRandom.bytes(32);
  const authority = systemCrypto.keyPair(seed);
  const sign = (bytes: Uint8Array): Uint8Array => authority.sign(bytes);
  const clusterId = clusterIdOf(authority.publicKey);
  const certificates = await makeCertificateAuthority({ clusterName: name, clusterId, nowWallMs });
  const caCertificate = certificates.certificateDer;
  const authorityRecord = seal(
    { kind: 'authority', v: 1, clusterId, publicKey: authority.publicKey, name, caCertificate },
    sign,
  );
  const operator = await makeOperator({
    clusterId,
    name: options.operator,
    passphrase,
    isFirst: true,
    sign,
  });
  const login = makeLogin({
    clusterId,
    operator: options.operator,
    operatorKeys: operator.keys,
    nowWallMs,
  });
  operator.seed.fill(0);
  const recovery = recoveryText(seed, name);
  const member = founderRecord(options, clusterId, sign);
  seed.fill(0);
  return {
    clusterId,
    records: [authorityRecord, operator.record, member],
    certificates,
    caPem: pemOf(caCertificate),
    login,
    passphrase: options.passphrase === null ? passphrase : null,
    recovery,
  };
}

function founderRecord(
  options: {
    readonly env: string;
    readonly hostKeySeed: Uint8Array;
    readonly hostId: HostId;
    readonly hostName: string;
    readonly roles: readonly string[];
    readonly meta: Readonly<Record<string, string>>;
    readonly nowWallMs: number;
  },
  clusterId: ClusterId,
  sign: (bytes: Uint8Array) => Uint8Array,
): SignedBytes {
  const host = systemCrypto.keyPair(options.hostKeySeed);
  const { hostId } = options;
  return seal(
    {
      kind: 'member',
      v: 1,
      clusterId,
      hostKey: host.publicKey,
      hostId,
      name: options.hostName,
      env: options.env,
      roles: [...options.roles],
      meta: { ...options.meta },
      consent: host.sign(consentBytes({ clusterId, hostId, hostKey: host.publicKey })),
      admittedAt: options.nowWallMs,
    },
    sign,
  );
}

/** A cluster's authority record that speaks for itself, and for this certificate when one is given; else null. */
export function openAuthority(signed: SignedBytes, caPem?: string): Opened<'authority'> | null {
  const opened = openAs('authority', signed);
  if (opened === null) return null;
  const { record, payload, signature } = opened;
  if (clusterIdOf(record.publicKey) !== record.clusterId) return null;
  if (!systemCrypto.verify(record.publicKey, signedBytes(payload), signature)) return null;
  if (caPem === undefined) return opened;
  return equalBytes(new Uint8Array(new X509Certificate(caPem).raw), record.caCertificate)
    ? opened
    : null;
}
