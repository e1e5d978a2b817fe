/**
 * The configuration documents of this node, as chains of signed envelopes.
 *
 * An envelope carries one Automerge change. It counts only when its session is in the roster, its signature covers the
 * exact bytes, the decoded change agrees with it (actor, seq), it continues its chain, everything it builds on is here,
 * and its author has the right. What is merely early is parked (bounded) and looked at again whenever something arrives;
 * what is false is counted and dropped. Automerge sees nothing before all that: it does not check a change's own
 * checksum, and a damaged one would block the genuine one for ever.
 *
 * Chains are per (session, document), so that the envelope's seq is Automerge's own seq. The envelopes are the truth;
 * a saved document is only a faster way to the same state.
 */
import { compareText } from '../../crdt/codec.ts';
import { ConflictIndex } from '../../crdt/conflicts.ts';
import { TrellisDocument, decodeChange, genesisHash } from '../../crdt/document.ts';
import type { Container, DecodedChange, LeafRef } from '../../crdt/document.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, Hash, SessionId } from '../../crdt/ids.ts';
import type { Edit, LeafReader } from '../../crdt/leaves.ts';
import { openAs, seal, signedBytes } from '../../crdt/records.ts';
import type { EnvelopeRecord, Opened, SignedBytes } from '../../crdt/records.ts';
import type { Config } from '../config.ts';
import { invariant } from '../errors.ts';
import type { DocName } from '../node-api.ts';
import type { Crypto, Log } from '../ports.ts';

/** One accepted envelope; `change` is decoded again from `signed` when it is needed. */
export interface Entry {
  readonly doc: DocName;
  readonly hash: Hash;
  readonly signed: SignedBytes;
  readonly session: SessionId;
  readonly seq: number;
  readonly changeHash: Hash;
  readonly deps: readonly Hash[];
  readonly startOp: number;
  readonly opCount: number;
  readonly message: string;
  readonly source: string | null;
  readonly atWallMs: number;
}

export type EnvelopeOutcome = 'added' | 'known' | 'parked' | 'rejected';

/** Session to (seq, hash) of its newest envelope: what anti-entropy compares. */
export type ChainHeads = Record<string, readonly [number, Hash]>;

export interface DocumentsOptions {
  readonly clusterId: ClusterId;
  readonly crypto: Crypto;
  readonly config: Config;
  readonly log: Log;
  /** Public key of a session in the roster, null while unknown. */
  sessionKey(session: SessionId): Uint8Array | null;
  /** May this author write this document? Null while its grant is not here yet. */
  mayWrite(session: SessionId, doc: DocName): boolean | null;
  /** New envelopes of others, to be made durable. Fires after they were applied. */
  onAdded(entries: readonly Entry[], touched: ReadonlyMap<DocName, ReadonlySet<Container>>): void;
  /** A second envelope for one (session, seq): proof of two writers under one key. */
  onEquivocation(session: SessionId, doc: DocName): void;
}

/** Nobody has vouched for what is parked: bytes per document, beyond them the oldest are dropped and refetched. */
const parkedBytesMax = 64 << 20;
/** Documents that a daemon will hold: `cluster` and its environments. */
const documentsMax = 64;

export class Documents {
  readonly #options: DocumentsOptions;
  readonly #docs = new Map<DocName, DocState>();
  readonly #suspended = new Set<SessionId>();
  /** Counted, for metrics and tests. */
  rejected = 0;

  constructor(options: DocumentsOptions) {
    this.#options = options;
  }

