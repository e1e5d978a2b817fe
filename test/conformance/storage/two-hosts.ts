/** Two or more storage plugins with real directories and a real rsync, and streams between them that can be cut. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ClusterId, HostId, ObjectId } from '../../../crdt/ids.ts';
import type { StorageFact } from '../../../crdt/model.ts';
import type {
  DesiredStorage,
  DesiredView,
  ItemFailure,
  PluginContext,
} from '../../../plugins/api.ts';
import { storagePlugin, type RunningStorage } from '../../../plugins/storage/plugin.ts';
import type { StoragePorts, StorageStream } from '../../../plugins/storage/ports.ts';

export const storageId = 'ab'.repeat(16) as ObjectId;

export class StorageRig {
  readonly dir = mkdtempSync(join(tmpdir(), 'trellis-storage-'));
  readonly hosts = new Map<HostId, RigHost>();
  /** Hosts whose facts and streams others do not get. */
  readonly cut = new Set<HostId>();

  async add(name: string, path = 'db'): Promise<RigHost> {
    const host = new RigHost(this, name, path);
    this.hosts.set(host.id, host);
    await host.start();
    return host;
  }

  /** `active` holds the lease under `epoch`; everybody is told, as far as reachable. */
  async hold(active: RigHost, epoch: number): Promise<void> {
    for (const host of this.hosts.values()) {
      if (this.cut.has(host.id)) continue;
      await host.desire({
        epoch: host === active ? epoch : null,
        active: active.id,
        activeEpoch: epoch,
      });
    }
  }

  async dispose(): Promise<void> {
    for (const host of this.hosts.values()) await host.running?.stop();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

export class RigHost {
  readonly id: HostId;
  readonly path: string;
  readonly #rig: StorageRig;
  readonly #stateDir: string;
  running: RunningStorage | null = null;
  fact: StorageFact | null = null;
  /** Of the last reconcile. */
  failures: readonly ItemFailure[] = [];
  pauses = 0;
  pauseWorks = true;
  /** A workload of the test that is not to write now. */
  isPaused = false;
  handle: (from: HostId, stream: StorageStream) => Promise<void> = () => Promise.resolve();

  constructor(rig: StorageRig, name: string, path: string) {
    this.#rig = rig;
    this.id = name.padEnd(32, '0') as HostId;
    this.path = join(rig.dir, name, path);
    this.#stateDir = join(rig.dir, name, 'state');
  }

  async start(): Promise<void> {
    this.running = await storagePlugin(this.#ports()).start(this.#context());
  }

  async desire(wish: { epoch: number | null; active: HostId; activeEpoch: number }): Promise<void> {
    const storage: DesiredStorage = {
      id: storageId,
      name: 'dbdata',
      driver: 'sync',
      path: this.path,
      lease: 'storage/prod/x',
      epoch: wish.epoch,
      hosts: [...this.#rig.hosts.keys()],
      active: { host: wish.active, address: '', apiPort: 0, epoch: wish.activeEpoch },
    };
    const view = { storage: [storage] } as unknown as DesiredView;
    const outcome = await this.running?.reconcile(view, new AbortController().signal);
    this.failures = outcome?.failures ?? [];
  }

  row(): StorageFact['storage'][number] | undefined {
    return this.running?.facts().storage[0];
  }

  #ports(): StoragePorts {
    return {
      reserved: [this.#stateDir],
      open: (host) => this.#open(host),
      serve: (handle) => {
        this.handle = handle;
      },
      facts: () =>
        [...this.#rig.hosts.values()]
          .filter((host) => host.fact !== null && (host === this || !this.#rig.cut.has(host.id)))
          .map((host) => ({ host: host.id, ageMs: 0, fact: host.fact as StorageFact })),
      pause: () => {
        if (!this.pauseWorks) return Promise.resolve(null);
        this.pauses++;
        this.isPaused = true;
        return Promise.resolve(() => {
          const wasPaused = this.isPaused;
          this.isPaused = false;
          return Promise.resolve(wasPaused);
        });
      },
    };
  }

  #open(to: HostId): Promise<StorageStream> {
    const host = this.#rig.hosts.get(to);
    if (host === undefined || this.#rig.cut.has(to) || this.#rig.cut.has(this.id))
      return Promise.reject(new Error('HOST_UNREACHABLE'));
    const [near, far] = streamPair();
    host.handle(this.id, far).then(
      () => far.close(),
      (error: unknown) => far.abort(String(error)),
    );
    return Promise.resolve(near);
  }

  #context(): PluginContext {
    const quiet = (): void => undefined;
    return {
      self: { clusterId: 'c'.repeat(32) as ClusterId, hostId: this.id, env: 'prod' },
      clock: { monotonicMs: () => performance.now(), wallMs: () => Date.now() },
      log: { debug: quiet, info: quiet, warn: quiet, error: quiet },
      stateDir: this.#stateDir,
      requestReconcile: quiet,
      publish: (value) => {
        this.fact = value as StorageFact;
      },
      blobs: {
        has: () => false,
        path: () => null,
        put: () => Promise.reject(new Error('no blobs here')),
        fetch: () => Promise.reject(new Error('no blobs here')),
      },
    };
  }
}

/** Two ends; what one sends the other reads, until either closes or aborts. */
export function streamPair(): [StorageStream, StorageStream] {
  const stop = new AbortController();
  const [a, b] = [new Pipe(stop.signal), new Pipe(stop.signal)];
  const end = (out: Pipe, into: Pipe): StorageStream => ({
    send: (message) =>
      stop.signal.aborted ? Promise.reject(new Error('gone')) : out.push(message),
    messages: into,
    close: () => Promise.resolve(out.end()),
    abort: (reason) => stop.abort(new Error(reason)),
    ended: stop.signal,
  });
  return [end(a, b), end(b, a)];
}

class Pipe implements AsyncIterable<Uint8Array> {
  readonly #queue: Uint8Array[] = [];
  #isEnded = false;
  #wake: () => void = () => undefined;
  readonly #stop: AbortSignal;

  constructor(stop: AbortSignal) {
    this.#stop = stop;
    stop.addEventListener('abort', () => this.#wake());
  }

  push(message: Uint8Array): Promise<void> {
    this.#queue.push(message.slice());
    this.#wake();
    return Promise.resolve();
  }

  end(): void {
    this.#isEnded = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for (;;) {
      const next = this.#queue.shift();
      if (next !== undefined) yield next;
      else if (this.#stop.aborted) throw this.#stop.reason as Error;
      else if (this.#isEnded) return;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
