/** Lists that a peer sent, checked field by field into messages: see `codec.ts`. Throws `Malformed` and nothing else. */
import type { HostId } from '../../crdt/ids.ts';
import { codecLimits, kinds, learnStates, purposes, refusals, steps } from './codec-words.ts';
import {
  Malformed,
  acceptedConfig,
  chosenConfig,
  counter,
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
import type { Ballot, LeaseFloor, Owner } from './model.ts';
import { chainLimits } from './voter-config.ts';

/** Reads one message after another; every string of the frame is checked once for what it is used as. */
export class MessageReader {
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
