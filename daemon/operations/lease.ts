/**
 * `trellis lease …`: who holds what, who could, and moving it. Looking is answered from what this host knows; whatever
 * changes a holder runs on the holder, since only the holder can give a lease away.
 */
import { z } from 'zod';
import { pointerOf } from '../../crdt/pointer.ts';
import { ClusterError } from '../errors.ts';
import type { EditAnswer } from './answers.ts';
import { define, envParam, findHost, params, runOn, waitParams } from './common.ts';
import type { CandidateRow, LeaseDetails, LeaseRow, MoveAnswer } from './lease-answers.ts';
import { command, leaseWorld, moveTimeLimitMs, onHolder, withSteps } from './lease-commands.ts';
import { forceOperation, parkOperations } from './lease-maintenance.ts';
import { findLease, leaseNameParam } from './lease-names.ts';
import { candidateRows, leaseDetails, leaseRows } from './lease-rows.ts';
import type { LeaseSubject, LeaseWorld } from './lease-world.ts';
import { candidatesOfLease, holderOf, hostName } from './lease-world.ts';
import type { Operation, OperationContext } from './operation.ts';
import { editAndPlan } from './planning.ts';

const hostParam = z.string().min(1).max(64);
const moveShape = {
  ...envParam,
  name: leaseNameParam,
  here: z.boolean().default(false),
  dryRun: z.boolean().default(false),
};

export const leaseOperations: readonly Operation[] = [
  define({
    group: 'lease',
    command: 'ls',
    summary: 'leases and who holds them',
    access: 'viewer',
    isMutation: false,
    params: params(envParam),
    run: (context, given): Promise<LeaseRow[]> =>
      Promise.resolve(leaseRows(leaseWorld(context, given))),
  }),
  define({
    group: 'lease',
    command: 'show',
    summary: 'everything about one lease',
    access: 'viewer',
    isMutation: false,
    params: params({ ...envParam, name: leaseNameParam, here: z.boolean().default(false) }),
    run: show,
  }),
  define({
    group: 'lease',
    command: 'switch',
    summary: 'let another host take over, in order',
    access: 'operator',
    isMutation: true,
    timeLimitMs: moveTimeLimitMs,
    params: params({ ...moveShape, to: hostParam.optional() }),
    run: switchOver,
  }),
  define({
    group: 'lease',
    command: 'release',
    summary: 'stop what runs under a lease and give it up',
    access: 'operator',
    isMutation: true,
    timeLimitMs: moveTimeLimitMs,
    params: params(moveShape),
    run: release,
  }),
  freezeOperation('freeze', true, 'no automatic takeover of a lease; fencing goes on'),
  freezeOperation('unfreeze', false, 'automatic takeover of a lease again'),
  ...parkOperations,
  forceOperation,
];

/** From the holder where it can be asked: it alone knows its own time, gate and whole history. */
async function show(
  context: OperationContext,
  given: { env?: string | undefined; name: string; here: boolean },
): Promise<LeaseDetails> {
  const world = leaseWorld(context, given);
  const subject = findLease(world, given.name);
  const mine = leaseDetails(world, subject);
  const holder = holderOf(world, subject.name);
  const isMine = holder === null || holder.host === world.node.self.host;
  if (given.here || isMine || context.caller.session === null) return mine;
  const host = { id: holder.host, name: hostName(world, holder.host) };
  const call = { group: 'lease', command: 'show', params: { name: subject.name, here: true } };
  try {
    return (await runOn(context, host, call)) as LeaseDetails;
  } catch (error) {
    if (!(error instanceof ClusterError)) throw error;
    context.log.debug('lease.holder-not-asked', { holder: host.name, error: error.code });
    return mine;
  }
}

async function switchOver(
  context: OperationContext,
  given: {
    env?: string | undefined;
    name: string;
    to?: string | undefined;
    here: boolean;
    dryRun: boolean;
  },
): Promise<MoveAnswer> {
  const asked = leaseWorld(context, given);
  const subject = findLease(asked, given.name);
  if (given.dryRun) return switchPlan(asked, subject, given.to);
  const to = given.to === undefined ? {} : { to: given.to };
  const call = { ...given, operation: 'switch', params: to };
  return onHolder(context, call, subject, async (world, holder) => {
    const target = given.to === undefined ? null : findHost(world.node, given.to);
    const from = hostName(world, holder.host);
    const { name, title } = subject;
    if (target?.id === holder.host)
      return { name, title, from, to: from, epoch: holder.epoch, tookMs: 0 };
    assertTakes(world, subject, target);
    const startedMs = context.clock.monotonicMs();
    const reason = `switched by ${context.caller.session?.operator ?? 'root'}`;
    const what = { kind: 'switch', name, to: target?.id ?? null, reason } as const;
    const reply = await withSteps(context, subject, () => command(context, what, { name: title }));
    const after = holderOf(leaseWorld(context, given), name);
    const taker = reply.holder ?? target?.id ?? after?.host ?? null;
    return {
      name,
      title,
      from,
      to: taker === null ? null : hostName(world, taker),
      epoch: reply.epoch ?? after?.epoch ?? 0,
      tookMs: Math.round(context.clock.monotonicMs() - startedMs),
    };
  });
}

