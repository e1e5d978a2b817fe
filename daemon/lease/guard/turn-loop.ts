/**
 * Turns: everything that came is handed to the core in order, then what the core wants is carried out. One wake-up is set:
 * for the core's next deadline, and every `tickMs` while a gate is open. A wake-up that comes late costs availability only.
 */
import { tickMs, type CoreEffect, type CoreEvent } from '../core-api.ts';
import type { GuardStatus } from '../guard-api.ts';
import type { Instant } from '../model.ts';
import type { Clocks } from './clocks.ts';

/** What the process needs of `GuardCore`. */
export interface Core {
  handle(event: CoreEvent, now: Instant): readonly CoreEffect[];
  /** On the monotonic clock; Infinity: none. */
  nextDeadlineMs(): number;
  /** `wallMs`: of the wall clock, for times that only people read. */
  status(now: Instant, wallMs: number): GuardStatus;
  volatileState(): unknown;
}

/** The rest waits for the next turn, so that no flood keeps effects back. */
const eventsPerTurnMax = 1_024;
/** Longest sleep: the clocks are compared at least so often. */
const idleMs = 1_000;
/** So often the core is asked although it has named a later deadline. */
const wakesPerTick = 10;

interface Queued {
  readonly event: CoreEvent;
  readonly then: readonly CoreEffect[];
}

export class TurnLoop {
  readonly #core: Core;
  readonly #clocks: Clocks;
  readonly #run: (effects: readonly CoreEffect[]) => void;
  readonly #isGateOpen: () => boolean;
  readonly #afterTurn: (events: readonly CoreEvent[], effects: readonly CoreEffect[]) => void;
  readonly #queue: Queued[] = [];
  #timer: NodeJS.Timeout | null = null;
  #wakeAtMs = 0;
  #isScheduled = false;
  #isStopped = false;
  /** Longest delay of a wake-up so far, milliseconds. */
  latenessMs = 0;
  turns = 0;
  #wakes = 0;

  constructor(options: {
    readonly core: Core;
    readonly clocks: Clocks;
    readonly run: (effects: readonly CoreEffect[]) => void;
    readonly isGateOpen: () => boolean;
    readonly afterTurn: (events: readonly CoreEvent[], effects: readonly CoreEffect[]) => void;
  }) {
    this.#core = options.core;
    this.#clocks = options.clocks;
    this.#run = options.run;
    this.#isGateOpen = options.isGateOpen;
    this.#afterTurn = options.afterTurn;
  }

  enqueue(event: CoreEvent, then: readonly CoreEffect[] = []): void {
    this.#queue.push({ event, then });
    this.#schedule();
  }

  /** The first turn: an unmoved clock and a tick. */
  start(): void {
    this.enqueue({ kind: 'tick' });
  }

  stop(): void {
    this.#isStopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  /** At the end of this pass over the sockets: what came together is handled together. */
  #schedule(): void {
    if (this.#isScheduled || this.#isStopped) return;
    this.#isScheduled = true;
    setImmediate(() => {
      this.#isScheduled = false;
      if (!this.#isStopped) this.#turn();
    });
  }

  #turn(): void {
    this.turns += 1;
    const batch = this.#queue.splice(0, eventsPerTurnMax);
    // Before anything else: what came over a suspend of this host must not be taken for news.
    const jump = this.#clocks.jump();
    if (jump !== null) batch.unshift({ event: { kind: 'clock', what: jump }, then: [] });
    const effects: CoreEffect[] = [];
    for (const { event, then } of batch) {
      effects.push(...this.#core.handle(event, this.#clocks.now()), ...then);
    }
    this.#run(effects);
    this.#afterTurn(
      batch.map(({ event }) => event),
      effects,
    );
    if (this.#queue.length > 0) this.#schedule();
    this.#setWake();
  }

  #setWake(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    const nowMs = this.#clocks.monoMs();
    const ticksMs = this.#isGateOpen() ? tickMs : idleMs;
    const delayMs = Math.max(0, Math.min(this.#core.nextDeadlineMs() - nowMs, ticksMs));
    this.#wakeAtMs = nowMs + delayMs;
    this.#timer = setTimeout(() => this.#wake(), Math.ceil(delayMs));
  }

  #wake(): void {
    this.#timer = null;
    const nowMs = this.#clocks.monoMs();
    this.latenessMs = Math.max(this.latenessMs, nowMs - this.#wakeAtMs);
    this.#wakes += 1;
    // Most wake-ups find that no clock jumped and no deadline came: they cost microseconds, a turn costs a tenth of a millisecond.
    const isDue = nowMs >= this.#core.nextDeadlineMs() || this.#wakes % wakesPerTick === 0;
    if (!isDue && this.#queue.length === 0 && !this.#clocks.hasJumped()) {
      this.#setWake();
      return;
    }
    this.#queue.push({ event: { kind: 'tick' }, then: [] });
    // Not `setImmediate`: deadlines come first, and messages that wait in the sockets after them.
    this.#turn();
  }
}
