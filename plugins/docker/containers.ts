/**
 * Makes this host's containers the desired ones: see `diff.ts` for what is to be done, here is how.
 */
import type { ContainerCreateOptions, ContainerInfo } from 'dockerode';
import { PluginError } from '../api.ts';
import type {
  DesiredInstance,
  DesiredView,
  ItemFailure,
  PluginContext,
  ReconcileOutcome,
} from '../api.ts';
import type { DockerConfig } from './config.ts';
import { type Action, type Foreign, type Observed, diff } from './diff.ts';
import { type Engine, orAbort, pause } from './engine.ts';
import { isMissing, reasonOf, statusOf, unreachable } from './errors.ts';
import { Limiter } from './files.ts';
import { type HostsFiles, hostsText } from './hosts-files.ts';
import type { Images } from './images.ts';
import { type Self, isOurs, label } from './labels.ts';
import type { Network } from './network.ts';
import { bindOf, createOptions, hostnameOf, published } from './spec.ts';
import { type Batch, Tasks, newBatch } from './tasks.ts';

/** Containers being created and started at one time; more only makes the engine's own queues longer. */
const startsMax = 4;
/** Stops mostly wait for the program inside, so they do not share the places of starts. */
const stopsMax = 8;
const hostsWritesMax = 8;
/** On top of a container's grace period: what the engine needs to kill and clean up. */
const stopExtraMs = 20_000;

/** What is being done for an instance that has no running container, for the fact. */
export interface Situation {
  readonly state: 'waiting' | 'pulling' | 'failed';
  readonly reason?: string;
}

export class Containers {
  readonly #engine: Engine;
  readonly #context: PluginContext;
  readonly #config: DockerConfig;
  readonly #network: Network;
  readonly #images: Images;
  readonly #hosts: HostsFiles;
  readonly #onSituation: () => void;
  readonly #starts = new Limiter(startsMax);
  readonly #stops = new Limiter(stopsMax);
  readonly #tasks: Tasks;
  readonly #situations = new Map<string, Situation>();
  /** For messages. */
  #hostName = '';

