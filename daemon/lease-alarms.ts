/**
 * Alerts about leases: what is wrong now and needs a person. `findAlerts` is pure, from a snapshot; `AlertBook` remembers
 * since when each lasts, so that it is raised once, after it has lasted as long as its kind must, and cleared when over.
 *
 * Every host judges what it sees itself. Nothing here moves or stops anything: a daemon that is down while its guard still
 * holds is an alert and no more, since its workload runs on.
 */
import type { HostId } from '../crdt/ids.ts';
import type { GuardStatus, LeaseStatus } from './lease/guard-api.ts';
import { majorityOf } from './lease/model.ts';

export type AlertKind =
  | 'no-quorum'
  | 'unsafe-keep'
  | 'zombie'
  | 'flapping'
  | 'daemon-down'
  | 'gate-fault'
  | 'voter-forgot'
  | 'all-failed'
  | 'stale-guard-version';

/** One thing that is wrong. `<kind>:<subject>` names it for as long as it lasts, and when it comes back. */
export interface Alert {
  readonly id: string;
  readonly kind: AlertKind;
  readonly severity: 'warn' | 'alarm';
  readonly subject: string;
  readonly text: string;
  readonly todo: string;
}

export interface AlertHost {
  readonly host: HostId;
  readonly name: string;
  readonly isSelf: boolean;
  readonly liveness: 'alive' | 'suspect' | 'dead' | 'left';
  /** A frame of its daemon arrived so long ago; null: never in this run. */
  readonly lastSeenMs: number | null;
  readonly isConnected: boolean;
  /** Null: no fact of its guard is known. */
  readonly gateFault: string | null;
  readonly held: readonly {
    readonly name: string;
    readonly epoch: number;
    readonly state: string;
  }[];
  /** Leases that it is a candidate for and would not take. */
  readonly unfit: readonly { readonly name: string; readonly why: string }[];
}

/** An exclusive service and where it is seen to run. */
export interface AlertWork {
  readonly lease: string;
  readonly service: string;
  /** Hosts that are alive and whose engine says that it runs. */
  readonly runsOn: readonly HostId[];
  /** It moves when the daemon of its holder stays away. */
  readonly movesWithoutDaemon: boolean;
}

export interface AlertSnapshot {
  readonly env: string;
  readonly self: HostId;
  /** Of the daemon; the guard is expected to have the same. */
  readonly version: string;
  /** Null: the guard does not answer. */
  readonly status: GuardStatus | null;
  readonly hosts: readonly AlertHost[];
  readonly work: readonly AlertWork[];
  readonly wallMs: number;
}

/** An alert that lasts for less is not raised: what heals by itself needs nobody. */
const holdDownMs: Readonly<Record<AlertKind, number>> = {
  'no-quorum': 5_000,
  'unsafe-keep': 0,
  zombie: 10_000,
  flapping: 0,
  'daemon-down': 0,
  // At its start a guard has not tried its gate yet.
  'gate-fault': 5_000,
  'voter-forgot': 0,
  'all-failed': 5_000,
  'stale-guard-version': 60_000,
};

/** A daemon is down when nothing was heard of it for so long. */
const daemonDownMs = 5_000;
const movesPerHourMax = 3;
const hourMs = 3_600_000;
/** Raised at once; of more, the first by name. */
export const alertsMax = 64;

/** Pure. Sorted by id. */
export function findAlerts(seen: AlertSnapshot): readonly Alert[] {
  return [
    ...quorumAlerts(seen),
    ...voterAlerts(seen),
    ...(seen.status?.leases ?? []).flatMap((lease) => leaseAlerts(seen, lease)),
    ...seen.hosts.flatMap((host) => hostAlerts(seen, host)),
    ...seen.work.flatMap((work) => zombieAlerts(seen, work)),
    ...versionAlerts(seen),
  ]
    .toSorted((a, b) => (a.id < b.id ? -1 : 1))
    .slice(0, alertsMax);
}

function alert(
  kind: AlertKind,
  subject: string,
  words: { readonly text: string; readonly todo: string; readonly severity?: Alert['severity'] },
): Alert {
  const { text, todo, severity = 'alarm' } = words;
  return { id: `${kind}:${subject}`, kind, severity, subject, text, todo };
}

