/**
 * Work of the daemon that one host at a time does: `withLease` takes a lease through this host's guard, runs the work, and
 * gives the lease back.
 *
 * Nothing stops such work but itself: there is no gate around it. So the work gets a signal that fires before the lease ends,
 * `assertHeld` for the moment before a step that counts, and the epoch for whoever can refuse lower ones. How long the lease
 * lasts is counted by our own clock from before the guard was asked, so that neither a slow socket nor a stalled event loop
 * makes it longer than it is.
 */
import type { HostId } from '../crdt/ids.ts';
import { ClusterError, errorTable, reasonOf } from './errors.ts';
import type { ErrorCode } from './errors.ts';
import type { LeaseApi } from './lease-api.ts';
import type { GuardReply, GuardStatus, LeaseDesired, LeaseStatus } from './lease/guard-api.ts';
import { leaseLimits } from './lease/model.ts';
import type { Epoch, LeaseName, ProfileName } from './lease/model.ts';
import { profiles } from './lease/profiles.ts';
import type { Clock, Log, Timer } from './ports.ts';

/** What the work is given. */
export interface Hold {
  readonly name: LeaseName;
  /** Grows with every holder. */
  readonly epoch: Epoch;
  /** Fires before the lease ends, and when the caller or the daemon ends. */
  readonly signal: AbortSignal;
  /** By the clock of this moment. Throws LEASE_LOST. */
  assertHeld(): void;
}

export interface HoldOptions {
  /** For people; the default is the name. */
  readonly title?: string;
  /** Default `wan`: work without a gate can afford to be taken over in five seconds, and should not be lost to a busy host. */
  readonly profile?: ProfileName;
  /** Milliseconds for which another holder is waited for; 0, the default: not at all. */
  readonly waitMs?: number;
  /** The epoch is at least this, and just this when nobody ever had one as high. */
  readonly epochMin?: Epoch;
  readonly signal?: AbortSignal;
}

/**
 * Rejects LEASE_BUSY (somebody has it), NO_QUORUM, GUARD_UNREACHABLE and BUSY before the work was begun; LEASE_LOST when the
 * lease went before the work had ended, whatever the work made of it; else with what the work rejects. Settles when the
 * work has.
 */
export type WithLease = <T>(
  name: LeaseName,
  options: HoldOptions,
  work: (hold: Hold) => Promise<T>,
) => Promise<T>;

export interface LeaseHoldsOptions {
  readonly guard: Pick<LeaseApi, 'status' | 'command' | 'look' | 'onChange'>;
  readonly clock: Clock;
  readonly log: Log;
  readonly env: string;
  readonly self: HostId;
  hostName(): string;
  /** Members of the environment, for hints among guards. */
  hosts(): readonly HostId[];
}

export const holdLimits = Object.freeze({
  /** Leases held or asked for at once by this daemon. */
  holdsMax: 64,
  /** Another one of this very host is being given back: asked again after this. */
  askAgainMs: 100,
  releaseMsMax: 5_000,
});

export class LeaseHolds {
  readonly #options: LeaseHoldsOptions;
  /** By name: who comes next on this host waits for who is there. */
  readonly #tails = new Map<LeaseName, Promise<void>>();
  readonly #ending = new AbortController();
  #count = 0;

  constructor(options: LeaseHoldsOptions) {
    this.#options = options;
  }

  /** Everything under way is told to end. What it holds goes with the connection to the guard. */
  stop(): void {
    this.#ending.abort(this.#unreachable('the daemon is stopping'));
  }

