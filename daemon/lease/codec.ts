/**
 * Frames between guards. A frame is a row of parts, each a kind, its length, and fields in fixed order; numbers are 7 bits a byte.
 *
 * What does not change from one renewal to the next (environments, links of the chain of voters, owners, names of leases) is
 * said once on a connection, in a part of its own before the message that needs it first, and named by its place from then on.
 * So a renewal is 12 to 16 bytes, and its answer 9 to 11, in frames of any size. Both ends remember the same because a connection loses,
 * repeats and reorders nothing; a new connection begins with nothing said, and a frame that cannot be read ends it.
 *
 * Interoperation: each end names the versions that it speaks with its certificate, and the highest of both is spoken
 * (`wireVersions`). Within a version fields are appended and kinds added; who does not know them passes over them. Numbers of
 * kinds and words are never reused. Golden bytes: `test/fixtures/golden/lease-wire-v2.json`.
 *
 * What a peer sent is checked field by field before anybody sees it. All that it makes us remember is bounded.
 */
import { invariant } from '../errors.ts';
import { ByteReader } from './codec-bytes.ts';
import { MessageReader } from './codec-reader.ts';
import { codecLimits } from './codec-words.ts';
import { MessageWriter } from './codec-writer.ts';
import { Malformed } from './fields.ts';
import type { Message } from './messages.ts';
import { leaseLimits } from './model.ts';

/** Versions of frames: oldest and newest that are spoken here. 1 (JSON lists) was never released. */
export const wireVersions: readonly [number, number] = Object.freeze([2, 2]);

/** The version for two guards; null: there is none. `theirs`: as it came; who names none speaks 1. */
export function commonVersion(theirs: unknown, ours = wireVersions): number | null {
  const [oldest, newest] = rangeOf(theirs);
  const version = Math.min(newest, ours[1]);
  return version >= Math.max(oldest, ours[0]) ? version : null;
}

/** Nothing and nonsense mean version 1. */
export function rangeOf(theirs: unknown): readonly [number, number] {
  const [oldest, newest] = Array.isArray(theirs) ? (theirs as unknown[]) : [];
  const isRange =
    Number.isInteger(oldest) && Number.isInteger(newest) && Number(oldest) <= Number(newest);
  return isRange ? [Number(oldest), Number(newest)] : [1, 1];
}

/** After so much a frame ends with the message that it has; the largest message still fits. */
const frameBytesSoft = 32 << 10;

/** What one end says on one connection, in this order. */
export class FrameEncoder {
  readonly #writer = new MessageWriter();

  /** As many frames as the limits ask for, in order; a long `watch` becomes several. Each must be sent. */
  encode(messages: readonly Message[]): Uint8Array[] {
    const { frame } = this.#writer;
    const frames: Uint8Array[] = [];
    let start = 0;
    let count = 0;
    const end = (at: number): void => {
      invariant(at - start <= leaseLimits.frameBytesMax, 'a message fits a frame');
      if (at > start) frames.push(frame.slice(start, at));
      start = at;
      count = 0;
    };
    frame.clear();
    for (const message of messages.flatMap(parts)) {
      const before = frame.length;
      this.#writer.message(message);
      // Too much for one frame: it begins the next, with what it defines.
      if (frame.length - start > frameBytesSoft) end(before);
      if (++count === leaseLimits.messagesPerFrameMax) end(frame.length);
    }
    end(frame.length);
    return frames;
  }
}

function parts(message: Message): Message[] {
  const { watchNamesMax } = codecLimits;
  if (message.kind !== 'watch' || message.names.length <= watchNamesMax) return [message];
  const count = Math.ceil(message.names.length / watchNamesMax);
  return Array.from({ length: count }, (_, part) => ({
    ...message,
    names: message.names.slice(part * watchNamesMax, (part + 1) * watchNamesMax),
  }));
}

/** What the other end says on one connection. */
export class FrameDecoder {
  readonly #reader = new MessageReader();
  #fault: string | null = null;

  /**
   * Never throws, whatever the bytes are. Messages of kinds that are not known here are left out. After a rejection every
   * further frame is rejected: what it names may be something else at the other end.
   */
  decode(bytes: Uint8Array): readonly Message[] | { readonly rejected: string } {
    if (this.#fault === null && bytes.length > leaseLimits.frameBytesMax)
      this.#fault = 'frame too long';
    if (this.#fault !== null) return { rejected: this.#fault };
    try {
      return this.#messages(new ByteReader(bytes));
    } catch (error) {
      if (!(error instanceof Malformed)) throw error;
      this.#fault = error.message;
      return { rejected: this.#fault };
    }
  }

  #messages(from: ByteReader): Message[] {
    const messages: Message[] = [];
    this.#reader.begin();
    while (!from.isAtEnd) {
      const message = this.#reader.part(from);
      if (message === null) continue;
      if (messages.length >= leaseLimits.messagesPerFrameMax)
        throw new Malformed('too many messages');
      messages.push(message);
    }
    return messages;
  }
}
