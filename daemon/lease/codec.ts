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
import type { HostId } from '../../crdt/ids.ts';
import { invariant } from '../errors.ts';
import {
  Malformed,
  acceptedConfig,
  chosenConfig,
  counter,
  durationMsMax,
  duration,
  envName,
  flag,
  generation,
  hash,
  hostId,
  integer,
  leaseName,
  list,
  listOf,
  nullOr,
  number,
  sessionId,
  text,
  voterConfig,
} from './fields.ts';
import type { ConfigRef, Message } from './messages.ts';
import { leaseLimits } from './model.ts';
import type { Ballot, LeaseFloor, Owner } from './model.ts';
import { chainLimits } from './voter-config.ts';

export const codecVersion = 1;

export const codecLimits = Object.freeze({
  /** Commas and brackets of one frame. */
  marksMax: 48 << 10,
  /** Different hosts, sessions and environments in one frame. */
  stringsMax: 4096,
  watchNamesMax: 1024,
  reasonCharsMax: 200,
});

type Of<K extends Message['kind']> = Extract<Message, { kind: K }>;

// The place in these lists is what travels: append only.
const purposes = ['acquire', 'renew', 'park', 'unpark'] as const;
const refusals = ['ballot', 'busy', 'epoch', 'parked', 'denied', 'ttl', 'limit'] as const;
const learnStates = ['active', 'parked', 'released'] as const;
const steps = ['ask', 'prepare', 'ready', 'stopped', 'settled', 'go', 'done', 'abort'] as const;

const kinds = {
  prepare: 1,
  promise: 2,
  accept: 3,
  accepted: 4,
  reject: 5,
  config: 6,
  'config-ask': 7,
  release: 8,
  learn: 9,
  watch: 10,
  expired: 11,
  handover: 12,
  'chain-prepare': 13,
  'chain-promise': 14,
  'chain-accept': 15,
  'chain-accepted': 16,
} as const satisfies Record<Message['kind'], number>;

/** One frame of all messages, which must be few and small enough for one; `encodeFrames` sees to that. */
export function encodeFrame(messages: readonly Message[]): Uint8Array {
  invariant(messages.length <= leaseLimits.messagesPerFrameMax, 'messages fit one frame');
  const writer = new Writer();
  const body = messages.map((message) => writer.message(message));
  const json = new TextEncoder().encode(JSON.stringify([writer.strings, ...body]));
  const out = new Uint8Array(json.length + 1);
  out[0] = codecVersion;
  out.set(json, 1);
  return out;
}