  withLease: WithLease = async (name, options, work) => {
    const { holdsMax } = holdLimits;
    if (this.#count >= holdsMax) throw new ClusterError('BUSY', { max: holdsMax, what: 'leases' });
    const signals = options.signal === undefined ? [] : [options.signal];
    const signal = AbortSignal.any([this.#ending.signal, ...signals]);
    signal.throwIfAborted();
    const dueMs = this.#options.clock.monotonicMs() + (options.waitMs ?? 0);
    const before = this.#tails.get(name);
    const done = Promise.withResolvers<void>();
    const tail = Promise.all([before, done.promise]).then(() => {
      if (this.#tails.get(name) === tail) this.#tails.delete(name);
    });
    this.#tails.set(name, tail);
    this.#count += 1;
    try {
      if (before !== undefined) await this.#turn(name, before, dueMs, signal);
      const epoch = await this.#acquire(name, options, dueMs, signal);
      return await this.#run(name, epoch, options, signal, work);
    } finally {
      this.#count -= 1;
      done.resolve();
    }
  };

  /** Rejects LEASE_BUSY when it does not come in time. */
  async #turn(
    name: LeaseName,
    before: Promise<void>,
    dueMs: number,
    signal: AbortSignal,
  ): Promise<void> {
    const late = Promise.withResolvers<never>();
    const { clock } = this.#options;
    const timer = clock.setTimer(Math.max(0, dueMs - clock.monotonicMs()), () =>
      late.reject(new ClusterError('LEASE_BUSY', { name, reason: 'this daemon has it' })),
    );
    const onAbort = (): void => late.reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      await Promise.race([before, late.promise]);
    } finally {
      timer.cancel();
      signal.removeEventListener('abort', onAbort);
    }
  }

  async #acquire(
    name: LeaseName,
    options: HoldOptions,
    dueMs: number,
    signal: AbortSignal,
  ): Promise<Epoch> {
    const { guard, clock } = this.#options;
    const lease = this.#lease(name, options);
    const { epochMin = 0 } = options;
    for (;;) {
      const waitMs = Math.max(0, dueMs - clock.monotonicMs());
      const command = { kind: 'acquire', lease, waitMs, epochMin } as const;
      let reply: GuardReply;
      try {
        reply = await guard.command(command, signal);
      } catch (error) {
        // It may be granted yet, to nobody.
        await this.#release(name, 'it is not wanted any more');
        throw error;
      }
      if (reply.isOk) return reply.epoch ?? 0;
      const { askAgainMs } = holdLimits;
      if (reply.code !== 'LEASE_BUSY' || waitMs <= askAgainMs) throw this.#refusal(name, reply);
      await this.#pause(askAgainMs, signal);
    }
  }

  async #run<T>(
    name: LeaseName,
    epoch: Epoch,
    options: HoldOptions,
    signal: AbortSignal,
    work: (hold: Hold) => Promise<T>,
  ): Promise<T> {
    const { profile = 'wan' } = options;
    const keeper = new Keeper({ ...this.#options, name, epoch, profile });
    const onAbort = (): void => keeper.abort(signal.reason);
    signal.addEventListener('abort', onAbort, { once: true });
    try {
      if (signal.aborted) onAbort();
      await keeper.start();
      const result = await work(keeper.hold);
      keeper.hold.assertHeld();
      return result;
    } catch (error) {
      throw keeper.lost === null || error === keeper.lost ? error : keeper.lostBecause(error);
    } finally {
      signal.removeEventListener('abort', onAbort);
      keeper.stop();
      await this.#release(name, 'what it was taken for has ended');
    }
  }

  /** Never rejects: what is not given back runs out, or goes with the connection. */
  async #release(name: LeaseName, reason: string): Promise<void> {
    const { guard, log } = this.#options;
    const limit = AbortSignal.timeout(holdLimits.releaseMsMax);
    try {
      await guard.command({ kind: 'release', name, reason }, limit);
    } catch (error) {
      log.debug('lease.not-released', { name, error: reasonOf(error) });
    }
  }

  async #pause(forMs: number, signal: AbortSignal): Promise<void> {
    await new Promise<void>((resolve) => this.#options.clock.setTimer(forMs, resolve));
    signal.throwIfAborted();
  }

  #lease(name: LeaseName, { title = name, profile = 'wan' }: HoldOptions): LeaseDesired {
    const { self } = this.#options;
    return leaseByCommand({ name, title, profile, self, hosts: this.#options.hosts() });
  }

  #refusal(name: LeaseName, reply: GuardReply & { readonly isOk: false }): ClusterError {
    const { env } = this.#options;
    const { code, details } = reply;
    // Whoever holds it would have said so.
    if (code === 'LEASE_TIMED_OUT')
      return new ClusterError('NO_QUORUM', { env, reason: `lease ${name} was not granted` });
    if (code === 'GUARD_UNREACHABLE') return this.#unreachable(String(details['reason']));
    if (!Object.hasOwn(errorTable, code))
      return new ClusterError('INTERNAL', { reason: `the guard answered ${code}` });
    return new ClusterError(code as ErrorCode, {
      host: this.#options.hostName(),
      reason: code,
      ...details,
      name,
    });
  }

  #unreachable(reason: string): ClusterError {
    return new ClusterError('GUARD_UNREACHABLE', { host: this.#options.hostName(), reason });
  }
}

interface KeeperOptions extends LeaseHoldsOptions {
  readonly name: LeaseName;
  readonly epoch: Epoch;
  readonly profile: ProfileName;
}

/** Watches one lease that is held, and knows until when it surely is. */
class Keeper {
  readonly hold: Hold;
  lost: ClusterError | null = null;
  readonly #options: KeeperOptions;
  readonly #controller = new AbortController();
  /** By our clock; the margin before the end is taken off. */
  #untilMs = Number.NEGATIVE_INFINITY;
  #endTimer: Timer | null = null;
  #lookTimer: Timer | null = null;
  #unsubscribe: () => void = () => {};
  #isStopped = false;

  constructor(options: KeeperOptions) {
    this.#options = options;
    const { name, epoch } = options;
    const { signal } = this.#controller;
    this.hold = { name, epoch, signal, assertHeld: () => this.#assertHeld() };
  }

  /** Rejects LEASE_LOST: it went in the moment in which it came. */
  async start(): Promise<void> {
    await this.#look();
    this.#assertHeld();
    // Whatever the guard says from here on is newer than its answer.
    this.#unsubscribe = this.#options.guard.onChange(() =>
      this.#judge(this.#options.guard.status()),
    );
    this.#lookSoon();
  }

  stop(): void {
    this.#isStopped = true;
    this.#unsubscribe();
    this.#endTimer?.cancel();
    this.#lookTimer?.cancel();
  }

  /** Not lost, but not wanted any more. */
  abort(reason: unknown): void {
    this.#controller.abort(reason);
  }

  lostBecause(cause: unknown): ClusterError {
    const { name } = this.#options;
    const reason = String(this.lost?.details['reason']);
    return new ClusterError('LEASE_LOST', { name, reason }, cause);
  }

  #lookSoon(): void {
    const { clock, profile } = this.#options;
    this.#lookTimer = clock.setTimer(profiles[profile].renewMs / 2, () => {
      void this.#look().then(() => {
        if (!this.#isStopped && this.lost === null) this.#lookSoon();
      });
    });
  }

  /** Never rejects: a guard that does not answer is met by the end of what it said last. */
  async #look(): Promise<void> {
    const { clock, guard, log, name } = this.#options;
    const askedMs = clock.monotonicMs();
    try {
      const status = await guard.look(this.#controller.signal);
      const lease = this.#judge(status);
      if (lease !== null) this.#extend(askedMs + (lease.remainMs ?? 0));
    } catch (error) {
      log.debug('lease.not-confirmed', { name, error: reasonOf(error) });
    }
  }

  #extend(endMs: number): void {
    const { clock, profile } = this.#options;
    this.#untilMs = Math.max(this.#untilMs, endMs - profiles[profile].freezeBeforeMs);
    this.#endTimer?.cancel();
    if (this.#isStopped) return;
    const leftMs = Math.max(0, this.#untilMs - clock.monotonicMs());
    this.#endTimer = clock.setTimer(leftMs, () => this.#lose('it was not renewed in time'));
  }

  /** What the guard says of it while it is ours. */
  #judge(status: GuardStatus | null): LeaseStatus | null {
    const { name, epoch } = this.#options;
    if (status === null) {
      this.#lose('the guard is not heard');
      return null;
    }
    const lease = status.leases.find((one) => one.name === name);
    if (lease?.state === 'active' && lease.epoch === epoch) return lease;
    this.#lose('the guard has it no more');
    return null;
  }

  #assertHeld(): void {
    const { clock } = this.#options;
    if (this.lost === null && clock.monotonicMs() >= this.#untilMs)
      this.#lose('it was not renewed in time');
    if (this.lost !== null) throw this.lost;
    this.#controller.signal.throwIfAborted();
  }

  #lose(reason: string): void {
    if (this.lost !== null || this.#isStopped) return;
    const { name } = this.#options;
    this.lost = new ClusterError('LEASE_LOST', { name, reason });
    this.#controller.abort(this.lost);
    this.stop();
  }
}

/** A lease that is taken by command. Any member may have it, this host first: it is the one that asks. */
export function leaseByCommand(options: {
  readonly name: LeaseName;
  readonly title: string;
  readonly profile: ProfileName;
  readonly self: HostId;
  readonly hosts: readonly HostId[];
  /** Null: nothing runs under it that the guard could stop. */
  readonly gate?: string | null;
}): LeaseDesired {
  const { name, title, profile, self, hosts, gate = null } = options;
  const others = hosts.filter((host) => host !== self);
  return {
    name,
    title,
    profile,
    onLoss: 'stop',
    candidates: [self, ...others].slice(0, leaseLimits.candidatesMax),
    mayAcquire: true,
    why: '',
    isFrozen: false,
    gate,
    traffic: [],
    fence: 'none',
    fenceCommand: [],
    lockDelayMs: 0,
    onDaemonDown: 'stay',
  };
}
