/** `trellis init`. */
import { resolve } from 'node:path';
import { ClusterError } from '../../errors.ts';
import { newPassphrase, passphraseFromFile } from '../passphrase.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const { passphraseFile: _, recoveryFile, ...params } = run.params;
  if (params['name'] === undefined) {
    throw new ClusterError('USAGE', { reason: '--name is missing', command: 'init' });
  }
  const operator = (params['operator'] as string | undefined) ?? 'admin';
  const fromFile = passphraseFromFile(run);
  const canAsk = run.terminal.isInTty && !run.options.isJson;
  const passphrase = fromFile ?? (canAsk ? await newPassphrase(run, operator) : null);
  const data = await run.client.call(
    'cluster/init',
    {
      ...params,
      ...(passphrase === null ? {} : { passphrase }),
      // The daemon writes it, and has another working directory.
      ...(typeof recoveryFile === 'string' ? { recoveryFile: resolve(recoveryFile) } : {}),
    },
    progressHooks(run),
  );
  await show({ ...run, command: { ...run.command, view: 'init' } }, data);
  return 0;
}
