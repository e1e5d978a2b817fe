/** When a held lease is renewed: leases that are due at about the same time are renewed together, and share frames. */
import type { Proposer } from './proposer.ts';
import type { Shared } from './shared.ts';
import type { Turn } from './turn.ts';

/** Of the renewal period: so much sooner a lease is renewed together with another. */
const earlyShare = 0.15;

export class Renewal {
  readonly #shared: Shared;
  readonly #proposer: Proposer;
  /** On the authority clock; 0: at once. */
  dueMs = 0;

  constructor(shared: Shared, proposer: Proposer) {
    this.#shared = shared;
    this.#proposer = proposer;
  }

  /** One chance for all leases that are renewed together, so that they stay together. */
  next(turn: Turn): void {
    const shared = this.#shared;
    if (shared.renewedAtMs !== turn.authorityMs) {
      shared.renewedAtMs = turn.authorityMs;
      shared.renewFactor = 0.9 + 0.2 * shared.random.next();
    }
    this.dueMs = turn.authorityMs + this.#proposer.profile.renewMs * shared.renewFactor;
  }

  /** Also when another lease is being renewed and this one would be soon: they share frames from then on. */
  isDue(turn: Turn): boolean {
    const isShared = this.#shared.renewedAtMs === turn.authorityMs;
    const earlyMs = isShared ? earlyShare * this.#proposer.profile.renewMs : 0;
    return turn.authorityMs >= this.dueMs - earlyMs;
  }
}
