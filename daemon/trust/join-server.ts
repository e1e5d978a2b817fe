/**
 * Admission: what any member does when a host with a code knocks over HTTPS.
 *
 * The signed member record is the whole admission; it reaches the live members before the answer is sent, so that the new
 * host is known wherever it dials. A host that asks again because an answer was lost gets the same record and uses nothing
 * up. Requests are bounded per address and in number.
 */
import { z } from 'zod';
import { unhex } from '../../crdt/ids.ts';
import type { ClusterId } from '../../crdt/ids.ts';
import { consentBytes, nameSchema, open, seal } from '../../crdt/records.ts';
import type {
  AuthorityRecord,
  InviteRecord,
  MemberRecord,
  SignedBytes,
} from '../../crdt/records.ts';
import { systemCrypto } from '../crypto.ts';
import { asClusterError, ClusterError, invariant } from '../errors.ts';
import type { Clock, KeyPair, Log } from '../ports.ts';
import { acceptIntroduction } from './introduce.ts';
import { randomHostId } from './identity.ts';
import { decideAlone } from './invite-uses.ts';
import type { AdmissionTurn, InviteUses } from './invite-uses.ts';
import { checkCode, refusalText } from './invites.ts';
import { checkRequestSchema, joinRequestSchema } from './join-wire.ts';
import type { CheckAnswer, JoinAnswer, JoinRequest, PeerHint } from './join-wire.ts';
import { StrangerLimits } from './limits.ts';
import { proofOfAll, signedAuthority } from './proof.ts';
import type { RosterAccess, RosterMember } from './roster-access.ts';

/** Admissions under way at once on this member. */
const joinsMax = 16;

export interface AdmissionOptions {
  readonly roster: RosterAccess;
  /** This member's host key: signs whom it admits. */
  readonly hostKeys: KeyPair;
  readonly issuingKeyPem: string;
  /** This member first. */
  readonly peers: () => readonly PeerHint[];
  /** Puts the record into the roster, durably, and pushes it to the live members. */
  readonly admit: (record: SignedBytes, addresses: readonly string[]) => Promise<void>;
  /** The others have had time to take it; then the host is answered. */
  readonly settled?: () => Promise<void>;
  /** Every attempt, for the audit log. `outcome` is 'admitted', 'checked', 'introduced' or an error code. */
  readonly onAttempt: (attempt: JoinAttempt) => void;
  readonly clock: Clock;
  readonly log: Log;
}

export interface JoinAttempt {
  readonly address: string;
  readonly outcome: string;
  readonly reason: string;
  readonly invite?: string;
  readonly node?: string;
  readonly host?: string;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #limits: StrangerLimits;
  /** Host keys of admissions under way. */
  readonly #joining = new Set<string>();
  /** Of those, the ones that were granted and are not in the roster yet: invite id by host key. */
  readonly #pending = new Map<string, string>();
  #uses: InviteUses = decideAlone;

  constructor(options: AdmissionOptions) {
    this.#options = options;
    this.#limits = new StrangerLimits(() => options.clock.monotonicMs());
  }

  /** From now on uses are agreed upon. */
  agreeThrough(uses: InviteUses): void {
    this.#uses = uses;
  }

  /** For the installer. Fails with INVITE_REFUSED, INVALID, RATE_LIMITED. */
  async check(body: unknown, address: string): Promise<CheckAnswer> {
    return this.#attempt(address, async (attempt) => {
      const { code, hostKey } = parse(checkRequestSchema, body);
      const { invite, usesLeft } = this.#invite(code, hostKey);
      attempt({ outcome: 'checked', invite: invite.id });
      const authority = this.#authority();
      return {
        v: 1,
        clusterId: authority.clusterId,
        clusterName: authority.name,
        env: invite.env,
        roles: invite.roles,
        ...(invite.hostName === undefined ? {} : { hostName: invite.hostName }),
        usesLeft,
        expiresAt: invite.expiresAt,
        hostId: randomHostId(),
        authority: base64(signedAuthority(this.#options.roster) ?? undefined),
      };
    });
  }

