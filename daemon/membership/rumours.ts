/**
 * Claims still to be passed on. One per member, the newest; each goes out a bounded number of times, the least sent
 * first, so that fresh news travels before stale news and an idle cluster says nothing.
 */
import type { NodeId } from '../../crdt/ids.ts';
import type { Rumour } from './messages.ts';

interface Waiting {
  readonly rumour: Rumour;
  sent: number;
}

export class RumourQueue {
  readonly #waiting = new Map<NodeId, Waiting>();

  /** Bounded by the roster: a newer claim about a member replaces the older one. */
  add(rumour: Rumour): void {
    this.#waiting.delete(rumour.node);
    this.#waiting.set(rumour.node, { rumour, sent: 0 });
  }

  forget(node: NodeId): void {
    this.#waiting.delete(node);
  }

  get isEmpty(): boolean {
    return this.#waiting.size === 0;
  }

  /** At most `max`, none about `except`; counts them as sent and drops those sent `sendsMax` times. */
  take(options: {
    readonly max: number;
    readonly except: NodeId;
    readonly sendsMax: number;
  }): Rumour[] {
    const chosen: Waiting[] = [];
    for (const waiting of this.#waiting.values()) {
      if (waiting.rumour.node === options.except) continue;
      // A short insertion sort: `max` is small, the queue may be as long as the roster.
      let at = chosen.length;
      while (at > 0 && (chosen[at - 1] as Waiting).sent > waiting.sent) at--;
      if (at >= options.max) continue;
      chosen.splice(at, 0, waiting);
      if (chosen.length > options.max) chosen.pop();
    }
    for (const waiting of chosen) {
      waiting.sent++;
      if (waiting.sent >= options.sendsMax) this.#waiting.delete(waiting.rumour.node);
    }
    return chosen.map((waiting) => waiting.rumour);
  }
}

/** How often one claim goes out: a constant plus log2 of the members, in integers. */
export function rumourSendsMax(members: number): number {
  return 3 + (32 - Math.clz32(members));
}
