/** What a plan would change, step by step and with reasons: what `trellis plan` prints. Pure. */
import { compareText, encode, equalBytes } from '../../crdt/codec.ts';
import type { Placement, Plan, PlanInputs, PlanStep, Service, Storage } from '../../crdt/model.ts';
import { candidatesOf, quietDynamics } from './candidates.ts';
import { compareSlots } from './plan.ts';

interface Planned {
  readonly plan: Plan;
  readonly inputs: PlanInputs;
}

/** `before` null: nothing was ever committed. */
export function diffPlans(before: Planned | null, after: Planned): readonly PlanStep[] {
  const was = new Map(
    (before?.plan.placements ?? []).map((placement) => [keyOf(placement), placement]),
  );
  const is = new Map(after.plan.placements.map((placement) => [keyOf(placement), placement]));
  const context = { before: new Context(before?.inputs ?? null), after: new Context(after.inputs) };
  const steps: PlanStep[] = [];
  for (const [key, placement] of is) {
    const step = stepFor(was.get(key) ?? null, placement, context);
    if (step !== null) steps.push(step);
  }
  for (const [key, placement] of was) if (!is.has(key)) steps.push(stopStep(placement, context));
  steps.push(...storageSteps(before, after));
  return steps.toSorted(
    (a, b) =>
      order(a.kind) - order(b.kind) ||
      compareText(a.service, b.service) ||
      compareSlots(a.slot, b.slot),
  );
}

interface Contexts {
  readonly before: Context;
  readonly after: Context;
}

class Context {
  readonly #services: ReadonlyMap<string, Service>;
  readonly #hosts: ReadonlyMap<string, PlanInputs['hosts'][number]>;

  constructor(inputs: PlanInputs | null) {
    this.#services = new Map(
      (inputs?.services ?? []).map((service) => [service.id as string, service]),
    );
    this.#hosts = new Map((inputs?.hosts ?? []).map((host) => [host.id as string, host]));
  }

  service(placement: Placement): Service | null {
    return this.#services.get(placement.service) ?? null;
  }

  host(id: string): PlanInputs['hosts'][number] | null {
    return this.#hosts.get(id) ?? null;
  }

  hostName(id: string): string {
    return this.#hosts.get(id)?.name ?? id.slice(0, 8);
  }
}

function stepFor(
  was: Placement | null,
  is: Placement,
  { before, after }: Contexts,
): PlanStep | null {
  const base = { service: is.serviceName, slot: is.slot, host: after.hostName(is.host) };
  const service = after.service(is);
  if (was === null) return { ...base, kind: 'start', reason: startReason(is, service, before) };
  if (was.host !== is.host) {
    return {
      ...base,
      kind: 'move',
      from: before.hostName(was.host),
      reason: leaveReason(was, after),
    };
  }
  const former = before.service(was);
  if (service === null || former === null || equalBytes(encode(service), encode(former)))
    return null;
  const fields = changedFields(former, service);
  return { ...base, kind: 'update', reason: `changed: ${fields.join(', ')}` };
}

function stopStep(was: Placement, { before, after }: Contexts): PlanStep {
  const base = {
    kind: 'stop' as const,
    service: was.serviceName,
    slot: was.slot,
    host: before.hostName(was.host),
  };
  const service = after.service(was);
  if (service === null) return { ...base, reason: 'the service is gone' };
  const host = after.host(was.host);
  if (host === null) return { ...base, reason: 'the host is gone' };
  if (!host.roles.includes(service.role))
    return { ...base, reason: `${host.name} no longer has role ${service.role}` };
  return {
    ...base,
    reason: host.isDrained ? `${host.name} is drained` : 'fewer instances are wanted',
  };
}

/** Storage has no placement: its lease decides. What is shown is where it is preferred. */
function storageSteps(before: Planned | null, after: Planned): PlanStep[] {
  const former = new Map((before?.inputs.storage ?? []).map((one) => [one.id, one]));
  const now = new Map((after.inputs.storage ?? []).map((one) => [one.id, one]));
  const stepOf = (storage: Storage, of: Planned, kind: PlanStep['kind'], reason: string) => ({
    kind,
    object: 'storage' as const,
    service: storage.name,
    slot: '',
    host: preferredHost(storage, of),
    reason,
  });
  const gone = [...former.values()].filter(({ id }) => !now.has(id));
  return [
    ...[...now.values()].flatMap((storage) => {
      const was = former.get(storage.id);
      if (was === undefined) return [stepOf(storage, after, 'start', 'the storage is new')];
      const fields = changedFields(was, storage);
      return fields.length === 0
        ? []
        : [stepOf(storage, after, 'update', `changed: ${fields.join(', ')}`)];
    }),
    ...gone.map((storage) =>
      stepOf(storage, before ?? after, 'stop', 'the storage is gone; its files stay'),
    ),
  ];
}

function preferredHost(storage: Storage, { plan, inputs }: Planned): string {
  if (!storage.isExclusive) return `all hosts of role ${storage.role}`;
  const followers = new Set(
    inputs.services.filter(({ follows }) => follows === storage.name).map(({ id }) => id),
  );
  const placed = plan.placements.find(({ service }) => followers.has(service))?.host;
  const host = placed ?? candidatesOf(storage, inputs, quietDynamics).hosts[0];
  return inputs.hosts.find(({ id }) => id === host)?.name ?? 'no host';
}

function startReason(placement: Placement, service: Service | null, before: Context): string {
  if (service === null || before.service(placement) === null) return 'the service is new';
  if (service.count.perRole !== undefined) return 'more instances are wanted';
  return before.host(placement.host)?.roles.includes(service.role) === true
    ? 'more instances are wanted'
    : `the host has role ${service.role} now`;
}

function leaveReason(was: Placement, after: Context): string {
  const host = after.host(was.host);
  const service = after.service(was);
  if (host === null) return 'its host is gone';
  if (host.isDrained) return `${host.name} is drained`;
  if (service !== null && !host.roles.includes(service.role))
    return `${host.name} no longer has role ${service.role}`;
  return `it no longer fits on ${host.name}`;
}

function changedFields<T extends Service | Storage>(before: T, after: T): string[] {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]) as Set<keyof T & string>;
  return [...names]
    .filter((name) => !equalBytes(encode(before[name] ?? null), encode(after[name] ?? null)))
    .toSorted(compareText);
}

function order(kind: PlanStep['kind']): number {
  return ['start', 'update', 'move', 'stop'].indexOf(kind);
}

function keyOf(placement: Placement): string {
  return `${placement.service}/${placement.slot}`;
}
