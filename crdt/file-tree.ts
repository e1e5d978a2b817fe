/**
 * YAML or JSON text as a small tree that knows its lines, and the tools to walk it strictly. Errors are collected, not
 * thrown: a person wants all of them at once. Bounds: `textBytesMax`, `nodesMax` after aliases are expanded (so a few
 * lines of nested aliases cannot grow without end), `depthMax`, `errorsMax`.
 */
import { isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument } from 'yaml';
import type { Document, Node } from 'yaml';

export const textBytesMax = 8 << 20;
export const nodesMax = 1_000_000;
export const depthMax = 24;
export const errorsMax = 200;

export interface FileError {
  readonly file: string;
  /** From 1. */
  readonly line: number;
  readonly column: number;
  /** 'services.site.ports[0].host'; '' for the whole file. */
  readonly path: string;
  /** NOT_SUPPORTED: the format knows it, this release does not. */
  readonly code: 'FILE_INVALID' | 'NOT_SUPPORTED';
  readonly message: string;
}

interface Place {
  readonly line: number;
  readonly column: number;
}
export interface ScalarNode extends Place {
  readonly kind: 'scalar';
  readonly value: string | number | boolean | null;
  /** As written, so that `08` and `1.10` stay what they are. */
  readonly text: string;
}
export interface ListNode extends Place {
  readonly kind: 'list';
  readonly items: readonly FileNode[];
}
export interface MapNode extends Place {
  readonly kind: 'map';
  readonly entries: readonly MapEntry[];
}
export interface MapEntry {
  readonly key: string;
  /** Where the key stands. */
  readonly at: Place;
  readonly value: FileNode;
}
export type FileNode = ScalarNode | ListNode | MapNode;

/** Where errors go. Sorted by line when read. */
export class FileErrors {
  readonly #file: string;
  readonly #errors: FileError[] = [];

  constructor(file: string) {
    this.#file = file;
  }

  get count(): number {
    return this.#errors.length;
  }

  add(at: Place, path: string, message: string): void {
    this.#push(at, path, 'FILE_INVALID', message);
  }

  notSupported(at: Place, path: string, feature: string): void {
    this.#push(at, path, 'NOT_SUPPORTED', `${feature} is not supported yet; remove it`);
  }

  sorted(): FileError[] {
    const sorted = this.#errors.toSorted((a, b) => a.line - b.line || a.column - b.column);
    if (sorted.length <= errorsMax) return sorted;
    const more = sorted.length - errorsMax;
    const last = sorted[errorsMax] as FileError;
    return [
      ...sorted.slice(0, errorsMax),
      { ...last, path: '', code: 'FILE_INVALID', message: `and ${more} more errors from here on` },
    ];
  }

  #push(at: Place, path: string, code: FileError['code'], message: string): void {
    const { line, column } = at;
    this.#errors.push({ file: this.#file, line, column, path, code, message });
  }
}

/** Null when the text is no YAML at all, or empty; `errors` says why. */
export function parseTree(text: string, errors: FileErrors): FileNode | null {
  const start = { line: 1, column: 1 };
  if (text.length > textBytesMax || new TextEncoder().encode(text).length > textBytesMax) {
    errors.add(start, '', `the file is larger than ${textBytesMax >> 20} MB; split it`);
    return null;
  }
  const hostile = tooMuch(text);
  if (hostile !== null) {
    errors.add(start, '', hostile);
    return null;
  }
  const lines = new LineCounter();
  let document: Document;
  try {
    // The parser's own search for twin keys compares all pairs, which takes minutes for a large map; ours is a set.
    document = parseDocument(text, { lineCounter: lines, uniqueKeys: false });
  } catch {
    // The only throw of the parser is its own stack running out.
    errors.add(start, '', 'is nested too deeply');
    return null;
  }
  for (const problem of [...document.errors, ...document.warnings]) {
    const at = lines.linePos(problem.pos[0]);
    errors.add({ line: at.line, column: at.col }, '', firstLine(problem.message));
  }
  if (errors.count > 0) return null;
  if (document.contents === null) {
    errors.add(start, '', 'is empty; it starts with `apiVersion: trellis/v1`');
    return null;
  }
  return new TreeBuilder(lines, errors).build(document.contents as Node);
}

