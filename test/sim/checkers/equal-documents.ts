/** Convergence: nodes that have the same envelopes have byte-equal documents, conflicts and rosters. */
import { compareText, encode, equalBytes } from '../../../crdt/codec.ts';
import type { TrellisNode } from '../../../daemon/node.ts';

interface Named {
  readonly name: string;
  readonly node: TrellisNode;
}

/** Everything that must be the same everywhere, in canonical bytes. */
export function documentBytes(node: TrellisNode, doc: string): Uint8Array {
  const document = node.replica.documents.document(doc);
  const containers = ['names', 'settings', ...[...document.objectIds()].toSorted()] as const;
  return encode({
    heads: [...document.heads()].toSorted(),
    leaves: containers.map((container) => [
      container,
      [...document.leaves(container)].toSorted(([a], [b]) => compareText(a, b)),
    ]),
    conflicts: node.replica.documents.openConflicts(doc),
  });
}

/** Null when all agree; else what differs between the first and some other. */
export function documentsDifference(nodes: readonly Named[]): string | null {
  const [first, ...others] = nodes;
  if (first === undefined) return null;
  for (const other of others) {
    const [a, b] = [first.node.replica, other.node.replica];
    if (a.roster.digest() !== b.roster.digest())
      return `rosters of ${first.name} and ${other.name} differ`;
    if (a.facts.digest() !== b.facts.digest())
      return `facts of ${first.name} and ${other.name} differ`;
    const plans = [first, other].map(({ node }) => node.committedPlan()?.pointerHash ?? null);
    if (plans[0] !== plans[1] && ![first, other].some(({ node }) => waitsForApply(node)))
      return `plans of ${first.name} and ${other.name} differ`;
    const docs = [...new Set([...a.documents.names(), ...b.documents.names()])].toSorted();
    for (const doc of docs) {
      if (!equalBytes(documentBytes(first.node, doc), documentBytes(other.node, doc)))
        return `${doc} differs between ${first.name} and ${other.name}`;
    }
  }
  return null;
}

/**
 * No plan in force here, and an automatic one of an older document refused: nobody but an operator can tell that those
 * services were ever wanted. The next `apply` ends it.
 */
function waitsForApply(node: TrellisNode): boolean {
  return node.committedPlan() === null && node.replica.plans.refused().length > 0;
}
