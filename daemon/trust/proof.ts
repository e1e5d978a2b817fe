/** Which roster records prove a member, or all of them: for those who know nobody yet. Issuers come first. */
import { hex } from '../../crdt/ids.ts';
import type { NodeId, SessionId } from '../../crdt/ids.ts';
import { open } from '../../crdt/records.ts';
import type { RecordKind, SignedBytes } from '../../crdt/records.ts';
import { sessionIdOf } from './identity.ts';
import type { RosterAccess } from './roster-access.ts';

/** Admissions in a row that are shown: whoever was away for longer is told by others. */
const chainMax = 64;

/** Everything that verifies every member and removal. Other sessions and open invitations follow by anti-entropy. */
export function proofOfAll(roster: RosterAccess): readonly SignedBytes[] {
  const used = new Set(roster.membersEver().map(({ record }) => record.invite));
  const all = summaries(roster);
  const isShown = (one: Summary): boolean =>
    one.kind !== 'session' && (one.kind !== 'invite' || used.has(one.id));
  const sessions = new Set(all.filter(isShown).map(({ signer }) => signer));
  return inOrder(
    all.filter((one) => (one.kind === 'session' ? sessions.has(one.id) : isShown(one))),
  );
}

/** A member's own record, the invitation, session and operator behind it, and the same for whoever admitted it. */
export function proofOf(roster: RosterAccess, node: NodeId): readonly SignedBytes[] {
  const members = new Map(roster.membersEver().map((member) => [member.node, member.record]));
  const shown = new Set<string>();
  const invites = new Set<string>();
  for (let at: NodeId | null = node; at !== null && shown.size < chainMax;) {
    const record = members.get(at);
    if (record === undefined || shown.has(at)) break;
    shown.add(at);
    if (record.invite !== undefined) invites.add(record.invite);
    at = record.admittedBy === undefined ? null : (hex(record.admittedBy) as NodeId);
  }
  const all = summaries(roster);
  const sessions = new Set(
    all.filter(({ kind, id }) => kind === 'invite' && invites.has(id)).map(({ signer }) => signer),
  );
  const operators = new Set(
    [...sessions].map((id) => roster.session(id as SessionId)?.operatorKey),
  );
  const isShown = ({ kind, id }: Summary): boolean =>
    (kind === 'operator' && operators.has(id)) ||
    (kind === 'session' && sessions.has(id)) ||
    (kind === 'invite' && invites.has(id)) ||
    (kind === 'member' && shown.has(id));
  return inOrder(all.filter(isShown));
}

/** The authority's record as signed; null while there is none. */
export function signedAuthority(roster: RosterAccess): SignedBytes | null {
  return summaries(roster).find(({ kind }) => kind === 'authority')?.signed ?? null;
}

interface Summary {
  readonly kind: RecordKind;
  /** What others name it by: host key, operator key, session or invite id. */
  readonly id: string;
  /** Session that signed it, else ''. */
  readonly signer: string;
  readonly signed: SignedBytes;
}

/** Parsed once for as long as the roster keeps the bytes: an admission must not parse them all again. */
const known = new WeakMap<SignedBytes, Summary>();

function summaries(roster: RosterAccess): readonly Summary[] {
  const all: Summary[] = [];
  for (const signed of roster.records().values()) {
    const summary = known.get(signed) ?? summarise(signed);
    if (summary === null) continue;
    known.set(signed, summary);
    all.push(summary);
  }
  return all;
}

function summarise(signed: SignedBytes): Summary | null {
  const record = open(signed)?.record;
  switch (record?.kind) {
    case 'authority':
      return { kind: record.kind, id: record.clusterId, signer: '', signed };
    case 'operator':
      return {
        kind: record.kind,
        id: hex(record.publicKey),
        signer: record.signedBy ?? '',
        signed,
      };
    case 'session':
      return { kind: record.kind, id: sessionIdOf(record.sessionKey), signer: '', signed };
    case 'invite':
      return { kind: record.kind, id: record.id, signer: record.session, signed };
    case 'member':
      return { kind: record.kind, id: hex(record.hostKey), signer: '', signed };
    case 'removal':
      return {
        kind: record.kind,
        id: record.id,
        signer: record.by === 'self' ? '' : record.by,
        signed,
      };
    case 'login':
    case 'envelope':
    case 'fact':
    case 'plan':
    case 'call':
    case undefined:
      return null;
  }
}

const order: readonly RecordKind[] = [
  'authority',
  'operator',
  'session',
  'invite',
  'member',
  'removal',
];

function inOrder(all: readonly Summary[]): readonly SignedBytes[] {
  return order.flatMap((kind) =>
    all.filter((one) => one.kind === kind).map(({ signed }) => signed),
  );
}
