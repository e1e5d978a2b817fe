/**
 * What never rests, of one moment: a second copy beside the active one, brought up to date while the workload runs and then
 * once more while it is paused, which takes only what was written in between. All other hosts copy from it at their own
 * speed, so that the workload stands still for as long as a local copy takes, and once for all of them.
 */
import { spawn } from 'node:child_process';
import { mkdir, rm } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { CopyError, localOptions } from './copy.ts';
import { distrust } from './scan.ts';

/** The workload may be stopped for so long. */
const pauseMsMax = 500;
/** Younger than this it is served again; the guard pauses no more often. */
const freshMs = 2_100;
/** While the workload runs; a first copy may be large. */
const openPassMsMax = 3_600_000;

export interface SnapshotOptions {
  /** What is copied, and where to. */
  readonly from: string;
  readonly to: string;
  readonly monotonicMs: () => number;
  /** As of `StoragePorts`. */
  readonly pause: (maxMs: number) => Promise<(() => Promise<boolean>) | null>;
  /** Gives the state that is there now a version; called while the workload is paused. */
  readonly count: () => Promise<number>;
}

export class Snapshot {
  readonly #options: SnapshotOptions;
  #version: number | null = null;
  #takenMs = Number.NEGATIVE_INFINITY;
  #readers = 0;
  #whenFree: (() => void)[] = [];
  #making: Promise<void> | null = null;
  #isTrusted = false;
  #stop = new AbortController();

  constructor(options: SnapshotOptions) {
    this.#options = options;
  }

  /**
   * Lends a snapshot that is newer than `have`, for as long as `use` takes. Rejects CopyError when the workload could not be
   * copied within one pause.
   */
  async lend<T>(have: number, use: (version: number) => Promise<T>): Promise<T> {
    const { signal } = this.#stop;
    for (;;) {
      if (signal.aborted)
        throw new CopyError('STORAGE_NOT_ACTIVE', 'it is not active here any more');
      while (this.#making !== null) await this.#making;
      const isFresh = this.#options.monotonicMs() - this.#takenMs < freshMs;
      if (this.#version !== null && this.#version > have && isFresh) break;
      this.#making = this.#make().finally(() => (this.#making = null));
    }
    this.#readers++;
    try {
      return await use(this.#version);
    } finally {
      this.#readers--;
      if (this.#readers === 0) for (const free of this.#whenFree.splice(0)) free();
    }
  }

  /** It is not active here any more. */
  async drop(): Promise<void> {
    this.#stop.abort(new Error('it is not active here any more'));
    await this.#making?.catch(() => undefined);
    this.#stop = new AbortController();
    this.#version = null;
    this.#isTrusted = false;
    await rm(this.#options.to, { recursive: true, force: true });
  }

  async #make(): Promise<void> {
    const { to, monotonicMs, pause, count } = this.#options;
    while (this.#readers > 0) await new Promise<void>((resolve) => this.#whenFree.push(resolve));
    this.#version = null;
    // Left by a process before this one: perhaps in the middle of a pass.
    if (!this.#isTrusted) await rm(to, { recursive: true, force: true });
    await mkdir(to, { recursive: true, mode: 0o700 });
    this.#isTrusted = true;
    await this.#pass(openPassMsMax);
    await sleep(Math.max(0, this.#takenMs + freshMs - monotonicMs()));
    const resume = await pause(pauseMsMax);
    if (resume === null) throw new CopyError('STORAGE_COPY_FAILED', 'it could not be paused');
    this.#takenMs = monotonicMs();
    let version: number;
    let isWhole = false;
    try {
      version = await count();
      isWhole = await this.#pass(pauseMsMax);
    } finally {
      isWhole = (await resume()) && isWhole;
    }
    if (!isWhole)
      throw new CopyError('STORAGE_COPY_FAILED', `too much to copy in ${pauseMsMax} ms`);
    this.#version = version;
  }

  /** False: it took too long. What it copied beneath writes is distrusted, unless nothing was written: see `#make`. */
  async #pass(maxMs: number): Promise<boolean> {
    const { from, to } = this.#options;
    const beganMs = Date.now();
    const limit = AbortSignal.any([AbortSignal.timeout(maxMs), this.#stop.signal]);
    const exit = await runRsync([...localOptions, `${from}/`, `${to}/`], limit);
    const isPaused = maxMs === pauseMsMax;
    if (!isPaused || exit !== 0) await distrust(to, beganMs - 1_000);
    this.#stop.signal.throwIfAborted();
    // 24: something was deleted meanwhile.
    if (!isPaused && exit !== 0 && exit !== 24)
      throw new CopyError('STORAGE_COPY_FAILED', `rsync ended with ${exit}`);
    return exit === 0;
  }
}

function runRsync(args: readonly string[], signal: AbortSignal): Promise<number> {
  const child = spawn('rsync', [...args], {
    stdio: 'ignore',
    signal,
    killSignal: 'SIGKILL',
    env: { PATH: process.env['PATH'] ?? '', LC_ALL: 'C' },
  });
  return new Promise((resolve) => {
    child.on('error', () => resolve(127));
    child.on('exit', (code) => resolve(code ?? 137));
  });
}
