/** Parts of frames that a peer sent, checked field by field into messages: see `codec.ts`. Throws `Malformed` and nothing else. */
import type { HostId } from '../../crdt/ids.ts';
import type { ByteReader } from './codec-bytes.ts';
import {
  codecLimits,
  definitions,
  kindMax,
  kinds,
  learnStates,
  purposes,
  refusals,
  steps,
} from './codec-words.ts';
import {
  Malformed,
  acceptedConfig,
  chosenConfig,
  durationMsMax,
  envName,
  floorList,
  leaseName,
  text,
  voterConfig,
} from './fields.ts';
import type { ConfigRef, Message } from './messages.ts';
import { leaseLimits } from './model.ts';
import type { Ballot, LeaseName, Owner } from './model.ts';
import { chainLimits } from './voter-config.ts';

const { counterMax, nameCharsMax, frameBytesMax, unfencedMax } = leaseLimits;

/** One direction of one connection: remembers what it has been told. What was defined is checked once, then only named. */
export class MessageReader {
  readonly #envs: string[] = [];
  readonly #links: ConfigRef[] = [];
  readonly #owners: Owner[] = [];
  readonly #names: LeaseName[] = [];
  #marksLeft = 0;
  #watchesLeft = 0;

  begin(): void {
    this.#marksLeft = codecLimits.marksMax;
    this.#watchesLeft = codecLimits.watchedMax;
  }

  /** Null: a definition, or a message of a kind that is not known here. */
  part(from: ByteReader): Message | null {
    const kind = from.number(kindMax);
    return from.part(() => this.#message(kind, from) ?? this.#define(kind, from));
  }

  #message(kind: number, from: ByteReader): Message | null {
    switch (kind) {
      case kinds.prepare:
        return { kind: 'prepare', ...this.#header(from), isForced: from.number(1) === 1 };
      case kinds.promise:
        return this.#promise(from);
      case kinds.accept: {
        const header = this.#header(from);
        const word = from.number(2 * purposes.length - 1);
        return {
          kind: 'accept',
          ...header,
          purpose: purposes[word >> 1]!,
          epoch: from.number(counterMax),
          exclusionMs: from.number(durationMsMax),
          isForced: (word & 1) === 1,
          unfenced: from.isAtEnd ? [] : hosts(from),
        };
      }
      case kinds.accepted: {
        const header = this.#header(from);
        const word = from.number(2 * purposes.length - 1);
        const isFull = (word & 1) === 1;
        return { kind: 'accepted', ...header, purpose: purposes[word >> 1]!, isFull };
      }
      case kinds.reject:
        return {
          kind: 'reject',
          ...this.#header(from),
          why: wordOf(refusals, from),
          promisedCounter: from.number(counterMax),
          maxEpoch: from.number(counterMax),
          remainMs: from.number(durationMsMax),
        };
      case kinds.release: {
        const header = this.#header(from);
        const successor = from.number(1) === 1 ? (from.hex(16) as HostId) : null;
        return { kind: 'release', ...header, successor };
      }
      default:
        return this.#hint(kind, from) ?? this.#chain(kind, from);
    }
  }

  #promise(from: ByteReader): Message {
    const header = this.#header(from);
    const flags = from.number(31);
    const maxEpoch = from.number(counterMax);
    const promisedCounter = from.number(counterMax);
    const live =
      (flags & 4) === 0
        ? null
        : {
            owner: this.#owner(from),
            epoch: from.number(counterMax),
            remainMs: from.number(durationMsMax),
          };
    const maxEpochOwner = (flags & 8) === 0 ? null : this.#owner(from);
    const parkedBy = (flags & 16) === 0 ? null : this.#owner(from);
    return {
      kind: 'promise',
      ...header,
      isOpen: (flags & 1) !== 0,
      live,
      maxEpoch,
      maxEpochOwner,
      isReleased: (flags & 2) !== 0,
      promisedCounter,
      parkedBy,
      unfenced: from.isAtEnd ? null : hosts(from),
    };
  }

