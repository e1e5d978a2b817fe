/**
 * What becomes of this host's containers when its guard speaks: started when a gate opens, stopped in order for a
 * handover, made ready beforehand. The guard decides; nothing here can keep a gate open or open one.
 */
import type { ExclusiveControl } from '../plugins/docker/exclusive.ts';
import type { LeaseApi } from './lease-api.ts';
import type { HeldGate } from './lease-link.ts';
import type { GuardCommand, GuardNotice } from './lease/guard-api.ts';
import type { Epoch, LeaseName } from './lease/model.ts';
import type { Clock, Log } from './ports.ts';

/** What storage has to do around a lease; the storage plugin provides it. */
export interface StorageControl {
  /** The lease is held: the copy becomes the active one. Before anything is started under it. */
  activate(lease: LeaseName, epoch: Epoch, signal: AbortSignal): Promise<void>;
  /** The holder's workload has stopped: fetch the last of it. Rejects with why it cannot. */
  settle(lease: LeaseName, from: string, signal: AbortSignal): Promise<void>;
}

export interface LeaseWorkloadOptions {
  readonly clock: Clock;
  readonly log: Log;
  readonly guard: Pick<LeaseApi, 'command'>;
  gates(): ReadonlyMap<LeaseName, HeldGate>;
  /** What the view says of leases has changed. */
  onGates(): void;
  /** Level-triggered: looks at everything. */
  requestReconcile(): void;
}

/** The longest grace of a stop, and what comes with it. */
const stopLimitMs = 900_000;
/** A target that is not ready by then says why. */
const prepareLimitMs = 20_000;
const prepareLookMs = 50;

export class LeaseWorkload {
  readonly #options: LeaseWorkloadOptions;
  #control: ExclusiveControl | null = null;
  #storage: StorageControl | null = null;
  /** Being stopped for a handover, before the guard's status says so. */
  readonly #stopping = new Set<LeaseName>();
  /** Storage under these is being made the active copy: nothing starts before it is. By lease, the epoch. */
  readonly #activating = new Map<LeaseName, Epoch>();
  readonly #activated = new Map<LeaseName, Epoch>();
  /** What the guard has asked for and is being done. */
  readonly #asked = new Set<string>();
  readonly #ending = new AbortController();

  constructor(options: LeaseWorkloadOptions) {
    this.#options = options;
  }

  /** The plugins run from now on. */
  attach(control: ExclusiveControl | null, storage: StorageControl | null): void {
    this.#control = control;
    this.#storage = storage;
    this.gatesChanged();
  }

  stop(): void {
    this.#ending.abort();
  }

