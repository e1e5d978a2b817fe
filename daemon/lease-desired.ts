/**
 * What this host's guard is told: every lease of the environment, who may hold it in which order, whether this host would
 * take it, and whom to speak with. A pure function of what the node knows; every daemon makes the same lists of candidates
 * from the same knowledge, and where knowledge differs for a moment, a majority of acceptors still decides.
 */
import { compareText } from '../crdt/codec.ts';
import { hash32 } from '../crdt/hash32.ts';
import type { ClusterId, HostId, ObjectId } from '../crdt/ids.ts';
import type { EnvView, HostView, PlanInputs, StorageFact } from '../crdt/model.ts';
import { leaseDefaults } from '../crdt/lease-leaves.ts';
import type { GuardDesired, GuardPeer, LeaseDesired } from './lease/guard-api.ts';
import { leasePortDefault } from './lease/guard-start.ts';
import { leaseLimits } from './lease/model.ts';
import type { ChosenConfig, LeaseName } from './lease/model.ts';
import { newestChosen, readChosen } from './lease-facts.ts';
import type { HostLeaseFact } from './lease-facts.ts';
import { candidatesFor } from './plan/candidates.ts';
import type { CandidateDynamics, Candidates } from './plan/candidates.ts';
import { gateOf, leaseSubjects, plannerLeaseOf } from './plan/leases.ts';
import type { Holder, LeaseSubject } from './plan/leases.ts';

export interface LeaseDesiredInput {
  readonly clusterId: ClusterId;
  readonly env: string;
  readonly self: HostId;
  /** Committed, with hosts as alive as they are now; null: nothing was ever committed. */
  readonly inputs: PlanInputs | null;
  /** What operators want now: freezes take effect without a commit. */
  readonly view: Pick<EnvView, 'services' | 'storage' | 'hosts' | 'isFrozen'>;
  /** Members of the environment, this host too; those that have left are none. */
  readonly hosts: readonly HostView[];
  /** All addresses that a host says it has, the advertised first. */
  readonly addresses: ReadonlyMap<HostId, readonly string[]>;
  readonly leaseFacts: readonly HostLeaseFact[];
  readonly storageFacts: ReadonlyMap<HostId, StorageFact>;
  /** Measured, 0 to 1. */
  readonly load: ReadonlyMap<HostId, number>;
  readonly holders: ReadonlyMap<LeaseName, Holder>;
  /** By its guard: leases that are held here, whatever their state. */
  readonly ownHeld: ReadonlySet<LeaseName>;
  readonly ownChosen: ChosenConfig | null;
  /** This host made the environment, and it is not known that it has made the first configuration already. */
  readonly isFounder: boolean;
  /** Voters that there should be; null: as they are. Only the holder of the planner's lease says so. */
  readonly votersWanted: readonly HostId[] | null;
  readonly engine: 'ok' | 'absent' | 'hung';
  /** Of this host's guard. */
  readonly gateFault: string | null;
  /** Leases under which the workload did not come up here, and why. */
  readonly startFailures: ReadonlyMap<LeaseName, string>;
  /** Leases whose containers could not be started at once, and why: an image is being pulled, the engine refuses. */
  readonly unready: ReadonlyMap<LeaseName, string>;
  readonly failingProbes: readonly string[];
  /** This host is being taken out of the cluster. */
  readonly isLeaving: boolean;
  /** Addresses of this host's containers, by service. */
  readonly containers: ReadonlyMap<string, readonly string[]>;
}

/** One lease with everything that was weighed, for whoever moves leases to better hosts. */
export interface LeaseOutlook {
  readonly subject: LeaseSubject;
  readonly candidates: Candidates;
}

export function leaseOutlooks(input: LeaseDesiredInput): readonly LeaseOutlook[] {
  const { inputs } = input;
  if (inputs === null) return [];
  return [...leaseSubjects(inputs).values()].slice(0, leaseLimits.leasesMax - 1).map((subject) => ({
    subject,
    candidates: candidatesFor(subject, inputs, dynamicsOf(subject, input)),
  }));
}

