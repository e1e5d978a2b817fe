/**
 * Makes service names and numbers work on this host, also while the daemon is dead: a virtual address on lo, packet
 * filter rules in our own chains, a block in /etc/hosts, and a script that brings it all back at boot. See ADR 5.
 *
 * The steps do not wait for each other: a host without iptables still gets its names, one without room in /etc its rules.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { pluginApiVersion, PluginError } from '../api.ts';
import type {
  DesiredView,
  ItemFailure,
  Plugin,
  PluginContext,
  ReconcileOutcome,
  RunningPlugin,
} from '../api.ts';
import { describeNames, type NamesReport } from './describe.ts';
import { readText, replaceShared, writeAtomic } from './files.ts';
import {
  addVirtualAddress,
  bridgesOf,
  flushUdp,
  hasAddress,
  listeners,
  readInterfaces,
} from './host-network.ts';
import { removeVirtualAddress, setHairpin, type Interface } from './host-network.ts';
import { renderHostsBlock, replaceHostsBlock } from './hosts-block.ts';
import { applyRules, purgeRules, readTables } from './iptables.ts';
import {
  restoreRules,
  restoreRulesName,
  restoreScript,
  restoreScriptName,
} from './restore-script.ts';
import { chainsOf, inboundOf, renderRules, targetsOf, type RuleSet } from './rules.ts';
import { emptyState, parseState, type NamesState } from './state.ts';
import { itemOf, usableRoutes, type UsableRoute } from './usable-routes.ts';

export interface NamesConfig {
  /** 'iptables', or 'iptables-nft' or 'iptables-legacy' where the engine's choice must be matched. */
  readonly iptables: string;
  /** Null: no names on the host itself, only in containers. */
  readonly hostsFile: string | null;
}

export interface RunningNames extends RunningPlugin {
  /** Null before the first reconcile. */
  describe(): NamesReport | null;
}

export interface NamesPlugin extends Plugin<NamesConfig> {
  start(context: PluginContext, config: NamesConfig): Promise<RunningNames>;
}

export const namesPlugin: NamesPlugin = {
  name: 'names',
  apiVersion: pluginApiVersion,
  provides: ['names/1'],
  requires: [],
  parseConfig: parseNamesConfig,
  async start(context, config) {
    return new Names(context, config, await loadState(context));
  },
};

export function parseNamesConfig(raw: unknown): NamesConfig {
  const { iptables = 'iptables', hostsFile = '/etc/hosts' } = (raw ?? {}) as Partial<NamesConfig>;
  if (typeof iptables !== 'string' || !/^[\w./-]+$/.test(iptables))
    throw new Error('iptables must name a program');
  if (hostsFile !== null && (typeof hostsFile !== 'string' || !hostsFile.startsWith('/'))) {
    throw new Error('hostsFile must be an absolute path or null');
  }
  return { iptables, hostsFile };
}

/** Larger files are left alone: something is wrong with them, and every look would read them whole. */
const hostsFileCharsMax = 8 << 20;

class Names implements RunningNames {
  readonly #context: PluginContext;
  readonly #config: NamesConfig;
  #state: NamesState;
  #report: NamesReport | null = null;

  constructor(context: PluginContext, config: NamesConfig, state: NamesState) {
    this.#context = context;
    this.#config = config;
    this.#state = state;
  }

  describe(): NamesReport | null {
    return this.#report;
  }

