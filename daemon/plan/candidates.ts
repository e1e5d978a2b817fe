/**
 * Who may hold a lease, best first: a pure function of what is committed and of a snapshot of what is going on, so that
 * every host that has heard the same says the same. It decides nothing exclusive: the votes do. It decides who is asked
 * first, whom acceptors refuse, and where containers are made ready beforehand.
 *
 * Order: hosts that fit and answer; those without room for the reservation; those that do not answer; the holder that has
 * to leave. Within each by policy, then by rendezvous hash, then by id: a total order, whatever the order of the inputs.
 * Taking a host away changes the order of no other two, unless it was the last holder, which `sticky` and `location` ask.
 *
 * The last holder is never dropped while somebody else could take over: a host that is left out here is refused its
 * renewals, and work that is to move must move in order and not by being fenced.
 */
import { compareText } from '../../crdt/codec.ts';
import { hash32, pairWeight } from '../../crdt/hash32.ts';
import type { HostId, ObjectId } from '../../crdt/ids.ts';
import type { PlanHost, PlanInputs, Service, Storage } from '../../crdt/model.ts';
import type { LeaseName } from '../lease/model.ts';
import { eligibilityOf, ineligibleReason, isKnown, memoryReserveShare } from './eligibility.ts';
import type { Placeable } from './eligibility.ts';
import { leaseNameOf, leaseNameOfService, leaseSubjects } from './leases.ts';
import type { LeaseSubject } from './leases.ts';

/** What moves too fast for a plan. */
export interface CandidateDynamics {
  /** Hosts whose copy may be promoted, for storage that is copied; null: not asked. The last holder's always may. */
  readonly inSync: ReadonlySet<HostId> | null;
  /** Measured, 0 to 1 of the scarcer of processors and memory; hosts that said nothing count as idle. */
  readonly load: ReadonlyMap<HostId, number>;
  readonly lastHolder: HostId | null;
  /** Take nothing by themselves; what they hold they keep. */
  readonly frozen: ReadonlySet<HostId>;
}

export interface Candidates {
  /** Best first. */
  readonly hosts: readonly HostId[];
  /** Why all others may not, by name. */
  readonly passedOver: readonly PassedOver[];
  /** The last host of the list, when it is there only until another has taken over; null: nobody has to leave. */
  readonly leaving: Leaving | null;
}

export interface PassedOver {
  readonly host: HostId;
  readonly name: string;
  /** Completes 'h1 ...': 'is drained'. */
  readonly reason: string;
}

export interface Leaving extends PassedOver {
  /** By what is committed (its role was taken), so that it may not stay even when nobody else answers; else a drain. */
  readonly isLasting: boolean;
}

/** Nothing is known of the moment: what a plan is made with. */
export const quietDynamics: CandidateDynamics = Object.freeze({
  inSync: null,
  load: new Map<HostId, number>(),
  lastHolder: null,
  frozen: new Set<HostId>(),
});

/** Load in tenths: less than that is noise, and must not make hosts trade places. */
const loadBuckets = 10;

/** Of a service or storage of these inputs. No hosts when it is held by no lease. */
export function candidatesOf(
  subject: Service | Storage,
  inputs: PlanInputs,
  dynamic: CandidateDynamics,
): Candidates {
  const lease = leaseNameOfObject(subject, inputs);
  const found = lease === null ? undefined : leaseSubjects(inputs).get(lease);
  if (found === undefined) return { hosts: [], passedOver: [], leaving: null };
  return candidatesFor(found, inputs, dynamic);
}

