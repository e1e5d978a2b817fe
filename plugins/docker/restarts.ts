/**
 * When exclusive containers are started again: the engine's restart policy is off for them, because only a lease may
 * start them, so what ends by itself while its lease is held is started by us, after growing pauses. One that does not
 * come up under this lease is given up here, so that another host gets its turn. Pure: times come in.
 */

/** Under which lease and from which description it was started: another one begins anew. */
export interface Attempt {
  readonly epoch: number;
  readonly spec: string;
  /** Ending sooner than this after its start counts as not having come up, milliseconds. */
  readonly startPeriodMs: number;
}

interface History {
  readonly key: string;
  startedMs: number | null;
  /** Short runs in a row. */
  shortRuns: number;
  dueMs: number;
  /** Set once it is given up. */
  failure: string | null;
}

export const restartPauseMsMin = 500;
export const restartPauseMsMax = 30_000;
/** Short runs in a row after which it is given up. */
export const shortRunsMax = 3;

export class Restarts {
  readonly #histories = new Map<string, History>();

  /** It is being started now. */
  started(instance: string, attempt: Attempt, nowMs: number): void {
    this.#of(instance, attempt).startedMs = nowMs;
  }

  /**
   * It does not run although it should. Returns when it may be started, in the clock of `nowMs`: not later than now means
   * at once; null: it is given up, see `failureOf`.
   */
  dueMs(instance: string, attempt: Attempt, nowMs: number): number | null {
    const history = this.#of(instance, attempt);
    if (history.failure !== null) return null;
    if (history.startedMs !== null) this.#end(history, attempt, nowMs);
    return history.failure === null ? history.dueMs : null;
  }

  /** The engine refuses to start it. */
  refused(instance: string, attempt: Attempt, why: string): void {
    const history = this.#of(instance, attempt);
    history.startedMs = null;
    history.failure = why;
  }

  /** Null: not given up under this attempt. */
  failureOf(instance: string, attempt: Attempt): string | null {
    const history = this.#histories.get(instance);
    return history?.key === keyOf(attempt) ? history.failure : null;
  }

  /** It was stopped on purpose, or is wanted no more. */
  forget(instance: string): void {
    this.#histories.delete(instance);
  }

  #end(history: History, { startPeriodMs }: Attempt, nowMs: number): void {
    const livedMs = nowMs - (history.startedMs ?? nowMs);
    history.startedMs = null;
    if (livedMs >= startPeriodMs) {
      history.shortRuns = 0;
      history.dueMs = nowMs;
      return;
    }
    history.shortRuns++;
    const pauseMs = restartPauseMsMin * 2 ** (history.shortRuns - 1);
    history.dueMs = nowMs + Math.min(restartPauseMsMax, pauseMs);
    if (history.shortRuns >= shortRunsMax)
      history.failure = `it ended ${history.shortRuns} times within ${startPeriodMs} ms of its start`;
  }

  #of(instance: string, attempt: Attempt): History {
    const key = keyOf(attempt);
    const known = this.#histories.get(instance);
    if (known?.key === key) return known;
    const made: History = { key, startedMs: null, shortRuns: 0, dueMs: 0, failure: null };
    this.#histories.set(instance, made);
    return made;
  }
}

function keyOf({ epoch, spec }: Attempt): string {
  return `${epoch} ${spec}`;
}
