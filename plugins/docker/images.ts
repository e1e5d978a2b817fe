/**
 * Images of this host's engine: found, pulled from the cluster or from their registry, pushed into the cluster, and
 * collected when nothing uses them.
 *
 * An image from the cluster keeps a name of our own, `trellis.internal/<cluster8>-<host4>:<manifest>`, so that nobody's
 * clean-up of unnamed images takes it away and so that we know which ones are ours to collect.
 */
import { readFile } from 'node:fs/promises';
import type { Duplex } from 'node:stream';
import type { Hash } from '../../crdt/ids.ts';
import type { ContainerRuntime, DesiredInstance, PluginContext } from '../api.ts';
import { PluginError } from '../api.ts';
import type { DockerConfig } from './config.ts';
import type { Engine } from './engine.ts';
import { imageUnavailable, isMissing, reasonOf } from './errors.ts';
import { Limiter } from './files.ts';
import { alreadyStored, exportImage } from './image-export.ts';
import { type ImageManifest, decodeManifest, encodeManifest, hashOf } from './manifest.ts';
import type { Registry } from './registry.ts';

/** A reference becomes part of a path of the engine's API. */
const referencePattern = /^[a-zA-Z0-9][a-zA-Z0-9._:/@-]{0,299}$/;
const pullsMax = 3;
/** A failed pull is not tried again before this, whatever asks. */
const retryAfterMs = 5_000;
const failuresKeptMax = 200;
/** An export of a local image to save a transfer is not worth it for many images. */
const localImagesSearchedMax = 200;
const progressLineCharsMax = 1 << 20;

type Push = Awaited<ReturnType<ContainerRuntime['pushImage']>>;
type PushOptions = Parameters<ContainerRuntime['pushImage']>[1];

export class Images {
  readonly #engine: Engine;
  readonly #context: PluginContext;
  readonly #config: DockerConfig;
  readonly #registry: Registry;
  readonly #repository: string;
  readonly #pulls = new Limiter(pullsMax);
  readonly #pending = new Map<string, Promise<string>>();
  readonly #failed = new Map<string, { error: unknown; untilMs: number }>();
  readonly #unusedSince = new Map<string, number>();
  readonly #stopping = new AbortController();

  constructor(parts: {
    engine: Engine;
    context: PluginContext;
    config: DockerConfig;
    registry: Registry;
    repository: string;
  }) {
    this.#engine = parts.engine;
    this.#context = parts.context;
    this.#config = parts.config;
    this.#registry = parts.registry;
    this.#repository = parts.repository;
  }

  stop(): void {
    this.#stopping.abort();
  }