  constructor(parts: {
    engine: Engine;
    context: PluginContext;
    config: DockerConfig;
    network: Network;
    images: Images;
    hosts: HostsFiles;
    onSituation: () => void;
  }) {
    this.#engine = parts.engine;
    this.#context = parts.context;
    this.#config = parts.config;
    this.#network = parts.network;
    this.#images = parts.images;
    this.#hosts = parts.hosts;
    this.#onSituation = parts.onSituation;
    this.#tasks = new Tasks({
      toFailure: (item, error) => this.#toFailure(item, error),
      onLateEnd: (item) => this.#context.requestReconcile(`work on ${item} has ended`),
    });
  }

  /** Being worked on by us: its events are our own doing. */
  isBusy(container: string): boolean {
    return this.#tasks.isBusy(container);
  }

  situationOf(instance: string): Situation | null {
    return this.#situations.get(instance) ?? null;
  }

  async reconcile(view: DesiredView, signal: AbortSignal): Promise<ReconcileOutcome> {
    const batch = newBatch();
    this.#hostName = view.hostName;
    this.#forgetSituations(view);
    try {
      await orAbort(this.#work(view, batch, signal), signal);
    } catch (error) {
      if (!signal.aborted) batch.failures.push(this.#toFailure('engine', error));
    }
    this.#tasks.close(batch);
    const pending = [...this.#tasks.busy()];
    const outcome = { changes: [...batch.changes], failures: [...batch.failures] };
    return pending.length === 0 ? outcome : { ...outcome, pending };
  }

  /** Removes every container of ours. Rejects when one stays. */
  async purge(signal: AbortSignal): Promise<void> {
    const ours = (await this.#list()).filter(({ labels }) => isOurs(labels, this.#context.self));
    const results = await Promise.allSettled(
      ours.map((container) => this.#remove(container, signal)),
    );
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  /** Ids of images that containers were made of, ours and others'. */
  async imagesInUse(): Promise<Set<string>> {
    const list = await this.#engine.call('list containers', (signal) =>
      this.#engine.docker.listContainers({ all: true, abortSignal: signal }),
    );
    return new Set(list.map((container) => container.ImageID));
  }

  async #work(view: DesiredView, batch: Batch, signal: AbortSignal): Promise<void> {
    if (this.#engine.state !== 'ok' && (await this.#engine.ping()) !== 'ok') {
      throw unreachable(this.#engine.endpoint, this.#engine.reason);
    }
    if (await this.#network.ensure()) batch.changes.push(`network ${this.#network.name} created`);
    const busy = this.#tasks.busy();
    const containers = await this.#list();
    const instances = [...view.instances.map(({ instance }) => instance), ...view.keep];
    await this.#network.allocate(instances, claimsOf(containers, this.#context.self));
    await this.#writeHosts(view);
    signal.throwIfAborted();
    const work = this.#begin({ view, containers, busy, batch });
    await Promise.race([work, pause(this.#config.reconcileWaitMs, signal)]);
  }

  async #writeHosts(view: DesiredView): Promise<void> {
    const instances = new Set([...view.instances.map(({ instance }) => instance), ...view.keep]);
    const writes = new Limiter(hostsWritesMax);
    await Promise.all(
      [...instances].map((instance) =>
        writes.run(async () => {
          const address = this.#network.addressOf(instance);
          if (address !== null)
            await this.#hosts.write(
              instance,
              hostsText(view, { hostname: hostnameOf(instance), address }),
            );
        }),
      ),
    );
  }

  async #list(): Promise<Observed[]> {
    const list = await this.#engine.call('list containers', (signal) =>
      this.#engine.docker.listContainers({ all: true, abortSignal: signal }),
    );
    return list.map(toObserved);
  }

  /** Starts a piece of work per difference; resolves when all have ended. */
  async #begin(input: {
    view: DesiredView;
    containers: readonly Observed[];
    busy: ReadonlySet<string>;
    batch: Batch;
  }): Promise<void> {
    const { view, containers, busy, batch } = input;
    const wanted = view.instances.map((instance) => ({
      instance,
      bind: this.#bindOf(instance, view),
    }));
    const { actions, foreign: obstacles } = diff({
      self: this.#context.self,
      wanted,
      keep: new Set(view.keep),
      containers,
    });
    for (const obstacle of obstacles) this.#reportForeign(obstacle, batch);
    const freeing: Promise<void>[] = [];
    const byService = new Map<string, Promise<void>[]>();
    const all: Promise<void>[] = [];
    for (const action of actions) {
      const isFreeing = action.kind === 'remove' || action.kind === 'stop';
      const before = isFreeing
        ? []
        : this.#mustEndBefore(action.wanted.instance, { view, freeing, byService });
      const name =
        action.kind === 'remove' ? nameOf(action.container) : action.wanted.instance.containerName;
      // What was being worked on when the list was taken may have ended since: deciding on the old picture would be
      // wrong. The end of that work has asked for another reconcile.
      if (busy.has(name) && !this.#tasks.isBusy(name)) continue;
      const work = this.#tasks.start(
        {
          container: name,
          item: action.kind === 'remove' ? name : action.wanted.instance.instance,
          run: async () => {
            await Promise.all(before);
            return await this.#apply(action, view);
          },
        },
        batch,
      );
      all.push(work);
      if (isFreeing) freeing.push(work);
      else
        byService.set(action.wanted.instance.service, [
          ...(byService.get(action.wanted.instance.service) ?? []),
          work,
        ]);
    }
    await Promise.all(all);
  }

  /** Dependencies start first; a fixed host port may be held by something that is on its way out. */
  #mustEndBefore(
    instance: DesiredInstance,
    context: {
      view: DesiredView;
      freeing: readonly Promise<void>[];
      byService: ReadonlyMap<string, readonly Promise<void>[]>;
    },
  ): Promise<void>[] {
    const dependencies = instance.dependsOn.flatMap(({ service }) =>
      service === instance.service ? [] : (context.byService.get(service) ?? []),
    );
    const ports = published(instance, context.view.advertise).length > 0 ? context.freeing : [];
    return [...dependencies, ...ports];
  }

  async #apply(action: Action, view: DesiredView): Promise<string> {
    if (action.kind === 'remove') {
      await this.#remove(action.container);
      return `removed ${nameOf(action.container)} (${action.reason})`;
    }
    const { instance } = action.wanted;
    const name = instance.containerName;
    switch (action.kind) {
      case 'create':
        await this.#create(instance, view, null);
        return `created ${name}`;
      case 'recreate':
        await this.#create(instance, view, action.container);
        return `recreated ${name} (${action.reason})`;
      case 'start':
        await this.#starts.run(() => this.#start(instance, action.container.id));
        this.#settle(instance.instance, null);
        return `started ${name}`;
      case 'unpause':
        await this.#unpause(action.container.id);
        return `unpaused ${name}`;
      case 'stop':
        await this.#stops.run(() => this.#stop(action.container.id));
        return `stopped ${name}`;
    }
  }

  async #create(instance: DesiredInstance, view: DesiredView, old: Observed | null): Promise<void> {
    this.#settle(instance.instance, { state: 'pulling' });
    // The image first: an old container runs on until it can be replaced.
    const imageId = await this.#images.resolve(instance);
    this.#settle(instance.instance, { state: 'waiting' });
    if (old !== null) await this.#remove(old);
    const address = this.#network.addressOf(instance.instance);
    if (address === null) throw new Error(`${instance.instance} has no address`);
    const hostsFile = this.#hosts.pathOf(instance.instance);
    const options = createOptions(instance, {
      view,
      network: this.#network.name,
      address,
      hostsFile,
      imageId,
    });
    await this.#starts.run(async () => {
      const id = await this.#createOrFind(instance, options);
      if (instance.isEnabled) await this.#start(instance, id);
    });
    this.#settle(instance.instance, null);
  }

  /** A create that we gave up waiting for may have happened: then the name is taken by just what we want. */
  async #createOrFind(instance: DesiredInstance, options: ContainerCreateOptions): Promise<string> {
    const { docker } = this.#engine;
    const name = instance.containerName;
    try {
      const made = await this.#engine.call(`create ${name}`, (signal) =>
        docker.createContainer({ ...options, abortSignal: signal }),
      );
      return made.id;
    } catch (error) {
      if (statusIn(error) !== 409) throw error;
      const found = await this.#engine.call(`inspect ${name}`, (signal) =>
        docker.getContainer(name).inspect({ abortSignal: signal }),
      );
      const { Labels } = found.Config;
      if (!isOurs(Labels, this.#context.self)) throw foreign(name, found.Id);
      if (Labels[label.spec] !== instance.spec) throw error;
      return found.Id;
    }
  }

  async #start(instance: DesiredInstance, id: string): Promise<void> {
    try {
      await this.#engine.call(
        `start ${instance.containerName}`,
        (signal) => this.#engine.docker.getContainer(id).start({ abortSignal: signal }),
        {
          timeoutMs: this.#config.startTimeoutMs,
        },
      );
    } catch (error) {
      if (isUnchanged(error)) return;
      throw await this.#explainStart(instance, error);
    }
  }

  /** The engine says in free text that a port is taken. */
  async #explainStart(instance: DesiredInstance, error: unknown): Promise<unknown> {
    const reason = reasonOf((error as Error).cause ?? error);
    if (!/port is already allocated|address already in use/i.test(reason)) return error;
    const port = Number(
      /:(\d+)(?::| failed|: bind)/.exec(reason)?.[1] ??
        instance.ports.find((candidate) => candidate.host !== undefined)?.host,
    );
    const list = await this.#engine.call('list containers', (signal) =>
      this.#engine.docker.listContainers({ abortSignal: signal }),
    );
    const holder = list.find((container) =>
      container.Ports.some(({ PublicPort }) => PublicPort === port),
    );
    const owner =
      holder === undefined ? 'another process' : `container ${nameOf(toObserved(holder))}`;
    const details = { port, host: this.#hostName, owner };
    return new PluginError('PORT_TAKEN', details, `port ${port} is in use by ${owner}`, error);
  }

  async #remove(container: Observed, signal?: AbortSignal): Promise<void> {
    const { id } = container;
    if (container.state === 'paused') await this.#unpause(id);
    if (container.state !== 'exited' && container.state !== 'created')
      await this.#stops.run(() => this.#stop(id, signal));
    try {
      await this.#engine.call(`remove ${nameOf(container)}`, (callSignal) =>
        this.#engine.docker
          .getContainer(id)
          .remove({ force: true, v: true, abortSignal: callSignal }),
      );
    } catch (error) {
      // Gone, or somebody else is removing it: both are what we want.
      if (!isMissing(error) && statusIn(error) !== 409) throw error;
    }
  }

  /** SIGTERM, the grace period that the container was made with, then SIGKILL by the engine. */
  async #stop(id: string, signal?: AbortSignal): Promise<void> {
    const container = this.#engine.docker.getContainer(id);
    try {
      const { Config } = await this.#engine.call(`inspect ${id}`, (callSignal) =>
        container.inspect({ abortSignal: callSignal }),
      );
      const graceMs = ((Config as { StopTimeout?: number }).StopTimeout ?? 10) * 1000;
      await this.#engine.call(
        `stop ${id}`,
        (callSignal) => container.stop({ abortSignal: callSignal }),
        {
          timeoutMs: graceMs + stopExtraMs,
          ...(signal === undefined ? {} : { signal }),
        },
      );
    } catch (error) {
      if (!isMissing(error) && !isUnchanged(error)) throw error;
    }
  }

  async #unpause(id: string): Promise<void> {
    await this.#engine.call(`unpause ${id}`, (signal) =>
      this.#engine.docker.getContainer(id).unpause({ abortSignal: signal }),
    );
  }

  #bindOf(instance: DesiredInstance, view: DesiredView): string {
    return bindOf(instance, {
      address: this.#network.addressOf(instance.instance) ?? '',
      advertise: view.advertise,
    });
  }

  #reportForeign({ wanted, container, isOfCluster }: Foreign, batch: Batch): void {
    const error = foreign(wanted.instance.containerName, container.id);
    batch.failures.push({
      ...this.#toFailure(wanted.instance.instance, error),
      isTransient: isOfCluster,
    });
  }

  #toFailure(item: string, error: unknown): ItemFailure {
    this.#network.doubt();
    this.#hosts.doubt();
    const coded =
      error instanceof PluginError
        ? error
        : new PluginError('INTERNAL', { reason: reasonOf(error) }, reasonOf(error), error);
    this.#context.log.debug('docker.item-failed', {
      item,
      code: coded.code,
      reason: coded.message,
    });
    if (item !== 'engine')
      this.#settle(item, { state: 'failed', reason: `${coded.code}: ${coded.message}` });
    return {
      item,
      code: coded.code,
      message: coded.message,
      details: coded.details,
      isTransient: !lasting.has(coded.code),
    };
  }

  #settle(instance: string, situation: Situation | null): void {
    if (situation === null) this.#situations.delete(instance);
    else this.#situations.set(instance, situation);
    this.#onSituation();
  }

  #forgetSituations(view: DesiredView): void {
    const wanted = new Set(view.instances.map(({ instance }) => instance));
    for (const instance of this.#situations.keys())
      if (!wanted.has(instance)) this.#situations.delete(instance);
  }
}

