/**
 * The table of what we believe about every member, and the only rules by which a belief changes (invariants 1 to 3 of
 * `membership.ts`). Every change of belief becomes a rumour to pass on.
 */
import { compareText } from '../../crdt/codec.ts';
import type { NodeId } from '../../crdt/ids.ts';
import type { Liveness } from '../../crdt/model.ts';
import type { Config } from '../config.ts';
import type { Log, Random } from '../ports.ts';
import type { LocalHealth } from './health.ts';
import { isLive, neverHeard, newMember, type Member } from './member.ts';
import type { Rumour } from './messages.ts';
import { RumourQueue } from './rumours.ts';
import { confirmed, deadlineMs, suspicionScale } from './suspicion.ts';

export interface StatusChange {
  readonly node: NodeId;
  readonly was: Liveness;
  readonly status: Liveness;
  readonly incarnation: number;
}

export interface BeliefsOptions {
  readonly self: NodeId;
  readonly incarnation: number;
  readonly config: Pick<Config, 'suspicionTimeoutMsMin' | 'suspicionTimeoutMsMax'>;
  readonly random: Random;
  readonly log: Log;
  readonly health: LocalHealth;
  /** Probe this member now, whoever's turn it is. */
  readonly probe: (member: Member, nowMs: number) => void;
  readonly onChange: (change: StatusChange) => void;
}

/** How many others must agree before the shortest suspicion holds ("k" in Lifeguard). */
const confirmationsWantedMax = 2;
/** A suspicion is checked by about this many members themselves, however large the roster. */
const checkersWanted = 8;

export class Beliefs {
  /** To be passed on. */
  readonly rumours = new RumourQueue();
  readonly #options: BeliefsOptions;
  readonly #members = new Map<NodeId, Member>();
  readonly #suspects = new Set<Member>();
  #incarnation: number;

  constructor(options: BeliefsOptions) {
    this.#options = options;
    this.#incarnation = options.incarnation;
  }

  /** Our own. */
  get incarnation(): number {
    return this.#incarnation;
  }

  get size(): number {
    return this.#members.size;
  }

  get(id: NodeId): Member | undefined {
    return this.#members.get(id);
  }

  members(): Iterable<Member> {
    return this.#members.values();
  }

