/**
 * The planning of one node: gathers what the pure parts need, remembers what they decided, and commits automatically
 * what needs no person. Holds no rules of its own beyond when to look.
 *
 * Automatic planning ("autoApply: safe") follows changes of hosts (a new one with a role, a role given or taken, a
 * drain) with the services as operators committed them; after two operators committed side by side it plans the merged
 * document. The holder of the planner's lease does it, after things have been quiet for a moment, and its plans carry the
 * epoch of that lease. Who refuses a higher plan plans, too: see ADR 10.
 */
import { compareText } from '../../crdt/codec.ts';
import type { ClusterId, HostId, ObjectId } from '../../crdt/ids.ts';
import type {
  EnvView,
  HostView,
  Placement,
  Plan,
  PlanHost,
  PlanInputs,
  Storage,
} from '../../crdt/model.ts';
import type { DesiredView } from '../../plugins/api.ts';
import type { Config } from '../config.ts';
import type { CommittedPlan, EventEntry, FactEntry } from '../node-api.ts';
import type { Epoch, LeaseName } from '../lease/model.ts';
import type { Crypto } from '../ports.ts';
import { mayHold, quietDynamics } from './candidates.ts';
import { eligibilityOf } from './eligibility.ts';
import { Failover, slotKey } from './failover.ts';
import type { FailoverHost, SeenInstance } from './failover.ts';
import { decidedInputs } from './inputs.ts';
import type { DecidedInputs } from './inputs.ts';
import { leaseNameOfService, leaseSubjects } from './leases.ts';
import type { Holder, LeaseSubject } from './leases.ts';
import { plan } from './plan.ts';
import { renderView } from './render.ts';
import { reportedInstances } from './reported.ts';
import type { Reported } from './reported.ts';
import type { LiveInstance } from './render.ts';

/** What planning asks of the leases. Every answer is a hint of now; asked again after every change. */
export interface PlanningLeases {
  /**
   * Leases that this host's guard holds with its gate open, and their epochs. Not those that are frozen or being handed
   * over: what runs under them must not be started.
   */
  held(): ReadonlyMap<LeaseName, Epoch>;
  /** By the lease facts of all hosts, this one too: of several claims the one of the highest epoch. Parked ones hold. */
  holders(): ReadonlyMap<LeaseName, Holder>;
  /** Epoch of `planner/<env>` while this host's guard holds it, else null. */
  plannerLease(): Epoch | null;
  /** `<run>/guard/lease`: a directory per gate with `epoch` and `lease.json`. */
  readonly leaseRoot: string;
}

/** For nodes without a guard: nothing is held anywhere. */
export const noLeases: PlanningLeases = Object.freeze({
  held: () => new Map<LeaseName, Epoch>(),
  holders: () => new Map<LeaseName, Holder>(),
  plannerLease: () => null,
  leaseRoot: '/run/trellis/guard/lease',
});

export interface PlanningOptions {
  readonly clusterId: ClusterId;
  readonly config: Config;
  readonly crypto: Crypto;
  readonly self: HostId;
  env(): string;
  envView(): EnvView;
  hosts(): readonly HostView[];
  committed(): CommittedPlan | null;
  isMergePending(): boolean;
  /** This host does not follow a higher plan, which others may. */
  isRefusing(): boolean;
  /** Topic 'docker' of all hosts. */
  facts(): readonly FactEntry[];
  hasLivePeer(): boolean;
  hasGateway(): boolean;
  readonly leases: PlanningLeases;
  /** Advertised address and API port of another host; null: not known. */
  reach(host: HostId): { readonly address: string; readonly apiPort: number } | null;
  /** `planEpoch`: of the planner's lease. */
  commit(proposal: {
    readonly inputs: PlanInputs;
    readonly plan: Plan;
    readonly planEpoch: Epoch;
  }): void;
  emit(event: Omit<EventEntry, 'host' | 'seq' | 'atWallMs'>): void;
}

