/**
 * Which leaves were written concurrently and not yet settled by a person.
 *
 * Automerge knows a conflict only until the next write, and only while it looks at that leaf. People must see it until
 * somebody picks. So we keep two things, both functions of the set of changes and not of the order of arrival:
 * `current`, the concurrent values a leaf holds now, and `resolved`, every write that overwrote two or more values at
 * once (its predecessors disagreed). A pick is a write to the settings leaf '/picks/<conflict id>'; it settles all that
 * it has seen, that is, every resolution in its causal past.
 *
 * At every bound the same entries are kept on every host: the newest by Lamport time, never by arrival.
 *
 * Not listed: two writes of the same value, and a value that was overwritten before anybody met its rival.
 */
import { compareText } from './codec.ts';
import type { Container, DecodedChange, DecodedOp, LeafRef } from './document.ts';
import type { Hash } from './ids.ts';

const picksPrefix = '/picks/';
/** Resolutions kept per leaf, and picks per conflict. */
const resolvedPerLeafMax = 16;
const picksPerConflictMax = 16;
/** Leaves with entries; beyond it those whose names come last are not listed. */
const leavesMax = 10_000;
/** Conflicts with picks, the same way. */
const pickedMax = 20_000;

interface Resolution {
  readonly by: Hash;
  readonly op: string;
  readonly over: readonly string[];
}

interface Pick {
  readonly by: Hash;
  /** '<counter>@<actor>'. */
  readonly op: string;
}

interface LeafConflict {
  readonly ref: LeafRef;
  current: readonly string[];
  resolved: Resolution[];
}

export interface OpenConflict {
  readonly ref: LeafRef;
  /** Op ids of all values that are still to be weighed, sorted. */
  readonly ops: readonly string[];
}

export function pickPointer(conflictId: string): string {
  return picksPrefix + conflictId;
}

export class ConflictIndex {
  readonly #leaves = new Map<string, LeafConflict>();
  /** Conflict id to the changes that picked it. */
  readonly #picks = new Map<string, readonly Pick[]>();

  /** Looks at every change once, in any order. */
  noteChange(change: DecodedChange, containerOf: (obj: string) => Container | null): void {
    for (const op of change.ops) {
      if (op.key.startsWith(picksPrefix) && containerOf(op.obj) === 'settings') {
        this.#notePick(op.key.slice(picksPrefix.length), { by: change.hash, op: op.id });
        continue;
      }
      if (op.pred.length < 2) continue;
      const container = containerOf(op.obj);
      const leaf = container === null ? null : this.#leaf({ container, pointer: op.key });
      const written = lastWriteOf(change, op);
      if (leaf === null || leaf.resolved.some((known) => known.op === written)) continue;
      const resolution = { by: change.hash, op: written, over: op.pred };
      leaf.resolved = newest([...leaf.resolved, resolution], resolvedPerLeafMax);
    }
  }

  #notePick(id: string, pick: Pick): void {
    const known = this.#picks.get(id) ?? [];
    this.#picks.set(id, newest([...known, pick], picksPerConflictMax));
    if (this.#picks.size > pickedMax) this.#picks.delete(lastOf(this.#picks.keys()));
  }

  /** After changes were applied: the values the leaf holds now (one or none: no current conflict). */
  noteCurrent(ref: LeafRef, ops: readonly string[]): void {
    if (ops.length < 2 && !this.#leaves.has(keyOf(ref))) return;
    // Picks made side by side all count; a mark is nothing to choose from.
    if (ref.container === 'settings' && ref.pointer.startsWith(picksPrefix)) return;
    const leaf = this.#leaf(ref);
    if (leaf !== null) leaf.current = ops.length < 2 ? [] : ops;
  }

  /** Leaves whose current values must be looked at again after any change. */
  watched(): readonly LeafRef[] {
    return [...this.#leaves.values()]
      .filter((leaf) => leaf.current.length > 0)
      .map((leaf) => leaf.ref);
  }

  open(
    idOf: (ref: LeafRef) => string,
    isInPast: (change: Hash, of: Hash) => boolean,
  ): readonly OpenConflict[] {
    const out: OpenConflict[] = [];
    for (const leaf of this.#leaves.values()) {
      const picks = this.#picks.get(idOf(leaf.ref)) ?? [];
      const ops = new Set(leaf.current);
      for (const resolution of leaf.resolved) {
        if (picks.some(({ by }) => by === resolution.by || isInPast(resolution.by, by))) continue;
        ops.add(resolution.op);
        for (const op of resolution.over) ops.add(op);
      }
      if (ops.size > 1) out.push({ ref: leaf.ref, ops: [...ops].toSorted(compareText) });
    }
    return out.toSorted((a, b) => compareText(keyOf(a.ref), keyOf(b.ref)));
  }

  /** Plain value for a snapshot. */
  save(): unknown {
    return {
      leaves: [...this.#leaves.values()].map((leaf) => [
        leaf.ref.container,
        leaf.ref.pointer,
        leaf.current,
        leaf.resolved,
      ]),
      picks: [...this.#picks],
    };
  }

  static load(saved: unknown): ConflictIndex {
    const index = new ConflictIndex();
    const { leaves, picks } = saved as {
      leaves: [Container, string, string[], Resolution[]][];
      picks: [string, Pick[]][];
    };
    for (const [container, pointer, current, resolved] of leaves) {
      const leaf = index.#leaf({ container, pointer });
      if (leaf !== null) Object.assign(leaf, { current, resolved });
    }
    for (const [id, made] of picks) index.#picks.set(id, made);
    return index;
  }

  /** Null when there is no room for it. */
  #leaf(ref: LeafRef): LeafConflict | null {
    const key = keyOf(ref);
    const known = this.#leaves.get(key);
    if (known !== undefined) return known;
    const made: LeafConflict = { ref, current: [], resolved: [] };
    this.#leaves.set(key, made);
    if (this.#leaves.size <= leavesMax) return made;
    const last = lastOf(this.#leaves.keys());
    this.#leaves.delete(last);
    return last === key ? null : made;
  }
}

/** One change may write a leaf more than once; only what it wrote last was ever there for others. */
function lastWriteOf(change: DecodedChange, op: DecodedOp): string {
  return change.ops.findLast(({ obj, key }) => obj === op.obj && key === op.key)?.id ?? op.id;
}

function keyOf(ref: LeafRef): string {
  return ref.container + ref.pointer;
}

/** The newest by Lamport time: counter, then actor. */
function newest<T extends { readonly op: string }>(items: readonly T[], max: number): T[] {
  const counterOf = (op: string): number => Number.parseInt(op, 10);
  return items
    .toSorted((a, b) => counterOf(b.op) - counterOf(a.op) || compareText(b.op, a.op))
    .slice(0, max);
}

function lastOf(keys: Iterable<string>): string {
  let last = '';
  for (const key of keys) if (compareText(key, last) > 0) last = key;
  return last;
}
