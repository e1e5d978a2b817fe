/**
 * From placements to what the plugins of one host get: rendered instances in start order, and for every service of the
 * environment the number under which it is found and where it runs now. Pure.
 *
 * Services come from the committed plan's inputs, not from the document: what nobody committed is not run.
 */
import { compareText, encode } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, HostId } from '../../crdt/ids.ts';
import type { Placement, PlanInputs, Service, Storage } from '../../crdt/model.ts';
import { renderTemplate } from '../../crdt/templates.ts';
import type { TemplateRef } from '../../crdt/templates.ts';
import { virtualAddressOf } from '../../crdt/virtual-address.ts';
import type { Epoch, LeaseName } from '../lease/model.ts';
import { gateOf, leaseNameOf, leaseNameOfService, leaseSubjects, storageOf } from './leases.ts';
import type { Holder } from './leases.ts';
import type {
  DesiredInstance,
  DesiredStorage,
  DesiredView,
  ExclusiveInstance,
  RoutePort,
  ServiceRoute,
} from '../../plugins/api.ts';

/** One instance that is reachable now. */
export interface LiveInstance {
  readonly service: string;
  readonly slot: string;
  readonly host: HostId;
  /** Advertised address of its host. */
  readonly hostAddress: string;
  /** The container's own address on its host. */
  readonly address: string | null;
  /** False only for instances of this host that are still to start. */
  readonly isRunning: boolean;
  readonly isHealthy: boolean;
  /** Its host does not answer at the moment but is not given up. */
  readonly isSuspect: boolean;
  /** Its host was given up; what it last said may still be so, when only its daemon died. */
  readonly isDead: boolean;
  /** Its host is the one that the plan names. */
  readonly isPlanned: boolean;
}

export interface RenderInput {
  readonly clusterId: ClusterId;
  readonly env: string;
  readonly self: {
    readonly id: HostId;
    readonly name: string;
    readonly meta: Readonly<Record<string, string>>;
    readonly advertise: string;
  };
  /** What runs here: own and taken slots, and what is exclusive and may run here. */
  readonly placements: readonly Placement[];
  /** What this host has of the environment's storage. */
  readonly storage: readonly Storage[];
  /** Instances to leave alone although they are not placed here. */
  readonly keep: readonly string[];
  readonly inputs: PlanInputs;
  readonly live: readonly LiveInstance[];
  /** Leases that this host's guard holds with its gate open, and their epochs. */
  readonly held: ReadonlyMap<LeaseName, Epoch>;
  /** Who holds what, by what all hosts say: of several the one of the highest epoch. */
  readonly holders: ReadonlyMap<LeaseName, Holder>;
  /** Directory in which the guard keeps a lease directory per gate. */
  readonly leaseRoot: string;
  /** Where other daemons are reached; null: not known. */
  reach(host: HostId): { readonly address: string; readonly apiPort: number } | null;
  sha256(bytes: Uint8Array): Uint8Array;
}

export function renderView(given: RenderInput): DesiredView {
  // A passive instance never gets traffic, and is nobody's address.
  const input = { ...given, live: given.live.filter(activeOnly(given)) };
  const services = new Map(input.inputs.services.map((service) => [service.id as string, service]));
  const numbers = new Map(input.inputs.numbers);
  const instances = input.placements.flatMap((placement) => {
    const service = services.get(placement.service);
    return service === undefined ? [] : [renderInstance(service, placement, numbers, input)];
  });
  return {
    clusterId: input.clusterId,
    cluster8: input.clusterId.slice(0, 8),
    hostId: input.self.id,
    hostName: input.self.name,
    env: input.env,
    advertise: input.self.advertise,
    virtualAddress: virtualAddressOf(input.clusterId),
    instances: inStartOrder(instances),
    keep: input.keep,
    ...(input.storage.length === 0 ? {} : { storage: renderStorage(input) }),
    routes: renderRoutes(input, numbers),
  };
}

export function serviceHost(service: string, env: string): string {
  return `${service}.${env}.internal`;
}

/** Where a lease is held: here only while our own guard says so, whatever was said before. */
function holderOf(lease: LeaseName, { self, held, holders }: RenderInput): HostId | null {
  const own = held.get(lease);
  const said = holders.get(lease);
  if (own !== undefined && (said === undefined || own >= said.epoch)) return self.id;
  return said === undefined || said.host === self.id ? null : said.host;
}

