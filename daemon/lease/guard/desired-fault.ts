import type { GuardDesired } from '../guard-api.ts';
import { isGateName } from './lease-table.ts';

/** Null: a wish that a guard may act upon. The daemon is root's, but a bug in it must not become one here. */
export function faultOf(desired: GuardDesired): string | null {
  if (desired.v !== 1) return `version ${String(desired.v)}`;
  if (!/^[0-9a-f]{32}$/.test(desired.self)) return 'self is no host id';
  if (!/^[0-9a-f]{8}$/.test(desired.cluster8)) return 'cluster8 is no short cluster id';
  if (!Array.isArray(desired.leases) || !Array.isArray(desired.peers)) return 'lists are missing';
  const bad = desired.leases.find(({ gate }) => gate !== null && !isGateName(gate));
  return bad === undefined ? null : `${String(bad.gate)} cannot name a gate`;
}
