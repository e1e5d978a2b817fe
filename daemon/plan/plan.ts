/**
 * Where everything runs: a pure, deterministic function of its inputs, the same on every host.
 *
 * It prefers no change, then the fewest moves: placements of the plan before stay while they are allowed and fit; only
 * what is left over is placed anew, large things first. Among hosts that may take a new instance, `spread` takes the one
 * with the fewest instances of the service, then the least reserved, then the highest rendezvous weight; `pack` the most
 * reserved. The order of hosts and services in the inputs plays no part.
 *
 * Dead hosts keep what they have and get nothing new; drained ones lose what may move. What runs and no longer fits its
 * reservation moves only where the service is `relocatable: yes`, and stays with a warning otherwise: a smaller inventory,
 * or none yet, must never stop anything. What fits nowhere is listed with the reason of every host, and disturbs nothing
 * else.
 *
 * What is exclusive has one placement per service, slot '0', all services of one lease on one host: where the lease is
 * preferred to be (`candidates.ts`). Where it really is, votes decide.
 */
import { compareText, encode } from '../../crdt/codec.ts';
import { hash32, pairWeight } from '../../crdt/hash32.ts';
import { hex } from '../../crdt/ids.ts';
import type { Hash, HostId } from '../../crdt/ids.ts';
import type {
  Placement,
  Plan,
  PlanHost,
  PlanInputs,
  Role,
  Service,
  Slot,
  Unplaceable,
} from '../../crdt/model.ts';
import { candidatesFor, mayHold, quietDynamics } from './candidates.ts';
import type { Candidates } from './candidates.ts';
import { eligibilityOf, ineligibleReason, isKnown, memoryReserveShare } from './eligibility.ts';
import { canonicalInputs } from './inputs.ts';
import { leaseWarnings } from './lease-warnings.ts';
import { leaseNameOfService, leaseSubjects } from './leases.ts';
import type { LeaseSubject } from './leases.ts';

/** A plan settles in two; the third is for those that free room for each other. */
const passesMax = 4;
/** Hosts named per unplaceable instance. */
const reasonsMax = 50;
/** The one place of what runs once. */
export const exclusiveSlot = '0';
/** Instances of one service on one host, when the service does not say. */
const perHostMaxDefault = Number.POSITIVE_INFINITY;

export function inputHash(inputs: PlanInputs, sha256: (bytes: Uint8Array) => Uint8Array): Hash {
  return hex(sha256(encode(canonicalInputs(inputs)))) as Hash;
}

export function plan(inputs: PlanInputs, sha256: (bytes: Uint8Array) => Uint8Array): Plan {
  const canonical = canonicalInputs(inputs);
  let board = fill(canonical);
  // What one pass moves away leaves room that the next may use. Settled here, a plan made again changes nothing.
  for (let pass = 1; pass < passesMax; pass++) {
    const next = fill({ ...canonical, previous: board.placements });
    const isSettled = samePlaces(board.placements, next.placements);
    board = next;
    if (isSettled) break;
  }
  return {
    v: 1,
    env: inputs.env,
    inputHash: hex(sha256(encode(canonical))) as Hash,
    placements: board.placements.toSorted(comparePlacements),
    unplaceable: board.unplaceable.toSorted(
      (a, b) => compareText(a.service, b.service) || compareSlots(a.slot, b.slot),
    ),
    warnings: [
      ...new Set([...board.warnings, ...roleWarnings(inputs), ...leaseWarnings(canonical)]),
    ].toSorted(compareText),
  };
}

function fill(inputs: PlanInputs): Board {
  const board = new Board(inputs);
  const services = inputs.services.toSorted(
    (a, b) => compareText(a.name, b.name) || compareText(a.id, b.id),
  );
  const open: OpenSlot[] = [];
  for (const service of services)
    if (leaseNameOfService(service.id, inputs) === null) open.push(...board.keep(service));
  for (const subject of leaseSubjects(inputs).values()) open.push(...board.keepTogether(subject));
  open.sort(
    (a, b) =>
      weightOf(b) - weightOf(a) ||
      compareText(a.service.name, b.service.name) ||
      compareText(a.service.id, b.service.id) ||
      compareSlots(a.slot, b.slot),
  );
  for (const slot of open) board.place(slot);
  return board;
}

function samePlaces(a: readonly Placement[], b: readonly Placement[]): boolean {
  if (a.length !== b.length) return false;
  const places = new Map(
    a.map((placement) => [`${placement.service}/${placement.slot}`, placement.host]),
  );
  return b.every(
    (placement) => places.get(`${placement.service}/${placement.slot}`) === placement.host,
  );
}

