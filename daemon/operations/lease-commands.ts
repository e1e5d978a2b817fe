/** What operations on leases share: the guard or a clear refusal, its answers as coded errors, the way to the holder. */
import type { HostView } from '../../crdt/model.ts';
import { ClusterError, errorTable } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { withHostNames } from '../host-names.ts';
import type { LeaseApi } from '../lease-api.ts';
import type { GuardCommand, GuardReply } from '../lease/guard-api.ts';
import type { NodeApi } from '../node-api.ts';
import { hostNames, nodeOf, runOn, selfHost, until } from './common.ts';
import type { Holder, LeaseSubject, LeaseWorld } from './lease-world.ts';
import { holderOf, hostName, statusOfLease, worldOf } from './lease-world.ts';
import type { OperationContext } from './operation.ts';

/** Stopping, copying what is left and starting elsewhere: as long as the longest grace may be. */
export const moveTimeLimitMs = 900_000;

/** A guard that was replaced, or its daemon, is back within this: what needs it waits so long. */
const guardMsMax = 5_000;
const askAgainMs = 200;
/** Waiting for longer than this is said. */
const quietMs = 1_000;
/** A step that takes longer is said again so often. */
const stillEveryMs = 10_000;

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

/** Resolves when this host's guard was heard, or has not been for `guardMsMax`. */
export async function waitForGuard(context: OperationContext): Promise<void> {
  const leases = leasesOf(context);
  if (leases.status() !== null) return;
  const { clock } = context;
  const saidMs = clock.monotonicMs() + quietMs;
  let isSaid = false;
  const look = (): true | null => {
    if (leases.status() !== null) return true;
    if (!isSaid && clock.monotonicMs() >= saidMs) {
      isSaid = true;
      context.progress('waiting for the guard of this host');
    }
    return null;
  };
  const host = selfHost(nodeOf(context)).name;
  const timedOut = (): ClusterError =>
    new ClusterError('GUARD_UNREACHABLE', { host, reason: 'it was not heard' });
  try {
    await until(context, { timeoutMs: guardMsMax, check: look, timedOut });
  } catch (error) {
    // Whoever asks it now gets the reason that the connection knows.
    if (!(error instanceof ClusterError) || error.code !== 'GUARD_UNREACHABLE') throw error;
  }
}

/**
 * Sends it to this host's guard, which is waited for when it has just been replaced. Refusals are thrown with the code that
 * the guard gave.
 */
export async function command(
  context: OperationContext,
  what: GuardCommand,
  about: { readonly name: string },
): Promise<GuardReply & { readonly isOk: true }> {
  const node = nodeOf(context);
  await waitForGuard(context);
  const endMs = context.clock.monotonicMs() + guardMsMax;
  let reply = await answered(context, what);
  // One that was started a moment ago has not heard yet what it is for, and has done nothing.
  while (!reply.isOk && reply.code === 'GUARD_UNREACHABLE' && context.clock.monotonicMs() < endMs) {
    const pause = Promise.withResolvers<void>();
    context.clock.setTimer(askAgainMs, pause.resolve);
    await pause.promise;
    context.signal.throwIfAborted();
    reply = await answered(context, what);
  }
  if (reply.isOk) return reply;
  throw refusalOf(reply, node, about);
}

async function answered(context: OperationContext, what: GuardCommand): Promise<GuardReply> {
  try {
    return await leasesOf(context).command(what, context.signal);
  } catch (error) {
    // A switch that its guard did not live to answer is not under way any more, and asking twice does no harm.
    const isLost = error instanceof ClusterError && error.code === 'GUARD_UNREACHABLE';
    if (!isLost || what.kind !== 'switch') throw error;
  }
  context.progress('the guard of this host was replaced meanwhile: it is asked again');
  await waitForGuard(context);
  return leasesOf(context).command(what, context.signal);
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
  const why = details['reason'] ?? details['why'];
  return new ClusterError(code as ErrorCode, {
    env: node.env,
    ...details,
    reason: typeof why === 'string' ? withHostNames(why, names) : 'its guard gave no reason',
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
  const world = await worldWithHolder(context, call, subject);
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

/** Without its own guard a host knows only what others say: it may well be the holder. Throws GUARD_UNREACHABLE. */
async function worldWithHolder(
  context: OperationContext,
  call: LeaseCall,
  subject: LeaseSubject,
): Promise<LeaseWorld> {
  const world = leaseWorld(context, call);
  const holder = holderOf(world, subject.name);
  const isElsewhere = holder !== null && holder.host !== world.node.self.host;
  if (world.status !== null || context.leases === null || isElsewhere) return world;
  await waitForGuard(context);
  await leasesOf(context).look(context.signal);
  return leaseWorld(context, call);
}

/** Says every step that the lease takes while `act` runs, as this host sees it, and again when one takes long. */
export async function withSteps<T>(
  context: OperationContext,
  subject: LeaseSubject,
  act: () => Promise<T>,
): Promise<T> {
  const { clock } = context;
  let said = '';
  let sinceMs = clock.monotonicMs();
  const say = (): void => {
    const words = stepWords(leaseWorld(context, {}), subject);
    if (words === said) return;
    if (said !== '') context.progress(words);
    said = words;
    sinceMs = clock.monotonicMs();
  };
  const sayAgain = (): void => {
    say();
    const forMs = clock.monotonicMs() - sinceMs;
    if (forMs >= stillEveryMs) context.progress(`${said}, for ${Math.round(forMs / 1_000)} s`);
    timer = clock.setTimer(stillEveryMs, sayAgain);
  };
  say();
  const unsubscribe = leasesOf(context).onChange(say);
  let timer = clock.setTimer(stillEveryMs, sayAgain);
  try {
    return await act();
  } finally {
    unsubscribe();
    timer.cancel();
  }
}

function stepWords(world: LeaseWorld, subject: LeaseSubject): string {
  const { title } = subject;
  const holder = holderOf(world, subject.name);
  const own = statusOfLease(world, subject.name);
  const gate = own === null || own.gate === 'none' ? '' : `, gate ${own.gate} here`;
  if (holder === null) return `${title}: nobody holds it${gate}`;
  const who = hostName(world, holder.host);
  const moving = own?.moving ?? null;
  if (moving === null) return `${title}: ${who} ${holder.state}, epoch ${holder.epoch}${gate}`;
  const to = moving.to === null ? 'the candidates' : hostName(world, moving.to);
  switch (moving.step) {
    case 'preparing':
      return `${title}: ${to} ${moving.to === null ? 'get' : 'gets'} ready, ${who} goes on`;
    case 'stopping':
      return `${title}: ${to} is ready, it is stopped on ${who}`;
    case 'clearing':
      return `${title}: what is left of it on ${who} ends`;
    case 'settling':
      return `${title}: ${to} takes over what was written last`;
  }
}
