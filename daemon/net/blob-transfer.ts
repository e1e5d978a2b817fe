/**
 * The Blobs of plugins: what is here, and fetching the rest from whoever has it.
 *
 * One transfer per blob, shared by everybody who asks; a bounded number at a time. A transfer takes the bytes from one
 * source after another, continuing where the last one stopped. Only the whole blob can be verified: when it turns out
 * wrong and several sources had a share, it is fetched again from one source at a time, so that the bad one is found
 * and avoided.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { Hash, NodeId } from '../../crdt/ids.ts';
import { ClusterError, invariant, reasonOf } from '../errors.ts';
import type { Log, Random } from '../ports.ts';
import type { BlobPeers } from './peer-network.ts';
import type { Blobs } from '../../plugins/api.ts';
import type { BlobPart, BlobStore, Collected } from '../store/blobs.ts';

/** Transfers at a time; others wait in order. */
const transfersMax = 3;
/** Peers asked at a time whether they have a blob. */
const askedTogetherMax = 8;
/** Rounds over all sources without one new byte. */
const fruitlessRoundsMax = 4;
const roundPauseMs = 1_000;
const progressEveryMs = 100;
/** Bad (blob, source) pairs that are remembered. */
const badPairsMax = 1_000;

export interface BlobTransferOptions {
  readonly store: BlobStore;
  readonly peers: BlobPeers;
  readonly random: Random;
  readonly log: Log;
}

type Progress = (doneBytes: number, totalBytes: number) => void;

interface Transfer {
  readonly done: Promise<string>;
  readonly stop: AbortController;
  readonly listeners: Set<Progress>;
  waiters: number;
}

interface Source {
  readonly node: NodeId;
  readonly sizeBytes: number;
}

export class BlobTransfer implements Blobs {
  readonly #options: BlobTransferOptions;
  readonly #transfers = new Map<Hash, Transfer>();
  readonly #bad = new Set<string>();
  readonly #queue: (() => void)[] = [];
  #running = 0;
  /** Bytes that came over the network and were kept; for metrics. */
  fetchedBytes = 0;

  /** Serves this host's blobs from now on. */
  constructor(options: BlobTransferOptions) {
    this.#options = options;
    options.peers.serve(options.store);
  }

  has(hash: Hash): boolean {
    return this.#options.store.has(hash);
  }

  path(hash: Hash): string | null {
    return this.#options.store.path(hash);
  }

  put(bytes: AsyncIterable<Uint8Array> | Uint8Array): Promise<{ hash: Hash; sizeBytes: number }> {
    return this.#options.store.put(bytes);
  }