  /** The engine's id of the image that this instance must run, fetched if need be. Rejects IMAGE_UNAVAILABLE. */
  resolve(instance: Pick<DesiredInstance, 'image' | 'clusterImage'>): Promise<string> {
    if (!isReference(instance.image)) {
      return Promise.reject(imageUnavailable(instance.image, 'this is no image reference'));
    }
    const key = instance.clusterImage === null ? instance.image : instance.clusterImage.manifest;
    const pending = this.#pending.get(key);
    if (pending !== undefined) return pending;
    const failed = this.#failed.get(key);
    if (failed !== undefined && this.#context.clock.monotonicMs() < failed.untilMs)
      return Promise.reject(failed.error as Error);
    const work = this.#resolve(instance)
      .catch((error: unknown) => {
        this.#remember(key, error);
        throw error;
      })
      .finally(() => this.#pending.delete(key));
    this.#pending.set(key, work);
    return work;
  }

  async localImageId(reference: string): Promise<string | null> {
    if (!isReference(reference)) return null;
    try {
      const image = await this.#engine.call(`inspect image ${reference}`, () =>
        this.#engine.docker.getImage(reference).inspect(),
      );
      return image.Id;
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  }

  /** See ContainerRuntime.pushImage. Doing it twice exports nothing the second time. */
  async push(reference: string, options: PushOptions): Promise<Push> {
    const { blobs } = this.#context;
    if (!isReference(reference)) throw imageUnavailable(reference, 'this is no image reference');
    const image = await this.#engine
      .call(`inspect image ${reference}`, () => this.#engine.docker.getImage(reference).inspect())
      .catch((error: unknown) => {
        throw isMissing(error)
          ? imageUnavailable(reference, 'this host has no image of that name', error)
          : error;
      });
    const stored =
      (await alreadyStored(blobs, hashOf(image.Id))) ??
      (await this.#export(reference, { ...options, totalBytes: image.Size }));
    const { hash: manifest } = await blobs.put(encodeManifest(stored));
    const sizeBytes = stored.layers.reduce(
      (sum, layer) => sum + layer.sizeBytes,
      stored.config.sizeBytes,
    );
    options.onProgress('done', sizeBytes, sizeBytes);
    return {
      reference,
      manifest,
      imageId: `sha256:${stored.config.hash}`,
      sizeBytes,
      layers: stored.layers.map((layer) => layer.hash),
    };
  }

  /**
   * Removes own images that neither a desired instance nor a container has used for the grace period, and what a
   * crash in the middle of a pull left. Returns the names removed.
   */
  async collect(used: {
    isWanted: (manifest: Hash) => boolean;
    imageIds: ReadonlySet<string>;
  }): Promise<string[]> {
    if (this.#pending.size > 0) return [];
    const removed: string[] = [];
    const nowMs = this.#context.clock.monotonicMs();
    const own = await this.#ownImages();
    for (const { tag, id, manifest } of own) {
      if (used.isWanted(manifest) || used.imageIds.has(id)) {
        this.#unusedSince.delete(tag);
        continue;
      }
      const sinceMs = this.#unusedSince.get(tag) ?? nowMs;
      this.#unusedSince.set(tag, sinceMs);
      if (nowMs - sinceMs >= this.#config.imageGraceMs && (await this.#remove(tag)))
        removed.push(tag);
    }
    for (const tag of this.#unusedSince.keys())
      if (!own.some((image) => image.tag === tag)) this.#unusedSince.delete(tag);
    return removed;
  }

  /** Removes every name of ours; images that also have another name stay under that. */
  async purge(): Promise<void> {
    for (const { tag } of await this.#ownImages()) await this.#remove(tag);
  }

  async #resolve(instance: Pick<DesiredInstance, 'image' | 'clusterImage'>): Promise<string> {
    if (instance.clusterImage === null) {
      return (
        (await this.localImageId(instance.image)) ??
        (await this.#pulls.run(() => this.#pullReference(instance.image)))
      );
    }
    const { manifest, imageId } = instance.clusterImage;
    const local =
      (await this.localImageId(imageId)) ?? (await this.localImageId(this.#tag(manifest)));
    return (
      local ??
      (await this.#pulls.run(() => this.#pullFromCluster(instance.image, { manifest, imageId })))
    );
  }

  async #pullReference(reference: string): Promise<string> {
    try {
      await this.#pull(reference, () => undefined);
    } catch (error) {
      throw toUnavailable(reference, error);
    }
    const id = await this.localImageId(reference);
    if (id === null) throw imageUnavailable(reference, 'the engine pulled it and does not have it');
    return id;
  }

  async #pullFromCluster(
    image: string,
    { manifest, imageId }: { manifest: Hash; imageId: string },
  ): Promise<string> {
    const startedMs = this.#context.clock.monotonicMs();
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, this.#stopping.signal]);
    const content = await this.#manifest(image, { manifest, imageId, signal });
    let touch: () => void = () => undefined;
    const offer = this.#registry.offer({
      manifest,
      contents: [content.config.hash, ...content.layers.map((layer) => layer.hash)],
      signal,
      onProgress: () => touch(),
    });
    try {
      await this.#pull(offer.reference, (onTouch) => (touch = onTouch));
      const id = await this.localImageId(offer.reference);
      // Classic stores name an image by its configuration, containerd's by its manifest. Both are hashes of what we asked for.
      if (id !== imageId && id !== `sha256:${manifest}`)
        throw new Error(`the engine made ${String(id)} of it`);
      await this.#keepAs(offer.reference, this.#tag(manifest));
      this.#context.log.info('docker.image-pulled', {
        image,
        manifest,
        elapsedMs: this.#context.clock.monotonicMs() - startedMs,
      });
      return id;
    } catch (error) {
      throw toUnavailable(image, error);
    } finally {
      offer.withdraw();
      stop.abort();
    }
  }

  async #manifest(
    image: string,
    { manifest, imageId, signal }: { manifest: Hash; imageId: string; signal: AbortSignal },
  ): Promise<ImageManifest> {
    const path = await this.#context.blobs.fetch(manifest, { signal }).catch((error: unknown) => {
      throw toUnavailable(image, error);
    });
    const content = decodeManifest(await readFile(path));
    if (content === null) throw imageUnavailable(image, `blob ${manifest} is no image manifest`);
    if (`sha256:${content.config.hash}` !== imageId)
      throw imageUnavailable(image, `manifest ${manifest} is of another image than ${imageId}`);
    return content;
  }

  /** Pulls until done; gives up when neither the engine nor a transfer (`onTouch`) has moved for a while. */
  async #pull(reference: string, subscribe: (onTouch: () => void) => void): Promise<void> {
    const idle = new AbortController();
    const signal = AbortSignal.any([idle.signal, this.#stopping.signal]);
    const limit = (): void =>
      idle.abort(new Error(`no progress for ${this.#config.pullIdleTimeoutMs} ms`));
    let timer = setTimeout(limit, this.#config.pullIdleTimeoutMs);
    const touch = (): void => {
      clearTimeout(timer);
      timer = setTimeout(limit, this.#config.pullIdleTimeoutMs);
    };
    subscribe(touch);
    try {
      const stream = await this.#engine.call(
        `pull ${withoutSecret(reference)}`,
        (callSignal) => this.#engine.docker.pull(reference, { abortSignal: callSignal }),
        {
          timeoutMs: this.#config.pullIdleTimeoutMs,
          signal,
        },
      );
      await readProgress(stream, { signal, onLine: touch });
    } finally {
      clearTimeout(timer);
    }
  }

  /** A name of our own in place of the one that holds our registry's port and secret. */
  async #keepAs(reference: string, tag: string): Promise<void> {
    const [repo, name] = splitTag(tag);
    await this.#engine.call(`name image ${tag}`, (signal) =>
      this.#engine.docker.getImage(reference).tag({ repo, tag: name, abortSignal: signal }),
    );
    await this.#remove(reference);
  }

  async #remove(reference: string): Promise<boolean> {
    try {
      await this.#engine.call(`remove image ${withoutSecret(reference)}`, (signal) =>
        this.#engine.docker.getImage(reference).remove({ abortSignal: signal }),
      );
      return true;
    } catch (error) {
      // Still used by a container that somebody else made of it: theirs to keep.
      if (!isMissing(error))
        this.#context.log.debug('docker.image-kept', {
          image: withoutSecret(reference),
          reason: reasonOf(error),
        });
      return false;
    }
  }

  /** Exported so that the registry can take a layer from a local image instead of from another host. */
  async takeLocalLayer(hash: Hash, signal: AbortSignal): Promise<void> {
    const { docker } = this.#engine;
    const list = await this.#engine.call('list images', (callSignal) =>
      docker.listImages({ abortSignal: callSignal }),
    );
    for (const { Id } of list.slice(0, localImagesSearchedMax)) {
      const image = await this.#engine.call(`inspect image ${Id}`, () =>
        docker.getImage(Id).inspect(),
      );
      if (!image.RootFS.Layers?.includes(`sha256:${hash}`)) continue;
      await this.#export(Id, { signal, onProgress: () => undefined, totalBytes: image.Size });
      return;
    }
  }

  async #export(
    reference: string,
    options: PushOptions & { totalBytes: number },
  ): Promise<ImageManifest> {
    const signal = AbortSignal.any([options.signal, this.#stopping.signal]);
    const source = await this.#engine.call(
      `export image ${reference}`,
      () => this.#engine.docker.getImage(reference).get(),
      { timeoutMs: this.#config.pullIdleTimeoutMs, signal },
    );
    return await exportImage(source, {
      blobs: this.#context.blobs,
      signal,
      onProgress: options.onProgress,
      image: reference,
      totalBytes: options.totalBytes,
    });
  }

  async #ownImages(): Promise<{ tag: string; id: string; manifest: Hash }[]> {
    const list = await this.#engine.call('list images', (signal) =>
      this.#engine.docker.listImages({ abortSignal: signal }),
    );
    const own: { tag: string; id: string; manifest: Hash }[] = [];
    for (const image of list) {
      for (const tag of image.RepoTags ?? []) {
        const [repo, name] = splitTag(tag);
        if (repo === this.#repository) own.push({ tag, id: image.Id, manifest: name as Hash });
      }
    }
    return own;
  }

  #tag(manifest: Hash): string {
    return `${this.#repository}:${manifest}`;
  }

  #remember(key: string, error: unknown): void {
    if (this.#failed.size >= failuresKeptMax) this.#failed.clear();
    this.#failed.set(key, { error, untilMs: this.#context.clock.monotonicMs() + retryAfterMs });
  }
}

