/** What a view is made from: leaves, and the objects there are. `TrellisDocument` is one. */
import type { ObjectId } from './ids.ts';
import type { LeafReader } from './leaves.ts';

export type LeafOwner = ObjectId | 'names' | 'settings';

export interface LeafSource extends LeafReader {
  objectIds(): Iterable<ObjectId>;
}
