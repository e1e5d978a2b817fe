/**
 * Frames between guards: one byte of version, then JSON `[strings, message, message, ...]`, every message a list
 * `[kind, ...fields]` in fixed order. Environments, hosts and sessions stand once in `strings` and are named by their place, so
 * that renewals of many leases in one frame stay small. Measured against CBOR of the same lists: see `daemon/docs/leases.md`.
 *
 * Interoperation: a newer version appends fields and adds kinds; this one looks at neither. Numbers of kinds and words are
 * never reused. Golden bytes: `test/fixtures/golden/lease-v1.json`.
 *
 * What a peer sent is checked field by field before anybody sees it; what is wrong in one place rejects the frame. Commas and
 * brackets are counted before it is parsed, so that a small frame cannot become a large heap.
 */
import { invariant } from '../errors.ts';
import { MessageReader } from './codec-reader.ts';
import { codecLimits } from './codec-words.ts';
import { MessageWriter } from './codec-writer.ts';
import { Malformed, list, listOf, text } from './fields.ts';
import type { Message } from './messages.ts';
import { leaseLimits } from './model.ts';

export const codecVersion = 1;

type Watch = Extract<Message, { kind: 'watch' }>;

/** One frame of all messages, which must be few and small enough for one; `encodeFrames` sees to that. */
export function encodeFrame(messages: readonly Message[]): Uint8Array {
  invariant(messages.length <= leaseLimits.messagesPerFrameMax, 'messages fit one frame');
  const writer = new MessageWriter();
  const body = messages.map((message) => writer.message(message));
  const json = new TextEncoder().encode(JSON.stringify([writer.strings, ...body]));
  const out = new Uint8Array(json.length + 1);
  out[0] = codecVersion;
  out.set(json, 1);
  return out;
}

/** As many frames as the limits ask for, in order; a long `watch` becomes several. */
export function encodeFrames(messages: readonly Message[]): Uint8Array[] {
  return framesOf(
    messages.flatMap((message): Message[] => (isLong(message) ? split(message) : [message])),
  );
}

function framesOf(messages: readonly Message[]): Uint8Array[] {
  const first = messages.slice(0, leaseLimits.messagesPerFrameMax);
  const rest = messages.slice(first.length);
  if (first.length === 0) return [];
  const frame = encodeFrame(first);
  const isFit = frame.length <= leaseLimits.frameBytesMax && marksOf(frame) <= codecLimits.marksMax;
  const half = first.length >> 1;
  const frames =
    isFit || half === 0
      ? [frame]
      : [...framesOf(first.slice(0, half)), ...framesOf(first.slice(half))];
  return rest.length === 0 ? frames : [...frames, ...framesOf(rest)];
}

function isLong(message: Message): message is Watch {
  return message.kind === 'watch' && message.names.length > codecLimits.watchNamesMax;
}

function split(message: Watch): Watch[] {
  const { watchNamesMax } = codecLimits;
  const parts = Math.ceil(message.names.length / watchNamesMax);
  return Array.from({ length: parts }, (_, part) => ({
    ...message,
    names: message.names.slice(part * watchNamesMax, (part + 1) * watchNamesMax),
  }));
}

/** Never throws, whatever the bytes are. Messages of kinds that are not known here are left out. */
export function decodeFrame(bytes: Uint8Array): readonly Message[] | { readonly rejected: string } {
  if (bytes.length > leaseLimits.frameBytesMax) return { rejected: 'frame too long' };
  if (bytes[0] !== codecVersion) return { rejected: 'unknown version' };
  if (marksOf(bytes) > codecLimits.marksMax) return { rejected: 'too many values' };
  try {
    const all = listOf(JSON.parse(decoder.decode(bytes.subarray(1))));
    if (all.length > leaseLimits.messagesPerFrameMax + 1) return { rejected: 'too many messages' };
    const reader = new MessageReader(list(all[0], codecLimits.stringsMax, stringOf));
    const messages: Message[] = [];
    for (let i = 1; i < all.length; i++) {
      const message = reader.message(all[i]);
      if (message !== null) messages.push(message);
    }
    return messages;
  } catch (error) {
    if (error instanceof Malformed) return { rejected: error.message };
    if (error instanceof SyntaxError) return { rejected: 'not JSON' };
    throw error;
  }
}

const decoder = new TextDecoder();

const stringOf = (value: unknown) => text(value, leaseLimits.nameCharsMax);

function marksOf(bytes: Uint8Array): number {
  let marks = 0;
  for (const byte of bytes) if (byte === 0x2c || byte === 0x5b || byte === 0x7b) marks++;
  return marks;
}
