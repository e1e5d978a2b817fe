/**
 * How often an invitation was used, agreed with a majority of the voters.
 *
 * The admitting member holds the lease `invite/<id>`, asks voters' daemons for the member records that were made with it
 * until a majority has answered, decides, and gives the lease back only when a majority has the new record too. Any two
 * majorities share a voter, so whoever decides next counts it, even when the two admitting members cannot hear each other.
 *
 * Where that cannot be had (no guard, no majority, an invitation into another environment, whose voters are others) the member
 * decides alone: joining must be possible when half of the hosts are gone. Members beyond the uses are left out when their
 * records meet.
 */
import { decode, encode } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { NodeId } from '../../crdt/ids.ts';
import { openAs } from '../../crdt/records.ts';
import type { InviteRecord, SignedBytes } from '../../crdt/records.ts';
import { asClusterError, ClusterError } from '../errors.ts';
import type { Hold, WithLease } from '../lease-hold.ts';
import type { LeaseName } from '../lease/model.ts';
import { majorityOf } from '../lease/model.ts';
import type { PeerNetwork } from '../net/peer-network.ts';
import type { Clock, Log } from '../ports.ts';
import type { RosterAccess } from './roster-access.ts';

/** One admission, while nobody else decides about the same invitation, as far as that can be had. */
export interface AdmissionTurn {
  /** Host keys (hex) that were admitted with it, besides those in the roster. */
  readonly unknown: ReadonlySet<string>;
  /** Before the record is made known. Throws LEASE_LOST. */
  assertHeld(): void;
  /** Resolves when a majority has it, or soon. */
  told(record: SignedBytes): Promise<void>;
}

export interface InviteUses {
  /** Rejects BUSY when another member decides about this invitation for too long; else as `admit` does. */
  decide<T>(invite: InviteRecord, admit: (turn: AdmissionTurn) => Promise<T>): Promise<T>;
}

/** Nobody else is asked. */
export const decideAlone: InviteUses = {
  decide: (_invite, admit) => admit(aloneTurn),
};

const aloneTurn: AdmissionTurn = {
  unknown: new Set(),
  assertHeld: () => {},
  told: () => Promise.resolve(),
};

export interface InviteVotersOptions {
  readonly env: string;
  readonly self: NodeId;
  readonly withLease: WithLease;
  readonly net: Pick<PeerNetwork, 'call' | 'onCall'>;
  readonly roster: RosterAccess;
  /** The environment's voters; null for hosts that are not known here. The whole is null without a guard that hears a majority. */
  voters(): readonly (NodeId | null)[] | null;
  /** Into the roster, durably. */
  keep(record: SignedBytes): Promise<void>;
  readonly clock: Clock;
  readonly log: Log;
}

/** Who comes later waits for so long; a joining host then asks another member. */
const turnMsMax = 5_000;
const callMsMax = 2_000;
/** A voter whose connection is being made again is asked again for so long, so often. */
const askMsMax = 3_000;
const askAgainMs = 200;
/** Newest first: what a voter answers with, 400 bytes each. */
const recordsMax = 1_000;

type Question =
  | { readonly v: 1; readonly kind: 'invite-members'; readonly invite: string }
  | { readonly v: 1; readonly kind: 'member-record'; readonly record: Uint8Array };

export class InviteVoters implements InviteUses {
  readonly #options: InviteVotersOptions;

  constructor(options: InviteVotersOptions) {
    this.#options = options;
  }

  /** Answers other members. Takes the network's one handler of calls. */
  serve(): void {
    this.#options.net.onCall((_from, request) => this.#answer(request));
  }

  async decide<T>(invite: InviteRecord, admit: (turn: AdmissionTurn) => Promise<T>): Promise<T> {
    const { env, withLease, log } = this.#options;
    const voters = this.#options.voters();
    if (voters === null || invite.env !== env) return admit(aloneTurn);
    let begun: Promise<T> | null = null;
    try {
      const options = { title: `invite ${invite.id.slice(0, 8)}`, waitMs: turnMsMax };
      return await withLease(inviteLeaseOf(invite.id), options, async (hold) => {
        const turn = await this.#turn(invite.id, voters, hold);
        begun = admit(turn);
        return begun;
      });
    } catch (error) {
      // Whatever has become of the lease, a host that was admitted is.
      if (begun !== null) return await ended(begun, error);
      const { code, message } = asClusterError(error);
      if (code === 'LEASE_BUSY' || code === 'LEASE_LOST' || code === 'BUSY')
        throw new ClusterError('BUSY', { max: 1, what: 'admissions with this invitation' }, error);
      log.warn('invite.decided-alone', { invite: invite.id, reason: message });
      return admit(aloneTurn);
    }
  }

