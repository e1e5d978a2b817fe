/**
 * Facts: one signed record per (owner, topic), no history, the last version of its owner wins.
 *
 * A host alone writes its own. Ages travel beside the record and are added up at every hop, measured on local monotonic
 * clocks only, so that a dead host's facts do die everywhere and no wall clock is ever compared.
 *
 * What earlier runs of this host said comes back from peers. It is shown to nobody here, but counted in digests, so that
 * two who agree on everything else agree. If it is newer than what this run says (a restored disk has lost the count of
 * runs), this run raises its own incarnation above it: otherwise nobody would believe it any more.
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
/** Names of plugins and parts; also the keys of digests, where others would be no keys at all. */
const topicPattern = /^[a-z0-9][a-z0-9/-]{0,63}$/;
/** Beyond it nobody could go: a count of runs or of seconds never gets there. */
const incarnationMax = 2 ** 48;

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
  /** Own facts of earlier runs on topics that this run has not published. */
  readonly #echoes = new Map<string, FactVersion>();
  #digest: Hash | null = null;
  #incarnation: number;
  #seq = 0;
  /** Counted, for metrics and tests. */
  rejected = 0;

  constructor(options: FactsOptions) {
    this.#options = options;
    this.#incarnation = options.incarnation;
  }

  get self(): NodeId {
    return this.#options.self;
  }

  /** Writes an own fact; null when the value is the one already published, 'too-large' when it is over `factBytesMax`. */
  publish(
    topic: string,
    value: unknown,
    now: { monotonicMs: number; wallMs: number },
  ): StoredFact | 'too-large' | null {
    const { self, config } = this.#options;
    invariant(topicPattern.test(topic), `'${topic}' is a topic`);
    const mine = this.#byOwner.get(self)?.get(topic);
    const body = encode(value);
    if (body.length > config.factBytesMax) return 'too-large';
    if (mine !== undefined && equalBytes(encode(mine.record.body), body)) return null;
    return this.#write(topic, value, Math.max(0, Math.round(now.wallMs)), now.monotonicMs);
  }

  #write(topic: string, body: unknown, at: number, bornMs: number): StoredFact {
    const { self, keys, clusterId } = this.#options;
    const record: FactRecord = {
      kind: 'fact',
      v: 1,
      clusterId,
      owner: keys.publicKey,
      topic,
      incarnation: this.#incarnation,
      seq: ++this.#seq,
      at,
      body,
    };
    const signed = seal(record, (bytes) => keys.sign(bytes));
    const stored: StoredFact = { signed, record, owner: self, bornMs };
    this.#echoes.delete(topic);
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
    const { config, clusterId, self } = this.#options;
    if (signed.length > config.factBytesMax + 1024) return this.#reject();
    const opened = openAs('fact', signed);
    if (opened === null || opened.record.clusterId !== clusterId) return this.#reject();
    const { record } = opened;
    if (!topicPattern.test(record.topic) || record.incarnation > incarnationMax)
      return this.#reject();
    const owner = hex(record.owner) as NodeId;
    if (!isMember(owner)) return 'stranger';
    const topics = this.#byOwner.get(owner);
    const known = topics?.get(record.topic);
    if (known !== undefined && !isNewer(record, known.record)) return 'known';
    const age = Number.isFinite(ageMs) && ageMs > 0 ? ageMs : 0;
    // Two hosts forget at slightly different moments: neither gives it back to the other.
    if (age >= config.deadFactRetentionMs) return 'known';
    if (known === undefined && (topics?.size ?? 0) >= topicsPerOwnerMax) return this.#reject();
    if (!this.#options.crypto.verify(record.owner, signedBytes(opened.payload), opened.signature))
      return this.#reject();
    if (owner === self) return this.#acceptOwn(record);
    const stored: StoredFact = { signed, record, owner, bornMs: nowMs - age };
    this.#store(stored);
    return stored;
  }

  /** Of an earlier run of ours. */
  #acceptOwn(record: FactRecord): FactOutcome {
    const mine = this.#byOwner.get(this.#options.self) ?? new Map<string, StoredFact>();
    const echo = this.#echoes.get(record.topic);
    if (echo !== undefined && !isNewer(record, versionOf(echo))) return 'known';
    if (!mine.has(record.topic) && mine.size + this.#echoes.size < topicsPerOwnerMax)
      this.#echoes.set(record.topic, [record.incarnation, record.seq]);
    this.#digest = null;
    if (record.incarnation < this.#incarnation) return 'known';
    this.#incarnation = record.incarnation + 1;
    for (const { record: old, bornMs } of Array.from(mine.values()))
      this.#write(old.topic, old.body, old.at, bornMs);
    return 'known';
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

  /** Drops owners that are no members any more, and facts older than the retention. */
  forget(nowMs: number, isMember: (node: NodeId) => boolean): void {
    const { self, config } = this.#options;
    for (const [owner, topics] of this.#byOwner) {
      if (owner === self) continue;
      const oldest = nowMs - config.deadFactRetentionMs;
      for (const [topic, fact] of topics) {
        if (isMember(owner) && fact.bornMs > oldest) continue;
        topics.delete(topic);
        this.#digest = null;
      }
      if (topics.size === 0) this.#byOwner.delete(owner);
    }
  }

  versions(): Record<string, Record<string, FactVersion>> {
    const out: Record<string, Record<string, FactVersion>> = {};
    for (const [owner, topics] of this.#byOwner) {
      const mine: Record<string, FactVersion> = {};
      for (const [topic, fact] of topics) mine[topic] = [fact.record.incarnation, fact.record.seq];
      out[owner] = mine;
    }
    if (this.#echoes.size > 0)
      out[this.#options.self] = {
        ...Object.fromEntries(this.#echoes),
        ...out[this.#options.self],
      };
    return out;
  }

  /** What `theirs` lacks or has older. */
  missingFrom(theirs: Record<string, Record<string, FactVersion>>): readonly StoredFact[] {
    const out: StoredFact[] = [];
    for (const [owner, topics] of this.#byOwner) {
      const known = Object.hasOwn(theirs, owner) ? (theirs[owner] ?? {}) : {};
      for (const [topic, fact] of topics) {
        const version = Object.hasOwn(known, topic) ? known[topic] : undefined;
        if (version === undefined || isNewer(fact.record, versionOf(version))) out.push(fact);
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

function versionOf([incarnation, seq]: FactVersion): { incarnation: number; seq: number } {
  return { incarnation, seq };
}

function toEntry(stored: StoredFact, nowMs: number): FactEntry {
  return {
    owner: stored.owner,
    topic: stored.record.topic,
    value: stored.record.body,
    ageMs: Math.max(0, nowMs - stored.bornMs),
  };
}
