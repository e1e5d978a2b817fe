/**
 * One storage on this host: active, or a copy that follows the active host. One piece of work at a time; everything that
 * is decided is decided on `state`, which is on disk before the world changes.
 */
import { execFile } from 'node:child_process';
import { mkdir } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { StorageFact } from '../../crdt/model.ts';
import type { DesiredStorage, PluginContext } from '../api.ts';
import { CopyError, pull, serve } from './copy.ts';
import { Known } from './known.ts';
import { beatEveryMs } from './limited.ts';
import { freshState, Layout, type StorageState } from './layout.ts';
import type { StoragePorts, StorageStream } from './ports.ts';
import { distrust, scanAtRest, scanTree, type Scan } from './scan.ts';
import { Snapshot } from './snapshot.ts';
import { bytesPart, jsonPart, readPart, readRequest, type CopyRequest } from './wire.ts';

export type StorageRow = StorageFact['storage'][number];

/** A copy may be taken up while it lags no more than this behind what the active host last said. */
export const lagMsMax = 10_000;
/** Passes while the workload runs, before a snapshot is asked for. */
const openPassesMax = 2;
/** What did not rest is tried without a snapshot again after this. */
const restlessMs = 30_000;

/** By so much the other side's stamps may be older than the copy of what they are on. */
const stampMsMax = 1_000;

const run = promisify(execFile);

export interface Fitness {
  readonly isFit: boolean;
  readonly why: string;
}

export class Managed {
  readonly #context: PluginContext;
  readonly #ports: StoragePorts;
  readonly #relay: string;
  readonly #layout: Layout;
  readonly #known: Known;
  #desired: DesiredStorage;
  #state: StorageState;
  #bytes = 0;
  #fault: string | null = null;
  readonly #snapshot: Snapshot;
  /** It did not rest a moment ago: a snapshot is asked for at once. */
  #restlessUntilMs = Number.NEGATIVE_INFINITY;
  #work: Promise<unknown> = Promise.resolve();
  /** Newer versions are never overwritten by older ones, though snapshots are counted beside the work. */
  #saving: Promise<unknown> = Promise.resolve();
  #copying: AbortController | null = null;

