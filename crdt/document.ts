/**
 * One replicated document: Automerge behind a small interface, so that nothing else in the project knows it.
 *
 * The shape is fixed: `{ names: {}, settings: {}, objects: { <id>: {} } }`, made by one genesis change that every daemon
 * has from birth. Each of these maps is flat: RFC 6901 pointers to scalars. Why flat and never deleted: Automerge drops
 * without a word an edit inside an object that somebody else assigned or deleted, and hides a whole object when two
 * sides create the same key. With unique object ids, scalar leaves and `null` for "absent" neither can happen, and every
 * concurrent write is a visible conflict of one leaf.
 *
 * Strings are `ImmutableString` (one op, not one per character); lists are bytes holding JSON, so that they are atomic.
 */
import * as A from '@automerge/automerge';
import { compareText } from './codec.ts';
import type { Hash, ObjectId, SessionId } from './ids.ts';
import type { LeafPut, LeafReader, LeafValue } from './leaves.ts';

export type Container = ObjectId | 'names' | 'settings';

type Leaves = Record<string, unknown>;
interface Shape {
  names: Leaves;
  settings: Leaves;
  objects: Record<string, Leaves>;
}

/** What an envelope is checked against, and what conflicts are found by. */
export interface DecodedChange {
  readonly hash: Hash;
  readonly actor: SessionId;
  readonly seq: number;
  readonly startOp: number;
  readonly deps: readonly Hash[];
  readonly ops: readonly DecodedOp[];
}

export interface DecodedOp {
  /** '<counter>@<actor>'. */
  readonly id: string;
  readonly action: string;
  /** Op id of the map it writes to, or '_root'. */
  readonly obj: string;
  readonly key: string;
  readonly value: LeafValue;
  /** Op ids that it overwrites; two or more resolve a conflict. */
  readonly pred: readonly string[];
}

export interface ApplyOutcome {
  readonly touched: ReadonlySet<Container>;
  /** Leaves that hold more than one concurrent value now. */
  readonly conflicted: readonly LeafRef[];
}

export interface LeafRef {
  readonly container: Container;
  readonly pointer: string;
}

const genesisActor = '0'.repeat(32);
const genesisBytes = makeGenesis();
/** Heads of the empty document: the hash that first edits depend on. */
export const genesisHash = A.decodeChange(genesisBytes).hash as Hash;

const namesOp = `1@${genesisActor}`;
const settingsOp = `2@${genesisActor}`;
const objectsOp = `3@${genesisActor}`;

/** Null for bytes that are no change, or one that this shape does not allow (see `isAllowed`). */
export function decodeChange(bytes: Uint8Array): DecodedChange | null {
  let decoded: A.DecodedChange;
  try {
    decoded = A.decodeChange(bytes);
  } catch {
    // Damaged bytes make the decoder throw or panic; both are a peer's garbage to us.
    return null;
  }
  const ops = (decoded.ops as unknown as RawOp[]).map((op, index) => ({
    id: `${decoded.startOp + index}@${decoded.actor}`,
    action: op.action,
    obj: op.obj,
    key: op.key ?? '',
    value: decodeLeaf(op.value),
    pred: op.pred ?? [],
  }));
  if (!ops.every((op) => isAllowed(op))) return null;
  return {
    hash: decoded.hash as Hash,
    actor: decoded.actor as SessionId,
    seq: decoded.seq,
    startOp: decoded.startOp,
    deps: decoded.deps as Hash[],
    ops,
  };
}

export class TrellisDocument {
  #doc: A.Doc<Shape>;
  /** Op id of its creation to object: objects are never deleted, so what is known stays true. */
  readonly #objectOfOp = new Map<string, ObjectId>();

  /** From `save()`, or empty. Throws when the saved bytes are damaged (they carry a checksum). */
  constructor(saved: Uint8Array | null) {
    this.#doc = saved === null ? empty() : A.load<Shape>(saved);
  }

