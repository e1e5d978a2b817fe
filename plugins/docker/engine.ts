/**
 * The connection to the container engine: one place where calls get their time limit and where it is known whether the
 * engine is there.
 *
 * Three states. `ok`: the last call or ping was answered. `absent`: nothing listens (stopped, crashed, being upgraded).
 * `hung`: it accepts connections and says nothing (SIGSTOP, deadlock, a dying disk); only a time limit can see that, so
 * no call is without one. Changes outside are heard from the engine's event stream; whenever that was broken, whoever
 * listens is told to look at everything again, because events of the gap may be lost.
 */
import { Agent } from 'node:http';
import { inspect } from 'node:util';
import Docker from 'dockerode';
import { PluginError } from '../api.ts';
import type { PluginContext } from '../api.ts';
import type { DockerConfig } from './config.ts';
import { reasonOf, refusal, statusOf, unreachable } from './errors.ts';

export type EngineState = 'ok' | 'absent' | 'hung';

/** The part of an engine event that we use. */
export interface EngineEvent {
  readonly type: string;
  readonly action: string;
  readonly id: string;
  readonly labels: Readonly<Record<string, string>>;
}

export interface EngineListener {
  onEvent(event: EngineEvent): void;
  /** Events may have been missed: look at everything. Also called at the first connection. */
  onRelist(): void;
  onState(state: EngineState, reason: string): void;
}

/** A line of the event stream longer than this is not an event of ours: the stream is torn down and opened again. */
const eventBytesMax = 1 << 20;
const retryMsMin = 100;
const retryMsMax = 2_000;

export class Engine {
  readonly docker: Docker;
  readonly endpoint: string;
  readonly #config: DockerConfig;
  readonly #context: PluginContext;
  readonly #labels: readonly string[];
  readonly #stopping = new AbortController();
  #listener: EngineListener | null = null;
  #state: EngineState = 'absent';
  #reason = 'not asked yet';
  #version: { version: string; apiVersion: string } | null = null;
  #cgroupDriver: string | null = null;
  /** Seconds with nanoseconds of the newest event, for `since`. */
  #newest: string | null = null;
  #loop: Promise<void> | null = null;

  /** `labels` ('key=value') choose the containers whose events are wanted. */
  constructor(context: PluginContext, config: DockerConfig, labels: readonly string[]) {
    this.#context = context;
    this.#config = config;
    this.#labels = labels;
    this.endpoint = config.endpoint ?? process.env['DOCKER_HOST'] ?? 'unix:///var/run/docker.sock';
    this.docker = connect(this.endpoint);
  }

  get state(): EngineState {
    return this.#state;
  }

  get reason(): string {
    return this.#reason;
  }

  get version(): { version: string; apiVersion: string } | null {
    return this.#version;
  }

  /** Begins listening; returns at once. Call once. */
  listen(listener: EngineListener): void {
    this.#listener = listener;
    this.#loop = this.#run();
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#loop;
  }