  private constructor(options: {
    context: PluginContext;
    ports: StoragePorts;
    relay: string;
    desired: DesiredStorage;
    layout: Layout;
    state: StorageState;
  }) {
    this.#context = options.context;
    this.#ports = options.ports;
    this.#relay = options.relay;
    this.#desired = options.desired;
    this.#layout = options.layout;
    this.#state = options.state;
    this.#known = new Known(options.state);
    this.#snapshot = new Snapshot({
      from: this.#layout.path,
      to: this.#layout.snapshot,
      monotonicMs: () => this.#context.clock.monotonicMs(),
      pause: (maxMs) => this.#ports.pause(this.#desired.id, maxMs),
      count: () => this.#count(''),
    });
  }

  static async open(options: {
    context: PluginContext;
    ports: StoragePorts;
    relay: string;
    desired: DesiredStorage;
  }): Promise<Managed> {
    const { path, id, driver } = options.desired;
    const layout = new Layout(path, id);
    if (driver === 'local') await mkdir(path, { recursive: true, mode: 0o700 });
    const state = driver === 'local' ? freshState(id) : await layout.open();
    return new Managed({ ...options, layout, state });
  }

  get path(): string {
    return this.#layout.path;
  }

  /** Resolves once what is in hand has ended; copies are broken off. */
  async stop(): Promise<void> {
    this.#copying?.abort(new Error('stopping'));
    await this.#snapshot.drop();
    await this.#work;
  }

  async purge(): Promise<void> {
    await this.stop();
    await this.#layout.purge();
  }

  /** Takes the wish; true when something here changed. */
  async reconcile(desired: DesiredStorage): Promise<boolean> {
    this.#desired = desired;
    // Nothing is copied, so nothing is ever in the way.
    if (desired.driver === 'local') return false;
    this.#learn();
    if (desired.epoch !== null && desired.epoch > this.#activeEpoch())
      return await this.activate(desired.epoch);
    const active = desired.active;
    const isElsewhere =
      desired.epoch === null && active !== null && active.host !== this.#context.self.hostId;
    const isOlder = this.#state.role === 'active' && this.#state.epoch < (active?.epoch ?? 0);
    if (!isElsewhere || !isOlder || !this.#known.hasHeardOf(active.epoch)) return false;
    return await this.#demote(active.epoch);
  }

  /** The path holds the newest content afterwards: called before anything that uses it is started. Idempotent. */
  async activate(epoch: number): Promise<boolean> {
    if (this.#desired.driver === 'local' || this.#activeEpoch() >= epoch) return false;
    this.#copying?.abort(new Error('it becomes active'));
    return await this.#alone(async () => {
      if (this.#activeEpoch() >= epoch) return false;
      this.#state = await this.#layout.promote(this.#state, epoch);
      this.#context.log.info('storage.active', { storage: this.#desired.name, epoch });
      return true;
    });
  }

  /** Would this host lose nothing that it has heard of, or nothing but the last moments? */
  fitness(): Fitness {
    this.#learn();
    if (this.#desired.driver === 'local') return { isFit: true, why: '' };
    const known = this.#known.newest;
    const { role, epoch } = this.#state;
    if (known.epoch === 0) return { isFit: true, why: '' };
    if (role === 'active' && epoch >= known.epoch) return { isFit: true, why: '' };
    if (role === 'none') return { isFit: false, why: 'it has no complete copy' };
    if (epoch < known.epoch)
      return { isFit: false, why: `its copy is of epoch ${epoch}, the newest is ${known.epoch}` };
    const lagMs = this.#lagMs();
    return lagMs === null || lagMs > lagMsMax
      ? { isFit: false, why: `its copy is ${lagMs ?? 'unknown'} ms behind` }
      : { isFit: true, why: '' };
  }

  row(): StorageRow {
    const { driver, name, id } = this.#desired;
    if (driver === 'local') return localRow(name, id, this.#desired.epoch);
    const { role, epoch, version } = this.#state;
    const state = role === 'active' ? 'active' : role === 'none' ? 'absent' : 'replica';
    const lagMs = role === 'active' ? 0 : role === 'none' ? null : this.#lagMs();
    return {
      name,
      id,
      state: this.#fault !== null && state !== 'active' ? 'failed' : state,
      epoch,
      version,
      lagMs: lagMs === null ? null : Math.round(lagMs / 100) * 100,
      isInSync: this.fitness().isFit,
      bytes: this.#bytes,
      ...(role === 'active' && this.#state.from !== null ? { from: this.#state.from } : {}),
      reason: this.#fault,
    };
  }

  /** On the active host: has anything been written since the last look? */
  async look(): Promise<void> {
    if (this.#state.role !== 'active' || this.#desired.epoch === null) return;
    await this.#alone(async () => {
      await this.#lookNow();
    });
  }

  /** On a replica: fetches what it lacks. Never rejects; what went wrong is in `row()`. */
  async follow(isLast = false): Promise<boolean> {
    this.#learn();
    const active = this.#desired.active;
    const { driver, epoch } = this.#desired;
    const isHere = active?.host === this.#context.self.hostId;
    if (driver === 'local' || epoch !== null || active === null || isHere) return false;
    if (!isLast && this.#isCurrent(active.epoch)) return false;
    // Until it has said what it began with, nobody knows whether what is here is nobody else's.
    if (this.#state.role === 'active' && !this.#known.hasHeardOf(active.epoch)) return false;
    return await this.#alone(() => this.#pass(active, isLast));
  }

  /** Last copy before this host takes over from a holder that has stopped its workload. */
  async settle(): Promise<Fitness> {
    if (this.#desired.driver === 'local') return { isFit: true, why: '' };
    await this.follow(true);
    return this.#fault === null ? this.fitness() : { isFit: false, why: this.#fault };
  }

  /** Serves one copy of what is active here; ends the stream. */
  async serve(
    request: CopyRequest,
    stream: StorageStream,
    messages: AsyncIterator<Uint8Array>,
  ): Promise<void> {
    const refusal = this.#refusal(request);
    if (refusal !== null) {
      await stream.send(jsonPart({ isOk: false, code: 'STORAGE_NOT_ACTIVE', why: refusal }));
      return;
    }
    const beat = setInterval(() => {
      // Who waits for the answer of a send hears of it.
      stream.send(bytesPart(new Uint8Array())).catch(() => undefined);
    }, beatEveryMs);
    try {
      if (request.isSnapshot)
        await this.#snapshot.lend(request.have, async (version) => {
          await stream.send(jsonPart({ isOk: true, wallMs: Date.now() }));
          const { exit, why } = await serve(request, this.#layout.snapshot, stream, messages);
          await stream.send(jsonPart({ exit, version, why }));
        });
      else await this.#serveOpen(request, stream, messages);
    } catch (error) {
      if (!(error instanceof CopyError)) throw error;
      await stream.send(jsonPart({ isOk: false, code: error.code, why: error.message }));
    } finally {
      clearInterval(beat);
    }
  }

  async #serveOpen(
    request: CopyRequest,
    stream: StorageStream,
    messages: AsyncIterator<Uint8Array>,
  ): Promise<void> {
    const before = await this.#alone(() => this.#lookNow(scanAtRest));
    await stream.send(jsonPart({ isOk: true, wallMs: Date.now() }));
    const { exit, why } = await serve(request, this.#layout.path, stream, messages);
    const after = before.isSettled ? await scanTree(this.#layout.path) : null;
    const isOneMoment = after?.fingerprint === before.fingerprint;
    await stream.send(jsonPart({ exit, version: isOneMoment ? before.version : null, why }));
  }

  #refusal(request: CopyRequest): string | null {
    if (this.#state.role !== 'active') return 'it is not active here';
    return request.epoch === this.#state.epoch
      ? null
      : `epoch ${this.#state.epoch} is active here, not ${request.epoch}`;
  }

  async #pass(active: NonNullable<DesiredStorage['active']>, isLast: boolean): Promise<boolean> {
    const stop = new AbortController();
    this.#copying = stop;
    try {
      if (this.#state.role === 'active') await this.#demoteNow(active.epoch);
      await mkdir(this.#layout.next, { recursive: true, mode: 0o700 });
      for (let pass = 0; ; pass++) {
        const isRestless = pass >= openPassesMax || this.#nowMs() < this.#restlessUntilMs;
        const isSnapshot = !isLast && isRestless;
        const version = await this.#pullOnce(active, isSnapshot, stop.signal);
        if (isSnapshot && pass > 0) this.#restlessUntilMs = this.#nowMs() + restlessMs;
        if (version !== null) return await this.#finish(active.epoch, version);
        if (isSnapshot || pass > openPassesMax)
          throw new CopyError('STORAGE_COPY_FAILED', 'it was written to during every copy');
      }
    } catch (error) {
      this.#fault = error instanceof CopyError ? `${error.code}: ${error.message}` : String(error);
      this.#context.log.warn('storage.copy-failed', {
        storage: this.#desired.name,
        reason: this.#fault,
      });
      return false;
    } finally {
      this.#copying = null;
    }
  }

  /** The version that `next` is of; null: of no single moment, which is the start of the next try and counts as none. */
  async #pullOnce(
    active: NonNullable<DesiredStorage['active']>,
    isSnapshot: boolean,
    signal: AbortSignal,
  ): Promise<number | null> {
    const { role, epoch, version } = this.#state;
    const have = role === 'copy' && epoch === active.epoch ? version : 0;
    let beganWallMs: number | null = null;
    let copied: number | null = null;
    try {
      const end = await pull({
        relay: this.#relay,
        to: this.#layout.next,
        basis: await this.#layout.basis(),
        open: () => this.#ports.open(active.host, signal),
        request: { id: this.#desired.id, epoch: active.epoch, isSnapshot, have },
        onBegin: (wallMs) => (beganWallMs = wallMs),
        signal,
      });
      copied = end.version;
      return copied;
    } finally {
      // Before the answer nothing was copied.
      if (copied === null && beganWallMs !== null)
        await distrust(this.#layout.next, beganWallMs - stampMsMax);
    }
  }

  async #finish(epoch: number, version: number): Promise<boolean> {
    await run('sync', ['-f', this.#layout.next]);
    this.#state = await this.#layout.adoptNext(this.#state, { epoch, version });
    const { bytes } = await scanTree(this.#layout.copy);
    this.#bytes = bytes;
    this.#fault = null;
    return true;
  }

  async #demote(epoch: number): Promise<boolean> {
    return await this.#alone(async () => {
      await this.#demoteNow(epoch);
      return true;
    });
  }

  async #demoteNow(epoch: number): Promise<void> {
    if (this.#state.role !== 'active') return;
    await this.#snapshot.drop();
    // What was written since the last look counts too: only if the new one began with just that, nothing is lost.
    await this.#lookNow(scanAtRest);
    const isTakenOver = this.#known.isTakenOver(this.#state, epoch);
    this.#state = await this.#layout.demote(this.#state, isTakenOver);
    this.#context.log.info('storage.passive', {
      storage: this.#desired.name,
      epoch,
      isSetAside: !isTakenOver,
    });
  }

  /** What was changed just now may change again without a trace: it counts as another version at the next look. */
  async #lookNow(
    scan = scanTree,
  ): Promise<Pick<Scan, 'fingerprint' | 'isSettled'> & { version: number }> {
    const { fingerprint, isSettled, bytes } = await scan(this.#layout.path);
    this.#bytes = bytes;
    if (fingerprint !== this.#state.fingerprint) await this.#count(isSettled ? fingerprint : '');
    return { fingerprint, isSettled, version: this.#state.version };
  }

  /** There is another version now. */
  async #count(fingerprint: string): Promise<number> {
    this.#state = { ...this.#state, fingerprint, version: this.#state.version + 1 };
    const { version } = this.#state;
    this.#saving = this.#saving.catch(() => undefined).then(() => this.#layout.write(this.#state));
    await this.#saving;
    return version;
  }

  #nowMs(): number {
    return this.#context.clock.monotonicMs();
  }

  #isCurrent(epoch: number): boolean {
    const { role, version } = this.#state;
    const newest = this.#known.newest;
    return (
      role === 'copy' &&
      this.#state.epoch === epoch &&
      (newest.epoch !== epoch || version >= newest.version)
    );
  }

  #activeEpoch(): number {
    return this.#state.role === 'active' ? this.#state.epoch : 0;
  }

  #learn(): void {
    this.#known.learn(this.#desired.id, this.#ports.facts(), this.#nowMs());
    const { epoch, version } = this.#known.newest;
    if (epoch === this.#state.knownEpoch && version === this.#state.knownVersion) return;
    // Reaches the disk with the next change of state: losing it errs only towards an older view of the others.
    this.#state = { ...this.#state, knownEpoch: epoch, knownVersion: version };
  }

  #lagMs(): number | null {
    return this.#known.lagMs(this.#state, this.#nowMs());
  }

  async #alone<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#work;
    const done = (async () => {
      await before;
      return await work();
    })();
    this.#work = done.catch(() => undefined);
    return await done;
  }
}

/** A directory of each host's own: it is what it is. */
function localRow(name: string, id: StorageRow['id'], epoch: number | null): StorageRow {
  const state = epoch === null ? 'absent' : 'active';
  const rest = { version: 0, lagMs: null, isInSync: true, bytes: 0, reason: null };
  return { name, id, state, epoch: epoch ?? 0, ...rest };
}

/** The first message of a stream. Null when it is not a request. */
export async function firstRequest(
  messages: AsyncIterator<Uint8Array>,
): Promise<CopyRequest | null> {
  const first = await messages.next();
  if (first.done === true) return null;
  const part = readPart(first.value);
  return part?.kind === 'json' ? readRequest(part.value) : null;
}
