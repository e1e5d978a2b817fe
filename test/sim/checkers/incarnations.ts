/** Safety: in one life of an observer nobody changes status at a lower incarnation, nor comes back at the same one. */
import type { NodeId } from '../../../crdt/ids.ts';
import type { StatusChange } from '../../../daemon/membership/membership.ts';

export class IncarnationChecker {
  readonly #newest = new Map<NodeId, number>();

  /** Throws on a breach. One checker per life of an observer. */
  onChange(change: StatusChange): void {
    const { node, status, was, incarnation } = change;
    const newest = this.#newest.get(node) ?? -1;
    const isLower = status === 'alive' ? incarnation <= newest : incarnation < newest;
    if (isLower)
      throw new Error(
        `${node.slice(0, 8)} became ${status} at incarnation ${incarnation} after ${newest}`,
      );
    if (status === 'dead' && was !== 'suspect')
      throw new Error(`${node.slice(0, 8)} died without being suspected, was ${was}`);
    this.#newest.set(node, incarnation);
  }
}
