/**
 * The signed records that members exchange. Each is `[payload, signature]`: the payload is CBOR with `kind`, `v` and
 * `clusterId`, the signature covers `signedBytes(payload)`. A record is named by the sha-256 of its payload.
 *
 * Parsing is loose: unknown fields are kept in the bytes, which are stored and forwarded untouched. Whether the signer
 * was entitled is decided in `daemon/replication/`; here only shapes.
 *
 * Chain of authority: authority key -> operator -> login (12 h) -> session (one daemon run) -> envelopes, invites,
 * removals, calls. Hosts sign members they admit, their own facts and their own departure.
 */
import { z } from 'zod';
import { decode, encode } from './codec.ts';

const bytes = (length: number) =>
  z.custom<Uint8Array>((value) => value instanceof Uint8Array && value.length === length);
const anyBytes = z.custom<Uint8Array>((value) => value instanceof Uint8Array);
const key = bytes(32);
const hexId = z.string().regex(/^[0-9a-f]{32}$/);
const hash = z.string().regex(/^[0-9a-f]{64}$/);
const wallMs = z.number().int().nonnegative();
/** Names of hosts, roles, services, environments: DNS labels, so that they can be addresses. */
export const nameSchema = z.string().regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/);

const header = { v: z.number().int().min(1), clusterId: hexId };

/** Root of trust: signed by the authority itself; `clusterId` is derived from `publicKey`. */
export const authoritySchema = z.looseObject({
  ...header,
  kind: z.literal('authority'),
  publicKey: key,
  name: nameSchema,
  /** DER. Issues the API certificates of members. */
  caCertificate: anyBytes,
});

/** Replaceable: highest `seq` per public key wins. Signed by the authority (`isFirst`) or by an admin's session. */
export const operatorSchema = z.looseObject({
  ...header,
  kind: z.literal('operator'),
  publicKey: key,
  name: nameSchema,
  seq: z.number().int().nonnegative(),
  /** Only honoured under the authority's signature: admin of everything. */
  isFirst: z.boolean(),
  /** Session that signed it; absent under the authority's signature. */
  signedBy: hexId.optional(),
  /** argon2id + AES-256-GCM of the private seed; absent for keys kept off the cluster. */
  sealed: z
    .looseObject({
      salt: anyBytes,
      iterations: z.number(),
      memoryKib: z.number(),
      parallelism: z.number(),
      nonce: anyBytes,
      box: anyBytes,
    })
    .optional(),
});

/** Signed by the operator's key; lives in /run only as long as the login. */
export const loginSchema = z.looseObject({
  ...header,
  kind: z.literal('login'),
  operator: key,
  loginKey: key,
  expiresAt: wallMs,
});

/** Signed by the login key. One per login, daemon start and restore. */
export const sessionSchema = z.looseObject({
  ...header,
  kind: z.literal('session'),
  /** The whole signed login record. */
  login: anyBytes,
  sessionKey: key,
  /** Host on which it was made. */
  host: hexId,
  startedAt: wallMs,
});

/** Signed by a session. The code itself (128 bits) is never stored. */
export const inviteSchema = z.looseObject({
  ...header,
  kind: z.literal('invite'),
  id: hexId,
  session: hexId,
  codeHash: hash,
  env: nameSchema,
  roles: z.array(nameSchema).max(64),
  uses: z.number().int().min(1).max(10_000),
  expiresAt: wallMs,
  hostName: nameSchema.optional(),
  meta: z.record(z.string(), z.string()).optional(),
});

/** Signed by the admitting host's key; the founder's by the authority. */
export const memberSchema = z.looseObject({
  ...header,
  kind: z.literal('member'),
  hostKey: key,
  hostId: hexId,
  name: nameSchema,
  env: nameSchema,
  roles: z.array(nameSchema).max(64),
  meta: z.record(z.string(), z.string()),
  /** Invite id; absent for the founder. */
  invite: hexId.optional(),
  /** Host key of the member that admitted it; absent for the founder. */
  admittedBy: key.optional(),
  /** The joining host's own signature over (clusterId, hostId, hostKey): nobody is enrolled unasked. */
  consent: bytes(64),
  admittedAt: wallMs,
});

/** Grow-only. Signed by a session (member, invite, session) or by the leaving host itself (`by: 'self'`). */
export const removalSchema = z.looseObject({
  ...header,
  kind: z.literal('removal'),
  subject: z.enum(['member', 'invite', 'session', 'operator']),
  /** Hex of the host key, invite id, session id or operator key. */
  id: z.string(),
  by: z.union([z.literal('self'), hexId]),
  reason: z.string().max(200),
  /** Heads of every document that the revoker had seen: reserved for the rules of revocation. */
  heads: z.record(z.string(), z.array(hash)).optional(),
});

/** Signed by a session: one Automerge change of one document. Seq is per (session, doc), gap-free from 1. */
export const envelopeSchema = z.looseObject({
  ...header,
  kind: z.literal('envelope'),
  doc: z.string().max(80),
  epoch: z.looseObject({ n: z.number().int().nonnegative(), id: z.string() }),
  session: hexId,
  seq: z.number().int().min(1),
  /** Hash of the previous envelope of this chain; '' for the first. */
  prev: z.union([hash, z.literal('')]),
  /** Heads of the cluster document that the author's rights are judged by. */
  clusterHeads: z.array(hash).max(256),
  change: anyBytes,
  message: z.string().max(500),
  source: z.string().max(200).optional(),
  /** Author's wall clock, for people only. */
  at: wallMs,
});

