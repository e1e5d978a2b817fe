/** Services that did not come up here under their lease: not tried here again for a while, or until they were changed. */
import type { Epoch, LeaseName } from './lease/model.ts';

/** Tried here again after this. */
export const startFailureMs = 15 * 60_000;
const startFailuresMax = 4_096;

export interface StartFailure {
  readonly epoch: Epoch;
  readonly why: string;
  /** Instance that failed, and of which description. */
  readonly item: string;
  readonly spec: string;
}

export class StartFailures {
  readonly #failures = new Map<LeaseName, StartFailure & { readonly untilMs: number }>();

  get isEmpty(): boolean {
    return this.#failures.size === 0;
  }

  /** False: known already. */
  add(lease: LeaseName, failure: StartFailure, nowMs: number): boolean {
    if (this.#failures.get(lease)?.epoch === failure.epoch) return false;
    // Beyond it nothing is remembered: what still fails says so again.
    if (this.#failures.size >= startFailuresMax) this.#failures.clear();
    this.#failures.set(lease, { ...failure, untilMs: nowMs + startFailureMs });
    return true;
  }

  /** Why, by lease. `specs`: of the instances as they are wanted now. */
  current(specs: ReadonlyMap<string, string>, nowMs: number): ReadonlyMap<LeaseName, string> {
    for (const [lease, { item, spec, untilMs }] of this.#failures) {
      const isChanged = specs.has(item) && specs.get(item) !== spec;
      if (nowMs >= untilMs || isChanged) this.#failures.delete(lease);
    }
    return new Map([...this.#failures].map(([lease, { why }]) => [lease, why]));
  }
}
