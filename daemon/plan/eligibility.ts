/** May something be on a host at all? Liveness is asked elsewhere, by those to whom it matters. */
import type { PlanHost, Role, Service } from '../../crdt/model.ts';

/** Share of a host's memory that is never promised to services: the kernel, the engine and we need some. */
export const memoryReserveShare = 0.05;

/** A service, or storage: whatever belongs to a role. */
export interface Placeable {
  readonly role: string;
  readonly placement: Pick<Service['placement'], 'where'>;
}

/** `isEligible` that also knows which roles keep their hosts to themselves. */
export function eligibilityOf(
  roles: readonly Role[],
): (what: Placeable, host: PlanHost) => boolean {
  const dedicated = new Set(roles.filter((role) => role.isDedicated).map((role) => role.name));
  return (what, host) =>
    isEligible(what, host) && !host.roles.some((role) => role !== what.role && dedicated.has(role));
}

/** May it be on this host at all? Room is asked elsewhere. */
export function isEligible(what: Placeable, host: PlanHost): boolean {
  return (
    host.roles.includes(what.role) &&
    Object.entries(what.placement.where).every(([key, value]) => host.meta[key] === value)
  );
}

/** Why `eligibilityOf` says no, for people. */
export function ineligibleReason(what: Placeable, host: PlanHost): string {
  if (!host.roles.includes(what.role)) return `has no role ${what.role}`;
  const where = Object.entries(what.placement.where).find(
    ([key, value]) => host.meta[key] !== value,
  );
  return where === undefined
    ? 'has a dedicated role'
    : `${where[0]} is ${host.meta[where[0]] ?? 'not set'}, not ${where[1]}`;
}

/** False until its inventory has arrived. */
export function isKnown(host: PlanHost): boolean {
  return host.cpu > 0 || host.memoryBytes > 0;
}
