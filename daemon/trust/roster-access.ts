/**
 * What trust needs of the roster: the verified, signed records of who is who. `replication/roster.ts` satisfies it in
 * the daemon; every record handed out has a good signature of somebody who was entitled to make it.
 */
import type { Opened, SignedBytes } from '../../crdt/records.ts';

export interface RosterAccess {
  authority(): Opened<'authority'>;
  /** The record in force per public key; removed operators are left out. */
  operators(): readonly Opened<'operator'>[];
  sessions(): readonly Opened<'session'>[];
  /** All that are known, also expired, used-up and revoked ones. */
  invites(): readonly Opened<'invite'>[];
  /** All that ever were members: uses of an invite are counted from them. `removals` says who no longer is. */
  members(): readonly Opened<'member'>[];
  removals(): readonly Opened<'removal'>[];
  /** Verifies, keeps and spreads. `known`: it was here already. Rejected: why, for the log and the alarm. */
  add(signed: SignedBytes): 'added' | 'known' | { readonly rejected: string };
}

/** True when this member's host key has been removed or has left. */
export function isRemoved(roster: RosterAccess, subject: RemovalSubject, id: string): boolean {
  return roster.removals().some(({ record }) => record.subject === subject && record.id === id);
}

export type RemovalSubject = Opened<'removal'>['record']['subject'];
