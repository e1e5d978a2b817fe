/**
 * Where everything runs: a pure, deterministic function of its inputs, the same on every host.
 *
 * It prefers no change, then the fewest moves: placements of the plan before stay while they are allowed and fit; only
 * what is left over is placed anew, large things first. Among hosts that may take a new instance, `spread` takes the one
 * with the fewest instances of the service, then the least reserved, then the highest rendezvous weight; `pack` the most
 * reserved. The order of hosts and services in the inputs plays no part.
 *
 * Dead hosts keep what they have and get nothing new; drained ones lose what may move. What fits nowhere is listed with
 * the reason of every host, and disturbs nothing else.
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

/** Share of a host's memory that is never promised to services: the kernel, the engine and we need some. */
const memoryReserveShare = 0.05;
/** Hosts named per unplaceable instance. */
const reasonsMax = 50;
/** Instances of one service on one host, when the service does not say. */
const perHostMaxDefault = Number.POSITIVE_INFINITY;

export function inputHash(inputs: PlanInputs, sha256: (bytes: Uint8Array) => Uint8Array): Hash {
  return hex(sha256(encode(inputs))) as Hash;
}

export function plan(inputs: PlanInputs, sha256: (bytes: Uint8Array) => Uint8Array): Plan {
  const board = new Board(inputs);
  const services = inputs.services.toSorted(
    (a, b) => compareText(a.name, b.name) || compareText(a.id, b.id),
  );
  const open: OpenSlot[] = [];
  for (const service of services) open.push(...board.keep(service));
  open.sort(
    (a, b) =>
      weightOf(b.service) - weightOf(a.service) ||
      compareText(a.service.name, b.service.name) ||
      compareSlots(a.slot, b.slot),
  );
  for (const slot of open) board.place(slot);
  return {
    v: 1,
    env: inputs.env,
    inputHash: inputHash(inputs, sha256),
    placements: board.placements.toSorted(comparePlacements),
    unplaceable: board.unplaceable.toSorted(
      (a, b) => compareText(a.service, b.service) || compareSlots(a.slot, b.slot),
    ),
    warnings: [...board.warnings, ...roleWarnings(inputs)].toSorted(compareText),
  };
}

/** May instances of the service be on this host at all? Room and liveness are asked elsewhere. */
export function isEligible(service: Service, host: PlanHost): boolean {
  return (
    host.roles.includes(service.role) &&
    Object.entries(service.placement.where).every(([key, value]) => host.meta[key] === value)
  );
}

interface OpenSlot {
  readonly service: Service;
  readonly slot: Slot;
  /** Bound to this host (per-host counts), or null. */
  readonly host: HostId | null;
  /** Why it has to be placed. */
  readonly from: HostId | null;
}

interface Load {
  readonly host: PlanHost;
  readonly hash: number;
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
  readonly #loads = new Map<HostId, Load>();
  readonly #byRole = new Map<string, Load[]>();
  readonly #previous = new Map<string, Map<Slot, HostId>>();
  readonly #dedicated: ReadonlySet<string>;

  constructor(inputs: PlanInputs) {
    this.#dedicated = new Set(
      inputs.roles.filter((role) => role.isDedicated).map((role) => role.name),
    );
    for (const host of inputs.hosts.toSorted((a, b) => compareText(a.id, b.id))) {
      const load: Load = {
        host,
        hash: hash32(host.id),
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
        if (isHere && this.#refusal(service, load) === null) this.#put(service, slot, load);
        else open.push({ service, slot, host: load.host.id, from: null });
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
        open.push({ service, slot, host: null, from });
      } else {
        this.#put(service, slot, load);
      }
    }
    return open;
  }

