/** Real nodes on loopback for the tests of daemon/net. */
import { hex } from '../../../crdt/ids.ts';
import type { ClusterId, NodeId } from '../../../crdt/ids.ts';
import { defaultConfig } from '../../../daemon/config.ts';
import type { Config } from '../../../daemon/config.ts';
import { keyPairFromSeed } from '../../../daemon/crypto.ts';
import { silentLog } from '../../../daemon/logger.ts';
import { createNetwork } from '../../../daemon/net/create-network.ts';
import type { NetworkLimits, PeerNetwork } from '../../../daemon/net/peer-network.ts';
import { systemRandom } from '../../../daemon/random.ts';
import { eventually } from '../../await.ts';

export const clusterA = 'a'.repeat(32) as ClusterId;
export const clusterB = 'b'.repeat(32) as ClusterId;

export interface TestNode {
  readonly id: NodeId;
  readonly seed: Uint8Array;
  readonly network: PeerNetwork;
  readonly frames: { from: NodeId; text: string }[];
  readonly peerEvents: { peer: NodeId; isConnected: boolean }[];
}

export interface NodeOptions {
  readonly seed?: Uint8Array;
  readonly clusterId?: ClusterId;
  readonly limits?: Partial<NetworkLimits>;
  readonly config?: Config;
  readonly port?: number;
  /** Instead of recording frames and peers: sets handlers before the start. */
  readonly prepare?: (network: PeerNetwork) => void;
}

/** Members know each other's keys and addresses; `addresses` and `roster` may be changed by a test. */
export class TestCluster {
  readonly addresses = new Map<NodeId, string>();
  readonly roster = new Set<NodeId>();
  readonly #nodes: TestNode[] = [];

  /** Starts a node; a member unless `isStranger`. */
  async start(options: NodeOptions & { readonly isStranger?: boolean } = {}): Promise<TestNode> {
    const seed = options.seed ?? systemRandom.bytes(32);
    const id = hex(keyPairFromSeed(seed).publicKey) as NodeId;
    if (options.isStranger !== true) this.roster.add(id);
    const network = createNetwork({
      seed,
      clusterId: options.clusterId ?? clusterA,
      listen: [`/ip4/127.0.0.1/tcp/${options.port ?? 0}`],
      isMember: (node) => this.roster.has(node),
      addressesOf: (node) => [this.addresses.get(node) ?? []].flat(),
      roster: () => [...this.roster],
      log: silentLog,
      config: options.config ?? defaultConfig,
      random: systemRandom,
      limits: { ...options.limits },
    });
    const node: TestNode = { id, seed, network, frames: [], peerEvents: [] };
    network.onFrame((from, frame) =>
      node.frames.push({ from, text: new TextDecoder().decode(frame) }),
    );
    network.onPeer((peer, isConnected) => node.peerEvents.push({ peer, isConnected }));
    options.prepare?.(network);
    this.#nodes.push(node);
    await network.start();
    if (options.isStranger !== true) this.addresses.set(id, addressOf(node));
    this.changed();
    return node;
  }

  /** Tells everybody that roster or addresses changed. */
  changed(): void {
    for (const { network } of this.#nodes) network.rosterChanged();
  }

  async stop(node: TestNode): Promise<void> {
    this.#nodes.splice(this.#nodes.indexOf(node), 1);
    await node.network.stop();
  }

  async close(): Promise<void> {
    await Promise.all(this.#nodes.splice(0).map(({ network }) => network.stop()));
  }
}

export function addressOf(node: TestNode): string {
  return `/ip4/127.0.0.1/tcp/${node.network.port()}`;
}

export function bytes(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

export async function meshed(nodes: readonly TestNode[]): Promise<void> {
  await eventually(
    () => nodes.every(({ network }) => network.connected().length === nodes.length - 1),
    { withinMs: 10_000, what: 'everybody is connected to everybody' },
  );
}
