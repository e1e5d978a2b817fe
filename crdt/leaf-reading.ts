/** Leaves of one object, written from typed fields and read back with a mistrust of who wrote them. */
import { compareText } from './codec.ts';
import type { ObjectId } from './ids.ts';
import type { LeafValue } from './leaves.ts';
import type { Problem } from './model.ts';
import { pointerOf, segmentsOf } from './pointer.ts';

/** An object to spread: nothing when absent. */
export function given<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]?: V });
}

export class LeafSet {
  readonly map = new Map<string, LeafValue>();

  set(pointer: string, value: LeafValue | undefined): void {
    if (value !== undefined && value !== null) this.map.set(pointer, value);
  }

  setAll(prefix: readonly string[], from: object | undefined, fields: readonly string[]): void {
    for (const field of fields) {
      const value = (from as Record<string, LeafValue | undefined> | undefined)?.[field];
      this.set(pointerOf(...prefix, field), value);
    }
  }
}

/** Typed look at leaves that somebody else wrote; remembers the first thing that is wrong. */
export class Reading {
  readonly #leaves: ReadonlyMap<string, LeafValue>;
  readonly #names = new Map<string, Set<string>>();
  #wrong: string | null = null;

  constructor(leaves: ReadonlyMap<string, LeafValue>) {
    this.#leaves = leaves;
    for (const [pointer, value] of leaves) {
      if (value === null) continue;
      const [group, name, third] = segmentsOf(pointer);
      if (group === undefined || name === undefined) continue;
      this.#note(group, name);
      if (third !== undefined) this.#note(`${group}/${name}`, third);
    }
  }

  #note(group: string, name: string): void {
    const names = this.#names.get(group);
    if (names === undefined) this.#names.set(group, new Set([name]));
    else names.add(name);
  }

  /** Names found below '/<group>', sorted. */
  named(...group: readonly string[]): string[] {
    return [...(this.#names.get(group.join('/')) ?? [])].toSorted(compareText);
  }

  missing(pointer: string): string {
    this.refuse(`${pointer} is missing`);
    return '';
  }

  /** The object cannot be used, and why; the first reason stays. */
  refuse(why: string): void {
    this.#wrong ??= why;
  }

  text(pointer: string): string | undefined {
    return this.#typed(pointer, (value) => typeof value === 'string') as string | undefined;
  }

  number(pointer: string): number | undefined {
    const isGood = (value: LeafValue) => Number.isFinite(value) && (value as number) >= 0;
    return this.#typed(pointer, isGood) as number | undefined;
  }

  flag(pointer: string): boolean | undefined {
    return this.#typed(pointer, (value) => typeof value === 'boolean') as boolean | undefined;
  }

  texts(pointer: string): readonly string[] | undefined {
    const isGood = (value: LeafValue) =>
      Array.isArray(value) && value.every((item) => typeof item === 'string');
    return this.#typed(pointer, isGood) as readonly string[] | undefined;
  }

  /** A map of strings, keys sorted. */
  textMap(...group: readonly string[]): Record<string, string> {
    const out: Record<string, string> = {};
    for (const name of this.named(...group)) {
      const value = this.text(pointerOf(...group, name));
      if (value !== undefined) defineOwn(out, name, value);
    }
    return out;
  }

  oneOf<T extends string>(pointer: string, choices: readonly T[]): T | undefined {
    return this.#typed(pointer, (value) => choices.includes(value as T)) as T | undefined;
  }

  problem(object: ObjectId, subject: string): Problem | null {
    if (this.#wrong === null) return null;
    return { kind: 'poison', object, detail: `${subject}: ${this.#wrong}` };
  }

  #typed(pointer: string, isGood: (value: LeafValue) => boolean): LeafValue | undefined {
    const value = this.#leaves.get(pointer) ?? null;
    if (value === null) return undefined;
    if (isGood(value)) return value;
    this.#wrong ??= `${pointer} holds ${JSON.stringify(value).slice(0, 60)}, which this version cannot use`;
    return undefined;
  }
}

/** Plain assignment would lose a key named '__proto__'. */
function defineOwn(out: Record<string, string>, key: string, value: string): void {
  Object.defineProperty(out, key, { value, enumerable: true, writable: true, configurable: true });
}
