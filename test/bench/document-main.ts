/**
 * Loads the documents of a state directory as the daemon does at its start, and builds the view. Argument: the directory
 * (no daemon may use it). Prints milliseconds as JSON.
 */
import { performance } from 'node:perf_hooks';
import { systemClock } from '../../daemon/clock.ts';
import { defaultConfig } from '../../daemon/config.ts';
import { systemCrypto } from '../../daemon/crypto.ts';
import { TrellisNode } from '../../daemon/node.ts';
import type { Log, Network } from '../../daemon/ports.ts';
import { systemRandom } from '../../daemon/random.ts';
import { openStore } from '../../daemon/store/open-store.ts';
import type { ClusterId } from '../../crdt/ids.ts';

export interface LoadedDocument {
  /** From the directory to the view. */
  readonly loadMs: number;
  /** Of the whole process meanwhile: less depends on what else the machine does. */
  readonly cpuMs: number;
  readonly services: number;
}

const silent: Log = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
const alone: Network = { send: () => {}, onFrame: () => {}, onPeer: () => {}, connected: () => [] };

const [stateDir = '', clusterId = ''] = process.argv.slice(2);
const start = performance.now();
const cpuBefore = process.cpuUsage();
const ports = { log: silent, random: systemRandom, clock: systemClock };
const store = openStore(stateDir, ports);
const { nodeId, hostId, keyPair, incarnation } = store.identity;
const node = new TrellisNode({
  clusterId: clusterId as ClusterId,
  self: { node: nodeId, host: hostId },
  keys: keyPair,
  incarnation,
  ports: { ...ports, network: alone, storage: store.storage, crypto: systemCrypto },
  config: defaultConfig,
  signer: { sign: () => new Uint8Array(64), retire: () => {} },
  hasGateway: () => true,
});
node.start();
const view = node.envView();
const loadMs = performance.now() - start;
const cpu = process.cpuUsage(cpuBefore);
const cpuMs = (cpu.user + cpu.system) / 1_000;
const found: LoadedDocument = { loadMs, cpuMs, services: view.services.size };
process.stdout.write(`${JSON.stringify(found)}\n`);
await store.close();
process.exit();
