/**
 * A token bucket for bytes that may wait. Blobs pass through one, shared by all transfers of this host: unpaced, they
 * fill the event loop and every other request waits (0.2 ms becomes 48 ms).
 */
import { setTimeout as pause } from 'node:timers/promises';

export class Pacer {
  readonly #bytesPerMs: number;
  readonly #burstBytes: number;
  /** When everything let through so far has been paid for. */
  #paidUntilMs = 0;

  constructor(bytesPerSecond: number, burstBytes: number) {
    this.#bytesPerMs = bytesPerSecond / 1_000;
    this.#burstBytes = burstBytes;
  }

  /** Resolves when `bytes` may go; in call order. */
  async take(bytes: number, signal?: AbortSignal): Promise<void> {
    const nowMs = performance.now();
    this.#paidUntilMs = Math.max(this.#paidUntilMs, nowMs - this.#burstBytes / this.#bytesPerMs);
    this.#paidUntilMs += bytes / this.#bytesPerMs;
    const waitMs = this.#paidUntilMs - nowMs;
    if (waitMs >= 1)
      await pause(Math.floor(waitMs), undefined, signal === undefined ? {} : { signal });
  }
}
