/** `trellis join`: the code never stands on a command line, where every user of the machine could read it. */
import { ClusterError } from '../../errors.ts';
import { readTextFile } from '../passphrase.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const { codeFile, caFile, ...params } = run.params;
  const invitation = parseInvitation(await readCode(run, codeFile));
  const call = {
    ...invitation,
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
  if (typeof file === 'string') return readTextFile(file);
  if (fromEnvironment !== undefined && fromEnvironment !== '') return fromEnvironment;
  if (run.terminal.isInTty) return run.terminal.askSecret('Invitation code: ');
  return run.terminal.readInput();
}

/** A bare code, or what `trellis invite --json` printed: that names peers and certificate too. */
function parseInvitation(text: string): { code: string; peers?: unknown; caPem?: unknown } {
  const trimmed = text.trim();
  if (trimmed === '') {
    const reason = 'no code: give --code-file, TRELLIS_CODE or standard input';
    throw new ClusterError('USAGE', { reason, command: 'join' });
  }
  if (!trimmed.startsWith('{')) return { code: trimmed.split('\n', 1)[0]?.trim() ?? '' };
  try {
    const { code, peers, caPem } = JSON.parse(trimmed) as Record<string, unknown>;
    return { code: String(code), ...(peers === undefined ? {} : { peers, caPem }) };
  } catch (error) {
    const reason = 'the invitation is neither a code nor the answer of `trellis invite --json`';
    throw new ClusterError('INVALID', { reason }, error);
  }
}