/** Things must have been as they are for this long before a plan is committed by itself. */
const quietMs = 2_000;
/** After an automatic plan that could not be committed. */
const retryMs = 60_000;
/** How long a moved instance waits for its successor to be healthy. */
const keepMsMax = 120_000;
/** Instances that will not come by themselves do not stand in for a slot. */
const goneStates = new Set(['failed', 'unknown']);

/** Asked about with every change of anything, and seldom different. */
interface Involvement {
  readonly inputs: PlanInputs;
  /** Who holds what. */
  readonly key: string;
  readonly subjects: readonly LeaseSubject[];
}

export class Planning {
  readonly #options: PlanningOptions;
  readonly #failover: Failover;
  #placements: readonly Placement[] = [];
  #failoverDueMs = Number.POSITIVE_INFINITY;
  #autoDueMs = Number.POSITIVE_INFINITY;
  /** What the automatic planner last looked at, since when it has been so, and whether it has acted on it. */
  #autoKey = '';
  /** Since when an instance waits for its successor on another host. */
  #keptSince: ReadonlyMap<string, number> = new Map();
  #autoSinceMs = 0;
  #isAutoDone = false;
  #leaseKey = '';
  #leaseInputs: PlanInputs | null = null;
  #involvement: Involvement | null = null;

  constructor(options: PlanningOptions) {
    this.#options = options;
    this.#failover = new Failover(options.config);
  }

