/** What others said about a lease, and what its holder tells them: hints, which delay and direct and never start anything. */
import type { HostId } from '../../crdt/ids.ts';
import type { Expired, Learn } from './messages.ts';
import type { Epoch, LeaseName } from './model.ts';
import type { Proposer } from './proposer.ts';
import type { Shared } from './shared.ts';
import type { Hint } from './status.ts';
import type { Turn } from './turn.ts';

const tellIntervalMs = 5_000;
/** So long the news wait for a renewal to travel with. */
const tellLateMs = 1_500;

/** What it needs of the lease. */
export interface HintedHost {
  readonly name: LeaseName;
  readonly env: string;
  readonly epoch: Epoch;
  readonly proposer: Proposer;
}

export class Hints {
  readonly #host: HintedHost;
  readonly #shared: Shared;
  #last: Hint | null = null;
  #tellMs = Infinity;

  constructor(host: HintedHost, shared: Shared) {
    this.#host = host;
    this.#shared = shared;
  }

  /** Of the highest epoch; null: nothing is known, or it is ours. */
  get last(): Hint | null {
    return this.#last;
  }

  /** Who holds it, as far as was heard. */
  get holder(): HostId | null {
    return this.#last?.state === 'active' ? this.#last.owner.host : null;
  }

  /** While it is held: the others are told again, with the next renewal or at last by this. */
  get tellAtLatestMs(): number {
    return this.#tellMs + tellLateMs;
  }

  /** `isRenewing`: most of them are asked for a renewal in this turn, and get both in one frame. */
  isTellDue(isRenewing: boolean, turn: Turn): boolean {
    return turn.authorityMs >= (isRenewing ? this.#tellMs : this.tellAtLatestMs);
  }

  forget(): void {
    this.#last = null;
  }

  onLearn({ owner, epoch, state, remainMs }: Learn, turn: Turn): void {
    if (this.#last === null || epoch >= this.#last.epoch)
      this.#last = { owner, epoch, state, untilMs: turn.authorityMs + remainMs };
  }

  onExpired({ epoch }: Expired): void {
    if (this.#last && epoch >= this.#last.epoch && this.#last.state === 'active')
      this.#last = { ...this.#last, state: 'released' };
  }

  /** Somebody has it under a later one, as far as was heard. */
  isPast(epoch: Epoch): boolean {
    return this.#last !== null && epoch < this.#last.epoch;
  }

  tell(state: Learn['state'], to: readonly HostId[], turn: Turn): void {
    this.#tellMs = state === 'active' ? turn.authorityMs + tellIntervalMs : Infinity;
    const { name, env, epoch, proposer } = this.#host;
    const remainMs = Math.max(0, proposer.untilMs - turn.authorityMs);
    const owner = { host: turn.self, session: this.#shared.session };
    const message: Learn = { kind: 'learn', env, name, owner, epoch, remainMs, state };
    for (const host of to) if (host !== turn.self) turn.send(host, message);
  }
}
