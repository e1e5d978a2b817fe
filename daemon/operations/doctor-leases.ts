/**
 * What exclusive services need of this host: a guard, a gate that really stops processes, the port of leases, and voters.
 * A fault fails the check where something exclusive is wanted, and is a warning where nothing is.
 */
import type { NodeId } from '../../crdt/ids.ts';
import type { InventoryFact } from '../../crdt/model.ts';
import { ClusterError } from '../errors.ts';
import type { LeaseApi } from '../lease-api.ts';
import type { GuardReply } from '../lease/guard-api.ts';
import type { NodeApi } from '../node-api.ts';
import { selfHost } from './common.ts';
import type { Found } from './doctor-found.ts';
import { bad, good, warn } from './doctor-found.ts';
import { hostFactOf } from './host-rows.ts';
import { worldOf } from './lease-world.ts';
import type { LeaseWorld } from './lease-world.ts';
import type { OperationContext } from './operation.ts';
import { quorumOf } from './quorum.ts';
import type { HostTools } from './tools.ts';
import { twoHostChoices } from './voters.ts';

export function leaseChecks(
  context: OperationContext,
  node: NodeApi,
  tools: HostTools,
): [string, () => Promise<Found> | Found][] {
  const { leases } = context;
  const world = worldOf(node, leases);
  const isNeeded = world.subjects.some(({ objects }) => objects.length > 0);
  const grade = isNeeded ? bad : warn;
  return [
    ['guard', () => guardCheck(world, grade)],
    ['gate', () => gateCheck(context, leases, grade)],
    ['cgroups', () => cgroupsCheck(node, grade)],
    ['traffic gate', () => trafficCheck(tools)],
    ['voters', () => votersCheck(world, isNeeded)],
  ];
}

/** Of another host's guard, from what it says of itself; none: it runs none, or says nothing. */
export function leasePortOf(context: OperationContext, owner: NodeId): number[] {
  const fact = context.leases?.facts().find((one) => one.owner === owner)?.fact;
  return fact === undefined || fact.leasePort === 0 ? [] : [fact.leasePort];
}

function guardCheck(world: LeaseWorld, grade: typeof bad): Found {
  const { status, node } = world;
  if (status === null) {
    return grade(
      'it does not answer: nothing exclusive runs here',
      'look at the daemon log and at guard.log in its run directory',
    );
  }
  const version = hostFactOf(node, selfHost(node))?.version;
  const detail = `version ${status.version}, process ${status.pid}`;
  if (version !== undefined && version !== status.version)
    return warn(
      `${detail}; the daemon is ${version}`,
      'restart the guard when nothing is held here',
    );
  if (status.hasForgotten)
    return grade(
      `${detail}; its vote is silent: the lease log of this host has lost something that it had promised to keep`,
      'look after the disk; the other voters remove the vote and let it in anew; without a majority of them: `trellis help env force-voters`',
    );
  if (status.silentMs > 0) {
    const seconds = Math.ceil(status.silentMs / 1_000);
    return warn(`${detail}; it is silent for ${seconds} s yet, as it forgot its votes`, 'wait');
  }
  return good(status.isParked ? `${detail}; parked` : detail);
}

/** Freezes, starts and kills for real. */
async function gateCheck(
  context: OperationContext,
  leases: LeaseApi | null,
  grade: typeof bad,
): Promise<Found> {
  if (leases === null) return grade('not tested: there is no guard', 'see the check of the guard');
  let reply: GuardReply;
  try {
    reply = await leases.testGate(context.signal);
  } catch (error) {
    if (!(error instanceof ClusterError) || error.code !== 'GUARD_UNREACHABLE') throw error;
    return grade('not tested: the guard does not answer', 'see the check of the guard');
  }
  if (reply.isOk) return good('processes were frozen, started behind it and killed, for real');
  const { reason, why } = reply.details;
  const words = typeof reason === 'string' ? reason : typeof why === 'string' ? why : reply.code;
  const todo =
    'exclusive services are refused on this host until the gate works: run the daemon as root, with cgroups';
  return grade(words, todo);
}

function cgroupsCheck(node: NodeApi, grade: typeof bad): Found {
  const fact = node.fact('inventory', node.self.node)?.value as Partial<InventoryFact> | undefined;
  const version = fact?.kernel?.cgroup;
  if (version === undefined) return warn('no inventory yet', 'run `trellis host rescan`');
  if (version === 'none') return grade('the kernel has none', 'mount cgroups: the gate needs them');
  return good(version);
}

/** The second line: traffic ends with the lease even where no process of ours runs any more. */
async function trafficCheck(tools: HostTools): Promise<Found> {
  const trouble = await tools.tryProgram('nft', ['list', 'tables']);
  if (trouble === null) return good('nft works');
  const todo = 'install nftables: traffic of exclusive services is cut by the kernel then, too';
  return warn(`only the gate fences: nft ${trouble}`, todo);
}

function votersCheck(world: LeaseWorld, isNeeded: boolean): Found {
  const quorum = quorumOf(world);
  const names = quorum.voters.map(({ host }) => host);
  const choices = twoHostChoices(world.node, names);
  if (quorum.mode === 'none') {
    return isNeeded ? warn(quorum.ifOneMoreGoes, 'see the check of the guard') : good('none yet');
  }
  const detail = `${names.join(', ')}; ${quorum.ifOneMoreGoes}`;
  if (!quorum.hasQuorum && quorum.mode !== 'pair')
    return bad(detail, 'bring voters back; see `trellis env show`');
  if (choices.length > 0 && world.view.voters === null)
    return warn(detail, `choose what two hosts shall lose: ${choices.join('; or ')}`);
  return quorum.survives < 1 && quorum.voters.length > 1
    ? warn(detail, 'bring voters back, or add hosts')
    : good(detail);
}
