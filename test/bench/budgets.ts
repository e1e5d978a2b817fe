/** The rows in the order of the report. What is measured, in which unit, against which budget. */

export interface Budget {
  readonly id: string;
  readonly what: string;
  readonly unit: string;
  readonly budget: string;
  /** Why it cannot be measured in this release; such a row is listed and never ok. */
  readonly missing?: string;
}

export const budgets: readonly Budget[] = [
  {
    id: 'edit-visible-5',
    what: 'edit on one of 5 daemons until visible on all others',
    unit: 'ms',
    budget: 'p99 100 ms on an idle disk',
  },
  {
    id: 'edit-visible-100',
    what: 'the same with 100 simulated nodes, with the CPU time of the busiest',
    unit: 'ms',
    budget: '1 s',
  },
  {
    id: 'failover-exclusive',
    what: 'power-cut of the host of an exclusive service until it answers elsewhere',
    unit: 'ms',
    budget: 'median 2.0 s, maximum 4 s, overlap 0',
  },
  {
    id: 'lease-takeover',
    what: 'the lease part alone, without engines: power-cut of the holder until the next gate is open',
    unit: 'ms',
    budget: 'p99 1.8 s, overlap 0',
  },
  {
    id: 'failover-shared',
    what: 'power-cut of the host of a service until its replacement answers',
    unit: 's',
    budget: '10 s',
  },
  {
    id: 'switchover',
    what: 'handover of an exclusive service in order, without the stop and start of its container',
    unit: 'ms',
    budget: '100 ms, overlap 0',
  },
  ...[1, 50, 500].map((leases) => ({
    id: `lease-cost-${leases}`,
    what: `bytes sent by all of 3 voters together for each of ${leases} held lease${leases === 1 ? '' : 's'}`,
    unit: 'B/s',
    budget: '2 kB/s',
  })),
  {
    id: 'lease-sim',
    what: 'simulated steps of leases in a second of one core',
    unit: 'steps/s',
    budget: 'none: for the record',
  },
  {
    id: 'apply-30',
    what: '30 services on 3 hosts, from apply until all run',
    unit: 's',
    budget: 'ahead of Docker Swarm',
  },
  {
    id: 'rolling-10',
    what: 'rolling update of 10 instances',
    unit: 's',
    budget: 'ahead of Docker Swarm',
    missing: 'rolling updates are not in this release: an update replaces instances host by host',
  },
  {
    id: 'ready',
    what: 'start of the daemon until its API answers, member of 3',
    unit: 'ms',
    budget: '1 s',
  },
  {
    id: 'rss-idle',
    what: 'memory (PSS) of an idle daemon, cluster of 3',
    unit: 'MB',
    budget: '130 MB',
  },
  {
    id: 'rss-idle-guard',
    what: 'memory (PSS) of its guard of leases',
    unit: 'MB',
    budget: '45 MB',
  },
  {
    id: 'cpu-idle',
    what: 'CPU of an idle daemon, cluster of 3',
    unit: '% of a core',
    budget: '1 %',
  },
  {
    id: 'bytes-idle',
    what: 'bytes sent by each of 10 idle daemons',
    unit: 'B/s',
    budget: '2 kB/s',
  },
  { id: 'status', what: '`trellis status`, wall time', unit: 'ms', budget: '150 ms' },
  {
    id: 'plan-1000x10000',
    what: 'plan of 10,000 services on 1,000 hosts',
    unit: 's',
    budget: '1 s, within 5 % of the lower bound',
    missing: 'the planner that balances by measured use is not in this release',
  },
  {
    id: 'firewall-10000',
    what: 'swap of 10,000 firewall rules',
    unit: 's',
    budget: '1 s, no packet of an allowed flow lost',
    missing: 'the firewall plugin is not in this release',
  },
  {
    id: 'config-load-10000',
    what: 'load of 10,000 services with 7 fields from the snapshot, with their view',
    unit: 'ms',
    budget: '600 ms, daemon under 200 MB',
  },
  {
    id: 'config-edit-10000',
    what: 'one edit in it, acknowledged',
    unit: 'ms',
    budget: '25 ms, daemon under 200 MB',
  },
];

export function budgetOf(id: string): Budget {
  const found = budgets.find((budget) => budget.id === id);
  if (found === undefined) throw new Error(`there is no row ${id}`);
  return found;
}