  async reconcile(view: DesiredView, signal: AbortSignal): Promise<ReconcileOutcome> {
    const { routes, failures: unusable } = usableRoutes(view);
    const run = new Run(unusable);
    const interfaces = await run.step('address', () => readInterfaces(signal), []);
    const taken = await run.step('listeners', () => listeners(view.advertise), new Set<string>());
    for (const route of routes) noteTaken(run, view, route, taken);
    await run.step('address', () => this.#keepAddress(run, view, interfaces, signal), undefined);
    await run.step(
      'rules',
      () => this.#keepRules(run, view, { routes, interfaces, taken }, signal),
      undefined,
    );
    await run.step('hairpin', () => keepHairpin(run, routes, interfaces, signal), undefined);
    await run.step(
      'hosts-file',
      () => this.#keepHostsBlock(run, renderHostsBlock(view)),
      undefined,
    );
    await run.step('udp-flows', () => this.#forgetFlows(view, routes, signal), undefined);
    this.#report = describeNames(view, {
      taken,
      hostsFile: this.#config.hostsFile,
      failures: run.failures,
    });
    this.#context.publish({
      virtualAddress: view.virtualAddress,
      ports: routes.length,
      taken: [...taken].filter((key) => isWanted(key, routes)).toSorted(),
    });
    return { changes: run.changes, failures: run.failures };
  }

  async stop(): Promise<void> {
    // Nothing: names must go on without us.
  }

  async purge(signal: AbortSignal): Promise<void> {
    const { hostId } = this.#context.self;
    const run = new Run([]);
    await run.step(
      'rules',
      () => purgeRules(this.#config.iptables, chainsOf(hostId), signal),
      false,
    );
    await run.step('address', () => this.#dropAddress(signal), undefined);
    await run.step('hosts-file', () => this.#keepHostsBlock(run, ''), undefined);
    for (const name of [restoreScriptName, restoreRulesName, stateName])
      await rm(join(this.#context.stateDir, name), { force: true });
    this.#state = emptyState;
    // Where there is no iptables there are no rules of ours either.
    const failure = run.failures.find((item) => item.code !== 'TOOL_MISSING');
    if (failure) throw new PluginError(failure.code, failure.details ?? {}, failure.message);
  }

  async #keepAddress(
    run: Run,
    view: DesiredView,
    interfaces: readonly Interface[],
    signal: AbortSignal,
  ): Promise<void> {
    const old = this.#state.virtualAddress;
    if (old !== null && old !== view.virtualAddress && hasAddress(interfaces, old)) {
      await removeVirtualAddress(old, signal);
      run.changes.push(`address ${old} removed from lo`);
    }
    // Written down first: an address that nobody remembers would stay for ever.
    await this.#save({ virtualAddress: view.virtualAddress });
    if (hasAddress(interfaces, view.virtualAddress)) return;
    await addVirtualAddress(view.virtualAddress, signal);
    run.changes.push(`address ${view.virtualAddress} added to lo`);
  }

  async #keepRules(run: Run, view: DesiredView, found: Found, signal: AbortSignal): Promise<void> {
    // A host without services needs no iptables.
    if (found.routes.length === 0 && this.#state.rules === null) return;
    const local = localAddresses(found.routes);
    const inputs = {
      hostId: view.hostId,
      virtualAddress: view.virtualAddress,
      advertise: view.advertise,
      routes: found.routes,
      isAdvertiseLocal: hasAddress(found.interfaces, view.advertise),
      bridgeSubnets: bridgesOf(found.interfaces, local).map(({ subnet }) => subnet),
      taken: found.taken,
    };
    const rules = renderRules(inputs);
    const atBoot = renderRules({ ...inputs, routes: found.routes.map(ownFirst) });
    await this.#keepRestore(atBoot, view.virtualAddress);
    const { applied, hasChanged } = await applyRules(
      this.#config.iptables,
      rules,
      this.#state.rules,
      signal,
    );
    if (!hasChanged) return;
    await this.#save({ rules: applied });
    run.changes.push(`rules for ${found.routes.length} ports replaced`);
  }

  /** Before the rules themselves: a power cut in between must not bring older ones back. */
  async #keepRestore(rules: RuleSet, virtualAddress: string): Promise<void> {
    const script = restoreScript({ rules, program: this.#config.iptables, virtualAddress });
    await this.#keepFile(restoreRulesName, restoreRules(rules), 0o600);
    await this.#keepFile(restoreScriptName, script, 0o755);
  }

  async #keepFile(name: string, text: string, mode: number): Promise<void> {
    const path = join(this.#context.stateDir, name);
    if ((await readText(path)) !== text) await writeAtomic(path, text, mode);
  }

  async #keepHostsBlock(run: Run, block: string): Promise<void> {
    const path = this.#config.hostsFile;
    if (path === null) return;
    const text = (await readText(path)) ?? '';
    if (text.length > hostsFileCharsMax) {
      throw new PluginError(
        'COMMAND_FAILED',
        { command: path, reason: 'it is too large' },
        `${path} is too large to be kept`,
      );
    }
    const wanted = replaceHostsBlock(text, this.#context.self.hostId, block);
    if (wanted === text) return;
    await replaceShared(path, wanted);
    run.changes.push(`names in ${path} replaced`);
  }

  /** Remembers the targets only after the flows are gone: else an abort in between would leave them for ever. */
  async #forgetFlows(
    view: DesiredView,
    routes: readonly UsableRoute[],
    signal: AbortSignal,
  ): Promise<void> {
    const udp: Record<string, string[]> = {};
    for (const { port } of routes)
      if (port.protocol === 'udp') udp[port.number] = targetsOf(port).map((target) => target.to);
    const ports = [...new Set([...Object.keys(udp), ...Object.keys(this.#state.udp)])].filter(
      (number) => String(udp[number] ?? []) !== String(this.#state.udp[number] ?? []),
    );
    if (ports.length === 0) return;
    const isDone = await flushUdp([view.virtualAddress, view.advertise], ports.map(Number), signal);
    if (!isDone) this.#context.log.info('names.conntrack-missing', { ports: ports.length });
    await this.#save({ udp });
  }

  async #dropAddress(signal: AbortSignal): Promise<void> {
    const address = this.#state.virtualAddress;
    if (address === null || !hasAddress(await readInterfaces(signal), address)) return;
    // Another daemon of this cluster on this machine may still lead names there.
    const isShared = await readTables(this.#config.iptables, signal).then(
      ({ nat }) => nat.rules.some((rule) => rule.includes(` ${address}/32 `)),
      () => false,
    );
    if (!isShared) await removeVirtualAddress(address, signal);
  }

  async #save(changes: Partial<NamesState>): Promise<void> {
    const next = { ...this.#state, ...changes };
    if (JSON.stringify(next) === JSON.stringify(this.#state)) return;
    await writeAtomic(join(this.#context.stateDir, stateName), JSON.stringify(next), 0o600);
    this.#state = next;
  }
}

interface Found {
  readonly routes: readonly UsableRoute[];
  readonly interfaces: readonly Interface[];
  readonly taken: ReadonlySet<string>;
}

/** Collects what one reconcile did and could not do. */
class Run {
  readonly changes: string[] = [];
  readonly failures: ItemFailure[];

  constructor(failures: readonly ItemFailure[]) {
    this.failures = [...failures];
  }

  /** A step that fails becomes an item and the next one goes on. */
  async step<T>(item: string, work: () => Promise<T>, otherwise: T): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const isCoded = error instanceof PluginError;
      const message = error instanceof Error ? error.message : String(error);
      const code = isCoded ? error.code : 'COMMAND_FAILED';
      const details = isCoded ? error.details : { command: item, reason: message };
      // Reading and adding the address are one item to people.
      if (!this.failures.some((known) => known.item === item && known.message === message)) {
        this.failures.push({ item, code, message, details, isTransient: true });
      }
      return otherwise;
    }
  }
}

function noteTaken(
  run: Run,
  view: DesiredView,
  route: UsableRoute,
  taken: ReadonlySet<string>,
): void {
  const { protocol, number, local } = route.port;
  if (local.length === 0 || !taken.has(`${protocol}/${number}`)) return;
  const details = { port: number, host: view.hostName, owner: 'another program' };
  const message = `port ${number}/${protocol} is in use by another program: other hosts do not reach ${itemOf(route)} here`;
  run.failures.push({
    item: itemOf(route),
    code: 'PORT_TAKEN',
    message,
    details,
    isTransient: true,
  });
}

async function keepHairpin(
  run: Run,
  routes: readonly UsableRoute[],
  interfaces: readonly Interface[],
  signal: AbortSignal,
): Promise<void> {
  const bridges = bridgesOf(interfaces, localAddresses(routes)).map(({ name }) => name);
  const changed = await setHairpin(bridges, signal);
  if (changed.length > 0) run.changes.push(`hairpin mode on for ${changed.join(', ')}`);
}

/** A host that boots without a daemon may be alone: what it runs itself, or is about to, is all that is sure to be there. */
function ownFirst(route: UsableRoute): UsableRoute {
  const own = inboundOf(route.port);
  if (own.length === 0) return route;
  return { ...route, port: { ...route.port, local: own, remote: [] } };
}

function localAddresses(routes: readonly UsableRoute[]): string[] {
  return [...new Set(routes.flatMap(({ port }) => [...port.local, ...inboundOf(port)]))];
}

function isWanted(key: string, routes: readonly UsableRoute[]): boolean {
  return routes.some(({ port }) => `${port.protocol}/${port.number}` === key);
}

const stateName = 'applied.json';

async function loadState(context: PluginContext): Promise<NamesState> {
  const text = await readText(join(context.stateDir, stateName));
  const state = text === null ? emptyState : parseState(text);
  if (state !== null) return state;
  context.log.warn('names.state-damaged', { file: stateName });
  return emptyState;
}
