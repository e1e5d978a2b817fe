/**
 * The docker plugin: this host's containers, network, images and their state. Read `diff.ts` first; what is in which file:
 * engine (connection), network and subnets, images with registry and image-export, containers with lifecycle and tasks (doing),
 * observe with health (seeing), exclusive with gates and restarts (what runs under a lease), sessions (logs, exec).
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { InstancesFact } from '../../crdt/model.ts';
import { PluginError } from '../api.ts';
import type {
  ContainerRuntime,
  DesiredInstance,
  DesiredView,
  Plugin,
  PluginContext,
  RunningPlugin,
} from '../api.ts';
import { type DockerConfig, parseDockerConfig } from './config.ts';
import { Containers } from './containers.ts';
import { Engine } from './engine.ts';
import { reasonOf, unreachable } from './errors.ts';
import type { ExclusiveControl } from './exclusive.ts';
import { ensureDir } from './files.ts';
import { Gates } from './gates.ts';
import { HostsFiles } from './hosts-files.ts';
import { Images } from './images.ts';
import { label } from './labels.ts';
import { Network } from './network.ts';
import { Observer } from './observe.ts';
import { Registry } from './registry.ts';
import { exec, logs } from './sessions.ts';

export interface RunningDocker extends RunningPlugin {
  /** For operations: logs, exec, images, state of the engine. */
  readonly runtime: ContainerRuntime;
  /** What was last published. */
  facts(): InstancesFact;
  readonly exclusive: ExclusiveControl;
}

export interface DockerPlugin extends Plugin<DockerConfig> {
  start(context: PluginContext, config: DockerConfig): Promise<RunningDocker>;
}

export function dockerPlugin(): DockerPlugin {
  return {
    name: 'docker',
    apiVersion: 1,
    provides: ['containers/1'],
    requires: [],
    parseConfig: parseDockerConfig,
    start,
  };
}

interface Parts {
  readonly engine: Engine;
  readonly registry: Registry;
  readonly images: Images;
  readonly network: Network;
  readonly hosts: HostsFiles;
  readonly containers: Containers;
  readonly observer: Observer;
  readonly gates: Gates;
}

/** Needs no engine: with none, or a hung one, the plugin waits for it. */
async function start(context: PluginContext, config: DockerConfig): Promise<RunningDocker> {
  ensureDir(context.stateDir);
  let view: DesiredView | null = null;
  const parts = await open(context, config, () => view);
  const { engine, observer } = parts;
  engine.listen({
    onEvent: (event) => observer.onEvent(event),
    onRelist: () => {
      parts.network.doubt();
      observer.relist();
      context.requestReconcile('the engine is there');
    },
    onState: () => observer.changed(),
  });
  observer.start();
  return {
    runtime: runtimeOf(parts),
    facts: () => observer.fact(),
    exclusive: parts.containers.exclusive.control({
      view: () => view,
      seen: (instance) => observer.containerOf(instance),
      onGates: () => observer.gatesChanged(),
    }),
    reconcile: async (desired, signal) => {
      view = desired;
      parts.gates.setView(desired);
      observer.setView(desired);
      return await parts.containers.reconcile(desired, signal);
    },
    stop: async () => {
      parts.images.stop();
      parts.containers.exclusive.stopTimers();
      await Promise.all([engine.stop(), parts.registry.close(), observer.stop()]);
    },
    purge: (signal) => purge(parts, context.stateDir, signal),
  };
}

