/** Before something is lost: say what, and ask. */
import { ClusterError } from '../errors.ts';
import { plainText } from './plain-text.ts';
import type { Run } from './spec.ts';

/** Returns when it may go on. Throws REFUSED_UNCONFIRMED when the answer is no or nobody can be asked. */
export async function askFirst(run: Run, losses: readonly string[]): Promise<void> {
  if (losses.length === 0 || run.options.isConfirmed) return;
  const action = `\`trellis ${run.command.words.join(' ')}\``;
  for (const line of losses) run.terminal.note(`  ${plainText(line)}`);
  if (!run.terminal.isInTty) {
    throw new ClusterError('REFUSED_UNCONFIRMED', { action, plan: losses });
  }
  const answer = await run.terminal.ask('Go on? [y/N] ');
  if (!/^y(es)?$/i.test(answer.trim())) {
    throw new ClusterError('REFUSED_UNCONFIRMED', { action, plan: losses });
  }
}

/** Of operations that take `dryRun`. */
export interface DryRun {
  readonly plan?: readonly string[];
  /** Of a takeover: from which host, as far as is known. */
  readonly from?: string | null;
}

export async function dryRun(run: Run): Promise<DryRun> {
  const params = { ...run.params, dryRun: true };
  return (await run.client.call(run.command.call ?? '', params)) as DryRun;
}

/** For operations that take `dryRun` and answer `{plan: string[]}`. */
export async function whatDryRunSays(run: Run): Promise<readonly string[]> {
  return (await dryRun(run)).plan ?? [];
}

/** Instances that stop here, and the state that is wiped. */
export async function whatLeaveLoses(run: Run): Promise<readonly string[]> {
  const info = (await run.client.call('cluster/info', {})) as {
    isMember?: boolean;
    host?: { name?: string };
  };
  if (info.isMember === false) return [];
  const hostName = info.host?.name ?? 'this host';
  const rows = (await run.client.call('service/ps', { host: hostName })) as {
    instance: string;
  }[];
  const lines = rows.map((row) => `stop and remove ${row.instance}`);
  lines.push(`wipe keys and cluster state of ${hostName}`);
  return lines;
}