function activeOnly(input: RenderInput): (instance: LiveInstance) => boolean {
  const holders = new Map<string, HostId | null>();
  for (const { services, lease } of leaseSubjects(input.inputs).values())
    for (const { name } of services) holders.set(name, holderOf(lease, input));
  return ({ service, host }) => !holders.has(service) || holders.get(service) === host;
}

function renderStorage(input: RenderInput): readonly DesiredStorage[] {
  return input.storage
    .toSorted((a, b) => compareText(a.name, b.name))
    .map(({ id, name, driver, path, isExclusive, role }) => {
      const hosts = input.inputs.hosts
        .filter((host) => host.roles.includes(role))
        .map((host) => host.id)
        .toSorted(compareText);
      const lease = isExclusive ? leaseNameOf(input.env, { kind: 'storage', id }) : null;
      const said = lease === null ? undefined : input.holders.get(lease);
      const holder = lease === null ? null : holderOf(lease, input);
      const reach = holder === null || holder === input.self.id ? null : input.reach(holder);
      const active =
        reach === null || said === undefined || said.host !== holder
          ? null
          : { host: said.host, ...reach, epoch: said.epoch };
      const epoch = lease === null ? null : (input.held.get(lease) ?? null);
      return { id, name, driver, path, lease, epoch, hosts, active };
    });
}

/** Which lease, behind which gate; null: it may run twice. */
function renderLease(
  service: Service,
  input: RenderInput,
): Omit<ExclusiveInstance, 'epoch'> | null {
  const lease = leaseNameOfService(service.id, input.inputs);
  const subject = lease === null ? undefined : leaseSubjects(input.inputs).get(lease);
  if (lease === null || subject === undefined) return null;
  const gate = gateOf(input.clusterId.slice(0, 8), subject.id, input.self.id);
  return { lease, gate, leaseDir: `${input.leaseRoot}/${gate}` };
}

/** What it follows has the same path inside as outside. */
function mountsOf(service: Service, input: RenderInput): Pick<DesiredInstance, 'mounts'> {
  const storage = storageOf(service, input.inputs);
  if (storage === undefined) return {};
  const { path } = storage;
  return { mounts: [{ source: path, target: path, isReadOnly: false }] };
}

function renderInstance(
  service: Service,
  placement: Placement,
  numbers: ReadonlyMap<string, number>,
  input: RenderInput,
): DesiredInstance {
  const instance = `${service.name}-${placement.slot}`;
  const image = input.inputs.images?.find((entry) => entry.reference === service.image);
  const resolve = (ref: TemplateRef): string => resolveRef(ref, service, numbers, input);
  const lease = renderLease(service, input);
  const shape = {
    service: service.name,
    serviceId: service.id,
    slot: placement.slot,
    instance,
    containerName: `trellis-${input.clusterId.slice(0, 8)}-${instance}`,
    image: service.image,
    clusterImage: image === undefined ? null : { manifest: image.manifest, imageId: image.imageId },
    command: service.command.map((argument) => renderTemplate(argument, resolve)),
    env: Object.fromEntries(
      Object.entries(service.env)
        .toSorted(([a], [b]) => compareText(a, b))
        .map(([name, value]) => [name, renderTemplate(value, resolve)]),
    ),
    ports: service.ports.toSorted((a, b) => compareText(a.name, b.name)),
    resources: service.resources,
    ...(service.health === undefined ? {} : { health: service.health }),
    dependsOn: service.dependsOn,
    stopGraceMs: service.stopGraceMs,
    restart: lease === null ? ('unless-stopped' as const) : ('no' as const),
    ...mountsOf(service, input),
  };
  // What a running container cannot change; the rest (enabled or not, order) is applied without recreating it.
  const { dependsOn: _order, stopGraceMs: _grace, ...shaping } = shape;
  const spec = hex(
    input.sha256(
      encode({
        ...shaping,
        // Not the epoch: the container is made before there is one, and outlives it.
        ...(lease === null ? {} : { exclusive: { ...lease } }),
        restarts: service.restarts,
      }),
    ),
  ).slice(0, 16);
  const { isEnabled } = service;
  if (lease === null) return { ...shape, isEnabled, spec };
  // Not "enabled here": its gate says that, and opens before a view can say so.
  return {
    ...shape,
    exclusive: { ...lease, epoch: input.held.get(lease.lease) ?? null },
    isEnabled,
    spec,
  };
}

