/**
 * The guard's log: one JSON value per line, to stderr or to a file of at most two times `fileBytesMax`. Written
 * synchronously, because the last line before a crash is the one that matters; events are rare (nothing is logged per renewal).
 */
import { closeSync, openSync, renameSync, statSync, writeSync } from 'node:fs';
import type { Log } from '../../ports.ts';

/** The file is renamed to `<name>.1` when it has grown beyond this. */
const fileBytesMax = 1 << 20;
/** One line; what is longer is cut. */
const lineCharsMax = 4096;
/** Lines of one event within a second; the rest is counted and said once. */
const linesPerSecondMax = 20;

const stderrFd = 2;

export type GuardLog = Log & {
  /** Where lines go from now on. */
  toFile(path: string): void;
};

export function createGuardLog(nowMs: () => number): GuardLog {
  let file: { readonly path: string; fd: number; bytes: number } | null = null;
  const limiter = new RateLimiter(nowMs);
  const write = (line: string): void => {
    try {
      if (file === null) {
        writeSync(stderrFd, line);
        return;
      }
      if (file.bytes + line.length > fileBytesMax) file = rotate(file);
      file.bytes += writeSync(file.fd, line);
    } catch {
      // A full disk or a closed pipe must not stop the guard, and there is nowhere left to say so.
      file = null;
    }
  };
  const at =
    (level: string) =>
    (event: string, values: Record<string, unknown> = {}): void => {
      const dropped = limiter.admit(event);
      if (dropped === null) return;
      const extra = dropped > 0 ? { suppressed: dropped } : {};
      write(formatLine({ time: new Date().toISOString(), level, event, ...values, ...extra }));
    };
  return {
    debug: () => undefined,
    info: at('info'),
    warn: at('warn'),
    error: at('error'),
    toFile: (path) => {
      file = openLog(path);
    },
  };
}

function openLog(path: string) {
  const fd = openSync(path, 'a', 0o600);
  return { path, fd, bytes: statSync(path).size };
}

function rotate(file: { readonly path: string; readonly fd: number }) {
  closeSync(file.fd);
  renameSync(file.path, `${file.path}.1`);
  return openLog(file.path);
}

function formatLine(values: Record<string, unknown>): string {
  const text = JSON.stringify(values);
  if (text.length < lineCharsMax) return `${text}\n`;
  return `${JSON.stringify({ time: values['time'], level: values['level'], event: values['event'], cut: text.slice(0, lineCharsMax / 2) })}\n`;
}

/** A guard under attack or in a loop must not spend its time on its log. */
class RateLimiter {
  readonly #nowMs: () => number;
  readonly #counts = new Map<string, { startMs: number; lines: number; dropped: number }>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** Null: say nothing. Otherwise how many were left out before this one. */
  admit(event: string): number | null {
    const nowMs = this.#nowMs();
    const count = this.#counts.get(event);
    if (count === undefined || nowMs - count.startMs >= 1_000) {
      // Events are constants of the source, so the map stays small.
      this.#counts.set(event, { startMs: nowMs, lines: 1, dropped: 0 });
      return count?.dropped ?? 0;
    }
    if (count.lines < linesPerSecondMax) {
      count.lines += 1;
      return 0;
    }
    count.dropped += 1;
    return null;
  }
}
