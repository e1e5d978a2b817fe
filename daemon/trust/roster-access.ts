/**
 * What trust needs of the roster: who is who, as `replication/roster.ts` has verified it. The daemon hands out that roster
 * with `add` on top of it, which also persists and spreads.
 */
import type { Hash, HostId, NodeId, SessionId } from '../../crdt/ids.ts';
import type {
  AuthorityRecord,
  InviteRecord,
  MemberRecord,
  OperatorRecord,
  RemovalRecord,
  SessionRecord,
  SignedBytes,
} from '../../crdt/records.ts';

export interface RosterAccess {
  /** Null only while a joining member has nothing yet. */
  authority(): AuthorityRecord | null;
  /** The record in force per public key; removed operators are left out. */
  operators(): readonly OperatorRecord[];
  session(id: SessionId): RosterSession | null;
  /** All that are known, also expired, used-up and revoked ones. */
  invites(): readonly InviteRecord[];
  /** All that ever were members: uses of an invite are counted from them. */
  membersEver(): readonly RosterMember[];
  isRemoved(subject: RemovalRecord['subject'], id: string): RemovalRecord | null;
  /** Every roster record as signed. */
  records(): ReadonlyMap<Hash, SignedBytes>;
  /** Verifies, keeps, persists and spreads. `parked`: an issuer is missing; `rejected`: never. */
  add(signed: SignedBytes): RosterAdded;
}

export interface RosterSession {
  readonly id: SessionId;
  /** Hex of the operator's public key. */
  readonly operatorKey: string;
  readonly record: SessionRecord;
}

export interface RosterMember {
  readonly node: NodeId;
  readonly host: HostId;
  readonly record: MemberRecord;
  /** Key in `records`. */
  readonly hash: Hash;
}

export type RosterAdded =
  | { readonly kind: 'added' | 'known' }
  | { readonly kind: 'parked' | 'rejected'; readonly reason: string };
