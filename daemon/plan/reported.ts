/**
 * What hosts say they run, as far as it can be used: the words of others are checked before planning, failover and packet
 * filter rules are made of them. What is malformed is as if it had not been said.
 */
import type { InstanceFact } from '../../crdt/model.ts';

/** Of one host; more cannot run on one. */
const instancesMax = 4_096;

const states: ReadonlySet<unknown> = new Set([
  'waiting',
  'pulling',
  'created',
  'running',
  'exited',
  'failed',
  'unknown',
]);
const healths: ReadonlySet<unknown> = new Set(['none', 'starting', 'healthy', 'unhealthy']);

/** What is used of an instance here; the rest of the fact is for people. */
export type Reported = Pick<
  InstanceFact,
  'service' | 'serviceId' | 'slot' | 'instance' | 'address' | 'state' | 'health'
>;

/** From the value of a 'docker' fact. */
export function reportedInstances(value: unknown): readonly Reported[] {
  const { instances } = (value ?? {}) as { instances?: unknown };
  if (!Array.isArray(instances)) return [];
  return instances.slice(0, instancesMax).flatMap((instance) => {
    if (!isReported(instance)) return [];
    const address = isAddress(instance.address) ? instance.address : null;
    return [{ ...instance, address }];
  });
}

/** All but its address, without which an instance runs as well, only unreachable. */
function isReported(value: unknown): value is Reported {
  if (typeof value !== 'object' || value === null) return false;
  const { service, serviceId, slot, instance, state, health } = value as Record<string, unknown>;
  return (
    [service, serviceId, slot, instance].every((text) => typeof text === 'string') &&
    states.has(state) &&
    healths.has(health)
  );
}

/** IPv4 or IPv6 in digits; names and anything that a rule or an address line could end with are none. */
export function isAddress(text: unknown): text is string {
  if (typeof text !== 'string') return false;
  const isV4 =
    /^\d{1,3}(\.\d{1,3}){3}$/.test(text) && text.split('.').every((octet) => Number(octet) < 256);
  return isV4 || (text.includes(':') && /^[0-9a-f:]{2,39}$/i.test(text));
}
