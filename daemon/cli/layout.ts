/** Tables and small words for people. Widths count code points; colour codes take no room. */
import { stripVTControlCharacters } from 'node:util';
import type { Style } from './terminal.ts';

export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  style: Style,
): string {
  if (rows.length === 0) return '';
  const widths = head.map((title, i) =>
    Math.max(title.length, ...rows.map((row) => visible(row[i] ?? ''))),
  );
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => `${cell}${' '.repeat(Math.max(0, (widths[i] ?? 0) - visible(cell)))}`)
      .join('  ')
      .trimEnd();
  return `${[style.bold(line(head)), ...rows.map(line)].join('\n')}\n`;
}

/** 'key  value' lines; empty values are left out. */
export function pairs(rows: readonly (readonly [string, string])[], style: Style): string {
  const shown = rows.filter(([, value]) => value !== '');
  const width = Math.max(0, ...shown.map(([key]) => key.length));
  return `${shown.map(([key, value]) => `${style.dim(key.padEnd(width))}  ${value}`).join('\n')}\n`;
}

function visible(text: string): number {
  return Array.from(stripVTControlCharacters(text)).length;
}

/** '3 s', '2 min', '5 h', '4 d'. */
export function ago(ms: number | null): string {
  if (ms === null) return 'never';
  if (ms < 60_000) return `${Math.round(ms / 1000)} s`;
  if (ms < 3_600_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

/** Seconds are enough for people. */
export function when(iso: string): string {
  return iso.replace('T', ' ').replace(/\.\d+Z$/, 'Z');
}

export function count(n: number, noun: string): string {
  return `${n} ${noun}${n === 1 ? '' : 's'}`;
}

const colours: Readonly<Record<string, 'good' | 'warn' | 'bad' | 'dim'>> = {
  ready: 'good',
  active: 'good',
  running: 'good',
  healthy: 'good',
  ok: 'good',
  alive: 'good',
  opening: 'warn',
  frozen: 'warn',
  'handing-over': 'warn',
  parked: 'warn',
  acquiring: 'warn',
  joining: 'warn',
  suspect: 'warn',
  draining: 'warn',
  drained: 'warn',
  starting: 'warn',
  waiting: 'warn',
  pulling: 'warn',
  created: 'warn',
  warn: 'warn',
  dead: 'bad',
  failed: 'bad',
  exited: 'bad',
  missing: 'bad',
  unhealthy: 'bad',
  fail: 'bad',
  alarm: 'bad',
  unknown: 'dim',
  left: 'dim',
  free: 'dim',
  none: 'dim',
  info: 'dim',
};

/** A word of state in its colour. */
export function state(word: string, style: Style): string {
  const colour = colours[word];
  return colour === undefined ? word : style[colour](word);
}

/** A leaf's value as people write it. */
export function value(leaf: unknown): string {
  if (leaf === null || leaf === undefined) return '(absent)';
  return typeof leaf === 'string' ? leaf : JSON.stringify(leaf);
}