  names(): readonly DocName[] {
    return [...this.#docs.keys()].toSorted(compareText);
  }

  /** Creates an empty document of that name on first use. */
  document(doc: DocName): TrellisDocument {
    return this.#state(doc).document;
  }

  entry(doc: DocName, change: Hash): Entry | null {
    return this.#docs.get(doc)?.byChange.get(change) ?? null;
  }

  /** By the name under which the edit was acknowledged. */
  entryByHash(hash: Hash): Entry | null {
    for (const state of this.#docs.values()) {
      const entry = state.byHash.get(hash);
      if (entry !== undefined) return entry;
    }
    return null;
  }

  /** All envelopes of a document in order of arrival here. */
  entries(doc: DocName): readonly Entry[] {
    const state = this.#docs.get(doc);
    return state === undefined ? [] : [...state.byHash.values()];
  }

  parkedCount(): number {
    let count = 0;
    for (const state of this.#docs.values()) count += state.parked.size;
    return count;
  }

  suspended(): ReadonlySet<SessionId> {
    return this.#suspended;
  }

  /**
   * Makes and applies an own envelope; null when nothing differs. The caller makes it durable before it is shown to
   * anybody, and calls `rollBack` if that fails.
   */
  create(options: {
    readonly doc: DocName;
    readonly edit: Edit;
    readonly session: SessionId;
    readonly sign: (bytes: Uint8Array) => Uint8Array;
    readonly wallMs: number;
  }): { entry: Entry; changed: number; touched: ReadonlySet<Container> } | null {
    const state = this.#state(options.doc);
    const chain = state.chain(options.session);
    const made = state.document.edit(options.session, options.edit.message, options.edit.puts);
    if (made === null) return null;
    const record: EnvelopeRecord = {
      kind: 'envelope',
      v: 1,
      clusterId: this.#options.clusterId,
      doc: options.doc,
      epoch: { n: 0, id: '' },
      session: options.session,
      seq: chain.length + 1,
      prev: chain.at(-1)?.hash ?? '',
      clusterHeads: options.doc === 'cluster' ? [] : this.#clusterHeads(),
      change: made.change,
      message: options.edit.message,
      ...(options.edit.source === undefined ? {} : { source: options.edit.source }),
      at: Math.max(0, Math.round(options.wallMs)),
    };
    const signed = seal(record, options.sign);
    const opened = openAs('envelope', signed);
    const change = decodeChange(made.change);
    invariant(opened !== null && change !== null, 'an own envelope opens');
    invariant(change.seq === record.seq, 'the chain and the actor count alike');
    const entry = this.#entryOf(opened, change);
    this.#index(state, entry, change);
    const touched = new Set(options.edit.puts.map((put) => put.object));
    this.#noteConflicts(
      state,
      [...options.edit.puts].map((put) => ({ container: put.object, pointer: put.pointer })),
    );
    return { entry, changed: made.changed, touched };
  }

  /**
   * Takes back an own envelope that could not be made durable, and all that were built on it: nobody but this host has
   * those, since they were to be durable first, too. Returns what is gone; its sessions must not be used again.
   */
  rollBack(entry: Entry): readonly Entry[] {
    const gone = new Set<Hash>([entry.changeHash]);
    const kept: Entry[] = [];
    // In order of acceptance: causes come before what builds on them.
    for (const other of this.entries(entry.doc)) {
      const isNext = other.session === entry.session && other.seq >= entry.seq;
      if (isNext || other.deps.some((dep) => gone.has(dep))) gone.add(other.changeHash);
      else kept.push(other);
    }
    const taken = this.entries(entry.doc).filter((other) => gone.has(other.changeHash));
    const parked = [...(this.#docs.get(entry.doc)?.parked.values() ?? [])];
    this.#docs.delete(entry.doc);
    this.restore(entry.doc, kept, null);
    this.accept(parked.map(({ opened }) => opened.signed));
    return taken;
  }

  /** Takes envelopes of others in any order; returns what became of each. */
  accept(envelopes: readonly SignedBytes[]): readonly EnvelopeOutcome[] {
    const outcomes = envelopes.map((signed) => this.#take(signed));
    this.retry();
    return outcomes;
  }

  /** Looks at everything parked again: after a grant, a session or a dependency arrived. */
  retry(): void {
    const added: Entry[] = [];
    const touched = new Map<DocName, Set<Container>>();
    // The cluster document first: rights for the others come from it.
    for (const doc of this.names()) {
      const state = this.#state(doc);
      const ready = this.#ready(state, doc);
      if (ready.length === 0) continue;
      added.push(...this.#apply(state, doc, ready, touched));
    }
    if (added.length === 0) return;
    this.#options.onAdded(added, touched);
    this.retry();
  }

  chainHeads(doc: DocName): ChainHeads {
    const heads: Record<string, readonly [number, Hash]> = {};
    for (const [session, chain] of this.#docs.get(doc)?.chains ?? []) {
      const last = chain.at(-1);
      if (last !== undefined) heads[session] = [last.seq, last.hash];
    }
    return heads;
  }

  /** Envelopes that a peer with these heads lacks, in chain order, at most `max`. */
  missingFrom(doc: DocName, theirs: ChainHeads, max: number): readonly Entry[] {
    const out: Entry[] = [];
    for (const entry of this.entries(doc)) {
      if (out.length >= max) break;
      if (entry.seq > (theirs[entry.session]?.[0] ?? 0)) out.push(entry);
    }
    return out;
  }

  /** State that the newest edit with this source left. */
  lastApply(doc: DocName, source: string): LeafReader | null {
    const entry = this.entries(doc).findLast((candidate) => candidate.source === source);
    return entry === undefined ? null : this.document(doc).readerAt(entry.changeHash);
  }

  openConflicts(
    doc: DocName,
  ): readonly { readonly ref: LeafRef; readonly ops: readonly string[] }[] {
    const state = this.#docs.get(doc);
    if (state === undefined) return [];
    return state.conflicts.open(
      (ref) => this.conflictId(doc, ref),
      (change, of) => state.isInPast(change, of),
    );
  }

  conflictId(doc: DocName, ref: LeafRef): string {
    const text = `${doc}\n${ref.container}\n${ref.pointer}`;
    return hex(this.#options.crypto.sha256(new TextEncoder().encode(text))).slice(0, 12);
  }

  /** The envelope and decoded op behind an op id; null when it is not here. */
  op(doc: DocName, id: string): { entry: Entry; op: DecodedChange['ops'][number] } | null {
    const [counter, actor] = id.split('@') as [string, SessionId];
    const entry = this.#docs
      .get(doc)
      ?.chains.get(actor)
      ?.findLast((candidate) => candidate.startOp <= Number(counter));
    const op =
      entry === undefined
        ? undefined
        : this.change(entry)?.ops.find((candidate) => candidate.id === id);
    return entry === undefined || op === undefined ? null : { entry, op };
  }

  change(entry: Entry): DecodedChange | null {
    const opened = openAs('envelope', entry.signed);
    return opened === null ? null : decodeChange(opened.record.change);
  }

  /** Leaf that an op writes, null for the creation of an object. */
  leafOf(doc: DocName, op: DecodedChange['ops'][number]): LeafRef | null {
    const container = op.action === 'set' ? this.document(doc).containerOfOp(op.obj) : null;
    return container === null ? null : { container, pointer: op.key };
  }

  // ---- Snapshots ----------------------------------------------------------------------------------------------

  /** Plain value that `restore` understands, beside the log. */
  snapshot(doc: DocName): { saved: Uint8Array; conflicts: unknown } {
    const state = this.#state(doc);
    return { saved: state.document.save(), conflicts: state.conflicts.save() };
  }

  /** At start, from this host's own log (already verified once) and, when intact, its snapshot. */
  restore(
    doc: DocName,
    entries: readonly Entry[],
    snapshot: { saved: Uint8Array; conflicts: unknown } | null,
  ): void {
    invariant(!this.#docs.has(doc), 'a document is restored once');
    const state = new DocState(
      new TrellisDocument(snapshot?.saved ?? null),
      snapshot === null ? new ConflictIndex() : ConflictIndex.load(snapshot.conflicts),
    );
    for (const entry of entries) state.add(entry);
    const behind = entries.filter((entry) => !state.document.hasChange(entry.changeHash));
    if (behind.length === 0) {
      this.#docs.set(doc, state);
      return;
    }
    const changes = behind.map((entry) => openAs('envelope', entry.signed)?.record.change);
    const outcome = state.document.apply(changes.filter((change) => change !== undefined));
    for (const entry of behind) {
      const change = this.change(entry);
      if (change !== null)
        state.conflicts.noteChange(change, (obj) => state.document.containerOfOp(obj));
    }
    this.#noteConflicts(state, outcome.conflicted);
    // Last: after a throw the caller tries again without the snapshot.
    this.#docs.set(doc, state);
  }

  // ---- Acceptance ---------------------------------------------------------------------------------------------

  /** Shape, cluster, duplicates; the rest is decided by `#ready` as soon as it can be. */
  #take(signed: SignedBytes): EnvelopeOutcome {
    const opened = openAs('envelope', signed);
    if (opened === null || opened.record.clusterId !== this.#options.clusterId)
      return this.#reject('shape');
    const { record } = opened;
    if (record.change.length > this.#options.config.editBytesMax) return this.#reject('size');
    if (!isDocName(record.doc)) return this.#reject('document');
    if (!this.#docs.has(record.doc) && this.#docs.size >= documentsMax)
      return this.#reject('documents');
    const state = this.#state(record.doc);
    const hash = this.#hashOf(opened.payload);
    if (state.byHash.has(hash)) return 'known';
    if (state.parked.has(hash)) return 'parked';
    const twin = state.chains.get(record.session as SessionId)?.[record.seq - 1];
    if (twin !== undefined) return this.#equivocation(opened);
    state.park(hash, opened, this.#options.config.parkedMax);
    return 'parked';
  }

  #equivocation(opened: Opened<'envelope'>): EnvelopeOutcome {
    const session = opened.record.session as SessionId;
    if (this.#isSigned(opened) !== true) return this.#reject('signature');
    if (!this.#suspended.has(session)) {
      this.#suspended.add(session);
      this.#options.onEquivocation(session, opened.record.doc);
    }
    return 'rejected';
  }

  /** Parked envelopes that can be applied now, in an order in which they can. */
  #ready(
    state: DocState,
    doc: DocName,
  ): readonly { hash: Hash; opened: Opened<'envelope'>; change: DecodedChange }[] {
    const ready: { hash: Hash; opened: Opened<'envelope'>; change: DecodedChange }[] = [];
    const coming = new Set<Hash>();
    const arriving = new Set<Hash>();
    const chainEnds = new Map<string, { seq: number; hash: string }>();
    for (let again = true; again;) {
      again = false;
      const waiting = [...state.parked].filter(([hash]) => !coming.has(hash));
      waiting.sort(
        (a, b) => a[1].opened.record.seq - b[1].opened.record.seq || compareText(a[0], b[0]),
      );
      for (const [hash, parked] of waiting) {
        const change = this.#judge(state, doc, hash, parked, arriving, chainEnds);
        if (change === null) continue;
        coming.add(hash);
        arriving.add(change.hash);
        chainEnds.set(parked.opened.record.session, { seq: change.seq, hash });
        ready.push({ hash, opened: parked.opened, change });
        again = true;
      }
    }
    return ready;
  }

  /** The decoded change when the envelope may be applied now; null when it waits. False ones are dropped here. */
  #judge(
    state: DocState,
    doc: DocName,
    hash: Hash,
    parked: Parked,
    arriving: ReadonlySet<Hash>,
    chainEnds: ReadonlyMap<string, { seq: number; hash: string }>,
  ): DecodedChange | null {
    const { record } = parked.opened;
    const drop = (reason: string): null => {
      state.unpark(hash);
      this.#reject(reason);
      return null;
    };
    const session = record.session as SessionId;
    if (this.#suspended.has(session)) return drop('suspended');
    if (!parked.isVerified) {
      const isSigned = this.#isSigned(parked.opened);
      if (isSigned === null) return null;
      if (!isSigned) return drop('signature');
      parked.isVerified = true;
    }
    if (record.epoch.n !== 0) return null;
    const last = state.chains.get(session)?.at(-1);
    const end = chainEnds.get(session) ?? { seq: last?.seq ?? 0, hash: last?.hash ?? '' };
    if (record.seq !== end.seq + 1) return record.seq <= end.seq ? drop('fork') : null;
    if (record.prev !== end.hash) return drop('chain');
    const mayWrite = this.#options.mayWrite(session, doc);
    if (mayWrite === null) return null;
    if (!mayWrite) return drop('right');
    if (!this.#hasClusterHeads(record)) return null;
    parked.change ??= decodeChange(record.change);
    const { change } = parked;
    if (change === null || change.actor !== session || change.seq !== record.seq)
      return drop('change');
    return change.deps.every((dep) => state.has(dep) || arriving.has(dep)) ? change : null;
  }

  #apply(
    state: DocState,
    doc: DocName,
    ready: readonly { hash: Hash; opened: Opened<'envelope'>; change: DecodedChange }[],
    touched: Map<DocName, Set<Container>>,
  ): readonly Entry[] {
    const added: Entry[] = [];
    const mine = touched.get(doc) ?? new Set<Container>();
    touched.set(doc, mine);
    const conflicted: LeafRef[] = [];
    for (const batch of this.#batches(state, ready)) {
      for (const item of batch.items) state.unpark(item.hash);
      if (batch.outcome === null) continue;
      for (const container of batch.outcome.touched) mine.add(container);
      conflicted.push(...batch.outcome.conflicted);
      for (const item of batch.items) {
        const entry = this.#entryOf(item.opened, item.change);
        this.#index(state, entry, item.change);
        added.push(entry);
      }
    }
    this.#noteConflicts(state, conflicted);
    return added;
  }

  /** All at once (four times faster), or one by one when one of them is poison: that one is quarantined, the rest goes on. */
  *#batches(
    state: DocState,
    ready: readonly { hash: Hash; opened: Opened<'envelope'>; change: DecodedChange }[],
  ) {
    try {
      const outcome = state.document.apply(ready.map((item) => item.opened.record.change));
      yield { items: ready, outcome };
      return;
    } catch (error) {
      this.#options.log.warn('replication.batch-refused', {
        count: ready.length,
        error: String(error),
      });
    }
    for (const item of ready) {
      try {
        yield { items: [item], outcome: state.document.apply([item.opened.record.change]) };
      } catch (error) {
        this.#options.log.error('replication.poison', { hash: item.hash, error: String(error) });
        this.#reject('poison');
        yield { items: [item], outcome: null };
      }
    }
  }

  #index(state: DocState, entry: Entry, change: DecodedChange): void {
    state.add(entry);
    state.conflicts.noteChange(change, (obj) => state.document.containerOfOp(obj));
  }

  #noteConflicts(state: DocState, refs: readonly LeafRef[]): void {
    for (const ref of [...refs, ...state.conflicts.watched()]) {
      state.conflicts.noteCurrent(ref, state.document.concurrentOps(ref));
    }
  }

  #entryOf(opened: Opened<'envelope'>, change: DecodedChange): Entry {
    const { record } = opened;
    return {
      doc: record.doc,
      hash: this.#hashOf(opened.payload),
      signed: opened.signed,
      session: record.session as SessionId,
      seq: record.seq,
      changeHash: change.hash,
      deps: change.deps,
      startOp: change.startOp,
      opCount: change.ops.length,
      message: record.message,
      source: record.source ?? null,
      atWallMs: record.at,
    };
  }

  #isSigned(opened: Opened<'envelope'>): boolean | null {
    const key = this.#options.sessionKey(opened.record.session as SessionId);
    if (key === null) return null;
    return this.#options.crypto.verify(key, signedBytes(opened.payload), opened.signature);
  }

  #hasClusterHeads(record: EnvelopeRecord): boolean {
    if (record.doc === 'cluster') return true;
    const cluster = this.#state('cluster');
    return record.clusterHeads.every((head) => cluster.has(head as Hash));
  }

  #clusterHeads(): Hash[] {
    return this.#state('cluster')
      .document.heads()
      .filter((head) => head !== genesisHash);
  }

