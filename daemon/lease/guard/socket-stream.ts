/** A TCP socket as the message stream that `@libp2p/noise` wants; nothing else of libp2p is used. */
import type { Socket } from 'node:net';
import type { Logger } from '@libp2p/interface';
import { AbstractMessageStream, type SendResult } from '@libp2p/utils';

/** Received and not yet taken. */
const readBufferBytesMax = 2 << 20;

export class SocketStream extends AbstractMessageStream {
  readonly #socket: Socket;

  constructor(socket: Socket, direction: 'inbound' | 'outbound') {
    super({ log: silent, direction, maxReadBufferLength: readBufferBytesMax });
    this.#socket = socket;
    socket.on('data', (bytes) => this.onData(bytes));
    socket.on('drain', () => this.safeDispatchEvent('drain'));
    socket.on('error', (error) => this.abort(error));
    socket.on('close', () => this.onTransportClosed());
  }

  // The list is of type Uint8ArrayList, which libp2p does not give on.
  override sendData(data: Parameters<AbstractMessageStream['sendData']>[0]): SendResult {
    // One write, one packet: the length and the body of a noise message are two parts of the list.
    return { sentBytes: data.byteLength, canSendMore: this.#socket.write(data.subarray()) };
  }

  override sendReset(): void {
    this.#socket.destroy();
  }

  override sendPause(): void {
    this.#socket.pause();
  }

  override sendResume(): void {
    this.#socket.resume();
  }

  override async close(): Promise<void> {
    this.#socket.destroySoon();
  }
}

function makeSilent(): Logger {
  const log = (): void => undefined;
  return Object.assign(log, {
    enabled: false,
    error: log,
    trace: log,
    newScope: () => silent,
  });
}

/** Strangers cause errors at will: what matters of them is counted by the transport. */
export const silent: Logger = makeSilent();
