/**
 * Who is who: a grow-only set of signed records that proves itself from the authority's key.
 *
 * Replicated before everything else and independent of arrival order: a record whose issuer is not here yet is parked
 * under what it waits for and looked at again when that arrives, so any two rosters with the same records agree on
 * everything. Nothing is ever taken out; a removal is one more record. Sizes are bounded by `rosterRecordsMax`,
 * `recordBytesMax` and `parkedMax`.
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
/** The largest real ones carry a certificate or a sealed key: a few kB. */
const recordBytesMax = 64 << 10;
/** Nobody has vouched for what waits: beyond it the oldest is left to be fetched again. */
const parkedMax = 2_000;

export class Roster {
  readonly clusterId: ClusterId;
  readonly #crypto: Crypto;
  readonly #records = new Map<Hash, SignedBytes>();
  readonly #parked = new Map<Hash, Parked>();
  /** What is waited for, to the parked records that do. */
  readonly #waiting = new Map<string, Set<Hash>>();
  #authority: AuthorityRecord | null = null;
  readonly #operators = new Map<string, { record: OperatorRecord; hash: Hash }>();
  /** Keys that the authority named first operator: a later record of theirs does not take that away. */
  readonly #firstOperators = new Set<string>();
  readonly #sessions = new Map<SessionId, SessionEntry>();
  readonly #invites = new Map<string, { record: InviteRecord; hash: Hash }>();
  readonly #members = new Map<NodeId, MemberEntry>();
  readonly #removals = new Map<string, { record: RemovalRecord; hash: Hash }>();
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
    const hashes: Hash[] = [first.hash];
    const arrived = [first.key];
    for (let key = arrived.pop(); key !== undefined; key = arrived.pop()) {
      for (const parked of this.#takeWaiting(key)) {
        const outcome = this.#acceptOne(parked);
        if (outcome.kind !== 'added') continue;
        hashes.push(outcome.hash);
        arrived.push(outcome.key);
      }
    }
    return { kind: 'added', hashes };
  }

  #acceptOne(signed: SignedBytes): OneOutcome {
    if (signed.length > recordBytesMax) return { kind: 'rejected', reason: 'too large' };
    const opened = open(signed);
    if (opened === null) return { kind: 'rejected', reason: 'no record' };
    if (opened.record.clusterId !== this.clusterId)
      return { kind: 'rejected', reason: 'foreign cluster' };
    const hash = this.#hashOf(opened.payload);
    if (this.#records.has(hash)) return { kind: 'known' };
    if (this.#records.size >= rosterRecordsMax) return { kind: 'rejected', reason: 'roster full' };
    const verdict = this.#verify(opened);
    if (verdict === 'ok') {
      this.#unpark(hash);
      const key = this.#index(opened, hash);
      this.#records.set(hash, signed);
      this.#digest = null;
      this.#active = null;
      return { kind: 'added', hash, key };
    }
    if (verdict.wait === undefined) return { kind: 'rejected', reason: verdict.reason };
    this.#park(hash, { signed, wait: verdict.wait });
    return { kind: 'parked', reason: verdict.wait };
  }

  /** Two copies of one payload with different signatures park under one name: the newer stands, either may be genuine. */
  #park(hash: Hash, parked: Parked): void {
    this.#unpark(hash);
    if (this.#parked.size >= parkedMax) {
      const oldest = this.#parked.keys().next().value;
      if (oldest !== undefined) this.#unpark(oldest);
    }
    this.#parked.set(hash, parked);
    const waiting = this.#waiting.get(parked.wait);
    if (waiting === undefined) this.#waiting.set(parked.wait, new Set([hash]));
    else waiting.add(hash);
  }

  #unpark(hash: Hash): void {
    const parked = this.#parked.get(hash);
    if (parked === undefined) return;
    this.#parked.delete(hash);
    const waiting = this.#waiting.get(parked.wait);
    waiting?.delete(hash);
    if (waiting?.size === 0) this.#waiting.delete(parked.wait);
  }

  #takeWaiting(key: string): readonly SignedBytes[] {
    const hashes = [...(this.#waiting.get(key) ?? [])];
    const out = hashes.flatMap((hash) => this.#parked.get(hash)?.signed ?? []);
    for (const hash of hashes) this.#unpark(hash);
    return out;
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
    return [...this.#invites.values()].map((entry) => entry.record);
  }

  /** Admitted, not removed, not surplus. Sorted by node. */
  members(): ReadonlyMap<NodeId, MemberEntry> {
    this.#active ??= this.#activeMembers();
    return this.#active;
  }

  /** More hosts than their invite had uses, or another host's id: kept out until an operator removes or re-invites them. */
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
    return this.#removals.get(`${subject}/${id}`)?.record ?? null;
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

  /** Named by the authority: admin of everything. */
  isFirstOperator(key: string): boolean {
    return this.#firstOperators.has(key);
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
    if (operator === undefined)
      return { reason: '', wait: `operator/${hex(login.record.operator)}` };
    const loginVerdict = this.#signedBy(login, operator.record.publicKey);
    return loginVerdict === 'ok' ? this.#signedBy(opened, login.record.loginKey) : loginVerdict;
  }

  #verifyBySession(opened: Opened, session: SessionId): Verdict {
    const entry = this.#sessions.get(session);
    if (entry === undefined) return { reason: '', wait: `session/${session}` };
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
    const invite = this.#invites.get(record.invite)?.record;
    if (invite === undefined) return { reason: '', wait: `invite/${record.invite}` };
    if (record.env !== invite.env) return { reason: 'environment differs from the invite' };
    if (record.roles.some((role) => !invite.roles.includes(role)))
      return { reason: 'roles beyond the invite' };
    if (!this.#members.has(hex(record.admittedBy) as NodeId))
      return { reason: '', wait: `member/${hex(record.admittedBy)}` };
    return this.#signedBy(opened, record.admittedBy);
  }

  #verifyRemoval(opened: Opened<'removal'>): Verdict {
    const { record } = opened;
    if (record.by !== 'self') return this.#verifyBySession(opened, record.by as SessionId);
    if (record.subject !== 'member') return { reason: 'only a member can remove itself' };
    const member = this.#members.get(record.id as NodeId);
    if (member === undefined) return { reason: '', wait: `member/${record.id}` };
    return this.#signedBy(opened, member.record.hostKey);
  }

  #signedBy(opened: Opened, key: Uint8Array): Verdict {
    return this.#crypto.verify(key, signedBytes(opened.payload), opened.signature)
      ? 'ok'
      : { reason: 'bad signature' };
  }

  // ---- Index --------------------------------------------------------------------------------------------------

  /** Returns the name under which others wait for it. */
  #index(opened: Opened, hash: Hash): string {
    const { record } = opened;
    switch (record.kind) {
      case 'authority':
        this.#authority = record;
        return 'authority';
      case 'operator':
        this.#indexOperator(record, hash);
        return `operator/${hex(record.publicKey)}`;
      case 'session':
        return `session/${this.#indexSession(record, opened.signed)}`;
      case 'invite':
        this.#indexInvite(record, hash);
        return `invite/${record.id}`;
      case 'member':
        this.#indexMember(record, hash);
        return `member/${hex(record.hostKey)}`;
      case 'removal':
        this.#indexRemoval(record, hash);
        return `removal/${record.id}`;
      case 'login':
      case 'envelope':
      case 'fact':
      case 'plan':
      case 'call':
        throw new Error(`invariant broken: ${record.kind} is no roster record`);
    }
  }

  /** Replaceable by seq; equal seqs by hash, so that every roster keeps the same one. */
  #indexOperator(record: OperatorRecord, hash: Hash): void {
    const key = hex(record.publicKey);
    if (record.isFirst) this.#firstOperators.add(key);
    const known = this.#operators.get(key);
    if (
      known !== undefined &&
      (known.record.seq > record.seq || (known.record.seq === record.seq && known.hash > hash))
    )
      return;
    this.#operators.set(key, { record, hash });
  }

  #indexSession(record: SessionRecord, signed: SignedBytes): SessionId {
    const id = sessionIdOf(record.sessionKey, this.#crypto);
    const login = openAs('login', record.login);
    invariant(login !== null, 'a verified session carries its login');
    this.#sessions.set(id, { id, signed, operatorKey: hex(login.record.operator), record });
    return id;
  }

  /** Of two under one id (only a lying author makes them) the lower hash stands, everywhere. */
  #indexInvite(record: InviteRecord, hash: Hash): void {
    const known = this.#invites.get(record.id);
    if (known === undefined || known.hash > hash) this.#invites.set(record.id, { record, hash });
  }

  #indexRemoval(record: RemovalRecord, hash: Hash): void {
    const key = `${record.subject}/${record.id}`;
    const known = this.#removals.get(key);
    if (known === undefined || known.hash > hash) this.#removals.set(key, { record, hash });
  }

  /** Two admissions of one key (through two members at once): the lower hash stands, everywhere. */
  #indexMember(record: MemberRecord, hash: Hash): void {
    const node = hex(record.hostKey) as NodeId;
    const known = this.#members.get(node);
    if (known !== undefined && known.hash < hash) return;
    this.#members.set(node, { node, host: record.hostId as HostId, record, hash });
  }

  /** By hash, founders first, so that every roster leaves out the same ones: surplus uses, and twins of a host id. */
  #activeMembers(): ReadonlyMap<NodeId, MemberEntry> {
    const active = new Map<NodeId, MemberEntry>();
    const uses = new Map<string, number>();
    const hosts = new Set<HostId>();
    const left: MemberEntry[] = [];
    const isFounder = (entry: MemberEntry): boolean => entry.record.invite === undefined;
    const sorted = [...this.#members.values()].toSorted(
      (a, b) => Number(isFounder(b)) - Number(isFounder(a)) || compareText(a.hash, b.hash),
    );
    for (const entry of sorted) {
      const { invite } = entry.record;
      const used = invite === undefined ? 0 : (uses.get(invite) ?? 0) + 1;
      if (invite !== undefined) uses.set(invite, used);
      const isSurplus =
        invite !== undefined && used > (this.#invites.get(invite)?.record.uses ?? 0);
      if (this.isRemoved('member', entry.node) !== null) continue;
      if (isSurplus || hosts.has(entry.host)) {
        left.push(entry);
      } else {
        active.set(entry.node, entry);
        hosts.add(entry.host);
      }
    }
    this.#quarantined = left;
    return new Map([...active].toSorted(([a], [b]) => compareText(a, b)));
  }

  #hashOf(payload: Uint8Array): Hash {
    return hex(this.#crypto.sha256(payload)) as Hash;
  }
}

/** `wait`: what must arrive before this can be judged. */
type Verdict = 'ok' | { readonly reason: string; readonly wait?: string };

interface Parked {
  readonly signed: SignedBytes;
  readonly wait: string;
}

type OneOutcome =
  | { readonly kind: 'added'; readonly hash: Hash; readonly key: string }
  | Exclude<RosterOutcome, { readonly kind: 'added' }>;

export function sessionIdOf(sessionKey: Uint8Array, crypto: Crypto): SessionId {
  return hex(crypto.sha256(sessionKey)).slice(0, 32) as SessionId;
}