  /** Blobs being fetched are never collected. */
  collect(isReferenced: (hash: Hash) => boolean, graceMs: number): Promise<Collected> {
    return this.#options.store.collect(
      (hash) => this.#transfers.has(hash) || isReferenced(hash),
      graceMs,
    );
  }

  /** Resolves to the file. Rejects BLOB_UNAVAILABLE, DISK_FULL, or with the signal's reason; the part is kept. */
  async fetch(
    hash: Hash,
    options: { readonly signal?: AbortSignal; readonly onProgress?: Progress } = {},
  ): Promise<string> {
    const here = this.#options.store.path(hash);
    if (here !== null) return here;
    const { signal, onProgress } = options;
    signal?.throwIfAborted();
    // One that is being stopped still holds the part.
    for (
      let old = this.#transfers.get(hash);
      old?.stop.signal.aborted === true;
      old = this.#transfers.get(hash)
    ) {
      await Promise.allSettled([old.done]);
    }
    const transfer = this.#transfers.get(hash) ?? this.#begin(hash);
    transfer.waiters++;
    if (onProgress !== undefined) transfer.listeners.add(onProgress);
    const aborted = Promise.withResolvers<never>();
    const onAbort = (): void => aborted.reject(signal?.reason as Error);
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await Promise.race([transfer.done, aborted.promise]);
    } finally {
      signal?.removeEventListener('abort', onAbort);
      if (onProgress !== undefined) transfer.listeners.delete(onProgress);
      if (--transfer.waiters === 0) transfer.stop.abort(new Error('nobody waits for it any more'));
    }
  }

  #begin(hash: Hash): Transfer {
    const stop = new AbortController();
    const listeners = new Set<Progress>();
    const done = this.#run(hash, stop.signal, listeners).finally(() => {
      if (this.#transfers.get(hash)?.done === done) this.#transfers.delete(hash);
    });
    // Its rejection belongs to those who wait; when the last one has left there is nobody to tell.
    done.catch((error: unknown) =>
      this.#options.log.debug('blobs.fetch-failed', { hash, reason: reasonOf(error) }),
    );
    const transfer: Transfer = { done, stop, listeners, waiters: 0 };
    this.#transfers.set(hash, transfer);
    return transfer;
  }

  async #run(hash: Hash, signal: AbortSignal, listeners: ReadonlySet<Progress>): Promise<string> {
    await this.#takeTurn(signal);
    try {
      const part = await this.#options.store.openPart(hash);
      let isWanted = true;
      try {
        await this.#fill(hash, part, signal, throttled(listeners));
        isWanted = false;
      } finally {
        await part.close(isWanted && part.size > 0);
      }
      const path = this.#options.store.path(hash);
      invariant(path !== null, 'a finished part is in place');
      return path;
    } finally {
      this.#running--;
      this.#queue.shift()?.();
    }
  }

  /** Until the blob is in place. */
  async #fill(hash: Hash, part: BlobPart, signal: AbortSignal, progress: Progress): Promise<void> {
    let isOneSourceOnly = false;
    for (let fruitless = 0; fruitless < fruitlessRoundsMax; fruitless++) {
      if (fruitless > 0) await pause(roundPauseMs, undefined, { signal });
      const contributors = new Set<NodeId | 'earlier run'>(part.size > 0 ? ['earlier run'] : []);
      for (const source of await this.#sources(hash, signal)) {
        if (isOneSourceOnly && part.size > 0) {
          await part.reset();
          contributors.clear();
        }
        const before = part.size;
        const isWhole = await this.#take(hash, source, part, signal, progress);
        if (part.size > before) {
          contributors.add(source.node);
          // Alone, a source that breaks off again and again makes no progress: the next one begins at 0.
          if (!isOneSourceOnly) fruitless = 0;
        }
        if (!isWhole) continue;
        if (await part.finish()) return;
        isOneSourceOnly = true;
        this.#blame(hash, contributors);
        contributors.clear();
      }
    }
    throw new ClusterError('BLOB_UNAVAILABLE', { hash });
  }

  /** True when every byte has arrived. */
  async #take(
    hash: Hash,
    source: Source,
    part: BlobPart,
    signal: AbortSignal,
    progress: Progress,
  ): Promise<boolean> {
    if (part.size > source.sizeBytes) await part.reset();
    await part.reserve(source.sizeBytes);
    progress(part.size, source.sizeBytes);
    if (part.size === source.sizeBytes) return true;
    try {
      for await (const chunk of this.#options.peers.read(source.node, hash, part.size, signal)) {
        await part.append(chunk);
        this.fetchedBytes += chunk.length;
        progress(part.size, source.sizeBytes);
      }
      return part.size === source.sizeBytes;
    } catch (error) {
      if (signal.aborted || (error instanceof ClusterError && error.code === 'DISK_FULL'))
        throw error;
      // The next source goes on where this one stopped.
      this.#options.log.info('blobs.source-failed', {
        hash,
        source: source.node,
        reason: reasonOf(error),
      });
      return false;
    }
  }

  /** Connected peers that have it, in random order, known bad ones left out. */
  async #sources(hash: Hash, signal: AbortSignal): Promise<Source[]> {
    const peers = this.#shuffled(
      this.#options.peers.connected().filter((node) => !this.#bad.has(`${hash} ${node}`)),
    );
    const found: Source[] = [];
    for (let i = 0; i < peers.length && found.length < 2; i += askedTogetherMax) {
      const asked = peers.slice(i, i + askedTogetherMax);
      const answers = await Promise.all(asked.map((node) => this.#ask(node, hash, signal)));
      for (const answer of answers) if (answer !== null) found.push(answer);
    }
    signal.throwIfAborted();
    if (found.length === 0) throw new ClusterError('BLOB_UNAVAILABLE', { hash });
    return found;
  }

  async #ask(node: NodeId, hash: Hash, signal: AbortSignal): Promise<Source | null> {
    try {
      const sizeBytes = (await this.#options.peers.have(node, [hash], signal)).get(hash);
      return sizeBytes === undefined ? null : { node, sizeBytes };
    } catch (error) {
      // A peer that went away does not have it either.
      this.#options.log.debug('blobs.ask-failed', { node, reason: reasonOf(error) });
      return null;
    }
  }

  /** Only when a single source gave everything is it known who is wrong. */
  #blame(hash: Hash, contributors: ReadonlySet<NodeId | 'earlier run'>): void {
    const [only] = contributors;
    this.#options.log.warn('blobs.corrupt', { hash, sources: [...contributors] });
    if (contributors.size !== 1 || only === undefined || only === 'earlier run') return;
    if (this.#bad.size >= badPairsMax) this.#bad.clear();
    this.#bad.add(`${hash} ${only}`);
  }

  #shuffled(nodes: readonly NodeId[]): NodeId[] {
    return nodes
      .map((node) => ({ node, at: this.#options.random.next() }))
      .toSorted((a, b) => a.at - b.at)
      .map(({ node }) => node);
  }

  async #takeTurn(signal: AbortSignal): Promise<void> {
    while (this.#running >= transfersMax) {
      signal.throwIfAborted();
      const turn = Promise.withResolvers<void>();
      const onAbort = (): void => {
        // Not to be woken in place of somebody who still waits.
        const at = this.#queue.indexOf(turn.resolve);
        if (at !== -1) this.#queue.splice(at, 1);
        turn.reject(signal.reason as Error);
      };
      this.#queue.push(turn.resolve);
      signal.addEventListener('abort', onAbort, { once: true });
      try {
        await turn.promise;
      } finally {
        signal.removeEventListener('abort', onAbort);
      }
    }
    this.#running++;
  }
}

/** Tells listeners now and then, and of the first and the last byte. */
function throttled(listeners: ReadonlySet<Progress>): Progress {
  let lastMs = -Infinity;
  return (doneBytes, totalBytes) => {
    const nowMs = performance.now();
    if (doneBytes < totalBytes && nowMs - lastMs < progressEveryMs) return;
    lastMs = nowMs;
    for (const listener of listeners) listener(doneBytes, totalBytes);
  };
}