/** Reads the engine's progress to its end. Its errors come inside a stream that began with status 200. */
async function readProgress(
  stream: NodeJS.ReadableStream,
  { signal, onLine }: { signal: AbortSignal; onLine: () => void },
): Promise<void> {
  const destroy = (): void => {
    (stream as Duplex).destroy(signal.reason as Error);
  };
  if (signal.aborted) destroy();
  signal.addEventListener('abort', destroy, { once: true });
  try {
    let rest = '';
    for await (const chunk of stream) {
      onLine();
      rest += String(chunk);
      const lines = rest.split('\n');
      rest = lines.pop() ?? '';
      if (rest.length > progressLineCharsMax)
        throw new Error('a progress line of the engine is too long');
      for (const line of lines) throwIfError(line);
    }
    throwIfError(rest);
    signal.throwIfAborted();
  } finally {
    signal.removeEventListener('abort', destroy);
  }
}

function throwIfError(line: string): void {
  if (!line.includes('"error')) return;
  const message = (JSON.parse(line) as { error?: string; errorDetail?: { message?: string } })
    .errorDetail?.message;
  if (message !== undefined) throw new Error(message);
}

function toUnavailable(image: string, error: unknown): PluginError {
  if (
    error instanceof PluginError &&
    error.code !== 'ENGINE_REFUSED' &&
    error.code !== 'BLOB_UNAVAILABLE'
  )
    return error;
  return imageUnavailable(image, withoutSecret(reasonOf(error)), error);
}

/** The path of our registry must not get into logs and messages. */
function withoutSecret(text: string): string {
  return text.replaceAll(/(127\.0\.0\.1:\d+\/)[0-9a-f]{32}/g, '$1…');
}

function isReference(text: string): boolean {
  return referencePattern.test(text) && !text.includes('..');
}

function splitTag(tag: string): [repo: string, name: string] {
  const colon = tag.lastIndexOf(':');
  return [tag.slice(0, colon), tag.slice(colon + 1)];
}
