/**
 * NodeApi in memory, for tests of operations: a real document, real views, plans and diffs; hosts, facts and spread are
 * whatever the test says. No network, no disk, no signatures.
 */
import { TrellisDocument } from '../../../crdt/document.ts';
import { hex } from '../../../crdt/ids.ts';
import type { ClusterId, Hash, HostId, NodeId, SessionId } from '../../../crdt/ids.ts';
import type { LeafReader } from '../../../crdt/leaves.ts';
import type {
  EnvView,
  HostFact,
  HostView,
  InstanceFact,
  Placement,
  PlanInputs,
} from '../../../crdt/model.ts';
import { buildEnvView } from '../../../crdt/view.ts';
import { systemCrypto } from '../../../daemon/crypto.ts';
import type { ClusterError } from '../../../daemon/errors.ts';
import type { LeaseApi } from '../../../daemon/lease-api.ts';
import type {
  CommittedPlan,
  ConflictEntry,
  EditSession,
  EventEntry,
  FactEntry,
  HistoryEntry,
  NodeApi,
} from '../../../daemon/node-api.ts';
import type { Clock } from '../../../daemon/ports.ts';
import { decidedInputs } from '../../../daemon/plan/inputs.ts';
import type { Holder } from '../../../daemon/plan/leases.ts';
import type { Blobs, ContainerRuntime } from '../../../plugins/api.ts';
import type {
  Operation,
  OperationContext,
  StreamIo,
} from '../../../daemon/operations/operation.ts';

