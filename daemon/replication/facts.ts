/**
 * Facts: one signed record per (owner, topic), no history, the last version of its owner wins.
 *
 * A host alone writes its own. Ages travel beside the record and are added up at every hop, measured on local monotonic
 * clocks only, so that a dead host's facts do die everywhere and no wall clock is ever compared.
 */
import { compareText, encode, equalBytes } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, Hash, NodeId } from '../../crdt/ids.ts';
import { openAs, seal, signedBytes } from '../../crdt/records.ts';
import type { FactRecord, SignedBytes } from '../../crdt/records.ts';
import type { Config } from '../config.ts';
import { invariant } from '../errors.ts';
import type { FactEntry } from '../node-api.ts';
import type { Crypto, KeyPair } from '../ports.ts';

/** Topics per owner; one more is refused. */
const topicsPerOwnerMax = 32;

export interface StoredFact {
  readonly signed: SignedBytes;
  readonly record: FactRecord;
  readonly owner: NodeId;
  /** Local monotonic time at which its age was zero. */
  readonly bornMs: number;
}

/** The stored fact when it was new. */
export type FactOutcome = StoredFact | 'known' | 'stranger' | 'rejected';

/** (incarnation, seq) as compared in digests. */
export type FactVersion = readonly [number, number];

export class Facts {
  readonly #options: FactsOptions;
  readonly #byOwner = new Map<NodeId, Map<string, StoredFact>>();
  #digest: Hash | null = null;
  #seq = 0;
  /** Counted, for metrics and tests. */
  rejected = 0;

  constructor(options: FactsOptions) {
    this.#options = options;
  }

  get self(): NodeId {
    return this.#options.self;
  }

  /** Writes an own fact; null when the value is the one already published. */
  publish(
    topic: string,
    value: unknown,
    now: { monotonicMs: number; wallMs: number },
  ): StoredFact | null {
    const { self, keys, clusterId, incarnation, config } = this.#options;
    const mine = this.#byOwner.get(self)?.get(topic);
    const body = encode(value);
    invariant(
      body.length <= config.factBytesMax,
      `fact ${topic} of ${body.length} bytes is over the limit`,
    );
    if (
      mine !== undefined &&
      mine.record.incarnation === incarnation &&
      equalBytes(encode(mine.record.body), body)
    )
      return null;
    const record: FactRecord = {
      kind: 'fact',
      v: 1,
      clusterId,
      owner: keys.publicKey,
      topic,
      incarnation,
      seq: ++this.#seq,
      at: Math.max(0, Math.round(now.wallMs)),
      body: value,
    };
    const signed = seal(record, (bytes) => keys.sign(bytes));
    const stored: StoredFact = { signed, record, owner: self, bornMs: now.monotonicMs };
    this.#store(stored);
    return stored;
  }

