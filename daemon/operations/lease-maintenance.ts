/** Keeping leases through a stop of everything (park), and taking one from a host that an operator declares dead. */
import { z } from 'zod';
import type { HostId } from '../../crdt/ids.ts';
import { ClusterError } from '../errors.ts';
import { define, envParam, findHost, params, runOn, selfHost } from './common.ts';
import type { MoveAnswer } from './lease-answers.ts';
import { command, leaseWorld, moveTimeLimitMs, withSteps } from './lease-commands.ts';
import { findLease, leaseNameParam } from './lease-names.ts';
import type { LeaseSubject, LeaseWorld } from './lease-world.ts';
import { holderOf, hostName } from './lease-world.ts';
import type { Operation, OperationContext } from './operation.ts';

const hostParam = z.string().min(1).max(64);

export interface ParkAnswer {
  readonly host: string;
  /** Titles; empty: everything that the host holds. */
  readonly leases: readonly string[];
  readonly parked: boolean;
}

export const parkOperations: readonly Operation[] = [
  parkOperation('park', 'keep what a host holds through a stop of everything'),
  parkOperation('unpark', 'end the parking of what a host holds'),
];

function parkOperation(kind: 'park' | 'unpark', summary: string): Operation {
  return define({
    group: 'lease',
    command: kind,
    summary,
    access: 'local',
    isMutation: true,
    params: params({
      ...envParam,
      name: leaseNameParam.optional(),
      host: hostParam.optional(),
      here: z.boolean().default(false),
    }),
    run: async (context, given): Promise<ParkAnswer> => {
      const world = leaseWorld(context, given);
      const subject = given.name === undefined ? null : findLease(world, given.name);
      const host = whereToPark(world, subject, given);
      if (host.id !== world.node.self.host && !given.here) {
        const name = subject === null ? {} : { name: subject.name };
        const call = { group: 'lease', command: kind, params: { ...name, here: true } };
        return (await runOn(context, host, call)) as ParkAnswer;
      }
      const title = subject?.title ?? 'everything';
      await command(context, { kind, name: subject?.name ?? null }, { name: title });
      const leases = subject === null ? [] : [subject.title];
      return { host: selfHost(world.node).name, leases, parked: kind === 'park' };
    },
  });
}

/** A lease is parked where it is held; without a name it is this host, or the named one. */
function whereToPark(
  world: LeaseWorld,
  subject: LeaseSubject | null,
  given: { host?: string | undefined; here: boolean },
): { readonly id: HostId; readonly name: string } {
  if (given.here) return selfHost(world.node);
  if (given.host !== undefined) return findHost(world.node, given.host);
  if (subject === null) return selfHost(world.node);
  const holder = holderOf(world, subject.name);
  if (holder !== null) return { id: holder.host, name: hostName(world, holder.host) };
  const reason = 'nobody holds it';
  throw new ClusterError('LEASE_NOT_HELD', { name: subject.title, host: 'any host', reason });
}

export const forceOperation: Operation = define({
  group: 'lease',
  command: 'force-active',
  summary: 'take a lease from a host that you declare dead',
  access: 'admin',
  isMutation: true,
  timeLimitMs: moveTimeLimitMs,
  params: params({
    ...envParam,
    name: leaseNameParam,
    host: hostParam.optional(),
    /** Who is declared dead; '': nobody was known to have it. Absent: who has it as far as is known now. */
    of: z.string().max(64).optional(),
    confirm: z.string().max(200).optional(),
    here: z.boolean().default(false),
    dryRun: z.boolean().default(false),
  }),
  run: forceActive,
});

async function forceActive(
  context: OperationContext,
  given: {
    env?: string | undefined;
    name: string;
    host?: string | undefined;
    of?: string | undefined;
    confirm?: string | undefined;
    here: boolean;
    dryRun: boolean;
  },
): Promise<MoveAnswer> {
  const world = leaseWorld(context, given);
  const subject = findLease(world, given.name);
  const { name, title } = subject;
  const target =
    given.host === undefined || given.here
      ? selfHost(world.node)
      : findHost(world.node, given.host);
  const holder = holderOf(world, name);
  const from = holder === null ? null : hostName(world, holder.host);
  const plan = forcePlan(subject, from, target.name);
  const epoch = holder?.epoch ?? 0;
  if (given.dryRun) return { name, title, from, to: target.name, epoch, tookMs: 0, plan };
  if (given.confirm === undefined || ![given.name, title, name].includes(given.confirm)) {
    throw new ClusterError('CONFIRMATION_NEEDED', {
      action: `taking ${title} by force`,
      risk: 'if its holder still runs, two hosts run it at once and data may be lost',
      confirm: JSON.stringify(given.name),
      plan,
    });
  }
  const of = whoIsDead(world, subject, given.of);
  if (target.id !== world.node.self.host) {
    const call = { name, of: of ?? '', confirm: name, here: true };
    return (await runOn(context, target, {
      group: 'lease',
      command: 'force-active',
      params: call,
    })) as MoveAnswer;
  }
  const startedMs = context.clock.monotonicMs();
  context.progress('waiting until no holder can have time left');
  const reply = await withSteps(context, subject, () =>
    command(context, { kind: 'force-active', name, of }, { name: title }),
  );
  const after = holderOf(leaseWorld(context, given), name);
  return {
    name,
    title,
    from,
    to: target.name,
    epoch: reply.epoch ?? after?.epoch ?? epoch,
    tookMs: Math.round(context.clock.monotonicMs() - startedMs),
  };
}

/** The lease may have moved since somebody looked: whoever has it now was not declared dead. */
function whoIsDead(world: LeaseWorld, { name, title }: LeaseSubject, of?: string): HostId | null {
  const holder = holderOf(world, name)?.host ?? null;
  if (of === undefined) return holder;
  const dead = of === '' ? null : findHost(world.node, of).id;
  if (holder === null || dead === null || holder === dead) return dead;
  const reason = `${hostName(world, holder)} has it now, and was not declared dead`;
  throw new ClusterError('LEASE_BUSY', { name: title, reason });
}

function forcePlan(subject: LeaseSubject, from: string | null, to: string): string[] {
  const work = subject.services.length === 0 ? subject.title : subject.services.join(', ');
  return [
    from === null
      ? `${subject.title} is taken by ${to}, although nobody is known to hold it`
      : `${subject.title} is taken from ${from} by ${to} without asking ${from}`,
    `if ${from ?? 'a host that cannot be seen'} still runs ${work}, two hosts run it at once and data may be lost or damaged`,
    `make sure first that ${from ?? 'its last holder'} is switched off, or that ${work} is stopped there`,
    'a parked holder is passed over at once, any other when its time is over; then it starts',
  ];
}