  nextDeadlineMs(): number {
    return Math.min(this.#failoverDueMs, this.#autoDueMs);
  }

  /** Decides again; true when what this host must run has changed. */
  evaluate(nowMs: number): boolean {
    const committed = this.#options.committed();
    this.#planByItself(committed, nowMs);
    if (committed === null) return false;
    const services = new Map(
      committed.inputs.services.map((service) => [service.id as string, service]),
    );
    const outcome = this.#failover.evaluate({
      nowMs,
      self: this.#options.self,
      placements: committed.plan.placements,
      exclusive: exclusiveServices(committed.inputs),
      services,
      hosts: this.#failoverHosts(),
      seen: this.#seen(),
      isEligible: eligibilityOf(committed.inputs.roles),
      hasLivePeer: this.#options.hasLivePeer(),
      hasGateway: this.#options.hasGateway(),
    });
    this.#failoverDueMs = outcome.nextDeadlineMs;
    for (const event of outcome.events) this.#options.emit(event);
    const own = [...outcome.own, ...this.#standby(committed)];
    const isSame = samePlacements(this.#placements, own);
    this.#placements = own;
    return !isSame;
  }

  /**
   * Instances here that the plan has given to another host and that must stay until that one serves: moving is then no
   * outage. Only for so long, so that a host that never manages does not leave the old one running for ever.
   */
  keep(nowMs: number): readonly string[] {
    const committed = this.#options.committed();
    if (committed === null) return [];
    const seen = this.#seen();
    const exclusive = exclusiveServices(committed.inputs);
    const mine = this.#reported().filter(({ host }) => host.id === this.#options.self);
    const kept = mine.flatMap(({ instance }) => {
      const key = slotKey(instance.serviceId, instance.slot);
      const target = committed.plan.placements.find(
        (placement) => slotKey(placement.service, placement.slot) === key,
      );
      const isMoving =
        target !== undefined &&
        target.host !== this.#options.self &&
        instance.state === 'running' &&
        !exclusive.has(target.service);
      const isThere =
        seen.get(key)?.some((one) => one.host === target?.host && one.isHealthy) === true;
      return isMoving &&
        !isThere &&
        !this.#placements.some((own) => slotKey(own.service, own.slot) === key)
        ? [instance.instance]
        : [];
    });
    this.#keptSince = new Map(
      kept.map((instance) => [instance, this.#keptSince.get(instance) ?? nowMs]),
    );
    return kept.filter((instance) => nowMs - (this.#keptSince.get(instance) ?? nowMs) < keepMsMax);
  }

  /** What this host must run. */
  own(): readonly Placement[] {
    return this.#placements;
  }

  /**
   * The committed plan with failover as it is seen from here: slots of dead hosts are where they run now, and what is
   * exclusive is where its lease is held.
   */
  effective(): readonly Placement[] {
    const hosts = new Map(this.#environmentHosts().map((host) => [host.id as string, host]));
    const seen = this.#seen();
    const isLive = (host: HostId): boolean =>
      host === this.#options.self ||
      ['alive', 'suspect'].includes(hosts.get(host)?.liveness ?? 'dead');
    const committed = this.#options.committed();
    if (committed === null) return [];
    return committed.plan.placements.map((placement) => {
      const lease = leaseNameOfService(placement.service, committed.inputs);
      const holder = lease === null ? undefined : this.#holderOf(lease);
      if (holder !== undefined) return { ...placement, host: holder };
      if (lease !== null) return placement;
      if (isLive(placement.host)) return placement;
      const elsewhere = seen.get(slotKey(placement.service, placement.slot))?.[0];
      return elsewhere === undefined ? placement : { ...placement, host: elsewhere.host };
    });
  }

  /** By this host's own guard, or by what all say, whichever knows of the higher epoch. */
  #holderOf(lease: LeaseName): HostId | undefined {
    const { leases, self } = this.#options;
    const own = leases.held().get(lease);
    const said = leases.holders().get(lease);
    return own !== undefined && (said === undefined || own >= said.epoch) ? self : said?.host;
  }

  /** Leases that this host may hold, or holds: what runs under them is made ready here, and runs where they are held. */
  #involved(): readonly LeaseSubject[] {
    const inputs = this.leaseInputs();
    if (inputs === null) return [];
    const { self, leases } = this.#options;
    const held = leases.held();
    const holders = [...leases.holders()].map(([lease, { host }]) => `${lease} ${host}`);
    const key = [...holders, ...held.keys()].toSorted(compareText).join();
    if (this.#involvement?.inputs === inputs && this.#involvement.key === key)
      return this.#involvement.subjects;
    const subjects = [...leaseSubjects(inputs).values()].filter((subject) => {
      if (held.has(subject.lease)) return true;
      const lastHolder = this.#holderOf(subject.lease) ?? null;
      return mayHold(subject, inputs, { ...quietDynamics, lastHolder }, self);
    });
    this.#involvement = { inputs, key, subjects };
    return subjects;
  }

  /** The exclusive instances of this host, most of which wait. What the plan found no place for runs nowhere. */
  #standby(committed: CommittedPlan): readonly Placement[] {
    const services = new Set(
      this.#involved().flatMap((subject) => subject.services.map(({ id }) => id)),
    );
    return committed.plan.placements
      .filter(({ service }) => services.has(service))
      .map((placement) => ({ ...placement, host: this.#options.self }));
  }

  /** Storage that this host may have active, and what all hosts of its roles have. */
  #storage(committed: CommittedPlan): readonly Storage[] {
    const own = committed.inputs.hosts.find(({ id }) => id === this.#options.self);
    const mayCarry = eligibilityOf(committed.inputs.roles);
    const involved = new Set(this.#involved().flatMap(({ storage }) => storage?.id ?? []));
    return (committed.inputs.storage ?? []).filter((storage) =>
      storage.isExclusive ? involved.has(storage.id) : own !== undefined && mayCarry(storage, own),
    );
  }

  /** Everything from the document and the hosts as they are now, with the committed placements to stick to. */
  inputs(): PlanInputs {
    return { ...this.desired(), ...this.#situation() };
  }

  /** What nobody decides for a plan: it is so. */
  #situation(): Omit<PlanInputs, keyof DecidedInputs> {
    const { voters } = this.#options.envView();
    return {
      v: 1,
      env: this.#options.env(),
      hosts: this.#planHosts(),
      previous: this.#options.committed()?.plan.placements ?? [],
      ...(voters === null ? {} : { voters }),
    };
  }

  /** See NodeApi. */
  leaseInputs(): PlanInputs | null {
    const committed = this.#options.committed();
    if (committed === null) return null;
    const alive = new Set(this.#planHosts().flatMap((host) => (host.isAlive ? [host.id] : [])));
    const key = `${committed.pointerHash} ${[...alive].toSorted(compareText).join(' ')}`;
    if (key !== this.#leaseKey || this.#leaseInputs === null) {
      this.#leaseKey = key;
      this.#leaseInputs = {
        ...committed.inputs,
        hosts: committed.inputs.hosts.map((host) => ({ ...host, isAlive: alive.has(host.id) })),
        previous: committed.plan.placements,
      };
    }
    return this.#leaseInputs;
  }

  desired(): DecidedInputs {
    return decidedInputs(this.#options.envView(), this.#options.committed()?.inputs ?? null);
  }

  compute(inputs: PlanInputs): Plan {
    return plan(inputs, (bytes) => this.#options.crypto.sha256(bytes));
  }

  /** Null while nothing was ever committed: then nothing on this host is ours to change. */
  view(advertise: string, nowMs: number): DesiredView | null {
    const committed = this.#options.committed();
    const { clusterId, self, crypto } = this.#options;
    const host = this.#options.hosts().find((one) => one.id === self);
    if (committed === null || host === undefined) return null;
    return renderView({
      clusterId,
      env: this.#options.env(),
      self: { id: self, name: host.name, meta: host.meta, advertise },
      placements: this.#placements,
      storage: this.#storage(committed),
      keep: this.keep(nowMs),
      inputs: committed.inputs,
      live: this.#live(committed),
      held: this.#options.leases.held(),
      holders: this.#options.leases.holders(),
      leaseRoot: this.#options.leases.leaseRoot,
      reach: (other) => this.#options.reach(other),
      sha256: (bytes) => crypto.sha256(bytes),
    });
  }

  // ---- Automatic planning -------------------------------------------------------------------------------------

  #planByItself(committed: CommittedPlan | null, nowMs: number): void {
    this.#autoDueMs = Number.POSITIVE_INFINITY;
    if (committed === null || this.#options.envView().autoApply === 'off') return;
    // Whoever refuses a plan is the only one who knows that the cluster is apart: then it is its turn, too.
    const planEpoch = this.#options.leases.plannerLease();
    if (planEpoch === null && !this.#options.isRefusing()) return;
    const isMergePending = this.#options.isMergePending();
    const key = JSON.stringify([committed.pointerHash, isMergePending, this.#planHosts()]);
    if (key !== this.#autoKey) {
      this.#autoKey = key;
      this.#autoSinceMs = nowMs;
      this.#isAutoDone = false;
    }
    if (this.#isAutoDone) return;
    if (nowMs < this.#autoSinceMs + quietMs) {
      this.#autoDueMs = this.#autoSinceMs + quietMs;
      return;
    }
    this.#isAutoDone = true;
    const decided = isMergePending ? this.desired() : decidedOf(committed.inputs);
    const inputs = { ...this.#situation(), ...decided };
    // Liveness alone moves nothing here: a plan keeps what dead hosts had, and failover needs no plan.
    const proposal = { inputs, plan: this.compute(inputs) };
    if (!isMergePending && samePlacements(proposal.plan.placements, committed.plan.placements))
      return;
    this.#options.emit({
      kind: 'plan.automatic',
      severity: 'info',
      text: isMergePending
        ? 'committed a plan of what several operators decided side by side'
        : 'committed a plan for changed hosts',
      details: { planEpoch: planEpoch ?? 0 },
    });
    // Once it is committed all of this begins anew; if it could not be (a full disk), it is tried again.
    this.#isAutoDone = false;
    this.#autoSinceMs = nowMs + retryMs - quietMs;
    this.#autoDueMs = nowMs + retryMs;
    this.#options.commit({ ...proposal, planEpoch: planEpoch ?? 0 });
  }

  // ---- Views of hosts and instances ---------------------------------------------------------------------------

  #environmentHosts(): readonly HostView[] {
    const env = this.#options.env();
    return this.#options.hosts().filter((host) => host.env === env && host.liveness !== 'left');
  }

  #planHosts(): readonly PlanHost[] {
    return this.#environmentHosts()
      .map((host) => toPlanHost(host, this.#options.self))
      .toSorted((a, b) => compareText(a.id, b.id));
  }

  #failoverHosts(): readonly FailoverHost[] {
    const { self } = this.#options;
    return this.#environmentHosts().map((host) => ({
      ...toPlanHost(host, self),
      liveness: host.id === self ? 'alive' : host.liveness,
    }));
  }

  /** What hosts that are still members said last; of hosts that are not alive that says nothing about now. */
  #reported(): readonly { host: HostView; instance: Reported; isDead: boolean }[] {
    const hosts = new Map(this.#environmentHosts().map((host) => [host.node as string, host]));
    return this.#options.facts().flatMap((fact) => {
      const host = hosts.get(fact.owner);
      if (host === undefined) return [];
      const isDead = host.id !== this.#options.self && host.liveness === 'dead';
      return reportedInstances(fact.value).map((instance) => ({ host, instance, isDead }));
    });
  }

  #seen(): ReadonlyMap<string, readonly SeenInstance[]> {
    const out = new Map<string, SeenInstance[]>();
    for (const { host, instance, isDead } of this.#reported()) {
      if (isDead || goneStates.has(instance.state)) continue;
      const key = slotKey(instance.serviceId, instance.slot);
      const isHealthy =
        instance.state === 'running' &&
        (instance.health === 'none' || instance.health === 'healthy');
      out.set(key, [...(out.get(key) ?? []), { host: host.id, isHealthy }]);
    }
    return out;
  }

  #live(committed: CommittedPlan): readonly LiveInstance[] {
    const planned = new Map(
      committed.plan.placements.map((placement) => [
        slotKey(placement.service, placement.slot),
        placement.host,
      ]),
    );
    return this.#reported().flatMap(({ host, instance, isDead }) => {
      const isRunning = instance.state === 'running';
      // Own ones that are still to start have their address already: the way to them is opened ahead.
      const isComing = host.id === this.#options.self && !goneStates.has(instance.state);
      if (host.address === null || !(isRunning || isComing)) return [];
      const isPlanned = planned.get(slotKey(instance.serviceId, instance.slot)) === host.id;
      const isHealthy = isRunning && (instance.health === 'none' || instance.health === 'healthy');
      const { service, slot, address } = instance;
      const isSuspect = host.liveness === 'suspect';
      return [
        {
          service,
          slot,
          host: host.id,
          hostAddress: host.address,
          address,
          isRunning,
          isHealthy,
          isSuspect,
          isDead,
          isPlanned,
        },
      ];
    });
  }
}

function exclusiveServices(inputs: PlanInputs): ReadonlySet<ObjectId> {
  return new Set(
    [...leaseSubjects(inputs).values()].flatMap(({ services }) => services.map(({ id }) => id)),
  );
}

function decidedOf({ services, roles, numbers, images, storage }: PlanInputs): DecidedInputs {
  const more = storage === undefined ? {} : { storage };
  return { services, roles, numbers, images: images ?? [], ...more };
}

function toPlanHost(host: HostView, self: HostId): PlanHost {
  return {
    id: host.id,
    name: host.name,
    roles: host.roles,
    meta: host.meta,
    isAlive: host.id === self || host.liveness === 'alive' || host.liveness === 'suspect',
    isDrained: host.isDrained,
    cpu: host.capacity?.cpu ?? 0,
    memoryBytes: host.capacity?.memoryBytes ?? 0,
  };
}

function samePlacements(a: readonly Placement[], b: readonly Placement[]): boolean {
  const key = (placement: Placement): string =>
    `${placement.service}/${placement.slot}@${placement.host}`;
  return (
    a.length === b.length &&
    JSON.stringify(a.map(key).toSorted(compareText)) ===
      JSON.stringify(b.map(key).toSorted(compareText))
  );
}