function quorumAlerts({ status, env }: AlertSnapshot): Alert[] {
  if (status === null || status.chosen === null || status.hasQuorum) return [];
  const silent = status.voters.filter((voter) => !voter.isReachable || voter.isSilent).length;
  return [
    alert('no-quorum', env, {
      text: `${silent} of ${status.voters.length} voters of ${env} do not answer: nothing exclusive changes hands`,
      todo: 'bring hosts back; when a majority is lost for good: `trellis help env force-voters`',
    }),
  ];
}

/** Each host says it of itself. Where the others are a majority they see to it. */
function voterAlerts(seen: AlertSnapshot): Alert[] {
  const { status, self } = seen;
  const voters = status?.chosen?.config.voters ?? [];
  if (status?.hasForgotten !== true || !voters.includes(self)) return [];
  const name = nameOf(seen, self);
  const isSeenTo = voters.length - 1 >= majorityOf(voters.length);
  return [
    alert('voter-forgot', name, {
      text: `the vote of ${name} is silent: its lease log has lost something that it had promised to keep`,
      todo: isSeenTo
        ? `look after the disk of ${name}; the other voters remove its vote and let it in anew, if not: \`trellis env set voters\` without it, then with it`
        : 'look after its disk; then name every voter that is there: `trellis help env force-voters`',
    }),
  ];
}

const keptStates: readonly string[] = ['opening', 'active', 'frozen', 'handing-over', 'parked'];

function leaseAlerts(seen: AlertSnapshot, lease: LeaseStatus): Alert[] {
  const isHeld = keptStates.includes(lease.state);
  const found: Alert[] = [];
  if (lease.onLoss === 'keep' && lease.gate === 'open' && !isHeld) {
    const name = nameOf(seen, seen.self);
    found.push(
      alert('unsafe-keep', `${lease.title} on ${name}`, {
        text: `${lease.title} goes on on ${name} without its lease, as onLoss: keep asks; it may run twice`,
        todo: 'bring the voters back, or stop it by hand',
      }),
    );
  }
  const moves = movesWithin(lease, seen.wallMs - hourMs);
  if (moves > movesPerHourMax) {
    found.push(
      alert('flapping', lease.title, {
        text: `${lease.title} has changed its host ${moves} times within an hour`,
        todo: 'look at `trellis lease show`, and `trellis lease freeze` it meanwhile',
      }),
    );
  }
  if (isHeld || !lease.name.includes('/') || lease.gate === 'none') return found;
  return [...found, ...failedAlerts(seen, lease)];
}

/** Changes of the host between one owner and the next. */
function movesWithin(lease: LeaseStatus, sinceWallMs: number): number {
  const owners = lease.history.filter(({ what }) =>
    ['acquired', 'handed-over', 'forced'].includes(what),
  );
  return owners.filter(
    ({ host, atWallMs }, i) => i > 0 && owners[i - 1]?.host !== host && atWallMs >= sinceWallMs,
  ).length;
}

/** Nobody holds it, and every live candidate says that it would not. */
function failedAlerts(seen: AlertSnapshot, lease: LeaseStatus): Alert[] {
  if (lease.holder !== null && (lease.holder.remainMs > 0 || lease.holder.state === 'parked'))
    return [];
  if (seen.hosts.some((host) => isAlive(host) && host.held.some(({ name }) => name === lease.name)))
    return [];
  const live = seen.hosts.filter((host) => isAlive(host) && lease.candidates.includes(host.host));
  const whys = live.flatMap((host) => {
    const own = host.isSelf && !lease.mayAcquire ? lease.why : undefined;
    const why = host.unfit.find(({ name }) => name === lease.name)?.why ?? own;
    return why === undefined ? [] : [`${host.name}: ${why}`];
  });
  if (live.length === 0 || whys.length < live.length) return [];
  return [
    alert('all-failed', lease.title, {
      text: `no host takes ${lease.title} (${whys.join('; ')})`,
      todo: 'correct what fails, then `trellis service restart` it',
    }),
  ];
}

function hostAlerts(seen: AlertSnapshot, host: AlertHost): Alert[] {
  const found: Alert[] = [];
  // Each host says it of itself.
  if (host.gateFault !== null && host.isSelf) {
    found.push(
      alert('gate-fault', host.name, {
        text: `exclusive work cannot be fenced on ${host.name}: ${host.gateFault}`,
        todo: `run \`trellis doctor --host ${host.name}\``,
      }),
    );
  }
  const isQuiet =
    !host.isConnected && (host.lastSeenMs === null || host.lastSeenMs >= daemonDownMs);
  const held = host.isSelf || host.liveness === 'left' || !isQuiet ? [] : heldBy(seen, host.host);
  if (held.length > 0) {
    const moving = held.filter(({ name }) => movesWithoutDaemon(seen, name));
    const outlook = moving.length === 0 ? 'nothing moves' : `${titlesOf(moving)} will move soon`;
    found.push(
      alert('daemon-down', host.name, {
        text: `the daemon of ${host.name} does not answer, its guard still holds ${titlesOf(held)}; ${outlook}`,
        todo: `start the daemon of ${host.name} again`,
      }),
    );
  }
  return found;
}

