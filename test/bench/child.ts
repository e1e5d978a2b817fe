/** Runs one of the programs beside this file in a process of its own: its heap and its load are then only what it measures. */
import { join } from 'node:path';
import { mustRun } from '../../bootstrap/local-cluster/run-command.ts';

export async function runChild<T>(
  program: string,
  args: readonly string[],
  options: { readonly flags?: readonly string[]; readonly timeoutMs: number },
): Promise<T> {
  const file = program.startsWith('/') ? program : join(import.meta.dirname, program);
  const command = [...(options.flags ?? []), file, ...args];
  return JSON.parse(
    await mustRun(process.execPath, command, { timeoutMs: options.timeoutMs }),
  ) as T;
}
