/**
 * The daemon's end of the guard's socket: finds the guard or starts one, tells it what is wanted whenever that changes,
 * keeps what it last said, and matches answers to commands. Everything said is level-triggered: after every reconnect the
 * whole wish goes out and the whole status comes in, so that nothing depends on what was lost between.
 *
 * The daemon is not needed for anything that is held to stay held. While it does not hear the guard it touches nothing
 * that is exclusive.
 */
import { connect } from 'node:net';
import type { Socket } from 'node:net';
import { join } from 'node:path';
import type { LeaseFact } from '../crdt/model.ts';
import type { NodeId } from '../crdt/ids.ts';
import { ClusterError } from './errors.ts';
import type { LeaseApi } from './lease-api.ts';
import { isHeld } from './lease-facts.ts';
import { hasGuardProgram, isGuardOfServiceManager, startGuard } from './lease-guard-process.ts';
import { guardApiVersion } from './lease/guard-api.ts';
import type {
  FromGuard,
  GuardCommand,
  GuardDesired,
  GuardNotice,
  GuardReply,
  GuardStatus,
  ToGuard,
} from './lease/guard-api.ts';
import { guardRunFiles } from './lease/guard-start.ts';
import type { GuardStart } from './lease/guard-start.ts';
import { isKept } from './lease/guard/keeper.ts';
import { LineSplitter } from './lease/guard/lines.ts';
import type { Epoch, LeaseName } from './lease/model.ts';
import type { Clock, Log, Timer } from './ports.ts';

export interface LeaseLinkOptions {
  readonly start: GuardStart;
  /** False: somebody else starts it. */
  readonly maySpawn: boolean;
  /** Of this release. */
  readonly version: string;
  readonly hostName: () => string;
  readonly clock: Clock;
  readonly log: Log;
  facts(): readonly { readonly owner: NodeId; readonly ageMs: number; readonly fact: LeaseFact }[];
  onNotice(notice: GuardNotice): void;
}

/** A gate that is open on this host, by the newest word of its guard. */
export interface HeldGate {
  readonly epoch: Epoch;
  /** False while it is handed over: what runs there is left alone and nothing is started. */
  readonly mayStart: boolean;
}

const retryMsMin = 50;
const retryMsMax = 2_000;
/** One that ended right after its start is started again after this, and ever more rarely. */
const spawnPauseMsMin = 1_000;
const spawnPauseMsMax = 60_000;
const helloLimitMs = 5_000;
const replyLimitMs = 15_000;
/** Stopping, copying the rest and starting elsewhere: as long as the longest grace may be. */
const moveLimitMs = 900_000;
/** Status of 4096 leases. */
const lineBytesMax = 32 << 20;
const commandsMax = 1_024;

interface Waiting {
  readonly settle: (answer: GuardReply | GuardStatus) => void;
  readonly fail: (error: unknown) => void;
}

export class LeaseLink implements LeaseApi {
  readonly #options: LeaseLinkOptions;
  readonly #listeners = new Set<() => void>();
  readonly #waiting = new Map<number, Waiting>();
  #socket: Socket | null = null;
  /** Null until it has greeted us. */
  #guard: { pid: number; version: string; leasePort: number } | null = null;
  #status: GuardStatus | null = null;
  #statusKey = '';
  #gates: ReadonlyMap<LeaseName, HeldGate> = new Map();
  #desired = '';
  #sent = '';
  #pushTimer: Timer | null = null;
  #retryTimer: Timer | null = null;
  #helloTimer: Timer | null = null;
  #retryMs = retryMsMin;
  #spawnDueMs = Number.NEGATIVE_INFINITY;
  #spawnPauseMs = spawnPauseMsMin;
  /** The keeper that we started has not ended: its guard answers in a moment. */
  #isSpawned = false;
  #nextId = 1;
  #reason = 'it was not asked yet';
  #isStopped = false;

  constructor(options: LeaseLinkOptions) {
    this.#options = options;
  }

  start(): void {
    this.#connect();
  }

