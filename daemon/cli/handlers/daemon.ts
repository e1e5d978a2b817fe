/** `trellis daemon` never gets here from the installed command, which starts another program for it. */
import { ClusterError } from '../../errors.ts';

export function run(): Promise<number> {
  const reason =
    'the daemon is started by the `trellis` command or with `node daemon/main.ts daemon`';
  return Promise.reject(new ClusterError('USAGE', { reason, command: 'daemon' }));
}
