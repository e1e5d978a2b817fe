/**
 * Failover of work that may run twice: no plan, no majority, no message.
 *
 * Every host looks at the committed plan and at who is alive, and decides for itself alone. When the owner of a slot has
 * died, the hosts that could run it rank themselves by the same hash; rank r starts the slot after the hold-down plus
 * r steps, if by then it sees no instance of it anywhere and can reach somebody else (so that a host that was cut off
 * does not start the world). When the owner is back and its instance has been healthy for a while, the successor stops.
 * Two may run at once: for as long as a partition lasts, plus the hand-back. Nothing exclusive may ever pass through here.
 *
 * Brakes: when more than a third of the others (and more than one) vanish together, it is more likely us or the network,
 * and every slot that is vacant then waits five times as long; a slot moves at most a few times an hour.
 *
 * Time is passed in; what must be remembered between calls is in this object and dies with the process: after a restart
 * a death is counted from when this process noticed it, which is late and therefore safe.
 */
import { compareText } from '../../crdt/codec.ts';
import { hash32, pairWeight } from '../../crdt/hash32.ts';
import type { HostId, ObjectId } from '../../crdt/ids.ts';
import type { Liveness, Placement, PlanHost, Service } from '../../crdt/model.ts';
import type { Config } from '../config.ts';
import { memoryReserveShare } from './eligibility.ts';

export interface FailoverHost extends PlanHost {
  readonly liveness: Liveness;
}

/** One instance that a live host reports for a slot. */
export interface SeenInstance {
  readonly host: HostId;
  /** Runs and is not known to be unwell. */
  readonly isHealthy: boolean;
}

export interface FailoverInput {
  readonly nowMs: number;
  readonly self: HostId;
  /** The committed plan's, of the whole environment. */
  readonly placements: readonly Placement[];
  /** Services that run under a lease: none of their placements is looked at. */
  readonly exclusive: ReadonlySet<ObjectId>;
  /** By id, as committed. */
  readonly services: ReadonlyMap<string, Service>;
  /** Of the environment, any order. */
  readonly hosts: readonly FailoverHost[];
  /** By `slotKey`: what live hosts say they run, whatever its state, unless it has failed for good. */
  readonly seen: ReadonlyMap<string, readonly SeenInstance[]>;
  /** Could this service run on that host? The planner's own rule. */
  isEligible(service: Service, host: PlanHost): boolean;
  /** Another live member is reachable from here. */
  readonly hasLivePeer: boolean;
  readonly hasGateway: boolean;
}

export interface FailoverEvent {
  readonly kind:
    | 'failover.started'
    | 'failover.ended'
    | 'failover.brake'
    | 'failover.limited'
    | 'failover.isolated';
  readonly severity: 'info' | 'warn' | 'alarm';
  readonly text: string;
}

export interface FailoverOutcome {
  /** What this host must run now, besides what is exclusive. */
  readonly own: readonly Placement[];
  /** Of those, the slots of others. */
  readonly taken: readonly Placement[];
  readonly events: readonly FailoverEvent[];
  /** Look again then, even if nothing happens; infinite when nothing is pending. */
  readonly nextDeadlineMs: number;
}

interface SlotMemory {
  /** Since when neither the owner lives nor an instance is seen; null while one is. */
  vacantSinceMs: number | null;
  /** Too many hosts vanished together while it was vacant. Kept, so that ranks stay apart when the alarm is over. */
  isBraked: boolean;
  isTaken: boolean;
  /** Since when the owner's instance has been healthy while we hold the slot. */
  ownerHealthySinceMs: number | null;
  /** Times at which the slot was seen to move, newest last. */
  moves: number[];
  lastSeenOn: HostId | null;
  isLimitSaid: boolean;
}

const hourMs = 3_600_000;

export function slotKey(service: string, slot: string): string {
  return `${service}/${slot}`;
}

export class Failover {
  readonly #config: Config;
  readonly #slots = new Map<string, SlotMemory>();
  readonly #alive = new Set<HostId>();
  /** When others were noticed to have vanished, newest last. */
  #vanished: { host: HostId; atMs: number }[] = [];
  #isBraking = false;
  #aloneSinceMs: number | null = null;
  #isIsolationSaid = false;

  constructor(config: Config) {
    this.#config = config;
  }