  async #turn(
    invite: string,
    voters: readonly (NodeId | null)[],
    hold: Hold,
  ): Promise<AdmissionTurn> {
    const { roster, env, log } = this.#options;
    const unknown = new Set<string>();
    const question: Question = { v: 1, kind: 'invite-members', invite };
    const isAnswered = await this.#majority(voters, question, (reply) => {
      for (const record of recordsOf(reply)) {
        const member = openAs('member', record)?.record;
        if (member?.invite !== invite) continue;
        // Parked: who admitted it is not known here yet. It counts all the same.
        const isKept = ['added', 'known'].includes(roster.add(record).kind);
        if (!isKept) unknown.add(hex(member.hostKey));
      }
    });
    if (!isAnswered)
      throw new ClusterError('NO_QUORUM', { env, reason: 'too few daemons of voters answer' });
    return {
      unknown,
      assertHeld: () => hold.assertHeld(),
      told: async (record) => {
        const isTold = await this.#majority(voters, { v: 1, kind: 'member-record', record });
        if (!isTold) log.warn('invite.not-told', { invite });
      },
    };
  }

  /** Asks all; true once a majority of the voters, this host among them, has answered. */
  async #majority(
    voters: readonly (NodeId | null)[],
    question: Question,
    take: (reply: unknown) => void = () => {},
  ): Promise<boolean> {
    const { self } = this.#options;
    const needed = majorityOf(voters.length);
    let count = voters.filter((voter) => voter === self).length;
    const enough = Promise.withResolvers<boolean>();
    if (count >= needed) return true;
    const request = encode(question);
    const calls = voters.map(async (voter) => {
      if (voter === null || voter === self) return;
      const reply = await this.#ask(voter, request, () => count >= needed);
      if (reply === null) return;
      take(reply);
      count += 1;
      if (count >= needed) enough.resolve(true);
    });
    void Promise.all(calls).then(() => enough.resolve(false));
    return enough.promise;
  }

  /** Null when it does not answer, or when others have answered while it did not. */
  async #ask(voter: NodeId, request: Uint8Array, isEnough: () => boolean): Promise<unknown> {
    const { net, clock, log } = this.#options;
    const endMs = clock.monotonicMs() + askMsMax;
    for (;;) {
      try {
        return decode(await net.call(voter, request, { timeoutMs: callMsMax }));
      } catch (error) {
        if (isEnough()) return null;
        const { code } = asClusterError(error);
        if (clock.monotonicMs() + askAgainMs > endMs) {
          log.warn('invite.voter-silent', { voter, code });
          return null;
        }
      }
      await new Promise<void>((resolve) => clock.setTimer(askAgainMs, resolve));
    }
  }

  async #answer(request: Uint8Array): Promise<Uint8Array> {
    const { roster } = this.#options;
    const question = decode(request) as Partial<Question> | null;
    if (question?.v === 1 && question.kind === 'invite-members') {
      const { invite } = question;
      const records = roster
        .membersEver()
        .filter(({ record }) => record.invite === invite)
        .toSorted((a, b) => b.record.admittedAt - a.record.admittedAt)
        .slice(0, recordsMax)
        .flatMap(({ hash }) => roster.records().get(hash) ?? []);
      return encode({ v: 1, records });
    }
    const isRecord = question?.v === 1 && question.kind === 'member-record';
    if (!isRecord || !(question.record instanceof Uint8Array) || !isMember(question.record))
      throw new ClusterError('INVALID', { reason: 'no such call is known here' });
    await this.#options.keep(question.record);
    return encode({ v: 1 });
  }
}

export function inviteLeaseOf(invite: string): LeaseName {
  return `invite/${invite}`;
}

function isMember(bytes: Uint8Array): bytes is SignedBytes {
  return openAs('member', bytes as SignedBytes) !== null;
}

function recordsOf(reply: unknown): readonly SignedBytes[] {
  const { v, records } = (reply ?? {}) as { v?: unknown; records?: unknown };
  if (v !== 1 || !Array.isArray(records)) return [];
  return records
    .slice(0, recordsMax)
    .filter((record): record is SignedBytes => record instanceof Uint8Array);
}

async function ended<T>(begun: Promise<T>, error: unknown): Promise<T> {
  try {
    return await begun;
  } catch (cause) {
    if (asClusterError(cause).code !== 'LEASE_LOST') throw cause;
    throw new ClusterError('BUSY', { max: 1, what: 'admissions with this invitation' }, error);
  }
}