interface OpenSlot {
  /** The first of those that share a lease. */
  readonly service: Service;
  readonly slot: Slot;
  /** Bound to this host (per-host counts), or null. */
  readonly host: HostId | null;
  /** Why it has to be placed. */
  readonly from: HostId | null;
  /** Present: what shares a lease, all of it on one host. */
  readonly subject?: LeaseSubject;
}

interface Load {
  readonly host: PlanHost;
  readonly hash: number;
  readonly memoryBytesMax: number;
  /** Share of the scarcer resource that is promised. */
  reserved: number;
  cpu: number;
  memoryBytes: number;
  instances: number;
  readonly byService: Map<string, number>;
  /** '<protocol>/<port>' to the service that has it. */
  readonly ports: Map<string, string>;
}

/** Hosts with what is on them so far. */
class Board {
  readonly placements: Placement[] = [];
  readonly unplaceable: Unplaceable[] = [];
  readonly warnings: string[] = [];
  readonly #inputs: PlanInputs;
  readonly #loads = new Map<HostId, Load>();
  readonly #byRole = new Map<string, Load[]>();
  readonly #previous = new Map<string, Map<Slot, HostId>>();
  readonly #hasDedicated: boolean;
  readonly #mayCarry: (service: Service, host: PlanHost) => boolean;
  readonly #eligibleLoads = new Map<string, readonly Load[]>();
  readonly #loadsByName: readonly Load[];
  readonly #reasonsOf = new Map<string, Unplaceable['perHost']>();