  evaluate(input: FailoverInput): FailoverOutcome {
    const events: FailoverEvent[] = [];
    this.#noteHosts(input, events);
    const hosts = new Map(input.hosts.map((host) => [host.id, host]));
    const reserved = reservations(input);
    // Ranks count what is committed, the same for everybody; room here also counts what is taken already.
    const here = this.#reservedHere(input, reserved.get(input.self));
    let nextDeadlineMs = Number.POSITIVE_INFINITY;
    const wake = (atMs: number): void => {
      if (atMs > input.nowMs) nextDeadlineMs = Math.min(nextDeadlineMs, atMs);
    };
    const look: Look = { input, hosts, reserved, here, events, wake };
    const taken: Placement[] = [];
    for (const placement of input.placements) {
      if (placement.host === input.self || input.exclusive.has(placement.service)) continue;
      const service = input.services.get(placement.service);
      if (service === undefined || !mayFailOver(service)) continue;
      if (this.#holds(placement, service, look)) taken.push(placement);
    }
    this.#forget(input);
    const mayRun = (placement: Placement): boolean => this.#mayRun(placement, input, events, wake);
    const own = input.placements.filter(
      ({ host, service }) => host === input.self && !input.exclusive.has(service),
    );
    const running = taken.filter(mayRun);
    return { own: [...own.filter(mayRun), ...running], taken: running, events, nextDeadlineMs };
  }

  #reservedHere(input: FailoverInput, committed: Reserved | undefined): Reserved {
    const here = copyOf(committed);
    for (const placement of input.placements) {
      const service = input.services.get(placement.service);
      if (service === undefined || placement.host === input.self) continue;
      const key = slotKey(placement.service, placement.slot);
      if (this.#slots.get(key)?.isTaken === true) reserve(here, service);
    }
    return here;
  }

  /** Deaths since the last look, and whether they are too many to be believed. */
  #noteHosts(input: FailoverInput, events: FailoverEvent[]): void {
    const others = input.hosts.filter((host) => host.id !== input.self);
    for (const host of others) {
      const isAlive = host.liveness === 'alive' || host.liveness === 'suspect';
      if (isAlive) this.#alive.add(host.id);
      else if (this.#alive.delete(host.id) && host.liveness === 'dead')
        this.#vanished.push({ host: host.id, atMs: input.nowMs });
    }
    this.#vanished = this.#vanished
      .filter(({ atMs }) => input.nowMs - atMs < this.#config.brakeWindowMs)
      .slice(-1_000);
    // A host that comes and goes is one host.
    const vanished = new Set(this.#vanished.map(({ host }) => host)).size;
    const isBraking = vanished > Math.max(1, others.length / 3);
    if (isBraking && !this.#isBraking) {
      const text = `${vanished} of ${others.length} other hosts vanished together: failover waits`;
      events.push({ kind: 'failover.brake', severity: 'alarm', text });
    }
    this.#isBraking = isBraking;
    // Of two hosts one is always without a peer when the other dies; then the gateway tells who is cut off.
    const isAlone = others.length > 0 && !mayAct(input);
    if (!isAlone) this.#isIsolationSaid = false;
    this.#aloneSinceMs = isAlone ? (this.#aloneSinceMs ?? input.nowMs) : null;
  }

  /** Should this host run a slot that the plan gives to another? */
  #holds(placement: Placement, service: Service, look: Look): boolean {
    const { input, hosts, reserved, here, events, wake } = look;
    const key = slotKey(placement.service, placement.slot);
    const seen = input.seen.get(key) ?? [];
    const memory = this.#memory(key);
    this.#noteMove(memory, placement, seen, input.nowMs);
    const owner = hosts.get(placement.host);
    const isOwnerAlive =
      owner !== undefined && (owner.liveness === 'alive' || owner.liveness === 'suspect');
    if (memory.isTaken)
      return this.#keeps(placement, memory, seen, isOwnerAlive, input, events, wake);
    const isElsewhere = seen.some((instance) => instance.host !== input.self);
    if (isOwnerAlive || isElsewhere || owner === undefined) {
      memory.vacantSinceMs = null;
      return false;
    }
    memory.isBraked = this.#isBraking || (memory.isBraked && memory.vacantSinceMs !== null);
    memory.vacantSinceMs ??= input.nowMs;
    const rank = rankOf(input.self, placement, service, input, reserved);
    if (rank === null || !mayAct(input)) return false;
    const holdDownMs =
      this.#config.failoverHoldDownMs * (memory.isBraked ? this.#config.brakeFactor : 1);
    const dueMs = memory.vacantSinceMs + holdDownMs + rank * this.#config.failoverRankStepMs;
    if (input.nowMs < dueMs) {
      wake(dueMs);
      return false;
    }
    const self = hosts.get(input.self);
    if (self === undefined || !hasRoom(self, service, here)) return false;
    if (this.#isLimited(memory, placement, input.nowMs, events, wake)) return false;
    reserve(here, service);
    memory.isTaken = true;
    memory.ownerHealthySinceMs = null;
    memory.moves.push(input.nowMs);
    memory.lastSeenOn = input.self;
    const text = `runs ${placement.serviceName}-${placement.slot} in place of ${owner.name}, which is ${owner.liveness}`;
    events.push({ kind: 'failover.started', severity: 'warn', text });
    return true;
  }

  /** A slot we hold goes back once its owner's instance has been well for long enough. */
  #keeps(
    placement: Placement,
    memory: SlotMemory,
    seen: readonly SeenInstance[],
    isOwnerAlive: boolean,
    input: FailoverInput,
    events: FailoverEvent[],
    wake: (atMs: number) => void,
  ): boolean {
    const isOwnerHealthy =
      isOwnerAlive &&
      seen.some((instance) => instance.host === placement.host && instance.isHealthy);
    if (!isOwnerHealthy) {
      memory.ownerHealthySinceMs = null;
      // Two successors met after a partition: the lower host id stays.
      const rival = seen.some(
        (instance) =>
          instance.host !== placement.host &&
          instance.isHealthy &&
          compareText(instance.host, input.self) < 0,
      );
      if (!rival) return true;
      return this.#release(placement, memory, 'another host runs it too', events);
    }
    memory.ownerHealthySinceMs ??= input.nowMs;
    const dueMs = memory.ownerHealthySinceMs + this.#config.handBackHealthyMs;
    if (input.nowMs < dueMs) {
      wake(dueMs);
      return true;
    }
    return this.#release(placement, memory, 'its own host runs it again', events);
  }

  #release(placement: Placement, memory: SlotMemory, why: string, events: FailoverEvent[]): false {
    memory.isTaken = false;
    memory.vacantSinceMs = null;
    memory.ownerHealthySinceMs = null;
    events.push({
      kind: 'failover.ended',
      severity: 'info',
      text: `stops ${placement.serviceName}-${placement.slot}: ${why}`,
    });
    return false;
  }

  /** A service that must not run where nobody can see it. Others keep running: isolation is no reason to stop work. */
  #mayRun(
    placement: Placement,
    input: FailoverInput,
    events: FailoverEvent[],
    wake: (atMs: number) => void,
  ): boolean {
    const service = input.services.get(placement.service);
    if (service?.onIsolation !== 'stop' || this.#aloneSinceMs === null) return true;
    const dueMs = this.#aloneSinceMs + this.#config.failoverHoldDownMs;
    if (input.nowMs < dueMs) {
      wake(dueMs);
      return true;
    }
    if (!this.#isIsolationSaid) {
      this.#isIsolationSaid = true;
      events.push({
        kind: 'failover.isolated',
        severity: 'alarm',
        text: `no other host answers: services with onIsolation: stop are stopped here`,
      });
    }
    return false;
  }

  #isLimited(
    memory: SlotMemory,
    placement: Placement,
    nowMs: number,
    events: FailoverEvent[],
    wake: (atMs: number) => void,
  ): boolean {
    memory.moves = memory.moves.filter((atMs) => nowMs - atMs < hourMs);
    const oldest = memory.moves[0];
    if (oldest === undefined || memory.moves.length < this.#config.movesPerSlotPerHourMax) {
      memory.isLimitSaid = false;
      return false;
    }
    wake(oldest + hourMs);
    if (!memory.isLimitSaid) {
      const text = `${placement.serviceName}-${placement.slot} moved ${memory.moves.length} times within an hour and stays where it is`;
      events.push({ kind: 'failover.limited', severity: 'alarm', text });
    }
    memory.isLimitSaid = true;
    return true;
  }

