/**
 * Runs the plugins of this host, each in a loop of its own: level-triggered, coalesced, never concurrent with itself,
 * with a time limit and a backoff with jitter. One that fails or hangs holds up no other.
 *
 * A request during a run is remembered and served right after it. Failures that may pass are tried again soon and then
 * ever more rarely; those that will not (a foreign container on our name) wait for a change or the slow interval.
 */
import type {
  DesiredView,
  ItemFailure,
  ReconcileOutcome,
  RunningPlugin,
} from '../../plugins/api.ts';
import type { Config } from '../config.ts';
import type { Clock, Log, Random, Timer } from '../ports.ts';

/** A run may pull images; past this it is aborted and tried again. */
const runLimitMs = 15 * 60_000;
/** How long a stop waits for a run that was told to end: everything keeps running without us. */
const stopLimitMs = 5_000;

export interface ReconcilerOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly config: Config;
  /** Null: nothing is known of what this host should do, so nothing is touched. */
  view(): DesiredView | null;
  /** Names what the view is made from; a run counts for the name that was current when it began. */
  planKey(): string | null;
  /** After each run, also one that changed nothing, when nothing is under way any more. */
  onOutcome(plugin: string, outcome: ReconcileOutcome): void;
}

export class Reconciler {
  readonly #loops: readonly PluginLoop[];

  constructor(
    plugins: readonly { readonly name: string; readonly running: RunningPlugin }[],
    options: ReconcilerOptions,
  ) {
    this.#loops = plugins.map(({ name, running }) => new PluginLoop(name, running, options));
  }

  /** Something that the view is made of may have changed; `plugin` alone when it asked itself. */
  request(plugin?: string): void {
    for (const loop of this.#loops)
      if (plugin === undefined || loop.name === plugin) loop.request();
  }

  /** What failed in the newest run of each plugin. */
  failures(): readonly (ItemFailure & { readonly plugin: string })[] {
    return this.#loops.flatMap((loop) =>
      loop.failures.map((failure) => ({ ...failure, plugin: loop.name })),
    );
  }

  /** The newest plan that every plugin has been through; null while they differ. */
  settledPlan(): string | null {
    const keys = new Set(this.#loops.map((loop) => loop.settledPlan));
    const [first] = keys;
    return keys.size === 1 ? (first ?? null) : null;
  }

  /** True while work goes on in the background or a passing failure is still to be tried again. */
  isBusy(): boolean {
    return this.#loops.some((loop) => loop.isBusy());
  }

  /** True once every plugin has run at least once. */
  hasRun(): boolean {
    return this.#loops.every((loop) => loop.runs > 0);
  }

  /** Aborts what is under way and waits for it, but not for ever. */
  async stop(): Promise<void> {
    await Promise.all(this.#loops.map((loop) => loop.stop()));
  }
}

class PluginLoop {
  readonly name: string;
  readonly #running: RunningPlugin;
  readonly #options: ReconcilerOptions;
  failures: readonly ItemFailure[] = [];
  runs = 0;
  settledPlan: string | null = null;
  #isDue = false;
  #hasPending = false;
  #isStopped = false;
  #current: Promise<void> | null = null;
  #abort = new AbortController();
  #timer: Timer | null = null;
  #attempt = 0;

  constructor(name: string, running: RunningPlugin, options: ReconcilerOptions) {
    this.name = name;
    this.#running = running;
    this.#options = options;
  }

  request(): void {
    this.#isDue = true;
    this.#pump();
  }

  /** A run under way does not count: it is over in a moment, and saying so would make every host look again. */
  isBusy(): boolean {
    return this.#hasPending || this.failures.some((failure) => failure.isTransient);
  }

  async stop(): Promise<void> {
    this.#isStopped = true;
    this.#timer?.cancel();
    this.#abort.abort();
    if (this.#current === null) return;
    const { clock, log } = this.#options;
    let isLate = false;
    let limit: Timer | null = null;
    const late = new Promise<void>((resolve) => {
      limit = clock.setTimer(stopLimitMs, () => {
        isLate = true;
        resolve();
      });
    });
    await Promise.race([this.#current, late]);
    (limit as Timer | null)?.cancel();
    if (isLate) log.warn('reconcile.does-not-end', { plugin: this.name });
  }

  #pump(): void {
    if (this.#current !== null || !this.#isDue || this.#isStopped) return;
    this.#isDue = false;
    this.#timer?.cancel();
    this.#current = this.#run();
  }

  async #run(): Promise<void> {
    const planKey = this.#options.planKey();
    const outcome = await this.#reconcile();
    this.runs++;
    this.settledPlan = planKey;
    this.failures = outcome.failures;
    this.#hasPending = (outcome.pending?.length ?? 0) > 0;
    this.#attempt = outcome.failures.some((failure) => failure.isTransient) ? this.#attempt + 1 : 0;
    // Before the outcome is told: whoever hears of it asks whether this is still busy.
    this.#current = null;
    this.#options.onOutcome(this.name, outcome);
    if (this.#current !== null) return;
    this.#scheduleNext();
    this.#pump();
  }

  async #reconcile(): Promise<ReconcileOutcome> {
    const view = this.#options.view();
    if (view === null) return { changes: [], failures: [] };
    this.#abort = new AbortController();
    const limit = this.#options.clock.setTimer(runLimitMs, () => this.#abort.abort());
    try {
      return await this.#running.reconcile(view, this.#abort.signal);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.#options.log.error('reconcile.threw', { plugin: this.name, error: message });
      return {
        changes: [],
        failures: [{ item: this.name, code: 'PLUGIN_FAILED', message, isTransient: true }],
      };
    } finally {
      limit.cancel();
    }
  }

  #scheduleNext(): void {
    if (this.#isStopped || this.#isDue) return;
    const { config, random, clock } = this.#options;
    const backoffMs = Math.min(
      config.reconcileBackoffMsMax,
      config.reconcileBackoffMsMin * 2 ** Math.min(this.#attempt - 1, 10),
    );
    const delayMs = this.#attempt === 0 ? config.reconcileIntervalMs : backoffMs;
    this.#timer = clock.setTimer(delayMs * (0.75 + 0.5 * random.next()), () => this.request());
  }
}
