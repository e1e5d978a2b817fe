/**
 * Clock of one life of one host: it drifts by the host's rate, stands in no relation to other hosts' clocks, and starts
 * anew with each life (as `performance.now()` does). Only the wall clock jumps.
 */
import type { Clock, Timer } from '../../daemon/ports.ts';
import type { Life, SimHost } from './sim-host.ts';
import type { Scheduler } from './scheduler.ts';
import { traceKind, type Trace } from './trace.ts';

/** 2026-11-20T00:00:00Z: where simulated wall clocks begin, before their offsets. */
export const wallStartMs = 1_795_132_800_000;

/** No event loop is quicker than this; it also keeps fractions lost in sums from making a timer early. */
const latenessMs = 0.02;

export class SimClock implements Clock {
  readonly #host: SimHost;
  readonly #life: Life;
  readonly #scheduler: Scheduler;
  readonly #trace: Trace;
  #localMs: number;
  #sinceMs: number;
  #rate: number;

  constructor(options: {
    host: SimHost;
    life: Life;
    scheduler: Scheduler;
    trace: Trace;
    startMs: number;
  }) {
    this.#host = options.host;
    this.#life = options.life;
    this.#scheduler = options.scheduler;
    this.#trace = options.trace;
    this.#localMs = options.startMs;
    this.#sinceMs = options.scheduler.nowMs;
    this.#rate = options.host.rate;
  }

  monotonicMs(): number {
    const nowMs = this.#scheduler.nowMs;
    if (this.#rate !== this.#host.rate) {
      this.#localMs += (nowMs - this.#sinceMs) * this.#rate;
      this.#sinceMs = nowMs;
      this.#rate = this.#host.rate;
    }
    return this.#localMs + (nowMs - this.#sinceMs) * this.#rate;
  }

  wallMs(): number {
    return Math.floor(
      wallStartMs + this.#host.wallOffsetMs + this.#scheduler.nowMs * this.#host.rate,
    );
  }

  setTimer(delayMs: number, fire: () => void): Timer {
    const dueMs = this.monotonicMs() + Math.max(0, delayMs) + latenessMs;
    let isCancelled = false;
    const arm = (): void => {
      const left = (dueMs - this.monotonicMs()) / this.#host.rate;
      // The rate may change and division rounds: look again rather than fire early.
      this.#scheduler.after(Math.max(left, 0), () => {
        if (!isCancelled && this.#life.isAlive) this.#host.deliver('timer', this.#life, due);
      });
    };
    const due = (): void => {
      if (isCancelled) return;
      if (this.monotonicMs() < dueMs - latenessMs / 2) {
        arm();
        return;
      }
      isCancelled = true;
      this.#trace.mix(traceKind.timer, this.#host.index, this.#scheduler.nowMs, 0);
      fire();
    };
    arm();
    return { cancel: () => void (isCancelled = true) };
  }
}
