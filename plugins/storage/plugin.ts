/**
 * The storage plugin: directories that are active on one host at a time. `local` is that directory and no more; `sync`
 * also keeps a copy on the other hosts of the role. Read `managed.ts` first (one storage), then `layout.ts` (what lies
 * where), `copy.ts` (how it travels).
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { HostId, ObjectId } from '../../crdt/ids.ts';
import type { StorageFact } from '../../crdt/model.ts';
import { storagePathProblem } from '../../crdt/storage-path.ts';
import { pluginApiVersion } from '../api.ts';
import type {
  DesiredStorage,
  DesiredView,
  ItemFailure,
  Plugin,
  PluginContext,
  ReconcileOutcome,
  RunningPlugin,
} from '../api.ts';
import { writeRelay } from './copy.ts';
import { limited } from './limited.ts';
import { firstRequest, Managed, type Fitness } from './managed.ts';
import type { StoragePorts, StorageStream } from './ports.ts';
import { jsonPart } from './wire.ts';

export interface RunningStorage extends RunningPlugin {
  /** The path holds the newest content that is here: awaited before a workload of that lease is started. Idempotent. */
  activate(id: ObjectId, epoch: number): Promise<void>;
  /** Last copy before this host takes over from a holder that has stopped. */
  settle(id: ObjectId): Promise<Fitness>;
  /** May this host become active without losing what it has heard of? Unknown storage: fit. */
  fitness(id: ObjectId): Fitness;
  facts(): StorageFact;
}

/** Both ends are looked at so often; a look at an unchanged tree costs one scan. */
const lookEveryMs = 1_000;
const failureWaitMsMin = 1_000;
const failureWaitMsMax = 30_000;
/** Copies served at a time by one host. */
const servedMax = 8;

const run = promisify(execFile);

export interface StoragePlugin extends Plugin {
  start(context: PluginContext): Promise<RunningStorage>;
}

export function storagePlugin(ports: StoragePorts): StoragePlugin {
  return {
    name: 'storage',
    apiVersion: pluginApiVersion,
    provides: ['storage/1'],
    requires: [],
    parseConfig: () => undefined,
    start: async (context) => {
      const running = new Storage(context, ports, await writeRelay(join(context.stateDir, 'bin')));
      running.begin();
      return running;
    },
  };
}

class Storage implements RunningStorage {
  readonly #context: PluginContext;
  readonly #ports: StoragePorts;
  readonly #relay: string;
  readonly #managed = new Map<string, Managed>();
  readonly #desired = new Map<string, DesiredStorage>();
  /** No copy is tried before; by storage. */
  readonly #retryAtMs = new Map<string, { atMs: number; waitMs: number }>();
  readonly #following = new Set<string>();
  #serving = 0;
  #timer: NodeJS.Timeout | null = null;
  #toolFault: string | null = null;
  #published = '';

  constructor(context: PluginContext, ports: StoragePorts, relay: string) {
    this.#context = context;
    this.#ports = ports;
    this.#relay = relay;
  }

  begin(): void {
    this.#ports.serve((from, stream) => this.#serve(from, stream));
    this.#timer = setTimeout(() => void this.#round(), lookEveryMs);
  }

