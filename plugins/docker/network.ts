/**
 * The bridge network of this host's instances and their fixed addresses.
 *
 * Fixed addresses are what lets forwarding rules survive a dead daemon, a container's restart and a reboot: nothing has
 * to be told anything. The network is made once, in a block that collides with no route and no network of this host.
 */
import { readFile } from 'node:fs/promises';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { PluginError } from '../api.ts';
import type { PluginContext } from '../api.ts';
import type { DockerConfig } from './config.ts';
import type { Engine } from './engine.ts';
import { isMissing, reasonOf, statusOf } from './errors.ts';
import { readJson, writeFileAtomic } from './files.ts';
import {
  type Allocation,
  type Subnet,
  allocate,
  candidateSubnets,
  checkAllocation,
  formatAddress,
  formatSubnet,
  overlaps,
  parseRoutes,
  parseSubnet,
  reclaim,
} from './subnets.ts';

/** Blocks tried with the engine before giving up; each refusal is an overlap that we could not see. */
const attemptsMax = 8;
/** The network is looked at this often, not at every reconcile. */
const trustMs = 30_000;

export class Network {
  readonly name: string;
  readonly #bridge: string;
  readonly #labels: Readonly<Record<string, string>>;
  readonly #path: string;
  readonly #engine: Engine;
  readonly #context: PluginContext;
  readonly #config: DockerConfig;
  #allocation: Allocation | null;
  #seenMs = -Infinity;

  constructor(parts: { engine: Engine; context: PluginContext; config: DockerConfig }) {
    const { clusterId, hostId } = parts.context.self;
    this.name = `trellis-${clusterId.slice(0, 8)}-${hostId.slice(0, 4)}`;
    // Exactly the 15 characters that Linux allows.
    this.#bridge = `tr-${clusterId.slice(0, 8)}${hostId.slice(0, 4)}`;
    this.#labels = { 'trellis.cluster': clusterId, 'trellis.host': hostId };
    this.#path = join(parts.context.stateDir, 'addresses.json');
    this.#engine = parts.engine;
    this.#context = parts.context;
    this.#config = parts.config;
    this.#allocation = checkAllocation(readJson(this.#path));
  }

  /** False: this host has never had containers of ours. */
  get hasBeenUsed(): boolean {
    return this.#allocation !== null;
  }

  /** Address of an instance, null before it was allocated. */
  addressOf(instance: string): string | null {
    return this.#allocation?.addresses[instance] ?? null;
  }

  /** Makes the network unless it is there. Returns whether it was made. Rejects CONFLICT and engine errors. */
  async ensure(): Promise<boolean> {
    const nowMs = this.#context.clock.monotonicMs();
    if (nowMs - this.#seenMs < trustMs) return false;
    const isNew = await this.#findOrCreate();
    this.#seenMs = nowMs;
    return isNew;
  }

  /** Something went wrong that a missing network would explain: look again at the next `ensure`. */
  doubt(): void {
    this.#seenMs = -Infinity;
  }

  async #findOrCreate(): Promise<boolean> {
    const found = await this.#inspect();
    if (found !== null) {
      this.#adopt(found);
      return false;
    }
    const refused: string[] = [];
    for (const subnet of await this.#freeSubnets()) {
      if (refused.length >= attemptsMax) break;
      const reason = await this.#create(subnet);
      if (reason === null) return true;
      refused.push(reason);
    }
    throw conflict(
      `no free private network for ${this.name}: ${refused[0] ?? 'every candidate collides with a route'}`,
    );
  }

