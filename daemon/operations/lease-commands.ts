/** What operations on leases share: the guard or a clear refusal, its answers as coded errors, the way to the holder. */
import type { HostView } from '../../crdt/model.ts';
import { ClusterError, errorTable } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import type { LeaseApi } from '../lease-api.ts';
import type { GuardCommand, GuardReply } from '../lease/guard-api.ts';
import type { NodeApi } from '../node-api.ts';
import { hostNames, nodeOf, runOn, selfHost } from './common.ts';
import type { Holder, LeaseSubject, LeaseWorld } from './lease-world.ts';
import { holderOf, hostName, statusOfLease, worldOf } from './lease-world.ts';
import type { OperationContext } from './operation.ts';

/** Stopping, copying what is left and starting elsewhere: as long as the longest grace may be. */
export const moveTimeLimitMs = 900_000;

export function leaseWorld(
  context: OperationContext,
  given: { env?: string | undefined },
): LeaseWorld {
  return worldOf(nodeOf(context, given), context.leases);
}

export function leasesOf(context: OperationContext): LeaseApi {
  if (context.leases !== null) return context.leases;
  const host = selfHost(nodeOf(context)).name;
  throw new ClusterError('GUARD_UNREACHABLE', { host, reason: 'this daemon has none yet' });
}

/** Sends it to this host's guard. Refusals are thrown with the code that the guard gave. */
export async function command(
  context: OperationContext,
  what: GuardCommand,
  about: { readonly name: string },
): Promise<GuardReply & { readonly isOk: true }> {
  const node = nodeOf(context);
  const reply = await leasesOf(context).command(what, context.signal);
  if (reply.isOk) return reply;
  throw refusalOf(reply, node, about);
}

/** People see names of hosts and leases; the guard knows only their identifiers. */
export function refusalOf(
  reply: GuardReply & { readonly isOk: false },
  node: NodeApi,
  about: { readonly name: string },
): ClusterError {
  const { code, details } = reply;
  if (!Object.hasOwn(errorTable, code))
    return new ClusterError('INTERNAL', { reason: `the guard answered ${code.slice(0, 60)}` });
  const names = hostNames(node);
  const self = names.get(node.self.host) ?? 'this host';
  const host = details['host'];
  return new ClusterError(code as ErrorCode, {
    env: node.env,
    reason: details['why'] ?? 'its guard gave no reason',
    ...details,
    host: typeof host === 'string' ? (names.get(host) ?? host) : self,
    name: about.name,
  });
}

export interface LeaseCall {
  readonly env?: string | undefined;
  /** Passed on already: the answer must come from this host. */
  readonly here: boolean;
}

/**
 * `act` on the host that holds the lease: here, or the same operation there. Fails with LEASE_NOT_HELD, HOST_UNREACHABLE.
 */
export async function onHolder<T>(
  context: OperationContext,
  call: LeaseCall & { readonly operation: string; readonly params: object },
  subject: LeaseSubject,
  act: (world: LeaseWorld, holder: Holder) => Promise<T>,
): Promise<T> {
  const world = leaseWorld(context, call);
  const holder = holderOf(world, subject.name);
  if (holder === null) {
    const reason = 'nobody holds it';
    throw new ClusterError('LEASE_NOT_HELD', { name: subject.title, host: 'any host', reason });
  }
  if (holder.host === world.node.self.host) return act(world, holder);
  const host = hostName(world, holder.host);
  if (call.here) {
    const reason = `${host} has it as far as is known here`;
    throw new ClusterError('LEASE_NOT_HELD', {
      name: subject.title,
      host: selfHost(world.node).name,
      reason,
    });
  }
  context.progress(`passed on to ${host}, which holds ${subject.title}`);
  return (await runOn(context, hostAt(world, holder), {
    group: 'lease',
    command: call.operation,
    params: { ...call.params, name: subject.name, here: true },
  })) as T;
}

function hostAt(world: LeaseWorld, holder: Holder): Pick<HostView, 'id' | 'name'> {
  return { id: holder.host, name: hostName(world, holder.host) };
}

/** Says every step that the lease takes while `act` runs, as this host sees it. */
export async function withSteps<T>(
  context: OperationContext,
  subject: LeaseSubject,
  act: () => Promise<T>,
): Promise<T> {
  let said = '';
  const say = (): void => {
    const words = stepWords(leaseWorld(context, {}), subject);
    if (words !== said && said !== '') context.progress(words);
    said = words;
  };
  say();
  const unsubscribe = leasesOf(context).onChange(say);
  try {
    return await act();
  } finally {
    unsubscribe();
  }
}

function stepWords(world: LeaseWorld, subject: LeaseSubject): string {
  const holder = holderOf(world, subject.name);
  const own = statusOfLease(world, subject.name);
  const gate = own === null || own.gate === 'none' ? '' : `, gate ${own.gate} here`;
  if (holder === null) return `${subject.title}: nobody holds it${gate}`;
  const who = hostName(world, holder.host);
  return `${subject.title}: ${who} ${holder.state}, epoch ${holder.epoch}${gate}`;
}