  constructor(inputs: PlanInputs) {
    this.#inputs = inputs;
    this.#hasDedicated = inputs.roles.some((role) => role.isDedicated);
    this.#mayCarry = eligibilityOf(inputs.roles);
    for (const host of inputs.hosts.toSorted((a, b) => compareText(a.id, b.id))) {
      const load: Load = {
        host,
        hash: hash32(host.id),
        memoryBytesMax: host.memoryBytes * (1 - memoryReserveShare),
        reserved: 0,
        cpu: 0,
        memoryBytes: 0,
        instances: 0,
        byService: new Map(),
        ports: new Map(),
      };
      this.#loads.set(host.id, load);
      for (const role of host.roles) {
        const list = this.#byRole.get(role);
        if (list === undefined) this.#byRole.set(role, [load]);
        else list.push(load);
      }
    }
    this.#loadsByName = [...this.#loads.values()].toSorted((a, b) =>
      compareText(a.host.name, b.host.name),
    );
    for (const { service, slot, host } of inputs.previous) {
      let slots = this.#previous.get(service);
      if (slots === undefined) this.#previous.set(service, (slots = new Map()));
      slots.set(slot, host);
    }
  }

  /** Keeps what may stay and returns the slots that need a place. */
  keep(service: Service): OpenSlot[] {
    return service.count.perRole === undefined
      ? this.#keepPerHost(service)
      : this.#keepPerRole(service, service.count.perRole.min);
  }

  #keepPerHost(service: Service): OpenSlot[] {
    const wanted = service.count.perHost?.min ?? 1;
    const open: OpenSlot[] = [];
    for (const load of this.#eligible(service)) {
      if (load.host.isDrained && service.relocatable !== 'no') continue;
      for (let index = 0; index < wanted; index++) {
        const slot = `${load.host.id.slice(0, 6)}-${index}`;
        const isHere = this.#previous.get(service.id)?.get(slot) === load.host.id;
        if (isHere && this.#clash(service, load) === null) this.#stay(service, slot, load);
        else if (load.host.isAlive && !load.host.isDrained)
          open.push({ service, slot, host: load.host.id, from: null });
      }
    }
    return open;
  }

  #keepPerRole(service: Service, wanted: number): OpenSlot[] {
    const open: OpenSlot[] = [];
    const eligible = new Set(this.#eligible(service));
    for (let index = 0; index < wanted; index++) {
      const slot = String(index);
      const from = this.#previous.get(service.id)?.get(slot) ?? null;
      const load = from === null ? undefined : this.#loads.get(from);
      if (load === undefined || !eligible.has(load)) {
        open.push({ service, slot, host: null, from: null });
      } else if (this.#mustGo(service, load)) {
        // What may not be moved has this host or none.
        const host = service.relocatable === 'no' ? load.host.id : null;
        open.push({ service, slot, host, from });
      } else {
        this.#stay(service, slot, load);
      }
    }
    return open;
  }

  /** Two that cannot be together part in any case; a drain moves what may be moved, lack of room only what says yes. */
  #mustGo(service: Service, load: Load): boolean {
    if (this.#clash(service, load) !== null) return true;
    if (load.host.isDrained) return service.relocatable !== 'no';
    return (
      service.relocatable === 'yes' && isKnown(load.host) && this.#lack(service, load) !== null
    );
  }

  /** What runs here goes on, and whoever should know that it is against the rules is told. */
  #stay(service: Service, slot: Slot, load: Load): void {
    const lack = isKnown(load.host) ? this.#lack(service, load) : null;
    const why = load.host.isDrained ? 'the host is drained' : lack;
    const mayNot =
      service.relocatable === 'yes' ? 'no other host can take it' : 'it may not be moved';
    if (why !== null)
      this.warnings.push(`${service.name} stays on ${load.host.name} although ${why}: ${mayNot}`);
    this.#put(service, slot, load);
  }

  /**
   * What shares a lease has one place, where it is preferred: the lease decides where it really runs. It stays where the plan
   * had it for as long as that host may hold the lease, dead or alive.
   */
  keepTogether(subject: LeaseSubject): OpenSlot[] {
    const [service] = subject.services;
    if (service === undefined) return [];
    const from = this.#homeOf(subject.services);
    const load = from === null ? undefined : this.#loads.get(from);
    // Not as the last holder, who may stay for a while where it must not be.
    const mayStay =
      load !== undefined && mayHold(subject, this.#inputs, quietDynamics, load.host.id);
    if (!mayStay || this.#clashTogether(subject, load) !== null)
      return [{ service, slot: exclusiveSlot, host: null, from, subject }];
    this.#putTogether(subject, load);
    return [];
  }

  #homeOf(services: readonly Service[]): HostId | null {
    for (const { id } of services) {
      const slots = this.#previous.get(id);
      const home = slots?.get(exclusiveSlot) ?? [...(slots?.values() ?? [])][0];
      if (home !== undefined) return home;
    }
    return null;
  }

  #candidatesOf(subject: LeaseSubject, lastHolder: HostId | null): Candidates {
    return candidatesFor(subject, this.#inputs, { ...quietDynamics, lastHolder });
  }

  /** Better on a full host than on none: where the lease goes it runs, so a plan that says otherwise would be wrong. */
  #placeTogether(subject: LeaseSubject, from: HostId | null): void {
    const { hosts, passedOver, leaving } = this.#candidatesOf(subject, from);
    const alive = hosts
      .filter((host) => host !== leaving?.host)
      .flatMap((host) => this.#loads.get(host) ?? [])
      .filter((load) => load.host.isAlive && this.#clashTogether(subject, load) === null);
    const need = needOf(subject);
    const roomy = alive.find((load) => this.#lack(need, load) === null);
    const stay = leaving?.isLasting === false ? this.#loads.get(leaving.host) : undefined;
    const load = roomy ?? alive[0] ?? stay;
    if (load !== undefined) {
      if (load === stay)
        this.warnings.push(
          `${subject.title} stays on ${load.host.name} although it ${leaving?.reason ?? ''}: no other host can take it`,
        );
      this.#putTogether(subject, load);
      return;
    }
    const passed = new Map(passedOver.map(({ host, reason }) => [host, reason]));
    for (const { name } of subject.services) {
      const perHost = this.#loadsByName
        .toSorted((a, b) => Number(passed.has(a.host.id)) - Number(passed.has(b.host.id)))
        .slice(0, reasonsMax)
        .map(({ host }) => ({
          host: host.name,
          reason: passed.get(host.id) ?? this.#absence(subject, host),
        }));
      this.unplaceable.push({ service: name, slot: exclusiveSlot, perHost });
    }
  }

  /** Why a host that may hold the lease cannot take it now. */
  #absence(subject: LeaseSubject, host: PlanHost): string {
    const load = this.#loads.get(host.id);
    if (!host.isAlive || load === undefined) return 'does not answer';
    return this.#clashTogether(subject, load) ?? 'was passed over';
  }

  #clashTogether({ services }: LeaseSubject, load: Load): string | null {
    for (const service of services) {
      const clash = this.#clash(service, load);
      if (clash !== null) return clash;
    }
    return null;
  }

  #putTogether(subject: LeaseSubject, load: Load): void {
    const lack = isKnown(load.host) ? this.#lack(needOf(subject), load) : null;
    if (lack !== null)
      this.warnings.push(`${subject.title} is on ${load.host.name} although it ${lack}`);
    for (const service of subject.services) {
      // Two of them that want one port: who comes first by name has it, the other is told.
      const clash = this.#clash(service, load);
      if (clash === null) this.#put(service, exclusiveSlot, load);
      else {
        const perHost = [{ host: load.host.name, reason: clash }];
        this.unplaceable.push({ service: service.name, slot: exclusiveSlot, perHost });
      }
    }
  }

  place(open: OpenSlot): void {
    if (open.subject !== undefined) {
      this.#placeTogether(open.subject, open.from);
      return;
    }
    const load = open.host === null ? this.#best(open.service) : this.#bound(open);
    if (load !== null) {
      this.#put(open.service, open.slot, load);
      return;
    }
    // Better where it was than nowhere: a drained or full host keeps what nobody else can take.
    const from = open.from === null ? undefined : this.#loads.get(open.from);
    if (from !== undefined && this.#clash(open.service, from) === null) {
      this.warnings.push(
        `${open.service.name} stays on ${from.host.name}: no other host can take it`,
      );
      this.#put(open.service, open.slot, from);
      return;
    }
    this.unplaceable.push({
      service: open.service.name,
      slot: open.slot,
      perHost: this.#reasons(open),
    });
  }

  #bound(open: OpenSlot): Load | null {
    const load = open.host === null ? undefined : this.#loads.get(open.host);
    if (load === undefined || !load.host.isAlive || this.#refusal(open.service, load) !== null)
      return null;
    return load;
  }

  /** One look at every eligible host; words and hashes are only made where they decide. */
  #best(service: Service): Load | null {
    const isPack = service.placement.policy === 'pack';
    const hash = hash32(service.id);
    let best: Load | null = null;
    for (const load of this.#eligible(service)) {
      if (!load.host.isAlive || load.host.isDrained || !this.#fits(service, load)) continue;
      if (best === null || isBetter(load, best, { id: service.id, hash, isPack })) best = load;
    }
    return best;
  }

  #fits(service: Service, load: Load): boolean {
    const { cpu, memoryBytes } = service.resources;
    if (memoryBytes !== undefined && load.memoryBytes + memoryBytes > load.memoryBytesMax)
      return false;
    if (cpu !== undefined && load.cpu + cpu > load.host.cpu + 1e-9) return false;
    const isLimited = service.count.perHost !== undefined || service.ports.length > 0;
    return !isLimited || this.#clash(service, load) === null;
  }

  /** A host with a dedicated role carries nothing of its other roles. Worked out once per role and selector. */
  #eligible(service: Service): readonly Load[] {
    const loads = this.#byRole.get(service.role) ?? [];
    const where = Object.entries(service.placement.where);
    if (where.length === 0 && !this.#hasDedicated) return loads;
    const key = JSON.stringify([service.role, where.toSorted(([a], [b]) => compareText(a, b))]);
    const known = this.#eligibleLoads.get(key);
    if (known !== undefined) return known;
    const found = loads.filter(({ host }) => this.#mayCarry(service, host));
    this.#eligibleLoads.set(key, found);
    return found;
  }

  /** Why one more instance cannot be here; null when it can. */
  #refusal(service: Service, load: Load): string | null {
    return this.#lack(service, load) ?? this.#clash(service, load);
  }

  /** Room that is missing: need X, have Y. */
  #lack(service: Pick<Service, 'resources'>, load: Load): string | null {
    const { cpu, memoryBytes } = service.resources;
    if (memoryBytes !== undefined && load.memoryBytes + memoryBytes > load.memoryBytesMax) {
      return `needs ${mib(memoryBytes)} of memory, has ${mib(Math.max(0, load.memoryBytesMax - load.memoryBytes))} left`;
    }
    if (cpu !== undefined && load.cpu + cpu > load.host.cpu + 1e-9) {
      return `needs ${cpu} processors, has ${round(Math.max(0, load.host.cpu - load.cpu))} left`;
    }
    return null;
  }

  /** What cannot be together on one host, whatever its size. */
  #clash(service: Service, load: Load): string | null {
    const most =
      service.count.perRole === undefined
        ? perHostMaxDefault
        : (service.count.perHost?.max ?? perHostMaxDefault);
    if ((load.byService.get(service.id) ?? 0) >= most)
      return `has its ${most} of ${service.name} already`;
    for (const port of service.ports) {
      const holder =
        port.host === undefined ? undefined : load.ports.get(`${port.protocol}/${port.host}`);
      if (holder !== undefined) return `port ${port.host} is taken by ${holder}`;
    }
    return null;
  }

  #put(service: Service, slot: Slot, load: Load): void {
    load.cpu += service.resources.cpu ?? 0;
    load.memoryBytes += service.resources.memoryBytes ?? 0;
    load.reserved = Math.max(
      load.host.cpu > 0 ? load.cpu / load.host.cpu : 0,
      load.host.memoryBytes > 0 ? load.memoryBytes / load.host.memoryBytes : 0,
    );
    load.instances++;
    load.byService.set(service.id, (load.byService.get(service.id) ?? 0) + 1);
    for (const port of service.ports)
      if (port.host !== undefined) load.ports.set(`${port.protocol}/${port.host}`, service.name);
    this.placements.push({
      service: service.id,
      serviceName: service.name,
      slot,
      host: load.host.id,
    });
  }

  /** Hosts that could carry it by name first, then the others. One list serves all slots of a service that has none. */
  #reasons({ service, host }: OpenSlot): Unplaceable['perHost'] {
    const known = host === null ? this.#reasonsOf.get(service.id) : undefined;
    if (known !== undefined) return known;
    const bound = host === null ? undefined : this.#loads.get(host);
    const eligible = new Set(this.#eligible(service));
    const reasons: { host: string; reason: string }[] = [];
    const tell = (load: Load): void => {
      if (reasons.length >= reasonsMax) return;
      const reason = this.#reason(service, load, eligible.has(load));
      reasons.push({ host: load.host.name, reason });
    };
    if (bound !== undefined) {
      tell(bound);
    } else {
      for (const load of this.#loadsByName) if (eligible.has(load)) tell(load);
      for (const load of this.#loadsByName) if (!eligible.has(load)) tell(load);
      this.#reasonsOf.set(service.id, reasons);
    }
    return reasons;
  }

  #reason(service: Service, load: Load, isEligibleHere: boolean): string {
    const { host } = load;
    if (!isEligibleHere) return ineligibleReason(service, host);
    if (!host.isAlive) return 'does not answer';
    if (host.isDrained) return 'is drained';
    return this.#refusal(service, load) ?? 'was passed over';
  }
}

