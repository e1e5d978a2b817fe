/** Durations, sizes and CPU shares as people write them. Parsers return null for anything else; the caller has the line. */

const durationUnitsMs = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const;
const sizeUnits = {
  '': 1,
  k: 1e3,
  K: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
} as const;

/** '500ms', '2s', '1.5m', '1h30m' in whole milliseconds. A bare number has no unit and is refused, except 0. */
export function parseDuration(value: unknown): number | null {
  if (value === 0 || value === '0') return 0;
  if (typeof value !== 'string' || value.length > 32) return null;
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(value)) return null;
  let totalMs = 0;
  for (const [, amount, unit] of value.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g)) {
    totalMs += Number(amount) * durationUnitsMs[unit as keyof typeof durationUnitsMs];
  }
  return Number.isSafeInteger(totalMs) ? totalMs : null;
}

/** The shortest form that `parseDuration` reads back. */
export function formatDuration(ms: number): string {
  for (const unit of ['d', 'h', 'm', 's'] as const) {
    const size = durationUnitsMs[unit];
    if (ms !== 0 && ms % size === 0) return `${ms / size}${unit}`;
  }
  return ms === 0 ? '0s' : `${ms}ms`;
}

/** '128Mi', '1Gi' (powers of 1024), '64M' (powers of 1000), a trailing 'B' allowed, or a number of bytes. */
export function parseSize(value: unknown): number | null {
  if (typeof value === 'number') return Number.isSafeInteger(value) && value >= 0 ? value : null;
  if (typeof value !== 'string' || value.length > 32) return null;
  const match = /^(\d+(?:\.\d+)?)([kKMGT]i?)?B?$/.exec(value);
  if (match === null) return null;
  const unit = (match[2] ?? '') as keyof typeof sizeUnits | 'ki';
  const bytes = Number(match[1]) * sizeUnits[unit === 'ki' ? 'Ki' : unit];
  return Number.isSafeInteger(bytes) ? bytes : null;
}

export function formatSize(bytes: number): string {
  for (const unit of ['Ti', 'Gi', 'Mi', 'Ki', 'T', 'G', 'M', 'k'] as const) {
    const size = sizeUnits[unit];
    if (bytes !== 0 && bytes % size === 0) return `${bytes / size}${unit}`;
  }
  return String(bytes);
}

/** Cores: 0.5, '0.5' or '500m'; whole thousandths only. */
export function parseCpu(value: unknown): number | null {
  if (typeof value === 'number') return wholeMillis(value);
  if (typeof value !== 'string' || value.length > 32) return null;
  const match = /^(\d+(?:\.\d+)?)(m?)$/.exec(value);
  if (match === null) return null;
  return wholeMillis(Number(match[1]) / (match[2] === 'm' ? 1_000 : 1));
}

function wholeMillis(cores: number): number | null {
  const millis = Math.round(cores * 1_000);
  if (!Number.isSafeInteger(millis) || millis < 0) return null;
  return Math.abs(cores * 1_000 - millis) < 1e-6 ? millis / 1_000 : null;
}