  /** Messages without a ballot of a lease. */
  #hint(kind: number, from: ByteReader): Message | null {
    switch (kind) {
      case kinds.learn: {
        const head = { ...this.#lease(from), epoch: from.number(counterMax) };
        const owner = this.#owner(from);
        const remainMs = from.number(durationMsMax);
        return { kind: 'learn', ...head, owner, remainMs, state: wordOf(learnStates, from) };
      }
      case kinds.watch:
        return { kind: 'watch', env: placeOf(this.#envs, from), names: this.#watched(from) };
      case kinds.expired:
        return { kind: 'expired', ...this.#lease(from), epoch: from.number(counterMax) };
      case kinds.handover:
        return {
          kind: 'handover',
          ...this.#lease(from),
          epoch: from.number(counterMax),
          step: wordOf(steps, from),
          id: from.hex(6),
          to: from.hex(16) as HostId,
          reason: text(from.text(frameBytesMax), codecLimits.reasonCharsMax),
        };
      default:
        return null;
    }
  }

  #watched(from: ByteReader): LeaseName[] {
    const count = from.number(codecLimits.watchNamesMax);
    this.#watchesLeft -= count;
    if (this.#watchesLeft < 0) throw new Malformed('too many names');
    return Array.from({ length: count }, () => placeOf(this.#names, from));
  }

  #chain(kind: number, from: ByteReader): Message | null {
    switch (kind) {
      case kinds.config:
        return { kind: 'config', chosen: chosenConfig(this.#json(from)) };
      case kinds['config-ask']:
        return { kind: 'config-ask', ...placeOf(this.#links, from) };
      case kinds['chain-prepare']:
        return { kind: 'chain-prepare', ...this.#chainHead(from) };
      case kinds['chain-promise']: {
        const head = this.#chainHead(from);
        const flags = from.number(7);
        const waitMs = from.number(durationMsMax);
        const floorRest = from.number(counterMax);
        return {
          kind: 'chain-promise',
          ...head,
          isOpen: (flags & 1) !== 0,
          waitMs,
          promised: (flags & 2) === 0 ? null : this.#ballot(from),
          accepted: (flags & 4) === 0 ? null : acceptedConfig(this.#json(from)),
          floors: floorList(this.#json(from)),
          floorRest,
        };
      }
      case kinds['chain-accept']: {
        const head = this.#chainHead(from);
        return { kind: 'chain-accept', ...head, config: voterConfig(this.#json(from)) };
      }
      case kinds['chain-accepted']: {
        const head = this.#chainHead(from);
        const flags = from.number(3);
        return {
          kind: 'chain-accepted',
          ...head,
          isAccepted: (flags & 1) !== 0,
          waitMs: from.number(durationMsMax),
          hash: from.hex(32),
          promised: (flags & 2) === 0 ? null : this.#ballot(from),
        };
      }
      default:
        return null;
    }
  }

  #define(kind: number, from: ByteReader): null {
    const { envsMax, linksMax, ownersMax, namesMax } = codecLimits;
    switch (kind) {
      case definitions.forget:
        for (const places of [this.#envs, this.#links, this.#owners, this.#names])
          places.length = 0;
        break;
      case definitions.env:
        add(this.#envs, envsMax, envName(from.text(nameCharsMax)));
        break;
      case definitions.link: {
        const env = placeOf(this.#envs, from);
        const generation = from.number(chainLimits.numberMax);
        add(this.#links, linksMax, {
          env,
          generation,
          n: from.number(chainLimits.numberMax + 1) - 1,
        });
        break;
      }
      case definitions.owner:
        add(this.#owners, ownersMax, { host: from.hex(16) as HostId, session: from.hex(12) });
        break;
      case definitions.name:
        add(this.#names, namesMax, leaseName(from.text(nameCharsMax)));
    }
    return null;
  }

  #header(from: ByteReader): ConfigRef & { readonly name: LeaseName; readonly ballot: Ballot } {
    const { env, generation, n } = placeOf(this.#links, from);
    const name = placeOf(this.#names, from);
    return { env, generation, n, name, ballot: this.#ballot(from) };
  }

  #chainHead(from: ByteReader): ConfigRef & { readonly ballot: Ballot } {
    const { env, generation, n } = placeOf(this.#links, from);
    return { env, generation, n, ballot: this.#ballot(from) };
  }

  #lease(from: ByteReader): { readonly env: string; readonly name: LeaseName } {
    return { env: placeOf(this.#envs, from), name: placeOf(this.#names, from) };
  }

  #ballot(from: ByteReader): Ballot {
    const { host, session } = this.#owner(from);
    return { counter: from.number(counterMax), host, session };
  }

  #owner(from: ByteReader): Owner {
    return placeOf(this.#owners, from);
  }

  #json(from: ByteReader): unknown {
    const json = from.text(frameBytesMax);
    for (const char of json) if (char === ',' || char === '[' || char === '{') this.#marksLeft--;
    if (this.#marksLeft < 0) throw new Malformed('too many values');
    try {
      return JSON.parse(json) as unknown;
    } catch (error) {
      if (error instanceof SyntaxError) throw new Malformed('not JSON');
      throw error;
    }
  }
}

function add<T>(places: T[], max: number, value: T): void {
  if (places.length >= max) throw new Malformed('too much to remember');
  places.push(value);
}

/** What was defined, by its place. */
function placeOf<T>(places: readonly T[], from: ByteReader): T {
  if (places.length === 0) throw new Malformed('a place of nothing');
  return places[from.number(places.length - 1)]!;
}

function hosts(from: ByteReader): HostId[] {
  return Array.from({ length: from.number(unfencedMax) }, () => from.hex(16) as HostId);
}

function wordOf<T extends string>(words: readonly T[], from: ByteReader): T {
  return words[from.number(words.length - 1)]!;
}
