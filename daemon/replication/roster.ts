/**
 * Who is who: a grow-only set of signed records that proves itself from the authority's key.
 *
 * Replicated before everything else and independent of arrival order: a record whose issuer is not here yet is parked
 * and looked at again after every addition, so any two rosters with the same records agree on everything. Nothing is
 * ever taken out; a removal is one more record. Sizes are bounded by `recordsMax` and `parkedMax`.
 *
 * What we do not do here: judge rights as of a point in history and undo what a revoked author did. Their fields
 * (`heads`) are carried from the first version.
 */
import { compareText } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, Hash, HostId, NodeId, SessionId } from '../../crdt/ids.ts';
import { consentBytes, open, openAs, signedBytes } from '../../crdt/records.ts';
import type {
  AuthorityRecord,
  InviteRecord,
  MemberRecord,
  OperatorRecord,
  Opened,
  RemovalRecord,
  SessionRecord,
  SignedBytes,
} from '../../crdt/records.ts';
import { invariant } from '../errors.ts';
import type { Crypto } from '../ports.ts';

export type RosterOutcome =
  | { readonly kind: 'added'; readonly hashes: readonly Hash[] }
  | { readonly kind: 'known' }
  | { readonly kind: 'parked'; readonly reason: string }
  | { readonly kind: 'rejected'; readonly reason: string };

export interface MemberEntry {
  readonly node: NodeId;
  readonly host: HostId;
  readonly record: MemberRecord;
  readonly hash: Hash;
}

export interface SessionEntry {
  readonly id: SessionId;
  readonly signed: SignedBytes;
  readonly operatorKey: string;
  readonly record: SessionRecord;
}

/** Bounds: a full roster refuses strangers' records rather than growing without end. */
export const rosterRecordsMax = 200_000;
const parkedMax = 10_000;

export class Roster {
  readonly clusterId: ClusterId;
  readonly #crypto: Crypto;
  readonly #records = new Map<Hash, SignedBytes>();
  readonly #parked = new Map<Hash, SignedBytes>();
  #authority: AuthorityRecord | null = null;
  readonly #operators = new Map<string, { record: OperatorRecord; hash: Hash }>();
  readonly #sessions = new Map<SessionId, SessionEntry>();
  readonly #invites = new Map<string, InviteRecord>();
  readonly #members = new Map<NodeId, MemberEntry>();
  readonly #removals = new Map<string, RemovalRecord>();
  #digest: Hash | null = null;
  #active: ReadonlyMap<NodeId, MemberEntry> | null = null;
  #quarantined: readonly MemberEntry[] = [];

  constructor(clusterId: ClusterId, crypto: Crypto) {
    this.clusterId = clusterId;
    this.#crypto = crypto;
  }

