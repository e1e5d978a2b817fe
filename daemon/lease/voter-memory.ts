/**
 * A voter whose log lost something from its middle: it had promised to keep that, so it must not vote as if it knew. It is silent, as
 * acceptor and in the chain of voters, until its promises count no more:
 * - when a link beyond all that it may have known shows it removed or added: whoever is added learns the floors of a majority;
 * - when voters were forced, by people: epochs jump above all that was ever granted.
 *
 * It says so to people (`hasForgotten`). A force that names it a survivor does ask it, or an environment whose only voter forgot
 * could never go on.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { DurableRecord, LinkMark } from './core-api.ts';
import type { ChosenConfig } from './model.ts';
import { chainLimits, compareRefs } from './voter-config.ts';

export class VoterMemory {
  #isLost = false;
  /** Null: not even this is known. */
  #beyond: LinkMark | null = null;

  constructor(durable: readonly DurableRecord[], env: string) {
    for (const record of durable) {
      if (record.kind !== 'forgotten') continue;
      this.#isLost = record.isOn;
      this.#beyond = record.beyond?.env === env ? record.beyond : null;
    }
  }

  get isLost(): boolean {
    return this.#isLost;
  }

  /** The longest exclusion that it may have granted and forgotten; 0: none. */
  get ttlMsMax(): number {
    if (!this.#isLost) return 0;
    return this.#beyond?.ttlMsMax ?? chainLimits.ttlMsMax;
  }

  /** Of voters that it may have known. */
  get generation(): number {
    return this.#isLost ? (this.#beyond?.generation ?? 0) : 0;
  }

  /** True: what it promised before this link counts no more. `tookPart`: as a survivor of the force that made the link. */
  endsBy(chosen: ChosenConfig, self: HostId, tookPart: boolean): boolean {
    if (!this.#isLost) return false;
    const beyond = this.#beyond;
    if (beyond === null) return tookPart;
    const { config, electorate } = chosen;
    if (compareRefs(config, beyond) <= 0) return false;
    const isOut = !config.voters.includes(self) || !electorate.includes(self);
    return isOut || config.generation > beyond.generation;
  }

  end(): void {
    this.#isLost = false;
    this.#beyond = null;
  }
}

export const remembersAgain: DurableRecord = Object.freeze({
  kind: 'forgotten',
  isOn: false,
  beyond: null,
});
