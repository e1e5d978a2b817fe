/**
 * The tools of the readers of the desired-state file: one field, one value at a time, each reporting what is wrong with its
 * line and going on, so that one run shows all errors.
 */
import { parseDuration } from './durations.ts';
import { join } from './file-tree.ts';
import type { FileErrors, FileNode, ListNode, MapEntry } from './file-tree.ts';
import { parseTemplate } from './templates.ts';

export const commandItemsMax = 256;
export const textMax = 32_768;
export const labelPattern = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;
export const labelWords =
  'must be 1 to 63 lower-case letters, digits and dashes, and start and end with a letter or digit';

/** Reports what is wrong with a value and gives nothing for it. */
export type Reader<T> = (node: FileNode, path: string, errors: FileErrors) => T | undefined;

export class FieldReader {
  readonly fields: ReadonlyMap<string, MapEntry>;
  readonly path: string;
  readonly errors: FileErrors;

  constructor(fields: ReadonlyMap<string, MapEntry>, path: string, errors: FileErrors) {
    this.fields = fields;
    this.path = path;
    this.errors = errors;
  }

  optional<T>(key: string, reader: Reader<T>): T | undefined {
    const entry = this.fields.get(key);
    if (entry === undefined) return undefined;
    const at = join(this.path, key);
    if (isNull(entry.value)) {
      this.errors.add(entry.at, at, `${at} has no value; give one or remove the field`);
      return undefined;
    }
    return reader(entry.value, at, this.errors);
  }

  /** As an object to spread: nothing when absent or wrong. */
  field<T>(key: string, reader: Reader<T>): Record<string, T> {
    const value = this.optional(key, reader);
    return value === undefined ? {} : { [key]: value };
  }

  required<T>(
    key: string,
    owner: { at: { line: number; column: number } },
    reader: Reader<T>,
  ): T | undefined {
    if (!this.fields.has(key))
      this.errors.add(owner.at, join(this.path, key), `${join(this.path, key)} is missing`);
    return this.optional(key, reader);
  }
}

export function wrong(node: FileNode, path: string, errors: FileErrors, words: string): undefined {
  errors.add(node, path, `${path} ${words}`);
  return undefined;
}

export function isNull(node: FileNode): boolean {
  return node.kind === 'scalar' && node.value === null;
}

export function valueOf(node: FileNode): string | number | boolean | null {
  return node.kind === 'scalar' ? node.value : null;
}

export function label(node: FileNode, path: string, errors: FileErrors): string | undefined {
  const text = node.kind === 'scalar' ? node.text : '';
  return labelPattern.test(text) ? text : wrong(node, path, errors, labelWords);
}

export function wholeNumber(
  node: FileNode,
  path: string,
  errors: FileErrors,
  range: { min: number; max: number },
): number | undefined {
  const value = valueOf(node);
  if (Number.isInteger(value) && (value as number) >= range.min && (value as number) <= range.max)
    return value as number;
  return wrong(node, path, errors, `must be a whole number from ${range.min} to ${range.max}`);
}

export function flag(node: FileNode, path: string, errors: FileErrors): boolean | undefined {
  const value = valueOf(node);
  return typeof value === 'boolean' ? value : wrong(node, path, errors, 'must be true or false');
}

export function duration(
  node: FileNode,
  path: string,
  errors: FileErrors,
  range: { minMs: number; maxMs: number },
): number | undefined {
  const ms = parseDuration(valueOf(node));
  if (ms === null)
    return wrong(
      node,
      path,
      errors,
      "must be a duration with a unit, such as '2s', '500ms' or '1m'",
    );
  if (ms >= range.minMs && ms <= range.maxMs) return ms;
  return wrong(node, path, errors, `must be between ${range.minMs} and ${range.maxMs} ms`);
}

export function choice<T extends string>(
  node: FileNode,
  path: string,
  errors: FileErrors,
  choices: readonly T[],
): T | undefined {
  const value = valueOf(node);
  if (choices.includes(value as T)) return value as T;
  return wrong(node, path, errors, `must be ${choices.join(' or ')}`);
}

export function scalarText(node: FileNode, path: string, errors: FileErrors): string | undefined {
  if (node.kind !== 'scalar' || node.value === null) {
    return wrong(node, path, errors, 'must be a text; write "" for an empty one');
  }
  if (node.text.length > textMax)
    return wrong(node, path, errors, `is longer than ${textMax} characters`);
  // A zero byte cannot reach a process; engines cut or refuse it with no word on where it came from.
  if (node.text.includes('\0')) return wrong(node, path, errors, 'holds a zero byte');
  return node.text;
}

export function texts(
  node: FileNode,
  path: string,
  errors: FileErrors,
  options: { hasTemplates: boolean },
): string[] | undefined {
  if (node.kind !== 'list')
    return wrong(node, path, errors, 'must be a list of words, such as [httpd, -f]');
  if (node.items.length > commandItemsMax)
    return wrong(node, path, errors, `has more than ${commandItemsMax} items`);
  return node.items.flatMap((item, i) => {
    const text = scalarText(item, `${path}[${i}]`, errors);
    if (text !== undefined && options.hasTemplates)
      checkTemplate(item, `${path}[${i}]`, text, errors);
    return text ?? [];
  });
}

export function listOf(
  node: FileNode,
  path: string,
  errors: FileErrors,
  max: number,
): ListNode | undefined {
  if (node.kind !== 'list') return wrong(node, path, errors, 'must be a list');
  if (node.items.length > max) return wrong(node, path, errors, `has more than ${max} items`);
  return node;
}

export function checkTemplate(
  node: FileNode,
  path: string,
  text: string,
  errors: FileErrors,
): void {
  const { parts, errors: problems } = parseTemplate(text);
  for (const problem of problems) errors.add(node, path, `${path}: ${problem}`);
  for (const part of parts) {
    if (typeof part !== 'string' && part.kind === 'unsupported')
      errors.notSupported(node, path, part.feature);
  }
}
