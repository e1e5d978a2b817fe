/**
 * Containers that run under a lease. They are made beforehand, behind a gate that is closed, and started only while it is
 * open; when it closes, whoever guards it has frozen or killed what is inside, and we only watch.
 *
 * Rules for every call here: none on a container whose gate may be closed, except list, create and the removal of what has
 * never run or has ended; each with a time limit; one at a time per container. A gate may close during a call all the
 * same. The call then hangs in the engine, holds up nothing but this container, and says nothing about the engine.
 */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { ContainerCreateOptions } from 'dockerode';
import { PluginError } from '../api.ts';
import type { DesiredInstance, DesiredView, ItemFailure, PluginContext } from '../api.ts';
import { type GateState, type Observed, isActive } from './diff.ts';
import type { Engine } from './engine.ts';
import { reasonOf } from './errors.ts';
import type { Gates, OpenGate } from './gates.ts';
import { isOurs, label } from './labels.ts';
import type { Lifecycle } from './lifecycle.ts';
import { type Attempt, Restarts } from './restarts.ts';
import { cgroupParentOf } from './spec.ts';
import { type Tasks, newBatch } from './tasks.ts';

/** A service without a start period of its own is given this long to come up. */
const startPeriodMsMin = 5_000;

/** What the daemon asks of exclusive containers, besides what the desired view says. */
export interface ExclusiveControl {
  /** All gates that are open now, by lease; from the first call on they count, and not the view's epochs. */
  setGates(open: ReadonlyMap<string, OpenGate>): void;
  /** The gate has just opened: asks the engine to start what is ready at once, without a look at everything. */
  startNow(lease: string): void;
  /** Null: every container of it could be started now. Else what is missing. */
  unpreparedReason(lease: string): string | null;
  /** Stops everything of it in order, within the grace periods. Rejects when something still runs. */
  stopAll(lease: string, signal: AbortSignal): Promise<void>;
}

/** What was last seen of an instance's container. */
export interface SeenContainer {
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly isRunning: boolean;
  readonly state: string;
}

interface Options {
  readonly engine: Engine;
  readonly context: PluginContext;
  readonly gates: Gates;
  readonly lifecycle: Lifecycle;
  readonly tasks: Tasks;
  bindOf(instance: DesiredInstance, view: DesiredView): string;
  list(): Promise<Observed[]>;
}

export class Exclusive {
  readonly #options: Options;
  readonly #restarts = new Restarts();
  #wakeTimer: NodeJS.Timeout | null = null;
  #wakeAtMs = Number.POSITIVE_INFINITY;

  constructor(options: Options) {
    this.#options = options;
  }

