/**
 * Work that comes again and again and that one host of an environment does, each tick at most once.
 *
 * A tick is a number: wall time divided by the interval. Whoever wants to run tick t takes the lease of the job and asks for
 * the epoch `t * epochsPerTick`. A majority of voters has that epoch on disk before the lease is granted, and grants no epoch
 * twice: exactly this epoch means that nobody has begun tick t or a later one, and that nobody ever will begin it after us.
 * A higher one means that somebody has. So the record is made before the run and is where every next holder must look, and
 * it survives whatever the facts do not: partitions, restarts of everything, a change of all voters.
 *
 * What a host does with its clock wrong: it begins ticks of the future, and the highest tick begun counts for all. The others
 * then count on from there, one tick per interval by their monotonic clocks.
 *
 * A holder that dies between the record and the end of its run leaves the tick unfinished: it is skipped and the next runner
 * says so. Ticks that nobody could run (no majority, all hosts off) are not caught up. Facts only spare needless tries, and
 * tell people.
 */
import { compareText } from '../crdt/codec.ts';
import { hash32 } from '../crdt/hash32.ts';
import type { HostId, NodeId } from '../crdt/ids.ts';
import { asClusterError, invariant } from './errors.ts';
import type { Hold, WithLease } from './lease-hold.ts';
import { leaseLimits } from './lease/model.ts';
import type { Epoch, LeaseName } from './lease/model.ts';
import type { NodeApi } from './node-api.ts';
import type { Clock, Log, Timer } from './ports.ts';

export interface Job {
  /** [a-z0-9-]{1,40}; names the lease. */
  readonly id: string;
  /** From 1,000. */
  readonly everyMs: number;
  /** Ends soon after the signal of its hold fires; told to end after `everyMs`. What it rejects with is told in the events. */
  run(run: JobRun): Promise<void>;
}

export interface JobRun extends Pick<Hold, 'epoch' | 'signal' | 'assertHeld'> {
  readonly tick: number;
}

/** Topic 'jobs', by every host that ever ran one: the newest run of each job. */
export interface JobsFact {
  readonly v: 1;
  readonly runs: readonly JobRecord[];
}

export interface JobRecord {
  readonly id: string;
  readonly tick: number;
  readonly epoch: Epoch;
  readonly state: 'started' | 'done' | 'failed';
}

export interface JobSchedulerOptions {
  readonly node: Pick<NodeApi, 'env' | 'self' | 'hosts' | 'facts' | 'publishFact' | 'emit'>;
  readonly withLease: WithLease;
  readonly clock: Clock;
  readonly log: Log;
}

export const jobsTopic = 'jobs';
/** Attempts to take a tick that came to nothing use up epochs; after so many the tick is given up. */
export const epochsPerTick = 256;
export const jobLimits = Object.freeze({
  jobsMax: 32,
  everyMsMin: 1_000,
  lookMs: 500,
  /** A host waits for those before it in the order of the job, so that one usually tries alone. */
  rankStepMs: 1_000,
  rankShareMax: 0.5,
  /** Somebody else has the lease, or no majority answers. */
  retryMs: 5_000,
});

interface Entry {
  readonly job: Job;
  /** Highest tick that anybody has begun, as far as we know; -1: none. */
  begun: number;
  /** On the monotonic clock, when we heard of it. */
  begunAtMs: number;
  /** The next one, and since when it is due. */
  due: { readonly tick: number; readonly sinceMs: number } | null;
  retryAtMs: number;
  isRunning: boolean;
}

/** A run as its host told it. */
interface KnownRun extends JobRecord {
  readonly owner: NodeId;
}

export class JobScheduler {
  readonly #options: JobSchedulerOptions;
  readonly #entries: Entry[] = [];
  readonly #runs = new Map<string, JobRecord>();
  readonly #ending = new AbortController();
  #timer: Timer | null = null;

  constructor(options: JobSchedulerOptions) {
    this.#options = options;
  }