  /** Others' moves count too: the limit is per slot, not per host. Returning to the owner is no move. */
  #noteMove(
    memory: SlotMemory,
    placement: Placement,
    seen: readonly SeenInstance[],
    nowMs: number,
  ): void {
    const elsewhere = seen.find((instance) => instance.host !== placement.host);
    if (elsewhere !== undefined && elsewhere.host !== memory.lastSeenOn) {
      if (!memory.isTaken) memory.moves.push(nowMs);
      memory.lastSeenOn = elsewhere.host;
    }
    // Also when nothing is seen at all: an owner that flaps may be gone again before its successor is.
    if (elsewhere === undefined) memory.lastSeenOn = null;
    memory.moves = memory.moves.slice(-16);
  }

  #memory(key: string): SlotMemory {
    let memory = this.#slots.get(key);
    if (memory === undefined) {
      memory = {
        vacantSinceMs: null,
        isBraked: false,
        isTaken: false,
        ownerHealthySinceMs: null,
        moves: [],
        lastSeenOn: null,
        isLimitSaid: false,
      };
      this.#slots.set(key, memory);
    }
    return memory;
  }

  /** Slots that the plan no longer has. */
  #forget(input: FailoverInput): void {
    if (this.#slots.size <= input.placements.length) return;
    const known = new Set(
      input.placements.map((placement) => slotKey(placement.service, placement.slot)),
    );
    for (const key of this.#slots.keys()) if (!known.has(key)) this.#slots.delete(key);
  }
}

