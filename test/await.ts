/**
 * The only way tests wait: a condition with a deadline. Never a sleep, because a sleep is either too short on a busy
 * machine or too long everywhere else.
 */
import { setTimeout as pause } from 'node:timers/promises';
import { inspect } from 'node:util';

export interface Within {
  /** Deadline in milliseconds; generous is fine, since success returns at once. */
  readonly withinMs: number;
  /** Milliseconds between looks. */
  readonly everyMs?: number;
  /** For the message, e.g. 'h2 sees the edit'. */
  readonly what?: string;
}

/**
 * Looks until `check` returns something other than false, null or undefined, and returns that.
 *
 * A throw counts as "not yet", so assertions may be used inside. At the deadline it throws what is still pending: the
 * last error's message, or the last value. A look that never settles counts as pending too; it is abandoned.
 */
export async function eventually<T>(
  check: () => T | Promise<T>,
  { withinMs, everyMs = 20, what }: Within,
): Promise<NonNullable<Exclude<T, false>>> {
  const deadlineMs = performance.now() + withinMs;
  const look = {
    pending: 'the first look has not returned' as string,
    cause: undefined as unknown,
  };
  for (;;) {
    const leftMs = deadlineMs - performance.now();
    if (leftMs <= 0) break;
    const result = await lookOnce(check, leftMs);
    if (result.kind === 'value' && isDone(result.value)) {
      return result.value as NonNullable<Exclude<T, false>>;
    }
    if (result.kind === 'value') look.pending = `the check returned ${inspect(result.value)}`;
    if (result.kind === 'error') {
      look.pending = result.error instanceof Error ? result.error.message : inspect(result.error);
      look.cause = result.error;
    }
    if (result.kind === 'hung')
      look.pending = `a look did not return; before that: ${look.pending}`;
    await pause(Math.min(everyMs, Math.max(0, deadlineMs - performance.now())));
  }
  throw new Error(
    `${what ?? 'condition'} not met within ${withinMs} ms; still pending: ${look.pending}`,
    {
      cause: look.cause,
    },
  );
}

/** Lets time pass while something is being measured over it: a rate, an idle cost. Never for waiting until something is so. */
export async function measureFor(durationMs: number): Promise<void> {
  await pause(durationMs);
}

type Look<T> = { kind: 'value'; value: T } | { kind: 'error'; error: unknown } | { kind: 'hung' };

async function lookOnce<T>(check: () => T | Promise<T>, leftMs: number): Promise<Look<T>> {
  const stop = new AbortController();
  const limit = pause(leftMs, { kind: 'hung' } as const, { signal: stop.signal }).catch(
    () => ({ kind: 'hung' }) as const,
  );
  const look = (async (): Promise<Look<T>> => {
    try {
      return { kind: 'value', value: await check() };
    } catch (error) {
      return { kind: 'error', error };
    }
  })();
  const result = await Promise.race([look, limit]);
  stop.abort();
  return result;
}

function isDone(value: unknown): boolean {
  return value !== false && value !== null && value !== undefined;
}
