/** `trellis apply`: what --prune would delete is shown first and confirmed. */
import { askFirst } from '../confirm.ts';
import { withFile } from '../desired-input.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const params = await withFile(run, { isNeeded: true });
  const { call = '' } = run.command;
  const isPruning = params['prune'] === true && params['dryRun'] !== true;
  if (isPruning && !run.options.isConfirmed) {
    const dry = (await run.client.call(call, { ...params, dryRun: true })) as { pruned?: string[] };
    await askFirst(
      run,
      (dry.pruned ?? []).map((name) => `delete ${name}`),
    );
  }
  const data = await run.client.call(call, params, progressHooks(run));
  await show({ ...run, command: { ...run.command, view: 'applied' } }, data);
  return 0;
}
