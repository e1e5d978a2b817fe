/**
 * Introductions: how a member gets past another that does not know it yet.
 *
 * Members refuse every libp2p key that is not in their roster. A member that was away while a host was admitted, and meets
 * that host before anybody who knows it, would refuse it for ever. So the refused one shows its chain over HTTPS: its
 * member record, the invitation, session and operator behind it, and the same for whoever admitted it, up to the founder.
 * Nothing is taken from a stranger unless one of the shown member records was signed by a member we know.
 */
import { z } from 'zod';
import { equalBytes } from '../../crdt/codec.ts';
import type { NodeId } from '../../crdt/ids.ts';
import { openAs, signedBytes } from '../../crdt/records.ts';
import type { Opened } from '../../crdt/records.ts';
import { systemCrypto } from '../crypto.ts';
import { ClusterError } from '../errors.ts';
import { postToPeer } from './join-client.ts';
import { proofOf } from './proof.ts';
import type { RosterAccess } from './roster-access.ts';

export const introducePath = '/api/v1/join/introduce';
const recordsMax = 512;
export const introduceBodyBytesMax = 1 << 20;

const bodySchema = z.looseObject({ records: z.array(z.string().max(64 << 10)).max(recordsMax) });

/** Shows our chain to a member that refuses us. Fails with JOIN_REFUSED, RATE_LIMITED, or an Error of the connection. */
export async function introduce(options: {
  readonly roster: RosterAccess;
  readonly self: NodeId;
  /** 'address:port' of its HTTPS API. */
  readonly peer: string;
  readonly caPem: string;
  readonly signal?: AbortSignal;
}): Promise<void> {
  const records = proofOf(options.roster, options.self).map((signed) =>
    Buffer.from(signed).toString('base64'),
  );
  await postToPeer(options, options.peer, introducePath, { records });
}

/** At the other side. Returns how many records were new. Fails with JOIN_REFUSED, INVALID. */
export function acceptIntroduction(roster: RosterAccess, body: unknown): { added: number } {
  const parsed = bodySchema.safeParse(body);
  if (!parsed.success)
    throw new ClusterError('INVALID', { reason: 'records: not a list of records' });
  const records = parsed.data.records.map((text) => new Uint8Array(Buffer.from(text, 'base64')));
  const shown = records
    .map((signed) => openAs('member', signed))
    .filter((opened) => opened !== null);
  if (!shown.some((opened) => isSignedByMember(roster, opened))) {
    throw new ClusterError('JOIN_REFUSED', {
      reason: 'no member known here vouches for this host',
      todo: 'join with an invitation',
    });
  }
  let added = 0;
  for (const signed of records) if (roster.add(signed).kind === 'added') added++;
  return { added };
}

function isSignedByMember(
  roster: RosterAccess,
  { record, payload, signature }: Opened<'member'>,
): boolean {
  const { admittedBy } = record;
  if (admittedBy === undefined || record.clusterId !== roster.authority()?.clusterId) return false;
  const member = roster.membersEver().find((one) => equalBytes(one.record.hostKey, admittedBy));
  if (member === undefined || roster.isRemoved('member', member.node) !== null) return false;
  return systemCrypto.verify(admittedBy, signedBytes(payload), signature);
}
