/**
 * Command line to command and parameters. Pure: no environment, no files, no daemon.
 *
 * Flags may stand anywhere before `--`; after it everything is positional. A command whose last positional is `isRest`
 * (exec) takes the words after its fixed positionals as they stand.
 */
import { ClusterError } from '../errors.ts';
import type { Command, Flag, Params, Positional } from './spec.ts';
import { globalFlags } from './spec.ts';
import { suggest } from './suggest.ts';

export interface Parsed {
  readonly command: Command;
  readonly params: Params;
  readonly globals: {
    readonly isJson: boolean;
    readonly isConfirmed: boolean;
    readonly isHelp: boolean;
    readonly socket: string | null;
  };
}

/** Longest command whose words begin `words`, and how many of them it took; null when there is none. */
export function findCommand(
  table: readonly Command[],
  words: readonly string[],
): { command: Command; taken: number } | null {
  let best: Command | null = null;
  for (const command of table) {
    const isPrefix = command.words.every((word, i) => words[i] === word);
    if (isPrefix && command.words.length > (best?.words.length ?? 0)) best = command;
  }
  return best === null ? null : { command: best, taken: best.words.length };
}

/** Throws ClusterError USAGE with a suggestion where one is near. */
export function parseArgs(table: readonly Command[], argv: readonly string[]): Parsed {
  const { command, rest } = locate(table, argv);
  const scan = scanFlags(command, rest);
  const globals = {
    isJson: scan.values.get('json') === true,
    isConfirmed: scan.values.get('yes') === true,
    isHelp: scan.values.get('help') === true,
    socket: (scan.values.get('socket') as string | undefined) ?? null,
  };
  const params: Record<string, unknown> = {};
  for (const flag of [...globalFlags, ...(command.flags ?? [])]) {
    const value = scan.values.get(flag.name);
    const isOwn = flag.name === 'env' || command.flags?.includes(flag) === true;
    if (value !== undefined && isOwn) params[flag.param ?? camelCase(flag.name)] = value;
  }
  if (!globals.isHelp) Object.assign(params, bindPositionals(command, scan.positionals));
  return { command, params, globals };
}

/** Which command is meant; global flags may come before its name. */
function locate(table: readonly Command[], argv: readonly string[]) {
  const before: string[] = [];
  let i = 0;
  for (; i < argv.length && (argv[i] ?? '').startsWith('-') && argv[i] !== '--'; i++) {
    const text = argv[i] ?? '';
    before.push(text);
    const flag = findFlag(globalFlags, text.replace(/=.*$/s, ''));
    if (flag === undefined) {
      throw usageError(`unknown flag ${text}`, '');
    }
    if (flag.kind !== 'boolean' && !text.includes('=') && i + 1 < argv.length) {
      before.push(argv[++i] ?? '');
    }
  }
  const words = argv.slice(i);
  const found = findCommand(table, words);
  if (found === null) throw unknownCommand(table, words);
  const rest = words.slice(found.taken);
  const next = rest[0];
  const siblings = subcommands(table, found.command.words);
  // `invite` and `plan` do something by themselves and have subcommands too: a stray word is then a slip.
  if (siblings.length > 0 && next !== undefined && !next.startsWith('-')) {
    if ((found.command.positionals?.length ?? 0) === 0) throw unknownCommand(table, words);
  }
  return { command: found.command, rest: [...before, ...rest] };
}

/** Names that may follow `words`. */
export function subcommands(table: readonly Command[], words: readonly string[]): string[] {
  const names = new Set<string>();
  for (const command of table) {
    const name = command.words[words.length];
    if (name !== undefined && words.every((word, i) => command.words[i] === word)) names.add(name);
  }
  return [...names];
}

function unknownCommand(table: readonly Command[], words: readonly string[]): ClusterError {
  const known: string[] = [];
  for (const word of words) {
    if (!subcommands(table, known).includes(word)) break;
    known.push(word);
  }
  const choices = subcommands(table, known);
  const word = words[known.length];
  const group = known.join(' ');
  if (word === undefined || word.startsWith('-')) {
    const what = known.length === 0 ? 'a command' : `a subcommand of \`trellis ${group}\``;
    const reason = `${what} is missing: ${choices.join(', ')}`;
    return usageError(reason, group);
  }
  const near = suggest(word, choices);
  const hint = near === null ? '' : `, did you mean \`trellis ${[...known, near].join(' ')}\`?`;
  const reason = `unknown command \`trellis ${[...known, word].join(' ')}\`${hint}`;
  return usageError(reason, group);
}

type FlagValue = boolean | string | number | string[] | Record<string, string>;

interface Scan {
  readonly values: Map<string, FlagValue>;
  readonly positionals: string[];
}

function scanFlags(command: Command, words: readonly string[]): Scan {
  const flags = [...(command.flags ?? []), ...globalFlags];
  const scan: Scan = { values: new Map(), positionals: [] };
  const fixed = (command.positionals ?? []).filter(
    (positional) => positional.isRest !== true,
  ).length;
  const hasRest = fixed < (command.positionals?.length ?? 0);
  for (let i = 0; i < words.length; i++) {
    const word = words[i] ?? '';
    if (word === '--' || (hasRest && scan.positionals.length === fixed && !word.startsWith('-'))) {
      scan.positionals.push(...words.slice(word === '--' ? i + 1 : i));
      break;
    }
    if (!word.startsWith('-') || word === '-') {
      scan.positionals.push(word);
      continue;
    }
    for (const part of splitShort(flags, word)) {
      i += takeFlag({ command, flags, word: part, next: words[i + 1], values: scan.values });
    }
  }
  return scan;
}