/** Refuses what the guard would refuse, with the words for people that it does not have. */
function assertTakes(
  world: LeaseWorld,
  subject: LeaseSubject,
  target: { readonly id: string; readonly name: string } | null,
): void {
  const rows = candidateRows(world, subject).filter((row) => !row.isHolder);
  const name = subject.title;
  if (world.view.isFrozen || subject.settings?.isFrozen === true) {
    const reason = world.view.isFrozen ? 'the environment is frozen' : 'an operator froze it';
    throw new ClusterError('LEASE_FROZEN', { name, reason });
  }
  if (target === null) {
    if (rows.some((row) => row.mayTake || isAnswerable(row))) return;
    const why = rows.map((row) => `${row.host}: ${row.reasons.map(({ text }) => text).join(', ')}`);
    const reason = `no other host may take over${why.length === 0 ? '' : ` (${why.join('; ')})`}`;
    throw new ClusterError('HANDOVER_ABORTED', { name, reason });
  }
  const host = target.name;
  const row = rows.find((one) => one.host === host);
  if (row === undefined) {
    const reason = 'it is no candidate';
    throw new ClusterError('LEASE_DENIED', { name, host, reason });
  }
  const [first] = row.reasons;
  if (first === undefined || isAnswerable(row)) return;
  const reason = row.reasons.map(({ text }) => text).join(', ');
  if (first.code === 'gate-fault') throw new ClusterError('GATE_FAULT', { host, reason });
  if (first.code === 'not-in-sync')
    throw new ClusterError('STALE_COPY', { name: subject.storage, host, reason });
  throw new ClusterError('LEASE_DENIED', { name, host, reason });
}

/**
 * What others said last may be over: a guard that was replaced is back, a container that was missing is made. The holder asks
 * the candidate itself, and hears soon what it is, or that nobody answers.
 */
function isAnswerable({ place, reasons }: CandidateRow): boolean {
  if (place === null || reasons.length === 0) return false;
  return reasons.every(({ code }) => code === 'guard-down' || code === 'unfit');
}

function switchPlan(world: LeaseWorld, subject: LeaseSubject, to: string | undefined): MoveAnswer {
  const target = to === undefined ? null : findHost(world.node, to).name;
  const best = candidateRows(world, subject).find((row) => row.mayTake)?.host ?? null;
  const where = target ?? best ?? 'the best candidate that is ready';
  return planned(world, subject, (from) => [
    `stop ${workWords(subject)} on ${from} in order, and start on ${where}`,
  ]);
}

async function release(
  context: OperationContext,
  given: { env?: string | undefined; name: string; here: boolean; dryRun: boolean },
): Promise<MoveAnswer> {
  const asked = leaseWorld(context, given);
  const subject = findLease(asked, given.name);
  if (given.dryRun) {
    return planned(asked, subject, (from) => [
      `stop ${workWords(subject)} on ${from} and give ${subject.title} up`,
      candidatesOfLease(asked, subject).length > 1
        ? 'another candidate may take over; this host does not for 15 s'
        : 'there is no other candidate: it is down for 15 s at least',
    ]);
  }
  const call = { ...given, operation: 'release', params: {} };
  return onHolder(context, call, subject, async (world, holder) => {
    const { name, title } = subject;
    const startedMs = context.clock.monotonicMs();
    const reason = `released by ${context.caller.session?.operator ?? 'root'}`;
    const what = { kind: 'release', name, reason } as const;
    await withSteps(context, subject, () => command(context, what, { name: title }));
    const tookMs = Math.round(context.clock.monotonicMs() - startedMs);
    return {
      name,
      title,
      from: hostName(world, holder.host),
      to: null,
      epoch: holder.epoch,
      tookMs,
    };
  });
}

function planned(
  world: LeaseWorld,
  subject: LeaseSubject,
  lines: (from: string) => readonly string[],
): MoveAnswer {
  const { name, title } = subject;
  const holder = holderOf(world, name);
  const from = holder === null ? null : hostName(world, holder.host);
  const plan = from === null ? [] : lines(from);
  return { name, title, from, to: null, epoch: holder?.epoch ?? 0, tookMs: 0, plan };
}

export function workWords({ services, title }: LeaseSubject): string {
  return services.length === 0 ? `what runs under ${title}` : services.join(', ');
}

function freezeOperation(
  name: 'freeze' | 'unfreeze',
  isFrozen: boolean,
  summary: string,
): Operation {
  return define({
    group: 'lease',
    command: name,
    summary,
    access: 'operator',
    isMutation: true,
    timeLimitMs: 3_700_000,
    params: params({ ...waitParams, name: leaseNameParam }),
    run: (context, given): Promise<EditAnswer> => {
      const subject = findLease(leaseWorld(context, given), given.name);
      const [own, ...followers] = subject.objects;
      if (own === undefined) {
        throw new ClusterError('INVALID', {
          reason: `${subject.title} has no settings; freeze the whole environment with \`trellis env set frozen on\``,
        });
      }
      // One frozen object freezes the lease, so that unfreezing has to look at all of them.
      const objects = isFrozen ? [own] : [own, ...followers];
      return editAndPlan(context, given, {
        message: `${name} ${subject.title}`,
        puts: objects.map((object) => ({
          object,
          pointer: pointerOf('lease', 'frozen'),
          value: isFrozen ? true : null,
        })),
      });
    },
  });
}