  #state(doc: DocName): DocState {
    let state = this.#docs.get(doc);
    if (state === undefined)
      this.#docs.set(doc, (state = new DocState(new TrellisDocument(null), new ConflictIndex())));
    return state;
  }

  #hashOf(payload: Uint8Array): Hash {
    return hex(this.#options.crypto.sha256(payload)) as Hash;
  }

  #reject(reason: string): EnvelopeOutcome {
    this.rejected++;
    this.#options.log.warn('replication.rejected', { reason });
    return 'rejected';
  }
}

interface Parked {
  readonly opened: Opened<'envelope'>;
  change: DecodedChange | null;
  isVerified: boolean;
}

class DocState {
  readonly document: TrellisDocument;
  readonly conflicts: ConflictIndex;
  readonly chains = new Map<SessionId, Entry[]>();
  readonly byChange = new Map<Hash, Entry>();
  readonly byHash = new Map<Hash, Entry>();
  readonly parked = new Map<Hash, Parked>();
  #parkedBytes = 0;

  constructor(document: TrellisDocument, conflicts: ConflictIndex) {
    this.document = document;
    this.conflicts = conflicts;
  }

  chain(session: SessionId): Entry[] {
    let chain = this.chains.get(session);
    if (chain === undefined) this.chains.set(session, (chain = []));
    return chain;
  }

