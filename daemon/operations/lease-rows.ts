/** Leases as answers show them: rows, candidates with their reasons, and how many losses each survives. */
import type { HostId } from '../../crdt/ids.ts';
import type { StorageFact } from '../../crdt/model.ts';
import { withHostNames } from '../host-names.ts';
import { profiles } from '../lease/profiles.ts';
import type { ProfileName } from '../lease/model.ts';
import { isoOf } from './common.ts';
import { hostFactOf } from './host-rows.ts';
import type {
  CandidateReason,
  CandidateRow,
  ExclusiveRow,
  LeaseDetails,
  LeaseHistoryRow,
  LeaseRow,
  LeaseTiming,
  QuorumAnswer,
} from './lease-answers.ts';
import type { Holder, LeaseSubject, LeaseWorld } from './lease-world.ts';
import {
  candidatesOfLease,
  holderOf,
  hostName,
  passedOverOf,
  statusOfLease,
} from './lease-world.ts';
import { quorumOf } from './quorum.ts';

export function leaseRows(world: LeaseWorld): LeaseRow[] {
  const quorum = quorumOf(world);
  return world.subjects.map((subject) => leaseRow(world, subject, quorum));
}

export function leaseRow(
  world: LeaseWorld,
  subject: LeaseSubject,
  quorum: QuorumAnswer = quorumOf(world),
): LeaseRow {
  const own = statusOfLease(world, subject.name);
  const holder = holderOf(world, subject.name);
  return {
    name: subject.name,
    title: subject.title,
    holder: holder === null ? null : hostName(world, holder.host),
    epoch: holder?.epoch ?? own?.epoch ?? 0,
    state: stateOf(holder, own?.state),
    voters: quorum.voters.map(({ host }) => host),
    expiresInMs:
      holder === null || holder.remainMs === null ? null : Math.max(0, Math.round(holder.remainMs)),
    candidates: candidatesOfLease(world, subject).map((id) => hostName(world, id)),
    profile: own?.profile ?? subject.settings?.profile ?? null,
    onLoss: own?.onLoss ?? subject.settings?.onLoss ?? null,
    frozen: isFrozen(world, subject),
    trouble: troubleOf(world, subject, { holder, quorum }),
  };
}

function stateOf(holder: Holder | null, own: string | undefined): string {
  if (holder !== null) return holder.state;
  return own === 'acquiring' || own === 'waiting' ? own : 'free';
}

function isFrozen(world: LeaseWorld, subject: LeaseSubject): boolean {
  return world.view.isFrozen || subject.settings?.isFrozen === true;
}

function troubleOf(
  world: LeaseWorld,
  subject: LeaseSubject,
  seen: { holder: Holder | null; quorum: QuorumAnswer },
): string[] {
  const { holder, quorum } = seen;
  const lines: string[] = [];
  if (holder === null && subject.objects.length > 0) {
    lines.push('nobody holds it');
    if (!orderedRows(world, subject).some((row) => row.mayTake)) lines.push('no host may take it');
  }
  if (holder?.state === 'frozen') lines.push('its time is nearly over: the workload is frozen');
  if (holder !== null && statusOfLease(world, subject.name)?.gate === 'failed')
    lines.push('its gate could not be closed');
  if (
    quorum.mode !== 'none' &&
    !quorum.hasQuorum &&
    (subject.objects.length > 0 || holder !== null)
  )
    lines.push('no majority of voters answers');
  return lines;
}

/** Candidates in their order, then the other hosts of the role with what keeps them out. */
export function candidateRows(world: LeaseWorld, subject: LeaseSubject): CandidateRow[] {
  const holder = holderOf(world, subject.name);
  const order = candidatesOfLease(world, subject);
  const others = passedOverOf(world, subject).filter(({ host }) => !order.includes(host));
  return [
    ...orderedRows(world, subject),
    ...others.map(({ host, name, reason }): CandidateRow => {
      const known = reasonsAgainst(world, subject, host);
      const text = `it ${reason}`;
      return {
        host: name,
        place: null,
        isHolder: holder?.host === host,
        mayTake: false,
        reasons: known.length > 0 ? known : [{ code: 'unfit', text }],
      };
    }),
  ];
}

