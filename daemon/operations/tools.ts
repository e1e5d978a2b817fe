/** What some operations need of this very process besides the node; `daemon/main.ts` gives it. */
import type { HostId, NodeId } from '../../crdt/ids.ts';
import type { InventoryFact } from '../../crdt/model.ts';
import type { EditSession } from '../node-api.ts';
import type { AuditLine } from './audit-log.ts';

export interface HostTools {
  /** Signs and spreads that a member is out; durable when it resolves. Fails with LOGIN_REQUIRED, FORBIDDEN, DISK_FULL. */
  removeMember(
    session: EditSession,
    member: { readonly node: NodeId; readonly host: HostId },
    reason: string,
  ): Promise<void>;
  /** Takes the inventory of this host now and publishes it. Fails with PLUGIN_FAILED. */
  rescanInventory(): Promise<InventoryFact>;
  /** Of this host, newest first. */
  auditLines(max: number): readonly AuditLine[];
  /** Tries to reach each 'address:port' over TCP; null when it answered, else why not. */
  probe(address: string, port: number, timeoutMs: number): Promise<string | null>;
  /** Runs a program that only looks, such as `iptables -S`. Null when it succeeded, else why not. */
  tryProgram(program: string, args: readonly string[]): Promise<string | null>;
  /** Free bytes where the state directory is. */
  stateDiskFreeBytes(): number;
  /** Of this host's guard: root may speak with it there. */
  guardSocket(): string;
}
