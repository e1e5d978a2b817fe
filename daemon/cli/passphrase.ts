/** Where a passphrase comes from: a file, a prompt, or standard input. Never the command line. */
import { readFileSync, statSync } from 'node:fs';
import { ClusterError, reasonOf } from '../errors.ts';
import type { Run } from './spec.ts';

/** First line of `--passphrase-file`, or null when the flag is absent. */
export function passphraseFromFile(run: Run): string | null {
  const file = run.params['passphraseFile'];
  if (typeof file !== 'string') return null;
  const text = readTextFile(file);
  if ((statSync(file).mode & 0o077) !== 0) {
    run.terminal.note(`note: others may read ${file}; chmod 600 it`);
  }
  const line = firstLine(text);
  if (line === '') throw new ClusterError('INVALID', { reason: `${file} holds no passphrase` });
  return line;
}

/** For people: twice, and nothing typed means null (one is generated). */
export async function newPassphrase(run: Run, operator: string): Promise<string | null> {
  const typed = await run.terminal.askSecret(
    `New passphrase for operator ${operator} (empty: one is generated): `,
  );
  if (typed === '') return null;
  if ((await run.terminal.askSecret('Again: ')) !== typed) {
    throw new ClusterError('INVALID', { reason: 'the two passphrases differ' });
  }
  return typed;
}

/** From a prompt, or the first line of standard input when that is no terminal. */
export async function knownPassphrase(run: Run): Promise<string> {
  if (run.terminal.isInTty) return run.terminal.askSecret('Passphrase: ');
  const line = firstLine(await run.terminal.readInput());
  if (line !== '') return line;
  const reason = 'no passphrase on standard input; use --passphrase-file or a terminal';
  throw new ClusterError('USAGE', { reason, command: run.command.words.join(' ') });
}

/** Throws INVALID with the reason of the system. */
export function readTextFile(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new ClusterError('INVALID', { reason: `cannot read ${file}: ${reasonOf(error)}` }, error);
  }
}

export function firstLine(text: string): string {
  return text.split('\n', 1)[0]?.replace(/\r$/, '') ?? '';
}
