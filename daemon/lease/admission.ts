/**
 * How many leases a guard tries to take at the same time.
 *
 * Every attempt is some messages to every voter, and one that is answered too late is made again: guards that try hundreds of
 * leases at once keep each other and the voters too busy to answer any in time, renewals too, and that never ends by itself. So
 * further leases wait, in the order in which their turns came. As with TCP, the window is halved when an attempt took so long
 * that its messages were repeated, and grows by one with each that did not.
 *
 * Nothing here matters to safety: who is kept waiting has only asked nobody yet. Renewals, parks and what somebody waits for
 * (a command, a handover, force) are not kept waiting.
 */
import type { LeaseName } from './model.ts';

export const admissionLimits = Object.freeze({
  /** Attempts under way at once. */
  windowMin: 4,
  windowMax: 32,
  /** What was under way together is late together: halved once for it. */
  halvedMsMin: 300,
});

export class Admission {
  readonly #windowMax: number;
  #window: number;
  #halvedMs = -Infinity;
  /** Tries that began and are not known to have ended. */
  readonly #trying = new Set<LeaseName>();
  /** In the order in which their turns came. At most one of each lease. */
  readonly #waiting = new Set<LeaseName>();
  readonly #called = new Set<LeaseName>();

  constructor(windowMax: number = admissionLimits.windowMax) {
    this.#windowMax = windowMax;
    this.#window = windowMax;
  }

  get window(): number {
    return this.#window;
  }

  isWaiting(name: LeaseName): boolean {
    return this.#waiting.has(name);
  }

  /** Its turn has come. False: it waits, and is called. */
  enter(name: LeaseName, isUrgent: boolean): boolean {
    const hasRoom = this.#waiting.size === 0 && this.#trying.size < this.#window;
    if (!isUrgent && !hasRoom && !this.#called.has(name)) {
      this.#waiting.add(name);
      return false;
    }
    this.leave(name);
    this.#trying.add(name);
    return true;
  }

  /** It is not its turn any more. */
  leave(name: LeaseName): void {
    this.#waiting.delete(name);
    this.#called.delete(name);
  }

  /** Those for whom there is room now: each enters, or has lost interest. */
  call(isTrying: (name: LeaseName) => boolean): readonly LeaseName[] {
    this.#called.clear();
    if (this.#waiting.size === 0) return none;
    for (const name of this.#trying) if (!isTrying(name)) this.#trying.delete(name);
    for (const name of this.#waiting) {
      if (this.#trying.size + this.#called.size >= this.#window) break;
      this.#waiting.delete(name);
      this.#called.add(name);
    }
    return this.#called.size === 0 ? none : [...this.#called];
  }

  /** An attempt came to its end. `isLate`: so late that its messages were repeated meanwhile. */
  onEnd(isLate: boolean, nowMs: number): void {
    if (!isLate) {
      this.#window = Math.min(this.#window + 1, this.#windowMax);
      return;
    }
    if (nowMs - this.#halvedMs < admissionLimits.halvedMsMin) return;
    this.#halvedMs = nowMs;
    const windowMin = Math.min(admissionLimits.windowMin, this.#windowMax);
    this.#window = Math.max(Math.floor(this.#window / 2), windowMin);
  }
}

const none: readonly LeaseName[] = Object.freeze([]);
