/**
 * Calls (one request, one reply) and message streams between members. A reply is one byte, 0 for a result or 1 for an
 * error, and then the bytes, or the error's code and details in CBOR.
 */
import { decode, encode } from '../../crdt/codec.ts';
import type { NodeId } from '../../crdt/ids.ts';
import { asClusterError, ClusterError, errorTable, reasonOf } from '../errors.ts';
import type { ErrorCode, ErrorDetails } from '../errors.ts';
import type { Log } from '../ports.ts';
import type { Bulk } from './bulk.ts';
import { FramedStream } from './framed-stream.ts';
import type { Pacer } from './pacer.ts';
import type { CallOptions, MessageStream, StreamPurpose } from './peer-network.ts';
import type { Stream } from '@libp2p/interface';

const callTimeoutMs = 30_000;
const closeTimeoutMs = 5_000;
/** A reader that takes nothing for so long is gone. */
const sendStallMs = 60_000;
/** The request must follow the opening of its stream within this time. */
const requestTimeoutMs = 10_000;

export type CallHandler = (
  from: NodeId,
  request: Uint8Array,
  signal: AbortSignal,
) => Promise<Uint8Array>;
export type StreamHandler = (from: NodeId, stream: MessageStream) => Promise<void>;

export interface RpcOptions {
  readonly bulk: Bulk;
  readonly callProtocol: string;
  readonly streamProtocols: Readonly<Record<StreamPurpose, string>>;
  /** Shared with everything else that is large. */
  readonly pacer: Pacer;
  readonly frameBytesMax: number;
  readonly log: Log;
}

export class Rpc {
  readonly #options: RpcOptions;
  #onCall: CallHandler | null = null;
  readonly #onStream = new Map<StreamPurpose, StreamHandler>();

  constructor(options: RpcOptions) {
    this.#options = options;
  }

  onCall(handle: CallHandler): void {
    this.#onCall = handle;
  }

  onStream(handle: StreamHandler, purpose: StreamPurpose): void {
    this.#onStream.set(purpose, handle);
  }

  async call(node: NodeId, request: Uint8Array, options: CallOptions = {}): Promise<Uint8Array> {
    const { bulk, callProtocol, frameBytesMax } = this.#options;
    if (request.length > frameBytesMax) {
      throw new ClusterError('INVALID', {
        reason: `a request of ${request.length} bytes is over ${frameBytesMax}`,
      });
    }
    const timeoutMs = options.timeoutMs ?? callTimeoutMs;
    const limit = AbortSignal.timeout(timeoutMs);
    const signal = options.signal === undefined ? limit : AbortSignal.any([limit, options.signal]);
    const stream = await bulk.openStream(node, callProtocol, { signal: options.signal });
    try {
      const framed = new FramedStream(stream, frameBytesMax + 1);
      await framed.send([request], timeoutMs);
      const reply = await framed.next(signal);
      if (reply === null) throw new Error('it closed the call without a reply');
      await stream.close({ signal: AbortSignal.timeout(closeTimeoutMs) });
      return openReply(reply);
    } catch (error) {
      stream.abort(new Error('call given up'));
      if (options.signal?.aborted === true) throw options.signal.reason;
      if (!limit.aborted) throw bulk.unreachable(node, error);
      const details = {
        what: `a call of host ${node}`,
        seconds: timeoutMs / 1_000,
        todo: 'try again',
      };
      throw new ClusterError('TIMED_OUT', details, error);
    }
  }

  async openStream(
    node: NodeId,
    purpose: StreamPurpose,
    signal?: AbortSignal,
  ): Promise<MessageStream> {
    const { bulk, streamProtocols } = this.#options;
    const stream = await bulk.openStream(node, streamProtocols[purpose], { signal });
    return this.#messages(node, stream, purpose);
  }