  /** The guard goes on without us. */
  async stop(): Promise<void> {
    if (this.#guard !== null)
      await this.command({ kind: 'daemon-stopping' }, AbortSignal.timeout(stopLimitMs)).catch(
        (error: unknown) => this.#options.log.debug('guard.not-told', { error: String(error) }),
      );
    this.#isStopped = true;
    for (const timer of [this.#pushTimer, this.#retryTimer, this.#helloTimer]) timer?.cancel();
    this.#lose('the daemon is stopping');
  }

  // ---- LeaseApi ---------------------------------------------------------------------------------------------------

  status(): GuardStatus | null {
    return this.#status;
  }

  look(signal: AbortSignal): Promise<GuardStatus> {
    return this.#ask<GuardStatus>((id) => ({ kind: 'status', id }), replyLimitMs, signal);
  }

  command(command: GuardCommand, signal: AbortSignal): Promise<GuardReply> {
    return this.#ask<GuardReply>(
      (id) => ({ kind: 'command', id, command }),
      limitOf(command),
      signal,
    );
  }

  testGate(signal: AbortSignal): Promise<GuardReply> {
    return this.#ask<GuardReply>((id) => ({ kind: 'test-gate', id }), replyLimitMs, signal);
  }

  facts(): ReturnType<LeaseApi['facts']> {
    return this.#options.facts();
  }

  onChange(handle: () => void): () => void {
    this.#listeners.add(handle);
    return () => this.#listeners.delete(handle);
  }

  // ---- For the daemon ---------------------------------------------------------------------------------------------

  /** Gates open here, held by this host. Empty while the guard is not heard. */
  gates(): ReadonlyMap<LeaseName, HeldGate> {
    return this.#gates;
  }

  /** TCP port of the guard; 0: it is not connected. */
  get leasePort(): number {
    return this.#guard?.leasePort ?? 0;
  }

  /** Of the guard that is connected; null: none is. */
  get guard(): { readonly pid: number; readonly version: string } | null {
    return this.#guard;
  }

  /** Sent when it differs from what was sent; several changes of one turn are one. */
  push(desired: GuardDesired): void {
    this.#desired = JSON.stringify(desired);
    this.#pushTimer ??= this.#options.clock.setTimer(0, () => {
      this.#pushTimer = null;
      this.#flush();
    });
  }

  // ---- Connection -------------------------------------------------------------------------------------------------