/** As many frames as the limits ask for, in order; a long `watch` becomes several. */
export function encodeFrames(messages: readonly Message[]): Uint8Array[] {
  return framesOf(messages.flatMap((message) => (isLong(message) ? split(message) : [message])));
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

function isLong(message: Message): message is Of<'watch'> {
  return message.kind === 'watch' && message.names.length > codecLimits.watchNamesMax;
}

function split(message: Of<'watch'>): Of<'watch'>[] {
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
    const reader = new Reader(list(all[0], codecLimits.stringsMax, (item) => item));
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

function marksOf(bytes: Uint8Array): number {
  let marks = 0;
  for (const byte of bytes) if (byte === 0x2c || byte === 0x5b || byte === 0x7b) marks++;
  return marks;
}

// ---- Writing --------------------------------------------------------------------------------------------------------------

class Writer {
  readonly strings: string[] = [];
  readonly #places = new Map<string, number>();

  message(message: Message): unknown[] {
    return [kinds[message.kind], ...this.#fields(message)];
  }

  #fields(message: Message): unknown[] {
    switch (message.kind) {
      case 'prepare':
        return [...this.#header(message), bit(message.isForced)];
      case 'promise':
        return [...this.#header(message), ...this.#promise(message)];
      case 'accept': {
        const { purpose, epoch, exclusionMs, isForced } = message;
        const fields = [purposes.indexOf(purpose), epoch, span(exclusionMs), bit(isForced)];
        return [...this.#header(message), ...fields];
      }
      case 'accepted':
        return [...this.#header(message), purposes.indexOf(message.purpose), bit(message.isFull)];
      case 'reject': {
        const { why, promisedCounter, maxEpoch, remainMs } = message;
        const fields = [refusals.indexOf(why), promisedCounter, maxEpoch, span(remainMs)];
        return [...this.#header(message), ...fields];
      }
      case 'release': {
        const { successor } = message;
        return [...this.#header(message), successor === null ? null : this.#string(successor)];
      }
      case 'learn': {
        const { env, name, owner, epoch, remainMs, state } = message;
        const fields = [epoch, span(remainMs), learnStates.indexOf(state)];
        return [this.#string(env), name, ...this.#owner(owner), ...fields];
      }
      case 'watch':
        return [this.#string(message.env), message.names];
      case 'expired':
        return [this.#string(message.env), message.name, message.epoch];
      case 'handover': {
        const { env, name, step, id, epoch, to, reason } = message;
        const words = reason.slice(0, codecLimits.reasonCharsMax);
        return [this.#string(env), name, steps.indexOf(step), id, epoch, this.#string(to), words];
      }
      case 'config':
        return [message.chosen];
      case 'config-ask':
        return this.#ref(message);
      case 'chain-prepare':
        return [...this.#ref(message), ...this.#ballot(message.ballot)];
      case 'chain-promise':
        return [
          ...this.#ref(message),
          ...this.#ballot(message.ballot),
          ...this.#chainPromise(message),
        ];
      case 'chain-accept':
        return [...this.#ref(message), ...this.#ballot(message.ballot), message.config];
      case 'chain-accepted': {
        const { hash: named, isAccepted, waitMs, promised } = message;
        const fields = [named, bit(isAccepted), span(waitMs), this.#ballotOrNull(promised)];
        return [...this.#ref(message), ...this.#ballot(message.ballot), ...fields];
      }
    }
  }

  #promise(message: Of<'promise'>): unknown[] {
    const { isOpen, live, maxEpoch, maxEpochOwner, isReleased, promisedCounter, parkedBy } =
      message;
    return [
      bit(isOpen),
      live === null ? null : [...this.#owner(live.owner), live.epoch, span(live.remainMs)],
      maxEpoch,
      maxEpochOwner === null ? null : this.#owner(maxEpochOwner),
      bit(isReleased),
      promisedCounter,
      parkedBy === null ? null : this.#owner(parkedBy),
    ];
  }

  #chainPromise(message: Of<'chain-promise'>): unknown[] {
    const { isOpen, waitMs, promised, accepted, floors, floorRest } = message;
    return [
      bit(isOpen),
      span(waitMs),
      this.#ballotOrNull(promised),
      accepted,
      floors.map((floor) => [floor.name, floor.epoch, ...this.#owner(floor.owner)]),
      floorRest,
    ];
  }

  #header(message: ConfigRef & { readonly name: string; readonly ballot: Ballot }): unknown[] {
    return [...this.#ref(message), message.name, ...this.#ballot(message.ballot)];
  }

  #ref(ref: ConfigRef): unknown[] {
    return [this.#string(ref.env), ref.generation, ref.n];
  }

  #ballot(ballot: Ballot): unknown[] {
    return [ballot.counter, ...this.#owner(ballot)];
  }

  #ballotOrNull(ballot: Ballot | null): unknown {
    return ballot === null ? null : this.#ballot(ballot);
  }

  #owner(owner: Owner): number[] {
    return [this.#string(owner.host), this.#string(owner.session)];
  }

  #string(value: string): number {
    const known = this.#places.get(value);
    if (known !== undefined) return known;
    this.#places.set(value, this.strings.length);
    return this.strings.push(value) - 1;
  }
}

function bit(value: boolean): 0 | 1 {
  return value ? 1 : 0;
}

/** Whole milliseconds, never less than meant. */
function span(ms: number): number {
  return Math.min(durationMsMax, Math.max(0, Math.ceil(ms)));
}

// ---- Reading --------------------------------------------------------------------------------------------------------------

/** Reads one message after another; every string of the frame is checked once for what it is used as. */
class Reader {
  readonly #strings: readonly unknown[];
  readonly #hosts: (HostId | undefined)[] = [];
  readonly #sessions: (string | undefined)[] = [];
  readonly #envs: (string | undefined)[] = [];
  #fields: readonly unknown[] = [];
  #at = 0;

  constructor(strings: readonly unknown[]) {
    this.#strings = strings;
  }

  /** Null: of a kind that is not known here. */
  message(value: unknown): Message | null {
    this.#fields = listOf(value);
    this.#at = 0;
    switch (this.#next()) {
      case kinds.prepare:
        return { kind: 'prepare', ...this.#header(), isForced: this.#flag() };
      case kinds.promise:
        return this.#promise();
      case kinds.accept:
        return {
          kind: 'accept',
          ...this.#header(),
          purpose: this.#word(purposes),
          epoch: this.#counter(),
          exclusionMs: this.#duration(),
          isForced: this.#flag(),
        };
      case kinds.accepted: {
        const header = this.#header();
        return { kind: 'accepted', ...header, purpose: this.#word(purposes), isFull: this.#flag() };
      }
      case kinds.reject:
        return {
          kind: 'reject',
          ...this.#header(),
          why: this.#word(refusals),
          promisedCounter: this.#counter(),
          maxEpoch: this.#counter(),
          remainMs: this.#duration(),
        };
      case kinds.release: {
        const header = this.#header();
        const successor = nullOr(this.#next(), (place) => this.#hostAt(place));
        return { kind: 'release', ...header, successor };
      }
      default:
        return this.#hint() ?? this.#link();
    }
  }

  /** Messages without a ballot of a lease. */
  #hint(): Message | null {
    switch (this.#fields[0]) {
      case kinds.learn:
        return {
          kind: 'learn',
          env: this.#env(),
          name: leaseName(this.#next()),
          owner: this.#owner(),
          epoch: this.#counter(),
          remainMs: this.#duration(),
          state: this.#word(learnStates),
        };
      case kinds.watch: {
        const env = this.#env();
        return {
          kind: 'watch',
          env,
          names: list(this.#next(), codecLimits.watchNamesMax, leaseName),
        };
      }
      case kinds.expired: {
        const env = this.#env();
        return { kind: 'expired', env, name: leaseName(this.#next()), epoch: this.#counter() };
      }
      case kinds.handover:
        return {
          kind: 'handover',
          env: this.#env(),
          name: leaseName(this.#next()),
          step: this.#word(steps),
          id: handoverId(this.#next()),
          epoch: this.#counter(),
          to: this.#hostAt(this.#next()),
          reason: text(this.#next(), codecLimits.reasonCharsMax),
        };
      default:
        return null;
    }
  }

  #link(): Message | null {
    switch (this.#fields[0]) {
      case kinds.config:
        return { kind: 'config', chosen: chosenConfig(this.#next()) };
      case kinds['config-ask']:
        return { kind: 'config-ask', ...this.#ref() };
      case kinds['chain-prepare']:
        return { kind: 'chain-prepare', ...this.#ref(), ballot: this.#ballot() };
      case kinds['chain-promise']:
        return {
          kind: 'chain-promise',
          ...this.#ref(),
          ballot: this.#ballot(),
          isOpen: this.#flag(),
          waitMs: this.#duration(),
          promised: this.#ballotOrNull(),
          accepted: nullOr(this.#next(), acceptedConfig),
          floors: list(this.#next(), chainLimits.floorsMax, (item) => this.#floor(item)),
          floorRest: this.#counter(),
        };
      case kinds['chain-accept']: {
        const ref = this.#ref();
        const ballot = this.#ballot();
        return { kind: 'chain-accept', ...ref, ballot, config: voterConfig(this.#next()) };
      }
      case kinds['chain-accepted']:
        return {
          kind: 'chain-accepted',
          ...this.#ref(),
          ballot: this.#ballot(),
          hash: hash(this.#next()),
          isAccepted: this.#flag(),
          waitMs: this.#duration(),
          promised: this.#ballotOrNull(),
        };
      default:
        integer(this.#fields[0], 1, chainLimits.numberMax);
        return null;
    }
  }

  #promise(): Message {
    return {
      kind: 'promise',
      ...this.#header(),
      isOpen: this.#flag(),
      live: nullOr(this.#next(), (value) => {
        const [host, session, epoch, remainMs] = listOf(value);
        return {
          owner: this.#ownerAt(host, session),
          epoch: counter(epoch),
          remainMs: duration(remainMs),
        };
      }),
      maxEpoch: this.#counter(),
      maxEpochOwner: this.#ownerOrNull(),
      isReleased: this.#flag(),
      promisedCounter: this.#counter(),
      parkedBy: this.#ownerOrNull(),
    };
  }

  #header() {
    const ref = this.#ref();
    return { ...ref, name: leaseName(this.#next()), ballot: this.#ballot() };
  }

  #ref(): ConfigRef {
    return { env: this.#env(), generation: generation(this.#next()), n: number(this.#next()) };
  }

  #ballot(): Ballot {
    return this.#ballotAt(this.#next(), this.#next(), this.#next());
  }

  #ballotOrNull(): Ballot | null {
    return nullOr(this.#next(), (value) => {
      const [count, host, session] = listOf(value);
      return this.#ballotAt(count, host, session);
    });
  }

  #ballotAt(count: unknown, host: unknown, session: unknown): Ballot {
    return { counter: counter(count), ...this.#ownerAt(host, session) };
  }

  #owner(): Owner {
    return this.#ownerAt(this.#next(), this.#next());
  }

  #ownerOrNull(): Owner | null {
    return nullOr(this.#next(), (value) => {
      const [host, session] = listOf(value);
      return this.#ownerAt(host, session);
    });
  }

  #ownerAt(host: unknown, session: unknown): Owner {
    return { host: this.#hostAt(host), session: this.#sessionAt(session) };
  }

  #floor(value: unknown): LeaseFloor {
    const [name, epoch, host, session] = listOf(value);
    return { name: leaseName(name), epoch: counter(epoch), owner: this.#ownerAt(host, session) };
  }

  #hostAt(place: unknown): HostId {
    const at = this.#place(place);
    return (this.#hosts[at] ??= hostId(this.#strings[at]));
  }

  #sessionAt(place: unknown): string {
    const at = this.#place(place);
    return (this.#sessions[at] ??= sessionId(this.#strings[at]));
  }

  #env(): string {
    const at = this.#place(this.#next());
    return (this.#envs[at] ??= envName(this.#strings[at]));
  }

  #place(value: unknown): number {
    return integer(value, 0, this.#strings.length - 1);
  }

  #word<T extends string>(words: readonly T[]): T {
    return words[integer(this.#next(), 0, words.length - 1)] as T;
  }

  #flag(): boolean {
    return flag(this.#next());
  }

  #counter(): number {
    return counter(this.#next());
  }

  #duration(): number {
    return duration(this.#next());
  }

  #next(): unknown {
    return this.#fields[this.#at++];
  }
}

function handoverId(value: unknown): string {
  const id = text(value, 12);
  if (!/^[0-9a-f]{12}$/.test(id)) throw new Malformed('not the id of a handover');
  return id;
}
