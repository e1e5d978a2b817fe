/**
 * Harder means than a gate.
 *
 * - `Watchdog`: the hardware timer is petted only while every lease that asks for it is valid here or verified stopped, so
 *   that a host which can do neither is reset.
 * - `fenceByPanic`: the kernel is told to reboot at once, without sync. Only where the operator allowed it.
 * - `runFenceCommand`: the winner's command against the host that held before; no shell, with a time limit.
 */
import { execFile } from 'node:child_process';
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { reasonOf } from '../../errors.ts';
import type { HostId } from '../../../crdt/ids.ts';
import type { LeaseName } from '../model.ts';
import type { Log } from '../../ports.ts';

/** The kernel's drivers take between 10 s and a minute; a second is safe for all of them. */
export const petMs = 1_000;
const fenceLimitMs = 30_000;
const fenceOutputBytesMax = 16 << 10;

interface Armed {
  /** On the authority clock; null: no authority. */
  untilMs: number | null;
  /** The gate was verified frozen or empty since. */
  isStopped: boolean;
}

export class Watchdog {
  readonly #path: string;
  readonly #log: Log;
  readonly #armed = new Map<LeaseName, Armed>();
  #fd: number | null = null;
  #isFailed = false;
  #lastPetMs = 0;
  pets = 0;

  constructor(path: string, log: Log) {
    this.#path = path;
    this.#log = log;
  }

  /** Leases with `fence: 'watchdog'`. With the first one the device is opened, which starts it. */
  setLeases(names: readonly LeaseName[]): void {
    for (const name of this.#armed.keys()) if (!names.includes(name)) this.#armed.delete(name);
    for (const name of names) {
      if (!this.#armed.has(name)) this.#armed.set(name, { untilMs: null, isStopped: true });
    }
    if (names.length > 0 && this.#fd === null) this.#open();
    if (names.length === 0) this.close();
  }

  /** The gate is about to be opened, or authority grew. */
  extend(name: LeaseName, untilMs: number | null): void {
    const armed = this.#armed.get(name);
    if (armed !== undefined) armed.untilMs = untilMs;
  }

  running(name: LeaseName): void {
    const armed = this.#armed.get(name);
    if (armed !== undefined) armed.isStopped = false;
  }

  stopped(name: LeaseName): void {
    const armed = this.#armed.get(name);
    if (armed !== undefined) armed.isStopped = true;
  }

  /** Cheap; to be called often. Both on the authority clock. */
  pet(nowMs: number): void {
    if (this.#fd === null || nowMs - this.#lastPetMs < petMs) return;
    for (const { untilMs, isStopped } of this.#armed.values()) {
      if (!isStopped && (untilMs === null || nowMs >= untilMs)) return;
    }
    this.#lastPetMs = nowMs;
    try {
      writeSync(this.#fd, '1');
      this.pets += 1;
    } catch (error) {
      this.#fail(error);
    }
  }

  /** The magic letter: closing is meant, the timer stops. */
  close(): void {
    if (this.#fd === null) return;
    try {
      writeSync(this.#fd, 'V');
    } catch (error) {
      this.#fail(error);
    }
    closeSync(this.#fd);
    this.#fd = null;
  }

  #open(): void {
    try {
      this.#fd = openSync(this.#path, 'w');
    } catch (error) {
      this.#fail(error);
    }
  }

  #fail(error: unknown): void {
    if (!this.#isFailed) {
      this.#log.error('guard.watchdog', { path: this.#path, error: reasonOf(error) });
    }
    this.#isFailed = true;
  }
}

/** `path` is /proc/sysrq-trigger, or a file of a test. Null when the operator did not allow it. */
export function fenceByPanic(path: string | null, log: Log): void {
  if (path === null) {
    log.error('guard.panic-not-allowed', {});
    return;
  }
  try {
    writeFileSync(path, 'b');
  } catch (error) {
    log.error('guard.panic-failed', { error: reasonOf(error) });
  }
}

/** Null when the command ended with status 0, otherwise why it did not. The victim stands in the environment. */
export function runFenceCommand(
  command: readonly string[],
  about: { readonly name: LeaseName; readonly victim: HostId | null; readonly victimName: string },
): Promise<string | null> {
  const [program, ...args] = command;
  if (program === undefined) return Promise.resolve('no fence command is set');
  const env = {
    PATH: process.env['PATH'] ?? '/usr/sbin:/usr/bin:/sbin:/bin',
    TRELLIS_LEASE: about.name,
    TRELLIS_FENCE_HOST_ID: about.victim ?? '',
    TRELLIS_FENCE_HOST: about.victimName,
  };
  const limits = {
    timeout: fenceLimitMs,
    killSignal: 'SIGKILL' as const,
    maxBuffer: fenceOutputBytesMax,
  };
  return new Promise((resolve) => {
    execFile(program, args, { ...limits, env }, (error, _out, stderr) => {
      if (error === null) resolve(null);
      else resolve((stderr.trim().split('\n').at(-1) ?? '') || error.message);
    });
  });
}