/** The same for a lease. */
export function candidatesFor(
  subject: LeaseSubject,
  inputs: PlanInputs,
  dynamic: CandidateDynamics,
): Candidates {
  const view = new View(subject, inputs, dynamic);
  const fit: Ranked[] = [];
  const passedOver: PassedOver[] = [];
  let leaver: Leaving | null = null;
  let isAnyAlive = false;
  for (const host of inputs.hosts) {
    const refusal = view.refusal(host);
    if (refusal === null) {
      fit.push(view.rank(host));
      isAnyAlive ||= host.isAlive;
      continue;
    }
    const one = { host: host.id, name: host.name, reason: refusal.reason };
    if (host.id === dynamic.lastHolder) leaver = { ...one, isLasting: refusal.isLasting };
    passedOver.push(one);
  }
  const hosts = fit.toSorted(compareRanked).map(({ id }) => id);
  // Nobody else answers, and it may not be here at all: then it ends. Else it stays until another has it.
  const leaving = leaver?.isLasting === true && !isAnyAlive ? null : leaver;
  return {
    hosts: leaving === null ? hosts : [...hosts, leaving.host],
    passedOver: passedOver
      .filter(({ host }) => host !== leaving?.host)
      .toSorted((a, b) => compareText(a.name, b.name) || compareText(a.host, b.host)),
    leaving,
  };
}

/** Is this host among the candidates? Without ranking all others. */
export function mayHold(
  subject: LeaseSubject,
  inputs: PlanInputs,
  dynamic: CandidateDynamics,
  host: HostId,
): boolean {
  const view = new View(subject, inputs, dynamic);
  const found = view.hostOf(host);
  if (found === null) return false;
  const refusal = view.refusal(found);
  if (refusal === null) return true;
  if (host !== dynamic.lastHolder) return false;
  if (!refusal.isLasting) return true;
  for (const other of fitHosts(view, inputs)) if (other.isAlive) return true;
  return false;
}

/** Those that may take the lease, in no order, without the one that has to leave; at most `max`. */
export function fitCandidates(
  subject: LeaseSubject,
  inputs: PlanInputs,
  dynamic: CandidateDynamics,
  max: number,
): readonly HostId[] {
  const view = new View(subject, inputs, dynamic);
  const found: HostId[] = [];
  for (const { id } of fitHosts(view, inputs)) if (found.push(id) >= max) break;
  return found;
}

function* fitHosts(view: View, inputs: PlanInputs): Generator<PlanHost> {
  for (const host of inputs.hosts) if (view.refusal(host) === null) yield host;
}

function leaseNameOfObject(subject: Service | Storage, inputs: PlanInputs): LeaseName | null {
  if (!('driver' in subject)) return leaseNameOfService(subject.id, inputs);
  return subject.isExclusive ? leaseNameOf(inputs.env, { kind: 'storage', id: subject.id }) : null;
}

interface Refusal {
  readonly reason: string;
  /** By what is committed, not by what happens to be so now. */
  readonly isLasting: boolean;
}

interface Ranked {
  readonly id: HostId;
  /** Compared in order; smaller is better. */
  readonly keys: readonly number[];
}

function compareRanked(a: Ranked, b: Ranked): number {
  for (const [index, key] of a.keys.entries()) {
    const other = b.keys[index] ?? 0;
    if (key !== other) return key < other ? -1 : 1;
  }
  return compareText(a.id, b.id);
}

/** One subject against all hosts. */
class View {
  readonly #subject: LeaseSubject;
  readonly #dynamic: CandidateDynamics;
  readonly #board: Reservations;
  readonly #mayCarry: (what: Placeable, host: PlanHost) => boolean;
  readonly #members: readonly Placeable[];
  readonly #own: ReadonlySet<ObjectId>;
  readonly #need: { readonly cpu: number; readonly memoryBytes: number };
  readonly #hash: number;
  /** The host that it must not leave. */
  readonly #boundTo: PlanHost | null;