  /** A kept instance goes when its host is drained or can no longer carry it, unless it may not move. */
  #mustGo(service: Service, load: Load): boolean {
    const refusal = this.#refusal(service, load);
    if (!load.host.isDrained && refusal === null) return false;
    if (service.relocatable !== 'no') return true;
    const why = load.host.isDrained ? 'the host is drained' : refusal;
    this.warnings.push(
      `${service.name} stays on ${load.host.name} although ${why}: it may not be moved`,
    );
    return false;
  }

  place(open: OpenSlot): void {
    const load = open.host === null ? this.#best(open.service) : this.#bound(open);
    if (load !== null) {
      this.#put(open.service, open.slot, load);
      return;
    }
    // Better where it was than nowhere: a drained host keeps what nobody else can take.
    const from = open.from === null ? undefined : this.#loads.get(open.from);
    if (from !== undefined && this.#refusal(open.service, from) === null) {
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

  #best(service: Service): Load | null {
    let best: Load | null = null;
    let bestKey: Key | null = null;
    for (const load of this.#eligible(service)) {
      if (!load.host.isAlive || load.host.isDrained || this.#refusal(service, load) !== null)
        continue;
      const key = keyOf(service, load);
      if (bestKey === null || compareKeys(key, bestKey, service, load, best) < 0) {
        best = load;
        bestKey = key;
      }
    }
    return best;
  }

  /** A host with a dedicated role carries nothing of its other roles. */
  #eligible(service: Service): readonly Load[] {
    const loads = this.#byRole.get(service.role) ?? [];
    const isPlain = Object.keys(service.placement.where).length === 0;
    if (isPlain && this.#dedicated.size === 0) return loads;
    return loads.filter(
      ({ host }) => isEligible(service, host) && !this.#isTakenByDedicated(service, host),
    );
  }

  #isTakenByDedicated(service: Service, host: PlanHost): boolean {
    return host.roles.some((role) => role !== service.role && this.#dedicated.has(role));
  }

  /** Why one more instance cannot be here; null when it can. */
  #refusal(service: Service, load: Load): string | null {
    const { cpu, memoryBytes } = service.resources;
    const memoryMax = load.host.memoryBytes * (1 - memoryReserveShare);
    if (memoryBytes !== undefined && load.memoryBytes + memoryBytes > memoryMax) {
      return `needs ${mib(memoryBytes)} of memory, has ${mib(Math.max(0, memoryMax - load.memoryBytes))} left`;
    }
    if (cpu !== undefined && load.cpu + cpu > load.host.cpu + 1e-9) {
      return `needs ${cpu} processors, has ${round(Math.max(0, load.host.cpu - load.cpu))} left`;
    }
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

  #reasons(open: OpenSlot): Unplaceable['perHost'] {
    const eligible = new Set(this.#eligible(open.service));
    const loads =
      open.host === null
        ? [...this.#loads.values()]
        : [...this.#loads.values()].filter((load) => load.host.id === open.host);
    return loads
      .toSorted(
        (a, b) =>
          Number(eligible.has(b)) - Number(eligible.has(a)) ||
          compareText(a.host.name, b.host.name),
      )
      .slice(0, reasonsMax)
      .map((load) => ({
        host: load.host.name,
        reason: this.#reason(open.service, load, eligible.has(load)),
      }));
  }

  #reason(service: Service, load: Load, isEligibleHere: boolean): string {
    const { host } = load;
    if (!host.roles.includes(service.role)) return `has no role ${service.role}`;
    if (!isEligibleHere) {
      const where = Object.entries(service.placement.where).find(
        ([key, value]) => host.meta[key] !== value,
      );
      return where === undefined
        ? 'has a dedicated role'
        : `${where[0]} is ${host.meta[where[0]] ?? 'not set'}, not ${where[1]}`;
    }
    if (!host.isAlive) return 'does not answer';
    if (host.isDrained) return 'is drained';
    return this.#refusal(service, load) ?? 'was passed over';
  }
}

/** Smaller is better, item by item. */
type Key = readonly [number, number, number];

function keyOf(service: Service, load: Load): Key {
  const reserved = Math.max(
    load.host.cpu > 0 ? load.cpu / load.host.cpu : 0,
    load.host.memoryBytes > 0 ? load.memoryBytes / load.host.memoryBytes : 0,
  );
  const own = load.byService.get(service.id) ?? 0;
  return service.placement.policy === 'pack'
    ? [-reserved, -load.instances, own]
    : [own, reserved, load.instances];
}

function compareKeys(a: Key, b: Key, service: Service, loadA: Load, loadB: Load | null): number {
  for (let i = 0; i < a.length; i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference;
  }
  if (loadB === null) return -1;
  const hash = hash32(service.id);
  return (
    pairWeight(hash, loadB.hash) - pairWeight(hash, loadA.hash) ||
    compareText(loadA.host.id, loadB.host.id)
  );
}

/** Large things first: they have the least choice. */
function weightOf(service: Service): number {
  return (service.resources.memoryBytes ?? 0) + (service.resources.cpu ?? 0) * 2 ** 30;
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

function mib(bytes: number): string {
  return `${Math.floor(bytes / 2 ** 20)} MiB`;
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}