function resolveRef(
  ref: TemplateRef,
  service: Service,
  numbers: ReadonlyMap<string, number>,
  input: RenderInput,
): string {
  switch (ref.kind) {
    case 'service-host':
      return serviceHost(ref.service, input.env);
    case 'service-port':
      return String(numbers.get(`${ref.service}/${ref.port}`) ?? '');
    case 'service-address':
      return addressOf(ref.service, service, input);
    case 'host-name':
      return input.self.name;
    case 'host-meta':
      return input.self.meta[ref.key] ?? '';
    case 'unsupported':
      return '';
  }
}

/** Host address of the first healthy instance; the service's name unless the dependency asks to be restarted by a change. */
function addressOf(target: string, consumer: Service, input: RenderInput): string {
  const isFollowing = consumer.dependsOn.some(
    (dependency) => dependency.service === target && dependency.onChange === 'restart',
  );
  if (!isFollowing) return serviceHost(target, input.env);
  const live = input.live.filter(
    (instance) => instance.service === target && instance.isHealthy && !instance.isDead,
  );
  return (
    live.toSorted((a, b) => compareText(a.slot, b.slot))[0]?.hostAddress ??
    serviceHost(target, input.env)
  );
}

/** Dependencies before those who need them; a circle is broken at its alphabetically first member. */
function inStartOrder(instances: readonly DesiredInstance[]): readonly DesiredInstance[] {
  const byService = new Map<string, DesiredInstance[]>();
  for (const instance of instances.toSorted((a, b) => compareText(a.instance, b.instance))) {
    byService.set(instance.service, [...(byService.get(instance.service) ?? []), instance]);
  }
  const out: DesiredInstance[] = [];
  const done = new Set<string>();
  const visit = (service: string): void => {
    if (done.has(service)) return;
    done.add(service);
    const own = byService.get(service) ?? [];
    for (const dependency of own[0]?.dependsOn ?? []) visit(dependency.service);
    out.push(...own);
  };
  for (const service of byService.keys()) visit(service);
  return out;
}

/**
 * Traffic goes to healthy instances, to all running ones when none is healthy; past hosts that are suspected while others
 * are there, which spares most requests to a host that has just died; to successors only when no planned one is there.
 */
function renderRoutes(
  input: RenderInput,
  numbers: ReadonlyMap<string, number>,
): readonly ServiceRoute[] {
  const byService = new Map<string, LiveInstance[]>();
  for (const instance of input.live)
    byService.set(instance.service, [...(byService.get(instance.service) ?? []), instance]);
  return input.inputs.services
    .filter((service) => service.ports.length > 0)
    .toSorted((a, b) => compareText(a.name, b.name))
    .map((service) => {
      const live = byService.get(service.name) ?? [];
      // Not ahead of the start: packets to an address where nobody is yet wait for a second for their neighbour.
      const targets = targetsOf(live.filter((instance) => instance.isRunning));
      const own = live.filter((instance) => instance.host === input.self.id);
      const inbound = addressesOf(
        narrowed(own, [(instance) => instance.isHealthy, (instance) => instance.isRunning]),
      );
      const ports = service.ports.flatMap((port): RoutePort[] => {
        const number = numbers.get(`${service.name}/${port.name}`);
        if (number === undefined) return [];
        const isLocal = (target: LiveInstance): boolean => target.host === input.self.id;
        const local = addressesOf(targets.filter(isLocal));
        const remote = targets
          .filter((target) => !isLocal(target))
          .map((target) => target.hostAddress);
        return [
          {
            name: port.name,
            protocol: port.protocol,
            number,
            container: port.container,
            local,
            remote: [...new Set(remote)].toSorted(compareText),
            inbound,
          },
        ];
      });
      return {
        service: service.name,
        name: serviceHost(service.name, input.env),
        ports: ports.toSorted((a, b) => compareText(a.name, b.name)),
      };
    });
}

function addressesOf(instances: readonly LiveInstance[]): readonly string[] {
  const addresses = instances.flatMap(({ address }) => (address === null ? [] : [address]));
  return [...new Set(addresses)].toSorted(compareText);
}

function targetsOf(live: readonly LiveInstance[]): readonly LiveInstance[] {
  return narrowed(live, [
    // A dead daemon leaves its containers running: where nothing else is, they are worth a try.
    (instance) => !instance.isDead,
    (instance) => instance.isHealthy,
    (instance) => !instance.isSuspect,
    (instance) => instance.isPlanned,
  ]);
}

/** Each wish holds as long as somebody meets it together with those before. */
function narrowed<T>(items: readonly T[], wishes: readonly ((item: T) => boolean)[]): readonly T[] {
  let left = items;
  for (const wish of wishes) {
    const meeting = left.filter(wish);
    if (meeting.length > 0) left = meeting;
  }
  return left;
}
