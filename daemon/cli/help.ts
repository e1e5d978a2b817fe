/** Help texts, made from the command table. */
import { findCommand, subcommands } from './args.ts';
import type { Command, Flag, Positional } from './spec.ts';
import { globalFlags, sections } from './spec.ts';
import type { Style } from './terminal.ts';

/** `trellis help`. */
export function overview(table: readonly Command[], style: Style): string {
  const lines = ['Trellis: every host runs the same daemon; ask any of them.', ''];
  lines.push('Usage: trellis COMMAND [ARGUMENTS] [FLAGS]', '');
  for (const section of sections) {
    lines.push(style.bold(section[0]?.toUpperCase() + section.slice(1)));
    const rows = table
      .filter((command) => command.section === section)
      .map((command) => [usage(command), command.summary] as const);
    lines.push(...columns(rows), '');
  }
  lines.push(style.bold('Everywhere'), ...columns(globalFlags.map(flagRow)), '');
  lines.push('`trellis help COMMAND` shows flags and examples.');
  return `${lines.join('\n')}\n`;
}

/** `trellis host --help`: null unless the words name only a group. */
export function groupHelp(
  table: readonly Command[],
  argv: readonly string[],
  style: Style,
): string | null {
  const words = argv.filter((word) => !word.startsWith('-'));
  if (words.length === 0 || findCommand(table, words) !== null) return null;
  if (subcommands(table, words).length === 0) return null;
  const members = table.filter((command) => words.every((word, i) => command.words[i] === word));
  const rows = members.map((command) => [usage(command), command.summary] as const);
  return `${style.bold(`trellis ${words.join(' ')}`)}\n\n${columns(rows).join('\n')}\n`;
}

/** `trellis help CMD`. */
export function commandHelp(table: readonly Command[], command: Command, style: Style): string {
  const lines = [`trellis ${command.words.join(' ')}: ${command.summary}`, ''];
  lines.push(
    `Usage: trellis ${usage(command)}${(command.flags?.length ?? 0) > 0 ? ' [FLAGS]' : ''}`,
  );
  if (command.about !== undefined) lines.push('', command.about);
  const own = command.flags ?? [];
  if (own.length > 0) lines.push('', style.bold('Flags'), ...columns(own.map(flagRow)));
  const others = globalFlags.filter((flag) => !own.some((mine) => mine.name === flag.name));
  lines.push('', style.bold('Everywhere'), ...columns(others.map(flagRow)));
  const more = subcommands(table, command.words);
  if (more.length > 0) {
    const list = more.map((word) => `trellis ${[...command.words, word].join(' ')}`).join(', ');
    lines.push('', `See also: ${list}`);
  }
  lines.push('', style.bold('Examples'), ...command.examples.map((example) => `  ${example}`));
  if (command.call !== undefined) lines.push('', style.dim(`API: POST /api/v1/${command.call}`));
  return `${lines.join('\n')}\n`;
}

export function usage(command: Command): string {
  const parts: string[] = [...command.words];
  for (const positional of command.positionals ?? []) parts.push(positionalUsage(positional));
  return parts.join(' ');
}

function positionalUsage(positional: Positional): string {
  if (positional.isRest === true) return `-- ${positional.name}…`;
  const name = positional.isMany === true ? `${positional.name}…` : positional.name;
  return positional.isOptional === true ? `[${name}]` : name;
}

function flagRow(flag: Flag): readonly [string, string] {
  const short = flag.short === undefined ? '' : `-${flag.short}, `;
  const value = flag.kind === 'boolean' ? '' : ` ${flag.value ?? 'VALUE'}`;
  return [`${short}--${flag.name}${value}`, flag.summary];
}

const leftColumnMax = 34;

function columns(rows: readonly (readonly [string, string])[]): string[] {
  const width = Math.min(leftColumnMax, Math.max(0, ...rows.map(([left]) => left.length)));
  return rows.map(([left, right]) =>
    left.length > width
      ? `  ${left}\n  ${' '.repeat(width)}  ${right}`
      : `  ${left.padEnd(width)}  ${right}`,
  );
}
