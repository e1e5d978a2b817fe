/**
 * What this node keeps on disk of the replicated planes, and how it comes back from it.
 *
 * Logs hold what was accepted, in order of acceptance: `roster` the roster's records, `envelopes` those of all documents
 * (each with what indexing needs, so that nothing is decoded at start). Files: `document-<name>` a saved document (a
 * faster way to the same state), `plan-<env>` the committed plan whole, `addresses` the host facts of all members, so
 * that an isolated reboot still knows where everybody was. A record that cannot be used any more is left out and comes
 * back from a peer; every such loss is reported as damage. Both logs are kept twice (`log-copy.ts`).
 */
import { decode, encode } from '../../crdt/codec.ts';
import type { Hash, SessionId } from '../../crdt/ids.ts';
import { openAs } from '../../crdt/records.ts';
import type { SignedBytes } from '../../crdt/records.ts';
import { genesisHash } from '../../crdt/document.ts';
import type { DocName } from '../node-api.ts';
import type { Damage, Storage } from '../ports.ts';
import type { ChainHeads, Entry } from './documents.ts';
import { copyNameOf, mergeLogs } from './log-copy.ts';
import type { StoredPlan } from './plans.ts';

const rosterLog = 'roster';
const envelopeLog = 'envelopes';
const addressesFile = 'addresses';
/** Edits that are named in the report of a damage. */
const namedEditsMax = 5;

export interface SavedDocument {
  readonly saved: Uint8Array;
  readonly conflicts: unknown;
  readonly heads: ChainHeads;
}

export interface SavedPlan {
  readonly signed: SignedBytes;
  readonly planBytes: Uint8Array;
  readonly inputBytes: Uint8Array;
}

/** Records of others kept for another try; beyond it the oldest are left to be fetched again. */
const unsavedMax = 10_000;
const retryEveryMs = 1_000;

/** One log as far as this process has written it. Answers come in the order of calls. */
interface LogProgress {
  issued: number;
  answered: number;
  /** Could not be written (full disk), in order; memory has them, and own edits may build on them. */
  unsaved: Uint8Array[];
  /** Of those, being tried again now. */
  retrying: number;
}

export class Journal {
  readonly #storage: Storage;
  readonly #damages: Damage[] = [];
  readonly #progress = new Map<string, LogProgress>();
  /** Own edits on disk that wait until everything they may build on is there, too. */
  #waiting: { readonly needs: ReadonlyMap<string, number>; readonly synced: () => void }[] = [];
  #retriedMs = Number.NEGATIVE_INFINITY;

  constructor(storage: Storage) {
    this.#storage = storage;
  }

  /** What could not be read back, since the start. */
  damages(): readonly Damage[] {
    return this.#damages;
  }

  roster(): readonly SignedBytes[] {
    return this.#readLog(rosterLog);
  }

  /**
   * By document, causes before what builds on them, only those whose chain and causes are complete. What follows a gap
   * is given apart: it is as good as ever once the gap has been filled by a peer, and it may exist nowhere else. So is
   * what has no session here: nobody could verify it.
   */
  envelopes(
    hashOf: (payload: Uint8Array) => Hash,
    isSessionKnown: (session: SessionId) => boolean,
  ): {
    readonly byDoc: ReadonlyMap<DocName, readonly Entry[]>;
    readonly afterGap: readonly SignedBytes[];
  } {
    const byDoc = new Map<DocName, Entry[]>();
    const known = new Set<Hash>([genesisHash]);
    const ends = new Map<string, number>();
    const read = this.#readLog(envelopeLog).map((record) => decodeEntry(record, hashOf));
    const entries = read.filter((entry) => entry !== null);
    let left = entries;
    // Usually one pass; more when records had to be written late.
    for (let before = left.length + 1; left.length < before;) {
      before = left.length;
      left = left.filter((entry) => {
        const chain = `${entry.doc} ${entry.session}`;
        const end = ends.get(chain) ?? 0;
        if (entry.seq <= end) return false;
        if (entry.seq !== end + 1 || !isSessionKnown(entry.session)) return true;
        if (!entry.deps.every((dep) => known.has(dep))) return true;
        ends.set(chain, entry.seq);
        known.add(entry.changeHash);
        const ofDoc = byDoc.get(entry.doc);
        if (ofDoc === undefined) byDoc.set(entry.doc, [entry]);
        else ofDoc.push(entry);
        return false;
      });
    }
    const unusable = read.length - entries.length;
    if (left.length + unusable > 0) {
      const detail = `${left.length} edits wait for lost ones before them${namesOf(left)}, ${unusable} make no sense; what is missing is fetched again from peers`;
      this.#damages.push({ name: envelopeLog, kind: 'corrupt', setAside: null, detail });
    }
    return { byDoc, afterGap: left.map((entry) => entry.signed) };
  }