  stopTimers(): void {
    if (this.#wakeTimer !== null) clearTimeout(this.#wakeTimer);
  }

  /** What may be done with an instance whose container looks like this; null: there is none. */
  gateOf(instance: DesiredInstance, container: Observed | null): GateState {
    const attempt = this.#attemptOf(instance);
    const state = this.#options.gates.stateOf(instance.exclusive?.lease ?? '');
    if (attempt === null || state !== 'open' || !instance.isEnabled) return state;
    if (container !== null && isActive(container)) return state;
    const nowMs = this.#nowMs();
    const dueMs = this.#restarts.dueMs(instance.instance, attempt, nowMs);
    if (dueMs === null) return 'resting';
    if (dueMs <= nowMs) return 'open';
    this.#wakeAt(dueMs);
    return 'resting';
  }

  /** Those that were given up under the lease that is held now. */
  failures(view: DesiredView): ItemFailure[] {
    return view.instances.flatMap((instance) => {
      const attempt = this.#attemptOf(instance);
      const why = attempt && this.#restarts.failureOf(instance.instance, attempt);
      if (attempt === null || why === null) return [];
      const { instance: item, exclusive, spec } = instance;
      return [
        {
          item,
          code: 'START_FAILED',
          message: `${item} did not start: ${why}`,
          details: { item, reason: why, lease: exclusive?.lease, epoch: attempt.epoch, spec },
          isTransient: false,
        },
      ];
    });
  }

  /** Makes it; starts it if its gate is open. */
  async create(instance: DesiredInstance, options: ContainerCreateOptions): Promise<void> {
    this.#ensureLeaseDir(instance);
    const id = await this.#options.lifecycle.createOnly(instance, options);
    const { exclusive, isEnabled } = instance;
    if (isEnabled && this.#options.gates.stateOf(exclusive?.lease ?? '') === 'open')
      await this.start(instance, id);
  }

  /** Does nothing when the gate has closed since this was decided. Rejects as the engine does. */
  async start(instance: DesiredInstance, id: string): Promise<void> {
    const attempt = this.#attemptOf(instance);
    if (attempt === null) return;
    this.#ensureLeaseDir(instance);
    this.#restarts.started(instance.instance, attempt, this.#nowMs());
    try {
      await this.#assertGate(instance);
      await this.#options.lifecycle.start(instance, id);
    } catch (error) {
      // Killed or frozen in the middle of its start, by a gate that closed: not its fault.
      if (this.#attemptOf(instance)?.epoch !== attempt.epoch) return;
      // An engine that does not answer may be another host's chance, but says nothing about this container.
      if (error instanceof PluginError && error.code === 'ENGINE_UNREACHABLE') throw error;
      this.#restarts.refused(instance.instance, attempt, reasonOf(error));
      throw error;
    }
  }

  async stop(instance: DesiredInstance, id: string, signal?: AbortSignal): Promise<void> {
    this.#restarts.forget(instance.instance);
    await this.#options.lifecycle.stopGated(id, instance.stopGraceMs, signal);
  }

  // ---- For the daemon ---------------------------------------------------------------------------------------------

  control(parts: {
    view: () => DesiredView | null;
    seen: (instance: string) => SeenContainer | null;
    onGates: () => void;
  }): ExclusiveControl {
    return {
      setGates: (open) => {
        this.#options.gates.set(open);
        parts.onGates();
      },
      startNow: (lease) => this.#startNow(lease, parts),
      unpreparedReason: (lease) => this.#unpreparedReason(lease, parts),
      stopAll: (lease, signal) => this.#stopAll(lease, parts.view(), signal),
    };
  }

  #startNow(
    lease: string,
    parts: { view: () => DesiredView | null; seen: (instance: string) => SeenContainer | null },
  ): void {
    const view = parts.view();
    if (view === null || this.#options.gates.stateOf(lease) !== 'open') return;
    for (const instance of instancesOf(lease, view)) {
      const seen = parts.seen(instance.instance);
      const isReady = seen !== null && !seen.isRunning && this.#fits(instance, seen, view);
      if (!isReady || !instance.isEnabled) continue;
      // Over before it begins: when it ends, and also when it fails, the reconcile that follows finds out.
      const batch = { ...newBatch(), isOver: true };
      void this.#options.tasks.start(
        {
          container: instance.containerName,
          item: instance.instance,
          run: async () => {
            await this.start(instance, seen.id);
            return `started ${instance.containerName}`;
          },
        },
        batch,
      );
    }
  }

  #unpreparedReason(
    lease: string,
    parts: { view: () => DesiredView | null; seen: (instance: string) => SeenContainer | null },
  ): string | null {
    const view = parts.view();
    const wanted = view === null ? [] : instancesOf(lease, view);
    if (view === null || wanted.length === 0) return 'this host has not been told to hold it ready';
    for (const instance of wanted) {
      const seen = parts.seen(instance.instance);
      if (seen === null) return `${instance.containerName} is not made yet`;
      if (!this.#fits(instance, seen, view)) return `${instance.containerName} is being made anew`;
    }
    return null;
  }

  async #stopAll(lease: string, view: DesiredView | null, signal: AbortSignal): Promise<void> {
    const { context, tasks, lifecycle } = this.#options;
    const wanted = new Map(view?.instances.map((one) => [one.containerName, one] as const));
    const isOfLease = ({ labels }: Observed): boolean =>
      isOurs(labels, context.self) && labels[label.lease] === lease;
    const failures: unknown[] = [];
    const stopOne = async (container: Observed): Promise<void> => {
      const name = container.names[0] ?? container.id;
      await tasks.whenFree(name);
      const instance = wanted.get(name);
      const run = async (): Promise<string> => {
        try {
          if (instance === undefined) await lifecycle.stopGated(container.id, null, signal);
          else await this.stop(instance, container.id, signal);
        } catch (error) {
          failures.push(error);
        }
        return `stopped ${name}`;
      };
      await tasks.start({ container: name, item: name, run }, { ...newBatch(), isOver: true });
    };
    // A start that was under way when the list was made ends before the stop, which is why all are visited.
    await Promise.all((await this.#options.list()).filter(isOfLease).map(stopOne));
    if (failures.length > 0) throw failures[0];
    const left = (await this.#options.list()).filter(isOfLease).find(isActive);
    if (left !== undefined) throw new Error(`${left.names[0] ?? left.id} still runs`);
  }

  // ---- Inside -----------------------------------------------------------------------------------------------------

  #fits(instance: DesiredInstance, { labels }: SeenContainer, view: DesiredView): boolean {
    return (
      labels[label.spec] === instance.spec &&
      labels[label.bind] === this.#options.bindOf(instance, view)
    );
  }

  /** Null while the gate is closed. */
  #attemptOf(instance: DesiredInstance): Attempt | null {
    const epoch = this.#options.gates.epochOf(instance.exclusive?.lease ?? '');
    if (epoch === null) return null;
    const startPeriodMs = Math.max(startPeriodMsMin, instance.health?.startPeriodMs ?? 0);
    return { epoch, spec: instance.spec, startPeriodMs };
  }

  /**
   * The gate must be where the engine puts the container: a guard that took the engine for one with another cgroup driver
   * would watch an empty gate. Rejects GATE_FAULT.
   */
  async #assertGate({ exclusive }: DesiredInstance): Promise<void> {
    if (exclusive === undefined) return;
    const parent = cgroupParentOf(exclusive.gate, await this.#options.engine.cgroupDriver());
    if (freezerRoots.some((root) => existsSync(join(root, parent)))) return;
    const reason = `the engine puts containers into ${parent}, and there is no such gate`;
    throw new PluginError('GATE_FAULT', { host: 'this host', reason }, reason);
  }

  /** On a volatile disk: gone after a boot, and the engine refuses to mount what is not there. */
  #ensureLeaseDir({ exclusive }: DesiredInstance): void {
    if (exclusive !== undefined) mkdirSync(exclusive.leaseDir, { recursive: true, mode: 0o755 });
  }

  #wakeAt(dueMs: number): void {
    if (this.#wakeTimer !== null && this.#wakeAtMs <= dueMs) return;
    if (this.#wakeTimer !== null) clearTimeout(this.#wakeTimer);
    this.#wakeAtMs = dueMs;
    this.#wakeTimer = setTimeout(() => {
      this.#wakeTimer = null;
      this.#options.context.requestReconcile('an exclusive container may be started again');
    }, dueMs - this.#nowMs());
    this.#wakeTimer.unref();
  }

  #nowMs(): number {
    return this.#options.context.clock.monotonicMs();
  }
}

/** v1, v2. */
const freezerRoots = ['/sys/fs/cgroup/freezer', '/sys/fs/cgroup'];

function instancesOf(lease: string, view: DesiredView): DesiredInstance[] {
  return view.instances.filter(({ exclusive }) => exclusive?.lease === lease);
}
