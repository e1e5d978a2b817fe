/** Messages as the parts that travel, with what they name for the first time before them: see `codec.ts`. */
import { unhex } from '../../crdt/ids.ts';
import type { HostId } from '../../crdt/ids.ts';
import { invariant } from '../errors.ts';
import { ByteWriter } from './codec-bytes.ts';
import {
  codecLimits,
  definitions,
  kinds,
  learnStates,
  purposes,
  refusals,
  steps,
} from './codec-words.ts';
import { durationMsMax } from './fields.ts';
import type { ConfigRef, Message } from './messages.ts';
import type { Ballot, LeaseName, Owner } from './model.ts';

type Of<K extends Message['kind']> = Extract<Message, { kind: K }>;

/** One direction of one connection: remembers what the other end has been told. */
export class MessageWriter {
  /** The frame so far. */
  readonly frame = new ByteWriter();
  readonly #part = new ByteWriter();
  readonly #definition = new ByteWriter();
  readonly #envs = new Map<string, number>();
  readonly #links = new Map<string, number>();
  readonly #owners = new Map<string, number>();
  readonly #names = new Map<string, number>();
  /** Most messages of a frame are by the same owner under the same link. */
  #lastLink = { env: '', generation: -1, n: -1, place: 0 };
  #lastOwner = { host: '', session: '', place: 0 };

  message(message: Message): void {
    this.#makeRoom();
    this.#part.clear();
    this.#fields(message);
    this.#add(kinds[message.kind], this.#part);
  }