  /** Adds the record and every parked one that it completes. */
  accept(signed: SignedBytes): RosterOutcome {
    const first = this.#acceptOne(signed);
    if (first.kind !== 'added') return first;
    const hashes = [...first.hashes];
    for (let again = true; again;) {
      again = false;
      // A copy: what still waits is put back while we go.
      const waiting = Array.from(this.#parked);
      for (const [hash, parked] of waiting) {
        this.#parked.delete(hash);
        const outcome = this.#acceptOne(parked);
        if (outcome.kind === 'added') {
          hashes.push(...outcome.hashes);
          again = true;
        }
      }
    }
    return { kind: 'added', hashes };
  }

  #acceptOne(signed: SignedBytes): RosterOutcome {
    const opened = open(signed);
    if (opened === null) return { kind: 'rejected', reason: 'no record' };
    if (opened.record.clusterId !== this.clusterId)
      return { kind: 'rejected', reason: 'foreign cluster' };
    const hash = this.#hashOf(opened.payload);
    if (this.#records.has(hash)) return { kind: 'known' };
    if (this.#records.size >= rosterRecordsMax) return { kind: 'rejected', reason: 'roster full' };
    const verdict = this.#verify(opened);
    if (verdict === 'ok') {
      this.#index(opened, hash);
      this.#records.set(hash, signed);
      this.#digest = null;
      this.#active = null;
      return { kind: 'added', hashes: [hash] };
    }
    if (verdict.wait === undefined) return { kind: 'rejected', reason: verdict.reason };
    if (!this.#parked.has(hash) && this.#parked.size >= parkedMax) {
      const oldest = this.#parked.keys().next().value;
      if (oldest !== undefined) this.#parked.delete(oldest);
    }
    this.#parked.set(hash, signed);
    return { kind: 'parked', reason: verdict.wait };
  }

  // ---- What others ask ----------------------------------------------------------------------------------------

  authority(): AuthorityRecord | null {
    return this.#authority;
  }

  operators(): readonly OperatorRecord[] {
    return [...this.#operators.values()]
      .map((entry) => entry.record)
      .filter((record) => !this.isRemoved('operator', hex(record.publicKey)));
  }

  operatorByKey(key: string): OperatorRecord | null {
    return this.#operators.get(key)?.record ?? null;
  }

  session(id: SessionId): SessionEntry | null {
    return this.#sessions.get(id) ?? null;
  }

  invites(): readonly InviteRecord[] {
    return [...this.#invites.values()];
  }

  /** Admitted, not removed, not surplus. Sorted by node. */
  members(): ReadonlyMap<NodeId, MemberEntry> {
    this.#active ??= this.#activeMembers();
    return this.#active;
  }

  /** More hosts than their invite had uses: kept out, with an alarm, until an operator removes or re-invites them. */
  quarantined(): readonly MemberEntry[] {
    this.members();
    return this.#quarantined;
  }

  memberEver(node: NodeId): MemberEntry | null {
    return this.#members.get(node) ?? null;
  }

  membersEver(): readonly MemberEntry[] {
    return [...this.#members.values()];
  }

  isRemoved(subject: RemovalRecord['subject'], id: string): RemovalRecord | null {
    return this.#removals.get(`${subject}/${id}`) ?? null;
  }

  records(): ReadonlyMap<Hash, SignedBytes> {
    return this.#records;
  }

  parkedCount(): number {
    return this.#parked.size;
  }

  /** Equal if and only if two rosters hold the same records. */
  digest(): Hash {
    if (this.#digest === null) {
      const sorted = [...this.#records.keys()].toSorted(compareText).join('');
      this.#digest = hex(this.#crypto.sha256(new TextEncoder().encode(sorted))) as Hash;
    }
    return this.#digest;
  }

  /** True when the operator behind the session may do this; 'unknown' while its records are not here. */
  isFirstOperator(session: SessionId): boolean {
    const entry = this.#sessions.get(session);
    return entry !== undefined && this.#operators.get(entry.operatorKey)?.record.isFirst === true;
  }

  // ---- Verification -------------------------------------------------------------------------------------------

  #verify(opened: Opened): Verdict {
    const { record } = opened;
    switch (record.kind) {
      case 'authority':
        return this.#verifyAuthority(opened as Opened<'authority'>);
      case 'operator':
        return this.#verifyOperator(opened as Opened<'operator'>);
      case 'session':
        return this.#verifySession(opened as Opened<'session'>);
      case 'invite':
        return this.#verifyBySession(opened, record.session as SessionId);
      case 'member':
        return this.#verifyMember(opened as Opened<'member'>);
      case 'removal':
        return this.#verifyRemoval(opened as Opened<'removal'>);
      case 'login':
      case 'envelope':
      case 'fact':
      case 'plan':
      case 'call':
        return { reason: `${record.kind} is no roster record` };
    }
  }

  #verifyAuthority(opened: Opened<'authority'>): Verdict {
    const id = hex(this.#crypto.sha256(opened.record.publicKey)).slice(0, 32);
    if (id !== this.clusterId) return { reason: 'authority of another cluster' };
    return this.#signedBy(opened, opened.record.publicKey);
  }

  #verifyOperator(opened: Opened<'operator'>): Verdict {
    const { record } = opened;
    if (record.signedBy !== undefined) {
      if (record.isFirst) return { reason: 'only the authority names the first operator' };
      return this.#verifyBySession(opened, record.signedBy as SessionId);
    }
    if (this.#authority === null) return { reason: '', wait: 'authority' };
    return this.#signedBy(opened, this.#authority.publicKey);
  }

  #verifySession(opened: Opened<'session'>): Verdict {
    const login = openAs('login', opened.record.login);
    if (login === null || login.record.clusterId !== this.clusterId)
      return { reason: 'no login in the session' };
    if (opened.record.startedAt > login.record.expiresAt)
      return { reason: 'session after its login expired' };
    const operator = this.#operators.get(hex(login.record.operator));
    if (operator === undefined) return { reason: '', wait: 'operator' };
    const loginVerdict = this.#signedBy(login, operator.record.publicKey);
    return loginVerdict === 'ok' ? this.#signedBy(opened, login.record.loginKey) : loginVerdict;
  }

  #verifyBySession(opened: Opened, session: SessionId): Verdict {
    const entry = this.#sessions.get(session);
    if (entry === undefined) return { reason: '', wait: 'session' };
    return this.#signedBy(opened, entry.record.sessionKey);
  }

  #verifyMember(opened: Opened<'member'>): Verdict {
    const { record } = opened;
    const consent = consentBytes({
      clusterId: this.clusterId,
      hostId: record.hostId,
      hostKey: record.hostKey,
    });
    if (!this.#crypto.verify(record.hostKey, consent, record.consent))
      return { reason: 'no consent of the host' };
    if (record.admittedBy === undefined) {
      if (this.#authority === null) return { reason: '', wait: 'authority' };
      return this.#signedBy(opened, this.#authority.publicKey);
    }
    if (record.invite === undefined) return { reason: 'admitted without an invite' };
    const invite = this.#invites.get(record.invite);
    if (invite === undefined) return { reason: '', wait: 'invite' };
    if (record.env !== invite.env) return { reason: 'environment differs from the invite' };
    if (!this.#members.has(hex(record.admittedBy) as NodeId))
      return { reason: '', wait: 'admitting member' };
    return this.#signedBy(opened, record.admittedBy);
  }

  #verifyRemoval(opened: Opened<'removal'>): Verdict {
    const { record } = opened;
    if (record.by !== 'self') return this.#verifyBySession(opened, record.by as SessionId);
    if (record.subject !== 'member') return { reason: 'only a member can remove itself' };
    const member = this.#members.get(record.id as NodeId);
    if (member === undefined) return { reason: '', wait: 'member' };
    return this.#signedBy(opened, member.record.hostKey);
  }

  #signedBy(opened: Opened, key: Uint8Array): Verdict {
    return this.#crypto.verify(key, signedBytes(opened.payload), opened.signature)
      ? 'ok'
      : { reason: 'bad signature' };
  }

  // ---- Index --------------------------------------------------------------------------------------------------

  #index(opened: Opened, hash: Hash): void {
    const { record } = opened;
    if (record.kind === 'authority') this.#authority = record;
    else if (record.kind === 'operator') this.#indexOperator(record, hash);
    else if (record.kind === 'session') this.#indexSession(record, opened.signed);
    else if (record.kind === 'invite') this.#invites.set(record.id, record);
    else if (record.kind === 'member') this.#indexMember(record, hash);
    else if (record.kind === 'removal')
      this.#removals.set(`${record.subject}/${record.id}`, record);
  }

  /** Replaceable by seq; equal seqs by hash, so that every roster keeps the same one. */
  #indexOperator(record: OperatorRecord, hash: Hash): void {
    const key = hex(record.publicKey);
    const known = this.#operators.get(key);
    if (
      known !== undefined &&
      (known.record.seq > record.seq || (known.record.seq === record.seq && known.hash > hash))
    )
      return;
    this.#operators.set(key, { record, hash });
  }

  #indexSession(record: SessionRecord, signed: SignedBytes): void {
    const id = sessionIdOf(record.sessionKey, this.#crypto);
    const login = openAs('login', record.login);
    invariant(login !== null, 'a verified session carries its login');
    this.#sessions.set(id, { id, signed, operatorKey: hex(login.record.operator), record });
  }

  /** Two admissions of one key (through two members at once): the lower hash stands, everywhere. */
  #indexMember(record: MemberRecord, hash: Hash): void {
    const node = hex(record.hostKey) as NodeId;
    const known = this.#members.get(node);
    if (known !== undefined && known.hash < hash) return;
    this.#members.set(node, { node, host: record.hostId as HostId, record, hash });
  }