  document(doc: DocName): SavedDocument | null {
    const value = this.#readFile(`document-${fileName(doc)}`) as SavedDocument | null;
    return value !== null && value.saved instanceof Uint8Array ? value : null;
  }

  plan(env: string): SavedPlan | null {
    const value = this.#readFile(`plan-${env}`) as SavedPlan | null;
    return value !== null && value.signed instanceof Uint8Array ? value : null;
  }

  /** Signed facts of topic 'host', of unknown age. */
  addresses(): readonly SignedBytes[] {
    const value = this.#readFile(addressesFile);
    return Array.isArray(value) ? value.filter((item) => item instanceof Uint8Array) : [];
  }

  /** Kept for another try when it cannot be written. */
  appendRoster(signed: SignedBytes, synced: (error?: Error) => void): void {
    this.#append(rosterLog, signed, { isKept: true }, synced);
  }

  /** Of others: kept for another try when it cannot be written. */
  appendEnvelope(entry: Entry, synced: (error?: Error) => void): void {
    this.#append(envelopeLog, encodeEntry(entry), { isKept: true }, synced);
  }

  /**
   * Of our own: answers only when it and all records accepted before it are durable, since without its session or its
   * causes it could not be used after a restart. With an error nothing of it is kept.
   */
  appendOwnEnvelope(entry: Entry, synced: (error?: Error) => void): void {
    const needs = new Map(
      [rosterLog, envelopeLog].map((log) => [log, this.#progressOf(log).issued] as const),
    );
    this.#append(envelopeLog, encodeEntry(entry), { isKept: false }, (error) => {
      if (error !== undefined) {
        synced(error);
        return;
      }
      this.#waiting.push({ needs, synced });
      this.#answerWaiting();
    });
  }

  /** Tries again what could not be written; call it now and then. */
  retry(nowMs: number): void {
    if (nowMs - this.#retriedMs < retryEveryMs) return;
    this.#retriedMs = nowMs;
    for (const [log, progress] of this.#progress) {
      if (progress.unsaved.length === 0 || progress.answered < progress.issued) continue;
      const records = progress.unsaved.splice(0);
      progress.retrying = records.length;
      const hasCopy = log === rosterLog || log === envelopeLog;
      for (const record of records)
        this.#append(log, record, { isKept: true, hasCopy }, () => progress.retrying--);
    }
  }

  writeDocument(doc: DocName, document: SavedDocument, synced: (error?: Error) => void): void {
    this.#storage.writeFile(`document-${fileName(doc)}`, encode(document), synced);
  }

  writePlan(plan: StoredPlan, synced: (error?: Error) => void): void {
    const { signed, planBytes, inputBytes } = plan;
    this.#storage.writeFile(
      `plan-${plan.pointer.env}`,
      encode({ signed, planBytes, inputBytes }),
      synced,
    );
  }

  writeAddresses(facts: readonly SignedBytes[], synced: (error?: Error) => void): void {
    this.#storage.writeFile(addressesFile, encode(facts), synced);
  }

  note(damage: Damage): void {
    this.#damages.push(damage);
  }