  /** Where containers may be started now, with the epoch under which. */
  startable(): ReadonlyMap<LeaseName, Epoch> {
    const open = [...this.#open()].filter(([, { mayStart }]) => mayStart);
    return new Map(open.map(([lease, { epoch }]) => [lease, epoch]));
  }

  /** The guard said something new, or is not heard any more. */
  gatesChanged(): void {
    const gates = this.#options.gates();
    for (const [lease, { epoch }] of gates) this.#activate(lease, epoch);
    for (const lease of this.#activated.keys())
      if (!gates.has(lease)) this.#activated.delete(lease);
    this.#control?.setGates(this.#open());
  }

  unpreparedReason(lease: LeaseName): string | null {
    return this.#control === null
      ? 'the container engine is not known yet'
      : this.#control.unpreparedReason(lease);
  }

  onNotice(notice: GuardNotice): void {
    switch (notice.kind) {
      case 'open':
        this.#stopping.delete(notice.name);
        this.gatesChanged();
        this.#control?.startNow(notice.name);
        this.#options.onGates();
        return;
      case 'closed':
        this.#stopping.delete(notice.name);
        this.gatesChanged();
        this.#options.onGates();
        return;
      case 'resume':
        this.#stopping.delete(notice.name);
        this.gatesChanged();
        this.#control?.startNow(notice.name);
        this.#options.onGates();
        this.#options.requestReconcile();
        return;
      case 'prepare':
        this.#once(notice, () => this.#prepare(notice.name, notice.id));
        return;
      case 'stop':
        this.#stopping.add(notice.name);
        this.gatesChanged();
        this.#once(notice, () => this.#stop(notice.name, notice.id));
        return;
      case 'settle':
        this.#once(notice, () => this.#settle(notice.name, notice.id, notice.from));
        return;
      case 'event':
        return;
    }
  }

  /** The guard asks until it is answered: what is being done for an asking is not begun a second time. */
  #once(notice: { readonly kind: string; readonly id: string }, work: () => Promise<void>): void {
    const key = `${notice.kind} ${notice.id}`;
    if (this.#asked.has(key)) return;
    this.#asked.add(key);
    void work().finally(() => this.#asked.delete(key));
  }

  #open(): Map<LeaseName, HeldGate> {
    return new Map(
      [...this.#options.gates()].map(([lease, { epoch, mayStart }]) => {
        const isReady =
          this.#storage === null || !isStorage(lease) || this.#activated.get(lease) === epoch;
        return [lease, { epoch, mayStart: mayStart && isReady && !this.#stopping.has(lease) }];
      }),
    );
  }

  #activate(lease: LeaseName, epoch: Epoch): void {
    const storage = this.#storage;
    if (storage === null || !isStorage(lease)) return;
    if (this.#activated.get(lease) === epoch || this.#activating.get(lease) === epoch) return;
    this.#activating.set(lease, epoch);
    storage
      .activate(lease, epoch, this.#ending.signal)
      .then(
        () => {
          if (this.#options.gates().get(lease)?.epoch !== epoch) return;
          this.#activated.set(lease, epoch);
          this.gatesChanged();
          this.#control?.startNow(lease);
          this.#options.onGates();
        },
        (error: unknown) => this.#startFailed(lease, epoch, reasonOf(error)),
      )
      .finally(() => {
        if (this.#activating.get(lease) === epoch) this.#activating.delete(lease);
      });
  }

  #startFailed(name: LeaseName, epoch: Epoch, why: string): void {
    if (this.#ending.signal.aborted) return;
    this.#options.log.warn('lease.not-activated', { name, epoch, why });
    this.#tell({ kind: 'start-failed', name, epoch, why });
  }

  async #prepare(name: LeaseName, id: string): Promise<void> {
    const { clock } = this.#options;
    const dueMs = clock.monotonicMs() + prepareLimitMs;
    this.#options.requestReconcile();
    let why = this.unpreparedReason(name);
    while (why !== null && clock.monotonicMs() < dueMs && !this.#ending.signal.aborted) {
      await new Promise<void>((resolve) => clock.setTimer(prepareLookMs, resolve));
      why = this.unpreparedReason(name);
    }
    this.#tell({ kind: 'prepared', name, id, isReady: why === null, why: why ?? '' });
  }

  async #stop(name: LeaseName, id: string): Promise<void> {
    const limit = AbortSignal.timeout(stopLimitMs);
    const signal = AbortSignal.any([limit, this.#ending.signal]);
    let why = '';
    try {
      if (this.#control === null) throw new Error('the container engine is not known yet');
      await this.#control.stopAll(name, signal);
    } catch (error) {
      why = reasonOf(error);
      this.#options.log.warn('lease.not-stopped', { name, why });
    }
    // A daemon that is being stopped leaves the question to the next one.
    if (!this.#ending.signal.aborted)
      this.#tell({ kind: 'stopped', name, id, isStopped: why === '', why });
  }

  async #settle(name: LeaseName, id: string, from: string): Promise<void> {
    let why = '';
    try {
      await this.#storage?.settle(name, from, this.#ending.signal);
    } catch (error) {
      why = reasonOf(error);
    }
    if (!this.#ending.signal.aborted)
      this.#tell({ kind: 'settled', name, id, isSettled: why === '', why });
  }

  /** The guard asks again, or gives a handover up, when it does not hear this. */
  #tell(command: GuardCommand): void {
    this.#options.guard.command(command, this.#ending.signal).then(
      (reply) => {
        if (!reply.isOk)
          this.#options.log.debug('guard.refused', { command: command.kind, failure: reply.code });
      },
      (error: unknown) =>
        this.#options.log.debug('guard.not-told', {
          command: command.kind,
          error: reasonOf(error),
        }),
    );
  }
}

function isStorage(lease: LeaseName): boolean {
  return lease.startsWith('storage/');
}

function reasonOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, reasonCharsMax);
}

const reasonCharsMax = 200;
