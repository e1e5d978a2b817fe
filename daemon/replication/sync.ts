/**
 * How records spread: rumours are a hint, anti-entropy is what is trusted.
 *
 * A new record is pushed at once to a few peers, who push it on if it was new to them. Whatever gets lost on the way is
 * found by comparing digests: on connect and every few seconds with one random peer; if they differ both say what they
 * have, plane by plane, and each pushes what the other lacks. That exchange alone can rebuild everything, in the order
 * roster, cluster document, other documents, facts, plans.
 *
 * What we changed from push-pull gossip as usually described: no re-broadcast on merge (a record that was known is
 * silent), exchanges are bounded per frame and continue while `more` is set, and digests are exact (a hash over versions)
 * rather than probabilistic, since a cluster has thousands of records, not millions.
 */
import { compareText, encode } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, Hash, NodeId } from '../../crdt/ids.ts';
import type { SignedBytes } from '../../crdt/records.ts';
import type { Config } from '../config.ts';
import type { Crypto, Network, Random } from '../ports.ts';
import type { ChainHeads, Documents, Entry } from './documents.ts';
import type { Facts, StoredFact } from './facts.ts';
import type { Plans } from './plans.ts';
import type { Roster } from './roster.ts';
import { encodeMessage } from './wire.ts';
import type { DetailMessage, Message, PushMessage, SummaryMessage } from './wire.ts';

/** Somebody waits; more often would only be traffic. */
const askIntervalMs = 100;
/** Payload of one push frame; several frames answer one detail message. */
const pushBytesMax = 256 << 10;
const pushFramesMax = 16;
/** How long a peer's last summary is believed. */
const summaryFreshMs = 60_000;

export interface SyncOptions {
  readonly clusterId: ClusterId;
  readonly config: Config;
  readonly network: Network;
  readonly random: Random;
  readonly crypto: Crypto;
  readonly roster: Roster;
  readonly documents: Documents;
  readonly facts: Facts;
  readonly plans: Plans;
  /** Applies what a peer pushed; returns what was new here, to be passed on. */
  take(from: NodeId, push: PushMessage): Rumour;
}

/** New records, to be told to others. */
export interface Rumour {
  readonly r?: readonly SignedBytes[];
  readonly e?: readonly Entry[];
  readonly f?: readonly StoredFact[];
  readonly p?: readonly SignedBytes[];
}

export class Sync {
  readonly #options: SyncOptions;
  /** What each peer said it has: tells how far an edit has spread without asking. */
  readonly #summaries = new Map<
    NodeId,
    { readonly docs: Record<string, Hash>; readonly atMs: number }
  >();
  readonly #askedMs = new Map<NodeId, number>();
  #nextRoundMs = 0;

  constructor(options: SyncOptions) {
    this.#options = options;
  }

