/** What people are told of a lease: its history here, bounded, with times that only people read. */
import type { HostId } from '../../crdt/ids.ts';
import type { LeaseHistory } from './guard-api.ts';
import { leaseLimits } from './model.ts';
import type { Epoch, Instant, Owner } from './model.ts';

/** Newest last; the oldest go first. */
export class History {
  readonly #entries: (Omit<LeaseHistory, 'atWallMs'> & { readonly atMs: number })[] = [];

  add(
    what: LeaseHistory['what'],
    epoch: Epoch,
    host: HostId,
    why: string,
    authorityMs: number,
  ): void {
    const last = this.#entries.at(-1);
    if (last && last.what === what && last.epoch === epoch && last.host === host) return;
    if (this.#entries.length >= leaseLimits.historyMax) this.#entries.shift();
    this.#entries.push({ what, epoch, host, why, atMs: authorityMs });
  }

  /** `wallMs`: what the wall clock reads at `now`. */
  list(now: Instant, wallMs: number): readonly LeaseHistory[] {
    return this.#entries.map(({ what, epoch, host, why, atMs }) => ({
      what,
      epoch,
      host,
      why,
      atWallMs: Math.round(wallMs - (now.authorityMs - atMs)),
    }));
  }
}

/** What others said about a lease. A hint: it delays and directs, it never starts anything. */
export interface Hint {
  readonly owner: Owner;
  readonly epoch: Epoch;
  readonly state: 'active' | 'parked' | 'released';
  /** On the authority clock. */
  readonly untilMs: number;
}
