/** A control stream whose two ends have greeted each other: the only thing that counts as connected. */
import type { Connection, Stream } from '@libp2p/interface';
import { FramedStream } from './framed-stream.ts';
import { decodeHello, encodeHello, incompatibility } from './hello.ts';
import type { Hello } from './hello.ts';

export interface Session {
  readonly connection: Connection;
  readonly framed: FramedStream;
  readonly isDialedByUs: boolean;
  /** Random per start of the peer. */
  readonly run: string;
  readonly openedMs: number;
}

export interface SessionOptions {
  readonly hello: Hello;
  readonly frameBytesMax: number;
  /** For the whole exchange. */
  readonly signal: AbortSignal;
}

/** The peer is reachable but not one of us: another cluster or another version. */
export class HandshakeError extends Error {}

/** Dialer's side. Rejects when the peer refuses; the caller then aborts the connection. */
export async function openSession(
  connection: Connection,
  protocol: string,
  options: SessionOptions,
): Promise<Session> {
  const stream = await connection.newStream(protocol, { signal: options.signal });
  const framed = new FramedStream(stream, options.frameBytesMax);
  await framed.send([encodeHello(options.hello)], helloStallMs);
  return greet(connection, framed, true, options);
}

/** Listener's side. Must be called before anything is awaited after the stream arrived. */
export async function acceptSession(
  stream: Stream,
  connection: Connection,
  options: SessionOptions,
): Promise<Session> {
  const framed = new FramedStream(stream, options.frameBytesMax);
  const session = await greet(connection, framed, false, options);
  await framed.send([encodeHello(options.hello)], helloStallMs);
  return session;
}

const helloStallMs = 2_000;

async function greet(
  connection: Connection,
  framed: FramedStream,
  isDialedByUs: boolean,
  { hello, signal }: SessionOptions,
): Promise<Session> {
  const frame = await framed.next(signal);
  if (frame === null) throw new Error('the peer closed the stream');
  const other = decodeHello(frame);
  const reason = other === null ? 'it sent no hello' : incompatibility(hello, other);
  if (other === null || reason !== null) throw new HandshakeError(reason ?? '');
  return { connection, framed, isDialedByUs, run: other.run, openedMs: performance.now() };
}
