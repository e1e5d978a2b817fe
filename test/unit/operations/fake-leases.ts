/** LeaseApi in memory, at the port: a guard's status that the test writes, facts of all hosts, and commands as asked. */
import type { HostId } from '../../../crdt/ids.ts';
import type { LeaseFact } from '../../../crdt/model.ts';
import { ClusterError } from '../../../daemon/errors.ts';
import type { LeaseApi } from '../../../daemon/lease-api.ts';
import type {
  GuardCommand,
  GuardReply,
  GuardStatus,
  LeaseStatus,
} from '../../../daemon/lease/guard-api.ts';
import type { ChosenConfig } from '../../../daemon/lease/model.ts';
import type { FakeNode } from './fake-node.ts';

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export class FakeLeases implements LeaseApi {
  readonly commands: GuardCommand[] = [];
  readonly leases: Mutable<LeaseStatus>[] = [];
  readonly factList = new Map<string, Mutable<LeaseFact>>();
  isConnected = true;
  gateFault: string | null = null;
  hasForgotten = false;
  version = '0.1.0';
  silentMs = 0;
  chosen: ChosenConfig | null;
  /** Voters that do not answer. */
  readonly deaf = new Set<HostId>();
  /** Answers the next commands; nothing: yes. */
  answer: (command: GuardCommand) => GuardReply = () => ({ isOk: true });
  readonly #node: FakeNode;
  readonly #listeners = new Set<() => void>();

  /** Voters by name. */
  constructor(node: FakeNode, voters: readonly string[]) {
    this.#node = node;
    this.chosen = chosenOf(voters.map((name) => node.host(name).id));
    for (const { name } of node.hostList) this.setFact(name, {});
  }

  setFact(host: string, changes: Partial<LeaseFact>): void {
    const owner = this.#node.host(host).node;
    const before = this.factList.get(owner) ?? emptyFact(this.chosen);
    this.factList.set(owner, { ...before, ...changes });
  }

  /** This host's guard holds it. */
  hold(name: string, epoch: number, changes: Partial<LeaseStatus> = {}): Mutable<LeaseStatus> {
    const lease = this.lease(name, {
      state: 'active',
      epoch,
      remainMs: 1_200,
      gate: 'open',
      ...changes,
    });
    const self = this.#node.hostList[0]?.name ?? '';
    this.setFact(self, { held: [{ name, epoch, state: lease.state }] });
    return lease;
  }

  lease(name: string, changes: Partial<LeaseStatus> = {}): Mutable<LeaseStatus> {
    const lease: LeaseStatus = {
      name,
      title: name,
      state: 'idle',
      epoch: 0,
      holder: null,
      remainMs: null,
      gate: 'closed',
      profile: 'fast',
      onLoss: 'stop',
      candidates: [],
      mayAcquire: true,
      why: '',
      history: [],
      ...changes,
    };
    this.leases.push(lease);
    return lease;
  }

  changed(): void {
    for (const listener of this.#listeners) listener();
  }

  status(): GuardStatus | null {
    if (!this.isConnected) return null;
    const voters = (this.chosen?.config.voters ?? []).map((host) => ({
      host,
      isReachable: !this.deaf.has(host),
      isSilent: false,
      lastHeardMs: this.deaf.has(host) ? 9_000 : 40,
    }));
    const answering = voters.filter(({ isReachable }) => isReachable).length;
    return {
      v: 1,
      env: this.#node.env,
      self: this.#node.self.host,
      session: 'a'.repeat(24),
      pid: 4711,
      version: this.version,
      chosen: this.chosen,
      voters,
      hasQuorum: answering > voters.length / 2,
      silentMs: this.silentMs,
      hasForgotten: this.hasForgotten,
      isParked: false,
      gateFault: this.gateFault,
      leases: this.leases,
      counters: {},
    };
  }

  look(): Promise<GuardStatus> {
    const status = this.status();
    return status === null
      ? Promise.reject(new ClusterError('GUARD_UNREACHABLE', { host: 'h1', reason: 'gone' }))
      : Promise.resolve(status);
  }

  command(command: GuardCommand, _signal?: AbortSignal): Promise<GuardReply> {
    if (!this.isConnected)
      return Promise.reject(new ClusterError('GUARD_UNREACHABLE', { host: 'h1', reason: 'gone' }));
    this.commands.push(command);
    return Promise.resolve(this.answer(command));
  }

  testGate(): Promise<GuardReply> {
    if (!this.isConnected)
      return Promise.reject(new ClusterError('GUARD_UNREACHABLE', { host: 'h1', reason: 'gone' }));
    if (this.gateFault === null) return Promise.resolve({ isOk: true });
    const details = { reason: this.gateFault };
    return Promise.resolve({ isOk: false, code: 'GATE_FAULT', details });
  }

  facts(): ReturnType<LeaseApi['facts']> {
    return [...this.factList].map(([owner, fact]) => ({ owner: owner as never, ageMs: 5, fact }));
  }

  onChange(handle: () => void): () => void {
    this.#listeners.add(handle);
    return () => void this.#listeners.delete(handle);
  }
}

export function chosenOf(voters: readonly HostId[], n = 2, generation = 0): ChosenConfig {
  return {
    config: {
      env: 'prod',
      n,
      prevHash: '',
      generation,
      voters: voters.toSorted(),
      ttlMsMax: 5_000,
      floors: [],
      floorRest: 0,
    },
    electorate: [],
    votes: [],
  };
}

function emptyFact(chosen: ChosenConfig | null): LeaseFact {
  return { v: 1, leasePort: 7441, chosen, hasQuorum: true, gateFault: null, held: [], unfit: [] };
}