  #append(
    log: string,
    record: Uint8Array,
    options: { readonly isKept: boolean; readonly hasCopy?: boolean },
    synced: (error?: Error) => void,
  ): void {
    const progress = this.#progressOf(log);
    progress.issued++;
    this.#storage.append(log, record, (error) => {
      progress.answered++;
      if (error !== undefined && options.isKept) {
        progress.unsaved.push(record);
        if (progress.unsaved.length > unsavedMax) progress.unsaved.shift();
      }
      if (error === undefined && options.hasCopy !== false) this.#copy(log, record);
      synced(error);
      this.#answerWaiting();
    });
  }

  #answerWaiting(): void {
    const isWhole = (log: string, issued: number): boolean => {
      const { answered, unsaved, retrying } = this.#progressOf(log);
      return answered >= issued && unsaved.length === 0 && retrying === 0;
    };
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const one of waiting) {
      if ([...one.needs].every(([log, issued]) => isWhole(log, issued))) one.synced();
      else this.#waiting.push(one);
    }
  }

  #progressOf(log: string): LogProgress {
    let progress = this.#progress.get(log);
    if (progress === undefined) {
      progress = { issued: 0, answered: 0, unsaved: [], retrying: 0 };
      this.#progress.set(log, progress);
    }
    return progress;
  }

  /** Nobody waits for it: until it is there, the log alone has the record, as every file has what is in no other. */
  #copy(log: string, record: Uint8Array): void {
    this.#append(copyNameOf(log), record, { isKept: true, hasCopy: false }, () => {});
  }

  #readLog(log: string): readonly Uint8Array[] {
    const { records, damage } = this.#storage.readLog(log);
    const copy = this.#storage.readLog(copyNameOf(log));
    const { all, missing, missingInCopy } = mergeLogs(records, copy.records);
    for (const record of missing)
      this.#append(log, record, { isKept: true, hasCopy: false }, () => {});
    for (const record of missingInCopy) this.#copy(log, record);
    const found = damage ?? (missing.length === 0 ? null : shortened(log));
    if (found !== null) {
      const detail = `${found.detail}; ${missing.length} records came back from its copy`;
      this.#damages.push({ ...found, detail });
    }
    if (copy.damage !== null) this.#damages.push(copy.damage);
    return all;
  }

  #readFile(name: string): unknown {
    const { bytes, damage } = this.#storage.readFile(name);
    if (damage !== null) this.#damages.push(damage);
    return bytes === null ? null : decode(bytes);
  }
}

function shortened(log: string): Damage {
  return { name: log, kind: 'missing', setAside: null, detail: 'records are missing' };
}

/** For people: what the edits were about. */
function namesOf(entries: readonly Entry[]): string {
  if (entries.length === 0) return '';
  const named = entries.slice(0, namedEditsMax).map((entry) => entry.message);
  return ` (${named.join('; ')}${entries.length > named.length ? '; and others' : ''})`;
}

function encodeEntry(entry: Entry): Uint8Array {
  const { signed, changeHash, deps, startOp, opCount } = entry;
  return encode({ v: 1, s: signed, c: changeHash, d: deps, o: startOp, n: opCount });
}

function decodeEntry(record: Uint8Array, hashOf: (payload: Uint8Array) => Hash): Entry | null {
  const value = decode(record) as {
    s?: unknown;
    c?: unknown;
    d?: unknown;
    o?: unknown;
    n?: unknown;
  } | null;
  if (!(value?.s instanceof Uint8Array) || typeof value.c !== 'string' || !Array.isArray(value.d))
    return null;
  const opened = openAs('envelope', value.s);
  if (opened === null) return null;
  return {
    doc: opened.record.doc,
    hash: hashOf(opened.payload),
    signed: value.s,
    session: opened.record.session as SessionId,
    seq: opened.record.seq,
    changeHash: value.c as Hash,
    deps: value.d as Hash[],
    startOp: Number(value.o),
    opCount: Number(value.n),
    message: opened.record.message,
    source: opened.record.source ?? null,
    atWallMs: opened.record.at,
  };
}

/** 'env/prod' is no file name. */
function fileName(doc: DocName): string {
  return doc.replaceAll('/', '-');
}
