/** What operations and planning may ask of the leases; `lease-link.ts` implements it over the guard's socket. */
import type { LeaseFact } from '../crdt/model.ts';
import type { NodeId } from '../crdt/ids.ts';
import type { GuardCommand, GuardReply, GuardStatus } from './lease/guard-api.ts';

export interface LeaseApi {
  /** Newest of this host's guard; null: it is not connected. Cheap. */
  status(): GuardStatus | null;
  /** Asked now: nothing in it is older than the question. Rejects GUARD_UNREACHABLE. */
  look(signal: AbortSignal): Promise<GuardStatus>;
  /** Rejects GUARD_UNREACHABLE; refusals are answers. */
  command(command: GuardCommand, signal: AbortSignal): Promise<GuardReply>;
  /** Freezes, starts and kills for real in a gate of its own. */
  testGate(signal: AbortSignal): Promise<GuardReply>;
  /** What the guards of all hosts have said, by owner. */
  facts(): readonly { readonly owner: NodeId; readonly ageMs: number; readonly fact: LeaseFact }[];
  /** Fires after `status()` has changed; returns unsubscribe. */
  onChange(handle: () => void): () => void;
}
