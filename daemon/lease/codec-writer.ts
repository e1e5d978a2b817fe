/** Messages as the lists that travel: see `codec.ts`. */
import { codecLimits, kinds, learnStates, purposes, refusals, steps } from './codec-words.ts';
import { durationMsMax } from './fields.ts';
import type { ConfigRef, Message } from './messages.ts';
import type { Ballot, Owner } from './model.ts';

type Of<K extends Message['kind']> = Extract<Message, { kind: K }>;

/** Of one frame: what stands once in it is remembered over its messages. */
export class MessageWriter {
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
