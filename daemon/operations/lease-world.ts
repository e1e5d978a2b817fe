/**
 * What this host knows of leases, from its own guard and from what all hosts publish: who holds what, and who could. Facts
 * are hints and may be old: the highest epoch wins, and at one epoch the guard's own word. Nothing is decided by it.
 */
import { compareText } from '../../crdt/codec.ts';
import type { HostId, ObjectId } from '../../crdt/ids.ts';
import type { EnvView, HostView, LeaseFact, LeaseSettings } from '../../crdt/model.ts';
import type { LeaseApi } from '../lease-api.ts';
import type { GuardStatus, LeaseStatus } from '../lease/guard-api.ts';
import type { LeaseName } from '../lease/model.ts';
import type { NodeApi } from '../node-api.ts';
import { candidatesFor, quietDynamics } from '../plan/candidates.ts';
import type { Candidates, PassedOver } from '../plan/candidates.ts';
import { leaseSubjects } from '../plan/leases.ts';
import { hostNames } from './common.ts';
import { groupBy } from './service-rows.ts';

/** A lease and what people call it. */
export interface LeaseSubject {
  readonly name: LeaseName;
  /** 'service db', 'storage dbdata', 'planner prod', 'lock backup'. */
  readonly title: string;
  /** Role whose hosts are candidates; null: every host, or not known. */
  readonly role: string | null;
  /** Storage that must be in sync; null: none. */
  readonly storage: string | null;
  /** Services that run under it. */
  readonly services: readonly string[];
  /** What carries its settings in the document, the lease's own object first; empty: none does. */
  readonly objects: readonly ObjectId[];
  readonly settings: Pick<LeaseSettings, 'profile' | 'onLoss' | 'isFrozen'> | null;
}

export interface LeaseWorld {
  readonly node: NodeApi;
  readonly view: EnvView;
  readonly status: GuardStatus | null;
  readonly facts: readonly {
    readonly host: HostView;
    readonly ageMs: number;
    readonly fact: LeaseFact;
  }[];
  readonly hosts: ReadonlyMap<HostId, HostView>;
  readonly names: ReadonlyMap<string, string>;
  readonly subjects: readonly LeaseSubject[];
  /** Of this host's guard, by name of the lease. */
  readonly statuses: ReadonlyMap<LeaseName, LeaseStatus>;
  /** What hosts say that they hold, by name of the lease. */
  readonly claims: ReadonlyMap<LeaseName, readonly Claim[]>;
}

interface Claim {
  readonly host: HostView;
  readonly epoch: number;
  readonly state: string;
}

export interface Holder {
  readonly host: HostId;
  readonly state: string;
  readonly epoch: number;
  readonly remainMs: number | null;
}

const heldStates = new Set(['opening', 'active', 'frozen', 'handing-over', 'parked']);

export function worldOf(node: NodeApi, leases: LeaseApi | null): LeaseWorld {
  const byNode = new Map(node.hosts().map((host) => [host.node, host]));
  const facts = (leases?.facts() ?? []).flatMap(({ owner, ageMs, fact }) => {
    const host = byNode.get(owner);
    return host === undefined ? [] : [{ host, ageMs, fact }];
  });
  const view = node.envView();
  const status = leases?.status() ?? null;
  return {
    node,
    view,
    status,
    facts,
    hosts: new Map(node.hosts().map((host) => [host.id, host])),
    names: hostNames(node),
    subjects: subjectsOf(view, status, facts),
    statuses: new Map(status?.leases.map((lease) => [lease.name, lease])),
    claims: claimsOf(facts),
  };
}

export function statusOfLease(world: LeaseWorld, name: LeaseName): LeaseStatus | null {
  return world.statuses.get(name) ?? null;
}

export function hostName(world: LeaseWorld, id: string): string {
  return world.names.get(id) ?? id.slice(0, 12);
}

/** Null: nobody that is known of. What a dead host claimed counts only when it is parked: park has no end. */
export function holderOf(world: LeaseWorld, name: LeaseName): Holder | null {
  const claims: Holder[] = [];
  const own = statusOfLease(world, name);
  if (own !== null && heldStates.has(own.state)) {
    const { epoch, state, remainMs } = own;
    claims.push({ host: world.node.self.host, state, epoch, remainMs });
  }
  const heard = own?.holder ?? null;
  if (heard !== null && (heard.remainMs > 0 || heard.state === 'parked')) {
    const { host } = heard.owner;
    const remainMs = heard.state === 'parked' ? null : heard.remainMs;
    // The guard's epoch is the newest that anybody tried; the holder's own is what it says itself.
    const said = claimOf(world, name, host);
    const { epoch = own?.epoch ?? 0, state = heard.state } = said ?? {};
    // A voter knows of a park at once; what its host says of itself comes later, or never again.
    claims.push({ host, state: heard.state === 'parked' ? 'parked' : state, epoch, remainMs });
  }
  for (const { host, epoch, state } of world.claims.get(name) ?? []) {
    const isGone = host.liveness === 'dead' || host.liveness === 'left';
    if (!isGone || state === 'parked') claims.push({ host: host.id, state, epoch, remainMs: null });
  }
  return claims.toSorted((a, b) => b.epoch - a.epoch)[0] ?? null;
}

