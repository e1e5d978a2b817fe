/**
 * Local health multiplier of Lifeguard: how much we distrust ourselves. A node that misses answers it should have got,
 * is suspected by others, or finds its own timers late, probes more slowly and waits longer before it accuses anybody.
 */
export const healthScoreMax = 8;

export class LocalHealth {
  #score = 0;

  /** 0 is healthy. */
  get score(): number {
    return this.#score;
  }

  worsen(by: number): void {
    this.#score = Math.min(healthScoreMax, this.#score + by);
  }

  improve(): void {
    this.#score = Math.max(0, this.#score - 1);
  }

  /** Probe interval and probe timeout are stretched by this. */
  scaled(durationMs: number): number {
    return durationMs * (this.#score + 1);
  }
}
