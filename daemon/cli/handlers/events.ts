/** `trellis events [-f]`: with --json one array, or with -f one event per line. */
import { plainData } from '../plain-text.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';
import { eventLine } from '../views.ts';
import type { EventRow } from '../views.ts';

export async function run(run: Run): Promise<number> {
  const { terminal, options, params } = run;
  const isFollowing = params['follow'] === true;
  const events: EventRow[] = [];
  await run.client.call('events/ls', params, {
    ...progressHooks(run),
    onData: (data) => {
      const event = data as EventRow;
      if (!options.isJson)
        terminal.out(`${eventLine(plainData(event) as EventRow, terminal.style)}\n`);
      else if (isFollowing) terminal.out(`${JSON.stringify(event)}\n`);
      else events.push(event);
    },
  });
  if (options.isJson && !isFollowing) await show(run, events);
  return 0;
}