/** Signed by its owner. Highest (incarnation, seq) per (owner, topic) wins. Its age travels beside it. */
export const factSchema = z.looseObject({
  ...header,
  kind: z.literal('fact'),
  owner: key,
  topic: z.string().min(1).max(64),
  incarnation: z.number().int().nonnegative(),
  seq: z.number().int().nonnegative(),
  /** Owner's wall clock when written, only to notice skew. */
  at: wallMs,
  body: z.unknown(),
});

/** Signed by a session or a host. Highest (planEpoch, seq, record hash) wins whole. */
export const planSchema = z.looseObject({
  ...header,
  kind: z.literal('plan'),
  env: nameSchema,
  planEpoch: z.number().int().nonnegative(),
  seq: z.number().int().min(1),
  inputHash: hash,
  inputBlob: hash,
  blob: hash,
  session: hexId.optional(),
  host: key.optional(),
  /** Record hash of the plan it was made after; '' for the first. */
  after: z.union([hash, z.literal('')]),
  /** Plans that this one takes account of, newest first: `after`, and rivals whose work is in it. */
  past: z.array(hash).max(64).optional(),
  /** Hash of what operators decide in its inputs: of two plans that agree in it neither loses anybody's work. */
  decided: hash.optional(),
  /** Heads of the documents that its author had: who has not got them cannot take account of it. */
  heads: z.record(z.string().max(80), z.array(hash).max(64)).optional(),
  at: wallMs,
});

/** Signed by a session: one operation that another host shall run, once, now. */
export const callSchema = z.looseObject({
  ...header,
  kind: z.literal('call'),
  session: hexId,
  target: hexId,
  group: z.string().max(40),
  command: z.string().max(40),
  params: z.unknown(),
  nonce: bytes(16),
  at: wallMs,
});

export type AuthorityRecord = z.infer<typeof authoritySchema>;
export type OperatorRecord = z.infer<typeof operatorSchema>;
export type LoginRecord = z.infer<typeof loginSchema>;
export type SessionRecord = z.infer<typeof sessionSchema>;
export type InviteRecord = z.infer<typeof inviteSchema>;
export type MemberRecord = z.infer<typeof memberSchema>;
export type RemovalRecord = z.infer<typeof removalSchema>;
export type EnvelopeRecord = z.infer<typeof envelopeSchema>;
export type FactRecord = z.infer<typeof factSchema>;
export type PlanRecord = z.infer<typeof planSchema>;
export type CallRecord = z.infer<typeof callSchema>;

const schemas = {
  authority: authoritySchema,
  operator: operatorSchema,
  login: loginSchema,
  session: sessionSchema,
  invite: inviteSchema,
  member: memberSchema,
  removal: removalSchema,
  envelope: envelopeSchema,
  fact: factSchema,
  plan: planSchema,
  call: callSchema,
} as const;

export type RecordKind = keyof typeof schemas;
export type RecordOf<K extends RecordKind> = z.infer<(typeof schemas)[K]>;
export type AnyRecord = { [K in RecordKind]: RecordOf<K> }[RecordKind];

/** The whole record as stored and sent. */
export type SignedBytes = Uint8Array;

export interface Opened<K extends RecordKind = RecordKind> {
  readonly record: RecordOf<K>;
  readonly payload: Uint8Array;
  readonly signature: Uint8Array;
  /** As received. */
  readonly signed: SignedBytes;
}

const domain = new TextEncoder().encode('trellis/1\n');

/** What a signature covers: separated from anything else that a key may ever sign. */
export function signedBytes(payload: Uint8Array): Uint8Array {
  const out = new Uint8Array(domain.length + payload.length);
  out.set(domain);
  out.set(payload, domain.length);
  return out;
}

/** What a joining host signs with its own key, `consent` of its member record: nobody is enrolled unasked. */
export function consentBytes(consent: {
  clusterId: string;
  hostId: string;
  hostKey: Uint8Array;
}): Uint8Array {
  return signedBytes(encode(['trellis-join', consent.clusterId, consent.hostId, consent.hostKey]));
}

export function seal(record: AnyRecord, sign: (bytes: Uint8Array) => Uint8Array): SignedBytes {
  const payload = encode(record);
  return encode([payload, sign(signedBytes(payload))]);
}

/** Shape only; the signature is not checked here. Null: not a record of a kind this version knows. */
export function open(signed: SignedBytes): Opened | null {
  const outer = decode(signed);
  if (!Array.isArray(outer) || outer.length !== 2) return null;
  const [payload, signature] = outer as unknown[];
  if (
    !(payload instanceof Uint8Array) ||
    !(signature instanceof Uint8Array) ||
    signature.length !== 64
  )
    return null;
  const body = decode(payload);
  if (typeof body !== 'object' || body === null || !('kind' in body)) return null;
  const schema = Object.hasOwn(schemas, String(body.kind))
    ? schemas[body.kind as RecordKind]
    : undefined;
  const parsed = schema?.safeParse(body);
  if (parsed?.success !== true) return null;
  return { record: parsed.data as never, payload, signature, signed };
}

/** Narrow to one kind, null if it is another. */
export function openAs<K extends RecordKind>(kind: K, signed: SignedBytes): Opened<K> | null {
  const opened = open(signed);
  return opened?.record.kind === kind ? (opened as unknown as Opened<K>) : null;
}
