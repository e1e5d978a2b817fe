/**
 * Our side of the connection to one member: at most one session in use, and the frames that wait for it.
 *
 * Two members that dial each other at the same time get two sessions; both keep the one that the member with the lower
 * id dialled. A session that arrives while an older one seems alive replaces it: nobody dials a peer that it still has,
 * so the other side has lost the old one (a cut that we have not noticed, or a restart).
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { NodeId } from '../../crdt/ids.ts';
import type { Log } from '../ports.ts';
import { Outbox } from './outbox.ts';
import type { MutableCounters } from './counters.ts';
import type { NetworkLimits } from './peer-network.ts';
import type { Session } from './session.ts';
import { sever } from './sever.ts';

/** Two sessions made within this time of each other are a simultaneous dial. */
const simultaneousMs = 5_000;
/** How long a session that lost the choice may still deliver what is in flight. */
const retireMs = 500;
const finishMs = 300;
/** From the socket's buffer to the other host. */
const flushMs = 30;
/** First byte of everything after the hello. */
const kindFrame = 0;
const kindPing = 1;
const kindPong = 2;
const batchBytesMax = 64 << 10;

export interface LinkOptions {
  readonly self: NodeId;
  readonly node: NodeId;
  readonly limits: NetworkLimits;
  readonly counters: MutableCounters;
  readonly log: Log;
  readonly onFrame: (from: NodeId, frame: Uint8Array) => void;
  /** A restart of the peer fires false and true. */
  readonly onPeer: (peer: NodeId, isConnected: boolean) => void;
  /** The session in use is gone after `livedMs`. */
  readonly onLost: (livedMs: number) => void;
}

export class Link {
  readonly #options: LinkOptions;
  readonly #outbox: Outbox;
  #session: Session | null = null;
  #isPumping = false;
  /** When we first sent something after the last frame came, null: the peer had the last word. */
  #unansweredSinceMs: number | null = null;
  #tickedMs = performance.now();
  /** `performance.now()` of the last frame, null: none yet. */
  lastFrameMs: number | null = null;

  constructor(options: LinkOptions) {
    this.#options = options;
    this.#outbox = new Outbox(options.limits.queuedBytesPerPeerMax);
  }

  get session(): Session | null {
    return this.#session;
  }

