/** The file that apply, diff and plan send as text: the daemon parses, because the client knows no schema. */
import { basename } from 'node:path';
import { ClusterError } from '../errors.ts';
import { readTextFile } from './passphrase.ts';
import type { Params, Run } from './spec.ts';

/** Parameters with `file` replaced by `text`, `fileName` and `source`. Throws USAGE when the file is missing. */
export async function withFile(run: Run, options: { isNeeded: boolean }): Promise<Params> {
  const { file, ...params } = run.params;
  if (typeof file !== 'string') {
    if (!options.isNeeded) return params;
    const command = run.command.words.join(' ');
    throw new ClusterError('USAGE', { reason: '--file FILE is missing', command });
  }
  const text = file === '-' ? await run.terminal.readInput() : readTextFile(file);
  const fileName = file === '-' ? 'stdin' : basename(file);
  return { source: fileName, ...params, fileName, text };
}
