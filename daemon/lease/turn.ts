/**
 * One event being handled: the clocks as they were read for it, and what is to be carried out for it, in order.
 *
 * What this host says to itself does not leave it: the core hands it on within the same turn.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { CoreEffect, DurableRecord } from './core-api.ts';
import type { GuardNotice, GuardReply } from './guard-api.ts';
import type { Message } from './messages.ts';
import type { Instant, LeaseName } from './model.ts';

const noEffects: readonly CoreEffect[] = Object.freeze([]);

/** A command that is answered later, and not later than this on the authority clock. */
export interface Waiting {
  readonly id: number;
  readonly untilMs: number;
}

export class Turn {
  readonly self: HostId;
  /** As `Instant`. */
  monoMs = 0;
  authorityMs = 0;
  effects: CoreEffect[] = [];
  /** To ourselves, not handled yet. */
  local: Message[] = [];
  #token: number;

  constructor(self: HostId, token: number) {
    this.self = self;
    this.#token = token;
  }

  begin(now: Instant): void {
    this.monoMs = now.monoMs;
    this.authorityMs = now.authorityMs;
    this.effects = [];
  }

  /** Names one durable write or one act of a gate. Never repeats, not even after a restart with intact state. */
  nextToken(): number {
    return ++this.#token;
  }

  get token(): number {
    return this.#token;
  }

  send(to: HostId, message: Message): void {
    if (to === this.self) this.local.push(message);
    else this.effects.push({ kind: 'send', to, message });
  }

  /** Returns the token that `persisted` will carry. */
  persist(records: readonly DurableRecord[]): number {
    const token = this.nextToken();
    this.effects.push({ kind: 'persist', token, records, then: noEffects });
    return token;
  }

  push(effect: CoreEffect): void {
    this.effects.push(effect);
  }

  notice(notice: GuardNotice): void {
    this.effects.push({ kind: 'notice', notice });
  }

  event(
    event: string,
    severity: 'info' | 'warn' | 'alarm',
    name: LeaseName | null,
    text: string,
  ): void {
    this.notice({ kind: 'event', event, severity, name, text });
  }

  /** Answers to parts of a command that the core has split: their ids are negative. */
  onInnerReply: ((id: number, reply: GuardReply) => void) | null = null;

  reply(id: number, reply: GuardReply): void {
    if (id < 0) this.onInnerReply?.(id, reply);
    else this.effects.push({ kind: 'reply', id, reply });
  }

  refuse(id: number, code: string, details: Readonly<Record<string, unknown>>): void {
    this.reply(id, { isOk: false, code, details });
  }
}
