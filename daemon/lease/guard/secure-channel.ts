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

/** One byte of kind, four of length, then so many bytes. */
const headBytes = 5;

export interface Frame {
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
      const bytes = Buffer.allocUnsafe(headBytes + body.length);
      bytes.writeUInt8(kind, 0);
      bytes.writeUInt32LE(body.length, 1);
      bytes.set(body, headBytes);
      stream.send(bytes);
    },
    get queuedBytes() {
      return socket.writableLength;
    },
    close: () => socket.destroy(),
  };
}

class FrameReader {
  #buffer: Buffer = Buffer.alloc(0);

  /** False when the other end breaks the rules. */
  push(bytes: Uint8Array, events: ChannelEvents): boolean {
    this.#buffer =
      this.#buffer.length === 0 ? Buffer.from(bytes) : Buffer.concat([this.#buffer, bytes]);
    while (this.#buffer.length >= headBytes) {
      const length = this.#buffer.readUInt32LE(1);
      if (length > events.bodyBytesMax()) return false;
      if (this.#buffer.length < headBytes + length) return true;
      const kind = this.#buffer.readUInt8(0);
      const body = this.#buffer.subarray(headBytes, headBytes + length);
      this.#buffer = this.#buffer.subarray(headBytes + length);
      events.onFrame({ kind, body });
    }
    return true;
  }
}
