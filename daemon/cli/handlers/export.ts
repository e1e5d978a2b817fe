/** `trellis export`: the file itself on stdout; with --json the desired state as one JSON value. */
import { show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const format = run.options.isJson ? 'json' : (run.params['format'] ?? 'yaml');
  const data = await run.client.call('desired/export', { ...run.params, format });
  if (format === 'json') await show(run, data);
  else run.terminal.out((data as { text: string }).text);
  return 0;
}
