/** `trellis completion SHELL`. */
import { ClusterError } from '../../errors.ts';
import { completionScript } from '../complete.ts';
import type { Run } from '../spec.ts';

export function run({ params, terminal }: Run): Promise<number> {
  const script = completionScript(String(params['shell']));
  if (script === null) {
    const reason = `no completion for ${String(params['shell'])}: bash, zsh or fish`;
    return Promise.reject(new ClusterError('USAGE', { reason, command: 'completion' }));
  }
  terminal.out(script);
  return Promise.resolve(0);
}
