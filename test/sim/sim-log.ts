/** Counts log events, so that a test can prove it reached the line it is about, and keeps the newest for a failure report. */
import type { Log } from '../../daemon/ports.ts';

export interface LogLine {
  readonly atMs: number;
  readonly node: number;
  readonly level: 'debug' | 'info' | 'warn' | 'error';
  readonly event: string;
  readonly values: Record<string, unknown> | undefined;
}

const linesKeptMax = 2_000;

export class SimLog {
  readonly #counts = new Map<string, number>();
  readonly #lines: LogLine[] = [];
  readonly #print: ((line: string) => void) | null;
  readonly #nowMs: () => number;

  /** `print` gets every line as it is written (`--log full`); null keeps them for a failure only. */
  constructor(nowMs: () => number, print: ((line: string) => void) | null) {
    this.#nowMs = nowMs;
    this.#print = print;
  }

  port(node: number): Log {
    const write =
      (level: LogLine['level']) =>
      (event: string, values?: Record<string, unknown>): void =>
        this.#write({ atMs: this.#nowMs(), node, level, event, values });
    return {
      debug: write('debug'),
      info: write('info'),
      warn: write('warn'),
      error: write('error'),
    };
  }

  count(event: string): number {
    return this.#counts.get(event) ?? 0;
  }

  /** Events seen so far with their counts, sorted. */
  counts(): readonly (readonly [string, number])[] {
    return [...this.#counts].sort(([a], [b]) => (a < b ? -1 : 1));
  }

  newest(max: number): readonly string[] {
    return this.#lines.slice(-max).map(formatLine);
  }

  #write(line: LogLine): void {
    this.#counts.set(line.event, this.count(line.event) + 1);
    this.#lines.push(line);
    if (this.#lines.length > 2 * linesKeptMax) this.#lines.splice(0, linesKeptMax);
    if (this.#print !== null) this.#print(formatLine(line));
  }
}

/** `   12.345 n3 info  membership.dead node=ab12cd34 …`: seconds, node, level, event, values. */
function formatLine(line: LogLine): string {
  const values = Object.entries(line.values ?? {})
    .map(([key, value]) => `${key}=${shortValue(value)}`)
    .join(' ');
  const seconds = (line.atMs / 1000).toFixed(3).padStart(9);
  return `${seconds} n${line.node} ${line.level.padEnd(5)} ${line.event} ${values}`.trimEnd();
}

function shortValue(value: unknown): string {
  if (typeof value === 'string') return /^[0-9a-f]{32,}$/.test(value) ? value.slice(0, 8) : value;
  if (value instanceof Error) return JSON.stringify(value.message);
  return JSON.stringify(value) ?? 'undefined';
}
