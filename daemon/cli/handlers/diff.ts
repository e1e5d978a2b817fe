/** `trellis diff -f FILE`: exit code 1 means that there is a difference. */
import { withFile } from '../desired-input.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const params = await withFile(run, { isNeeded: true });
  const data = (await run.client.call('desired/diff', params, progressHooks(run))) as {
    changes: readonly unknown[];
  };
  await show({ ...run, command: { ...run.command, view: 'diff' } }, data);
  return data.changes.length > 0 ? 1 : 0;
}
