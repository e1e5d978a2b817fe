/** A clock that the test moves. */
import type { Clock, Timer } from '../../../daemon/ports.ts';

export class ManualClock implements Clock {
  nowMs = 0;
  #timers: { dueMs: number; fire: () => void }[] = [];

  monotonicMs(): number {
    return this.nowMs;
  }

  wallMs(): number {
    return this.nowMs;
  }

  setTimer(delayMs: number, fire: () => void): Timer {
    const timer = { dueMs: this.nowMs + delayMs, fire };
    this.#timers.push(timer);
    return { cancel: () => void (this.#timers = this.#timers.filter((one) => one !== timer)) };
  }

  /** Delays until the timers that are set now, shortest first. */
  pending(): readonly number[] {
    return this.#timers.map((timer) => timer.dueMs - this.nowMs).toSorted((a, b) => a - b);
  }

  /** Fires what is due on the way, and lets promises settle in between. */
  async advance(byMs: number): Promise<void> {
    const endMs = this.nowMs + byMs;
    await settled();
    for (;;) {
      const [next] = this.#timers.toSorted((a, b) => a.dueMs - b.dueMs);
      if (next === undefined || next.dueMs > endMs) break;
      this.#timers = this.#timers.filter((one) => one !== next);
      this.nowMs = next.dueMs;
      next.fire();
      await settled();
    }
    this.nowMs = endMs;
  }
}

/** All promise chains that wait for nothing else have run. */
export function settled(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
