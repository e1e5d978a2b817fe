/**
 * The guard's clocks, read once per event.
 *
 * CLOCK_MONOTONIC comes from `process.hrtime`, CLOCK_BOOTTIME from /proc/uptime (10 ms steps, an open descriptor, so that
 * no path is looked up on the way). Holders count on the larger of both: a suspend of the host uses up their authority.
 * The wall clock is only watched.
 */
import { openSync, readFileSync, readSync } from 'node:fs';
import type { Instant } from '../model.ts';

/** How far two clocks may move apart between two looks before that means something. */
export const jumpMs = 500;

const uptimeFile = '/proc/uptime';
const bootIdFile = '/proc/sys/kernel/random/boot_id';

/** What the kernel says; tests put their own numbers here. */
export interface RawClocks {
  monoMs(): number;
  bootMs(): number;
  wallMs(): number;
}

export type ClockJump = 'suspend' | 'wall';

export class Clocks {
  readonly #raw: RawClocks;
  #lastAuthorityMs = 0;
  #lastMonoMs = 0;
  #bootAheadMs: number;
  #wallAheadMs: number;

  constructor(raw: RawClocks = kernelClocks()) {
    this.#raw = raw;
    const monoMs = raw.monoMs();
    this.#bootAheadMs = raw.bootMs() - monoMs;
    this.#wallAheadMs = raw.wallMs() - monoMs;
  }

  /** Never goes back, on either clock. */
  now(): Instant {
    const monoMs = Math.max(this.#lastMonoMs, this.#raw.monoMs());
    const authorityMs = Math.max(this.#lastAuthorityMs, monoMs, this.#raw.bootMs());
    this.#lastMonoMs = monoMs;
    this.#lastAuthorityMs = authorityMs;
    return { monoMs, authorityMs };
  }

  monoMs(): number {
    return this.#raw.monoMs();
  }

  /** BOOTTIME minus MONOTONIC, which grows with every suspend of this boot. */
  get bootAheadMs(): number {
    return this.#bootAheadMs;
  }

  /**
   * Compares the clocks with the last look. `suspend`: the boot clock gained on the monotonic one, so the host slept.
   * `wall`: the wall clock was set, or the host was paused from outside and then told the time.
   */
  jump(): ClockJump | null {
    const { boot, wall } = this.#gaps();
    this.#bootAheadMs += boot;
    // Slow drift between two looks is followed, since only a step counts.
    this.#wallAheadMs += wall;
    if (Math.abs(boot) > jumpMs) return 'suspend';
    return Math.abs(wall) > jumpMs ? 'wall' : null;
  }

  /** Whether `jump` would say so; changes nothing. */
  hasJumped(): boolean {
    const { boot, wall } = this.#gaps();
    return Math.abs(boot) > jumpMs || Math.abs(wall) > jumpMs;
  }

  #gaps(): { boot: number; wall: number } {
    // The monotonic clock is read on both sides of the others, so that being preempted between the reads is not a jump.
    const beforeMs = this.#raw.monoMs();
    const bootMs = this.#raw.bootMs();
    const wallMs = this.#raw.wallMs();
    const afterMs = this.#raw.monoMs();
    return {
      boot: gap(bootMs, beforeMs, afterMs, this.#bootAheadMs),
      wall: gap(wallMs, beforeMs, afterMs, this.#wallAheadMs),
    };
  }
}

/** How far `clockMs` left the place where it would be if it had moved with the monotonic clock. */
function gap(clockMs: number, beforeMs: number, afterMs: number, aheadMs: number): number {
  const early = clockMs - beforeMs - aheadMs;
  const late = clockMs - afterMs - aheadMs;
  if (late > 0) return late;
  return early < 0 ? early : 0;
}

/** 'Boot id' of this boot of the host; a testbed binds another file over it or names one. */
export function readBootId(env: Readonly<Record<string, string | undefined>>): string {
  return readFileSync(env['TRELLIS_BOOT_ID_PATH'] ?? bootIdFile, 'utf8').trim();
}

export function kernelClocks(): RawClocks {
  const fd = openSync(uptimeFile, 'r');
  const buffer = Buffer.alloc(64);
  return {
    monoMs: () => Number(process.hrtime.bigint() / 1_000n) / 1_000,
    bootMs: () => {
      const length = readSync(fd, buffer, 0, buffer.length, 0);
      return Number.parseFloat(buffer.toString('latin1', 0, length)) * 1_000;
    },
    wallMs: () => Date.now(),
  };
}
