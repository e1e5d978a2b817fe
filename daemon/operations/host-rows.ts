/** Hosts and instances as answers show them: roster, settings, facts and the one liveness put together. */
import type { HostFact, HostView, InstanceFact, InstancesFact } from '../../crdt/model.ts';
import { compareText } from '../../crdt/codec.ts';
import type { LeaseName } from '../lease/model.ts';
import type { NodeApi } from '../node-api.ts';
import { leaseSubjects } from '../plan/leases.ts';
import type { Holder } from '../plan/leases.ts';
import type { HostRow, HostState, InstanceRow } from './answers.ts';
import { isoOf } from './common.ts';

export function hostFactOf(node: NodeApi, host: HostView): HostFact | null {
  return (node.fact('host', host.node)?.value as HostFact | undefined) ?? null;
}

export function instancesOf(
  node: NodeApi,
  host: HostView,
): { instances: readonly InstanceFact[]; ageMs: number } {
  const entry = node.fact('docker', host.node);
  const fact = entry?.value as Partial<InstancesFact> | undefined;
  return { instances: fact?.instances ?? [], ageMs: entry?.ageMs ?? 0 };
}

/** See `HostState`. Liveness comes first: what a dead host said about itself says nothing. */
export function hostState(node: NodeApi, host: HostView): HostState {
  if (host.liveness !== 'alive') return host.liveness;
  const fact = hostFactOf(node, host);
  if (fact === null) return 'joining';
  if (fact.isLeaving) return 'draining';
  if (host.isDrained || fact.isDraining) return isDrainDone(node, host) ? 'drained' : 'draining';
  return fact.isReady ? 'ready' : 'joining';
}

/** The plan knows of the drain, and nothing runs there that it has given to others. */
function isDrainDone(node: NodeApi, host: HostView): boolean {
  const committed = node.committedPlan();
  if (committed === null) return true;
  const planned = committed.inputs.hosts.find(({ id }) => id === host.id);
  if (planned !== undefined && !planned.isDrained) return false;
  const stays = new Set(
    committed.plan.placements
      .filter((placement) => placement.host === host.id)
      .map((placement) => `${placement.serviceName}-${placement.slot}`),
  );
  return instancesOf(node, host).instances.every(
    ({ instance, state }) => stays.has(instance) || state === 'exited',
  );
}

/** All hosts, by name; those that left are not listed. */
export function hostRows(node: NodeApi): HostRow[] {
  const lastSeen = new Map(node.members().map((member) => [member.host, member.lastSeenMs]));
  return node
    .hosts()
    .filter((host) => host.liveness !== 'left')
    .map((host) => hostRow(node, host, lastSeen.get(host.id) ?? null))
    .toSorted((a, b) => compareText(a.name, b.name));
}

export function hostRow(node: NodeApi, host: HostView, lastSeenMs: number | null): HostRow {
  const fact = hostFactOf(node, host);
  const state = hostState(node, host);
  const isSelf = host.id === node.self.host;
  const listed = fact === null ? [] : [fact.advertise, ...fact.addresses];
  return {
    id: host.id,
    name: host.name,
    state,
    spare: state === 'ready' && host.roles.length === 0,
    env: host.env,
    roles: host.roles,
    addresses: [...new Set(listed.filter((address) => address !== ''))],
    version: fact?.version ?? null,
    lastSeenMs: isSelf ? 0 : lastSeenMs,
    // An empty value hides what the member record says.
    meta: Object.fromEntries(Object.entries(host.meta).filter(([, value]) => value !== '')),
    inventory: node.fact('inventory', host.node)?.value ?? null,
    isSelf,
  };
}

/** Services that run under a lease, as committed, and who holds it as far as anybody said. */
export function exclusiveServices(
  node: NodeApi,
): ReadonlyMap<string, { readonly lease: LeaseName; readonly holder: Holder | null }> {
  const inputs = node.committedPlan()?.inputs;
  if (inputs === undefined) return new Map();
  const holders = node.leaseHolders();
  return new Map(
    [...leaseSubjects(inputs).values()].flatMap(({ lease, services }) =>
      services.map(({ name }) => [name, { lease, holder: holders.get(lease) ?? null }] as const),
    ),
  );
}

/** Made ready and waiting for the lease; where it is held these words mean that it does not run. */
const waitingStates = new Set(['waiting', 'created', 'exited']);

/**
 * Instances of all hosts as their engines say. Those of dead hosts are shown only with `all`, as 'unknown': nobody can
 * say what runs there.
 */
export function instanceRows(
  node: NodeApi,
  filter: { service?: string | undefined; host?: HostView | undefined; all?: boolean },
): InstanceRow[] {
  const rows: InstanceRow[] = [];
  const exclusive = exclusiveServices(node);
  for (const host of node.hosts()) {
    if (filter.host !== undefined && filter.host.id !== host.id) continue;
    const isGone = host.liveness === 'dead' || host.liveness === 'left';
    if (host.liveness === 'left' || (isGone && filter.all !== true)) continue;
    const { instances, ageMs } = instancesOf(node, host);
    for (const fact of instances) {
      if (filter.service !== undefined && fact.service !== filter.service) continue;
      const row = instanceRow(fact, host, { isGone, ageMs });
      const held = exclusive.get(fact.service);
      rows.push(held === undefined || isGone ? row : underLease(row, host, held.holder));
    }
  }
  return rows.toSorted(
    (a, b) =>
      compareText(a.service, b.service) ||
      compareText(a.instance, b.instance) ||
      compareText(a.host, b.host),
  );
}

function underLease(row: InstanceRow, host: HostView, holder: Holder | null): InstanceRow {
  if (holder?.host === host.id) return { ...row, epoch: holder.epoch };
  return waitingStates.has(row.state) ? { ...row, state: 'standby' } : row;
}

function instanceRow(
  fact: InstanceFact,
  host: HostView,
  seen: { isGone: boolean; ageMs: number },
): InstanceRow {
  return {
    service: fact.service,
    host: host.name,
    instance: fact.instance,
    state: seen.isGone ? 'unknown' : fact.state,
    health: seen.isGone ? 'none' : fact.health,
    image: fact.image,
    epoch: null,
    ports: fact.ports,
    since: fact.sinceMs > 0 ? isoOf(fact.sinceMs) : null,
    restarts: fact.restarts,
    reason: fact.reason ?? null,
    ageMs: Math.round(seen.ageMs),
    slot: fact.slot,
    containerId: fact.containerId,
  };
}