  /** Starts a round when it is due; returns when to call again. */
  tick(nowMs: number): number {
    if (nowMs >= this.#nextRoundMs) {
      const peers = this.#options.network.connected().toSorted(compareText);
      const peer = peers[Math.floor(this.#options.random.next() * peers.length)];
      if (peer !== undefined) this.#send(peer, this.summary());
      this.#askForPlanBlobs(peers);
      const jitter = 0.75 + 0.5 * this.#options.random.next();
      this.#nextRoundMs = nowMs + this.#options.config.syncIntervalMs * jitter;
    }
    return this.#nextRoundMs;
  }

  nextDeadlineMs(): number {
    return this.#nextRoundMs;
  }

  onPeer(peer: NodeId, isConnected: boolean): void {
    if (isConnected) this.#send(peer, this.summary());
    else {
      this.#summaries.delete(peer);
      this.#askedMs.delete(peer);
    }
  }

  /** Tells new records to others; never back to `except`. */
  spread(rumour: Rumour, nowMs: number, except: NodeId | null): void {
    const push: PushMessage = {
      t: 'push',
      ...(rumour.r?.length ? { r: rumour.r } : {}),
      ...(rumour.e?.length ? { e: rumour.e.map((entry) => entry.signed) } : {}),
      ...(rumour.f?.length ? { f: rumour.f.map((fact) => aged(fact, nowMs)) } : {}),
      ...(rumour.p?.length ? { p: rumour.p } : {}),
    };
    if (Object.keys(push).length === 1) return;
    const frame = encodeMessage(this.#options.clusterId, push);
    // Too large for a rumour: anti-entropy brings it in pieces.
    const targets = this.#targets(except);
    if (frame.length > pushBytesMax * 2)
      for (const peer of targets) this.#send(peer, this.summary());
    else for (const peer of targets) this.#options.network.send(peer, frame);
  }

  onMessage(from: NodeId, message: Exclude<Message, { t: 'swim' }>, nowMs: number): void {
    switch (message.t) {
      case 'push': {
        const news = this.#options.take(from, message);
        this.spread(news, nowMs, from);
        // Without news it would send the same again at once, and so for ever; the next round is soon enough.
        if (message.more === true && hasNews(news)) this.#send(from, this.summary());
        this.#askForPlanBlobs([from]);
        return;
      }
      case 'sum':
        this.#onSummary(from, message, nowMs);
        return;
      case 'det':
        this.#onDetail(from, message, nowMs);
        return;
      case 'want': {
        const part = this.#options.plans.part(message.h, message.o);
        if (part !== null)
          this.#send(from, { t: 'part', h: message.h, o: message.o, n: part.total, b: part.bytes });
        return;
      }
      case 'part': {
        const outcome = this.#options.plans.takePart(message.h, message.o, message.n, message.b);
        if (outcome === 'waiting-for-blobs') this.#askForPlanBlobs([from]);
        if (outcome === 'adopted' || outcome === 'refused') this.#options.take(from, { t: 'push' });
        return;
      }
    }
  }

  /** Does this peer have everything of a document that we have? Null: not heard lately. */
  hasDocument(peer: NodeId, doc: string, nowMs: number): boolean | null {
    const summary = this.#summaries.get(peer);
    if (summary === undefined || nowMs - summary.atMs > summaryFreshMs) return null;
    return summary.docs[doc] === this.#docDigest(doc);
  }

  /** Asks these peers for their state now (`--wait`), each at most every `askIntervalMs`. */
  ask(peers: readonly NodeId[], nowMs: number): void {
    for (const peer of peers) {
      if (nowMs - (this.#askedMs.get(peer) ?? -Infinity) < askIntervalMs) continue;
      this.#askedMs.set(peer, nowMs);
      this.#send(peer, { ...this.summary(), ask: true });
    }
  }

  summary(): SummaryMessage {
    const { roster, documents, facts, plans } = this.#options;
    const docs: Record<string, Hash> = {};
    for (const doc of documents.names()) {
      const heads = documents.chainHeads(doc);
      // One that was only looked at is as if it were not there: others may not have looked.
      if (Object.keys(heads).length > 0) docs[doc] = digestOf(heads, this.#options.crypto);
    }
    return { t: 'sum', r: roster.digest(), d: docs, f: facts.digest(), p: plans.heads() };
  }

  // ---- Answers ------------------------------------------------------------------------------------------------

  #onSummary(from: NodeId, theirs: SummaryMessage, nowMs: number): void {
    this.#summaries.set(from, { docs: theirs.d, atMs: nowMs });
    // Who agrees has nothing to say; who was asked says so.
    if (theirs.ask === true) this.#send(from, this.summary());
    const detail = this.#detail(theirs, false);
    if (detail !== null) this.#send(from, detail);
  }

  /** What we have of every plane that differs from `theirs`; null when all agree. */
  #detail(theirs: SummaryMessage, back: boolean): DetailMessage | null {
    const { roster, documents, facts, plans } = this.#options;
    const mine = this.summary();
    const names = [...new Set([...Object.keys(theirs.d), ...Object.keys(mine.d)])].slice(0, 64);
    const docs = names.filter((doc) => theirs.d[doc] !== mine.d[doc]);
    const isPlanSame = encode(theirs.p).join() === encode(mine.p).join();
    if (theirs.r === mine.r && theirs.f === mine.f && docs.length === 0 && isPlanSame) return null;
    return {
      t: 'det',
      back,
      ...(theirs.r === mine.r ? {} : { r: shortHashes(roster) }),
      ...(docs.length === 0
        ? {}
        : { d: Object.fromEntries(docs.map((doc) => [doc, documents.chainHeads(doc)])) }),
      ...(theirs.f === mine.f ? {} : { f: facts.versions() }),
      ...(isPlanSame ? {} : { p: plans.heads() }),
    };
  }

  /** Pushes what the sender lacks; asks in kind for what we lack. */
  #onDetail(from: NodeId, theirs: DetailMessage, nowMs: number): void {
    const { roster, documents, facts, plans } = this.#options;
    const packer = new Packer((push) => this.#send(from, push));
    if (theirs.r !== undefined) {
      const known = new Set(splitShort(theirs.r));
      for (const [hash, signed] of roster.records())
        if (!known.has(hash.slice(0, 16))) packer.add('r', signed);
    }
    for (const [doc, heads] of Object.entries(theirs.d ?? {}).toSorted(clusterFirst)) {
      for (const entry of documents.missingFrom(doc, heads, 10_000)) packer.add('e', entry.signed);
    }
    if (theirs.f !== undefined) {
      for (const fact of facts.missingFrom(theirs.f)) packer.add('f', aged(fact, nowMs));
    }
    if (theirs.p !== undefined) {
      for (const env of plans.environments()) {
        const plan = plans.current(env);
        const known = Object.hasOwn(theirs.p, env) ? theirs.p[env] : undefined;
        if (plan !== null && known !== plan.hash) packer.add('p', plan.signed);
      }
    }
    packer.flush();
    if (!theirs.back) this.#answerInKind(from, theirs);
  }

  /** Our side of the planes that the sender said differ, so that it can push what we lack. */
  #answerInKind(from: NodeId, theirs: DetailMessage): void {
    const { roster, documents, facts, plans } = this.#options;
    const docs = Object.keys(theirs.d ?? {}).slice(0, 64);
    this.#send(from, {
      t: 'det',
      back: true,
      ...(theirs.r === undefined ? {} : { r: shortHashes(roster) }),
      ...(theirs.d === undefined
        ? {}
        : { d: Object.fromEntries(docs.map((doc) => [doc, documents.chainHeads(doc)])) }),
      ...(theirs.f === undefined ? {} : { f: facts.versions() }),
      ...(theirs.p === undefined ? {} : { p: plans.heads() }),
    });
  }

  #askForPlanBlobs(peers: readonly NodeId[]): void {
    for (const want of this.#options.plans.wanted()) {
      const peer = peers[Math.floor(this.#options.random.next() * peers.length)];
      if (peer !== undefined) this.#send(peer, { t: 'want', h: want.hash, o: want.offset });
    }
  }

  /** Everyone in a small cluster; otherwise the ring neighbour (so that nobody is left out for long) and a few at random. */
  #targets(except: NodeId | null): readonly NodeId[] {
    const { network, config, random } = this.#options;
    const peers = network
      .connected()
      .filter((peer) => peer !== except)
      .toSorted(compareText);
    if (peers.length <= config.floodPeersMax) return peers;
    const chosen = new Set<NodeId>();
    const next = peers.find((peer) => peer > this.#options.facts.self) ?? peers[0];
    if (next !== undefined) chosen.add(next);
    while (chosen.size < Math.min(config.rumourFanout, peers.length)) {
      const peer = peers[Math.floor(random.next() * peers.length)];
      if (peer !== undefined) chosen.add(peer);
    }
    return [...chosen];
  }

  #docDigest(doc: string): Hash {
    return digestOf(this.#options.documents.chainHeads(doc), this.#options.crypto);
  }

  #send(peer: NodeId, message: Message): void {
    this.#options.network.send(peer, encodeMessage(this.#options.clusterId, message));
  }
}

function hasNews(rumour: Rumour): boolean {
  return [rumour.r, rumour.e, rumour.f, rumour.p].some((plane) => (plane?.length ?? 0) > 0);
}

/** Fills push frames up to their size; the last one says whether anything was left out. */
class Packer {
  readonly #send: (push: PushMessage) => void;
  #bytes = 0;
  #frames = 0;
  #push: { r: SignedBytes[]; e: SignedBytes[]; f: [SignedBytes, number][]; p: SignedBytes[] } =
    emptyPush();

