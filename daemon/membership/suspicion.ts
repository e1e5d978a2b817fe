/**
 * Lifeguard suspicion as plain values: how long a suspect may still refute, and who agrees that it is silent.
 */
import type { NodeId } from '../../crdt/ids.ts';

export interface Suspicion {
  /** When we began to suspect; moved forward when we ourselves got no CPU. */
  readonly sinceMs: number;
  /** The first accuser does not count among the confirmations. */
  readonly accuser: NodeId;
  readonly confirmedBy: ReadonlySet<NodeId>;
  /** "k" in the paper. 0: nobody else could confirm, so we start at the minimum. */
  readonly confirmationsWanted: number;
  readonly minMs: number;
  readonly maxMs: number;
}

/**
 * How long a suspect may still refute, in milliseconds from the start of the suspicion.
 *
 * Starts at `maxMs` and falls logarithmically to `minMs` as `confirmations` independent members agree, so one slow
 * observer cannot kill a healthy member but a true failure is still seen fast.
 *
 * Source: Dadgar et al., "Lifeguard", arXiv:1707.00788, section 4. Differs: whole milliseconds, so that all versions of
 * the runtime agree in simulation; no `confirmationsWanted` means the minimum.
 */
export function suspicionTimeoutMs(options: {
  readonly confirmations: number;
  readonly confirmationsWanted: number;
  readonly minMs: number;
  readonly maxMs: number;
}): number {
  const { confirmations, confirmationsWanted, minMs, maxMs } = options;
  if (confirmations >= confirmationsWanted) return minMs;
  const fallen = Math.log(confirmations + 1) / Math.log(confirmationsWanted + 1);
  return Math.round(maxMs - (maxMs - minMs) * fallen);
}

/** The cluster is larger, rumours take longer: both bounds grow with log10 of the live members, from 10 on. */
export function suspicionScale(liveMembers: number): number {
  return Math.max(1, Math.round(100 * Math.log10(Math.max(1, liveMembers))) / 100);
}

export function deadlineMs(suspicion: Suspicion): number {
  const confirmations = suspicion.confirmedBy.size;
  return suspicion.sinceMs + suspicionTimeoutMs({ ...suspicion, confirmations });
}

/** Null when `by` adds nothing: it accused or confirmed before, or enough others have. */
export function confirmed(suspicion: Suspicion, by: NodeId): Suspicion | null {
  const { accuser, confirmedBy, confirmationsWanted } = suspicion;
  if (by === accuser || confirmedBy.has(by) || confirmedBy.size >= confirmationsWanted) return null;
  return { ...suspicion, confirmedBy: new Set([...confirmedBy, by]) };
}