function claimOf(world: LeaseWorld, name: LeaseName, id: HostId): Claim | undefined {
  return world.claims.get(name)?.find((one) => one.host.id === id);
}

function claimsOf(facts: LeaseWorld['facts']): ReadonlyMap<LeaseName, readonly Claim[]> {
  const claims = facts.flatMap(({ host, fact }) =>
    fact.held.map(({ name, epoch, state }) => ({ name, claim: { host, epoch, state } })),
  );
  const groups = groupBy(claims, ({ name }) => name);
  return new Map([...groups].map(([name, group]) => [name, group.map(({ claim }) => claim)]));
}

/** Best first: as the guards were told, else as planning would tell them, else all that may have it by their roles. */
export function candidatesOfLease(world: LeaseWorld, subject: LeaseSubject): readonly HostId[] {
  const known = statusOfLease(world, subject.name);
  if (known !== null && known.candidates.length > 0) return known.candidates;
  const computed = computedCandidates(world, subject);
  if (computed !== null) return computed.hosts;
  return [...world.hosts.values()]
    .filter((host) => host.liveness !== 'left' && host.env === world.node.env)
    .filter((host) => subject.role === null || host.roles.includes(subject.role))
    .toSorted((a, b) => compareText(a.name, b.name))
    .map((host) => host.id);
}

/** Hosts with the role that are no candidates, and why. */
export function passedOverOf(world: LeaseWorld, subject: LeaseSubject): readonly PassedOver[] {
  const { role } = subject;
  const computed = computedCandidates(world, subject);
  const known = statusOfLease(world, subject.name)?.candidates ?? [];
  // Told to the guards by what is so at the moment: a copy that is stale, a host that is drained or frozen.
  const dropped = (known.length === 0 ? [] : (computed?.hosts ?? []))
    .filter((host) => !known.includes(host))
    .map((host) => ({ host, name: hostName(world, host), reason: 'may not take it now' }));
  return [...(computed?.passedOver ?? []), ...dropped].filter(
    ({ host }) => role !== null && world.hosts.get(host)?.roles.includes(role) === true,
  );
}

function computedCandidates(world: LeaseWorld, subject: LeaseSubject): Candidates | null {
  const inputs = world.node.leaseInputs();
  const found = inputs === null ? undefined : leaseSubjects(inputs).get(subject.name);
  if (inputs === null || found === undefined) return null;
  const frozen = [...world.view.hosts].filter(([, host]) => host.isFrozen === true);
  return candidatesFor(found, inputs, {
    ...quietDynamics,
    lastHolder: holderOf(world, subject.name)?.host ?? null,
    frozen: new Set(frozen.map(([id]) => id)),
  });
}

function subjectsOf(
  view: EnvView,
  status: GuardStatus | null,
  facts: LeaseWorld['facts'],
): readonly LeaseSubject[] {
  const found = new Map<LeaseName, LeaseSubject>();
  for (const subject of desiredSubjects(view)) found.set(subject.name, subject);
  const titles = new Map(status?.leases.map(({ name, title }) => [name, title]));
  const others = [
    `planner/${view.env}`,
    ...titles.keys(),
    ...facts.flatMap(({ fact }) => [...fact.held, ...fact.unfit].map(({ name }) => name)),
  ];
  for (const name of others) {
    if (!found.has(name)) found.set(name, bareSubject(name, titles.get(name)));
  }
  return [...found.values()].toSorted((a, b) => compareText(a.title, b.title));
}

/** Exclusive services, and exclusive storage with the services that follow it. */
function desiredSubjects(view: EnvView): LeaseSubject[] {
  const { env, services, storage } = view;
  const inputs = { env, services: [...services.values()], storage: [...storage.values()] };
  return [...leaseSubjects(inputs).values()].map((subject): LeaseSubject => ({
    name: subject.lease,
    title: subject.title,
    role: subject.role,
    storage: subject.storage?.name ?? null,
    services: subject.services.map(({ name }) => name),
    objects: [...(subject.storage === null ? [] : [subject.storage]), ...subject.services].map(
      ({ id }) => id,
    ),
    settings: subject.settings,
  }));
}

function bareSubject(name: LeaseName, title: string | undefined): LeaseSubject {
  const [kind = '', ...rest] = name.split('/');
  return {
    name,
    title: title ?? `${kind} ${rest.at(-1) ?? ''}`.trim(),
    role: null,
    storage: null,
    services: [],
    objects: [],
    settings: null,
  };
}