  /** `ageMs` as the sender gave it; negative or absurd ages are taken as zero. */
  accept(
    signed: SignedBytes,
    ageMs: number,
    nowMs: number,
    isMember: (node: NodeId) => boolean,
  ): FactOutcome {
    const opened = openAs('fact', signed);
    if (opened === null || opened.record.clusterId !== this.#options.clusterId)
      return this.#reject();
    const owner = hex(opened.record.owner) as NodeId;
    if (!isMember(owner)) return 'stranger';
    const topics = this.#byOwner.get(owner);
    const known = topics?.get(opened.record.topic);
    if (known !== undefined && !isNewer(opened.record, known.record)) return 'known';
    // After a restored disk a peer may return our own facts with a higher incarnation; ours is the truth of this run.
    if (owner === this.#options.self) return 'known';
    if (known === undefined && (topics?.size ?? 0) >= topicsPerOwnerMax) return this.#reject();
    if (signed.length > this.#options.config.factBytesMax + 1024) return this.#reject();
    const key = opened.record.owner;
    if (!this.#options.crypto.verify(key, signedBytes(opened.payload), opened.signature))
      return this.#reject();
    const age = Number.isFinite(ageMs) && ageMs > 0 ? ageMs : 0;
    const stored: StoredFact = { signed, record: opened.record, owner, bornMs: nowMs - age };
    this.#store(stored);
    return stored;
  }

  get(topic: string, owner: NodeId, nowMs: number): FactEntry | null {
    const stored = this.#byOwner.get(owner)?.get(topic);
    return stored === undefined ? null : toEntry(stored, nowMs);
  }

  all(topic: string, nowMs: number): readonly FactEntry[] {
    const out: FactEntry[] = [];
    for (const topics of this.#byOwner.values()) {
      const stored = topics.get(topic);
      if (stored !== undefined) out.push(toEntry(stored, nowMs));
    }
    return out.toSorted((a, b) => compareText(a.owner, b.owner));
  }

  stored(owner: NodeId, topic: string): StoredFact | null {
    return this.#byOwner.get(owner)?.get(topic) ?? null;
  }

  /** Highest incarnation seen of an owner: our own, seen from outside, shows a restored disk. */
  incarnationSeen(owner: NodeId): number {
    let highest = 0;
    for (const fact of this.#byOwner.get(owner)?.values() ?? [])
      highest = Math.max(highest, fact.record.incarnation);
    return highest;
  }

  /** Drops owners that are no members any more, and facts older than the retention. */
  forget(nowMs: number, isMember: (node: NodeId) => boolean): void {
    for (const [owner, topics] of this.#byOwner) {
      const oldest = nowMs - this.#options.config.deadFactRetentionMs;
      for (const [topic, fact] of topics) {
        if (!isMember(owner) || (owner !== this.#options.self && fact.bornMs < oldest))
          topics.delete(topic);
      }
      if (topics.size === 0) this.#byOwner.delete(owner);
    }
    this.#digest = null;
  }

  versions(): Record<string, Record<string, FactVersion>> {
    const out: Record<string, Record<string, FactVersion>> = {};
    for (const [owner, topics] of this.#byOwner) {
      const mine: Record<string, FactVersion> = {};
      for (const [topic, fact] of topics) mine[topic] = [fact.record.incarnation, fact.record.seq];
      out[owner] = mine;
    }
    return out;
  }

  /** What `theirs` lacks or has older, oldest owners first so that a bounded answer makes progress. */
  missingFrom(theirs: Record<string, Record<string, FactVersion>>): readonly StoredFact[] {
    const out: StoredFact[] = [];
    for (const [owner, topics] of this.#byOwner) {
      for (const [topic, fact] of topics) {
        const version = theirs[owner]?.[topic];
        if (
          version === undefined ||
          isNewer(fact.record, { incarnation: version[0], seq: version[1] })
        )
          out.push(fact);
      }
    }
    return out;
  }

  digest(): Hash {
    this.#digest ??= hex(this.#options.crypto.sha256(encode(this.versions()))) as Hash;
    return this.#digest;
  }

  #store(fact: StoredFact): void {
    let topics = this.#byOwner.get(fact.owner);
    if (topics === undefined) this.#byOwner.set(fact.owner, (topics = new Map()));
    topics.set(fact.record.topic, fact);
    this.#digest = null;
  }

  #reject(): FactOutcome {
    this.rejected++;
    return 'rejected';
  }
}

export interface FactsOptions {
  readonly clusterId: ClusterId;
  readonly self: NodeId;
  readonly keys: KeyPair;
  /** Of this run; higher than that of any run before. */
  readonly incarnation: number;
  readonly crypto: Crypto;
  readonly config: Config;
}

function isNewer(
  a: { incarnation: number; seq: number },
  b: { incarnation: number; seq: number },
): boolean {
  return a.incarnation > b.incarnation || (a.incarnation === b.incarnation && a.seq > b.seq);
}

function toEntry(stored: StoredFact, nowMs: number): FactEntry {
  return {
    owner: stored.owner,
    topic: stored.record.topic,
    value: stored.record.body,
    ageMs: Math.max(0, nowMs - stored.bornMs),
  };
}