  park(hash: Hash, opened: Opened<'envelope'>, countMax: number): void {
    this.parked.set(hash, { opened, change: null, isVerified: false });
    this.#parkedBytes += opened.signed.length;
    for (const oldest of this.parked.keys()) {
      if (this.parked.size <= countMax && this.#parkedBytes <= parkedBytesMax) break;
      this.unpark(oldest);
    }
  }

  unpark(hash: Hash): void {
    const parked = this.parked.get(hash);
    if (parked === undefined) return;
    this.parked.delete(hash);
    this.#parkedBytes -= parked.opened.signed.length;
  }

  add(entry: Entry): void {
    const chain = this.chain(entry.session);
    invariant(entry.seq === chain.length + 1, 'a chain has no gap');
    chain.push(entry);
    this.byChange.set(entry.changeHash, entry);
    this.byHash.set(entry.hash, entry);
  }

  has(change: Hash): boolean {
    return change === genesisHash || this.byChange.has(change);
  }

  /** Is `change` a cause of `of`? Walks back along dependencies; conflicts are rare, so this is too. */
  isInPast(change: Hash, of: Hash): boolean {
    const seen = new Set<Hash>();
    const queue = [...(this.byChange.get(of)?.deps ?? [])];
    for (let next = queue.pop(); next !== undefined; next = queue.pop()) {
      if (next === change) return true;
      if (seen.has(next)) continue;
      seen.add(next);
      queue.push(...(this.byChange.get(next)?.deps ?? []));
    }
    return false;
  }
}

export function isDocName(text: string): boolean {
  return text === 'cluster' || /^env\/[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(text);
}