  constructor(send: (push: PushMessage) => void) {
    this.#send = send;
  }

  add(plane: 'r' | 'e' | 'p', item: SignedBytes): void;
  add(plane: 'f', item: readonly [SignedBytes, number]): void;
  add(plane: 'r' | 'e' | 'p' | 'f', item: SignedBytes | readonly [SignedBytes, number]): void {
    if (this.#frames >= pushFramesMax) return;
    const bytes = item instanceof Uint8Array ? item : item[0];
    if (this.#bytes > 0 && this.#bytes + bytes.length > pushBytesMax)
      this.#emit(this.#frames + 1 >= pushFramesMax);
    if (this.#frames >= pushFramesMax) return;
    (this.#push[plane] as unknown[]).push(item);
    this.#bytes += bytes.length;
  }

  flush(): void {
    if (this.#bytes > 0) this.#emit(false);
  }

  #emit(isMore: boolean): void {
    this.#send({ t: 'push', ...this.#push, ...(isMore ? { more: true } : {}) });
    this.#push = emptyPush();
    this.#bytes = 0;
    this.#frames++;
  }
}

function emptyPush(): {
  r: SignedBytes[];
  e: SignedBytes[];
  f: [SignedBytes, number][];
  p: SignedBytes[];
} {
  return { r: [], e: [], f: [], p: [] };
}

export function digestOf(heads: ChainHeads, crypto: Crypto): Hash {
  return hex(crypto.sha256(encode(heads))) as Hash;
}

function aged(fact: StoredFact, nowMs: number): [SignedBytes, number] {
  return [fact.signed, Math.max(0, Math.round(nowMs - fact.bornMs))];
}

function shortHashes(roster: Roster): Uint8Array {
  const out = new Uint8Array(roster.records().size * 8);
  let offset = 0;
  for (const hash of roster.records().keys()) {
    for (let i = 0; i < 8; i++) out[offset + i] = Number.parseInt(hash.slice(2 * i, 2 * i + 2), 16);
    offset += 8;
  }
  return out;
}

function splitShort(bytes: Uint8Array): readonly string[] {
  const out: string[] = [];
  for (let offset = 0; offset + 8 <= bytes.length; offset += 8)
    out.push(hex(bytes.subarray(offset, offset + 8)));
  return out;
}

function clusterFirst([a]: readonly [string, unknown], [b]: readonly [string, unknown]): number {
  return Number(b === 'cluster') - Number(a === 'cluster') || compareText(a, b);
}
