/** `trellis status`: the cluster against its desired state, from what this host knows now. Asks nobody, so it is quick. */
import { z } from 'zod';
import type { LeaseApi } from '../lease-api.ts';
import { alertRows } from './alert.ts';
import { params, envParam, define, nodeOf } from './common.ts';
import type { NodeApi } from '../node-api.ts';
import type { EventRow, HostRow, RoleRow, ServiceRow, StatusAnswer } from './answers.ts';
import { eventRows } from './events.ts';
import { hostRows } from './host-rows.ts';
import type { AlertRow, ExclusiveRow, QuorumAnswer } from './lease-answers.ts';
import { exclusiveRows } from './lease-rows.ts';
import { worldOf } from './lease-world.ts';
import type { Operation } from './operation.ts';
import { quorumOf } from './quorum.ts';
import { isPlanStale } from './planning.ts';
import { roleRows } from './role.ts';
import { extraInstances, isServiceRight, serviceRows, unheldStorage } from './service-rows.ts';

/** An alarm among the events is over when it is written: it counts as a difference only while it is new. Alerts last. */
const alarmFreshMs = 60_000;

export const statusOperations: readonly Operation[] = [
  define({
    group: 'cluster',
    command: 'status',
    summary: 'the cluster against its desired state',
    access: 'viewer',
    isMutation: false,
    // `all` and `redundancy` only change what people are shown; the answer is always whole.
    params: params({
      ...envParam,
      all: z.boolean().optional(),
      redundancy: z.boolean().optional(),
    }),
    run: (context, given) => {
      const node = nodeOf(context, given);
      return Promise.resolve(statusOf(node, context.clock.wallMs(), context.leases));
    },
  }),
];

export function statusOf(
  node: NodeApi,
  nowWallMs: number,
  leases: LeaseApi | null = null,
): StatusAnswer {
  const services = serviceRows(node);
  const hosts = hostRows(node);
  const alarms = eventRows(node).filter(
    (event) => event.severity === 'alarm' && nowWallMs - Date.parse(event.at) < alarmFreshMs,
  );
  const alerts = alertRows(node);
  const world = worldOf(node, leases);
  const quorum = quorumOf(world);
  const exclusive = exclusiveRows(world);
  const problems = node.envView().problems.map((problem) => problem.detail);
  const unplaceable = (node.committedPlan()?.plan.unplaceable ?? []).map(
    (entry) => `${entry.service}-${entry.slot}`,
  );
  const conflicts = node.conflicts().length;
  const planIsStale = isPlanStale(node);
  const differences = [
    ...services.filter((row) => !isServiceRight(row)).map(serviceDifference),
    ...extraInstances(node).map((name) => `${name} runs, and nothing wants it there`),
    ...hosts.flatMap(hostDifference),
    ...roleRows(node).flatMap(roleDifference),
    ...unplaceable.map((name) => `${name} fits on no host: see \`trellis plan\``),
    ...(conflicts === 0
      ? []
      : [`${conflicts} fields are in conflict: see \`trellis conflicts ls\``]),
    ...problems.map((problem) => `problem: ${problem}`),
    ...alarms.filter(({ kind }) => !kind.startsWith('alert.')).map(alarmDifference),
    ...exclusive.filter(({ holder }) => holder === null).map(holderDifference),
    ...unheldStorage(node).map(
      (name) =>
        `exclusive storage ${name} has no holder: see \`trellis lease show storage ${name}\``,
    ),
    ...quorumDifferences(quorum, exclusive.length),
    ...alerts.filter((alert) => alert.acknowledged === null).map(alertDifference),
    ...(planIsStale ? ['the plan is older than what it was made from: see `trellis plan`'] : []),
  ];
  return {
    ok: differences.length === 0,
    cluster: node.clusterName,
    env: node.env,
    services,
    hosts: hosts.map(({ name, state, spare }) => ({ name, state, spare })),
    conflicts,
    problems,
    alarms,
    alerts,
    exclusive,
    quorum,
    unplaceable,
    planIsStale,
    differences,
  };
}

function serviceDifference(row: ServiceRow): string {
  if (row.running !== row.desired) {
    return `service ${row.name}: ${row.running} of ${row.desired} instances run`;
  }
  return `service ${row.name}: ${row.healthy} of ${row.running} instances are healthy`;
}

function hostDifference(host: HostRow): string[] {
  if (host.state === 'ready' || host.state === 'drained') return [];
  return [`host ${host.name} is ${host.state}`];
}

function roleDifference(role: RoleRow): string[] {
  if (role.live >= role.minHosts) return [];
  return [`role ${role.name} has ${role.live} live hosts of at least ${role.minHosts}`];
}

function alarmDifference(event: EventRow): string {
  return `alarm on ${event.host}: ${event.text}`;
}

function holderDifference({ service, lease }: ExclusiveRow): string {
  return `exclusive service ${service} has no holder: see \`trellis lease show ${lease}\``;
}

/** Said once, and only where it matters: without exclusive work nobody needs voters. */
function quorumDifferences(quorum: QuorumAnswer, exclusive: number): string[] {
  if (exclusive === 0 || quorum.mode === 'none' || quorum.hasQuorum) return [];
  return [`voters: ${quorum.ifOneMoreGoes}`];
}

function alertDifference(alert: AlertRow): string {
  return `alert ${alert.id}: ${alert.text}`;
}
