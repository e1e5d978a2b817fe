/** `trellis help [COMMAND]`. */
import { ClusterError } from '../../errors.ts';
import { findCommand, parseArgs } from '../args.ts';
import { commandHelp, groupHelp, overview } from '../help.ts';
import type { Run } from '../spec.ts';
import { commands, refuseLater } from '../table.ts';

export function run({ params, terminal }: Run): Promise<number> {
  const words = (params['words'] as readonly string[] | undefined) ?? [];
  refuseLater(words);
  terminal.out(helpText(words, terminal.style));
  return Promise.resolve(0);
}

function helpText(words: readonly string[], style: Run['terminal']['style']): string {
  if (words.length === 0) return overview(commands, style);
  const found = findCommand(commands, words);
  if (found !== null && found.taken === words.length) {
    return commandHelp(commands, found.command, style);
  }
  const group = groupHelp(commands, words, style);
  if (group !== null) return group;
  // Says which word is unknown, and what is near.
  parseArgs(commands, [...words, '--help']);
  throw new ClusterError('USAGE', { reason: `no command \`${words.join(' ')}\``, command: '' });
}
