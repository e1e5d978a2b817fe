/** What the operators have decided, which daemons learn late. Immutable: a change makes a new one. */
import type { HostId } from '../../../crdt/ids.ts';
import type { GuardDesired, LeaseDesired } from '../../../daemon/lease/guard-api.ts';
import type { ChosenConfig, OnLoss, ProfileName } from '../../../daemon/lease/model.ts';
import type { LeaseSpec, LeaseWorldOptions } from './options.ts';
import { configHash } from '../../../daemon/lease/voter-config.ts';
import { hostIdOf } from './machine.ts';

export interface LeaseTruth {
  readonly spec: LeaseSpec;
  readonly profile: ProfileName;
  readonly onLoss: OnLoss;
  readonly candidates: readonly HostId[];
  /** By host index. */
  readonly mayAcquire: readonly boolean[];
  readonly isFrozen: boolean;
}

export interface Truth {
  readonly version: number;
  /** The voters that all hosts know at the beginning; null: the first host founds the environment itself. */
  readonly founding: ChosenConfig | null;
  readonly hosts: readonly HostId[];
  readonly witness: number | null;
  readonly leases: readonly LeaseTruth[];
  readonly isFrozen: boolean;
  /** A change of it ends what held candidates off. */
  readonly why: string;
  readonly votersWanted: readonly HostId[] | null;
  /** By host index. */
  readonly failing: readonly boolean[];
}

export function firstTruth(options: LeaseWorldOptions): Truth {
  const hosts = Array.from({ length: options.hostCount }, (_, index) => hostIdOf(index));
  return {
    version: 0,
    founding: options.isFounded
      ? chainTo(hosts.slice(0, options.voterCount), options.ttlMsMax)
      : null,
    hosts,
    witness: options.witness,
    leases: options.leases.map((spec, index) => ({
      spec,
      profile: spec.profile,
      onLoss: spec.onLoss,
      candidates: (options.candidates[index] ?? []).map((host) => hosts[host] as HostId),
      mayAcquire: hosts.map(() => true),
      isFrozen: false,
    })),
    isFrozen: false,
    why: '',
    votersWanted: null,
    failing: hosts.map(() => false),
  };
}

export function desiredOf(truth: Truth, index: number, chosen: ChosenConfig | null): GuardDesired {
  return {
    v: 1,
    clusterId: 'c'.repeat(32),
    cluster8: 'cccccccc',
    env: 'e',
    self: truth.hosts[index] as HostId,
    peers: truth.hosts.map((host, at) => ({
      host,
      name: `h${at}`,
      node: host as never,
      addresses: [],
    })),
    leases: truth.leases.map((lease) => ({
      name: lease.spec.name,
      title: lease.spec.name,
      profile: lease.profile,
      onLoss: lease.onLoss,
      candidates: lease.candidates,
      mayAcquire: lease.mayAcquire[index] === true,
      why: truth.why,
      isFrozen: lease.isFrozen,
      gate: lease.spec.hasGate ? lease.spec.name.replaceAll('/', '') : null,
      traffic: lease.spec.hasGate ? ['169.254.0.1'] : [],
      fence: lease.spec.fence,
      fenceCommand: lease.spec.fence === 'command' ? ['fence'] : [],
      lockDelayMs: lease.spec.lockDelayMs,
      onDaemonDown: lease.spec.onDaemonDown,
    })),
    chosen,
    isFounder: index === 0,
    votersWanted: truth.votersWanted,
    isFrozen: truth.isFrozen,
    failingProbes: truth.failing[index] === true ? ['engine'] : [],
    isWitness: truth.witness === index,
  };
}

/** What is not in the configuration: a lock has a gate, the rest has none. */
export function leaseByCommand(name: string, host: HostId): LeaseDesired {
  return {
    name,
    title: name,
    profile: 'fast',
    onLoss: 'stop',
    candidates: [host],
    mayAcquire: true,
    why: '',
    isFrozen: false,
    gate: name.startsWith('lock/') ? name.replaceAll('/', '') : null,
    traffic: [],
    fence: 'none',
    fenceCommand: [],
    lockDelayMs: 0,
    onDaemonDown: 'stay',
  };
}

/** The last of the links from one voter to these, each voted for by all of the link before. */
export function chainTo(voters: readonly HostId[], ttlMsMax: number): ChosenConfig {
  let chosen: ChosenConfig = {
    config: {
      env: 'e',
      n: 0,
      prevHash: '',
      generation: 0,
      voters: voters.slice(0, 1),
      ttlMsMax,
      floors: [],
      floorRest: 0,
    },
    electorate: [],
    votes: [],
  };
  for (let count = 2; count <= voters.length; count++) {
    const before = chosen.config;
    chosen = {
      config: {
        ...before,
        n: before.n + 1,
        prevHash: configHash(before),
        voters: voters.slice(0, count),
      },
      electorate: before.voters,
      votes: before.voters,
    };
  }
  return chosen;
}
