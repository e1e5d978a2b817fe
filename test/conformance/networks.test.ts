import { defaultConfig } from '../../daemon/config.ts';
import type { Network } from '../../daemon/ports.ts';
import { eventually } from '../await.ts';
import { defaultNetwork } from '../sim/sim-network.ts';
import type { SimNode, SimPorts } from '../sim/world.ts';
import { World } from '../sim/world.ts';
import { TestCluster } from '../unit/net/cluster.ts';
import type { TestNode } from '../unit/net/cluster.ts';
import { describeNetwork } from './network.ts';
import type { NetworkHarness } from './network.ts';

describeNetwork('libp2p on loopback', onLoopback);
describeNetwork('simulated links', inSimulator);

async function onLoopback(
  count: number,
  prepare: (index: number, network: Network) => void,
): Promise<NetworkHarness> {
  const cluster = new TestCluster();
  const nodes: TestNode[] = [];
  for (let i = 0; i < count; i++) {
    nodes.push(await cluster.start({ prepare: (network) => prepare(i, network) }));
  }
  return {
    nodes,
    frameBytesMax: defaultConfig.frameBytesMax,
    until: async (check) => void (await eventually(check, { withinMs: 10_000 })),
    stop: async (index) => cluster.stop(nodes[index] as TestNode),
    close: () => cluster.close(),
  };
}

async function inSimulator(
  count: number,
  prepare: (index: number, network: Network) => void,
): Promise<NetworkHarness> {
  class Bare implements SimNode {
    readonly ports: SimPorts;

    constructor(ports: SimPorts, index: number) {
      this.ports = ports;
      prepare(index, ports.network);
    }

    start(): void {}
  }
  const world = new World({
    seed: 1,
    nodeCount: count,
    factory: (ports, index) => new Bare(ports, index),
  });
  world.startAll();
  return {
    nodes: world.ids.map((id, index) => ({ id, network: world.node(index).ports.network })),
    frameBytesMax: defaultNetwork.frameBytesMax,
    until: async (check) => {
      if (!world.runUntil(check, { withinMs: 60_000 })) throw new Error('not within a minute');
    },
    stop: async (index) => world.crash(index, 'kill'),
    close: async () => {},
  };
}
