/**
 * Looks every second for what needs a person, tells it in the events once, and publishes what is raised here as a fact, so
 * that any host can list the alerts of all. Only looks: see `lease-alarms.ts`.
 */
import type { HostId } from '../crdt/ids.ts';
import type { HostView } from '../crdt/model.ts';
import type { LeaseApi } from './lease-api.ts';
import { AlertBook, alertsMax, findAlerts } from './lease-alarms.ts';
import type {
  AlertHost,
  AlertKind,
  AlertSnapshot,
  AlertWork,
  RaisedAlert,
} from './lease-alarms.ts';
import type { NodeApi } from './node-api.ts';
import { instancesOf } from './operations/host-rows.ts';
import { leaseSubjects } from './plan/leases.ts';
import type { Clock, Timer } from './ports.ts';

export const alertsTopic = 'alerts';
const lookIntervalMs = 1_000;

/** The fact's value. */
export interface AlertsFact {
  readonly v: 1;
  readonly alerts: readonly RaisedAlert[];
}

export interface AlertWatchOptions {
  readonly node: NodeApi;
  readonly leases: LeaseApi;
  readonly clock: Clock;
  /** Of this daemon. */
  readonly version: string;
}

export class AlertWatch {
  readonly #options: AlertWatchOptions;
  readonly #book = new AlertBook();
  #timer: Timer | null = null;
  #published = '';

  constructor(options: AlertWatchOptions) {
    this.#options = options;
  }

  start(): void {
    this.#timer ??= this.#options.clock.setTimer(lookIntervalMs, () => {
      this.#timer = null;
      this.look();
      this.start();
    });
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  /** One look; the timer does it every second. */
  look(): void {
    const { node, leases, clock, version } = this.#options;
    const wallMs = clock.wallMs();
    const snapshot = alertSnapshot(node, leases, { version, wallMs });
    const { raised, cleared } = this.#book.look(findAlerts(snapshot), {
      nowMs: clock.monotonicMs(),
      wallMs,
    });
    this.#publish();
    for (const one of raised) this.#tell(snapshot, one, 'raised');
    for (const one of cleared) this.#tell(snapshot, one, 'cleared');
  }

  #publish(): void {
    const fact: AlertsFact = { v: 1, alerts: this.#book.current() };
    const text = JSON.stringify(fact);
    // A host that never had an alert says nothing.
    if (text === this.#published || (this.#published === '' && fact.alerts.length === 0)) return;
    this.#published = text;
    this.#options.node.publishFact(alertsTopic, fact);
  }

  #tell(snapshot: AlertSnapshot, one: RaisedAlert, what: 'raised' | 'cleared'): void {
    if (!isTeller(snapshot, one)) return;
    this.#options.node.emit({
      kind: `alert.${one.kind}`,
      severity: what === 'raised' ? one.severity : 'info',
      text: what === 'raised' ? one.text : `over: ${one.text}`,
      details: { id: one.id, state: what },
    });
  }
}

const ownKinds: readonly AlertKind[] = [
  'unsafe-keep',
  'gate-fault',
  'voter-forgot',
  'stale-guard-version',
];

/** What concerns this host alone it tells itself; of those that see the rest, the first does. */
function isTeller(snapshot: AlertSnapshot, { kind }: RaisedAlert): boolean {
  if (ownKinds.includes(kind)) return true;
  return !snapshot.hosts.some(
    (host) => host.isConnected && host.liveness === 'alive' && host.host < snapshot.self,
  );
}

export function alertSnapshot(
  node: NodeApi,
  leases: LeaseApi,
  now: { readonly version: string; readonly wallMs: number },
): AlertSnapshot {
  const status = leases.status();
  const facts = new Map(leases.facts().map(({ owner, fact }) => [owner, fact]));
  const members = new Map(node.members().map((member) => [member.host, member]));
  const hosts = node
    .hosts()
    .filter((host) => host.env === node.env)
    .map((host): AlertHost => {
      const member = members.get(host.id);
      const isSelf = host.id === node.self.host;
      const fact = facts.get(host.node);
      return {
        host: host.id,
        name: host.name,
        isSelf,
        liveness: host.liveness,
        lastSeenMs: member?.lastSeenMs ?? null,
        isConnected: isSelf || member?.isConnected === true,
        gateFault: (isSelf ? status?.gateFault : fact?.gateFault) ?? null,
        held: isGone(host) ? [] : (fact?.held ?? []),
        unfit: fact?.unfit ?? [],
      };
    });
  const { version, wallMs } = now;
  const work = exclusiveWork(node, facts.size > 0);
  return { env: node.env, self: node.self.host, version, status, hosts, work, wallMs };
}

function exclusiveWork(node: NodeApi, isAnyHeld: boolean): AlertWork[] {
  const view = node.envView();
  const inputs = {
    env: node.env,
    services: [...view.services.values()],
    storage: [...view.storage.values()],
  };
  if (!isAnyHeld) return [];
  return [...leaseSubjects(inputs).values()].flatMap(({ lease, services, settings }) =>
    services.map(({ name }) => ({
      lease,
      service: name,
      runsOn: whereItRuns(node, name),
      movesWithoutDaemon: settings.onDaemonDown === 'move',
    })),
  );
}

function whereItRuns(node: NodeApi, service: string): HostId[] {
  return node
    .hosts()
    .filter((host) => !isGone(host) && host.liveness === 'alive')
    .filter((host) =>
      instancesOf(node, host).instances.some(
        (fact) => fact.service === service && fact.state === 'running',
      ),
    )
    .map(({ id }) => id);
}

function isGone({ liveness }: HostView): boolean {
  return liveness === 'dead' || liveness === 'left';
}

/** Of all hosts that are there, by their facts; what is not understood is passed over. */
export function alertsOfAll(
  node: NodeApi,
): readonly { readonly host: HostView; readonly alert: RaisedAlert }[] {
  const byNode = new Map(node.hosts().map((host) => [host.node, host]));
  return node.facts(alertsTopic).flatMap(({ owner, value }) => {
    const host = byNode.get(owner);
    const alerts = (value as Partial<AlertsFact> | null)?.alerts;
    if (host === undefined || isGone(host) || !Array.isArray(alerts)) return [];
    return alerts
      .filter(isAlert)
      .slice(0, alertsMax)
      .map((alert) => ({ host, alert }));
  });
}

function isAlert(value: unknown): value is RaisedAlert {
  const alert = value as Partial<RaisedAlert> | null;
  return (
    [alert?.id, alert?.kind, alert?.subject, alert?.text, alert?.todo].every(
      (text) => typeof text === 'string',
    ) &&
    (alert?.severity === 'warn' || alert?.severity === 'alarm') &&
    Number.isSafeInteger(alert.sinceWallMs)
  );
}