/** The planner is for daemons alone. */
function movesWithoutDaemon({ work }: AlertSnapshot, name: string): boolean {
  if (name.startsWith('planner/')) return true;
  return work.some(({ lease, movesWithoutDaemon: moves }) => lease === name && moves);
}

/** By what its guard was heard to hold; parked is meant to be quiet. */
function heldBy({ status }: AlertSnapshot, host: HostId): LeaseStatus[] {
  return (status?.leases ?? []).filter(
    ({ holder }) =>
      holder !== null &&
      holder.owner.host === host &&
      holder.state === 'active' &&
      holder.remainMs > 0,
  );
}

function titlesOf(leases: readonly LeaseStatus[]): string {
  return leases.map(({ title }) => title).join(', ');
}

/** Runs on a host that does not hold it, while another does. */
function zombieAlerts(seen: AlertSnapshot, work: AlertWork): Alert[] {
  const holders = seen.hosts.flatMap((host) =>
    host.held.filter(({ name }) => name === work.lease).map(({ epoch }) => ({ host, epoch })),
  );
  const holder = holders.toSorted((a, b) => b.epoch - a.epoch)[0]?.host;
  if (holder === undefined) return [];
  return work.runsOn
    .filter((host) => host !== holder.host)
    .map((host) => nameOf(seen, host))
    .map((name) =>
      alert('zombie', `${work.service} on ${name}`, {
        text: `${work.service} runs on ${name}, although ${holder.name} holds its lease`,
        todo: `stop it on ${name}, and look at \`trellis doctor --host ${name}\``,
      }),
    );
}

function versionAlerts({ status, version, hosts }: AlertSnapshot): Alert[] {
  if (status === null || status.version === version) return [];
  const name = hosts.find(({ isSelf }) => isSelf)?.name ?? 'this host';
  return [
    alert('stale-guard-version', name, {
      severity: 'warn',
      text: `the guard of ${name} is version ${status.version}, its daemon ${version}`,
      todo: 'it is replaced at the next restart of the guard',
    }),
  ];
}

function isAlive({ liveness, isSelf }: AlertHost): boolean {
  return isSelf || liveness === 'alive' || liveness === 'suspect';
}

function nameOf({ hosts }: AlertSnapshot, host: HostId): string {
  return hosts.find((one) => one.host === host)?.name ?? host.slice(0, 12);
}

export interface RaisedAlert extends Alert {
  readonly sinceWallMs: number;
}

/** Since when each alert lasts. No timers and no I/O: fed with what `findAlerts` finds, as often as one likes. */
export class AlertBook {
  readonly #firstMs = new Map<string, number>();
  #raised = new Map<string, RaisedAlert>();

  /** What was raised and what was cleared by this look. `nowMs` is monotonic. */
  look(
    found: readonly Alert[],
    now: { readonly nowMs: number; readonly wallMs: number },
  ): { readonly raised: readonly RaisedAlert[]; readonly cleared: readonly RaisedAlert[] } {
    const next = new Map<string, RaisedAlert>();
    const raised: RaisedAlert[] = [];
    const ids = new Set(found.map(({ id }) => id));
    for (const id of this.#firstMs.keys()) if (!ids.has(id)) this.#firstMs.delete(id);
    for (const one of found) {
      const known = this.#raised.get(one.id);
      const firstMs = this.#firstMs.get(one.id) ?? now.nowMs;
      this.#firstMs.set(one.id, firstMs);
      if (known !== undefined) next.set(one.id, { ...one, sinceWallMs: known.sinceWallMs });
      else if (now.nowMs - firstMs >= holdDownMs[one.kind]) {
        const fresh = { ...one, sinceWallMs: Math.round(now.wallMs) };
        next.set(one.id, fresh);
        raised.push(fresh);
      }
    }
    const cleared = [...this.#raised.values()].filter(({ id }) => !next.has(id));
    this.#raised = next;
    return { raised, cleared };
  }

  current(): readonly RaisedAlert[] {
    return [...this.#raised.values()];
  }
}
