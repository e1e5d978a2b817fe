/**
 * Who may run what where: the one eligibility rule and the one account of room, shared by plan and failover.
 *
 * A host is eligible for a service when it carries the service's role, is not kept for another (dedicated) role, and its
 * metadata match. It has room when reservations stay within its capacity less a reserve, fixed ports are free, and the
 * service's limit per host is not reached. Sums are whole thousandths of a core and whole bytes, so their order is free.
 */
import { hash32 } from '../../crdt/hash32.ts';
import type { HostId, ObjectId } from '../../crdt/ids.ts';
import type { Placement, PlanHost, Role, Service } from '../../crdt/model.ts';
import { formatSize } from '../../crdt/durations.ts';

/** Kept free on every host for the system and the daemon. */
export const cpuReserveShare = 0.05;
export const memoryReserveShare = 0.05;
export const memoryReserveBytesMax = 1 << 30;

export interface Demand {
  readonly cpuMillis: number;
  readonly memoryBytes: number;
  /** '8080/tcp'. */
  readonly ports: readonly string[];
}

export function demandOf(service: Service): Demand {
  return {
    cpuMillis: Math.round((service.resources.cpu ?? 0) * 1_000),
    memoryBytes: Math.round(service.resources.memoryBytes ?? 0),
    ports: service.ports.flatMap((port) =>
      port.host === undefined ? [] : [`${port.host}/${port.protocol}`],
    ),
  };
}

/** One host and what is booked on it. */
export class HostBook {
  readonly host: PlanHost;
  readonly index: number;
  /** For rendezvous hashing. */
  readonly hash: number;
  readonly cpuMillisMax: number;
  readonly memoryBytesMax: number;
  /** The role that this host is kept for, null: for all its roles. */
  readonly dedicatedTo: string | null;
  cpuMillis = 0;
  memoryBytes = 0;
  instances = 0;
  /** Fixed port to the service that has it. */
  readonly ports = new Map<string, string>();

  constructor(host: PlanHost, index: number, roles: ReadonlyMap<string, Role>) {
    this.host = host;
    this.index = index;
    this.hash = hash32(host.id);
    this.cpuMillisMax = Math.floor(host.cpu * 1_000 * (1 - cpuReserveShare) + 1e-6);
    const reserveBytes = Math.min(host.memoryBytes * memoryReserveShare, memoryReserveBytesMax);
    this.memoryBytesMax = Math.floor(host.memoryBytes - reserveBytes);
    this.dedicatedTo = host.roles.find((role) => roles.get(role)?.isDedicated === true) ?? null;
  }

  /** Why this host may never run the service, null when it may. */
  refusal(service: Pick<Service, 'role' | 'placement'>): string | null {
    const { host } = this;
    if (!host.roles.includes(service.role)) return `does not have role ${service.role}`;
    if (this.dedicatedTo !== null && this.dedicatedTo !== service.role)
      return `is dedicated to role ${this.dedicatedTo}`;
    for (const [key, value] of Object.entries(service.placement.where)) {
      const has = Object.hasOwn(host.meta, key) ? host.meta[key] : undefined;
      if (has !== value)
        return `needs ${key}=${value}, has ${has === undefined ? `no ${key}` : `${key}=${has}`}`;
    }
    return null;
  }

  hasRoom(demand: Demand): boolean {
    if (demand.cpuMillis > 0 && this.cpuMillis + demand.cpuMillis > this.cpuMillisMax) return false;
    if (demand.memoryBytes > 0 && this.memoryBytes + demand.memoryBytes > this.memoryBytesMax)
      return false;
    return demand.ports.length === 0 || demand.ports.every((port) => !this.ports.has(port));
  }

