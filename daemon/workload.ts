/**
 * What this host runs: the plugins, the loop that drives them, and the desired slice they get. Lives while the host is a
 * member; ends without touching anything that runs.
 */
import type { DockerPlugin, RunningDocker } from '../plugins/docker/plugin.ts';
import { dockerPlugin } from '../plugins/docker/plugin.ts';
import { inventoryPlugin } from '../plugins/inventory/inventory.ts';
import type { RunningInventory } from '../plugins/inventory/inventory.ts';
import { namesPlugin } from '../plugins/names/names.ts';
import type { RunningNames } from '../plugins/names/names.ts';
import { storagePlugin } from '../plugins/storage/plugin.ts';
import type { RunningStorage } from '../plugins/storage/plugin.ts';
import { referencedBlobs } from '../plugins/docker/manifest.ts';
import type { ContainerRuntime, ReconcileOutcome, RunningPlugin } from '../plugins/api.ts';
import type { Hash } from '../crdt/ids.ts';
import type { InstancesFact } from '../crdt/model.ts';
import type { BlobTransfer } from './net/blob-transfer.ts';
import { ClusterError } from './errors.ts';
import type { Member } from './member.ts';
import type { MemberInfo } from './node-api.ts';
import type { Config } from './config.ts';
import type { Leases } from './leases.ts';
import type { Clock, Log, Random, Timer } from './ports.ts';
import { PluginHost } from './reconcile/plugin-host.ts';
import { Reconciler } from './reconcile/reconciler.ts';
import { pauseBy, storageControl, storagePorts } from './storage-control.ts';
import type { Store } from './store/open-store.ts';

export interface WorkloadOptions {
  readonly member: Member;
  readonly store: Store;
  readonly blobs: BlobTransfer;
  readonly leases: Leases;
  readonly config: Config;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly runDir: string;
  /** Null: not touched. */
  readonly hostsFile: string | null;
}

/** Facts that others and the operations read; a plugin publishes under its own name. */
const dockerName = 'docker';
/** Blobs that no image of the environment needs any more go after the grace, looked at so often. */
const collectEveryMs = 10 * 60_000;
const blobGraceMs = 60 * 60_000;
/**
 * What is not known yet looks as if it did not run. For this long after a start the rules of the daemon before this one
 * stay, unless every other member was heard of sooner.
 */
const firstSightMsMax = 6_000;
const firstSightLookMs = 50;
/** Changes within this time are looked at together. */
const lookDelayMs = 20;

export class Workload {
  readonly #options: WorkloadOptions;
  readonly #host: PluginHost;
  #reconciler: Reconciler | null = null;
  #docker: RunningDocker | null = null;
  #inventory: RunningInventory | null = null;
  #names: RunningNames | null = null;
  #stopListening: () => void = () => {};
  #lookTimer: Timer | null = null;
  #collectTimer: Timer | null = null;
  #sightTimer: Timer | null = null;
  #sightDueMs = 0;
  #isSighted = false;
  /** What the plugins were last asked for. */
  #viewKey = '';

