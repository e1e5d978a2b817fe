/**
 * Starts plugins in the order of what they require and stops them in reverse. A plugin that fails to start is disabled
 * and said so; the node goes on without it.
 */
import type { Blobs, Plugin, PluginContext, RunningPlugin } from '../../plugins/api.ts';
import { pluginApiVersion } from '../../plugins/api.ts';
import { compareText } from '../../crdt/codec.ts';
import { ClusterError } from '../errors.ts';
import type { Clock, Log } from '../ports.ts';

const startLimitMs = 10_000;
const stopLimitMs = 5_000;

export interface Installed {
  readonly plugin: Plugin;
  readonly config: unknown;
}

export interface Started {
  readonly name: string;
  readonly running: RunningPlugin;
}

export interface PluginHostOptions {
  readonly self: PluginContext['self'];
  readonly clock: Clock;
  readonly log: Log;
  readonly blobs: Blobs;
  stateDir(plugin: string): string;
  requestReconcile(plugin: string, reason: string): void;
  publish(topic: string, value: unknown): void;
}

export class PluginHost {
  readonly #options: PluginHostOptions;
  readonly #started: Started[] = [];
  /** Name to the reason why it is not running. */
  readonly disabled = new Map<string, string>();

  constructor(options: PluginHostOptions) {
    this.#options = options;
  }

  /** Throws PLUGIN_CONFIG_INVALID for a wrong version, an unmet requirement or a bad configuration: all are faults of the release. */
  async start(installed: readonly Installed[]): Promise<readonly Started[]> {
    for (const { plugin, config } of inOrder(installed)) {
      const parsed = parse(plugin, config);
      try {
        const starting = plugin.start(this.#context(plugin.name), parsed);
        const running = await this.#inTime(plugin.name, starting);
        this.#started.push({ name: plugin.name, running });
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.disabled.set(plugin.name, reason);
        this.#options.log.error('plugin.disabled', { plugin: plugin.name, reason });
      }
    }
    return this.#started;
  }

  /** One that is late is disabled already: it is stopped as soon as it has started after all. */
  async #inTime(plugin: string, starting: Promise<RunningPlugin>): Promise<RunningPlugin> {
    try {
      return await within(this.#options.clock, startLimitMs, starting);
    } catch (error) {
      starting
        .then((running) => running.stop())
        .catch((late: unknown) => {
          this.#options.log.debug('plugin.late-start-failed', { plugin, error: String(late) });
        });
      throw error;
    }
  }

  async stop(): Promise<void> {
    for (const { name, running } of this.#started.toReversed()) {
      try {
        await within(this.#options.clock, stopLimitMs, running.stop());
      } catch (error) {
        this.#options.log.warn('plugin.stop-failed', { plugin: name, error: String(error) });
      }
    }
    this.#started.length = 0;
  }

  /** Removes what the plugins own on this host, the last started first. Collects what could not be removed. */
  async purge(signal: AbortSignal): Promise<readonly string[]> {
    const left: string[] = [];
    for (const { name, running } of this.#started.toReversed()) {
      try {
        await running.purge(signal);
      } catch (error) {
        left.push(`${name}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    return left;
  }

  #context(plugin: string): PluginContext {
    const { self, clock, log, blobs } = this.#options;
    const tagged =
      (level: 'debug' | 'info' | 'warn' | 'error') =>
      (event: string, values?: Record<string, unknown>) =>
        log[level](event, { ...values, plugin });
    return {
      self,
      clock,
      log: {
        debug: tagged('debug'),
        info: tagged('info'),
        warn: tagged('warn'),
        error: tagged('error'),
      },
      stateDir: this.#options.stateDir(plugin),
      requestReconcile: (reason) => this.#options.requestReconcile(plugin, reason),
      publish: (value) => this.#options.publish(plugin, value),
      blobs,
    };
  }
}

/** Providers before those who require them; otherwise as given. */
export function inOrder(installed: readonly Installed[]): readonly Installed[] {
  const waiting = [...installed];
  const twin = installed.find(({ plugin }, at) =>
    installed.slice(0, at).some((other) => other.plugin.name === plugin.name),
  );
  if (twin !== undefined)
    throw new ClusterError('PLUGIN_CONFIG_INVALID', {
      plugin: twin.plugin.name,
      reason: 'there are two of this name',
    });
  const provided = new Set<string>();
  const out: Installed[] = [];
  while (waiting.length > 0) {
    const index = waiting.findIndex(({ plugin }) =>
      plugin.requires.every((capability) => provided.has(capability)),
    );
    const next = waiting[index];
    if (next === undefined) {
      const names = waiting.map(({ plugin }) => plugin.name).toSorted(compareText);
      throw new ClusterError('PLUGIN_CONFIG_INVALID', {
        plugin: names.join(', '),
        reason: 'requires what nobody provides, or a cycle',
      });
    }
    waiting.splice(index, 1);
    for (const capability of next.plugin.provides) provided.add(capability);
    out.push(next);
  }
  return out;
}

function parse(plugin: Plugin, config: unknown): unknown {
  if (plugin.apiVersion !== pluginApiVersion) {
    throw new ClusterError('PLUGIN_CONFIG_INVALID', {
      plugin: plugin.name,
      reason: `speaks plugin API ${String(plugin.apiVersion)}`,
    });
  }
  try {
    return plugin.parseConfig(config);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ClusterError('PLUGIN_CONFIG_INVALID', { plugin: plugin.name, reason }, error);
  }
}

async function within<T>(clock: Clock, limitMs: number, work: Promise<T>): Promise<T> {
  let cancel = (): void => {};
  const limit = new Promise<never>((_, reject) => {
    const timer = clock.setTimer(limitMs, () =>
      reject(new Error(`did not settle within ${limitMs} ms`)),
    );
    cancel = () => timer.cancel();
  });
  try {
    return await Promise.race([work, limit]);
  } finally {
    cancel();
  }
}