  register(job: Job): void {
    invariant(/^[a-z0-9-]{1,40}$/.test(job.id), 'a job has an id that can name a lease');
    invariant(job.everyMs >= jobLimits.everyMsMin, 'a job does not come too often');
    invariant(this.#entries.length < jobLimits.jobsMax, 'jobs are few');
    invariant(!this.#entries.some((entry) => entry.job.id === job.id), 'a job is registered once');
    this.#entries.push({
      job,
      begun: -1,
      begunAtMs: Number.NEGATIVE_INFINITY,
      due: null,
      retryAtMs: Number.NEGATIVE_INFINITY,
      isRunning: false,
    });
  }

  start(): void {
    this.#timer ??= this.#options.clock.setTimer(jobLimits.lookMs, () => {
      this.#timer = null;
      if (this.#ending.signal.aborted) return;
      this.look();
      this.start();
    });
  }

  /** Runs under way are told to end. */
  stop(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#ending.abort(new Error('the daemon is stopping'));
  }

  /** One look; the timer does it. */
  look(): void {
    if (this.#entries.length === 0) return;
    const known = knownRuns(this.#options.node);
    for (const entry of this.#entries) this.#lookAt(entry, known);
  }

  #lookAt(entry: Entry, known: readonly KnownRun[]): void {
    const { clock } = this.#options;
    const nowMs = clock.monotonicMs();
    // Only the lease is believed about ticks that are far ahead: a fact may be anything.
    const heedMax = Math.max(this.#wallTick(entry.job), entry.begun) + 1;
    for (const { id, tick } of known)
      if (id === entry.job.id && tick <= heedMax) this.#begun(entry, tick);
    if (entry.isRunning || nowMs < entry.retryAtMs) return;
    const tick = this.#dueTick(entry, nowMs);
    if (tick === null) return;
    if (entry.due?.tick !== tick) entry.due = { tick, sinceMs: nowMs };
    if (nowMs - entry.due.sinceMs < this.#turnMs(entry.job)) return;
    void this.#try(entry, tick);
  }

  /** By the wall clock; where that is behind what somebody has begun already, one interval after we heard of it. */
  #dueTick({ job, begun, begunAtMs }: Entry, nowMs: number): number | null {
    const tick = this.#wallTick(job);
    if (tick > begun) return tick;
    return nowMs - begunAtMs >= job.everyMs ? begun + 1 : null;
  }

  #wallTick({ everyMs }: Job): number {
    return Math.floor(this.#options.clock.wallMs() / everyMs);
  }

  #turnMs({ id, everyMs }: Job): number {
    const { node } = this.#options;
    const { env, self } = node;
    const order = node
      .hosts()
      .filter((host) => host.env === env && host.liveness === 'alive')
      .map((host) => host.id)
      .toSorted((a, b) => placeOf(id, a) - placeOf(id, b) || compareText(a, b));
    const rank = Math.max(0, order.indexOf(self.host));
    return Math.min(rank * jobLimits.rankStepMs, everyMs * jobLimits.rankShareMax);
  }

  #begun(entry: Entry, tick: number): void {
    if (tick <= entry.begun) return;
    entry.begun = tick;
    entry.begunAtMs = this.#options.clock.monotonicMs();
  }

  /** Never rejects. */
  async #try(entry: Entry, tick: number): Promise<void> {
    const { node, withLease, clock, log } = this.#options;
    const { id, everyMs } = entry.job;
    const epochMin = tick * epochsPerTick;
    entry.isRunning = true;
    try {
      invariant(epochMin <= leaseLimits.counterMax, 'a tick can be numbered');
      await withLease(
        jobLeaseOf(node.env, id),
        { title: `job ${id}`, epochMin, signal: this.#ending.signal },
        (hold) => this.#held(entry, tick, hold),
      );
    } catch (error) {
      const { code } = asClusterError(error);
      log.debug('job.not-run', { id, tick, code });
    } finally {
      entry.isRunning = false;
      if (entry.begun < tick)
        entry.retryAtMs = clock.monotonicMs() + Math.min(jobLimits.retryMs, everyMs);
    }
  }

  async #held(entry: Entry, tick: number, hold: Hold): Promise<void> {
    const { id } = entry.job;
    const before = newestRun(id, knownRuns(this.#options.node));
    // Of this tick or of one that somebody with another clock has begun.
    const begun = Math.max(tick, Math.floor((hold.epoch - 1) / epochsPerTick));
    this.#begun(entry, begun);
    if (hold.epoch !== tick * epochsPerTick) {
      this.#options.log.info('job.begun-elsewhere', { id, tick, begun, epoch: hold.epoch });
      return;
    }
    this.#record({ id, tick, epoch: hold.epoch, state: 'started' });
    this.#options.log.info('job.begun', { id, tick, epoch: hold.epoch });
    if (before !== null && before.tick < tick) this.#tellSkipped(before, tick);
    const limit = this.#limit(entry.job);
    const signal = AbortSignal.any([hold.signal, limit.signal]);
    const { epoch } = hold;
    try {
      await entry.job.run({ tick, epoch, signal, assertHeld: () => hold.assertHeld() });
      hold.assertHeld();
      this.#record({ id, tick, epoch, state: 'done' });
    } catch (error) {
      this.#record({ id, tick, epoch, state: 'failed' });
      const { code, message } = asClusterError(error);
      const why = code === 'LEASE_LOST' ? 'its lease went before it had ended' : message;
      const text = `job ${id}, tick ${tick}, failed and is not run again: ${why}`;
      this.#options.node.emit({
        kind: 'job.failed',
        severity: 'warn',
        text,
        details: { id, tick },
      });
      throw error;
    } finally {
      limit.timer.cancel();
    }
  }

  /** A run that is still there when the next one is due is one too many. */
  #limit({ id, everyMs }: Job): { readonly signal: AbortSignal; readonly timer: Timer } {
    const controller = new AbortController();
    const timer = this.#options.clock.setTimer(everyMs, () =>
      controller.abort(new Error(`job ${id} took longer than ${everyMs} ms`)),
    );
    return { signal: controller.signal, timer };
  }

  #record(run: JobRecord): void {
    this.#runs.set(run.id, run);
    const fact: JobsFact = { v: 1, runs: [...this.#runs.values()] };
    this.#options.node.publishFact(jobsTopic, fact);
  }

  #tellSkipped(before: KnownRun, tick: number): void {
    const { node } = this.#options;
    const { id } = before;
    const host = node.hosts().find((one) => one.node === before.owner);
    // Its end would have come before the lease did.
    if (before.state === 'started') {
      const where = host?.name ?? 'a host';
      const text = `job ${id}: ${where} began tick ${before.tick} and was not heard to end it; it is not run again`;
      node.emit({
        kind: 'job.skipped',
        severity: 'warn',
        text,
        details: { id, tick: before.tick },
      });
    }
    const count = tick - before.tick - 1;
    if (count <= 0) return;
    const text = `job ${id}: ${count} ticks before ${tick} were not run, or not heard of; they are not caught up`;
    node.emit({ kind: 'job.skipped', severity: 'info', text, details: { id, tick, count } });
  }
}

export function jobLeaseOf(env: string, id: string): LeaseName {
  return `job/${env}/${id}`;
}

function placeOf(id: string, host: HostId): number {
  return hash32(`${id}/${host}`);
}

function newestRun(id: string, known: readonly KnownRun[]): KnownRun | null {
  let newest: KnownRun | null = null;
  for (const run of known)
    if (run.id === id && (newest === null || run.tick > newest.tick)) newest = run;
  return newest;
}

/** What hosts say; what is not understood is passed over. */
function knownRuns(node: Pick<NodeApi, 'facts'>): readonly KnownRun[] {
  return node.facts(jobsTopic).flatMap(({ owner, value }) => {
    const { v, runs } = (value ?? {}) as Partial<JobsFact>;
    if (v !== 1 || !Array.isArray(runs)) return [];
    return runs
      .slice(0, jobLimits.jobsMax)
      .filter(isRecord)
      .map((run) => ({ ...run, owner }));
  });
}

function isRecord(value: unknown): value is JobRecord {
  const { id, tick, epoch, state } = (value ?? {}) as Partial<JobRecord>;
  const isNumbered = Number.isSafeInteger(tick) && Number.isSafeInteger(epoch);
  return typeof id === 'string' && isNumbered && typeof state === 'string';
}
