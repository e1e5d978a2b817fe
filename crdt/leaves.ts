/**
 * Fields of the documents as everyone addresses them: (object, pointer) to a scalar. What they mean is in
 * `service-leaves.ts` and `view.ts`; how they are kept is in `document.ts`.
 */
import type { ObjectId } from './ids.ts';

/** A value of one leaf. Lists are atomic: two concurrent lists are a conflict, never a merge. */
export type LeafValue = null | boolean | number | string | readonly unknown[];

/** One field: `object` is an object id, or 'names' or 'settings'; `pointer` an RFC 6901 pointer such as '/ports/http/container'. */
export interface LeafPut {
  readonly object: ObjectId | 'names' | 'settings';
  readonly pointer: string;
  /** null means absent; leaves are never deleted. */
  readonly value: LeafValue;
}

export interface Edit {
  /** One line for `trellis history`. */
  readonly message: string;
  /** Set by `apply`: later applies of the same source compare against what this edit left. */
  readonly source?: string;
  readonly puts: readonly LeafPut[];
  /** Ids of conflicts that this edit settles; their leaves are written even when the value stays. */
  readonly picks?: readonly string[];
}

/** Leaves of an object at some moment; null when there is none. */
export interface LeafReader {
  leaf(object: ObjectId | 'names' | 'settings', pointer: string): LeafValue;
  leaves(object: ObjectId | 'names' | 'settings'): ReadonlyMap<string, LeafValue>;
}
