/**
 * Directed links between guards: loss, repetition, reordering, cuts, and *parking*. Parking holds back every message of one
 * class (kind, destination, ballot) for up to three times the silence of an acceptor, so that it arrives after restarts,
 * releases and re-acquisitions; uniform delays hardly ever reach that deep. Source: PaxosLease Revisited, and section 3.2.2
 * of the design.
 */
import type { Message } from '../../../daemon/lease/messages.ts';
import type { Scheduler } from '../scheduler.ts';
import type { SimRandom } from '../sim-random.ts';

export interface LinkOptions {
  latencyMs: number;
  jitterMs: number;
  loss: number;
  duplicate: number;
  /** Chance that a message takes ten times as long. */
  slow: number;
  /** Chance that a class of messages is parked. */
  park: number;
  parkMsMax: number;
}

/** Classes that are remembered; then all are forgotten. */
const classesMax = 4_000;
/** Messages under way; beyond it they are lost. */
const underWayMax = 5_000;

/** A look at each message; false: it is lost. For scripted schedules. */
export type MessageRule = (from: number, to: number, message: Message) => 'pass' | 'drop' | 'hold';

export class LeaseNetwork {
  options: LinkOptions;
  readonly #scheduler: Scheduler;
  readonly #random: SimRandom;
  readonly #deliver: (from: number, to: number, message: Message) => void;
  readonly #count: number;
  readonly #cut: Uint8Array;
  readonly #parked = new Map<string, number>();
  readonly #held: { readonly from: number; readonly to: number; readonly message: Message }[] = [];
  #underWay = 0;
  rule: MessageRule | null = null;

  constructor(options: {
    readonly count: number;
    readonly scheduler: Scheduler;
    readonly random: SimRandom;
    readonly links: LinkOptions;
    readonly deliver: (from: number, to: number, message: Message) => void;
  }) {
    this.options = options.links;
    this.#count = options.count;
    this.#scheduler = options.scheduler;
    this.#random = options.random;
    this.#deliver = options.deliver;
    this.#cut = new Uint8Array(options.count * options.count);
  }

  /** One direction only. */
  setCut(from: number, to: number, isCut: boolean): void {
    this.#cut[from * this.#count + to] = isCut ? 1 : 0;
  }

  isCut(from: number, to: number): boolean {
    return this.#cut[from * this.#count + to] === 1;
  }

  partition(left: readonly number[], right: readonly number[]): void {
    for (const a of left)
      for (const b of right) {
        this.setCut(a, b, true);
        this.setCut(b, a, true);
      }
  }

  heal(): void {
    this.#cut.fill(0);
  }

  forgetClasses(): void {
    this.#parked.clear();
  }

  send(from: number, to: number, message: Message): void {
    if (this.rule !== null) {
      const verdict = this.rule(from, to, message);
      if (verdict === 'hold') this.#held.push({ from, to, message });
      if (verdict !== 'pass') return;
    }
    if (from !== to && this.#cut[from * this.#count + to] === 1) return;
    const { loss, duplicate } = this.options;
    if (from !== to && loss > 0 && this.#random.next() < loss) return;
    this.#travel(from, to, message);
    if (duplicate > 0 && this.#random.next() < duplicate) this.#travel(from, to, message);
  }

  /** Delivers now what a rule held back and `which` picks; the rest stays. */
  release(which: (from: number, to: number, message: Message) => boolean = () => true): number {
    const out = this.#held.filter(({ from, to, message }) => which(from, to, message));
    const rest = this.#held.filter(({ from, to, message }) => !which(from, to, message));
    this.#held.length = 0;
    this.#held.push(...rest);
    for (const { from, to, message } of out) this.#deliver(from, to, message);
    return out.length;
  }

  #travel(from: number, to: number, message: Message): void {
    if (this.#underWay >= underWayMax) return;
    const { latencyMs, jitterMs, slow, park } = this.options;
    const random = this.#random;
    let delayMs = from === to ? 0.01 : latencyMs + jitterMs * random.next();
    if (from !== to && slow > 0 && random.next() < slow) delayMs *= 10;
    if (park > 0 && from !== to) {
      const untilMs = this.#parkedUntil(to, message);
      if (untilMs > this.#scheduler.nowMs) delayMs += untilMs - this.#scheduler.nowMs;
    }
    this.#underWay++;
    this.#scheduler.after(delayMs, () => {
      this.#underWay--;
      // A message on its way through a link that is cut meanwhile may still arrive: delays know no bound.
      this.#deliver(from, to, message);
    });
  }

  #parkedUntil(to: number, message: Message): number {
    const ballot =
      'ballot' in message
        ? message.ballot.counter * 64 + (message.ballot.host.codePointAt(0) ?? 0)
        : 0;
    const key = `${message.kind}${to}/${ballot}`;
    let untilMs = this.#parked.get(key);
    if (untilMs === undefined) {
      if (this.#parked.size >= classesMax) this.#parked.clear();
      untilMs = this.#random.chance(this.options.park)
        ? this.#scheduler.nowMs + this.#random.between(0, this.options.parkMsMax)
        : 0;
      this.#parked.set(key, untilMs);
    }
    return untilMs;
  }
}