/** '-fn20' is '-f' and '-n20' when f takes no value. */
function splitShort(flags: readonly Flag[], word: string): string[] {
  if (word.startsWith('--') || word.length <= 2) return [word];
  const first = findFlag(flags, word.slice(0, 2));
  if (first?.kind !== 'boolean') return [word];
  return [word.slice(0, 2), ...splitShort(flags, `-${word.slice(2)}`)];
}

/** Stores one flag; returns how many further words it used. */
function takeFlag(options: {
  command: Command;
  flags: readonly Flag[];
  word: string;
  next: string | undefined;
  values: Map<string, FlagValue>;
}): number {
  const { command, flags, word, next, values } = options;
  const equals = word.startsWith('--') ? word.indexOf('=') : -1;
  let name = equals < 0 ? word : word.slice(0, equals);
  let inline = equals < 0 ? undefined : word.slice(equals + 1);
  if (!word.startsWith('--') && word.length > 2) {
    name = word.slice(0, 2);
    inline = word.slice(2);
  }
  const flag = findFlag(flags, name);
  if (flag === undefined) throw unknownFlag(command, flags, name);
  const place = command.words.join(' ');
  if (flag.kind === 'boolean') {
    if (inline !== undefined && !['true', 'false'].includes(inline)) {
      throw usageError(`--${flag.name} takes no value`, place);
    }
    values.set(flag.name, inline !== 'false');
    return 0;
  }
  const text = inline ?? next;
  if (text === undefined || (inline === undefined && text.startsWith('--'))) {
    const reason = `--${flag.name} needs a value (${flag.value ?? 'VALUE'})`;
    throw usageError(reason, place);
  }
  if (values.has(flag.name) && flag.kind !== 'strings' && flag.kind !== 'pairs') {
    throw usageError(`--${flag.name} is given twice`, place);
  }
  const value = flagValue(flag, text, values.get(flag.name));
  if (value === null) {
    const reason = `--${flag.name} cannot be ${JSON.stringify(text)}: ${kindText[flag.kind]}`;
    throw usageError(reason, place);
  }
  values.set(flag.name, value);
  return inline === undefined ? 1 : 0;
}

const kindText = {
  boolean: 'it takes no value',
  string: 'a text is expected',
  strings: 'a text is expected',
  integer: 'a whole number is expected',
  duration: 'a duration such as 90, 500ms, 30s, 5m or 1h is expected',
  pairs: 'NAME=VALUE is expected',
} as const;

function flagValue(flag: Flag, text: string, before: FlagValue | undefined): FlagValue | null {
  switch (flag.kind) {
    case 'boolean':
      return true;
    case 'string':
      return text;
    case 'strings':
      return [...((before as string[] | undefined) ?? []), text];
    case 'integer':
      return /^-?\d{1,15}$/.test(text) ? Number(text) : null;
    case 'duration':
      return parseDurationMs(text);
    case 'pairs': {
      const equals = text.indexOf('=');
      if (equals < 1) return null;
      const pairs = (before as Record<string, string> | undefined) ?? {};
      return { ...pairs, [text.slice(0, equals)]: text.slice(equals + 1) };
    }
  }
}

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
};

/** '90' is seconds. Null when it is no duration. */
export function parseDurationMs(text: string): number | null {
  const match = /^(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d)?$/.exec(text);
  if (match === null) return null;
  return Math.round(Number(match[1]) * (unitMs[match[2] ?? 's'] ?? 0));
}

function findFlag(flags: readonly Flag[], text: string): Flag | undefined {
  if (text.startsWith('--')) return flags.find((flag) => flag.name === text.slice(2));
  return flags.find((flag) => flag.short !== undefined && flag.short === text.slice(1));
}

function unknownFlag(command: Command, flags: readonly Flag[], name: string): ClusterError {
  const near = name.startsWith('--')
    ? suggest(
        name.slice(2),
        flags.map((flag) => flag.name),
      )
    : null;
  const words = command.words.join(' ');
  const hint = near === null ? '' : `, did you mean --${near}?`;
  const reason = `\`trellis ${words}\` has no flag ${name}${hint}`;
  return usageError(reason, words);
}

function bindPositionals(command: Command, given: readonly string[]): Record<string, unknown> {
  const specs: readonly Positional[] = command.positionals ?? [];
  const out: Record<string, unknown> = {};
  const words = command.words.join(' ');
  let at = 0;
  for (const spec of specs) {
    const isMany = spec.isMany === true || spec.isRest === true;
    const after = specs.slice(specs.indexOf(spec) + 1).filter((other) => other.isOptional !== true);
    const values = isMany ? given.slice(at, given.length - after.length) : given.slice(at, at + 1);
    at += values.length;
    if (values.length === 0) {
      if (spec.isOptional === true) continue;
      throw usageError(`${spec.name} is missing`, words);
    }
    out[spec.param] = isMany ? values : values[0];
  }
  if (at < given.length) {
    const reason = `\`trellis ${words}\` does not take ${JSON.stringify(given[at])}`;
    throw usageError(reason, words);
  }
  return out;
}

/** Names the help of the command, or the overview when none was recognised. */
export function usageError(reason: string, command: string): ClusterError {
  const error = new ClusterError('USAGE', { reason, command });
  if (command === '') error.message = error.message.replace('help `', 'help`');
  return error;
}

export function camelCase(name: string): string {
  return name.replaceAll(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}
