/**
 * `lease force-active` and `env force-voters`: what may go wrong is said, and confirmed twice: once with y or --yes, once by
 * typing the name or with --confirm. One slip of the hand must not start a second copy of a database.
 */
import { ClusterError } from '../../errors.ts';
import { askFirst, dryRun } from '../confirm.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const { command, params, terminal } = run;
  const { plan = [], from } = await dryRun(run);
  await askFirst(run, plan);
  const { name, confirm } = params;
  const expected = Array.isArray(name) ? name.join(' ') : null;
  const what = expected === null ? 'the name of the environment' : `"${expected}"`;
  const given =
    typeof confirm === 'string'
      ? confirm
      : terminal.isInTty
        ? (await terminal.ask(`Type ${what} to confirm: `)).trim()
        : undefined;
  if (given === undefined) {
    throw new ClusterError('CONFIRMATION_NEEDED', {
      action: `\`trellis ${command.words.join(' ')}\``,
      risk: plan[1] ?? 'two hosts may run it at once',
      confirm: expected === null ? 'ENV' : JSON.stringify(expected),
      plan,
    });
  }
  const call = command.call ?? '';
  // Whom people were told of, and no other, is taken for dead.
  const of = from === undefined ? {} : { of: from ?? '' };
  const data = await run.client.call(
    call,
    { ...params, ...of, confirm: given },
    progressHooks(run),
  );
  await show(run, data);
  return 0;
}
