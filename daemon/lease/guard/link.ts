/**
 * One connection between two guards, from the end of its handshake: certificates first, then frames of messages.
 *
 * The dialer shows its certificate first; the other end shows its own only to a member. Nothing else is read before that.
 * With the certificate go the versions of frames that are spoken. Two guards that have none in common both say so and part.
 * A connection that does not answer is closed after about a second, so that after a cut the next attempt is a new one and
 * not a retransmission whose pauses have grown to many seconds (Node cannot set the kernel's user timeout).
 */
import type { HostId } from '../../../crdt/ids.ts';
import { systemCrypto } from '../../crypto.ts';
import { readLeaseCertificate, type LeaseCertificate } from '../certificate.ts';
import { FrameDecoder, FrameEncoder, commonVersion, rangeOf, wireVersions } from '../codec.ts';
import type { Message } from '../messages.ts';
import { leaseLimits } from '../model.ts';
import type { SecureChannel, ChannelEvents, Frame } from './secure-channel.ts';

export const frameKinds = { certificate: 0, messages: 1, ping: 2, pong: 3 } as const;

const certificateBytesMax = 1_024;
/** Handed to the kernel before the rest waits in the queue, where old frames can still be dropped. */
const kernelBytesMax = 256 << 10;
const empty = new Uint8Array(0);

export interface LinkEvents {
  /** Whose certificate is good; null: a stranger. */
  admit(certificate: LeaseCertificate, leaseKey: string): HostId | null;
  /** Certificates were exchanged: `link.host` is proved. */
  onReady(link: Link): void;
  /** A member that speaks other versions of frames only; the link is closed. */
  onOtherVersion(host: HostId, theirs: readonly [number, number]): void;
  /** `bytes`: of the frame that they came in. */
  onMessages(link: Link, messages: readonly Message[], bytes: number): void;
  /** A frame that cannot be read; the link is closed. */
  onRejected(link: Link, why: string): void;
  onStranger(link: Link): void;
  onClose(link: Link): void;
  onDrain(link: Link): void;
}

export class Link {
  readonly direction: 'inbound' | 'outbound';
  readonly #channel: SecureChannel;
  readonly #events: LinkEvents;
  readonly #own: Uint8Array;
  readonly #encoder = new FrameEncoder();
  readonly #decoder = new FrameDecoder();
  #host: HostId | null = null;
  #isClosed = false;
  /** Looks of the transport's timer since something was sent that nothing came back for. */
  #unansweredLooks: number | null = null;
  /** Since something came. */
  #idleLooks = 0;
  /** Monotonic milliseconds at which anything came; the transport gives the time. */
  lastHeardMs: number;
  readonly #nowMs: () => number;

  constructor(options: {
    readonly open: (events: ChannelEvents) => SecureChannel;
    readonly direction: 'inbound' | 'outbound';
    readonly certificate: LeaseCertificate;
    readonly events: LinkEvents;
    readonly nowMs: () => number;
  }) {
    this.direction = options.direction;
    this.#events = options.events;
    this.#nowMs = options.nowMs;
    this.lastHeardMs = options.nowMs();
    this.#own = Buffer.from(JSON.stringify({ ...options.certificate, wire: wireVersions }));
    this.#channel = options.open({
      onFrame: (frame) => this.#onFrame(frame),
      onClose: () => this.#onClose(),
      onDrain: () => this.#events.onDrain(this),
      bodyBytesMax: () => this.#bodyBytesMax(),
    });
    if (this.direction === 'outbound') this.#send(frameKinds.certificate, this.#own);
  }

  /** Null until the other end has proved to be a member. */
  get host(): HostId | null {
    return this.#host;
  }

  get isClosed(): boolean {
    return this.#isClosed;
  }

  get canTake(): boolean {
    return this.#host !== null && !this.#isClosed && this.#channel.queuedBytes < kernelBytesMax;
  }

  /**
   * Of the frames that they took. A voter only ever answers: if it waited for something to come back, it would ping the holder
   * after every renewal.
   */
  sendMessages(
    messages: readonly Message[],
    { isAnswer }: { readonly isAnswer: boolean },
  ): { readonly frames: number; readonly bytes: number } {
    const frames = this.#encoder.encode(messages);
    for (const body of frames) this.#send(frameKinds.messages, body);
    if (!isAnswer) this.#unansweredLooks ??= 0;
    return { frames: frames.length, bytes: frames.reduce((sum, body) => sum + body.length, 0) };
  }

  /**
   * Called by the transport every `lookMs`. Counts looks, not time: after a stop of this process the answers that wait in the
   * kernel are read before the next look. False: the other end does not answer, and the link was closed.
   */
  look(limits: {
    readonly pingAfter: number;
    readonly closeAfter: number;
    readonly idle: number;
  }): boolean {
    this.#idleLooks += 1;
    if (this.#unansweredLooks === null) {
      if (this.#idleLooks >= limits.idle && this.#host !== null) {
        this.#send(frameKinds.ping, empty);
        this.#unansweredLooks = 0;
        this.#idleLooks = 0;
      }
      return true;
    }
    this.#unansweredLooks += 1;
    if (this.#unansweredLooks === limits.pingAfter) this.#send(frameKinds.ping, empty);
    if (this.#unansweredLooks < limits.closeAfter) return true;
    this.close();
    return false;
  }

  close(): void {
    this.#channel.close();
    this.#onClose();
  }

  #onFrame(frame: Frame): void {
    if (this.#isClosed) return;
    this.#unansweredLooks = null;
    this.#idleLooks = 0;
    this.lastHeardMs = this.#nowMs();
    if (this.#host === null) {
      this.#onFirst(frame);
      return;
    }
    if (frame.kind === frameKinds.messages) this.#onMessages(frame.body);
    if (frame.kind === frameKinds.ping) this.#send(frameKinds.pong, empty);
  }

  #onMessages(body: Uint8Array): void {
    const messages = this.#decoder.decode(body);
    if (!('rejected' in messages)) {
      this.#events.onMessages(this, messages, body.length);
      return;
    }
    this.#events.onRejected(this, messages.rejected);
    this.close();
  }

  #onFirst({ kind, body }: Frame): void {
    const first = kind === frameKinds.certificate ? parse(body) : undefined;
    const certificate = readLeaseCertificate(first, systemCrypto);
    const host =
      certificate === null ? null : this.#events.admit(certificate, this.#channel.leaseKey);
    if (host === null) {
      this.#events.onStranger(this);
      this.close();
      return;
    }
    // Also to a member of another version: it says so at its end too.
    if (this.direction === 'inbound') this.#send(frameKinds.certificate, this.#own);
    const theirs = (first as { readonly wire?: unknown }).wire;
    if (commonVersion(theirs) === null) {
      this.#isClosed = true;
      this.#events.onOtherVersion(host, rangeOf(theirs));
      this.#channel.end();
      return;
    }
    this.#host = host;
    this.#events.onReady(this);
  }

  #bodyBytesMax(): number {
    if (this.#isClosed) return -1;
    return this.#host === null ? certificateBytesMax : leaseLimits.frameBytesMax;
  }

  #send(kind: number, body: Uint8Array): void {
    this.#channel.send({ kind, body });
  }

  #onClose(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#events.onClose(this);
  }
}

/** Undefined for what is no JSON: no certificate either. */
function parse(body: Uint8Array): unknown {
  try {
    return JSON.parse(Buffer.from(body).toString('utf8')) as unknown;
  } catch {
    // A stranger may send anything.
    return undefined;
  }
}