  /**
   * Gives every wanted instance an address and keeps that on disk before it is used. `claims`: addresses that containers
   * were made with, by instance.
   */
  async allocate(wanted: readonly string[], claims: ReadonlyMap<string, string>): Promise<void> {
    if (this.#allocation === null) throw conflict(`network ${this.name} has no subnet`);
    const next = allocate(reclaim(this.#allocation, claims), wanted);
    if (next === null)
      throw conflict(
        `${wanted.length} instances do not fit into network ${this.#allocation.subnet}`,
      );
    if (next === this.#allocation) return;
    await writeFileAtomic(this.#path, JSON.stringify(next));
    this.#allocation = next;
  }

  async remove(): Promise<void> {
    const found = await this.#inspect().catch((error: unknown) => {
      // A foreign network of this name stays.
      if (error instanceof PluginError && error.code === 'CONFLICT') return null;
      throw error;
    });
    this.doubt();
    if (found === null) return;
    await this.#engine.call(`remove network ${this.name}`, (signal) =>
      this.#engine.docker.getNetwork(this.name).remove({ abortSignal: signal }),
    );
  }

  async #inspect(): Promise<string | null> {
    try {
      const network = await this.#engine.call(`inspect network ${this.name}`, () =>
        this.#engine.docker.getNetwork(this.name).inspect(),
      );
      const labels = (network.Labels ?? {}) as Record<string, string>;
      const isOurs = Object.entries(this.#labels).every(([key, value]) => labels[key] === value);
      if (!isOurs) throw conflict(`network ${this.name} exists and is not ours`);
      const subnet = (network.IPAM?.Config as { Subnet?: string }[] | undefined)?.[0]?.Subnet;
      if (subnet === undefined) throw conflict(`network ${this.name} has no subnet`);
      return subnet;
    } catch (error) {
      if (isMissing(error)) return null;
      throw error;
    }
  }

  /** The engine's network decides; addresses of another one (a lost state directory, a restored disk) are void. */
  #adopt(subnet: string): void {
    if (this.#allocation?.subnet !== subnet) this.#allocation = { subnet, addresses: {} };
  }

  async #freeSubnets(): Promise<Subnet[]> {
    const configured = this.#config.subnets.map(parseSubnet).filter((subnet) => subnet !== null);
    const candidates =
      configured.length > 0 ? configured : candidateSubnets(this.#context.self.hostId);
    const previous = this.#allocation === null ? null : parseSubnet(this.#allocation.subnet);
    const inUse = [...(await routes()), ...interfaces(), ...(await this.#networks())];
    const ordered = previous === null ? candidates : [previous, ...candidates];
    return ordered.filter((candidate) => !inUse.some((used) => overlaps(candidate, used)));
  }

  async #networks(): Promise<Subnet[]> {
    const list = await this.#engine.call('list networks', (signal) =>
      this.#engine.docker.listNetworks({ abortSignal: signal }),
    );
    return list.flatMap(({ IPAM }) =>
      (IPAM?.Config ?? [])
        .map(({ Subnet: text }) => parseSubnet(text ?? ''))
        .filter((subnet) => subnet !== null),
    );
  }

  /** Null when it was made, else why the engine refused this block. */
  async #create(subnet: Subnet): Promise<string | null> {
    const options = {
      Name: this.name,
      Driver: 'bridge',
      CheckDuplicate: true,
      Labels: this.#labels,
      Options: { 'com.docker.network.bridge.name': this.#bridge },
      IPAM: {
        Config: [
          {
            Subnet: formatSubnet(subnet),
            Gateway: formatAddress(subnet.base + 1),
            IPRange: formatSubnet({ base: subnet.base + 768, length: 24 }),
          },
        ],
      },
    };
    try {
      await this.#engine.call(`create network ${this.name}`, (signal) =>
        this.#engine.docker.createNetwork({ ...options, abortSignal: signal }),
      );
    } catch (error) {
      const status = (error as PluginError).details?.['status'] ?? statusOf(error);
      if (status === 403 || (status === 500 && /overlap/i.test(reasonOf(error))))
        return reasonOf(error);
      throw error;
    }
    this.#adopt(formatSubnet(subnet));
    this.#context.log.info('docker.network-created', {
      network: this.name,
      subnet: formatSubnet(subnet),
    });
    return null;
  }
}

/** Routes of this network namespace; /proc is there on every Linux, and elsewhere there is nothing to collide with. */
async function routes(): Promise<Subnet[]> {
  try {
    return parseRoutes(await readFile('/proc/net/route', 'utf8'));
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
}

function interfaces(): Subnet[] {
  const all = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return all
    .map(({ cidr, family }) => (family === 'IPv4' ? parseSubnet(cidr ?? '') : null))
    .filter((subnet) => subnet !== null);
}

function conflict(reason: string): PluginError {
  return new PluginError('CONFLICT', { reason, todo: 'see `trellis doctor`' }, reason);
}
