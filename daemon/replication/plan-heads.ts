/** How far a host's documents were when it made a plan: its author says so, and others compare it with their own. */
import type { Hash } from '../../crdt/ids.ts';
import type { DocName } from '../node-api.ts';
import type { Documents } from './documents.ts';

/** Per document; more than a few are concurrent only for a moment. */
const headsMax = 64;

/** Of the documents from which plans of the environment are made. */
export function headsForPlan(documents: Documents, env: string): Record<string, Hash[]> {
  const docs = ['cluster', `env/${env}`] as const;
  return Object.fromEntries(
    docs.map((doc) => [doc, documents.document(doc).heads().slice(0, headsMax)]),
  );
}

/** Is all here that these heads stand for? They are of a plan that somebody else made: no document is made for them. */
export function hasHeads(
  documents: Documents,
  heads: Readonly<Record<string, readonly Hash[]>>,
): boolean {
  const names: readonly string[] = documents.names();
  return Object.entries(heads).every(([doc, known]) => {
    if (known.length === 0) return true;
    if (!names.includes(doc)) return false;
    const document = documents.document(doc as DocName);
    return known.every((head) => document.hasChange(head));
  });
}
