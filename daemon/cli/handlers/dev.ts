/** `trellis dev`: the local cluster is made by bootstrap/, in a program of its own, as it needs much more than a client. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { ClusterError } from '../../errors.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const main = fileURLToPath(new URL('../../../bootstrap/local-cluster/dev.ts', import.meta.url));
  if (!existsSync(main)) {
    throw new ClusterError('NOT_SUPPORTED', {
      feature: '`trellis dev` outside a clone of the project',
      place: 'the command line',
    });
  }
  const words = run.command.words.slice(1);
  const nodes = run.params['nodes'];
  const args = [main, ...words, ...(typeof nodes === 'number' ? ['-n', String(nodes)] : [])];
  if (run.options.isJson) args.push('--json');
  if (run.options.isConfirmed) args.push('--yes');
  const child = spawn(process.execPath, args, { stdio: 'inherit' });
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => resolve(code ?? 1));
  });
}