function orderedRows(world: LeaseWorld, subject: LeaseSubject): CandidateRow[] {
  const holder = holderOf(world, subject.name);
  return candidatesOfLease(world, subject).map((id, i): CandidateRow => {
    const isHolder = holder?.host === id;
    const reasons = isHolder ? [] : reasonsAgainst(world, subject, id);
    const mayTake = !isHolder && reasons.length === 0;
    return { host: hostName(world, id), place: i + 1, isHolder, mayTake, reasons };
  });
}

/** Why this host would not take it now; empty: it would. */
function reasonsAgainst(world: LeaseWorld, subject: LeaseSubject, id: HostId): CandidateReason[] {
  const host = world.hosts.get(id);
  if (host === undefined || host.liveness === 'dead' || host.liveness === 'left')
    return [{ code: 'dead', text: `it is ${host?.liveness ?? 'no member any more'}` }];
  const reasons: CandidateReason[] = [];
  const add = (code: CandidateReason['code'], text: string) => reasons.push({ code, text });
  const fact = world.facts.find((one) => one.host.id === id)?.fact;
  if (host.isDrained) add('drained', 'it is drained');
  if (world.view.hosts.get(id)?.isFrozen === true) add('host-frozen', 'the host is frozen');
  if (world.view.isFrozen) add('environment-frozen', 'the environment is frozen');
  if (subject.settings?.isFrozen === true) add('lease-frozen', 'the lease is frozen');
  if ((fact?.leasePort ?? 0) === 0) add('guard-down', 'its guard does not answer');
  else if (fact?.gateFault !== null && fact?.gateFault !== undefined && hasGate(subject))
    add('gate-fault', fact.gateFault);
  const engine = hostFactOf(world.node, host)?.engine;
  if (subject.services.length > 0 && engine !== undefined && engine !== 'ok')
    add('engine-down', `its container engine is ${engine}`);
  if (subject.storage !== null) addStorage(world, subject.storage, host.node, add);
  const why =
    fact?.unfit.find((one) => one.name === subject.name)?.why ?? ownWhy(world, subject, id);
  if (why !== undefined) addUnfit(reasons, why);
  return reasons;
}

function hasGate(subject: LeaseSubject): boolean {
  return subject.objects.length > 0 || subject.name.startsWith('lock/');
}

function ownWhy(world: LeaseWorld, subject: LeaseSubject, id: HostId): string | undefined {
  const own = id === world.node.self.host ? statusOfLease(world, subject.name) : null;
  return own === null || own.mayAcquire ? undefined : own.why;
}

function addStorage(
  world: LeaseWorld,
  storage: string,
  owner: Parameters<LeaseWorld['node']['fact']>[1],
  add: (code: CandidateReason['code'], text: string) => void,
): void {
  if (world.view.storage.get(storage)?.driver !== 'sync') return;
  const fact = world.node.fact('storage', owner)?.value as Partial<StorageFact> | undefined;
  const copy = fact?.storage?.find(({ name }) => name === storage);
  if (copy?.isInSync === true) return;
  const lag = copy?.lagMs ?? null;
  const detail = lag === null ? (copy?.reason ?? 'it has no copy yet') : `it lags by ${lag} ms`;
  add('not-in-sync', `its copy of ${storage} is not in sync: ${detail}`);
}

/** The guard's own word, unless it says again what was found already. */
function addUnfit(reasons: CandidateReason[], why: string): void {
  if (/did not start/i.test(why)) reasons.push({ code: 'start-failed', text: why });
  else if (reasons.length === 0)
    reasons.push({ code: 'unfit', text: why === '' ? 'it would not' : why });
}