export function guardDesired(
  input: LeaseDesiredInput,
  outlooks: readonly LeaseOutlook[] = leaseOutlooks(input),
): GuardDesired {
  const { clusterId, env, self, view, votersWanted } = input;
  const chosen = [input.ownChosen, ...input.leaseFacts.map(({ fact }) => readChosen(fact.chosen))];
  return {
    v: 1,
    clusterId,
    cluster8: clusterId.slice(0, 8),
    env,
    self,
    peers: peersOf(input),
    leases: [
      plannerLease(input),
      ...outlooks.map((outlook) => leaseDesired(outlook, input)),
      ...removedLeases(outlooks, input),
    ],
    chosen: newestChosen(chosen, env),
    isFounder: input.isFounder,
    votersWanted: input.ownHeld.has(plannerLeaseOf(env)) ? votersWanted : null,
    isFrozen: view.isFrozen || view.hosts.get(self)?.isFrozen === true,
    failingProbes: input.failingProbes,
    isWitness: input.hosts.find(({ id }) => id === self)?.meta['witness'] === 'true',
  };
}

function leaseDesired(
  { subject, candidates }: LeaseOutlook,
  input: LeaseDesiredInput,
): LeaseDesired {
  const { lease, title, settings } = subject;
  const why = refusalOf({ subject, candidates }, input);
  // A host that may not have it and does not hold it needs no gate: nothing of it is made there.
  const forceable = forceableOf({ subject, candidates }, input);
  const isInvolved =
    [...candidates.hosts, ...forceable].includes(input.self) || input.ownHeld.has(lease);
  return {
    name: lease,
    title,
    profile: settings.profile,
    onLoss: settings.onLoss,
    candidates: candidates.hosts.slice(0, leaseLimits.candidatesMax),
    ...(forceable.length === 0 ? {} : { forceable }),
    mayAcquire: why === '',
    why,
    isFrozen: isFrozenNow(subject, input),
    gate: isInvolved ? gateOf(input.clusterId.slice(0, 8), subject.id, input.self) : null,
    traffic: isInvolved
      ? subject.services
          .flatMap(({ name }) => input.containers.get(name) ?? [])
          .toSorted(compareText)
      : [],
    fence: settings.fence,
    fenceCommand: settings.fenceCommand,
    lockDelayMs: settings.lockDelayMs,
    onDaemonDown: settings.onDaemonDown,
  };
}

/** They would be candidates if it were not for their copies: an operator may prefer an old one to none. */
function forceableOf(
  { subject, candidates }: LeaseOutlook,
  input: LeaseDesiredInput,
): readonly HostId[] {
  const dynamics = dynamicsOf(subject, input);
  if (dynamics.inSync === null || input.inputs === null) return [];
  return candidatesFor(subject, input.inputs, { ...dynamics, inSync: null })
    .hosts.filter((host) => !candidates.hosts.includes(host))
    .slice(0, leaseLimits.candidatesMax);
}

/**
 * Held by somebody, and not wanted any more: listed for as long as it is held, because acceptors that do not know it would
 * let it run out, and its workload would be killed instead of stopped.
 */
function removedLeases(
  outlooks: readonly LeaseOutlook[],
  input: LeaseDesiredInput,
): readonly LeaseDesired[] {
  const wanted = new Set(outlooks.map(({ subject }) => subject.lease));
  const members = new Map(input.hosts.map((host) => [host.id, host]));
  const held = new Map([...input.holders].map(([lease, { host }]) => [lease, host]));
  for (const lease of input.ownHeld) held.set(lease, input.self);
  return [...held].flatMap(([lease, host]) => {
    const object = objectOf(lease, input.env);
    const isGone = host !== input.self && members.get(host)?.liveness !== 'alive';
    if (object === null || wanted.has(lease) || isGone) return [];
    const gate = gateOf(input.clusterId.slice(0, 8), object, input.self);
    return [
      {
        ...bareLease(lease, `${lease.split('/')[0] ?? ''} ${object}`),
        candidates: [host],
        why: 'it was removed',
        gate: host === input.self ? gate : null,
      },
    ];
  });
}

/** Null: a lease of another kind or environment. */
function objectOf(lease: LeaseName, env: string): ObjectId | null {
  const [kind = '', inEnv, object = ''] = lease.split('/');
  const isObject = ['service', 'storage'].includes(kind) && inEnv === env;
  return isObject && /^[0-9a-f]{16}$/.test(object) ? (object as ObjectId) : null;
}

/**
 * Nothing runs under it, so every member may: it decides who plans by itself and who tends the voters. That takes a daemon, so
 * it does not stay where none runs.
 */
function plannerLease({ env, self, hosts, view, isLeaving }: LeaseDesiredInput): LeaseDesired {
  const isDrained = hosts.find(({ id }) => id === self)?.isDrained === true;
  const isFrozen = view.hosts.get(self)?.isFrozen === true;
  const why = isLeaving ? leavingWhy : isDrained ? 'it is drained' : isFrozen ? 'it is frozen' : '';
  return {
    ...bareLease(plannerLeaseOf(env), `planner ${env}`),
    candidates: hosts
      .map(({ id }) => id)
      .toSorted((a, b) => hash32(a) - hash32(b) || compareText(a, b))
      .slice(0, leaseLimits.candidatesMax),
    mayAcquire: why === '',
    onDaemonDown: 'move',
    why: why === '' ? '' : `this host: ${why}`,
  };
}

