/**
 * Invitations. A code is 128 random bits, known to whoever was given it and to nobody else: the signed record that all
 * members hold has only its hash. It is written with a tag of its cluster and a checksum, so that a mistyped code and a
 * code of another cluster are told apart from one that was refused.
 *
 * Uses are agreed upon by a majority of voters (`invite-uses.ts`); without one, two members cut off from each other may both
 * admit on the last use of one code.
 */
import { timingSafeEqual } from 'node:crypto';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, SessionId } from '../../crdt/ids.ts';
import { seal } from '../../crdt/records.ts';
import type { InviteRecord, SignedBytes } from '../../crdt/records.ts';
import { systemCrypto } from '../crypto.ts';
import { systemRandom } from '../random.ts';
import { base32, canonical, unbase32 } from './base32.ts';
import type { RosterAccess } from './roster-access.ts';

/** How an invitation is handed over: as a line for a shell, with curl or without, or as user data of cloud-init. */
export const invitationForms = ['curl', 'openssl', 'cloud-init'] as const;
export type InvitationForm = (typeof invitationForms)[number];

const codeBytes = 16;
const tagBytes = 2;
const checkBytes = 2;
export const inviteTtlMsMax = 30 * 86_400_000;
export const inviteUsesMax = 10_000;
/** Longer text is not looked at. */
const codeCharsMax = 200;

export interface MadeInvite {
  readonly id: string;
  /** Eight groups of four. Given out once, kept nowhere. */
  readonly code: string;
  readonly record: SignedBytes;
  readonly expiresAtWallMs: number;
}

/** `sign` is the session's; bounds of uses and time to live are the caller's to check. */
export function makeInvite(options: {
  readonly clusterId: ClusterId;
  readonly session: SessionId;
  readonly sign: (bytes: Uint8Array) => Uint8Array;
  readonly env: string;
  readonly roles: readonly string[];
  readonly uses: number;
  readonly ttlMs: number;
  readonly nowWallMs: number;
  readonly hostName?: string;
  readonly meta?: Readonly<Record<string, string>>;
}): MadeInvite {
  const code = systemRandom.bytes(codeBytes);
  const id = hex(systemRandom.bytes(16));
  const expiresAt = options.nowWallMs + options.ttlMs;
  const record = seal(
    {
      kind: 'invite',
      v: 1,
      clusterId: options.clusterId,
      id,
      session: options.session,
      codeHash: codeHash(code),
      env: options.env,
      roles: [...options.roles],
      uses: options.uses,
      expiresAt,
      ...(options.hostName === undefined ? {} : { hostName: options.hostName }),
      ...(options.meta === undefined ? {} : { meta: { ...options.meta } }),
    },
    options.sign,
  );
  return { id, code: writeCode(options.clusterId, code), record, expiresAtWallMs: expiresAt };
}

/** Why a code was refused. `unknown` is the only one that another peer may see differently. */
export type Refusal =
  | 'malformed'
  | 'mistyped'
  | 'foreign'
  | 'unknown'
  | 'expired'
  | 'used-up'
  | 'revoked';

/** For INVITE_REFUSED: "the invitation code was refused: {reason}". */
export const refusalText: Readonly<Record<Refusal, string>> = {
  malformed: 'it is not an invitation code (eight groups of four letters and digits)',
  mistyped: 'it was mistyped (its checksum does not match)',
  foreign: 'it belongs to another cluster',
  unknown: 'no such invitation is known here',
  expired: 'it has expired',
  'used-up': 'it has been used as often as it may',
  revoked: 'it was revoked',
};

export type Checked =
  | { readonly invite: InviteRecord; readonly usesLeft: number }
  | { readonly refused: Refusal };

/**
 * Looks a code up. `pendingUses`: admissions under way that are not in the roster yet. Every known invite is compared,
 * each in constant time, by hash.
 */
export function checkCode(
  roster: RosterAccess,
  text: string,
  options: { readonly nowWallMs: number; readonly pendingUses?: (inviteId: string) => number },
): Checked {
  const code = readCode((roster.authority()?.clusterId ?? '') as ClusterId, text);
  if (typeof code === 'string') return { refused: code };
  const wanted = Buffer.from(codeHash(code), 'hex');
  let found: InviteRecord | null = null;
  for (const record of roster.invites()) {
    if (timingSafeEqual(Buffer.from(record.codeHash, 'hex'), wanted)) found = record;
  }
  if (found === null) return { refused: 'unknown' };
  if (roster.isRemoved('invite', found.id) !== null) return { refused: 'revoked' };
  if (found.expiresAt <= options.nowWallMs) return { refused: 'expired' };
  const usesLeft = found.uses - usesOf(roster, found.id) - (options.pendingUses?.(found.id) ?? 0);
  return usesLeft > 0 ? { invite: found, usesLeft } : { refused: 'used-up' };
}

/** Host keys admitted on an invite, whether or not they are still members. */
export function usesOf(roster: Pick<RosterAccess, 'membersEver'>, inviteId: string): number {
  const keys = new Set<string>();
  for (const { record } of roster.membersEver())
    if (record.invite === inviteId) keys.add(hex(record.hostKey));
  return keys.size;
}

export type InviteState = 'open' | 'expired' | 'used-up' | 'revoked';

export function inviteState(
  roster: RosterAccess,
  record: InviteRecord,
  nowWallMs: number,
): InviteState {
  if (roster.isRemoved('invite', record.id) !== null) return 'revoked';
  if (usesOf(roster, record.id) >= record.uses) return 'used-up';
  return record.expiresAt <= nowWallMs ? 'expired' : 'open';
}

function writeCode(clusterId: ClusterId, code: Uint8Array): string {
  const body = Buffer.concat([tagOf(clusterId), code]);
  return base32(Buffer.concat([body, checksum(body)]));
}

function readCode(clusterId: ClusterId, text: string): Uint8Array | Refusal {
  if (text.length > codeCharsMax || canonical(text.trim()) === null) return 'malformed';
  const bytes = unbase32(text.trim(), tagBytes + codeBytes + checkBytes);
  if (bytes === null) return 'malformed';
  const body = bytes.subarray(0, tagBytes + codeBytes);
  if (!timingSafeEqual(checksum(body), bytes.subarray(tagBytes + codeBytes))) return 'mistyped';
  if (!timingSafeEqual(tagOf(clusterId), body.subarray(0, tagBytes))) return 'foreign';
  return body.slice(tagBytes);
}

function codeHash(code: Uint8Array): string {
  return hex(systemCrypto.sha256(code));
}

function tagOf(clusterId: ClusterId): Buffer {
  return Buffer.from(clusterId.slice(0, 2 * tagBytes), 'hex');
}

function checksum(body: Uint8Array): Uint8Array {
  return systemCrypto.sha256(body).slice(0, checkBytes);
}
