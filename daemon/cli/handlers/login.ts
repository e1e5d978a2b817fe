/** `trellis login`. */
import { knownPassphrase, passphraseFromFile } from '../passphrase.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const { passphraseFile: _, ...params } = run.params;
  const passphrase = passphraseFromFile(run) ?? (await knownPassphrase(run));
  const data = await run.client.call(
    'operator/login',
    { ...params, passphrase },
    progressHooks(run),
  );
  await show({ ...run, command: { ...run.command, view: 'login' } }, data);
  return 0;
}
