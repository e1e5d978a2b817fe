/**
 * A small world for the failover function: hosts that crash, come back and are cut off, each with a Failover of its own
 * and its own late view of the others. One step is a quarter of a second; everything follows from the script.
 */
import type { HostId, ObjectId } from '../../../crdt/ids.ts';
import type { Placement, Service } from '../../../crdt/model.ts';
import { defaultConfig } from '../../../daemon/config.ts';
import { Failover, slotKey } from '../../../daemon/plan/failover.ts';
import type { FailoverEvent, FailoverHost, SeenInstance } from '../../../daemon/plan/failover.ts';
import { eligibilityOf } from '../../../daemon/plan/eligibility.ts';
import { hostOf, serviceOf } from './plan-arbitraries.ts';

export const stepMs = 250;
/** Until a silent host is called dead, until a fact has arrived, until a container is healthy or gone. */
const detectMs = 4_000;
const factMs = 500;
const startMs = 1_500;
const stopMs = 500;

interface Running {
  sinceMs: number;
  /** When it will be gone; null while wanted. */
  endsAtMs: number | null;
}

interface Node {
  readonly host: FailoverHost;
  failover: Failover;
  isUp: boolean;
  group: number;
  /** By slot key. Survives a crash of the host as "will be started again at boot". */
  readonly running: Map<string, Running>;
  /** By host: since when it is reachable, or not. */
  readonly heard: Map<HostId, { isReachable: boolean; sinceMs: number; isDead: boolean }>;
}

export class World {
  nowMs = 0;
  readonly nodes: Node[];
  readonly events: (FailoverEvent & { atMs: number; host: string })[] = [];
  readonly services: Map<ObjectId, Service>;
  /** Held by leases, which are no part of this world. */
  exclusive: ReadonlySet<ObjectId>;
  placements: readonly Placement[];

  constructor(options: { hosts: number; services: Service[]; placements: Placement[] }) {
    this.services = new Map(options.services.map((service) => [service.id, service]));
    this.placements = options.placements;
    const exclusive = options.services.filter((service) => service.isExclusive === true);
    this.exclusive = new Set(exclusive.map((service) => service.id));
    this.nodes = Array.from({ length: options.hosts }, (_, n) => ({
      host: { ...hostOf(n), liveness: 'alive' as const },
      failover: new Failover(defaultConfig),
      isUp: true,
      group: 0,
      running: new Map(),
      heard: new Map(),
    }));
    for (const node of this.nodes) {
      for (const other of this.nodes)
        node.heard.set(other.host.id, { isReachable: true, sinceMs: -60_000, isDead: false });
      for (const placement of this.placements) {
        if (placement.host === node.host.id)
          node.running.set(keyOf(placement), { sinceMs: -60_000, endsAtMs: null });
      }
    }
  }

  crash(n: number): void {
    const node = this.nodes[n] as Node;
    node.isUp = false;
  }

  /** Containers come back by themselves, the daemon starts with an empty memory. */
  recover(n: number): void {
    const node = this.nodes[n] as Node;
    if (node.isUp) return;
    node.isUp = true;
    node.failover = new Failover(defaultConfig);
    for (const running of node.running.values())
      [running.sinceMs, running.endsAtMs] = [this.nowMs, null];
  }

  split(groups: readonly number[]): void {
    for (const [n, node] of this.nodes.entries()) node.group = groups[n] ?? 0;
  }

  run(forMs: number, atEachStep: () => void = () => {}): void {
    const endMs = this.nowMs + forMs;
    while (this.nowMs < endMs) {
      this.nowMs += stepMs;
      for (const node of this.nodes) this.#hear(node);
      for (const node of this.nodes) if (node.isUp) this.#decide(node);
      for (const node of this.nodes) this.#settle(node);
      atEachStep();
    }
  }

