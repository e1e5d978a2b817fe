/** Safety of edits: what was acknowledged to somebody is everywhere in the end, whatever crashed meanwhile. */
import type { Hash } from '../../../crdt/ids.ts';
import type { LeafPut } from '../../../crdt/leaves.ts';
import type { TrellisNode } from '../../../daemon/node.ts';

interface Acknowledged {
  readonly hash: Hash;
  readonly by: number;
  readonly atMs: number;
  readonly puts: readonly LeafPut[];
}

export class AcknowledgedChecker {
  readonly #edits: Acknowledged[] = [];
  refused = 0;

  get count(): number {
    return this.#edits.length;
  }

  hashes(): readonly Hash[] {
    return this.#edits.map(({ hash }) => hash);
  }

  add(edit: Acknowledged): void {
    this.#edits.push(edit);
  }

  /** Throws the first edit that this node has lost; with `by` only those that it acknowledged itself. */
  check(node: TrellisNode, name: string, only?: { by: number }): void {
    for (const { hash, by, atMs } of this.#edits) {
      if (only !== undefined && only.by !== by) continue;
      if (node.replica.documents.entryByHash(hash) !== null) continue;
      throw new Error(
        `${name} lost edit ${hash.slice(0, 8)}, acknowledged by n${by} at ${Math.round(atMs)} ms`,
      );
    }
  }
}