  #connect(): void {
    if (this.#isStopped) return;
    const socket = connect(join(this.#options.start.runDir, guardRunFiles.socket));
    const splitter = new LineSplitter(lineBytesMax);
    this.#socket = socket;
    socket.on('connect', () => {
      this.#write({ kind: 'hello', v: guardApiVersion, version: this.#options.version });
      this.#helloTimer = this.#options.clock.setTimer(helloLimitMs, () =>
        this.#lose('it does not say hello'),
      );
    });
    socket.on('data', (chunk) => {
      const lines = splitter.push(chunk);
      if (lines === null) return this.#lose('it sends a line that is too long');
      for (const line of lines) if (this.#socket === socket) this.#take(line);
    });
    socket.on('error', (error: NodeJS.ErrnoException) => {
      if (this.#socket !== socket) return;
      this.#lose(error.code ?? error.message);
      if (error.code === 'ENOENT' || error.code === 'ECONNREFUSED') this.#spawn();
    });
    socket.on('close', () => {
      if (this.#socket !== socket) return;
      const pid = this.#guard?.pid;
      this.#lose('it closed the connection');
      // Every moment without it counts: what it holds runs out. Its keeper starts it again; where that is gone too, we do. A
      // lock keeps a second one from doing harm.
      if (pid !== undefined && !isAlive(pid)) this.#spawn();
    });
  }

  /** Only when nobody answers: two guards of one host would be two owners of its gates. */
  #spawn(): void {
    const { start, maySpawn, clock, log } = this.#options;
    const nowMs = clock.monotonicMs();
    if (this.#isStopped || !maySpawn || this.#isSpawned || nowMs < this.#spawnDueMs) return;
    if (isGuardOfServiceManager(start) || isKept(start.runDir) || !hasGuardProgram()) return;
    this.#spawnDueMs = nowMs + this.#spawnPauseMs;
    this.#spawnPauseMs = Math.min(spawnPauseMsMax, this.#spawnPauseMs * 2);
    this.#retryMs = retryMsMin;
    this.#isSpawned = true;
    startGuard(start, {
      log,
      onEnd: () => {
        this.#isSpawned = false;
      },
    });
  }

  #lose(reason: string): void {
    const wasThere = this.#guard !== null;
    this.#reason = reason;
    this.#helloTimer?.cancel();
    this.#socket?.destroy();
    this.#socket = null;
    this.#guard = null;
    this.#sent = '';
    this.#status = null;
    this.#statusKey = '';
    this.#gates = new Map();
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { fail } of waiting) fail(this.#unreachable());
    if (wasThere) {
      this.#options.log.warn('guard.lost', { reason });
      this.#changed();
    }
    if (this.#isStopped) return;
    this.#retryTimer?.cancel();
    this.#retryTimer = this.#options.clock.setTimer(this.#retryMs, () => this.#connect());
    this.#retryMs = Math.min(retryMsMax, this.#retryMs * 2);
  }

  #take(line: string): void {
    let message: FromGuard;
    try {
      message = JSON.parse(line) as FromGuard;
    } catch {
      // Not a guard of ours that listens there.
      return this.#lose('what it says is not JSON');
    }
    if (message.kind === 'hello') return this.#greet(message);
    if (this.#guard === null) return;
    if (message.kind === 'notice') return this.#takeNotice(message.notice);
    if (message.kind === 'status') this.#takeStatus(message.status);
    if (message.id === null) return;
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    waiting?.settle(message.kind === 'status' ? message.status : message.reply);
  }

  #greet({ v, version, pid, leasePort }: FromGuard & { kind: 'hello' }): void {
    const { log } = this.#options;
    // Neighbouring releases understand each other; a daemon's start does not replace a guard, its operator does.
    if (Math.abs(v - guardApiVersion) > 1)
      return this.#lose(`it speaks version ${v} and we speak ${guardApiVersion}`);
    this.#helloTimer?.cancel();
    this.#retryMs = retryMsMin;
    this.#spawnPauseMs = spawnPauseMsMin;
    this.#guard = { pid, version, leasePort };
    log.info('guard.connected', { pid, version, leasePort });
    if (version !== this.#options.version)
      log.warn('guard.other-release', { version, ours: this.#options.version });
    this.#flush();
    this.#write({ kind: 'status', id: this.#nextId++ });
    this.#changed();
  }

  #takeStatus(status: GuardStatus): void {
    this.#status = status;
    const gates = new Map<LeaseName, HeldGate>();
    for (const lease of status.leases) {
      const { name, epoch, gate, state } = lease;
      if (!isHeld(lease) || gate !== 'open' || state === 'frozen') continue;
      gates.set(name, { epoch, mayStart: state !== 'handing-over' });
    }
    this.#gates = gates;
    const key = keyOf(status);
    if (key === this.#statusKey) return;
    this.#statusKey = key;
    this.#changed();
  }

  /** Gates count from the notice on: the status that says the same comes later. */
  #takeNotice(notice: GuardNotice): void {
    if (notice.kind === 'open') this.#setGate(notice.name, { epoch: notice.epoch, mayStart: true });
    else if (notice.kind === 'closed') this.#setGate(notice.name, null);
    this.#options.onNotice(notice);
  }

  #setGate(name: LeaseName, gate: HeldGate | null): void {
    const gates = new Map(this.#gates);
    if (gate === null) gates.delete(name);
    else gates.set(name, gate);
    this.#gates = gates;
  }

  #changed(): void {
    for (const listener of this.#listeners) listener();
  }

  // ---- Saying -----------------------------------------------------------------------------------------------------

  #flush(): void {
    if (this.#guard === null || this.#desired === '' || this.#desired === this.#sent) return;
    this.#sent = this.#desired;
    this.#socket?.write(`{"kind":"desired","desired":${this.#desired}}\n`);
  }

  #write(message: ToGuard): void {
    this.#socket?.write(`${JSON.stringify(message)}\n`);
  }

  /** What answers must be of the kind that is asked for. */
  async #ask<Answer extends GuardReply | GuardStatus>(
    make: (id: number) => ToGuard,
    limitMs: number,
    signal: AbortSignal,
  ): Promise<Answer> {
    signal.throwIfAborted();
    if (this.#guard === null) throw this.#unreachable();
    if (this.#waiting.size >= commandsMax)
      throw new ClusterError('CONFLICT', {
        reason: `${commandsMax} requests to the guard are under way`,
        todo: 'try again later',
      });
    const id = this.#nextId++;
    // What it answers to must know what we know.
    this.#flush();
    const { promise, resolve, reject } = Promise.withResolvers<Answer>();
    this.#waiting.set(id, { settle: (answer) => resolve(answer as Answer), fail: reject });
    const timer = this.#options.clock.setTimer(limitMs, () =>
      reject(this.#unreachable(`no answer within ${limitMs} ms`)),
    );
    const onAbort = (): void => reject(signal.reason as Error);
    signal.addEventListener('abort', onAbort, { once: true });
    this.#write(make(id));
    try {
      return await promise;
    } finally {
      this.#waiting.delete(id);
      timer.cancel();
      signal.removeEventListener('abort', onAbort);
    }
  }

  #unreachable(reason = this.#reason): ClusterError {
    return new ClusterError('GUARD_UNREACHABLE', { host: this.#options.hostName(), reason });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'ESRCH';
  }
}

/** A daemon that is told to stop does not wait long for an acknowledgement. */
const stopLimitMs = 500;

/** Those that stop work, copy what is left and start elsewhere, or wait out what may still be held. */
const slowCommands: ReadonlySet<GuardCommand['kind']> = new Set([
  'switch',
  'release',
  'force-active',
  'force-voters',
]);

function limitOf(command: GuardCommand): number {
  if (command.kind === 'acquire') return command.waitMs + replyLimitMs;
  return slowCommands.has(command.kind) ? moveLimitMs : replyLimitMs;
}

/** What listeners hear of: without what changes by itself, like the time that is left. */
function keyOf(status: GuardStatus): string {
  return JSON.stringify([
    status.chosen,
    status.hasQuorum,
    status.isParked,
    status.silentMs > 0,
    status.gateFault,
    status.voters.map(({ host, isReachable, isSilent }) => [host, isReachable, isSilent]),
    status.leases.map(
      ({ name, state, epoch, holder, gate, mayAcquire, why, candidates, moving }) => [
        name,
        state,
        epoch,
        holder?.owner ?? null,
        holder?.state ?? null,
        gate,
        mayAcquire,
        why,
        candidates,
        moving ?? null,
      ],
    ),
  ]);
}