  /** Serves one call; never rejects. */
  async serveCall(from: NodeId, stream: Stream): Promise<void> {
    const framed = new FramedStream(stream, this.#options.frameBytesMax);
    try {
      const request = await framed.next(AbortSignal.timeout(requestTimeoutMs));
      if (request === null) return stream.abort(new Error('no request'));
      const reply = await this.#answer(from, request, framed.ended);
      await framed.send([reply], sendStallMs);
      await framed.close(AbortSignal.timeout(closeTimeoutMs));
    } catch (error) {
      this.#options.log.debug('net.call-lost', { from, error });
      stream.abort(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** Serves one message stream; never rejects. */
  async serveStream(from: NodeId, stream: Stream, purpose: StreamPurpose): Promise<void> {
    const messages = this.#messages(from, stream, purpose);
    const handle = this.#onStream.get(purpose);
    if (handle === undefined) return messages.abort('no handler');
    try {
      await handle(from, messages);
      await messages.close();
    } catch (error) {
      this.#options.log.debug('net.stream-failed', { from, error });
      messages.abort(reasonOf(error));
    }
  }

  #messages(node: NodeId, stream: Stream, purpose: StreamPurpose): PeerMessages {
    const { bulk, frameBytesMax, pacer } = this.#options;
    return new PeerMessages(node, stream, {
      bulk,
      frameBytesMax,
      pacer: purpose === 'copies' ? pacer : null,
    });
  }

  async #answer(from: NodeId, request: Uint8Array, ended: AbortSignal): Promise<Uint8Array> {
    try {
      if (this.#onCall === null) throw new ClusterError('DAEMON_STARTING');
      return tagged(0, await this.#onCall(from, request, ended));
    } catch (error) {
      const { code, details } = asClusterError(error);
      if (code === 'INTERNAL') this.#options.log.error('net.call-failed', { from, error });
      return tagged(1, encode({ code, details: plain(details) }));
    }
  }
}

class PeerMessages implements MessageStream {
  readonly peer: NodeId;
  readonly messages: AsyncIterable<Uint8Array>;
  readonly #stream: Stream;
  readonly #framed: FramedStream;
  readonly #bulk: Bulk;
  readonly #frameBytesMax: number;
  readonly #pacer: Pacer | null;

  constructor(
    peer: NodeId,
    stream: Stream,
    options: { readonly bulk: Bulk; readonly frameBytesMax: number; readonly pacer: Pacer | null },
  ) {
    this.peer = peer;
    this.#stream = stream;
    this.#bulk = options.bulk;
    this.#frameBytesMax = options.frameBytesMax;
    this.#pacer = options.pacer;
    this.#framed = new FramedStream(stream, options.frameBytesMax);
    this.messages = this.#read();
  }

  get ended(): AbortSignal {
    return this.#framed.ended;
  }

  async send(message: Uint8Array): Promise<void> {
    if (message.length > this.#frameBytesMax) {
      throw new ClusterError('INVALID', {
        reason: `a message of ${message.length} bytes is over ${this.#frameBytesMax}`,
      });
    }
    try {
      await this.#pacer?.take(message.length, this.ended);
      await this.#framed.send([message], sendStallMs);
    } catch (error) {
      throw this.#bulk.unreachable(this.peer, error);
    }
  }

  async close(): Promise<void> {
    try {
      await this.#framed.close(AbortSignal.timeout(closeTimeoutMs));
    } catch (error) {
      throw this.#bulk.unreachable(this.peer, error);
    }
  }

  abort(reason: string): void {
    this.#stream.abort(new Error(reason));
  }

  async *#read(): AsyncIterable<Uint8Array> {
    for (;;) {
      let message: Uint8Array | null;
      try {
        message = await this.#framed.next();
      } catch (error) {
        throw this.#bulk.unreachable(this.peer, error);
      }
      if (message === null) return;
      yield message;
    }
  }
}

function tagged(tag: number, bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(1 + bytes.length);
  out[0] = tag;
  out.set(bytes, 1);
  return out;
}

function openReply(reply: Uint8Array): Uint8Array {
  const body = reply.subarray(1);
  if (reply[0] === 0) return body;
  const error = decode(body) as { code?: unknown; details?: unknown } | null;
  const code = String(error?.code);
  if (!Object.hasOwn(errorTable, code))
    throw new ClusterError('INTERNAL', { reason: `the other host failed: ${code}` });
  throw new ClusterError(code as ErrorCode, (error?.details ?? {}) as ErrorDetails);
}

/** What CBOR can carry of an error's details. */
function plain(details: ErrorDetails): unknown {
  return JSON.parse(JSON.stringify(details)) as unknown;
}
