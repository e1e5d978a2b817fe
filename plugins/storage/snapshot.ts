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

/** The workload is stopped for at most so long; for longer after that was too short, as on a busy host. */
const pauseMsMin = 500;
const pauseMsMax = 1_000;
/** By so much stamps may be older than what they are on. */
const stampMsMax = 1_000;
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
  #pauseMs = pauseMsMin;
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
    const { to, monotonicMs } = this.#options;
    while (this.#readers > 0) await new Promise<void>((resolve) => this.#whenFree.push(resolve));
    this.#version = null;
    // Left by a process before this one: perhaps in the middle of a pass.
    if (!this.#isTrusted) await rm(to, { recursive: true, force: true });
    await mkdir(to, { recursive: true, mode: 0o700 });
    this.#isTrusted = true;
    const openedWallMs = Date.now();
    const exit = await this.#pass(openPassMsMax);
    await distrust(to, openedWallMs - stampMsMax);
    // 24: something was deleted meanwhile.
    if (exit !== 0 && exit !== 24)
      throw new CopyError('STORAGE_COPY_FAILED', `rsync ended with ${exit}`);
    await sleep(Math.max(0, this.#takenMs + freshMs - monotonicMs()));
    this.#version = await this.#copyPaused();
  }

  async #copyPaused(): Promise<number> {
    const { to, monotonicMs, pause, count } = this.#options;
    const pauseMs = this.#pauseMs;
    const resume = await pause(pauseMs);
    if (resume === null) throw new CopyError('STORAGE_COPY_FAILED', 'it could not be paused');
    this.#takenMs = monotonicMs();
    const pausedWallMs = Date.now();
    let version = 0;
    let isWhole = false;
    try {
      version = await count();
      isWhole = (await this.#pass(pauseMs)) === 0;
    } finally {
      isWhole = (await resume()) && isWhole;
    }
    this.#pauseMs = isWhole ? pauseMsMin : pauseMsMax;
    if (isWhole) return version;
    await distrust(to, pausedWallMs - stampMsMax);
    throw new CopyError('STORAGE_COPY_FAILED', `it could not be copied within ${pauseMs} ms`);
  }

  /** Exit code of rsync; 137 when it took too long. */
  async #pass(maxMs: number): Promise<number> {
    const { from, to } = this.#options;
    const limit = AbortSignal.any([AbortSignal.timeout(maxMs), this.#stop.signal]);
    const exit = await runRsync([...localOptions, `${from}/`, `${to}/`], limit);
    this.#stop.signal.throwIfAborted();
    return exit;
  }
}

/** Nothing of it writes any more when it resolves. */
function runRsync(args: readonly string[], signal: AbortSignal): Promise<number> {
  const child = spawn('rsync', [...args], {
    stdio: 'ignore',
    // A group of its own: it is several processes, which end together.
    detached: true,
    env: { PATH: process.env['PATH'] ?? '', LC_ALL: 'C' },
  });
  const kill = (): void => {
    if (child.pid !== undefined && child.exitCode === null) process.kill(-child.pid, 'SIGKILL');
  };
  if (signal.aborted) kill();
  signal.addEventListener('abort', kill, { once: true });
  return new Promise((resolve) => {
    child.on('error', () => resolve(127));
    child.on('exit', (code) => {
      signal.removeEventListener('abort', kill);
      resolve(code ?? 137);
    });
  });
}