  heads(): readonly Hash[] {
    return (A.getHeads(this.#doc) as Hash[]).toSorted(compareText);
  }

  /** Changes must be verified and their dependencies present or among them. Throws when Automerge refuses the batch; the document is then unharmed. */
  apply(changes: readonly Uint8Array[]): ApplyOutcome {
    const touched = new Set<Container>();
    const conflicted = new Map<string, LeafRef>();
    [this.#doc] = A.applyChanges(this.#doc, changes as Uint8Array[], {
      patchCallback: (patches) => {
        for (const patch of patches) notePatch(patch, touched, conflicted);
      },
    });
    return { touched, conflicted: [...conflicted.values()] };
  }

  /**
   * One change by `actor`; null when every leaf already has its value. A leaf with concurrent values is written even
   * then: that settles it.
   */
  edit(
    actor: SessionId,
    message: string,
    puts: readonly LeafPut[],
  ): { change: Uint8Array; changed: number } | null {
    const wanted = puts.filter(
      (put) =>
        !sameLeaf(this.leaf(put.object, put.pointer), put.value) ||
        this.concurrentOps({ container: put.object, pointer: put.pointer }).length > 1,
    );
    if (wanted.length === 0) return null;
    const kept = wanted.filter((put) => sameLeaf(this.leaf(put.object, put.pointer), put.value));
    if (A.getActorId(this.#doc) !== actor) this.#doc = A.clone(this.#doc, { actor });
    this.#doc = A.change(this.#doc, { message, time: 0 }, (draft) => {
      for (const put of wanted) {
        const leaves = containerForWrite(draft, put.object);
        // Asked to write the value in force over its rivals, Automerge deletes the rivals instead, and nobody could see
        // that somebody settled it. Another value in between makes it a write.
        if (kept.includes(put)) leaves[put.pointer] = put.value === null ? true : null;
        leaves[put.pointer] = encodeLeaf(put.value);
      }
    });
    const change = A.getLastLocalChange(this.#doc);
    if (change === undefined) throw new Error('an edit with differing leaves made no change');
    return { change, changed: wanted.length };
  }

  leaf(object: Container, pointer: string): LeafValue {
    return readLeaf(containerOf(this.#doc, object), pointer);
  }

  /** Present leaves only (null ones are absent), sorted: the order must not depend on that of arrival. */
  leaves(object: Container): ReadonlyMap<string, LeafValue> {
    return readLeaves(containerOf(this.#doc, object));
  }

  objectIds(): readonly ObjectId[] {
    return Object.keys(this.#doc.objects).toSorted(compareText) as ObjectId[];
  }

  /** The document as one change and its causes left it; null when the change is not here. */
  readerAt(hash: Hash): LeafReader | null {
    if (!A.hasHeads(this.#doc, [hash])) return null;
    const then = A.view(this.#doc, [hash]);
    return {
      leaf: (object, pointer) => readLeaf(containerOf(then, object), pointer),
      leaves: (object) => readLeaves(containerOf(then, object)),
    };
  }

  hasChange(hash: Hash): boolean {
    return A.hasHeads(this.#doc, [hash]);
  }

  /** Op ids of the values that one leaf holds concurrently, sorted; one entry when nobody disagrees. */
  concurrentOps(ref: LeafRef): readonly string[] {
    const container = containerOf(this.#doc, ref.container);
    if (container === undefined) return [];
    const conflicts = A.getConflicts(container as A.Doc<Leaves>, ref.pointer);
    return conflicts === undefined ? [] : Object.keys(conflicts).toSorted(compareText);
  }

  /** The map that an op's `obj` names, as users know it; null for one that does not exist. */
  containerOfOp(obj: string): Container | null {
    if (obj === namesOp) return 'names';
    if (obj === settingsOp) return 'settings';
    const known = this.#objectOfOp.get(obj);
    if (known !== undefined) return known;
    for (const id of Object.keys(this.#doc.objects)) {
      const leaves = this.#doc.objects[id];
      const op = leaves === undefined ? null : A.getObjectId(leaves);
      if (op !== null) this.#objectOfOp.set(op, id as ObjectId);
    }
    return this.#objectOfOp.get(obj) ?? null;
  }

  save(): Uint8Array {
    return A.save(this.#doc);
  }
}

interface RawOp {
  action: string;
  obj: string;
  key?: string;
  value?: unknown;
  pred?: string[];
}

/** Only what `edit` produces: objects are created, leaves are set, nothing is ever deleted or made a list or text. */
function isAllowed(op: DecodedOp): boolean {
  if (op.action === 'makeMap') return op.obj === objectsOp && /^[0-9a-f]{16}$/.test(op.key);
  return (
    op.action === 'set' && op.obj !== '_root' && op.obj !== objectsOp && op.key.startsWith('/')
  );
}

function makeGenesis(): Uint8Array {
  const doc = A.change(A.init<Shape>({ actor: genesisActor }), { time: 0 }, (draft) => {
    draft.names = {};
    draft.settings = {};
    draft.objects = {};
  });
  const bytes = A.getLastLocalChange(doc);
  if (bytes === undefined) throw new Error('the genesis change is empty');
  return bytes;
}

function empty(): A.Doc<Shape> {
  const [doc] = A.applyChanges(A.init<Shape>({ actor: 'f'.repeat(32) }), [genesisBytes]);
  return doc;
}

function containerOf(doc: Shape, object: Container): Leaves | undefined {
  if (object === 'names') return doc.names;
  if (object === 'settings') return doc.settings;
  return Object.hasOwn(doc.objects, object) ? doc.objects[object] : undefined;
}

function containerForWrite(draft: Shape, object: Container): Leaves {
  if (object === 'names') return draft.names;
  if (object === 'settings') return draft.settings;
  draft.objects[object] ??= {};
  return draft.objects[object];
}

function readLeaf(leaves: Leaves | undefined, pointer: string): LeafValue {
  return leaves === undefined || !Object.hasOwn(leaves, pointer)
    ? null
    : decodeLeaf(leaves[pointer]);
}

function readLeaves(leaves: Leaves | undefined): ReadonlyMap<string, LeafValue> {
  const out = new Map<string, LeafValue>();
  for (const pointer of Object.keys(leaves ?? {}).toSorted(compareText)) {
    const value = decodeLeaf(leaves?.[pointer]);
    if (value !== null) out.set(pointer, value);
  }
  return out;
}

function encodeLeaf(value: LeafValue): unknown {
  if (typeof value === 'string') return new A.ImmutableString(value);
  if (Array.isArray(value)) return new TextEncoder().encode(JSON.stringify(value));
  return value;
}

function decodeLeaf(value: unknown): LeafValue {
  if (value === undefined || value === null) return null;
  if (typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean')
    return value;
  if (value instanceof Uint8Array || Array.isArray(value))
    return decodeList(Uint8Array.from(value));
  return A.isImmutableString(value) ? value.toString() : null;
}

function decodeList(bytes: Uint8Array): LeafValue {
  try {
    const parsed: unknown = JSON.parse(new TextDecoder().decode(bytes));
    return Array.isArray(parsed) ? parsed : null;
  } catch {
    // A newer version may store other bytes here; to this one the leaf is absent, and its bytes stay in the document.
    return null;
  }
}

function sameLeaf(a: LeafValue, b: LeafValue): boolean {
  if (Array.isArray(a) && Array.isArray(b)) return JSON.stringify(a) === JSON.stringify(b);
  return a === b;
}

function notePatch(
  patch: A.Patch,
  touched: Set<Container>,
  conflicted: Map<string, LeafRef>,
): void {
  const [root, first, second] = patch.path;
  if (root === 'objects') {
    if (typeof first === 'string') touched.add(first as ObjectId);
  } else if (root === 'names' || root === 'settings') {
    touched.add(root);
  }
  if (patch.action !== 'put' && patch.action !== 'conflict') return;
  if (patch.action === 'put' && patch.conflict !== true) return;
  const container = (root === 'objects' ? first : root) as Container;
  const pointer = root === 'objects' ? second : first;
  if (typeof pointer === 'string') conflicted.set(`${container}${pointer}`, { container, pointer });
}
