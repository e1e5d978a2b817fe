/**
 * What is done to one container: create, start, stop, remove, with the limits on how many at a time and with the engine's
 * free-text refusals turned into codes.
 */
import type { ContainerCreateOptions, ContainerInfo } from 'dockerode';
import { type DesiredInstance, type PluginContext, PluginError } from '../api.ts';
import type { DockerConfig } from './config.ts';
import type { Observed } from './diff.ts';
import type { Engine } from './engine.ts';
import { isMissing, reasonOf, statusOf } from './errors.ts';
import { Limiter } from './files.ts';
import { isOurs, label } from './labels.ts';

/**
 * Containers being created and started at one time. Most of a start is waiting (for the shim, namespaces, the disk) and
 * not computing: ten took 2.5 s at once and 6 s four by four. The bound is for the engine's memory after a boot.
 */
const startsMax = 16;
/** Stops mostly wait for the program inside, so they do not share the places of starts. */
const stopsMax = 8;
/** Of those that a closing gate may block: a place is then taken for as long as the call is waited for. */
const gatedMax = 64;
/** On top of a container's grace period: what the engine needs to kill and clean up. */
const stopExtraMs = 20_000;
/** Of a container that is wanted no more and whose description is gone. */
const unknownGraceMs = 120_000;

export class Lifecycle {
  /** For messages. */
  hostName = '';
  readonly #engine: Engine;
  readonly #context: PluginContext;
  readonly #config: DockerConfig;
  readonly #starts = new Limiter(startsMax);
  readonly #stops = new Limiter(stopsMax);
  readonly #gated = new Limiter(gatedMax);

  constructor(parts: { engine: Engine; context: PluginContext; config: DockerConfig }) {
    this.#engine = parts.engine;
    this.#context = parts.context;
    this.#config = parts.config;
  }

  /** Creates it, and starts it if it is enabled. Rejects CONTAINER_FOREIGN, PORT_TAKEN or ENGINE_REFUSED. */
  async create(instance: DesiredInstance, options: ContainerCreateOptions): Promise<void> {
    await this.#starts.run(async () => {
      const id = await this.#createOrFind(instance, options);
      if (instance.isEnabled) await this.#startOnce(instance, id);
    });
  }

  /** Creates an exclusive one and leaves it at that; returns its id. */
  createOnly(instance: DesiredInstance, options: ContainerCreateOptions): Promise<string> {
    return this.#gated.run(() => this.#createOrFind(instance, options));
  }

  async start(instance: DesiredInstance, id: string): Promise<void> {
    const limiter = instance.exclusive === undefined ? this.#starts : this.#gated;
    await limiter.run(() => this.#startOnce(instance, id));
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
      if (instance.exclusive !== undefined) return await this.#findByName(instance, error);
      const found = await this.#engine.call(`inspect ${name}`, (signal) =>
        docker.getContainer(name).inspect({ abortSignal: signal }),
      );
      const { Labels } = found.Config;
      if (!isOurs(Labels, this.#context.self)) throw foreign(name, found.Id);
      if (Labels[label.spec] !== instance.spec) throw error;
      return found.Id;
    }
  }

  /** As above, by the list: the engine may not be able to say more about it. */
  async #findByName(instance: DesiredInstance, refusal: unknown): Promise<string> {
    const name = instance.containerName;
    const list = await this.#engine.call('list containers', (signal) =>
      this.#engine.docker.listContainers({
        all: true,
        filters: { name: [`^/?${name}$`] },
        abortSignal: signal,
      }),
    );
    const found = list.map(toObserved).find(({ names }) => names.includes(name));
    if (found === undefined) throw refusal;
    if (!isOurs(found.labels, this.#context.self)) throw foreign(name, found.id);
    if (found.labels[label.spec] !== instance.spec) throw refusal;
    return found.id;
  }

  async #startOnce(instance: DesiredInstance, id: string): Promise<void> {
    try {
      await this.#engine.call(
        `start ${instance.containerName}`,
        (signal) => this.#engine.docker.getContainer(id).start({ abortSignal: signal }),
        { timeoutMs: this.#config.startTimeoutMs, mayBlock: instance.exclusive !== undefined },
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
    const details = { port, host: this.hostName, owner };
    return new PluginError('PORT_TAKEN', details, `port ${port} is in use by ${owner}`, error);
  }

  /** Stops it gracefully and removes it. Resolves also when it is gone already. */
  async remove(container: Observed, signal?: AbortSignal): Promise<void> {
    const { id } = container;
    const mayBlock = container.labels[label.lease] !== undefined;
    if (container.state === 'paused') await this.unpause(id);
    if (container.state !== 'exited' && container.state !== 'created')
      await (mayBlock ? this.stopGated(id, null, signal) : this.stop(id, signal));
    try {
      await this.#engine.call(
        `remove ${nameOf(container)}`,
        (callSignal) =>
          this.#engine.docker
            .getContainer(id)
            .remove({ force: true, v: true, abortSignal: callSignal }),
        { mayBlock },
      );
    } catch (error) {
      // Gone, or somebody else is removing it: both are what we want.
      if (!isMissing(error) && statusIn(error) !== 409) throw error;
    }
  }

  /** SIGTERM, the grace period that the container was made with, then SIGKILL by the engine. */
  async stop(id: string, signal?: AbortSignal): Promise<void> {
    await this.#stops.run(() => this.#stopOnce(id, signal));
  }

  async #stopOnce(id: string, signal?: AbortSignal): Promise<void> {
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

  /**
   * The same for an exclusive one, whose gate must be open: without looking at it first. `graceMs` null: what it was made
   * with, and the engine is waited for as long as the longest of stops takes.
   */
  async stopGated(id: string, graceMs: number | null, signal?: AbortSignal): Promise<void> {
    const options = graceMs === null ? {} : { t: Math.ceil(graceMs / 1000) };
    await this.#gated.run(async () => {
      try {
        await this.#engine.call(
          `stop ${id}`,
          (callSignal) =>
            this.#engine.docker.getContainer(id).stop({ ...options, abortSignal: callSignal }),
          {
            timeoutMs: (graceMs ?? unknownGraceMs) + stopExtraMs,
            mayBlock: true,
            ...(signal === undefined ? {} : { signal }),
          },
        );
      } catch (error) {
        if (!isMissing(error) && !isUnchanged(error)) throw error;
      }
    });
  }

  async unpause(id: string): Promise<void> {
    await this.#engine.call(`unpause ${id}`, (signal) =>
      this.#engine.docker.getContainer(id).unpause({ abortSignal: signal }),
    );
  }
}

export function foreign(container: string, id: string): PluginError {
  return new PluginError(
    'CONTAINER_FOREIGN',
    { container, id },
    `container ${container} exists and is not ours`,
  );
}

export function nameOf({ names, id }: Observed): string {
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
