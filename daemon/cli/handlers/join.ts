/** `trellis join`: the code never stands on a command line, where every user of the machine could read it. */
import { ClusterError } from '../../errors.ts';
import { readTextFile } from '../passphrase.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';
import { parseTicket } from '../ticket.ts';

export async function run(run: Run): Promise<number> {
  const { codeFile, caFile, ...params } = run.params;
  const ticket = parseTicket(await readCode(run, codeFile));
  const call = {
    ...ticket,
    ...params,
    ...(typeof caFile === 'string' ? { caPem: readTextFile(caFile) } : {}),
  };
  const data = await run.client.call('cluster/join', call, progressHooks(run));
  await show({ ...run, command: { ...run.command, view: 'join' } }, data);
  return 0;
}

/** The environment comes before standard input, which may be a pipe that nobody ever closes. */
async function readCode(run: Run, file: unknown): Promise<string> {
  const fromEnvironment = run.terminal.env['TRELLIS_CODE'];
  delete process.env['TRELLIS_CODE'];
  let code: string;
  if (typeof file === 'string') code = readTextFile(file);
  else if (fromEnvironment !== undefined && fromEnvironment !== '') code = fromEnvironment;
  else if (run.terminal.isInTty) code = await run.terminal.askSecret('Invitation code: ');
  else code = await run.terminal.readInput();
  if (code.trim() === '') {
    const reason = 'no code: give --code-file, TRELLIS_CODE or standard input';
    throw new ClusterError('USAGE', { reason, command: 'join' });
  }
  return code.trim();
}