async function open(
  context: PluginContext,
  config: DockerConfig,
  view: () => DesiredView | null,
): Promise<Parts> {
  const { self, stateDir } = context;
  const engine = new Engine(context, config, [
    `${label.cluster}=${self.clusterId}`,
    `${label.host}=${self.hostId}`,
  ]);
  const registry = await Registry.open({
    log: context.log,
    stateDir,
    fetch: async (hash, options) => {
      // A layer of another local image need not cross the network.
      if (!context.blobs.has(hash)) {
        await images
          .takeLocalLayer(hash, options.signal ?? new AbortController().signal)
          .catch(ignoreLocal(context));
      }
      return await context.blobs.fetch(hash, options);
    },
  });
  const repository = `trellis.internal/${self.clusterId.slice(0, 8)}-${self.hostId.slice(0, 4)}`;
  const images = new Images({ engine, context, config, registry, repository });
  const network = new Network({ engine, context, config });
  const hosts = new HostsFiles(stateDir);
  const onSituation = (): void => observer.changed();
  const gates = new Gates();
  const containers = new Containers({
    engine,
    context,
    config,
    network,
    images,
    hosts,
    gates,
    onSituation,
  });
  const onLook = (): Promise<void> =>
    collectGarbage({ images, hosts, containers, observer, context, view });
  const observer: Observer = new Observer({
    engine,
    context,
    config,
    network,
    containers,
    gates,
    onLook,
  });
  return { engine, registry, images, network, hosts, containers, observer, gates };
}

/** `view` is asked at every decision: it may change while this runs. */
async function collectGarbage(
  parts: Pick<Parts, 'images' | 'hosts' | 'containers' | 'observer'> & {
    context: PluginContext;
    view: () => DesiredView | null;
  },
): Promise<void> {
  const { view, images, observer } = parts;
  // Before the first view everything would look unused.
  if (view() === null) return;
  const desired = (): readonly DesiredInstance[] => view()?.instances ?? [];
  const removed = await images.collect({
    isWanted: (manifest) =>
      desired().some(({ clusterImage }) => clusterImage?.manifest === manifest),
    imageIds: await parts.containers.imagesInUse(),
  });
  if (removed.length > 0) parts.context.log.info('docker.images-removed', { removed });
  await parts.hosts.keepOnly(
    (instance) =>
      desired().some((one) => one.instance === instance) ||
      view()?.keep.includes(instance) === true ||
      observer.instances().includes(instance),
  );
}

/** Everything of ours on this engine and in the state directory. Rejects ENGINE_UNREACHABLE. */
async function purge(parts: Parts, stateDir: string, signal: AbortSignal): Promise<void> {
  const { engine } = parts;
  if ((await engine.ping()) !== 'ok') throw unreachable(engine.endpoint, engine.reason);
  await parts.containers.purge(signal);
  await parts.network.remove();
  await parts.images.purge();
  for (const file of ['addresses.json', 'registry.json', 'hosts']) {
    await rm(join(stateDir, file), { recursive: true, force: true });
  }
}

function runtimeOf({ engine, images, observer, gates }: Parts): ContainerRuntime {
  const isClosed = (containerId: string): boolean => {
    const lease = observer.labelsOf(containerId)?.[label.lease];
    return lease !== undefined && !gates.isOpen(lease);
  };
  return {
    logs: (containerId, options) => logs(engine, containerId, options, isClosed(containerId)),
    exec: async (containerId, options) => {
      if (isClosed(containerId)) throw notHeld(containerId);
      return await exec(engine, containerId, options);
    },
    pushImage: (reference, options) => images.push(reference, options),
    localImageId: (reference) => images.localImageId(reference),
    engine: async () => {
      const state = await engine.ping();
      const { version, reason, endpoint } = engine;
      return { state, endpoint, ...version, ...(state === 'ok' ? {} : { reason }) };
    },
  };
}

/** A command in a frozen container would hang until it is thawed. */
function notHeld(containerId: string): PluginError {
  const reason = 'its lease is not held on this host, so nothing may run in it';
  return new PluginError(
    'CONFLICT',
    { reason, todo: 'ask on its holder: `trellis lease ls`' },
    `${containerId}: ${reason}`,
  );
}

/** Taking a layer from a local image is a short cut: when it fails, it is fetched. */
function ignoreLocal(context: PluginContext): (error: unknown) => void {
  return (error) => context.log.debug('docker.local-layer', { reason: reasonOf(error) });
}
