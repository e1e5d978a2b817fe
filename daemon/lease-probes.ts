/**
 * Is this host fit to hold what it holds? Looked at while something is held: an engine that hangs, or a disk that does not
 * take a write, keeps a holder that is of no use. Nothing is fenced for it; the guard hands over when a candidate is ready.
 */
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import type { Clock, Log, Timer } from './ports.ts';

const probeEveryMs = 1_000;
/** A write that has not reached the disk after this is a failing disk. */
const diskLimitMs = 5_000;
/** An engine that hangs comes back or does not; one that is gone is being restarted most of the time. */
const engineHungMs = 5_000;
const engineAbsentMs = 30_000;

export interface LeaseProbesOptions {
  readonly stateDir: string;
  readonly clock: Clock;
  readonly log: Log;
  engine(): 'ok' | 'absent' | 'hung';
  /** Nothing is probed while nothing is held. */
  isNeeded(): boolean;
  onChange(): void;
}

export class LeaseProbes {
  readonly #options: LeaseProbesOptions;
  #timer: Timer | null = null;
  #writeSinceMs: number | null = null;
  #lastWriteFailed = false;
  #engineBadSinceMs: number | null = null;
  #failing: readonly string[] = [];
  #isStopped = false;

  constructor(options: LeaseProbesOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer = this.#options.clock.setTimer(probeEveryMs, () => {
      this.#look();
      if (!this.#isStopped) this.start();
    });
  }

  stop(): void {
    this.#isStopped = true;
    this.#timer?.cancel();
  }

  /** Names, sorted: 'disk', 'engine'. */
  failing(): readonly string[] {
    return this.#failing;
  }

  #look(): void {
    const isNeeded = this.#options.isNeeded();
    const nowMs = this.#options.clock.monotonicMs();
    const engine = this.#options.engine();
    this.#engineBadSinceMs =
      engine === 'ok' || !isNeeded ? null : (this.#engineBadSinceMs ?? nowMs);
    const engineLimitMs = engine === 'hung' ? engineHungMs : engineAbsentMs;
    if (isNeeded && this.#writeSinceMs === null) void this.#write(nowMs);
    const isDiskSlow = this.#writeSinceMs !== null && nowMs - this.#writeSinceMs >= diskLimitMs;
    const isEngineBad =
      this.#engineBadSinceMs !== null && nowMs - this.#engineBadSinceMs >= engineLimitMs;
    const isDiskBad = isNeeded && (isDiskSlow || this.#lastWriteFailed);
    const failing = [...(isDiskBad ? ['disk'] : []), ...(isEngineBad ? ['engine'] : [])];
    if (failing.join() === this.#failing.join()) return;
    this.#options.log.warn('lease.probes', { failing });
    this.#failing = failing;
    this.#options.onChange();
  }

  /** One at a time: on a disk that hangs they would pile up. */
  async #write(nowMs: number): Promise<void> {
    this.#writeSinceMs = nowMs;
    try {
      const file = await open(join(this.#options.stateDir, probeFile), 'w', 0o600);
      try {
        await file.write(`${Math.round(nowMs)}\n`);
        await file.datasync();
      } finally {
        await file.close();
      }
      this.#lastWriteFailed = false;
    } catch (error) {
      if (!this.#lastWriteFailed)
        this.#options.log.warn('lease.disk-probe-failed', { error: String(error) });
      this.#lastWriteFailed = true;
    } finally {
      this.#writeSinceMs = null;
    }
  }
}

const probeFile = 'lease-probe';