  constructor(options: WorkloadOptions) {
    const { member, store, clock, log, blobs } = options;
    this.#options = options;
    const { clusterId, self, env } = member.node;
    this.#host = new PluginHost({
      self: { clusterId, hostId: self.host, env },
      clock,
      log,
      blobs,
      stateDir: (plugin) => store.pluginDir(plugin),
      requestReconcile: (plugin, reason) => {
        log.debug('reconcile.requested', { plugin, reason });
        this.#reconciler?.request(plugin);
      },
      publish: (topic, value) => {
        member.node.publishFact(topic, value);
        if (topic === dockerName)
          member.publishHost({ engine: (value as InstancesFact).engine.state });
      },
    });
  }

  async start(): Promise<void> {
    const { member, leases, clock, random, log, config, store, runDir, hostsFile } = this.#options;
    const started = await this.#host.start([
      { plugin: inventoryPlugin, config: { stateDir: store.stateDir } },
      {
        plugin: storagePlugin(
          storagePorts(member, {
            reserved: [store.stateDir, runDir],
            pause: pauseBy(leases.link, member.node.env, { clock, log }),
          }),
        ),
        config: undefined,
      },
      { plugin: dockerPlugin() as DockerPlugin, config: undefined },
      { plugin: namesPlugin, config: { hostsFile } },
    ]);
    const find = (name: string): unknown =>
      started.find((one) => one.name === name)?.running ?? null;
    this.#inventory = find('inventory') as RunningInventory | null;
    this.#docker = find(dockerName) as RunningDocker | null;
    this.#names = find('names') as RunningNames | null;
    const storage = find('storage') as RunningStorage | null;
    for (const [plugin, reason] of this.#host.disabled) {
      member.node.emit({
        kind: 'plugin.disabled',
        severity: 'alarm',
        text: `plugin ${plugin} is off: ${reason}`,
      });
    }
    const gated = started.map((one) =>
      one.running === this.#names
        ? { name: one.name, running: this.#afterFirstSight(one.running) }
        : one,
    );
    this.#sightDueMs = clock.monotonicMs() + firstSightMsMax;
    this.#reconciler = new Reconciler(gated, {
      clock,
      random,
      log,
      config,
      view: () => member.node.desiredView(member.advertise()),
      planKey: () => member.node.committedPlan()?.pointerHash ?? null,
      onOutcome: (plugin, outcome) => this.#onOutcome(plugin, outcome),
    });
    this.#stopListening = member.node.onChange(() => this.#lookAgain());
    this.#options.leases.attach({
      control: this.#docker?.exclusive ?? null,
      storage: storage === null ? null : storageControl(storage),
      requestReconcile: () => this.#reconciler?.request(dockerName),
    });
    this.#reconciler.request();
    this.#scheduleCollection();
    this.#lookForSight();
  }

  #afterFirstSight(running: RunningPlugin): RunningPlugin {
    return {
      reconcile: async (view, signal) =>
        this.#hasFirstSight()
          ? await running.reconcile(view, signal)
          : { changes: [], failures: [], pending: ['waiting for what others run'] },
      stop: () => running.stop(),
      purge: (signal) => running.purge(signal),
    };
  }

  /** Every host has said what it runs, or is known not to be there; once so, always so. */
  #hasFirstSight(): boolean {
    const { member, clock } = this.#options;
    if (this.#isSighted) return true;
    const told = new Set<string>(member.node.facts(dockerName).map((fact) => fact.owner));
    const isAwaited = (one: MemberInfo): boolean =>
      !told.has(one.node) && (one.isSelf || one.lastSeenMs === null || one.liveness !== 'dead');
    const others = member.node.members().filter(({ liveness }) => liveness !== 'left');
    this.#isSighted = !others.some(isAwaited) || clock.monotonicMs() >= this.#sightDueMs;
    return this.#isSighted;
  }

  #lookForSight(): void {
    this.#sightTimer = this.#options.clock.setTimer(firstSightLookMs, () => {
      if (this.#hasFirstSight()) this.#reconciler?.request('names');
      else this.#lookForSight();
    });
  }

  #scheduleCollection(): void {
    this.#collectTimer = this.#options.clock.setTimer(collectEveryMs, () => {
      const { blobs, log } = this.#options;
      const referenced = this.#referencedBlobs();
      blobs
        .collect((hash) => referenced.has(hash), blobGraceMs)
        .then(
          ({ removed, freedBytes }) => {
            if (removed > 0) log.info('blobs.collected', { removed, freedBytes });
          },
          (error: unknown) => log.warn('blobs.not-collected', { error: String(error) }),
        );
      this.#scheduleCollection();
    });
  }

  /** Of every image that a service may still name and of every image that is committed. */
  #referencedBlobs(): ReadonlySet<Hash> {
    const { member, blobs } = this.#options;
    const named = [...member.node.envView().images.values()];
    const committed = member.node.committedPlan()?.inputs.images ?? [];
    return referencedBlobs(
      blobs,
      [...named, ...committed].map((image) => image.manifest),
    );
  }

  /**
   * Something in the cluster changed. Plugins are bothered only when it changes what they are to do: hosts tell each other
   * facts about themselves all the time, and two that reconciled at each other's every word would never rest.
   */
  #lookAgain(): void {
    if (this.#lookTimer !== null) return;
    this.#lookTimer = this.#options.clock.setTimer(lookDelayMs, () => {
      this.#lookTimer = null;
      const { member } = this.#options;
      const key = `${member.node.committedPlan()?.pointerHash ?? ''} ${JSON.stringify(member.node.desiredView(member.advertise()))}`;
      if (key === this.#viewKey) return;
      this.#viewKey = key;
      this.#reconciler?.request();
    });
  }

  /** Everything keeps running. */
  async stop(): Promise<void> {
    await this.#rest();
    await this.#host.stop();
  }

  /** Removes what we own on this host; returns what could not be removed. */
  async purge(signal: AbortSignal): Promise<readonly string[]> {
    await this.#rest();
    return this.#host.purge(signal);
  }

  async #rest(): Promise<void> {
    this.#stopListening();
    this.#lookTimer?.cancel();
    this.#collectTimer?.cancel();
    this.#sightTimer?.cancel();
    await this.#reconciler?.stop();
    this.#reconciler = null;
  }

  get runtime(): ContainerRuntime | null {
    return this.#docker?.runtime ?? null;
  }

  get names(): RunningNames | null {
    return this.#names;
  }

  failures(): ReturnType<Reconciler['failures']> {
    return this.#reconciler?.failures() ?? [];
  }

  /** Fails with PLUGIN_FAILED. */
  async rescan(): ReturnType<RunningInventory['rescan']> {
    if (this.#inventory === null)
      throw new ClusterError('PLUGIN_FAILED', { plugin: 'inventory', reason: 'it is not running' });
    return this.#inventory.rescan();
  }

  #onOutcome(plugin: string, outcome: ReconcileOutcome): void {
    const { member, log } = this.#options;
    if (outcome.changes.length > 0) {
      log.info('reconcile.changed', { plugin, changes: outcome.changes.slice(0, 20) });
      for (const change of outcome.changes.slice(0, 8))
        member.node.emit({ kind: `${plugin}.changed`, severity: 'info', text: change });
    }
    for (const failure of outcome.failures)
      log.warn('reconcile.failed', {
        plugin,
        item: failure.item,
        // Not `code`: the log hides what may be an invitation's.
        failure: failure.code,
        reason: failure.message,
      });
    if (plugin === dockerName) this.#options.leases.onDockerOutcome(outcome);
    if (this.#reconciler?.hasRun() === true) member.markReady();
    const plan = this.#reconciler?.settledPlan() ?? member.hostFact?.plan ?? null;
    member.publishHost({ plan, isBusy: this.#reconciler?.isBusy() === true });
  }
}
