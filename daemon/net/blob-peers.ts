/**
 * Blobs between members: which of these do you have, and bytes from an offset on. Both are one request on a stream of
 * its own. The sender is paced over all transfers together. Nothing is verified here: `store/blobs.ts` does.
 */
import { decode, encode } from '../../crdt/codec.ts';
import type { Hash, NodeId } from '../../crdt/ids.ts';
import { ClusterError } from '../errors.ts';
import type { Log } from '../ports.ts';
import type { Bulk } from './bulk.ts';
import { FramedStream } from './framed-stream.ts';
import type { Pacer } from './pacer.ts';
import type { BlobPeers, BlobSource, NetworkLimits } from './peer-network.ts';
import type { Stream } from '@libp2p/interface';

/** Requests and the answers to `have`. */
const headBytesMax = 256 << 10;
const answerTimeoutMs = 10_000;
/** Between two chunks; a slower source is given up and another one asked. */
const chunkTimeoutMs = 15_000;

export interface BlobPeersOptions {
  readonly bulk: Bulk;
  readonly protocol: string;
  /** Shared with copies of storage. */
  readonly pacer: Pacer;
  readonly limits: NetworkLimits;
  readonly log: Log;
  readonly connected: () => readonly NodeId[];
}

export class StreamBlobPeers implements BlobPeers {
  readonly #options: BlobPeersOptions;
  #source: BlobSource | null = null;

  constructor(options: BlobPeersOptions) {
    this.#options = options;
  }

  connected(): readonly NodeId[] {
    return this.#options.connected();
  }

  serve(source: BlobSource): void {
    this.#source = source;
  }

  async have(
    node: NodeId,
    hashes: readonly Hash[],
    signal?: AbortSignal,
  ): Promise<ReadonlyMap<Hash, number>> {
    const asked = hashes.slice(0, this.#options.limits.blobHashesMax);
    return this.#request(node, { op: 'have', hashes: asked }, signal, async (framed) => {
      const answer = await this.#answer(framed, answerTimeoutMs, signal);
      const sizes = Array.isArray(answer['sizes']) ? (answer['sizes'] as unknown[]) : [];
      const found = new Map<Hash, number>();
      asked.forEach((hash, i) => {
        const size = sizes[i];
        if (typeof size === 'number' && Number.isSafeInteger(size) && size >= 0)
          found.set(hash, size);
      });
      return found;
    });
  }

  async *read(
    node: NodeId,
    hash: Hash,
    offset: number,
    signal?: AbortSignal,
  ): AsyncIterable<Uint8Array> {
    const { bulk } = this.#options;
    const { stream, framed } = await this.#open(node, { op: 'get', hash, offset }, signal);
    try {
      const { size } = await this.#answer(framed, answerTimeoutMs, signal);
      if (typeof size !== 'number') throw new ClusterError('BLOB_UNAVAILABLE', { hash });
      for (let at = offset; at < size;) {
        const chunk = await framed.next(within(chunkTimeoutMs, signal));
        if (chunk === null) throw new Error('the transfer ended early');
        at += chunk.length;
        if (at > size) throw new Error('more bytes came than were announced');
        yield chunk;
      }
      await framed.close(AbortSignal.timeout(answerTimeoutMs));
    } catch (error) {
      if (signal?.aborted === true) throw signal.reason;
      throw bulk.unreachable(node, error);
    } finally {
      // Also when the consumer stopped early: the sender must not go on. No effect on a closed stream.
      stream.abort(new Error('transfer given up'));
    }
  }

  /** Serves one request; never rejects. */
  async answer(from: NodeId, stream: Stream): Promise<void> {
    const framed = new FramedStream(stream, headBytesMax);
    try {
      const frame = await framed.next(AbortSignal.timeout(answerTimeoutMs));
      const request = (frame === null ? null : decode(frame)) as Record<string, unknown> | null;
      if (request?.['op'] === 'have') await this.#answerHave(framed, request['hashes']);
      else if (request?.['op'] === 'get') await this.#answerGet(framed, request);
      else throw new Error('no such request');
      await framed.close(AbortSignal.timeout(answerTimeoutMs));
    } catch (error) {
      this.#options.log.debug('net.blob-request-failed', { from, error });
      stream.abort(error instanceof Error ? error : new Error(String(error)));
    }
  }

  async #answerHave(framed: FramedStream, hashes: unknown): Promise<void> {
    const list = Array.isArray(hashes) ? hashes.slice(0, this.#options.limits.blobHashesMax) : [];
    const sizes = list.map((hash) => (isHash(hash) ? (this.#source?.size(hash) ?? null) : null));
    await framed.send([encode({ sizes })], answerTimeoutMs);
  }

  async #answerGet(framed: FramedStream, request: Record<string, unknown>): Promise<void> {
    const { hash, offset } = request;
    const size = isHash(hash) ? (this.#source?.size(hash) ?? null) : null;
    const isRange = typeof offset === 'number' && Number.isSafeInteger(offset) && offset >= 0;
    if (!isHash(hash) || size === null || !isRange || offset > size || this.#source === null) {
      return framed.send([encode({ error: 'absent' })], answerTimeoutMs);
    }
    await framed.send([encode({ size })], answerTimeoutMs);
    for await (const chunk of this.#source.read(hash, offset)) {
      if (framed.ended.aborted) return;
      await this.#options.pacer.take(chunk.length, framed.ended);
      await framed.send([chunk], chunkTimeoutMs);
    }
  }

  async #request<T>(
    node: NodeId,
    request: { readonly op: 'have' | 'get' } & Record<string, unknown>,
    signal: AbortSignal | undefined,
    use: (framed: FramedStream) => Promise<T>,
  ): Promise<T> {
    const { stream, framed } = await this.#open(node, request, signal);
    try {
      const result = await use(framed);
      await framed.close(AbortSignal.timeout(answerTimeoutMs));
      return result;
    } catch (error) {
      stream.abort(new Error('request given up'));
      if (signal?.aborted === true) throw signal.reason;
      throw this.#options.bulk.unreachable(node, error);
    }
  }

  async #open(
    node: NodeId,
    request: { readonly op: 'have' | 'get' } & Record<string, unknown>,
    signal: AbortSignal | undefined,
  ): Promise<{ stream: Stream; framed: FramedStream }> {
    const { bulk, protocol, limits } = this.#options;
    const stream = await bulk.openStream(node, protocol, {
      signal,
      isSmall: request.op === 'have',
    });
    const framed = new FramedStream(stream, Math.max(headBytesMax, 2 * limits.blobChunkBytes));
    try {
      await framed.send([encode(request)], answerTimeoutMs);
    } catch (error) {
      stream.abort(new Error('request given up'));
      throw bulk.unreachable(node, error);
    }
    return { stream, framed };
  }

  async #answer(
    framed: FramedStream,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<Record<string, unknown>> {
    const frame = await framed.next(within(timeoutMs, signal));
    if (frame === null) throw new Error('it closed the request without an answer');
    return (decode(frame) ?? {}) as Record<string, unknown>;
  }
}

function isHash(value: unknown): value is Hash {
  return typeof value === 'string' && /^[0-9a-f]{64}$/.test(value);
}

function within(timeoutMs: number, signal?: AbortSignal): AbortSignal {
  const limit = AbortSignal.timeout(timeoutMs);
  return signal === undefined ? limit : AbortSignal.any([limit, signal]);
}
