/**
 * Makes this host's containers the desired ones: see `diff.ts` for what is to be done, here is how.
 */
import { PluginError } from '../api.ts';
import type {
  DesiredInstance,
  DesiredView,
  ItemFailure,
  PluginContext,
  ReconcileOutcome,
} from '../api.ts';
import type { DockerConfig } from './config.ts';
import { type Action, type Foreign, type GateState, type Observed, diff } from './diff.ts';
import { type Engine, orAbort, pause } from './engine.ts';
import { reasonOf, unreachable } from './errors.ts';
import { Exclusive } from './exclusive.ts';
import type { Gates } from './gates.ts';
import { Limiter } from './files.ts';
import { type HostsFiles, hostsText } from './hosts-files.ts';
import type { Images } from './images.ts';
import { type Self, isOurs, label } from './labels.ts';
import { Lifecycle, foreign, nameOf, toObserved } from './lifecycle.ts';
import type { Network } from './network.ts';
import { bindOf, cgroupParentOf, createOptions, hostnameOf, published } from './spec.ts';
import { type Batch, Tasks, newBatch } from './tasks.ts';

const hostsWritesMax = 8;
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
  readonly #tasks: Tasks;
  readonly #lifecycle: Lifecycle;
  readonly #situations = new Map<string, Situation>();
  readonly #gates: Gates;
  readonly exclusive: Exclusive;

  constructor(parts: {
    engine: Engine;
    context: PluginContext;
    config: DockerConfig;
    network: Network;
    images: Images;
    hosts: HostsFiles;
    gates: Gates;
    onSituation: () => void;
  }) {
    this.#engine = parts.engine;
    this.#context = parts.context;
    this.#config = parts.config;
    this.#network = parts.network;
    this.#images = parts.images;
    this.#hosts = parts.hosts;
    this.#onSituation = parts.onSituation;
    this.#lifecycle = new Lifecycle(parts);
    this.#tasks = new Tasks({
      toFailure: (item, error) => this.#toFailure(item, error),
      onLateEnd: (item) => this.#context.requestReconcile(`work on ${item} has ended`),
    });
    this.#gates = parts.gates;
    this.exclusive = new Exclusive({
      ...parts,
      lifecycle: this.#lifecycle,
      tasks: this.#tasks,
      bindOf: (instance, view) => this.#bindOf(instance, view),
      list: () => this.#list(),
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
    this.#lifecycle.hostName = view.hostName;
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
      ours.map((container) => this.#lifecycle.remove(container, signal)),
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
      // A member without an engine that is to run nothing lacks nothing: nobody waits for it.
      if (view.instances.length === 0 && !this.#network.hasBeenUsed) return;
      throw unreachable(this.#engine.endpoint, this.#engine.reason);
    }
    if (await this.#network.ensure()) batch.changes.push(`network ${this.#network.name} created`);
    const busy = this.#tasks.busy();
    const containers = await this.#list();
    const instances = [...view.instances.map(({ instance }) => instance), ...view.keep];
    await this.#network.allocate(instances, claimsOf(containers, this.#context.self));
    signal.throwIfAborted();
    const hosts = this.#writeHosts(view);
    const work = this.#begin({ view, containers, busy, batch, hosts }).then(() =>
      this.#finishHosts(hosts, batch),
    );
    await Promise.race([work, pause(this.#config.reconcileWaitMs, signal)]);
  }

  /**
   * Begins writing every instance's hosts file, in start order. Nobody waits for all of them: on a busy disk that would
   * hold up the first start by the time of the last write.
   */
  #writeHosts(view: DesiredView): ReadonlyMap<string, Promise<void>> {
    const instances = new Set([...view.instances.map(({ instance }) => instance), ...view.keep]);
    const writes = new Limiter(hostsWritesMax);
    const write = async (instance: string): Promise<void> => {
      const address = this.#network.addressOf(instance);
      if (address === null) return;
      await this.#hosts.write(
        instance,
        hostsText(view, { hostname: hostnameOf(instance), address }),
      );
    };
    return new Map(
      [...instances].map((instance) => {
        const written = writes.run(() => write(instance));
        // Awaited later, in order; until then a failure has a handler.
        written.catch(() => undefined);
        return [instance, written];
      }),
    );
  }

  /** Resolves when all are written; those that failed are reported unless the work on their container did so. */
  async #finishHosts(hosts: ReadonlyMap<string, Promise<void>>, batch: Batch): Promise<void> {
    for (const [instance, written] of hosts) {
      try {
        await written;
      } catch (error) {
        if (!batch.failures.some(({ item }) => item === instance))
          batch.failures.push(this.#toFailure(instance, error));
      }
    }
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
    hosts: ReadonlyMap<string, Promise<void>>;
  }): Promise<void> {
    const { view, containers, busy, batch, hosts } = input;
    const wanted = view.instances.map((instance) => ({
      instance,
      bind: this.#bindOf(instance, view),
      ...this.#gateOf(instance, { containers, busy }),
    }));
    const givenUp = this.exclusive.failures(view);
    batch.failures.push(...givenUp);
    const { actions, foreign: obstacles } = diff({
      self: this.#context.self,
      wanted,
      keep: new Set(view.keep),
      containers,
      isClosed: (lease) => !this.#gates.isOpen(lease),
    });
    const concerned = [...actions.filter((action) => action.kind !== 'remove'), ...obstacles];
    this.#forgetSituations(
      new Set([
        ...concerned.map((one) => one.wanted.instance.instance),
        ...givenUp.map(({ item }) => item),
      ]),
    );
    for (const { item, code, message } of givenUp)
      this.#settle(item, { state: 'failed', reason: `${code}: ${message}` });
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
            if (!isFreeing) await hosts.get(action.wanted.instance.instance);
            return await this.#apply(action, view);
          },
        },
        batch,
      );
      all.push(work);
      if (isFreeing) freeing.push(work);
      // One that a gate may block holds up nobody.
      else if (action.wanted.instance.exclusive === undefined)
        byService.set(action.wanted.instance.service, [
          ...(byService.get(action.wanted.instance.service) ?? []),
          work,
        ]);
    }
    await Promise.all(all);
  }

  /** Nothing for what may run anywhere. What is being worked on is decided on once that has ended. */
  #gateOf(
    instance: DesiredInstance,
    now: { containers: readonly Observed[]; busy: ReadonlySet<string> },
  ): { gate?: GateState } {
    if (instance.exclusive === undefined) return {};
    const name = instance.containerName;
    if (now.busy.has(name) || this.#tasks.isBusy(name)) return { gate: 'resting' };
    const container = now.containers.find(({ names }) => names.includes(name)) ?? null;
    return { gate: this.exclusive.gateOf(instance, container) };
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
      await this.#lifecycle.remove(action.container);
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
        if (instance.exclusive === undefined)
          await this.#lifecycle.start(instance, action.container.id);
        else await this.exclusive.start(instance, action.container.id);
        this.#settle(instance.instance, null);
        return `started ${name}`;
      case 'unpause':
        await this.#lifecycle.unpause(action.container.id);
        return `unpaused ${name}`;
      case 'stop':
        if (instance.exclusive === undefined) await this.#lifecycle.stop(action.container.id);
        else await this.exclusive.stop(instance, action.container.id);
        return `stopped ${name}`;
    }
  }

  async #create(instance: DesiredInstance, view: DesiredView, old: Observed | null): Promise<void> {
    this.#settle(instance.instance, { state: 'pulling' });
    // The image first: an old container runs on until it can be replaced.
    const imageId = await this.#images.resolve(instance);
    this.#settle(instance.instance, { state: 'waiting' });
    if (old !== null) await this.#lifecycle.remove(old);
    const address = this.#network.addressOf(instance.instance);
    if (address === null) throw new Error(`${instance.instance} has no address`);
    const hostsFile = this.#hosts.pathOf(instance.instance);
    const options = createOptions(instance, {
      view,
      network: this.#network.name,
      address,
      hostsFile,
      imageId,
      cgroupParent:
        instance.exclusive === undefined
          ? null
          : cgroupParentOf(instance.exclusive.gate, await this.#engine.cgroupDriver()),
    });
    if (instance.exclusive === undefined) await this.#lifecycle.create(instance, options);
    else await this.exclusive.create(instance, options);
    this.#settle(instance.instance, null);
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

  /** What failed earlier and is as it should be now has no story any more. */
  #forgetSituations(concerned: ReadonlySet<string>): void {
    for (const instance of this.#situations.keys())
      if (!concerned.has(instance)) this.#situations.delete(instance);
  }
}

/** The same input fails again until somebody changes something on this host. */
const lasting: ReadonlySet<string> = new Set(['CONTAINER_FOREIGN', 'PORT_TAKEN', 'START_FAILED']);

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
