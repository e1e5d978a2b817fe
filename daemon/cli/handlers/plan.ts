/** `trellis plan [-f FILE]`. */
import { withFile } from '../desired-input.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const params = await withFile(run, { isNeeded: false });
  const data = await run.client.call('plan/show', params, progressHooks(run));
  await show({ ...run, command: { ...run.command, view: 'plan' } }, data);
  return 0;
}
