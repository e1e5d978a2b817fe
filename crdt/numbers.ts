/**
 * Service numbers: every (service, port) has one number, 20000 to 29999, that leads to it on every host. It is allocated
 * once, by the edit that adds the port, and recorded in the settings. Two sides of a partition may record one number
 * twice; then everybody moves the same one of the two until an edit records it anew.
 */
import { compareText } from './codec.ts';
import { numberMax, numberMin } from './desired-schema.ts';
import { hash32 } from './hash32.ts';

const count = numberMax - numberMin + 1;

/** The first free number from the port's own place on, null when all are taken. `key` is '<service>/<port>'. */
export function freeNumber(key: string, taken: { has(number: number): boolean }): number | null {
  return probe(hash32(key) % count, taken);
}

export interface ResolvedNumbers {
  /** Every key of `live` that could be given one, sorted by key. */
  readonly numbers: ReadonlyMap<string, number>;
  /** Keys whose recorded number was somebody else's too. */
  readonly moved: readonly {
    readonly key: string;
    readonly other: string;
    readonly number: number;
  }[];
  /** Keys for which there is no number left. */
  readonly without: readonly string[];
}

/** Deterministic in its arguments as sets: order plays no part. Of two owners of one number the lower key keeps it. */
export function resolveNumbers(
  recorded: ReadonlyMap<string, number>,
  live: Iterable<string>,
): ResolvedNumbers {
  const keys = [...live].toSorted(compareText);
  const owners = new Map<number, string>();
  const numbers = new Map<string, number>();
  const moved: { key: string; other: string; number: number }[] = [];
  for (const key of keys) {
    const number = recorded.get(key);
    if (number === undefined || !isServiceNumber(number)) continue;
    const other = owners.get(number);
    if (other !== undefined) {
      moved.push({ key, other, number });
    } else {
      owners.set(number, key);
      numbers.set(key, number);
    }
  }
  const without: string[] = [];
  for (const key of keys) {
    if (numbers.has(key)) continue;
    const wanted = recorded.get(key);
    const start =
      wanted !== undefined && isServiceNumber(wanted) ? wanted - numberMin : hash32(key) % count;
    const number = probe(start, owners);
    if (number === null) {
      without.push(key);
    } else {
      owners.set(number, key);
      numbers.set(key, number);
    }
  }
  const sorted = new Map(keys.flatMap((key) => entryOf(key, numbers.get(key))));
  return { numbers: sorted, moved, without };
}

export function isServiceNumber(value: unknown): value is number {
  return (
    Number.isInteger(value) && (value as number) >= numberMin && (value as number) <= numberMax
  );
}

function entryOf(key: string, number: number | undefined): [string, number][] {
  return number === undefined ? [] : [[key, number]];
}

function probe(start: number, taken: { has(number: number): boolean }): number | null {
  for (let step = 0; step < count; step++) {
    const number = numberMin + ((start + step) % count);
    if (!taken.has(number)) return number;
  }
  return null;
}
