/**
 * Measures `edit-visible-100` in a process of its own: the whole node in the simulator with real signatures. Prints the
 * samples in milliseconds as JSON. Arguments: number of edits, then seconds that it may take.
 *
 * A sample is the virtual time from the edit until the last node has it (latency, syncs of the disk, timers), plus the
 * CPU time that the busiest node spent meanwhile: in reality nodes compute side by side, here one after the other.
 */
import type { Hash } from '../../crdt/ids.ts';
import { systemCrypto } from '../../daemon/crypto.ts';
import { ClusterError } from '../../daemon/errors.ts';
import { TrellisWorld } from '../sim/trellis-world.ts';

export interface SimulatedEdits {
  readonly samplesMs: readonly number[];
  readonly virtualMs: readonly number[];
  readonly busiestCpuMs: readonly number[];
}

const nodeCount = 100;
/** A network of some buildings, worse than the switch of a rack. */
const network = { latencyMs: 5, jitterMs: 5 };
const pauseMs = 200;
const withinMs = 20_000;
const warmUpEdits = 10;

function main(edits: number, secondsMax: number): SimulatedEdits {
  const world = new TrellisWorld({ seed: 100, nodeCount, network, crypto: systemCrypto });
  const cpuMs = countCpu(world);
  world.converge({ withinMs: 60_000 });
  const untilMs = performance.now() + secondsMax * 1_000;
  const out = {
    samplesMs: [] as number[],
    virtualMs: [] as number[],
    busiestCpuMs: [] as number[],
  };
  for (let edit = 0; edit < edits + warmUpEdits; edit++) {
    if (performance.now() > untilMs && out.samplesMs.length > 0) break;
    const before = [...cpuMs];
    const virtualMs = editEverywhere(world, edit);
    const busiest = Math.max(...cpuMs.map((value, index) => value - (before[index] ?? 0)));
    if (edit >= warmUpEdits) {
      out.samplesMs.push(virtualMs + busiest);
      out.virtualMs.push(virtualMs);
      out.busiestCpuMs.push(busiest);
    }
    world.run({ forMs: pauseMs });
  }
  return out;
}

/** Milliseconds of real time spent in the handlers of each node, counted on. */
function countCpu(world: TrellisWorld): number[] {
  const spentMs = Array.from({ length: nodeCount }, () => 0);
  for (let index = 0; index < nodeCount; index++) {
    const host = world.host(index);
    const deliver = host.deliver.bind(host);
    host.deliver = (kind, life, fire) =>
      deliver(kind, life, () => {
        const start = performance.now();
        fire();
        spentMs[index] = (spentMs[index] ?? 0) + performance.now() - start;
      });
  }
  return spentMs;
}

/** Virtual milliseconds until all have it. */
function editEverywhere(world: TrellisWorld, edit: number): number {
  const state: { hash: Hash | null } = { hash: null };
  const sinceMs = world.nowMs;
  const object = 'settings' as const;
  const put = { object, pointer: `/hosts/${'ab'.repeat(16)}/meta/k${edit % 4}`, value: `v${edit}` };
  world.node(edit % nodeCount).edit([put], (result) => {
    if (result instanceof ClusterError) throw result;
    state.hash = result.hash;
  });
  const missing = new Set(Array.from({ length: nodeCount }, (_, index) => index));
  const isEverywhere = (): boolean => {
    if (state.hash === null) return false;
    for (const index of missing) {
      if (world.node(index).node.replica.documents.entryByHash(state.hash) === null) return false;
      missing.delete(index);
    }
    return true;
  };
  if (!world.runUntil(isEverywhere, { withinMs, everyMs: 1 }))
    throw new Error(`edit ${edit} is missing on ${missing.size} nodes after ${withinMs} ms`);
  return world.nowMs - sinceMs;
}

const [edits, secondsMax] = process.argv.slice(2).map(Number) as [number, number];
process.stdout.write(`${JSON.stringify(main(edits, secondsMax))}\n`);
