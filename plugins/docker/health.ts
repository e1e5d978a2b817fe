/**
 * Checks of kind http and tcp, made from this host against a container's fixed address, because an image need not
 * contain a program that could make them.
 *
 * Same meaning as the engine's own checks: `retries` failures in a row make it unhealthy, one success makes it healthy,
 * and failures during the start period do not count. While an instance is starting it is asked more often, so that a
 * service that is ready at once counts at once.
 */
import { type ClientRequest, request } from 'node:http';
import { type Socket, connect } from 'node:net';
import type { HealthCheck } from '../../crdt/model.ts';
import { Limiter } from './files.ts';

/** Probes under way at one time. */
const probesMax = 16;
const startingIntervalMs = 200;
/** Spread of the interval, so that the probes of many instances do not fall together. */
const jitter = 0.1;
/** More of an answer's body than this is not read. */
const bodyBytesMax = 64 << 10;

export type ProbeStatus = 'starting' | 'healthy' | 'unhealthy';

export interface Target {
  /** A new container starts from nothing. */
  readonly containerId: string;
  readonly address: string;
  /** Port inside the container. */
  readonly port: number;
  readonly check: HealthCheck;
  /** Wall clock at which it started, milliseconds. */
  readonly startedMs: number;
}

interface Probe {
  readonly target: Target;
  status: ProbeStatus;
  failures: number;
  hasAnswered: boolean;
  timer: NodeJS.Timeout | null;
}

export class Prober {
  readonly #probes = new Map<string, Probe>();
  readonly #limiter = new Limiter(probesMax);
  readonly #wallMs: () => number;
  readonly #onChange: () => void;
  #isStopped = false;

  constructor(options: { wallMs: () => number; onChange: () => void }) {
    this.#wallMs = options.wallMs;
    this.#onChange = options.onChange;
  }

  /** Probes exactly these from now on. Cheap when nothing changed. */
  watch(targets: ReadonlyMap<string, Target>): void {
    for (const [instance, probe] of this.#probes) {
      const target = targets.get(instance);
      if (target !== undefined && isSame(target, probe.target)) continue;
      this.#drop(instance, probe);
    }
    if (this.#isStopped) return;
    for (const [instance, target] of targets) {
      if (this.#probes.has(instance)) continue;
      const probe: Probe = {
        target,
        status: 'starting',
        failures: 0,
        hasAnswered: false,
        timer: null,
      };
      this.#probes.set(instance, probe);
      this.#schedule(instance, probe, 0);
    }
  }

  status(instance: string): ProbeStatus | null {
    return this.#probes.get(instance)?.status ?? null;
  }

  /** False while some target has not been asked yet. */
  isSettled(): boolean {
    for (const { hasAnswered } of this.#probes.values()) if (!hasAnswered) return false;
    return true;
  }

  stop(): void {
    this.#isStopped = true;
    for (const [instance, probe] of this.#probes) this.#drop(instance, probe);
  }

  #drop(instance: string, probe: Probe): void {
    if (probe.timer !== null) clearTimeout(probe.timer);
    this.#probes.delete(instance);
  }

  #schedule(instance: string, probe: Probe, delayMs: number): void {
    probe.timer = setTimeout(() => {
      void this.#limiter
        .run(() => ask(probe.target))
        .then((isGood) => {
          if (this.#probes.get(instance) === probe) this.#take(instance, probe, isGood);
        });
    }, delayMs);
  }

  #take(instance: string, probe: Probe, isGood: boolean): void {
    const { check, startedMs } = probe.target;
    const before = probe.status;
    const isFirst = !probe.hasAnswered;
    probe.hasAnswered = true;
    if (isGood) {
      probe.failures = 0;
      probe.status = 'healthy';
    } else if (probe.status !== 'starting' || this.#wallMs() - startedMs > check.startPeriodMs) {
      probe.failures++;
      if (probe.failures >= check.retries) probe.status = 'unhealthy';
    }
    if (probe.status !== before || isFirst) this.#onChange();
    const intervalMs =
      probe.status === 'starting'
        ? Math.min(startingIntervalMs, check.intervalMs)
        : check.intervalMs;
    this.#schedule(instance, probe, intervalMs * (1 - jitter + 2 * jitter * Math.random()));
  }
}

function isSame(a: Target, b: Target): boolean {
  return (
    a.containerId === b.containerId &&
    a.address === b.address &&
    a.port === b.port &&
    a.startedMs === b.startedMs &&
    JSON.stringify(a.check) === JSON.stringify(b.check)
  );
}

/** One question with the check's time limit. Never rejects. */
async function ask(target: Target): Promise<boolean> {
  try {
    return await (target.check.kind === 'http' ? askHttp(target) : askTcp(target));
  } catch {
    // A path or port that no request can be made of: the check fails, as it would in a shell.
    return false;
  }
}

function askTcp({ address, port, check }: Target): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect({ host: address, port });
    limit(socket, check.timeoutMs, resolve);
    socket.once('connect', () => {
      resolve(true);
      socket.destroy();
    });
  });
}

function askHttp({ address, port, check }: Target): Promise<boolean> {
  return new Promise((resolve) => {
    const asking = request({
      host: address,
      port,
      path: check.path ?? '/',
      agent: false,
      headers: { 'User-Agent': 'trellis-health' },
    });
    limit(asking, check.timeoutMs, resolve);
    asking.once('response', (response) => {
      const status = response.statusCode ?? 0;
      let bytes = 0;
      response.on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > bodyBytesMax) asking.destroy();
      });
      response.on('error', () => resolve(false));
      resolve(status >= 200 && status < 400);
    });
    asking.end();
  });
}

/** Ends the attempt after `timeoutMs`; a request that was answered only loses its connection. */
function limit(
  attempt: Socket | ClientRequest,
  timeoutMs: number,
  resolve: (isGood: boolean) => void,
): void {
  const timer = setTimeout(() => {
    resolve(false);
    attempt.destroy();
  }, timeoutMs);
  attempt.on('error', () => resolve(false));
  attempt.once('close', () => {
    clearTimeout(timer);
    resolve(false);
  });
}