const leavingWhy = 'it leaves the cluster';

function bareLease(name: LeaseName, title: string): LeaseDesired {
  const { profile, onLoss, fence, fenceCommand, lockDelayMs, onDaemonDown } = leaseDefaults;
  return {
    name,
    title,
    profile,
    onLoss,
    candidates: [],
    mayAcquire: false,
    why: '',
    isFrozen: false,
    gate: null,
    traffic: [],
    fence,
    fenceCommand,
    lockDelayMs,
    onDaemonDown,
  };
}

/** Why this host would not take it now; '': it would. */
function refusalOf(
  { subject, candidates: { hosts, passedOver, leaving } }: LeaseOutlook,
  input: LeaseDesiredInput,
): string {
  const { self, engine, gateFault, startFailures } = input;
  if (input.isLeaving) return `this host: ${leavingWhy}`;
  const passed = [...passedOver, ...(leaving === null ? [] : [leaving])];
  const reason = passed.find(({ host }) => host === self)?.reason;
  if (reason !== undefined) return `this host ${reason}`;
  if (!hosts.slice(0, leaseLimits.candidatesMax).includes(self)) return 'this host is no candidate';
  const { services, storage } = subject;
  if (storage === null && services.every(({ isEnabled }) => !isEnabled))
    return `${services.map(({ name }) => name).join(', ')} is stopped`;
  if (gateFault !== null) return `exclusive work cannot be fenced here: ${gateFault}`;
  if (services.length > 0 && engine !== 'ok') return `the container engine is ${engine}`;
  const failure = startFailures.get(subject.lease);
  if (failure !== undefined) return `it did not start here: ${failure}`;
  const unready = input.ownHeld.has(subject.lease) ? undefined : input.unready.get(subject.lease);
  if (unready !== undefined) return unready;
  if (input.view.hosts.get(self)?.isFrozen === true) return 'this host is frozen';
  return input.failingProbes.length > 0 ? `failing here: ${input.failingProbes.join(', ')}` : '';
}

/** By the document as it is now; what is not in it any more as it was committed. */
function isFrozenNow(
  { storage, services, settings }: LeaseSubject,
  { view }: LeaseDesiredInput,
): boolean {
  const now = [
    ...(storage === null ? [] : [view.storage.get(storage.name)]),
    ...services.map(({ name }) => view.services.get(name)),
  ].filter((object) => object !== undefined);
  if (now.length === 0) return settings.isFrozen;
  return now.some((object) => object.lease?.isFrozen === true);
}

function dynamicsOf(subject: LeaseSubject, input: LeaseDesiredInput): CandidateDynamics {
  const frozen = [...input.view.hosts].filter(([, settings]) => settings.isFrozen === true);
  return {
    inSync: subject.storage?.driver === 'sync' ? inSyncOf(subject.storage.id, input) : null,
    load: input.load,
    lastHolder: input.ownHeld.has(subject.lease)
      ? input.self
      : (input.holders.get(subject.lease)?.host ?? null),
    frozen: new Set(frozen.map(([host]) => host)),
  };
}

/** Null while no host has a copy at all: then any may be the first. */
function inSyncOf(storage: string, input: LeaseDesiredInput): ReadonlySet<HostId> | null {
  const copies = [...input.storageFacts].flatMap(([host, fact]) =>
    fact.storage.filter(({ id }) => id === storage).map((copy) => ({ host, copy })),
  );
  if (!copies.some(({ copy }) => copy.epoch > 0)) return null;
  return new Set(copies.filter(({ copy }) => copy.isInSync).map(({ host }) => host));
}

function peersOf({ self, hosts, addresses, leaseFacts }: LeaseDesiredInput): GuardPeer[] {
  const ports = new Map(leaseFacts.map(({ host, fact }) => [host, fact.leasePort]));
  return hosts
    .filter(({ id }) => id !== self)
    .map(({ id, name, node }) => {
      // One whose guard is down now comes back where it was, or where all are by default.
      const port = ports.get(id) || leasePortDefault;
      const known = addresses.get(id) ?? [];
      return { host: id, name, node, addresses: known.map((address) => hostPort(address, port)) };
    })
    .toSorted((a, b) => compareText(a.host, b.host));
}

function hostPort(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}
