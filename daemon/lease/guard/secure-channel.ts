/** Noise over a plain TCP socket: who is at the other end, and frames of bytes to and from it. */
import type { Socket } from 'node:net';
import { noise } from '@libp2p/noise';
import { privateKeyFromRaw } from '@libp2p/crypto/keys';
import { peerIdFromPrivateKey } from '@libp2p/peer-id';
import type { MessageStream, StreamMessageEvent } from '@libp2p/interface';
import { hex } from '../../../crdt/ids.ts';
import { keyPairFromSeed } from '../../crypto.ts';
import { noiseCrypto } from './noise-crypto.ts';
import { SocketStream, silent } from './socket-stream.ts';

/** Of the first frame, whatever the version: one byte of kind, four of length, then so many bytes. */
const firstHeadBytes = 5;
/** Of all others: kind and length as one number, 7 bits a byte, low ones first. */
const headBytesMax = 5;
const kindBits = 3;

export interface Frame {
  /** From 0 to 7. */
  readonly kind: number;
  readonly body: Uint8Array;
}

export interface SecureChannel {
  /** Public lease key of the other end, 64 hex digits: it proved that it has the private one. */
  readonly leaseKey: string;
  send(frame: Frame): void;
  /** Bytes that the kernel has not taken yet. */
  readonly queuedBytes: number;
  close(): void;
  /** As `close`, after what was sent has left. */
  end(): void;
}

export interface ChannelEvents {
  onFrame(frame: Frame): void;
  /** Once. */
  onClose(): void;
  onDrain(): void;
  /** Largest body that is accepted now: small until the other end has proved to be a member. */
  bodyBytesMax(): number;
}

export type OpenChannel = (
  socket: Socket,
  direction: 'inbound' | 'outbound',
  signal: AbortSignal,
) => Promise<(events: ChannelEvents) => SecureChannel>;

/** `seed`: 32 bytes of the guard's own key. */
export function channelOpener(seed: Uint8Array): OpenChannel {
  // Seed and public key: with the seed alone it would compute the other by libraries that nothing else here needs.
  const privateKey = privateKeyFromRaw(Buffer.concat([seed, keyPairFromSeed(seed).publicKey]));
  if (privateKey.type !== 'Ed25519') throw new Error('a lease key is an Ed25519 key');
  const encrypter = noise({ crypto: noiseCrypto })({
    privateKey,
    peerId: peerIdFromPrivateKey(privateKey),
    logger: { forComponent: () => silent },
    // Muxers are negotiated by libp2p's upgrader, which is not here: there is one stream.
    upgrader: { getStreamMuxers: () => new Map() } as never,
  });
  return async (socket, direction, signal) => {
    socket.setNoDelay(true);
    const stream = new SocketStream(socket, direction);
    const options = { signal, skipStreamMuxerNegotiation: true };
    const secured =
      direction === 'outbound'
        ? await encrypter.secureOutbound(stream, options)
        : await encrypter.secureInbound(stream, options);
    const key = secured.remotePeer.publicKey?.raw;
    if (key === undefined) throw new Error('the other end has no public key');
    return (events) => channelOver(socket, secured.connection, hex(key), events);
  };
}

function channelOver(
  socket: Socket,
  stream: MessageStream,
  leaseKey: string,
  events: ChannelEvents,
): SecureChannel {
  const reader = new FrameReader();
  stream.addEventListener('message', (event: StreamMessageEvent) => {
    const { data } = event;
    const bytes = data instanceof Uint8Array ? data : data.subarray();
    if (!reader.push(bytes, events)) socket.destroy();
  });
  let isClosed = false;
  let isFirst = true;
  socket.once('close', () => {
    if (isClosed) return;
    isClosed = true;
    events.onClose();
  });
  // A frame that cannot be decrypted ends the stream without closing the socket.
  stream.addEventListener('close', () => socket.destroy());
  socket.on('drain', () => events.onDrain());
  return {
    leaseKey,
    send: ({ kind, body }) => {
      if (stream.status !== 'open') return;
      const head = isFirst ? firstHeadOf(kind, body.length) : headOf(kind, body.length);
      isFirst = false;
      stream.send(Buffer.concat([head, body]));
    },
    get queuedBytes() {
      return socket.writableLength;
    },
    close: () => socket.destroy(),
    end: () => socket.destroySoon(),
  };
}

function firstHeadOf(kind: number, length: number): Uint8Array {
  const head = Buffer.alloc(firstHeadBytes);
  head.writeUInt8(kind, 0);
  head.writeUInt32LE(length, 1);
  return head;
}

function headOf(kind: number, length: number): Uint8Array {
  const head: number[] = [];
  let rest = length * 2 ** kindBits + kind;
  for (; rest >= 128; rest = Math.floor(rest / 128)) head.push(128 + (rest % 128));
  return Uint8Array.of(...head, rest);
}

interface Head {
  readonly kind: number;
  readonly length: number;
  readonly bytes: number;
}

class FrameReader {
  #buffer: Buffer = Buffer.alloc(0);
  #isFirst = true;

  /** False when the other end breaks the rules. */
  push(bytes: Uint8Array, events: ChannelEvents): boolean {
    this.#buffer =
      this.#buffer.length === 0 ? Buffer.from(bytes) : Buffer.concat([this.#buffer, bytes]);
    for (;;) {
      const head = this.#isFirst ? firstHeadIn(this.#buffer) : headIn(this.#buffer);
      if (head === null) return this.#buffer.length < headBytesMax;
      if (head.length > events.bodyBytesMax()) return false;
      const end = head.bytes + head.length;
      if (this.#buffer.length < end) return true;
      const body = this.#buffer.subarray(head.bytes, end);
      this.#buffer = this.#buffer.subarray(end);
      this.#isFirst = false;
      events.onFrame({ kind: head.kind, body });
    }
  }
}

/** Null: not all of it is there. */
function firstHeadIn(buffer: Buffer): Head | null {
  if (buffer.length < firstHeadBytes) return null;
  return { kind: buffer.readUInt8(0), length: buffer.readUInt32LE(1), bytes: firstHeadBytes };
}

/** Null: not all of it is there, or it has no end. */
function headIn(buffer: Buffer): Head | null {
  let value = 0;
  for (let at = 0; at < Math.min(buffer.length, headBytesMax); at++) {
    const byte = buffer.readUInt8(at);
    value += (byte & 127) * 128 ** at;
    if (byte >= 128) continue;
    const length = Math.floor(value / 2 ** kindBits);
    return { kind: value % 2 ** kindBits, length, bytes: at + 1 };
  }
  return null;
}
