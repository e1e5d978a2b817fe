/** What a plan with exclusive work cannot survive, in words. */
import type { HostId } from '../../crdt/ids.ts';
import type { PlanInputs } from '../../crdt/model.ts';
import { fitCandidates, quietDynamics } from './candidates.ts';
import { leaseSubjects } from './leases.ts';
import type { LeaseSubject } from './leases.ts';

/** [] when nothing is held by a lease. */
export function leaseWarnings(inputs: PlanInputs): readonly string[] {
  const subjects = [...leaseSubjects(inputs).values()];
  if (subjects.length === 0) return [];
  const names = new Map(inputs.hosts.map((host) => [host.id, host.name]));
  const warnings = subjects.flatMap((subject) =>
    candidateWarning(
      subject,
      fitCandidates(subject, inputs, quietDynamics, 2),
      (host) => names.get(host) ?? host,
    ),
  );
  return [...warnings, ...voterWarnings(inputs)];
}

function candidateWarning(
  { title }: LeaseSubject,
  hosts: readonly HostId[],
  nameOf: (host: HostId) => string,
): string[] {
  const [only] = hosts;
  if (hosts.length > 1) return [];
  return only === undefined
    ? [`${title}: no host may hold its lease`]
    : [`${title} can only be on ${nameOf(only)}: nothing takes over when that host is gone`];
}

/** As many as there are by themselves: one of up to two hosts, three of up to four, else five. */
function voterWarnings({ hosts, voters }: PlanInputs): string[] {
  const count = voters?.length ?? (hosts.length < 3 ? Math.min(1, hosts.length) : 3);
  if (count === 2)
    return [
      'two hosts vote on leases: when one is gone, the other keeps what it has and takes nothing',
    ];
  if (count > 2) return [];
  return ['one host votes on leases: while it is gone, nothing exclusive is taken over'];
}
