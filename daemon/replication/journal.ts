/**
 * What this node keeps on disk of the replicated planes, and how it comes back from it.
 *
 * Logs hold what was accepted, in order of acceptance: `roster` the roster's records, `envelopes` those of all documents
 * (each with what indexing needs, so that nothing is decoded at start). Files: `document-<name>` a saved document (a
 * faster way to the same state), `plan-<env>` the committed plan whole, `addresses` the host facts of all members, so
 * that an isolated reboot still knows where everybody was. A record that cannot be used any more is left out and comes
 * back from a peer; every such loss is reported as damage.
 */
import { decode, encode } from '../../crdt/codec.ts';
import type { Hash, SessionId } from '../../crdt/ids.ts';
import { openAs } from '../../crdt/records.ts';
import type { SignedBytes } from '../../crdt/records.ts';
import { genesisHash } from '../../crdt/document.ts';
import type { DocName } from '../node-api.ts';
import type { Damage, Storage } from '../ports.ts';
import type { ChainHeads, Entry } from './documents.ts';
import type { StoredPlan } from './plans.ts';

const rosterLog = 'roster';
const envelopeLog = 'envelopes';
const addressesFile = 'addresses';

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

export class Journal {
  readonly #storage: Storage;
  readonly #damages: Damage[] = [];

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

  /** By document, in order of acceptance, only those whose chain and causes are complete. */
  envelopes(hashOf: (payload: Uint8Array) => Hash): ReadonlyMap<DocName, readonly Entry[]> {
    const byDoc = new Map<DocName, Entry[]>();
    const known = new Set<Hash>([genesisHash]);
    const ends = new Map<string, number>();
    let dropped = 0;
    for (const record of this.#readLog(envelopeLog)) {
      const entry = decodeEntry(record, hashOf);
      const end = entry === null ? 0 : (ends.get(`${entry.doc} ${entry.session}`) ?? 0);
      if (entry === null || entry.seq !== end + 1 || !entry.deps.every((dep) => known.has(dep))) {
        dropped++;
        continue;
      }
      ends.set(`${entry.doc} ${entry.session}`, entry.seq);
      known.add(entry.changeHash);
      const entries = byDoc.get(entry.doc);
      if (entries === undefined) byDoc.set(entry.doc, [entry]);
      else entries.push(entry);
    }
    if (dropped > 0) {
      const detail = `${dropped} envelopes follow a gap; they are fetched again from peers`;
      this.#damages.push({ name: envelopeLog, kind: 'corrupt', setAside: null, detail });
    }
    return byDoc;
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

  appendRoster(signed: SignedBytes, synced: (error?: Error) => void): void {
    this.#storage.append(rosterLog, signed, synced);
  }

  appendEnvelope(entry: Entry, synced: (error?: Error) => void): void {
    const { signed, changeHash, deps, startOp, opCount } = entry;
    this.#storage.append(
      envelopeLog,
      encode({ v: 1, s: signed, c: changeHash, d: deps, o: startOp, n: opCount }),
      synced,
    );
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

  #readLog(log: string): readonly Uint8Array[] {
    const { records, damage } = this.#storage.readLog(log);
    if (damage !== null) this.#damages.push(damage);
    return records;
  }

  #readFile(name: string): unknown {
    const { bytes, damage } = this.#storage.readFile(name);
    if (damage !== null) this.#damages.push(damage);
    return bytes === null ? null : decode(bytes);
  }
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