  /** Takes a session that has been greeted. The peer is announced before its first frame. */
  add(session: Session): void {
    if (session.framed.ended.aborted) return;
    session.framed.ended.addEventListener('abort', () => this.#lost(session));
    const current = this.#session;
    if (current === null) {
      this.#session = session;
      this.#options.onPeer(this.#options.node, true);
    } else if (this.#isReplacedBy(current, session)) {
      this.#session = session;
      void this.#retire(current);
      if (current.run !== session.run) this.#announceRestart();
    } else {
      void this.#retire(session);
    }
    this.#unansweredSinceMs = null;
    session.framed.push((message) => this.#receive(message));
    this.#startPump();
  }

  send(frame: Uint8Array): void {
    if (this.#session === null) {
      this.#options.counters.framesDroppedUnconnected++;
      return;
    }
    this.#queue(kindFrame, frame);
  }

  /**
   * Reaps a connection that was cut without a word: what we sent is not answered, or nothing at all came for long. Costs
   * nothing while frames come; the library's monitor would send ten packets per connection and interval from each side.
   */
  tick(): void {
    const nowMs = performance.now();
    const { sweepMs, quietMs, silentMs, unansweredMs } = this.#options.limits;
    // We were paused ourselves: answers may wait in the socket.
    const isLate = nowMs - this.#tickedMs > 2 * sweepMs + 1_000;
    this.#tickedMs = nowMs;
    const session = this.#session;
    if (session === null) return;
    if (isLate && this.#unansweredSinceMs !== null) this.#unansweredSinceMs = nowMs;
    const heardMs = nowMs - Math.max(session.openedMs, this.lastFrameMs ?? 0);
    const waitingMs = this.#unansweredSinceMs === null ? 0 : nowMs - this.#unansweredSinceMs;
    if ((heardMs > silentMs && !isLate) || waitingMs > unansweredMs) {
      sever(session.connection, 'silent');
    } else if (heardMs > quietMs || waitingMs > unansweredMs / 3) {
      this.#queue(kindPing, new Uint8Array(0));
    }
  }

  drop(reason: string): void {
    if (this.#session !== null) sever(this.#session.connection, reason);
  }

  /** What is queued goes out, within a short time; nothing may be sent afterwards. */
  async finish(): Promise<void> {
    const session = this.#session;
    if (session === null) return;
    const frames = this.#outbox.take(Infinity);
    if (frames.length > 0) await session.framed.send(frames, finishMs);
    await session.framed.close(AbortSignal.timeout(finishMs));
    await pause(flushMs);
  }

  /** Gives the session up unless the peer answers within `verifyMs`: our own address has changed under it. */
  async verify(): Promise<void> {
    const session = this.#session;
    if (session === null) return;
    const askedMs = performance.now();
    this.#queue(kindPing, new Uint8Array(0));
    await pause(this.#options.limits.verifyMs, undefined, { ref: false });
    if (this.#session !== session || (this.lastFrameMs ?? 0) >= askedMs) return;
    sever(session.connection, 'no answer after a change of addresses');
  }

  #isReplacedBy(current: Session, session: Session): boolean {
    if (current.run !== session.run || current.isDialedByUs === session.isDialedByUs) return true;
    if (session.openedMs - current.openedMs > simultaneousMs) return true;
    return session.isDialedByUs === this.#options.self < this.#options.node;
  }

  #announceRestart(): void {
    this.#outbox.clear();
    this.#options.onPeer(this.#options.node, false);
    this.#options.onPeer(this.#options.node, true);
  }

  /** Copies: the caller may go on using its buffer. */
  #queue(kind: number, frame: Uint8Array): void {
    const message = new Uint8Array(1 + frame.length);
    message[0] = kind;
    message.set(frame, 1);
    if (kind !== kindPong) this.#unansweredSinceMs ??= performance.now();
    this.#options.counters.framesDroppedFull += this.#outbox.add(message);
    this.#startPump();
  }

  /** Kinds that a newer version may send are ignored. */
  #receive(message: Uint8Array): void {
    const { counters, node, onFrame } = this.#options;
    counters.bytesReceived += message.length;
    this.lastFrameMs = performance.now();
    this.#unansweredSinceMs = null;
    if (message[0] === kindPing) this.#queue(kindPong, new Uint8Array(0));
    if (message[0] !== kindFrame) return;
    counters.framesReceived++;
    onFrame(node, message.subarray(1));
  }

  #lost(session: Session): void {
    sever(session.connection, 'its control stream ended');
    if (session.framed.isMalformed) this.#options.counters.protocolErrors++;
    if (this.#session !== session) return;
    this.#session = null;
    this.#options.counters.framesDroppedUnconnected += this.#outbox.clear();
    this.#options.onPeer(this.#options.node, false);
    this.#options.onLost(performance.now() - session.openedMs);
  }

  async #retire(session: Session): Promise<void> {
    try {
      await session.framed.close(AbortSignal.timeout(retireMs));
      await pause(retireMs);
      await session.connection.close();
    } catch (error) {
      // The other side may have closed it first, which is as good.
      this.#options.log.debug('net.retire', { node: this.#options.node, error });
      sever(session.connection, 'replaced by another connection');
    }
  }

  #startPump(): void {
    if (this.#isPumping || this.#outbox.isEmpty) return;
    this.#isPumping = true;
    // Frames of one turn share a packet.
    queueMicrotask(() => void this.#pump());
  }

  async #pump(): Promise<void> {
    for (
      let session = this.#session;
      session !== null && !this.#outbox.isEmpty;
      session = this.#session
    ) {
      const frames = this.#outbox.take(batchBytesMax);
      try {
        await session.framed.send(frames, this.#options.limits.writeStallMs);
        this.#options.counters.framesSent += frames.length;
        for (const frame of frames) this.#options.counters.bytesSent += frame.length;
      } catch (error) {
        this.#options.log.debug('net.write-failed', { node: this.#options.node, error });
        sever(session.connection, 'writing stalled or failed');
      }
    }
    this.#isPumping = false;
  }
}
