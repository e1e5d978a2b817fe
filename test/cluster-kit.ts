/**
 * Records of a small cluster without passphrases or certificates: what `init`, `login` and `join` produce, made directly
 * with any Crypto, so that tests and the simulator need no argon2 and no x509.
 */
import { hex } from '../crdt/ids.ts';
import type { ClusterId, HostId, NodeId, SessionId } from '../crdt/ids.ts';
import { consentBytes, seal } from '../crdt/records.ts';
import type { SignedBytes } from '../crdt/records.ts';
import type { EditSession } from '../daemon/node-api.ts';
import type { Crypto, KeyPair } from '../daemon/ports.ts';
import { sessionIdOf } from '../daemon/replication/roster.ts';

export interface KitHost {
  readonly node: NodeId;
  readonly host: HostId;
  readonly keys: KeyPair;
  readonly name: string;
}

export interface KitSession {
  readonly session: EditSession;
  readonly keys: KeyPair;
  readonly record: SignedBytes;
}

export class ClusterKit {
  readonly clusterId: ClusterId;
  readonly crypto: Crypto;
  readonly env: string;
  readonly authority: KeyPair;
  readonly operator: KeyPair;
  readonly authorityRecord: SignedBytes;
  readonly operatorRecord: SignedBytes;
  readonly #label: string;
  #sessions = 0;

  /** Equal labels give equal clusters. */
  constructor(crypto: Crypto, options: { label?: string; env?: string } = {}) {
    this.crypto = crypto;
    this.#label = options.label ?? 'kit';
    this.env = options.env ?? 'prod';
    this.authority = this.#keys('authority');
    this.operator = this.#keys('operator');
    this.clusterId = hex(crypto.sha256(this.authority.publicKey)).slice(0, 32) as ClusterId;
    const head = { v: 1, clusterId: this.clusterId };
    this.authorityRecord = seal(
      {
        ...head,
        kind: 'authority',
        publicKey: this.authority.publicKey,
        name: 'kit',
        caCertificate: new Uint8Array(),
      },
      (bytes) => this.authority.sign(bytes),
    );
    this.operatorRecord = seal(
      {
        ...head,
        kind: 'operator',
        publicKey: this.operator.publicKey,
        name: 'admin',
        seq: 0,
        isFirst: true,
      },
      (bytes) => this.authority.sign(bytes),
    );
  }

  host(index: number): KitHost {
    const keys = this.#keys(`host ${index}`);
    const host = hex(
      this.crypto.sha256(new TextEncoder().encode(`${this.#label} id ${index}`)),
    ).slice(0, 32) as HostId;
    return { node: hex(keys.publicKey) as NodeId, host, keys, name: `h${index + 1}` };
  }

  /** A founder's record: signed by the authority, like the first host of a real cluster. */
  member(host: KitHost, options: { roles?: readonly string[]; env?: string } = {}): SignedBytes {
    const consent = host.keys.sign(
      consentBytes({ clusterId: this.clusterId, hostId: host.host, hostKey: host.keys.publicKey }),
    );
    return seal(
      {
        kind: 'member',
        v: 1,
        clusterId: this.clusterId,
        hostKey: host.keys.publicKey,
        hostId: host.host,
        name: host.name,
        env: options.env ?? this.env,
        roles: [...(options.roles ?? [])],
        meta: {},
        consent,
        admittedAt: 0,
      },
      (bytes) => this.authority.sign(bytes),
    );
  }

  /** A login and one session under it; each call is another session. */
  session(host: KitHost, options: { expiresAtWallMs?: number } = {}): KitSession {
    const number = this.#sessions++;
    return this.namedSession(host, `session ${number}`, options);
  }

  /** The same name gives the same session: for callers that count by themselves. */
  namedSession(
    host: KitHost,
    name: string,
    options: { expiresAtWallMs?: number } = {},
  ): KitSession {
    const expiresAt = options.expiresAtWallMs ?? 4_000_000_000_000;
    const login = this.#keys(`login ${name}`);
    const keys = this.#keys(`session ${name}`);
    const head = { v: 1, clusterId: this.clusterId };
    const loginRecord = seal(
      {
        ...head,
        kind: 'login',
        operator: this.operator.publicKey,
        loginKey: login.publicKey,
        expiresAt,
      },
      (bytes) => this.operator.sign(bytes),
    );
    const record = seal(
      {
        ...head,
        kind: 'session',
        login: loginRecord,
        sessionKey: keys.publicKey,
        host: host.host,
        startedAt: 0,
      },
      (bytes) => login.sign(bytes),
    );
    const id: SessionId = sessionIdOf(keys.publicKey, this.crypto);
    return { session: { id, operator: 'admin', expiresAtWallMs: expiresAt }, keys, record };
  }

  #keys(name: string): KeyPair {
    return this.crypto.keyPair(
      this.crypto.sha256(new TextEncoder().encode(`${this.#label} ${name}`)),
    );
  }
}