/** Strict: of two that are equal in all that counts, the rendezvous hash decides, and at last the id. */
function isBetter(
  a: Load,
  b: Load,
  service: { readonly id: string; readonly hash: number; readonly isPack: boolean },
): boolean {
  const difference = service.isPack
    ? b.reserved - a.reserved ||
      b.instances - a.instances ||
      ownOf(a, service.id) - ownOf(b, service.id)
    : ownOf(a, service.id) - ownOf(b, service.id) ||
      a.reserved - b.reserved ||
      a.instances - b.instances;
  if (difference !== 0) return difference < 0;
  const weight = pairWeight(service.hash, a.hash) - pairWeight(service.hash, b.hash);
  return weight === 0 ? compareText(a.host.id, b.host.id) < 0 : weight > 0;
}

function ownOf(load: Load, service: string): number {
  return load.byService.get(service) ?? 0;
}

/** Large things first: they have the least choice. */
function weightOf({ service, subject }: OpenSlot): number {
  return (subject?.services ?? [service]).reduce(
    (sum, { resources }) => sum + (resources.memoryBytes ?? 0) + (resources.cpu ?? 0) * 2 ** 30,
    0,
  );
}

/** '2' before '10'; per-host slots as text. */
export function compareSlots(a: Slot, b: Slot): number {
  const difference = Number(a) - Number(b);
  return Number.isNaN(difference) || difference === 0 ? compareText(a, b) : difference;
}

function comparePlacements(a: Placement, b: Placement): number {
  return (
    compareText(a.serviceName, b.serviceName) ||
    compareText(a.service, b.service) ||
    compareSlots(a.slot, b.slot)
  );
}

function roleWarnings(inputs: PlanInputs): string[] {
  const countOf = (role: Role): number =>
    inputs.hosts.filter((host) => host.roles.includes(role.name)).length;
  return inputs.roles.flatMap((role) => {
    const count = countOf(role);
    return count >= role.minHosts
      ? []
      : [`role ${role.name} wants ${role.minHosts} hosts and has ${count}`];
  });
}

/** Of all that shares a lease. */
function needOf({ services }: LeaseSubject): Pick<Service, 'resources'> {
  const sum = (field: 'cpu' | 'memoryBytes'): { [P in typeof field]?: number } => {
    const needs = services.flatMap(({ resources }) => resources[field] ?? []);
    return needs.length === 0 ? {} : { [field]: needs.reduce((total, need) => total + need, 0) };
  };
  return { resources: { ...sum('cpu'), ...sum('memoryBytes') } };
}

function mib(bytes: number): string {
  return `${Math.floor(bytes / 2 ** 20)} MiB`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
