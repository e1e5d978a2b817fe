/**
 * The inventory of this host, published as fact 'inventory'.
 *
 * Taken at start, again when a reconcile finds it older than the interval, and on demand. Reading is bounded: about
 * 100 ms the first time (tools are asked for their versions once) and 20 ms later, never more than a few seconds.
 */
import type { InventoryFact } from '../../crdt/model.ts';
import { pluginApiVersion, type Plugin, type PluginContext, type RunningPlugin } from '../api.ts';
import { readCpu, readDisks, readFilesystems, readMemory, readStateDisk } from './hardware.ts';
import { readInterfaces } from './network.ts';
import type { Source } from './source.ts';
import {
  readBootId,
  readHostname,
  readKernel,
  readLoad,
  readMachineId,
  readOs,
  readPrivileges,
} from './system.ts';
import { askEngine, engineEndpoint, socketOf, ToolVersions, toolDirs } from './tools.ts';

export interface InventoryConfig {
  /** Files are read below this directory; anything but '/' is for tests. */
  readonly sysroot: string;
  readonly intervalMs: number;
  /** Instead of the kernel's boot id. */
  readonly bootIdPath: string | null;
  /** DOCKER_HOST form. */
  readonly engineEndpoint: string;
  /** Where room is needed. */
  readonly stateDir: string;
}

export interface RunningInventory extends RunningPlugin {
  /** Null until the first one is complete. */
  current(): InventoryFact | null;
  /** Takes it now and publishes it; calls at the same time share one. */
  rescan(): Promise<InventoryFact>;
}

const intervalMsMin = 1_000;

export interface InventoryPlugin extends Plugin<InventoryConfig> {
  start(context: PluginContext, config: InventoryConfig): Promise<RunningInventory>;
}

export const inventoryPlugin: InventoryPlugin = {
  name: 'inventory',
  apiVersion: pluginApiVersion,
  provides: ['inventory/1'],
  requires: [],
  parseConfig: parseInventoryConfig,
  async start(context, config) {
    const running = new Inventory(context, config);
    await running.rescan();
    return running;
  },
};

/** Every field is optional; the environment gives the defaults. */
export function parseInventoryConfig(raw: unknown): InventoryConfig {
  const given = (raw ?? {}) as Partial<Record<keyof InventoryConfig, unknown>>;
  if (typeof given !== 'object' || Array.isArray(given))
    throw new Error('configuration must be an object');
  const text = (
    name: 'sysroot' | 'bootIdPath' | 'engineEndpoint' | 'stateDir',
    fallback: string | null,
  ): string | null => {
    const value = given[name] ?? fallback;
    if (value !== null && typeof value !== 'string') throw new Error(`${name}: must be a string`);
    return value;
  };
  const intervalMs = given.intervalMs ?? 300_000;
  if (typeof intervalMs !== 'number' || !(intervalMs >= intervalMsMin)) {
    throw new Error(`intervalMs: must be a number of at least ${intervalMsMin}`);
  }
  return {
    sysroot: text('sysroot', '/') ?? '/',
    intervalMs,
    bootIdPath: text('bootIdPath', process.env['TRELLIS_BOOT_ID_PATH'] ?? null),
    engineEndpoint: text('engineEndpoint', null) ?? engineEndpoint(process.env),
    stateDir: text('stateDir', null) ?? '/var/lib/trellis',
  };
}

class Inventory implements RunningInventory {
  readonly #context: PluginContext;
  readonly #config: InventoryConfig;
  readonly #tools: ToolVersions;
  #current: InventoryFact | null = null;
  #takenAtMs = Number.NEGATIVE_INFINITY;
  #running: Promise<InventoryFact> | null = null;

  constructor(context: PluginContext, config: InventoryConfig) {
    this.#context = context;
    this.#config = config;
    this.#tools = new ToolVersions(toolDirs(process.env['PATH'] ?? ''));
  }

  current(): InventoryFact | null {
    return this.#current;
  }

  rescan(): Promise<InventoryFact> {
    this.#running ??= this.#take().finally(() => (this.#running = null));
    return this.#running;
  }

  async reconcile(): Promise<{ changes: readonly string[]; failures: readonly [] }> {
    const ageMs = this.#context.clock.monotonicMs() - this.#takenAtMs;
    if (ageMs >= this.#config.intervalMs) await this.rescan();
    return { changes: [], failures: [] };
  }

  async stop(): Promise<void> {
    await this.#running;
  }

  /** Owns nothing on the host. */
  async purge(): Promise<void> {}

  async #take(): Promise<InventoryFact> {
    const taken = await takeInventory({
      config: this.#config,
      tools: this.#tools,
      wallMs: this.#context.clock.wallMs(),
    });
    this.#current = taken;
    this.#takenAtMs = this.#context.clock.monotonicMs();
    if (taken.gaps.length > 0) this.#context.log.warn('inventory.gaps', { gaps: taken.gaps });
    this.#context.publish(taken);
    return taken;
  }
}

/** One look at everything; what cannot be read is listed in `gaps`. */
export async function takeInventory(options: {
  readonly config: InventoryConfig;
  readonly tools: ToolVersions;
  readonly wallMs: number;
}): Promise<InventoryFact> {
  const { config } = options;
  const source: Source = { root: config.sysroot, gaps: [] };
  const isLive = config.sysroot === '/';
  const [cpu, memory, stateDisk, filesystems, disks, kernel, osName] = await Promise.all([
    readCpu(source),
    readMemory(source),
    readStateDisk(source, config.stateDir),
    readFilesystems(source),
    readDisks(source),
    readKernel(source),
    readOs(source),
  ]);
  const [hostname, bootId, machineId, privileges, interfaces, load, tools, engine] =
    await Promise.all([
      readHostname(source),
      readBootId(source, config.bootIdPath),
      readMachineId(source),
      readPrivileges(source, socketOf(config.engineEndpoint)),
      readInterfaces(source),
      readLoad(source),
      isLive ? options.tools.read() : {},
      askEngine(config.engineEndpoint),
    ]);
  return {
    v: 1,
    takenAtWallMs: options.wallMs,
    hostname,
    cpu,
    memory,
    stateDisk,
    filesystems,
    disks,
    kernel,
    os: osName,
    bootId,
    machineId,
    engine,
    tools,
    privileges,
    interfaces,
    load,
    gaps: source.gaps,
  };
}