  /**
   * One engine call with a time limit. Rejects ENGINE_UNREACHABLE or ENGINE_REFUSED (`details.status` has the HTTP status).
   * `what` completes "refused to ...". The signal given to `call` must be handed on as `abortSignal`. `mayBlock`: on a
   * container whose gate may close at any moment, which makes that call hang and says nothing of the engine.
   */
  async call<T>(
    what: string,
    call: (signal: AbortSignal) => Promise<T>,
    options: { timeoutMs?: number; signal?: AbortSignal; mayBlock?: boolean } = {},
  ): Promise<T> {
    const timeoutMs = options.timeoutMs ?? this.#config.callTimeoutMs;
    const limit = AbortSignal.timeout(timeoutMs);
    const signals = [
      limit,
      this.#stopping.signal,
      ...(options.signal === undefined ? [] : [options.signal]),
    ];
    const signal = AbortSignal.any(signals);
    try {
      const result = await orAbort(call(signal), signal);
      if (this.#state !== 'ok') this.#become('ok', '');
      return result;
    } catch (error) {
      throw this.#judge(what, error, { limit, timeoutMs, mayBlock: options.mayBlock === true });
    }
  }

  /** 'cgroupfs' or 'systemd'. Rejects as `call`. */
  async cgroupDriver(): Promise<string> {
    if (this.#cgroupDriver !== null) return this.#cgroupDriver;
    const info = await this.call('describe itself', (signal) => infoOf(this.docker, signal));
    this.#cgroupDriver = info.CgroupDriver;
    return this.#cgroupDriver;
  }

  /** Asks now. Never rejects. */
  async ping(): Promise<EngineState> {
    const timeoutMs = this.#config.pingTimeoutMs;
    const limit = AbortSignal.timeout(timeoutMs);
    const signal = AbortSignal.any([limit, this.#stopping.signal]);
    try {
      // The version costs the engine two processes, so it is asked for only when it may be another engine.
      if (this.#version === null || this.#state !== 'ok') {
        const version = await orAbort(versionOf(this.docker, signal), signal);
        this.#version = { version: version.Version, apiVersion: version.ApiVersion };
      } else {
        await orAbort(pingOf(this.docker, signal), signal);
      }
      this.#become('ok', '');
    } catch (error) {
      if (!this.#stopping.signal.aborted)
        this.#judge('say that it lives', error, { limit, timeoutMs, mayBlock: false });
    }
    return this.#state;
  }

  #judge(
    what: string,
    error: unknown,
    { limit, timeoutMs, mayBlock }: { limit: AbortSignal; timeoutMs: number; mayBlock: boolean },
  ): PluginError {
    if (error instanceof PluginError) return error;
    if (limit.aborted) {
      const reason = `no answer within ${timeoutMs} ms to the request to ${what}`;
      // A slow pull or stop is not a hung engine: only short calls decide, the pings find out the rest.
      if (timeoutMs <= this.#config.callTimeoutMs && !mayBlock) this.#become('hung', reason);
      return unreachable(this.endpoint, reason, error);
    }
    if (statusOf(error) !== undefined) return refusal(what, error);
    const code = (error as NodeJS.ErrnoException).code;
    if (code !== undefined && absentCodes.has(code)) {
      this.#become('absent', reasonOf(error));
      return unreachable(this.endpoint, reasonOf(error), error);
    }
    return refusal(what, error);
  }

  #become(state: EngineState, reason: string): void {
    if (state === this.#state && reason === this.#reason) return;
    const isNew = state !== this.#state;
    this.#state = state;
    this.#reason = reason;
    if (!isNew) return;
    // The next one that answers may be configured in another way.
    this.#cgroupDriver = null;
    this.#context.log.info('docker.engine', { state, reason });
    this.#listener?.onState(state, reason);
  }

  /** Until stopped: find the engine, hear its events until the stream breaks, and again. */
  async #run(): Promise<void> {
    const { signal } = this.#stopping;
    let retryMs = retryMsMin;
    while (!signal.aborted) {
      if ((await this.ping()) === 'ok') {
        retryMs = retryMsMin;
        await this.#hear().catch((error: unknown) => {
          // Engines come and go; the state is set by the ping that follows.
          this.#context.log.debug('docker.events-ended', { reason: reasonOf(error) });
        });
      }
      if (signal.aborted) return;
      await pause(retryMs * (0.5 + Math.random()), signal);
      retryMs = Math.min(retryMsMax, retryMs * 2);
    }
  }

  async #hear(): Promise<void> {
    const done = new AbortController();
    const signal = AbortSignal.any([this.#stopping.signal, done.signal]);
    const filters = JSON.stringify({ type: ['container'], label: this.#labels });
    // The published type knows neither nanoseconds nor the signal.
    const options: object = {
      filters,
      abortSignal: signal,
      ...(this.#newest === null ? {} : { since: this.#newest }),
    };
    const stream = await this.call('send its events', () => this.docker.getEvents(options));
    const destroy = (): void => {
      (stream as NodeJS.ReadableStream & { destroy(error?: Error): void }).destroy();
    };
    signal.addEventListener('abort', destroy, { once: true });
    // A hung engine keeps the stream open and silent: the pings end it, so that the relist happens once it is back.
    const watch = this.#watch(done);
    try {
      this.#listener?.onRelist();
      await this.#readEvents(stream);
    } finally {
      done.abort();
      await watch;
    }
  }

  async #watch(done: AbortController): Promise<void> {
    while (!done.signal.aborted && !this.#stopping.signal.aborted) {
      await pause(
        this.#config.pingIntervalMs,
        AbortSignal.any([done.signal, this.#stopping.signal]),
      );
      if (done.signal.aborted || this.#stopping.signal.aborted) return;
      if ((await this.ping()) !== 'ok') done.abort();
    }
  }

  async #readEvents(stream: NodeJS.ReadableStream): Promise<void> {
    let rest = '';
    for await (const chunk of stream) {
      rest += String(chunk);
      const lines = rest.split('\n');
      rest = lines.pop() ?? '';
      if (rest.length > eventBytesMax) throw new Error('an event is too long');
      for (const line of lines) if (line.trim() !== '') this.#take(line);
    }
  }

  #take(line: string): void {
    let raw: {
      Type?: string;
      Action?: string;
      timeNano?: number;
      Actor?: { ID?: string; Attributes?: Record<string, string> };
    };
    try {
      raw = JSON.parse(line) as typeof raw;
    } catch {
      // A torn line at the end of a dying engine's stream; the relist that follows makes it good.
      return;
    }
    if (typeof raw.timeNano === 'number') this.#newest = (raw.timeNano / 1e9).toFixed(9);
    this.#listener?.onEvent({
      type: raw.Type ?? '',
      action: raw.Action ?? '',
      id: raw.Actor?.ID ?? '',
      labels: raw.Actor?.Attributes ?? {},
    });
  }
}

const absentCodes: ReadonlySet<string> = new Set([
  'ENOENT',
  'ECONNREFUSED',
  'ECONNRESET',
  'EPIPE',
  'EACCES',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'ENOTFOUND',
  'ETIMEDOUT',
  'HPE_INVALID_CONSTANT',
]);

/**
 * The client renders each request with all that hangs on it for a debug log that nobody reads, and the agent with its
 * sockets is nearly all of that: two thirds of the daemon's work while containers start.
 */
class TerseAgent extends Agent {
  [inspect.custom](): string {
    return 'Agent';
  }
}

function connect(endpoint: string): Docker {
  // A kept connection to an engine that was restarted fails at its next use, with an error that looks like a refusal.
  const agent = new TerseAgent({ keepAlive: false });
  const options = { agent };
  const url = endpoint.includes('://') ? endpoint : `tcp://${endpoint}`;
  if (url.startsWith('unix://'))
    return new Docker({ socketPath: url.slice('unix://'.length), ...options });
  // dockerode reads DOCKER_CERT_PATH itself, for engines over TLS.
  const { hostname, port, protocol } = new URL(url);
  const isTls = protocol === 'https:' || process.env['DOCKER_TLS_VERIFY'] === '1';
  if (isTls) return new Docker({ host: hostname, port: Number(port || 2376), protocol: 'https' });
  return new Docker({
    host: hostname,
    port: Number(port || 2375),
    protocol: 'http',
    ...options,
  });
}

/** Rejects when the signal fires, whatever the promise does: dockerode leaves some calls pending for ever. */
export async function orAbort<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  signal.throwIfAborted();
  const aborted = Promise.withResolvers<never>();
  const onAbort = (): void => aborted.reject(signal.reason as Error);
  signal.addEventListener('abort', onAbort, { once: true });
  try {
    return await Promise.race([promise, aborted.promise]);
  } finally {
    signal.removeEventListener('abort', onAbort);
    if (signal.aborted) promise.then(discard, () => undefined);
  }
}

/** An answer that nobody waits for any more. A stream left alone would end the process with its first error. */
function discard(late: unknown): void {
  const stream = late as {
    destroy?: () => void;
    on?: (event: string, handle: () => void) => void;
  } | null;
  if (typeof stream?.destroy !== 'function' || typeof stream.on !== 'function') return;
  stream.on('error', () => undefined);
  stream.destroy();
}

/** Resolves after `ms` or when the signal fires, whichever is first. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise<void>((resolve) => {
    const timer = setTimeout(finish, ms);
    function finish(): void {
      clearTimeout(timer);
      signal.removeEventListener('abort', finish);
      resolve();
    }
    signal.addEventListener('abort', finish, { once: true });
  });
}

// Both take a signal, although the published types do not say so.

async function versionOf(docker: Docker, signal: AbortSignal): Promise<Docker.DockerVersion> {
  const version = docker.version.bind(docker) as (options: object) => Promise<Docker.DockerVersion>;
  return await version({ abortSignal: signal });
}

async function infoOf(docker: Docker, signal: AbortSignal): Promise<{ CgroupDriver: string }> {
  const info = docker.info.bind(docker) as (options: object) => Promise<{ CgroupDriver: string }>;
  return await info({ abortSignal: signal });
}

async function pingOf(docker: Docker, signal: AbortSignal): Promise<unknown> {
  const ping = docker.ping.bind(docker) as (options: object) => Promise<unknown>;
  return await ping({ abortSignal: signal });
}