/** Slots bound to a host (per-host counts) and services that say no stay where they are; what is exclusive never comes here. */
export function mayFailOver(service: Service): boolean {
  if (service.isExclusive === true) return false;
  return service.count.perRole !== undefined && service.relocatable !== 'no' && service.isEnabled;
}

interface Reserved {
  cpu: number;
  memoryBytes: number;
  readonly byService: Map<string, number>;
  /** '<protocol>/<port>' that are published there. */
  readonly ports: Set<string>;
}

/** One look at everything, shared by all slots. */
interface Look {
  readonly input: FailoverInput;
  readonly hosts: ReadonlyMap<HostId, FailoverHost>;
  readonly reserved: ReadonlyMap<HostId, Reserved>;
  /** Grows as slots are taken. */
  readonly here: Reserved;
  readonly events: FailoverEvent[];
  readonly wake: (atMs: number) => void;
}

function mayAct(input: FailoverInput): boolean {
  return input.hasLivePeer || (input.hosts.length <= 2 && input.hasGateway);
}

function reservations(input: FailoverInput): ReadonlyMap<HostId, Reserved> {
  const out = new Map<HostId, Reserved>();
  for (const placement of input.placements) {
    const service = input.services.get(placement.service);
    if (service === undefined) continue;
    let entry = out.get(placement.host);
    if (entry === undefined) out.set(placement.host, (entry = copyOf(undefined)));
    reserve(entry, service);
  }
  return out;
}

function reserve(entry: Reserved, service: Service): void {
  entry.cpu += service.resources.cpu ?? 0;
  entry.memoryBytes += service.resources.memoryBytes ?? 0;
  entry.byService.set(service.id, (entry.byService.get(service.id) ?? 0) + 1);
  for (const port of fixedPorts(service)) entry.ports.add(port);
}

function copyOf(entry: Reserved | undefined): Reserved {
  return {
    cpu: entry?.cpu ?? 0,
    memoryBytes: entry?.memoryBytes ?? 0,
    byService: new Map(entry?.byService),
    ports: new Set(entry?.ports),
  };
}

function fixedPorts(service: Service): string[] {
  return service.ports.flatMap((port) =>
    port.host === undefined ? [] : [`${port.protocol}/${port.host}`],
  );
}

/**
 * Place of `self` among the live hosts that could run the slot and have room for it: those with fewest instances of the
 * service first, then by rendezvous hash. Null when it could not. Every host computes the same from the same view.
 */
function rankOf(
  self: HostId,
  placement: Placement,
  service: Service,
  input: FailoverInput,
  reserved: ReadonlyMap<HostId, Reserved>,
): number | null {
  const slotHash = hash32(slotKey(placement.service, placement.slot));
  const candidates = input.hosts
    .filter(
      (host) =>
        host.id !== placement.host &&
        (host.liveness === 'alive' || host.id === self) &&
        !host.isDrained,
    )
    .filter(
      (host) => input.isEligible(service, host) && hasRoom(host, service, reserved.get(host.id)),
    )
    .map((host) => {
      const instances = reserved.get(host.id)?.byService.get(service.id) ?? 0;
      return { id: host.id, instances, weight: pairWeight(slotHash, hash32(host.id)) };
    })
    .toSorted(
      (a, b) => a.instances - b.instances || b.weight - a.weight || compareText(a.id, b.id),
    );
  const rank = candidates.findIndex((candidate) => candidate.id === self);
  return rank === -1 ? null : rank;
}

/** The planner's rules: reservations within capacity, the service's limit per host, no fixed port twice. */
function hasRoom(host: FailoverHost, service: Service, reserved: Reserved | undefined): boolean {
  const { cpu, memoryBytes } = service.resources;
  const memoryMax = host.memoryBytes * (1 - memoryReserveShare);
  if (cpu !== undefined && (reserved?.cpu ?? 0) + cpu > host.cpu + 1e-9) return false;
  if (memoryBytes !== undefined && (reserved?.memoryBytes ?? 0) + memoryBytes > memoryMax)
    return false;
  const most = service.count.perHost?.max ?? Number.POSITIVE_INFINITY;
  if ((reserved?.byService.get(service.id) ?? 0) >= most) return false;
  return !fixedPorts(service).some((port) => reserved?.ports.has(port) === true);
}
