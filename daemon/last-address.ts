/**
 * Where this host was last to be found, by its own account on disk. A machine that boots with its cable out shows no
 * usable address at all, and published ports must come back where they were.
 */
import { hex } from '../crdt/ids.ts';
import type { NodeId } from '../crdt/ids.ts';
import type { HostFact } from '../crdt/model.ts';
import { openAs } from '../crdt/records.ts';
import type { SignedBytes } from '../crdt/records.ts';

/** Null when it never said. `facts`: signed ones of topic 'host', of any members. */
export function lastAddressOf(self: NodeId, facts: readonly SignedBytes[]): string | null {
  for (const signed of facts) {
    const record = openAs('fact', signed)?.record;
    if (record === undefined || hex(record.owner) !== self) continue;
    const { advertise } = (record.body ?? {}) as Partial<HostFact>;
    if (typeof advertise === 'string') return advertise;
  }
  return null;
}