/** The entries of a map that may only have these keys; each unknown or unsupported one is reported. Null: not a map. */
export function fieldsOf(
  node: FileNode,
  path: string,
  errors: FileErrors,
  rules: {
    readonly known: readonly string[];
    readonly unsupported?: Readonly<Record<string, string>>;
  },
): ReadonlyMap<string, MapEntry> | null {
  if (node.kind !== 'map') {
    errors.add(node, path, `${path || 'the file'} must be a map with ${rules.known.join(', ')}`);
    return null;
  }
  const fields = new Map<string, MapEntry>();
  for (const entry of node.entries) {
    const at = join(path, entry.key);
    const feature = Object.hasOwn(rules.unsupported ?? {}, entry.key)
      ? rules.unsupported?.[entry.key]
      : undefined;
    if (rules.known.includes(entry.key)) fields.set(entry.key, entry);
    else if (feature !== undefined) errors.notSupported(entry.at, at, feature);
    else
      errors.add(
        entry.at,
        at,
        `unknown field ${at}${errors.count < errorsMax ? suggestion(entry.key, rules) : ''}`,
      );
  }
  return fields;
}

export function join(path: string, key: string): string {
  return path === '' ? key : `${path}.${key}`;
}

/** The candidate at most two typing errors away, null when none is near. */
export function nearest(word: string, candidates: Iterable<string>): string | null {
  let best: string | null = null;
  let bestDistance = Math.min(3, Math.ceil(word.length / 2) + 1);
  for (const candidate of candidates) {
    if (Math.abs(candidate.length - word.length) >= bestDistance) continue;
    const distance = editDistance(word.toLowerCase(), candidate.toLowerCase());
    if (distance < bestDistance) [best, bestDistance] = [candidate, distance];
  }
  return best;
}

function suggestion(
  key: string,
  rules: { known: readonly string[]; unsupported?: Readonly<Record<string, string>> },
): string {
  const near = nearest(key, [...rules.known, ...Object.keys(rules.unsupported ?? {})]);
  return near === null ? `; known are ${rules.known.join(', ')}` : `; did you mean ${near}?`;
}

class TreeBuilder {
  readonly #lines: LineCounter;
  readonly #errors: FileErrors;
  readonly #anchors = new Map<string, { node: FileNode; size: number }>();
  #size = 0;
  #isTooLarge = false;

  constructor(lines: LineCounter, errors: FileErrors) {
    this.#lines = lines;
    this.#errors = errors;
  }

  build(contents: Node): FileNode | null {
    const tree = this.#convert(contents, 0);
    return this.#errors.count > 0 ? null : tree;
  }

  /** An alias shares the node of its anchor, so expanding costs nothing here; its size is counted all the same. */
  #convert(node: Node | null, depth: number): FileNode {
    const at = this.#placeOf(node);
    const nothing: FileNode = { kind: 'scalar', value: null, text: '', ...at };
    if (this.#isTooLarge || node === null) return nothing;
    if (depth > depthMax) return this.#refuse(nothing, 'is nested too deeply');
    if (isAlias(node)) {
      const target = this.#anchors.get(node.source);
      if (target === undefined)
        return this.#refuse(nothing, `*${node.source} stands for nothing above it`);
      this.#grow(at, target.size);
      return target.node;
    }
    const before = this.#size;
    this.#grow(at, 1);
    const converted = this.#convertOwn(node, at, depth);
    if ('anchor' in node && typeof node.anchor === 'string') {
      this.#anchors.set(node.anchor, { node: converted, size: this.#size - before });
    }
    return converted;
  }