  /** Hosts that run the slot right now. */
  holders(placement: Placement): string[] {
    return this.nodes
      .filter((node) => node.isUp && node.running.has(keyOf(placement)))
      .map((node) => node.host.name);
  }

  /** Did the host say last that it must run the slot? */
  decides(n: number, placement: Placement): boolean {
    const node = this.nodes[n] as Node;
    return (
      node.running.has(keyOf(placement)) && node.running.get(keyOf(placement))?.endsAtMs === null
    );
  }

  #hear(node: Node): void {
    for (const other of this.nodes) {
      const heard = node.heard.get(other.host.id);
      if (heard === undefined) continue;
      const isReachable = node.isUp && other.isUp && node.group === other.group;
      if (isReachable !== heard.isReachable)
        [heard.isReachable, heard.sinceMs] = [isReachable, this.nowMs];
      const forMs = this.nowMs - heard.sinceMs;
      if (isReachable && forMs >= factMs) heard.isDead = false;
      if (!isReachable && forMs >= detectMs) heard.isDead = true;
    }
  }

  #decide(node: Node): void {
    const hosts = this.nodes.map(({ host }) => {
      const isDead = host.id !== node.host.id && node.heard.get(host.id)?.isDead === true;
      return {
        ...host,
        isAlive: !isDead,
        liveness: isDead ? ('dead' as const) : ('alive' as const),
      };
    });
    const outcome = node.failover.evaluate({
      nowMs: this.nowMs,
      self: node.host.id,
      placements: this.placements,
      services: this.services,
      hosts,
      seen: this.#seenBy(node),
      exclusive: this.exclusive,
      isEligible: eligibilityOf([]),
      hasLivePeer: hosts.some((host) => host.id !== node.host.id && host.isAlive),
      hasGateway: true,
    });
    for (const event of outcome.events)
      this.events.push({ ...event, atMs: this.nowMs, host: node.host.name });
    const wanted = new Set(outcome.own.map(keyOf));
    for (const key of wanted) {
      const running = node.running.get(key);
      if (running === undefined) node.running.set(key, { sinceMs: this.nowMs, endsAtMs: null });
      else running.endsAtMs = null;
    }
    for (const [key, running] of node.running)
      if (!wanted.has(key)) running.endsAtMs ??= this.nowMs + stopMs;
  }

  /** Facts of hosts not called dead, as old as the link; of oneself at once. */
  #seenBy(node: Node): Map<string, SeenInstance[]> {
    const seen = new Map<string, SeenInstance[]>();
    for (const other of this.nodes) {
      const isSelf = other === node;
      if (!isSelf && node.heard.get(other.host.id)?.isDead === true) continue;
      for (const [key, { sinceMs }] of other.running) {
        const ageMs = this.nowMs - sinceMs - (isSelf ? 0 : factMs);
        if (ageMs < 0) continue;
        seen.set(key, [
          ...(seen.get(key) ?? []),
          { host: other.host.id, isHealthy: ageMs >= startMs },
        ]);
      }
    }
    return seen;
  }

  #settle(node: Node): void {
    if (!node.isUp) return;
    for (const [key, { endsAtMs }] of node.running) {
      if (endsAtMs !== null && endsAtMs <= this.nowMs) node.running.delete(key);
    }
  }
}

export function keyOf(placement: Placement): string {
  return slotKey(placement.service, placement.slot);
}

/** `counts[i]` instances of service i, dealt to the hosts in turn. */
export function worldOf(hosts: number, specs: readonly Parameters<typeof serviceOf>[1][]): World {
  const services = specs.map((spec, n) => serviceOf(n, spec));
  const placements: Placement[] = [];
  for (const service of services) {
    for (let slot = 0; slot < (service.count.perRole?.min ?? 0); slot++) {
      placements.push({
        service: service.id,
        serviceName: service.name,
        slot: String(slot),
        host: hostOf(placements.length % hosts).id,
      });
    }
  }
  return new World({ hosts, services, placements });
}
