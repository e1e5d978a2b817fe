/** From what people type to one lease: its whole name, 'service db', 'service/db' or just 'db'. */
import { z } from 'zod';
import { ClusterError } from '../errors.ts';
import { leaseLimits } from '../lease/model.ts';
import type { LeaseSubject, LeaseWorld } from './lease-world.ts';

const wordsMax = 4;

/** One text, or words as they came from a command line. */
export const leaseNameParam = z
  .union([
    z.string().min(1).max(leaseLimits.nameCharsMax),
    z.array(z.string().min(1).max(leaseLimits.nameCharsMax)).min(1).max(wordsMax),
  ])
  .transform((given) => (typeof given === 'string' ? given : given.join(' ')).trim());

/** Fails with LEASE_UNKNOWN, AMBIGUOUS, and INVALID for a service that has none. */
export function findLease(world: LeaseWorld, text: string): LeaseSubject {
  const exact = world.subjects.find(({ name }) => name === text);
  if (exact !== undefined) return exact;
  const found = world.subjects.filter((subject) =>
    namesOf(subject).includes(text.replace('/', ' ')),
  );
  const [first] = found;
  if (first !== undefined && found.length === 1) return first;
  if (found.length > 1) {
    const choices = found.map(({ title }) => title);
    throw new ClusterError('AMBIGUOUS', { name: text, kind: 'lease', choices });
  }
  const service = text.replace(/^service[ /]/, '');
  if (world.view.services.has(service)) {
    throw new ClusterError('INVALID', {
      reason: `service ${service} is not exclusive, so that no lease holds it`,
    });
  }
  throw new ClusterError('LEASE_UNKNOWN', { name: text });
}

/** 'service db', 'db'; for storage also the services that follow it; for the planner of this environment 'planner'. */
function namesOf({ title, name, services }: LeaseSubject): string[] {
  const short = title.slice(title.indexOf(' ') + 1);
  const kind = name.slice(0, name.indexOf('/'));
  return [
    title,
    short,
    ...services.flatMap((service) => [service, `service ${service}`]),
    ...(kind === 'planner' ? ['planner'] : []),
  ];
}
