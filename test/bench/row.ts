/** What a benchmark row is, and how samples become one. The form and the identifiers are a contract of the project. */

export interface Figure {
  /** Null when nothing was measured. */
  readonly median: number | null;
  /** Only from `p99SamplesMin` samples on: fewer say nothing about one in a hundred. */
  readonly p99: number | null;
  readonly n: number;
  readonly min: number | null;
  readonly max: number | null;
}

export interface Row {
  readonly id: string;
  readonly what: string;
  readonly unit: string;
  readonly ours: Figure;
  readonly peers: Readonly<Record<string, Figure>>;
  /** In words, as in the architecture; `ok` is the judgement. */
  readonly budget: string;
  readonly ok: boolean;
  readonly note?: string;
}

export const p99SamplesMin = 500;

export const nothing: Figure = { median: null, p99: null, n: 0, min: null, max: null };

export function figureOf(samples: readonly number[]): Figure {
  if (samples.length === 0) return nothing;
  const sorted = samples.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const low = sorted[sorted.length % 2 === 0 ? middle - 1 : middle] as number;
  return {
    median: round((low + (sorted[middle] as number)) / 2),
    p99: sorted.length < p99SamplesMin ? null : round(quantile(sorted, 0.99)),
    n: sorted.length,
    min: round(sorted[0] as number),
    max: round(sorted.at(-1) as number),
  };
}

/** Nearest rank; `sorted` ascends and is not empty. */
export function quantile(sorted: readonly number[], share: number): number {
  const rank = Math.min(sorted.length - 1, Math.max(0, Math.ceil(share * sorted.length) - 1));
  return sorted[rank] as number;
}

/** Three significant digits are more than any of these measurements has. */
function round(value: number): number {
  return value === 0 ? 0 : Number(value.toPrecision(3));
}

/** A figure against a limit: by p99 where there is one and the budget names it, else by the median. */
export function isWithin(figure: Figure, limit: number, by: 'median' | 'p99' = 'median'): boolean {
  const value = by === 'p99' ? (figure.p99 ?? figure.max) : figure.median;
  return value !== null && value <= limit;
}