  async reconcile(view: DesiredView): Promise<ReconcileOutcome> {
    const changes: string[] = [];
    const failures: ItemFailure[] = [];
    const wanted = new Map((view.storage ?? []).map((one) => [one.id as string, one]));
    if ([...wanted.values()].some(({ driver }) => driver === 'sync')) await this.#lookForTool();
    for (const [id, managed] of this.#managed) {
      if (wanted.get(id)?.path === managed.path) continue;
      await managed.stop();
      this.#managed.delete(id);
    }
    this.#desired.clear();
    for (const [id, desired] of wanted) {
      this.#desired.set(id, desired);
      const problem = this.#pathProblem(id);
      if (problem !== null) {
        failures.push({ ...failureOf(desired, new Error(problem)), isTransient: false });
        continue;
      }
      try {
        const managed = await this.#manage(desired);
        if (await managed.reconcile(desired)) changes.push(`storage ${desired.name}`);
      } catch (error) {
        failures.push(failureOf(desired, error));
      }
    }
    if (this.#toolFault !== null) failures.push(toolFailure(this.#toolFault));
    this.#publish();
    return { changes, failures };
  }

  async activate(id: ObjectId, epoch: number): Promise<void> {
    const problem = this.#pathProblem(id);
    if (problem !== null) throw new Error(problem);
    await this.#managed.get(id)?.activate(epoch);
    this.#publish();
  }

  async settle(id: ObjectId): Promise<Fitness> {
    const fitness = (await this.#managed.get(id)?.settle()) ?? { isFit: true, why: '' };
    this.#publish();
    return fitness;
  }

  fitness(id: ObjectId): Fitness {
    const problem = this.#pathProblem(id);
    if (problem !== null) return { isFit: false, why: problem };
    const managed = this.#managed.get(id);
    if (managed === undefined) return { isFit: true, why: '' };
    const isSync = this.#desired.get(id)?.driver === 'sync';
    const fitness = managed.fitness();
    return isSync && fitness.isFit && this.#toolFault !== null
      ? { isFit: false, why: this.#toolFault }
      : fitness;
  }

  facts(): StorageFact {
    return { v: 1, storage: [...this.#managed.values()].map((managed) => managed.row()) };
  }

  async stop(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    await Promise.all([...this.#managed.values()].map((managed) => managed.stop()));
  }

  /** Copies go; what was active here stays under its path. */
  async purge(): Promise<void> {
    await this.stop();
    for (const managed of this.#managed.values()) await managed.purge();
    this.#managed.clear();
  }

  /** What every host checks is checked before; this is what only this host knows. */
  #pathProblem(id: string): string | null {
    const path = this.#desired.get(id)?.path;
    const problem = path === undefined ? null : storagePathProblem(path, this.#ports.reserved);
    return problem === null ? null : `path ${path} ${problem}`;
  }

  async #manage(desired: DesiredStorage): Promise<Managed> {
    const known = this.#managed.get(desired.id);
    if (known !== undefined) return known;
    const managed = await Managed.open({
      context: this.#context,
      ports: this.#ports,
      relay: this.#relay,
      desired,
    });
    this.#managed.set(desired.id, managed);
    return managed;
  }

  /** Looks at what is active here, and begins copies of what is active elsewhere. */
  async #round(): Promise<void> {
    const beganMs = this.#context.clock.monotonicMs();
    for (const [id, managed] of this.#managed) {
      try {
        await managed.look();
      } catch (error) {
        this.#context.log.warn('storage.look-failed', { storage: id, reason: String(error) });
      }
      this.#follow(id, managed);
    }
    this.#publish();
    if (this.#timer === null) return;
    // Large trees are looked at more rarely: a look takes at most a fifth of the time.
    const tookMs = this.#context.clock.monotonicMs() - beganMs;
    this.#timer = setTimeout(() => void this.#round(), Math.max(lookEveryMs, tookMs * 4));
  }

  #follow(id: string, managed: Managed): void {
    const retry = this.#retryAtMs.get(id);
    const nowMs = this.#context.clock.monotonicMs();
    if (this.#following.has(id) || (retry !== undefined && nowMs < retry.atMs)) return;
    if (this.#toolFault !== null) return;
    this.#following.add(id);
    void managed.follow().then((isDone) => {
      this.#following.delete(id);
      const hasFailed = managed.row().reason !== null;
      const waitMs = Math.min(failureWaitMsMax, (retry?.waitMs ?? failureWaitMsMin / 2) * 2);
      if (hasFailed) this.#retryAtMs.set(id, { atMs: nowMs + waitMs, waitMs });
      else this.#retryAtMs.delete(id);
      if (isDone || hasFailed) this.#publish();
    });
  }

  async #serve(from: HostId, stream: StorageStream): Promise<void> {
    const messages = stream.messages[Symbol.asyncIterator]();
    const request = await firstRequest(messages);
    const refuse = (code: string, why: string): Promise<void> =>
      stream.send(jsonPart({ isOk: false, code, why }));
    if (request === null) return await refuse('STORAGE_COPY_FAILED', 'not a request');
    const desired = this.#desired.get(request.id);
    const managed = this.#managed.get(request.id);
    if (desired === undefined || managed === undefined)
      return await refuse('STORAGE_NOT_ACTIVE', 'this host has no such storage');
    if (desired.hosts?.includes(from) !== true)
      return await refuse('FORBIDDEN', 'this host may have no copy of it');
    if (this.#serving >= servedMax) return await refuse('STORAGE_COPY_FAILED', 'too many copies');
    this.#serving++;
    try {
      await managed.serve(request, limited(stream), messages);
    } finally {
      this.#serving--;
    }
  }

  async #lookForTool(): Promise<void> {
    try {
      await run('rsync', ['--version']);
      this.#toolFault = null;
    } catch (error) {
      this.#toolFault = 'rsync is not installed';
      this.#context.log.warn('storage.no-tool', { reason: String(error) });
    }
  }

  #publish(): void {
    const fact = this.facts();
    const text = JSON.stringify(fact);
    if (text === this.#published) return;
    this.#published = text;
    this.#context.publish(fact);
  }
}

function failureOf(desired: DesiredStorage, error: unknown): ItemFailure {
  const reason = error instanceof Error ? error.message : String(error);
  return {
    item: `storage ${desired.name}`,
    code: 'STORAGE_FAILED',
    message: reason,
    details: { storage: desired.name, reason },
    isTransient: true,
  };
}

function toolFailure(reason: string): ItemFailure {
  return {
    item: 'storage',
    code: 'TOOL_MISSING',
    message: reason,
    details: { tool: 'rsync', how: 'apt-get install rsync' },
    isTransient: false,
  };
}