  #activeMembers(): ReadonlyMap<NodeId, MemberEntry> {
    const active = new Map<NodeId, MemberEntry>();
    const uses = new Map<string, number>();
    const surplus: MemberEntry[] = [];
    for (const entry of [...this.#members.values()].toSorted((a, b) =>
      compareText(a.hash, b.hash),
    )) {
      const invite = entry.record.invite;
      const used = (invite === undefined ? 0 : (uses.get(invite) ?? 0)) + 1;
      if (invite !== undefined) uses.set(invite, used);
      const isSurplus = invite !== undefined && used > (this.#invites.get(invite)?.uses ?? 0);
      if (this.isRemoved('member', entry.node) !== null) continue;
      if (isSurplus) surplus.push(entry);
      else active.set(entry.node, entry);
    }
    this.#quarantined = surplus;
    return new Map([...active].toSorted(([a], [b]) => compareText(a, b)));
  }

  #hashOf(payload: Uint8Array): Hash {
    return hex(this.#crypto.sha256(payload)) as Hash;
  }
}

type Verdict = 'ok' | { readonly reason: string; readonly wait?: string };

export function sessionIdOf(sessionKey: Uint8Array, crypto: Crypto): SessionId {
  return hex(crypto.sha256(sessionKey)).slice(0, 32) as SessionId;
}