export const session: EditSession = {
  id: '5e'.repeat(16) as SessionId,
  operator: 'ada',
  expiresAtWallMs: Number.MAX_SAFE_INTEGER,
};

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export class FakeNode implements NodeApi {
  readonly clusterId = 'c1'.repeat(16) as ClusterId;
  readonly clusterName = 'shop';
  readonly env = 'prod';
  readonly self: { readonly node: NodeId; readonly host: HostId };
  readonly doc = new TrellisDocument(null);
  readonly hostList: Mutable<HostView>[];
  readonly factList = new Map<string, FactEntry>();
  readonly eventList: EventEntry[] = [];
  readonly conflictList: ConflictEntry[] = [];
  readonly historyList: HistoryEntry[] = [];
  readonly applied = new Map<string, Hash>();
  /** Conflicts that edits settled. */
  readonly picked: string[] = [];
  /** Hosts that do not have the newest edit yet. */
  missing: HostId[] = [];
  committed: CommittedPlan | null = null;
  readonly holders = new Map<string, Holder>();
  /** Refuses the next edit with it. */
  refusal: ClusterError | null = null;
  readonly #listeners = new Set<() => void>();

  constructor(names: readonly string[]) {
    this.hostList = names.map((name, i) => hostOf(name, i));
    const [first] = this.hostList;
    if (first === undefined) throw new Error('a fake node needs a host');
    this.self = { node: first.node, host: first.id };
    for (const host of this.hostList) this.setHostFact(host.name, {});
  }

  host(name: string): Mutable<HostView> {
    const found = this.hostList.find((host) => host.name === name);
    if (found === undefined) throw new Error(`no host ${name}`);
    return found;
  }

  setFact(topic: string, host: string, value: unknown, ageMs = 0): void {
    const owner = this.host(host).node;
    this.factList.set(`${topic} ${owner}`, { owner, topic, value, ageMs });
    this.changed();
  }

  setHostFact(host: string, changes: Partial<HostFact>): void {
    const fact: HostFact = {
      name: host,
      version: '0.1.0',
      addresses: [this.host(host).address ?? ''],
      advertise: this.host(host).address ?? '',
      peerPort: 7440,
      apiPort: 8443,
      isReady: true,
      isLeaving: false,
      isDraining: false,
      bootId: 'b',
      engine: 'ok',
      plan: this.committed?.pointerHash ?? null,
      isBusy: false,
      ...changes,
    };
    this.setFact('host', host, fact);
  }

  /** Instances '<service>-<slot>' that run there, and nothing else. */
  setInstances(
    host: string,
    instances: readonly (Partial<InstanceFact> & { instance: string })[],
  ): void {
    const facts = instances.map((given): InstanceFact => {
      const [service = '', slot = ''] = given.instance.split(/-(.*)/s);
      return {
        service,
        serviceId: '' as never,
        slot,
        containerId: `id-${given.instance}`,
        address: '10.1.0.2',
        state: 'running',
        health: 'none',
        image: 'demo/site:1',
        spec: 's',
        ports: [],
        sinceMs: 1_000,
        restarts: 0,
        ...given,
      };
    });
    this.setFact('docker', host, { engine: { state: 'ok' }, instances: facts });
  }

  /** What every host would do: runs what the plan says, healthily. */
  runEverything(): void {
    for (const host of this.hostList) {
      const here = this.effectivePlacements().filter((placement) => placement.host === host.id);
      const enabled = here.filter(
        ({ serviceName }) => this.envView().services.get(serviceName)?.isEnabled,
      );
      this.setInstances(
        host.name,
        enabled.map(({ serviceName, slot }) => ({ instance: `${serviceName}-${slot}` })),
      );
      this.setHostFact(host.name, {});
    }
  }

  changed(): void {
    for (const listener of this.#listeners) listener();
  }

  envView(): EnvView {
    return buildEnvView(this.env, this.doc);
  }

  hosts(): readonly HostView[] {
    const { hosts } = this.envView();
    return this.hostList.map((host) => {
      const settings = hosts.get(host.id);
      const given = new Set(host.roles);
      for (const [role, has] of Object.entries(settings?.roles ?? {})) {
        if (has) given.add(role);
        else given.delete(role);
      }
      return {
        ...host,
        name: settings?.name ?? host.name,
        roles: [...given].toSorted(),
        meta: { ...host.meta, ...settings?.meta },
        isDrained: settings?.isDrained ?? false,
      };
    });
  }

  members(): ReturnType<NodeApi['members']> {
    return this.hostList.map(({ node, id, liveness }) => ({
      node,
      host: id,
      liveness,
      lastSeenMs: 5,
      isConnected: true,
      isSelf: id === this.self.host,
    }));
  }

  facts(topic: string): readonly FactEntry[] {
    return [...this.factList.values()].filter((entry) => entry.topic === topic);
  }

  fact(topic: string, owner: NodeId): FactEntry | null {
    return this.factList.get(`${topic} ${owner}`) ?? null;
  }

  publishFact(): void {}

  reader(): LeafReader {
    return this.doc;
  }

  readerAtLastApply(_doc: string, source: string): LeafReader | null {
    const hash = this.applied.get(source);
    return hash === undefined ? null : this.doc.readerAt(hash);
  }

  edit(...[who, doc, edit, done]: Parameters<NodeApi['edit']>): void {
    if (this.refusal !== null) {
      done(this.refusal);
      this.refusal = null;
      return;
    }
    this.picked.push(...(edit.picks ?? []));
    const made = this.doc.edit(who.id, edit.message, edit.puts);
    const hash = made === null ? null : (this.doc.heads()[0] as Hash);
    if (edit.source !== undefined && hash !== null) this.applied.set(edit.source, hash);
    if (hash !== null) {
      const { message } = edit;
      this.historyList.unshift({
        hash,
        doc,
        operator: who.operator,
        session: who.id,
        atWallMs: 0,
        message,
      });
    }
    done({ hash, changed: made?.changed ?? 0 });
    this.changed();
  }

  spread(hash: Hash): ReturnType<NodeApi['spread']> {
    const have = this.hostList.map(({ id }) => id).filter((id) => !this.missing.includes(id));
    return { hash, have, missing: this.missing };
  }

  conflicts(): readonly ConflictEntry[] {
    return this.conflictList;
  }

  history(options: { max: number }): readonly HistoryEntry[] {
    return this.historyList.slice(0, options.max);
  }

  planInputs(): PlanInputs {
    const view = this.envView();
    const { services, storage } = decidedInputs(view, this.committed?.inputs ?? null);
    return {
      v: 1,
      env: this.env,
      roles: [...view.roles.values()],
      services,
      ...(storage === undefined ? {} : { storage }),
      hosts: this.hosts()
        .filter((host) => host.liveness !== 'left')
        .map(({ id, name, roles, meta, liveness, isDrained }) => ({
          id,
          name,
          roles,
          meta,
          isAlive: liveness === 'alive',
          isDrained,
          cpu: 4,
          memoryBytes: 8 << 30,
        })),
      numbers: [...view.numbers].toSorted(([a], [b]) => (a < b ? -1 : 1)),
      previous: this.committed?.plan.placements ?? [],
    };
  }

  committedPlan(): CommittedPlan | null {
    return this.committed;
  }

  commitPlan(...[who, proposal, done]: Parameters<NodeApi['commitPlan']>): void {
    const seq = (this.committed?.pointer.seq ?? 0) + 1;
    const pointerHash = hex(systemCrypto.sha256(new Uint8Array([seq]))) as Hash;
    const { inputHash } = proposal.plan;
    this.committed = {
      pointer: {
        env: this.env,
        planEpoch: 0,
        seq,
        inputHash,
        inputBlob: inputHash,
        blob: inputHash,
        author: { session: who?.id ?? session.id },
        after: this.committed?.pointerHash ?? '',
        past: [],
        decided: null,
        heads: {},
      },
      pointerHash,
      ...proposal,
      isAccepted: true,
    };
    done({ pointerHash });
    this.changed();
  }

  effectivePlacements(): readonly Placement[] {
    return this.committed?.plan.placements ?? [];
  }

  leaseInputs(): PlanInputs | null {
    const { committed } = this;
    if (committed === null) return null;
    return { ...committed.inputs, previous: committed.plan.placements };
  }

  leaseHolders(): ReadonlyMap<string, Holder> {
    return this.holders;
  }

  events(): readonly EventEntry[] {
    return this.eventList;
  }

  emit(event: Parameters<NodeApi['emit']>[0]): void {
    this.eventList.push({
      ...event,
      host: this.self.host,
      seq: this.eventList.length + 1,
      atWallMs: 0,
    });
    this.changed();
  }

  damages(): ReturnType<NodeApi['damages']> {
    return [];
  }

  onChange(handle: () => void): () => void {
    this.#listeners.add(handle);
    return () => void this.#listeners.delete(handle);
  }
}

function hostOf(name: string, i: number): Mutable<HostView> {
  const digit = (i + 1).toString(16);
  return {
    id: digit.repeat(32) as HostId,
    node: digit.repeat(64) as NodeId,
    name,
    env: 'prod',
    roles: [],
    meta: {},
    liveness: 'alive',
    isDrained: false,
    capacity: { cpu: 4, memoryBytes: 8 << 30 },
    address: `10.0.0.${i + 1}`,
  };
}

export interface RunOptions {
  readonly node?: FakeNode | null;
  readonly runtime?: Partial<ContainerRuntime>;
  readonly leases?: LeaseApi;
  readonly isLoggedOut?: boolean;
  readonly remote?: OperationContext['remote'];
  readonly io?: StreamIo;
  readonly signal?: AbortSignal;
  readonly clock?: Clock;
  readonly onProgress?: (text: string) => void;
}

/** Runs '<group>/<command>' as the bus would, after the schema of its parameters. */
export async function runOperation(
  operations: readonly Operation[],
  name: string,
  given: unknown,
  options: RunOptions,
): Promise<unknown> {
  const operation = operations.find(({ group, command }) => `${group}/${command}` === name);
  if (operation === undefined) throw new Error(`no operation ${name}`);
  return operation.run(contextOf(options), operation.params.parse(given));
}

function contextOf(options: RunOptions): OperationContext {
  const silent = () => undefined;
  return {
    node: options.node ?? null,
    caller: { via: 'socket', session: options.isLoggedOut === true ? null : session },
    clock: options.clock ?? {
      monotonicMs: () => performance.now(),
      wallMs: () => Date.now(),
      setTimer: (delayMs, fire) => {
        const timer = setTimeout(fire, delayMs);
        return { cancel: () => clearTimeout(timer) };
      },
    },
    log: { debug: silent, info: silent, warn: silent, error: silent },
    signal: options.signal ?? new AbortController().signal,
    progress: (text) => options.onProgress?.(text),
    io: options.io ?? null,
    runtime: (options.runtime as ContainerRuntime | undefined) ?? null,
    blobs: {} as Blobs,
    leases: options.leases ?? null,
    remote: options.remote ?? (() => Promise.reject(new Error('no other host answers here'))),
  };
}
