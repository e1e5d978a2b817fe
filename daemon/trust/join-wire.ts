/** What a joining host and the admitting member say to each other, as JSON over HTTPS. Bytes are base64. */
import { z } from 'zod';

const base64 = z
  .string()
  .max(4 << 20)
  .regex(/^[A-Za-z0-9+/]*={0,2}$/);
const hexKey = z.string().regex(/^[0-9a-f]{64}$/);
const hexId = z.string().regex(/^[0-9a-f]{32}$/);
const text = z.string().max(253);

export const joinPath = '/api/v1/join';
export const joinCheckPath = '/api/v1/join/check';
/** Requests of strangers. */
export const joinBodyBytesMax = 64 << 10;
export const joinAnswerBytesMax = 64 << 20;

/** Is this code good? Uses nothing up. */
export const checkRequestSchema = z.looseObject({
  code: z.string().max(200),
  /** Of a host that may have been admitted with this code already: its own use does not count against it. */
  hostKey: hexKey.optional(),
});

export const checkAnswerSchema = z.looseObject({
  v: z.number().int().min(1),
  clusterId: hexId,
  clusterName: text,
  env: text,
  roles: z.array(text).max(64),
  hostName: text.optional(),
  usesLeft: z.number().int(),
  expiresAt: z.number().int(),
  /** A fresh id for a host that has none. */
  hostId: hexId,
  /** The signed authority record. */
  authority: base64,
});

export const joinRequestSchema = z.looseObject({
  v: z.number().int().min(1),
  code: z.string().max(200),
  hostKey: hexKey,
  hostId: hexId,
  /** Signature of `consentBytes` by the host key. */
  consent: base64,
  name: text,
  /** Empty: those of the invite. */
  roles: z.array(text).max(64),
  meta: z.record(z.string().max(63), z.string().max(1_000)),
  /** Multiaddrs at which the host listens for peers. */
  addresses: z.array(text).max(32),
});

export const joinAnswerSchema = z.looseObject({
  v: z.number().int().min(1),
  clusterId: hexId,
  clusterName: text,
  hostId: hexId,
  /** The signed member record of the new host. */
  member: base64,
  /** What proves it, in the order in which a roster takes it: authority, operators, sessions, invites, members, removals. */
  records: z.array(base64).max(200_000),
  /** PKCS #8, PEM. */
  issuingKey: z.string().max(10_000),
  peers: z.array(z.looseObject({ node: hexKey, addresses: z.array(text).max(32) })).max(10_000),
});

export type CheckAnswer = z.infer<typeof checkAnswerSchema>;
export type JoinRequest = z.infer<typeof joinRequestSchema>;
export type JoinAnswer = z.infer<typeof joinAnswerSchema>;

/** Where a member may be reached, for the joiner's first dials. */
export interface PeerHint {
  /** Node id. */
  readonly node: string;
  /** Multiaddrs. */
  readonly addresses: readonly string[];
}
