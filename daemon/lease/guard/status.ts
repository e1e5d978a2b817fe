/** What a guard says of itself before it knows whose it is. */
import type { HostId } from '../../../crdt/ids.ts';
import type { GuardStatus } from '../guard-api.ts';

export function emptyStatus(env: string, self: HostId): GuardStatus {
  return {
    v: 1,
    env,
    self,
    session: '',
    pid: 0,
    version: '',
    chosen: null,
    voters: [],
    hasQuorum: false,
    silentMs: 0,
    hasForgotten: false,
    isParked: false,
    gateFault: null,
    leases: [],
    counters: {},
  };
}