  constructor(subject: LeaseSubject, inputs: PlanInputs, dynamic: CandidateDynamics) {
    const { services, storage } = subject;
    this.#subject = subject;
    this.#dynamic = dynamic;
    this.#board = reservationsOf(inputs);
    this.#mayCarry = this.#board.mayCarry;
    this.#members = [...(storage === null ? [] : [storage]), ...services];
    this.#own = new Set(services.map((service) => service.id));
    this.#need = {
      cpu: sum(services, (service) => service.resources.cpu),
      memoryBytes: sum(services, (service) => service.resources.memoryBytes),
    };
    this.#hash = hash32(subject.id);
    const isBound = services.some((service) => service.relocatable === 'no');
    const home = isBound ? this.#board.homeOf(services) : null;
    this.#boundTo = home === null ? null : this.hostOf(home);
  }

  hostOf(id: HostId): PlanHost | null {
    return this.#board.hosts.get(id) ?? null;
  }

  /** Null: it may take the lease. */
  refusal(host: PlanHost): Refusal | null {
    const lasting = this.#lastingReason(host);
    if (lasting !== null) return { reason: lasting, isLasting: true };
    const passing = this.#passingReason(host);
    return passing === null ? null : { reason: passing, isLasting: false };
  }

  #lastingReason(host: PlanHost): string | null {
    const stranger = this.#members.find((member) => !this.#mayCarry(member, host));
    if (stranger !== undefined) return ineligibleReason(stranger, host);
    const { policy, hosts = [] } = this.#subject.placement;
    if (policy === 'pinned' && !hosts.includes(host.name))
      return `is not among the hosts it is pinned to (${hosts.join(', ')})`;
    if (this.#boundTo !== null && this.#boundTo.id !== host.id)
      return `is not ${this.#boundTo.name}, which it may not leave (relocatable: no)`;
    if (!isKnown(host)) return null;
    const { cpu, memoryBytes } = this.#need;
    if (memoryBytes > usableMemory(host)) return 'has too little memory for it';
    return cpu > host.cpu + 1e-9 ? 'has too few processors for it' : null;
  }

  #passingReason(host: PlanHost): string | null {
    if (host.isDrained) return 'is drained';
    if (host.id === this.#dynamic.lastHolder) return null;
    if (this.#dynamic.frozen.has(host.id)) return 'is frozen';
    const { storage } = this.#subject;
    const { inSync } = this.#dynamic;
    if (storage?.driver === 'sync' && inSync !== null && !inSync.has(host.id))
      return `has no copy of ${storage.name} that is in sync`;
    const reserved = this.#board.on(host.id);
    for (const { name, ports } of this.#subject.services) {
      for (const port of ports) {
        const holder = reserved?.ports
          .get(`${port.protocol}/${port.host ?? ''}`)
          ?.find((service) => !this.#own.has(service.id));
        if (port.host !== undefined && holder !== undefined)
          return `gives port ${port.host} of ${name} to ${holder.name}`;
      }
    }
    return null;
  }

  rank(host: PlanHost): Ranked {
    const group = host.isAlive ? (this.#hasRoom(host) ? 0 : 1) : 2;
    const weight = pairWeight(this.#hash, this.#board.hashOf(host.id));
    return { id: host.id, keys: [group, ...this.#policyKeys(host), -weight] };
  }

  #policyKeys(host: PlanHost): readonly number[] {
    const { policy, hosts = [], key = '' } = this.#subject.placement;
    const { lastHolder, load } = this.#dynamic;
    switch (policy) {
      case 'spread':
        return [];
      case 'pack':
        return [-bucket(this.#share(host))];
      case 'load':
        return [bucket(this.#share(host)), bucket(load.get(host.id) ?? 0)];
      case 'order':
      case 'pinned': {
        const place = hosts.indexOf(host.name);
        return [place === -1 ? hosts.length : place];
      }
      case 'score': {
        const score = scoreOf(host.meta[key]);
        return [score === null ? 1 : 0, -(score ?? 0)];
      }
      case 'sticky':
        return [host.id === lastHolder ? 0 : 1];
      case 'location': {
        const last = lastHolder === null ? null : this.hostOf(lastHolder);
        const value = last?.meta[key];
        return [value !== undefined && host.meta[key] === value ? 0 : 1];
      }
    }
  }

  #hasRoom(host: PlanHost): boolean {
    if (!isKnown(host)) return true;
    const others = this.#reservedByOthers(host);
    const { cpu, memoryBytes } = this.#need;
    if (memoryBytes > 0 && others.memoryBytes + memoryBytes > usableMemory(host)) return false;
    return cpu === 0 || others.cpu + cpu <= host.cpu + 1e-9;
  }

  /** Of the scarcer resource, without its own. */
  #share(host: PlanHost): number {
    const others = this.#reservedByOthers(host);
    return Math.max(
      host.cpu > 0 ? others.cpu / host.cpu : 0,
      host.memoryBytes > 0 ? others.memoryBytes / host.memoryBytes : 0,
    );
  }

  #reservedByOthers(host: PlanHost): { cpu: number; memoryBytes: number } {
    const all = this.#board.on(host.id);
    if (all === null) return { cpu: 0, memoryBytes: 0 };
    const own = this.#subject.services.filter((service) => this.#board.isOn(service.id, host.id));
    return {
      cpu: all.cpu - sum(own, (service) => service.resources.cpu),
      memoryBytes: all.memoryBytes - sum(own, (service) => service.resources.memoryBytes),
    };
  }
}

interface Reserved {
  cpu: number;
  memoryBytes: number;
  /** '<protocol>/<port>' to the services that publish it. */
  readonly ports: Map<string, Service[]>;
}

/** What the placements of inputs promise, worked out once per inputs. */
class Reservations {
  readonly hosts: ReadonlyMap<HostId, PlanHost>;
  readonly mayCarry: (what: Placeable, host: PlanHost) => boolean;
  readonly #byHost = new Map<HostId, Reserved>();
  readonly #placed = new Set<string>();
  readonly #homes = new Map<ObjectId, HostId>();
  readonly #hashes: ReadonlyMap<HostId, number>;

  constructor(inputs: PlanInputs) {
    this.hosts = new Map(inputs.hosts.map((host) => [host.id, host]));
    this.#hashes = new Map(inputs.hosts.map(({ id }) => [id, hash32(id)]));
    this.mayCarry = eligibilityOf(inputs.roles);
    const services = new Map(inputs.services.map((service) => [service.id, service]));
    const placements = inputs.previous.toSorted(
      (a, b) => compareText(a.service, b.service) || compareText(a.slot, b.slot),
    );
    for (const placement of placements) {
      const service = services.get(placement.service);
      if (service === undefined) continue;
      this.#reserve(service, placement.host);
      this.#placed.add(`${service.id}@${placement.host}`);
      if (!this.#homes.has(service.id)) this.#homes.set(service.id, placement.host);
    }
  }

  hashOf(host: HostId): number {
    return this.#hashes.get(host) ?? hash32(host);
  }

  on(host: HostId): Reserved | null {
    return this.#byHost.get(host) ?? null;
  }

  isOn(service: ObjectId, host: HostId): boolean {
    return this.#placed.has(`${service}@${host}`);
  }

  /** Where the first of these that has a place has it. */
  homeOf(services: readonly Service[]): HostId | null {
    for (const service of services) {
      const home = this.#homes.get(service.id);
      if (home !== undefined) return home;
    }
    return null;
  }

  #reserve(service: Service, host: HostId): void {
    let entry = this.#byHost.get(host);
    if (entry === undefined)
      this.#byHost.set(host, (entry = { cpu: 0, memoryBytes: 0, ports: new Map() }));
    entry.cpu += service.resources.cpu ?? 0;
    entry.memoryBytes += service.resources.memoryBytes ?? 0;
    for (const port of service.ports) {
      if (port.host === undefined) continue;
      const key = `${port.protocol}/${port.host}`;
      entry.ports.set(key, [...(entry.ports.get(key) ?? []), service]);
    }
  }
}

const reservations = new WeakMap<PlanInputs, Reservations>();

function reservationsOf(inputs: PlanInputs): Reservations {
  const known = reservations.get(inputs);
  if (known !== undefined) return known;
  const made = new Reservations(inputs);
  reservations.set(inputs, made);
  return made;
}

function usableMemory(host: PlanHost): number {
  return host.memoryBytes * (1 - memoryReserveShare);
}

function bucket(share: number): number {
  return Math.min(loadBuckets, Math.max(0, Math.floor(share * loadBuckets + 1e-9)));
}

/** The number that metadata holds; null for none. */
function scoreOf(text: string | undefined): number | null {
  if (text === undefined || text.trim() === '') return null;
  const score = Number(text);
  return Number.isFinite(score) ? score : null;
}

function sum(services: readonly Service[], of: (service: Service) => number | undefined): number {
  return services.reduce((total, service) => total + (of(service) ?? 0), 0);
}
