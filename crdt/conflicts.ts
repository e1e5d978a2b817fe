/**
 * Which leaves were written concurrently and not yet settled by a person.
 *
 * Automerge knows a conflict only until the next write, and only while it looks at that leaf. People must see it until
 * somebody picks. So we keep two things, both functions of the set of changes and not of the order of arrival:
 * `current`, the concurrent values a leaf holds now, and `resolved`, every write that overwrote two or more values at
 * once (its predecessors disagreed). A pick is a write to the settings leaf '/picks/<conflict id>'; it settles all that
 * it has seen, that is, every resolution in its causal past.
 *
 * Not listed: two writes of the same value, and a value that was overwritten before anybody met its rival.
 */
import { compareText } from './codec.ts';
import type { Container, DecodedChange, DecodedOp, LeafRef } from './document.ts';
import type { Hash } from './ids.ts';

const picksPrefix = '/picks/';
/** Resolutions kept per leaf; the oldest are forgotten beyond it. */
const resolvedPerLeafMax = 16;
/** Leaves with entries; beyond it the oldest leaf is forgotten. */
const leavesMax = 10_000;

interface Resolution {
  readonly by: Hash;
  readonly op: string;
  readonly over: readonly string[];
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
  readonly #picks = new Map<string, Hash[]>();

  /** Looks at every change once, in any order. */
  noteChange(change: DecodedChange, containerOf: (obj: string) => Container | null): void {
    for (const op of change.ops) {
      if (op.key.startsWith(picksPrefix) && containerOf(op.obj) === 'settings') {
        const id = op.key.slice(picksPrefix.length);
        this.#picks.set(
          id,
          [...(this.#picks.get(id) ?? []), change.hash].slice(-resolvedPerLeafMax),
        );
      }
      if (op.pred.length < 2) continue;
      const container = containerOf(op.obj);
      if (container === null) continue;
      const leaf = this.#leaf({ container, pointer: op.key });
      const written = lastWriteOf(change, op);
      if (leaf.resolved.some((known) => known.op === written)) continue;
      leaf.resolved.push({ by: change.hash, op: written, over: op.pred });
      if (leaf.resolved.length > resolvedPerLeafMax) leaf.resolved.shift();
    }
  }

  /** After changes were applied: the values the leaf holds now (one or none: no current conflict). */
  noteCurrent(ref: LeafRef, ops: readonly string[]): void {
    if (ops.length < 2 && !this.#leaves.has(keyOf(ref))) return;
    this.#leaf(ref).current = ops.length < 2 ? [] : ops;
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
        if (picks.some((pick) => pick === resolution.by || isInPast(resolution.by, pick))) continue;
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
      picks: [string, Hash[]][];
    };
    for (const [container, pointer, current, resolved] of leaves) {
      Object.assign(index.#leaf({ container, pointer }), { current, resolved });
    }
    for (const [id, hashes] of picks) index.#picks.set(id, hashes);
    return index;
  }

  #leaf(ref: LeafRef): LeafConflict {
    const key = keyOf(ref);
    const known = this.#leaves.get(key);
    if (known !== undefined) return known;
    if (this.#leaves.size >= leavesMax) {
      const oldest = this.#leaves.keys().next().value;
      if (oldest !== undefined) this.#leaves.delete(oldest);
    }
    const made: LeafConflict = { ref, current: [], resolved: [] };
    this.#leaves.set(key, made);
    return made;
  }
}

/** One change may write a leaf more than once; only what it wrote last was ever there for others. */
function lastWriteOf(change: DecodedChange, op: DecodedOp): string {
  return change.ops.findLast(({ obj, key }) => obj === op.obj && key === op.key)?.id ?? op.id;
}

function keyOf(ref: LeafRef): string {
  return ref.container + ref.pointer;
}