  /** Fails with INVITE_REFUSED, JOIN_REFUSED, INVALID, RATE_LIMITED, BUSY, and with what `admit` fails with. */
  async join(body: unknown, address: string): Promise<JoinAnswer> {
    return this.#attempt(address, async (attempt) => {
      const request = parse(joinRequestSchema, body);
      attempt({ node: request.hostKey, host: request.hostId });
      const known = this.#knownMember(request);
      if (known !== null) {
        this.#assertCode(request, known);
        attempt({ outcome: 'admitted', reason: 'again' });
        return this.#answer(request, known);
      }
      if (this.#joining.size >= joinsMax || this.#joining.has(request.hostKey)) {
        throw new ClusterError('BUSY', { max: joinsMax, what: 'admissions' });
      }
      this.#joining.add(request.hostKey);
      try {
        const { invite } = this.#invite(request.code);
        attempt({ invite: invite.id });
        const record = await this.#uses.decide(invite, (turn) => this.#admit(request, turn));
        attempt({ outcome: 'admitted' });
        await this.#options.settled?.();
        return this.#answer(request, record);
      } finally {
        this.#joining.delete(request.hostKey);
      }
    });
  }

  /** Looks again at everything: other members may have admitted meanwhile, with this code or this very host. */
  async #admit(request: JoinRequest, turn: AdmissionTurn): Promise<SignedBytes> {
    const known = this.#knownMember(request);
    if (known !== null) return known;
    const { invite } = this.#invite(request.code, request.hostKey, turn.unknown);
    const record = this.#memberRecord(request, invite);
    turn.assertHeld();
    this.#pending.set(request.hostKey, invite.id);
    try {
      await this.#options.admit(record, request.addresses);
    } finally {
      this.#pending.delete(request.hostKey);
    }
    await turn.told(record);
    return record;
  }

  /** A member that we do not know yet shows its chain. Fails with JOIN_REFUSED, INVALID, RATE_LIMITED. */
  async introduce(body: unknown, address: string): Promise<{ added: number }> {
    return this.#attempt(address, async (attempt) => {
      const result = acceptIntroduction(this.#options.roster, body);
      attempt({ outcome: 'introduced', reason: `${result.added} records` });
      return result;
    });
  }

  /** Limits, audit and counting of failures around one request. */
  async #attempt<T>(
    address: string,
    act: (note: (part: Partial<JoinAttempt>) => void) => Promise<T>,
  ): Promise<T> {
    let attempt: JoinAttempt = { address, outcome: '', reason: '' };
    this.#limits.enter(address);
    try {
      const result = await act((part) => (attempt = { ...attempt, ...part }));
      this.#options.onAttempt(attempt);
      return result;
    } catch (error) {
      const fault = asClusterError(error);
      // Whoever has a good code is no guesser, whatever else is wrong.
      if (fault.code === 'INVITE_REFUSED' || fault.code === 'INVALID') this.#limits.failed(address);
      this.#options.onAttempt({ ...attempt, outcome: fault.code, reason: fault.message });
      throw fault;
    }
  }

  #authority(): AuthorityRecord {
    const authority = this.#options.roster.authority();
    invariant(authority !== null, 'a member that admits has an authority');
    return authority;
  }

  /**
   * `hostKey`: of a host that asks again; the use that admitted it is its own. `unknown`: admitted with it, and not in the
   * roster here.
   */
  #invite(
    code: string,
    hostKey = '',
    unknown: ReadonlySet<string> = new Set(),
  ): { invite: InviteRecord; usesLeft: number } {
    const { roster } = this.#options;
    const members = new Map<string, string | undefined>(
      roster.membersEver().map(({ node, record }) => [node, record.invite]),
    );
    const own = members.get(hostKey);
    // An admission stays pending until the others were told, but counts in the roster as soon as it is there.
    const pendingUses = (id: string): number =>
      [...this.#pending].filter(([key, invite]) => invite === id && !members.has(key)).length +
      [...unknown].filter((key) => !members.has(key) && key !== hostKey).length -
      (id === own ? 1 : 0);
    const checked = checkCode(this.#options.roster, code, {
      nowWallMs: this.#options.clock.wallMs(),
      pendingUses,
    });
    if ('invite' in checked) return checked;
    throw new ClusterError('INVITE_REFUSED', {
      reason: refusalText[checked.refused],
      refusal: checked.refused,
    });
  }

  /** The record of a host that asks again, or null. Clones and removed hosts are refused in words. */
  #knownMember(request: JoinRequest): SignedBytes | null {
    const { roster } = this.#options;
    const members = roster.membersEver();
    const same = members.find(({ node }) => node === request.hostKey);
    if (same !== undefined) {
      if (roster.isRemoved('member', same.node) !== null) {
        throw refused(
          'this host key was removed from the cluster',
          'make a new one: `trellis leave --force` on that host, then join again',
        );
      }
      if (same.host !== request.hostId) {
        throw refused(
          'this host key is a member under another host id',
          'was the disk cloned? Give the copy an identity of its own',
        );
      }
      return roster.records().get(same.hash) ?? null;
    }
    const twin = members.find(
      ({ host, node }) => host === request.hostId && roster.isRemoved('member', node) === null,
    );
    if (twin === undefined) return null;
    throw refused(
      `host ${twin.record.name} is a member under this host id with another key`,
      'if this machine is a clone, give it a host id of its own; if it replaces that host, remove the old one first',
    );
  }

  /** A repeated request must still know the code it was admitted with; that it is used up by itself is fine. */
  #assertCode(request: JoinRequest, known: SignedBytes): void {
    const member = open(known)?.record as MemberRecord;
    const checked = checkCode(this.#options.roster, request.code, {
      nowWallMs: 0,
      pendingUses: () => -Infinity,
    });
    if ('invite' in checked && checked.invite.id === member.invite) return;
    throw refused(
      'this host is a member already, and this is not the code that admitted it',
      'run `trellis leave` on it first',
    );
  }

  #memberRecord(request: JoinRequest, invite: InviteRecord): SignedBytes {
    const { hostKeys, clock } = this.#options;
    const { clusterId } = this.#authority();
    const hostKey = unhex(request.hostKey) as Uint8Array;
    const consent = new Uint8Array(Buffer.from(request.consent, 'base64'));
    const isConsent = systemCrypto.verify(
      hostKey,
      consentBytes({ clusterId, hostId: request.hostId, hostKey }),
      consent,
    );
    if (!isConsent) throw refused('the host did not prove that it has its key', 'join again');
    const record: MemberRecord = {
      kind: 'member',
      v: 1,
      clusterId: clusterId as ClusterId,
      hostKey,
      hostId: request.hostId,
      name: this.#name(request, invite),
      env: invite.env,
      roles: rolesOf(request, invite),
      meta: { ...request.meta, ...invite.meta },
      invite: invite.id,
      admittedBy: hostKeys.publicKey,
      consent,
      admittedAt: clock.wallMs(),
    };
    return seal(record, (bytes) => hostKeys.sign(bytes));
  }

  /** The invite's name, else the asked one; a taken one gets four digits of the host id. */
  #name(request: JoinRequest, invite: InviteRecord): string {
    const wanted = invite.hostName ?? request.name;
    if (!nameSchema.safeParse(wanted).success) {
      throw refused(
        `${JSON.stringify(wanted)} is no host name (lower-case letters, digits and -)`,
        'choose another with --name',
      );
    }
    const { roster } = this.#options;
    const isTaken = (name: string): boolean =>
      roster
        .membersEver()
        .some(({ record, node }) => record.name === name && isLive(roster, { node }));
    if (!isTaken(wanted)) return wanted;
    if (invite.hostName !== undefined)
      throw refused(`a host named ${wanted} exists already`, 'invite it under another name');
    const numbered = `${wanted.slice(0, 58)}-${request.hostId.slice(0, 4)}`;
    return isTaken(numbered) ? `h-${request.hostId}` : numbered;
  }

  #answer(request: JoinRequest, member: SignedBytes): JoinAnswer {
    const authority = this.#authority();
    return {
      v: 1,
      clusterId: authority.clusterId,
      clusterName: authority.name,
      hostId: request.hostId,
      member: base64(member),
      records: proofOfAll(this.#options.roster).map(base64),
      issuingKey: this.#options.issuingKeyPem,
      peers: this.#options
        .peers()
        .map(({ node, addresses }) => ({ node, addresses: [...addresses] })),
    };
  }
}

function isLive(roster: RosterAccess, { node }: Pick<RosterMember, 'node'>): boolean {
  return roster.isRemoved('member', node) === null;
}

/** Of the invite; a host may ask for fewer, never for others. */
function rolesOf(request: JoinRequest, invite: InviteRecord): string[] {
  if (request.roles.length === 0) return [...invite.roles];
  const others = request.roles.filter((role) => !invite.roles.includes(role));
  if (others.length === 0) return [...new Set(request.roles)].toSorted();
  throw refused(
    `the invitation does not allow role ${others.join(', ')}`,
    `ask for an invitation with --role, or set roles after joining (\`trellis role add\`)`,
  );
}

function refused(reason: string, todo: string): ClusterError {
  return new ClusterError('JOIN_REFUSED', { reason, todo });
}

function base64(bytes: Uint8Array | undefined): string {
  return Buffer.from(bytes ?? []).toString('base64');
}

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new ClusterError('INVALID', {
    reason: `${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`,
  });
}