  #convertOwn(node: Node, at: Place, depth: number): FileNode {
    if (isSeq(node)) {
      const items = node.items.map((item) => this.#convert(item as Node | null, depth + 1));
      return { kind: 'list', items, ...at };
    }
    if (isMap(node)) {
      const seen = new Set<string>();
      const entries = node.items.flatMap((pair): MapEntry[] => {
        const key = pair.key as Node | null;
        const keyAt = this.#placeOf(key ?? node);
        const value = this.#convert(pair.value as Node | null, depth + 1);
        if (!isScalar(key)) {
          this.#errors.add(keyAt, '', 'a key must be a plain word');
          return [];
        }
        const name = textOf(key);
        if (seen.has(name)) this.#errors.add(keyAt, name, `${name} is there twice`);
        seen.add(name);
        // An empty value has no place of its own.
        return [{ key: name, at: keyAt, value: value.line === 0 ? { ...value, ...keyAt } : value }];
      });
      return { kind: 'map', entries, ...at };
    }
    const value: unknown = isScalar(node) ? node.value : null;
    if (
      value === null ||
      typeof value === 'string' ||
      typeof value === 'number' ||
      typeof value === 'boolean'
    ) {
      return { kind: 'scalar', value, text: isScalar(node) ? textOf(node) : '', ...at };
    }
    return this.#refuse(
      { kind: 'scalar', value: null, text: '', ...at },
      'holds a value of a kind that is not allowed here',
    );
  }

  #grow(at: Place, by: number): void {
    this.#size += by;
    if (this.#size <= nodesMax || this.#isTooLarge) return;
    this.#isTooLarge = true;
    this.#errors.add(at, '', `grows to more than ${nodesMax} values when its aliases are expanded`);
  }

  #refuse(node: FileNode, message: string): FileNode {
    this.#errors.add(node, '', message);
    return node;
  }

  #placeOf(node: Node | null): Place {
    const offset = node?.range?.[0];
    if (offset === undefined) return { line: 0, column: 0 };
    const { line, col } = this.#lines.linePos(offset);
    return { line, column: col };
  }
}

function textOf(scalar: { value: unknown; source?: string }): string {
  if (typeof scalar.value === 'string') return scalar.value;
  return scalar.source ?? String(scalar.value as number | boolean | null);
}

function firstLine(message: string): string {
  const line = message.split('\n')[0] ?? message;
  // The parser reports its own exhausted stack as an error of the file.
  if (line.includes('call stack')) return 'is nested too deeply';
  return line.slice(0, 300).replace(/ at line \d+, column \d+:?$/, '');
}

/**
 * The parser needs seconds to run out of stack and minutes for a line of nothing but anchors, so what no person writes
 * never reaches it. Generous, because the same characters inside texts count too: brackets left open, markers of nested
 * lists and keys on one line, and anchors and tags in the whole file.
 */
function tooMuch(text: string): string | null {
  let open = 0;
  let markers = 0;
  let anchors = 0;
  let isAfterBlank = true;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '[' || c === '{') open += 1;
    else if (c === ']' || c === '}') open -= open > 0 ? 1 : 0;
    else if (c === '\n') markers = 0;
    else if ((c === '-' || c === '?' || c === ':') && text[i + 1] === ' ') markers += 1;
    else if ((c === '&' || c === '!') && isAfterBlank) anchors += 1;
    isAfterBlank = c === ' ' || c === '\n' || c === '!';
    if (open > 1_000 || markers > 5_000) return 'is nested too deeply';
    if (anchors > 5_000) return 'has more than 5000 anchors or tags';
  }
  return null;
}

/** Damerau-Levenshtein with swaps of neighbours (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let older: number[] = [];
  let previous = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      let best = Math.min(
        (previous[j] ?? 0) + 1,
        (row[j - 1] ?? 0) + 1,
        (previous[j - 1] ?? 0) + cost,
      );
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        best = Math.min(best, (older[j - 2] ?? 0) + 1);
      }
      row.push(best);
    }
    [older, previous] = [previous, row];
  }
  return previous[b.length] ?? 0;
}
