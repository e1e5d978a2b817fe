/**
 * Taking a lease from an owner that an operator declares dead. First an attempt finds out whose park it is, if any; then, after
 * the longest authority, that park is passed over: that one, and no other that is made later. Nothing is taken from anybody but
 * the host that the operator has named: the lease may have moved since it was looked at.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { Candidacy } from './candidacy.ts';
import type { Hints } from './hints.ts';
import type { Epoch, LeaseName, Owner } from './model.ts';
import type { Outcome } from './proposer.ts';
import { commandMsMax } from './shared.ts';
import type { Turn, Waiting } from './turn.ts';

/** A forced takeover is about the park that is found within so long. */
const forceLearnMs = 1_000;

/** What an operator's word allows an attempt. */
export interface Force {
  /** Whose park may be passed over; null: nobody's, which finds out whose it would be. */
  readonly victim: Owner | null;
  /** Who was declared dead: nothing is taken from others. Null: nobody was known to have it. */
  readonly of: HostId | null;
}

type Failed = Extract<Outcome, { kind: 'failed' }>;

/** What it needs of the lease. */
export interface ForcingHost {
  readonly self: HostId;
  readonly name: LeaseName;
  readonly env: string;
  readonly hints: Hints;
}

export class Forcing {
  readonly #host: ForcingHost;
  readonly #candidacy: Candidacy;
  #isOn = false;
  #waiting: Waiting | null = null;
  #atMs = Infinity;
  #waitMs = 0;
  #learnMs = 0;
  #victim: Owner | null = null;
  #of: HostId | null = null;

  constructor(host: ForcingHost, candidacy: Candidacy) {
    this.#host = host;
    this.#candidacy = candidacy;
  }

  /** Attempts are forced. */
  get isOn(): boolean {
    return this.#isOn;
  }

  /** No attempt before this, on the authority clock. */
  get atMs(): number {
    return this.#atMs;
  }

  /** Whose park the operator declared void: who had it when the force began. */
  get victim(): Owner | null {
    return this.#victim;
  }

  /** Whom the operator has declared dead; null: nobody was known to have it. */
  get of(): HostId | null {
    return this.#of;
  }

  nextMs(): number {
    return this.#waiting?.untilMs ?? Infinity;
  }

  begin(command: number, of: HostId | null, waitMs: number, turn: Turn): void {
    this.#isOn = true;
    this.#victim = null;
    this.#of = of;
    this.#waitMs = waitMs;
    this.#learnMs = turn.authorityMs + forceLearnMs;
    // At once, to find out whose park it is: one that is made later is not meant.
    this.#atMs = turn.authorityMs;
    this.#waiting = { id: command, untilMs: turn.authorityMs + waitMs + 2 * commandMsMax };
    this.#candidacy.dueMs = turn.authorityMs;
  }

  /** An attempt met somebody whom nobody has declared dead. */
  isMistaken({ why, other }: Failed): boolean {
    if (!this.#isOn || other === null || other.host === this.#host.self) return false;
    return why === 'parked' ? other.host !== this.#of : why === 'busy' && this.#isOther(other);
  }

  onMistaken({ why, other }: Failed, turn: Turn): void {
    const waiting = this.#end();
    const { name } = this.#host;
    const holder = other?.host ?? '';
    const reason = `${holder} has ${why === 'parked' ? 'parked it' : 'it now'}, and was not declared dead`;
    if (waiting) turn.refuse(waiting.id, 'LEASE_BUSY', { name, reason, holder });
  }

  #isOther({ host }: Owner): boolean {
    return this.#of !== null && host !== this.#of;
  }

  /** An attempt met a park. */
  onParked(owner: Owner, turn: Turn): void {
    // Later on it may be the park of somebody who was never declared dead.
    if (this.#victim === null && turn.authorityMs <= this.#learnMs) {
      this.#victim = owner;
      this.#atMs = turn.authorityMs + this.#waitMs;
      if (this.#waiting)
        this.#waiting = { id: this.#waiting.id, untilMs: this.#atMs + 2 * commandMsMax };
      this.#candidacy.dueMs = turn.authorityMs;
      return;
    }
    const waiting = this.#end();
    const reason = `${owner.host} has parked it since`;
    if (waiting) turn.refuse(waiting.id, 'LEASE_BUSY', { name: this.#host.name, reason });
  }

  /** The lease is held, and not open yet. */
  onAcquired(): void {
    this.#isOn = false;
    this.#atMs = Infinity;
  }

  onOpen(epoch: Epoch, turn: Turn): void {
    if (this.#waiting) turn.reply(this.#waiting.id, { isOk: true, epoch });
    this.#waiting = null;
  }

  /** While it is not held. */
  settle(turn: Turn): void {
    if (!this.#waiting || turn.authorityMs < this.#waiting.untilMs) return;
    const { id } = this.#waiting;
    this.#end();
    const { name, env, hints } = this.#host;
    const hint = hints.last;
    if (hint?.state === 'active' && turn.authorityMs < hint.untilMs)
      turn.refuse(id, 'LEASE_BUSY', { name, reason: `${hint.owner.host} renews it` });
    else turn.refuse(id, 'NO_QUORUM', { env, reason: 'no majority of voters granted it' });
  }

  #end(): Waiting | null {
    const waiting = this.#waiting;
    this.#waiting = null;
    this.#isOn = false;
    this.#atMs = Infinity;
    return waiting;
  }
}