function foreign(container: string, id: string): PluginError {
  return new PluginError(
    'CONTAINER_FOREIGN',
    { container, id },
    `container ${container} exists and is not ours`,
  );
}

/** The same input fails again until somebody changes something on this host. */
const lasting: ReadonlySet<string> = new Set(['CONTAINER_FOREIGN', 'PORT_TAKEN']);

/** Addresses in the labels of our containers, by instance. */
function claimsOf(containers: readonly Observed[], self: Self): Map<string, string> {
  const claims = new Map<string, string>();
  for (const { labels } of containers) {
    const address = labels[label.bind]?.split(' ')[0];
    if (isOurs(labels, self) && address !== undefined)
      claims.set(labels[label.instance] ?? '', address);
  }
  return claims;
}

function nameOf({ names, id }: Observed): string {
  return names[0] ?? id;
}

export function toObserved(info: ContainerInfo): Observed {
  return {
    id: info.Id,
    names: info.Names.map((name) => name.replace(/^\//, '')),
    labels: info.Labels,
    state: info.State,
  };
}

function statusIn(error: unknown): unknown {
  return error instanceof PluginError ? error.details['status'] : statusOf(error);
}

/** 304: already started, or already stopped. */
function isUnchanged(error: unknown): boolean {
  return statusIn(error) === 304;
}