  sorted(): readonly Member[] {
    return [...this.#members.values()].sort((a, b) => compareText(a.id, b.id));
  }

  /** Live members that we have a connection to. */
  reachable(): Member[] {
    return [...this.#members.values()].filter((member) => isLive(member) && member.isConnected);
  }

  add(id: NodeId): void {
    if (!this.#members.has(id)) this.#members.set(id, newMember(id, this.#options.random));
  }

  remove(id: NodeId): void {
    const member = this.#members.get(id);
    if (member !== undefined) this.#suspects.delete(member);
    this.#members.delete(id);
    this.rumours.forget(id);
  }

  /** Returns the farewell to send; the next life has to deny it. */
  leave(): Rumour {
    this.#incarnation++;
    return { node: this.#options.self, status: 'left', incarnation: this.#incarnation, from: null };
  }

  // ---- What others say --------------------------------------------------------------------------------------------

  onRumour(rumour: Rumour, teller: NodeId, nowMs: number): void {
    if (rumour.node === this.#options.self) {
      this.#onRumourAboutUs(rumour);
      return;
    }
    const member = this.#members.get(rumour.node);
    if (member === undefined) return;
    const { incarnation } = rumour;
    switch (rumour.status) {
      case 'alive':
        this.onAlive(member, incarnation);
        break;
      case 'suspect':
        this.#onSuspect(member, { incarnation, by: rumour.from ?? teller, nowMs });
        break;
      case 'dead':
        this.#onDead(member, { incarnation, by: rumour.from ?? teller, nowMs });
        break;
      case 'left':
        if (incarnation >= member.incarnation) this.#become(member, 'left', incarnation, null);
        break;
    }
  }

  /** It said so itself, or somebody says that it did. */
  onAlive(member: Member, incarnation: number): void {
    if (incarnation > member.incarnation) this.#become(member, 'alive', incarnation, null);
  }

  /** Our own probe failed. */
  accuse(member: Member, nowMs: number): void {
    if (!isLive(member)) return;
    this.#onSuspect(member, { incarnation: member.incarnation, by: this.#options.self, nowMs });
  }

  /** We deny what is said against us; a higher incarnation of ours is from a former life, and we go on from there. */
  #onRumourAboutUs(rumour: Rumour): void {
    if (rumour.incarnation < this.#incarnation) return;
    this.#incarnation = rumour.incarnation;
    if (rumour.status === 'alive') return;
    this.#incarnation++;
    if (rumour.status === 'suspect') this.#options.health.worsen(1);
    this.#options.log.info('membership.refuted', {
      status: rumour.status,
      incarnation: this.#incarnation,
    });
    this.rumours.add({
      node: this.#options.self,
      status: 'alive',
      incarnation: this.#incarnation,
      from: null,
    });
  }

  #onSuspect(member: Member, claim: { incarnation: number; by: NodeId; nowMs: number }): void {
    const { incarnation, by, nowMs } = claim;
    if (incarnation < member.incarnation) return;
    const isSameLife = incarnation === member.incarnation;
    if (member.status === 'suspect' && isSameLife) {
      this.#confirm(member, by);
      return;
    }
    // At the same incarnation only the living can be suspected; at a higher one it must have lived since.
    if (member.status !== 'alive' && isSameLife) return;
    this.#suspect(member, claim);
    // We are told that somebody is silent: look for ourselves. In a large roster only some do.
    const isChecker = this.#options.random.next() * this.#members.size < checkersWanted;
    if (by !== this.#options.self && isChecker) this.#options.probe(member, nowMs);
  }

  /** Invariant 1: a death that is news to us is only one more accusation. */
  #onDead(member: Member, claim: { incarnation: number; by: NodeId; nowMs: number }): void {
    const { incarnation, nowMs } = claim;
    if (incarnation < member.incarnation) return;
    if (!isLive(member)) {
      member.incarnation = incarnation;
      return;
    }
    const { suspicion } = member;
    if (suspicion === null || incarnation > member.incarnation) this.#onSuspect(member, claim);
    else if (hasSignSince(member, suspicion.sinceMs)) this.#options.probe(member, nowMs);
    else this.#become(member, 'dead', incarnation, claim.by);
  }

  // ---- Suspicion --------------------------------------------------------------------------------------------------

  /** Declares dead whose time to refute is over. */
  judgeSuspects(nowMs: number): void {
    for (const member of this.#suspects) {
      const { suspicion } = member;
      if (suspicion === null || deadlineMs(suspicion) > nowMs) continue;
      if (hasSignSince(member, suspicion.sinceMs)) {
        // It sends, but has not denied it: our word may not have reached it. Once more, as long as the signs are fresh.
        member.suspicion = { ...suspicion, sinceMs: nowMs };
        this.#options.probe(member, nowMs);
      } else {
        this.#become(member, 'dead', member.incarnation, this.#options.self);
      }
    }
  }

  /** We got no CPU for `lateMs`: suspects get that time again, and some more to let us read what they sent meanwhile. */
  extendSuspicions(lateMs: number, nowMs: number): void {
    for (const member of this.#suspects) {
      if (member.suspicion === null) continue;
      const sinceMs = Math.max(
        member.suspicion.sinceMs + lateMs,
        nowMs - member.suspicion.minMs / 2,
      );
      member.suspicion = { ...member.suspicion, sinceMs };
    }
  }

  /** When the first suspicion runs out. */
  nextDeadlineMs(): number {
    let nextMs = Number.POSITIVE_INFINITY;
    for (const { suspicion } of this.#suspects) {
      if (suspicion !== null) nextMs = Math.min(nextMs, deadlineMs(suspicion));
    }
    return nextMs;
  }

  #suspect(member: Member, claim: { incarnation: number; by: NodeId; nowMs: number }): void {
    const liveCount = this.#liveCount();
    const scale = suspicionScale(liveCount);
    // Those who could agree: all the living but the suspect and its accuser.
    const witnesses = liveCount - (isLive(member) ? 1 : 0) - 1;
    this.#become(member, 'suspect', claim.incarnation, claim.by);
    member.suspicion = {
      sinceMs: claim.nowMs,
      accuser: claim.by,
      confirmedBy: new Set(),
      confirmationsWanted: Math.max(0, Math.min(confirmationsWantedMax, witnesses)),
      minMs: this.#options.config.suspicionTimeoutMsMin * scale,
      maxMs: this.#options.config.suspicionTimeoutMsMax * scale,
    };
    this.#suspects.add(member);
  }

  #confirm(member: Member, by: NodeId): void {
    const { suspicion } = member;
    const next = suspicion === null ? null : confirmed(suspicion, by);
    if (next === null) return;
    member.suspicion = next;
    // Others count this confirmation too.
    this.rumours.add({
      node: member.id,
      status: 'suspect',
      incarnation: member.incarnation,
      from: by,
    });
  }

  #become(member: Member, status: Liveness, incarnation: number, by: NodeId | null): void {
    const was = member.status;
    const isNews = status !== was || incarnation > member.incarnation;
    member.incarnation = incarnation;
    if (status !== 'suspect') {
      member.suspicion = null;
      this.#suspects.delete(member);
    }
    if (isNews) this.rumours.add({ node: member.id, status, incarnation, from: by });
    if (status === was) return;
    member.status = status;
    this.#options.log.info(statusEvents[status], { node: member.id, incarnation });
    this.#options.onChange({ node: member.id, was, status, incarnation });
  }

  /** Live members including ourselves. */
  #liveCount(): number {
    let count = 1;
    for (const member of this.#members.values()) if (isLive(member)) count++;
    return count;
  }
}

/** What we would tell others, or the member itself. */
export function claimAbout(member: Member): Rumour {
  const { id, status, incarnation, suspicion } = member;
  return { node: id, status, incarnation, from: suspicion?.accuser ?? null };
}

/** Nothing is known that could be told. */
export function isUnknown(member: Member): boolean {
  return member.incarnation === neverHeard;
}

function hasSignSince(member: Member, sinceMs: number): boolean {
  return member.lastHeardMs !== null && member.lastHeardMs > sinceMs;
}

const statusEvents = {
  alive: 'membership.alive',
  suspect: 'membership.suspect',
  dead: 'membership.dead',
  left: 'membership.left',
} as const satisfies Record<Liveness, string>;