  #add(kind: number, part: ByteWriter): void {
    this.frame.number(kind);
    this.frame.part(part);
  }

  #fields(message: Message): void {
    const to = this.#part;
    switch (message.kind) {
      case 'prepare':
        this.#header(message);
        to.number(bits(message.isForced));
        return;
      case 'promise':
        this.#promise(message);
        return;
      case 'accept':
        this.#header(message);
        to.number(2 * purposes.indexOf(message.purpose) + bits(message.isForced));
        to.number(message.epoch);
        to.number(span(message.exclusionMs));
        if (message.unfenced.length > 0) this.#hosts(message.unfenced);
        return;
      case 'accepted':
        this.#header(message);
        to.number(2 * purposes.indexOf(message.purpose) + bits(message.isFull));
        return;
      case 'reject':
        this.#header(message);
        to.number(refusals.indexOf(message.why));
        to.number(message.promisedCounter);
        to.number(message.maxEpoch);
        to.number(span(message.remainMs));
        return;
      case 'release':
        this.#header(message);
        to.number(bits(message.successor !== null));
        if (message.successor !== null) to.raw(bytesOf(message.successor, 16));
        return;
      case 'learn':
      case 'watch':
      case 'expired':
      case 'handover':
        this.#hint(message);
        return;
      case 'config':
      case 'config-ask':
      case 'chain-prepare':
      case 'chain-promise':
      case 'chain-accept':
      case 'chain-accepted':
        this.#chain(message);
    }
  }

  #promise(message: Of<'promise'>): void {
    const { isOpen, live, maxEpoch, maxEpochOwner, isReleased, promisedCounter } = message;
    const { parkedBy, unfenced } = message;
    const to = this.#part;
    this.#header(message);
    to.number(bits(isOpen, isReleased, live !== null, maxEpochOwner !== null, parkedBy !== null));
    to.number(maxEpoch);
    to.number(promisedCounter);
    if (live !== null) {
      this.#owner(live.owner);
      to.number(live.epoch);
      to.number(span(live.remainMs));
    }
    if (maxEpochOwner !== null) this.#owner(maxEpochOwner);
    if (parkedBy !== null) this.#owner(parkedBy);
    if (unfenced !== null) this.#hosts(unfenced);
  }

  /** At the end of a part. */
  #hosts(hosts: readonly HostId[]): void {
    this.#part.number(hosts.length);
    for (const host of hosts) this.#part.raw(bytesOf(host, 16));
  }

  #hint(message: Of<'learn' | 'watch' | 'expired' | 'handover'>): void {
    const to = this.#part;
    to.number(this.#env(message.env));
    if (message.kind === 'watch') {
      to.number(message.names.length);
      for (const name of message.names) this.#name(name);
      return;
    }
    this.#name(message.name);
    to.number(message.epoch);
    if (message.kind === 'learn') {
      this.#owner(message.owner);
      to.number(span(message.remainMs));
      to.number(learnStates.indexOf(message.state));
    } else if (message.kind === 'handover') {
      to.number(steps.indexOf(message.step));
      to.raw(bytesOf(message.id, 6));
      to.raw(bytesOf(message.to, 16));
      to.text(message.reason.slice(0, codecLimits.reasonCharsMax));
    }
  }

  /** Rare and large: voter configurations are JSON. */
  #chain(
    message: Of<
      | 'config'
      | 'config-ask'
      | 'chain-prepare'
      | 'chain-promise'
      | 'chain-accept'
      | 'chain-accepted'
    >,
  ): void {
    const to = this.#part;
    if (message.kind === 'config') {
      to.text(JSON.stringify(message.chosen));
      return;
    }
    to.number(this.#link(message));
    if (message.kind === 'config-ask') return;
    this.#ballot(message.ballot);
    if (message.kind === 'chain-accept') to.text(JSON.stringify(message.config));
    if (message.kind === 'chain-promise') {
      const { isOpen, waitMs, promised, accepted, floors, floorRest } = message;
      to.number(bits(isOpen, promised !== null, accepted !== null));
      to.number(span(waitMs));
      to.number(floorRest);
      if (promised !== null) this.#ballot(promised);
      if (accepted !== null) to.text(JSON.stringify(accepted));
      to.text(JSON.stringify(floors));
    }
    if (message.kind === 'chain-accepted') {
      const { hash, isAccepted, waitMs, promised } = message;
      to.number(bits(isAccepted, promised !== null));
      to.number(span(waitMs));
      to.raw(bytesOf(hash, 32));
      if (promised !== null) this.#ballot(promised);
    }
  }

  #header(message: ConfigRef & { readonly name: LeaseName; readonly ballot: Ballot }): void {
    this.#part.number(this.#link(message));
    this.#name(message.name);
    this.#ballot(message.ballot);
  }

  #ballot(ballot: Ballot): void {
    this.#owner(ballot);
    this.#part.number(ballot.counter);
  }

  // ---- What is named by its place ---------------------------------------------------------------------------------------

  #env(env: string): number {
    return this.#envs.get(env) ?? this.#define(this.#envs, env, 'env', (to) => to.text(env));
  }

  #link({ env, generation, n }: ConfigRef): number {
    const last = this.#lastLink;
    if (last.n === n && last.generation === generation && last.env === env) return last.place;
    const key = `${generation} ${n} ${env}`;
    const place = this.#links.get(key) ?? this.#defineLink(key, { env, generation, n });
    this.#lastLink = { env, generation, n, place };
    return place;
  }

  #defineLink(key: string, { env, generation, n }: ConfigRef): number {
    const at = this.#env(env);
    return this.#define(this.#links, key, 'link', (to) => {
      to.number(at);
      to.number(generation);
      // -1 stands for no link at all.
      to.number(n + 1);
    });
  }

  #owner({ host, session }: Owner): void {
    const last = this.#lastOwner;
    if (last.host !== host || last.session !== session) {
      const key = host + session;
      const place =
        this.#owners.get(key) ??
        this.#define(this.#owners, key, 'owner', (to) => {
          to.raw(bytesOf(host, 16));
          to.raw(bytesOf(session, 12));
        });
      this.#lastOwner = { host, session, place };
    }
    this.#part.number(this.#lastOwner.place);
  }

  #name(name: LeaseName): void {
    const place =
      this.#names.get(name) ?? this.#define(this.#names, name, 'name', (to) => to.text(name));
    this.#part.number(place);
  }

  /** Stands in the frame before the message that is being written. */
  #define(
    places: Map<string, number>,
    key: string,
    kind: keyof typeof definitions,
    write: (to: ByteWriter) => void,
  ): number {
    this.#definition.clear();
    write(this.#definition);
    this.#add(definitions[kind], this.#definition);
    const place = places.size;
    places.set(key, place);
    return place;
  }

  /** Whatever one message may define fits from here on. */
  #makeRoom(): void {
    const { envsMax, linksMax, ownersMax, namesMax, watchNamesMax } = codecLimits;
    const hasRoom =
      this.#envs.size < envsMax &&
      this.#links.size < linksMax &&
      this.#owners.size + 4 <= ownersMax &&
      this.#names.size + watchNamesMax <= namesMax;
    if (hasRoom) return;
    this.#definition.clear();
    this.#add(definitions.forget, this.#definition);
    for (const places of [this.#envs, this.#links, this.#owners, this.#names]) places.clear();
    this.#lastLink = { env: '', generation: -1, n: -1, place: 0 };
    this.#lastOwner = { host: '', session: '', place: 0 };
  }
}

/** The first is the lowest. */
function bits(...flags: readonly boolean[]): number {
  return flags.reduce((sum, flag, place) => (flag ? sum + 2 ** place : sum), 0);
}

function bytesOf(text: string, count: number): Uint8Array {
  const bytes = unhex(text);
  invariant(bytes?.length === count, 'an identifier has its length');
  return bytes;
}

/** Whole milliseconds, never less than meant. */
function span(ms: number): number {
  return Math.min(durationMsMax, Math.max(0, Math.ceil(ms)));
}