  /** What is missing, in words: need X, have Y. Null when there is room. */
  shortfall(demand: Demand): string | null {
    const cpuLeft = Math.max(0, this.cpuMillisMax - this.cpuMillis);
    if (demand.cpuMillis > 0 && demand.cpuMillis > cpuLeft) {
      return `needs ${demand.cpuMillis / 1_000} cores, has ${cpuLeft / 1_000} of ${this.host.cpu} left`;
    }
    const memoryLeft = Math.max(0, this.memoryBytesMax - this.memoryBytes);
    if (demand.memoryBytes > 0 && demand.memoryBytes > memoryLeft) {
      return `needs ${sizeInWords(demand.memoryBytes)} of memory, has ${sizeInWords(memoryLeft)} of ${sizeInWords(this.host.memoryBytes)} left`;
    }
    const port = demand.ports.find((wanted) => this.ports.has(wanted));
    return port === undefined
      ? null
      : `port ${port} is used by service ${this.ports.get(port) ?? ''}`;
  }

  /** Books without asking: what runs already may exceed the room. */
  book(demand: Demand, service: string): void {
    this.cpuMillis += demand.cpuMillis;
    this.memoryBytes += demand.memoryBytes;
    this.instances += 1;
    for (const port of demand.ports) if (!this.ports.has(port)) this.ports.set(port, service);
  }

  /** Undoes `book` of an instance that held its ports. */
  release(demand: Demand): void {
    this.cpuMillis -= demand.cpuMillis;
    this.memoryBytes -= demand.memoryBytes;
    this.instances -= 1;
    for (const port of demand.ports) this.ports.delete(port);
  }

  /** Share of the scarcer resource that is booked, 0 to 1 and more. */
  reservedShare(): number {
    const cpu = this.cpuMillisMax > 0 ? this.cpuMillis / this.cpuMillisMax : 0;
    const memory = this.memoryBytesMax > 0 ? this.memoryBytes / this.memoryBytesMax : 0;
    return Math.max(cpu, memory);
  }
}

/** All hosts, sorted by id, and which of them may run which service. */
export class Booking {
  readonly books: readonly HostBook[];
  readonly byId: ReadonlyMap<HostId, HostBook>;
  readonly #classes = new Map<string, readonly HostBook[]>();

  /** `hosts` sorted by id. */
  constructor(hosts: readonly PlanHost[], roles: readonly Role[]) {
    const byName = new Map(roles.map((role) => [role.name, role]));
    this.books = hosts.map((host, index) => new HostBook(host, index, byName));
    this.byId = new Map(this.books.map((book) => [book.host.id, book]));
  }

  /** Hosts that may ever run it, dead and drained ones included. Worked out once per role and selector. */
  eligible(service: Pick<Service, 'role' | 'placement'>): readonly HostBook[] {
    const where = Object.entries(service.placement.where);
    const key =
      where.length === 0 ? service.role : `${service.role} ${JSON.stringify(where.toSorted())}`;
    const known = this.#classes.get(key);
    if (known !== undefined) return known;
    const found = this.books.filter((book) => book.refusal(service) === null);
    this.#classes.set(key, found);
    return found;
  }

  /** Books placements whose service and host are known; for failover, where the committed plan is what is reserved. */
  bookAll(placements: readonly Placement[], services: ReadonlyMap<ObjectId, Service>): void {
    for (const placement of placements) {
      const service = services.get(placement.service);
      if (service !== undefined)
        this.byId.get(placement.host)?.book(demandOf(service), service.name);
    }
  }
}

/** Most instances of a service on one host. */
export function perHostMax(service: Service): number {
  return service.count.perHost?.max ?? Number.MAX_SAFE_INTEGER;
}

/** '0' < '2' < '10', and texts by code unit. */
export function compareSlots(a: string, b: string): number {
  const isNumeric = /^\d+$/.test(a) && /^\d+$/.test(b);
  if (isNumeric && a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}

function sizeInWords(bytes: number): string {
  const rounded = bytes >= 1 << 20 ? bytes - (bytes % (1 << 20)) : bytes;
  return formatSize(rounded);
}