/** How many more hosts may be lost, whichever they are, and what limits it. */
export function survivalOf(
  world: LeaseWorld,
  subject: LeaseSubject,
  quorum: QuorumAnswer = quorumOf(world),
): { survives: number; limit: string } {
  if (holderOf(world, subject.name) === null) return { survives: -1, limit: 'nobody holds it' };
  if (quorum.mode === 'pair')
    return {
      survives: Math.min(0, quorum.survives),
      limit: 'two voters: nobody takes over by itself',
    };
  const others = orderedRows(world, subject).filter((row) => !row.isHolder);
  const takers = others.filter((row) => row.mayTake);
  if (quorum.survives <= takers.length) {
    const limit = `${quorum.needed} of ${quorum.voters.length} voters must answer`;
    return { survives: quorum.survives, limit };
  }
  if (takers.length > 0)
    return {
      survives: takers.length,
      limit: `may be taken over by ${takers.map(({ host }) => host).join(', ')}`,
    };
  const why = others.map(
    ({ host, reasons }) => `${host}: ${reasons.map(({ text }) => text).join(', ')}`,
  );
  return {
    survives: 0,
    limit:
      why.length === 0 ? 'there is no other candidate' : `nobody may take over (${why.join('; ')})`,
  };
}

export function leaseDetails(world: LeaseWorld, subject: LeaseSubject): LeaseDetails {
  const quorum = quorumOf(world);
  const { candidates: _, ...row } = leaseRow(world, subject, quorum);
  const own = statusOfLease(world, subject.name);
  const history = (own?.history ?? []).map((entry): LeaseHistoryRow => {
    const { epoch, what, atWallMs } = entry;
    const why = withHostNames(entry.why, world.names);
    return { epoch, host: hostName(world, entry.host), what, why, at: isoOf(atWallMs) };
  });
  const self = hostName(world, world.node.self.host);
  // Of others it says only when it was heard of.
  const taken = history.findLast(
    ({ epoch, what, host }) => host === self && epoch === row.epoch && starts.has(what),
  );
  return {
    ...row,
    env: world.node.env,
    services: subject.services,
    since: row.holder === null ? null : (taken?.at ?? null),
    candidates: candidateRows(world, subject),
    moving: movingOf(world, subject),
    gate:
      own === null || row.holder !== self
        ? null
        : { host: self, state: own.gate, fault: world.status?.gateFault ?? null },
    timing: timingOf(row.profile),
    history,
    quorum,
    survives: survivalOf(world, subject, quorum).survives,
    seenFrom: self,
  };
}

function movingOf(world: LeaseWorld, subject: LeaseSubject): LeaseDetails['moving'] {
  const moving = statusOfLease(world, subject.name)?.moving ?? null;
  if (moving === null) return null;
  return { to: moving.to === null ? null : hostName(world, moving.to), step: moving.step };
}

const starts = new Set(['acquired', 'handed-over', 'forced']);

function timingOf(profile: string | null): LeaseTiming | null {
  if (profile === null || !Object.hasOwn(profiles, profile)) return null;
  const { exclusionMs, authorityMs, renewMs, freezeBeforeMs, killBeforeMs } =
    profiles[profile as ProfileName];
  return { exclusionMs, authorityMs, renewMs, freezeBeforeMs, killBeforeMs };
}

/** Exclusive services that should run. */
export function exclusiveRows(world: LeaseWorld): ExclusiveRow[] {
  const quorum = quorumOf(world);
  return world.subjects
    .filter(({ objects }) => objects.length > 0)
    .flatMap((subject) => {
      const row = leaseRow(world, subject, quorum);
      const survival = survivalOf(world, subject, quorum);
      return subject.services
        .filter((name) => world.view.services.get(name)?.isEnabled === true)
        .map((service): ExclusiveRow => {
          const { holder, epoch, state } = row;
          return { service, lease: subject.title, holder, epoch, state, ...survival };
        });
    });
}
