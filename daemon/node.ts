/**
 * The running node: routes each event to a part and passes on what it returns. No protocol lives here.
 *
 * Synchronous: a handler runs to completion. One timer serves all parts: each says when it wants to be called next, the
 * earliest wins. Listeners hear of changes once per turn.
 */
import type { Container } from '../crdt/document.ts';
import type { ClusterId, Hash, HostId, NodeId, SessionId } from '../crdt/ids.ts';
import type { Edit, LeafReader } from '../crdt/leaves.ts';
import type { EnvView, HostFact, HostView, Placement, Plan, PlanInputs } from '../crdt/model.ts';
import type { SignedBytes } from '../crdt/records.ts';
import type { DesiredView } from '../plugins/api.ts';
import type { Config } from './config.ts';
import type { ClusterError } from './errors.ts';
import { Events, eventsTopic } from './events.ts';
import type { LeaseName } from './lease/model.ts';
import { Membership } from './membership/membership.ts';
import type { StatusChange } from './membership/membership.ts';
import type {
  CommittedPlan,
  ConflictEntry,
  DocName,
  EditReceipt,
  EditSession,
  EventEntry,
  FactEntry,
  HistoryEntry,
  MemberInfo,
  NodeApi,
  Spread,
} from './node-api.ts';
import type { Holder } from './plan/leases.ts';
import { noLeases, Planning } from './plan/planning.ts';
import type { PlanningLeases } from './plan/planning.ts';
import type { Damage, KeyPair, Timer } from './ports.ts';
import { buildHostViews } from './replication/host-views.ts';
import { listConflicts, listHistory } from './replication/history.ts';
import { Replica } from './replication/replica.ts';
import type { Change, Ports, SessionSigner } from './replication/replica.ts';
import type { RosterOutcome } from './replication/roster.ts';
import { decodeMessage, encodeMessage } from './replication/wire.ts';
import { EnvViews } from './env-views.ts';

export interface NodeOptions {
  readonly clusterId: ClusterId;
  readonly self: { readonly node: NodeId; readonly host: HostId };
  readonly keys: KeyPair;
  /** Of this run; higher than that of any run before. */
  readonly incarnation: number;
  readonly ports: Ports;
  readonly config: Config;
  readonly signer: SessionSigner;
  /** Does the default gateway answer? Asked when an environment of at most two hosts has lost the other. */
  hasGateway(): boolean;
  /** What this host's guard and those of others hold; absent: nothing is held anywhere, and nobody plans by itself. */
  readonly leases?: PlanningLeases;
  /** A member was alive and is not any more: its connections are of no use, whatever the socket still believes. */
  onDead?(node: NodeId): void;
}

/** Facts and views are looked at again at least this often, so that ages and hold-downs take effect. */
const housekeepingMs = 1_000;
/** Events and facts are published at most this often. */
const eventFlushMs = 500;

export class TrellisNode implements NodeApi {
  readonly clusterId: ClusterId;
  readonly self: { readonly node: NodeId; readonly host: HostId };
  readonly replica: Replica;
  readonly membership: Membership;
  readonly #options: NodeOptions;
  readonly #envViews: EnvViews;
  readonly #events: Events;
  readonly #planning: Planning;
  readonly #listeners = new Set<() => void>();
  #hosts: readonly HostView[] | null = null;
  #timer: Timer | null = null;
  #timerAtMs = Number.POSITIVE_INFINITY;
  #housekeepingAtMs = 0;
  #isChanged = false;
  #notifyTimer: Timer | null = null;
  #eventTimer: Timer | null = null;
  #isStopped = false;
  /** Frames that made no sense, by reason. */
  readonly rejectedFrames = new Map<string, number>();

  constructor(options: NodeOptions) {
    const { ports, config, self } = options;
    this.#options = options;
    this.clusterId = options.clusterId;
    this.self = self;
    this.#events = new Events(config.eventsKeptMax, options.incarnation * 1_000_000);
    this.replica = new Replica({
      ...options,
      self: self.node,
      computePlan: (inputs) => this.#planning.compute(inputs),
      desired: (env) => (env === this.env ? this.#planning.desired() : null),
      onChange: (what, touched, doc) => this.#onReplica(what, touched, doc),
      onEvent: (kind, severity, text, details) => this.emit({ kind, severity, text, details }),
    });
    this.#envViews = new EnvViews((doc) => this.replica.documents.document(doc));
    this.membership = new Membership({
      self: self.node,
      config,
      random: ports.random,
      log: ports.log,
      incarnation: options.incarnation,
      send: (to, body) =>
        ports.network.send(to, encodeMessage(this.clusterId, { t: 'swim', b: body })),
      onChange: (change) => this.#onStatus(change),
    });
    this.#planning = new Planning({
      clusterId: options.clusterId,
      config,
      crypto: ports.crypto,
      self: self.host,
      env: () => this.env,
      envView: () => this.envView(),
      hosts: () => this.hosts(),
      committed: () => this.committedPlan(),
      isMergePending: () => this.replica.plans.isMergePending(this.env),
      isRefusing: () => this.replica.plans.isRefusing(this.env),
      facts: () => this.facts('docker'),
      hasLivePeer: () => this.#hasLivePeer(),
      hasGateway: () => options.hasGateway(),
      leases: options.leases ?? noLeases,
      reach: (host) => this.#reach(host),
      commit: (proposal) => this.replica.commitPlan(null, this.env, proposal, () => {}),
      emit: (event) => this.emit(event),
    });
  }

  /** Reads state back and begins to talk. */
  start(): void {
    const { network } = this.#options.ports;
    this.replica.load();
    for (const damage of this.replica.journal.damages()) this.#reportDamage(damage);
    this.membership.setRoster(this.replica.roster.members().keys(), this.#nowMs());
    network.onFrame((from, frame) => this.#onFrame(from, frame));
    network.onPeer((peer, isConnected) => this.#onPeer(peer, isConnected));
    for (const peer of network.connected()) this.#onPeer(peer, true);
    this.#runTimers();
  }

  /** Saves what makes the next start quick. After it nothing is sent or received. */
  stop(): void {
    this.replica.saveDocuments(true);
    this.#isStopped = true;
    for (const timer of [this.#timer, this.#notifyTimer, this.#eventTimer]) timer?.cancel();
  }

  // ---- Events from outside ------------------------------------------------------------------------------------

  #onFrame(from: NodeId, frame: Uint8Array): void {
    if (this.#isStopped) return;
    const nowMs = this.#nowMs();
    const message = decodeMessage(this.clusterId, frame);
    if ('rejected' in message) {
      this.rejectedFrames.set(
        message.rejected,
        (this.rejectedFrames.get(message.rejected) ?? 0) + 1,
      );
      return;
    }
    if (!this.replica.roster.members().has(from)) {
      // A member that we do not know yet: what it sends may hold the proof. Only the roster plane is looked at.
      if (message.t === 'push' && message.r !== undefined)
        this.replica.onMessage(from, { t: 'push', r: message.r });
      return;
    }
    if (message.t === 'swim') {
      this.membership.onFrame(from, message.b, nowMs);
    } else {
      this.membership.heard(from, nowMs);
      this.replica.onMessage(from, message);
    }
    this.#reschedule();
  }

  #onPeer(peer: NodeId, isConnected: boolean): void {
    if (this.#isStopped) return;
    this.membership.onConnection(peer, isConnected, this.#nowMs());
    this.replica.sync.onPeer(peer, isConnected);
    this.#changed();
    this.#reschedule();
  }

  #onReplica(
    what: Change,
    touched: ReadonlySet<Container> | undefined,
    doc: DocName | undefined,
  ): void {
    if (what === 'roster')
      this.membership.setRoster(this.replica.roster.members().keys(), this.#nowMs());
    if (doc !== undefined) this.#envViews.invalidate(doc, touched ?? null);
    this.#hosts = null;
    this.#changed();
    this.#reschedule();
  }

  #onStatus(change: StatusChange): void {
    this.#hosts = null;
    if (change.status === 'dead') this.#options.onDead?.(change.node);
    const host = this.hosts().find((view) => view.node === change.node);
    if (change.status === 'dead' || (change.status === 'alive' && change.was === 'dead')) {
      this.emit({
        kind: `host.${change.status}`,
        severity: change.status === 'dead' ? 'warn' : 'info',
        text: `host ${host?.name ?? change.node.slice(0, 8)} is ${change.status}`,
      });
    }
    this.#changed();
  }

  // ---- Time ---------------------------------------------------------------------------------------------------

  #runTimers(): void {
    if (this.#isStopped) return;
    const nowMs = this.#nowMs();
    this.#timerAtMs = Number.POSITIVE_INFINITY;
    this.replica.tick(nowMs);
    this.membership.tick(nowMs);
    if (nowMs >= this.#housekeepingAtMs) {
      this.#housekeepingAtMs = nowMs + housekeepingMs;
      this.replica.facts.forget(nowMs, (node) => this.replica.roster.members().has(node));
    }
    if (this.#planning.evaluate(nowMs)) this.#changed();
    this.#reschedule();
  }

  #reschedule(): void {
    if (this.#isStopped) return;
    const nowMs = this.#nowMs();
    const dueMs = Math.min(
      this.replica.sync.nextDeadlineMs(),
      this.membership.nextDeadlineMs(),
      this.#planning.nextDeadlineMs(),
      this.#housekeepingAtMs,
    );
    if (this.#timer !== null && this.#timerAtMs <= dueMs) return;
    this.#timer?.cancel();
    this.#timerAtMs = dueMs;
    this.#timer = this.#options.ports.clock.setTimer(Math.max(0, dueMs - nowMs), () =>
      this.#runTimers(),
    );
  }

  #changed(): void {
    this.#isChanged = true;
    if (this.#notifyTimer !== null || this.#isStopped) return;
    this.#notifyTimer = this.#options.ports.clock.setTimer(0, () => {
      this.#notifyTimer = null;
      if (!this.#isChanged) return;
      this.#isChanged = false;
      this.#planning.evaluate(this.#nowMs());
      for (const listener of this.#listeners) listener();
      this.#reschedule();
    });
  }

  // ---- NodeApi ------------------------------------------------------------------------------------------------

  get env(): string {
    return this.replica.roster.memberEver(this.self.node)?.record.env ?? '';
  }

  get clusterName(): string {
    return this.replica.roster.authority()?.name ?? '';
  }

  envView(): EnvView {
    return this.#envViews.view(this.env);
  }

  hosts(): readonly HostView[] {
    const nowMs = this.#nowMs();
    this.#hosts ??= buildHostViews({
      members: this.replica.roster.members().values(),
      settings: (member) => this.#envViews.view(member.record.env).hosts.get(member.host) ?? null,
      fact: (topic, owner) => this.replica.facts.get(topic, owner, nowMs)?.value ?? null,
      liveness: (node) => this.membership.statusOf(node),
    });
    return this.#hosts;
  }

  members(): readonly MemberInfo[] {
    const nowMs = this.#nowMs();
    const connected = new Set(this.#options.ports.network.connected());
    return [...this.replica.roster.members().values()].map(({ node, host }) => {
      const isSelf = node === this.self.node;
      const heardMs = this.membership.lastHeardMs(node);
      const lastSeenMs = isSelf ? 0 : heardMs === null ? null : Math.round(nowMs - heardMs);
      const liveness = this.membership.statusOf(node);
      return {
        node,
        host,
        liveness,
        lastSeenMs,
        isConnected: isSelf || connected.has(node),
        isSelf,
      };
    });
  }

  facts(topic: string): readonly FactEntry[] {
    return this.replica.facts.all(topic, this.#nowMs());
  }

  fact(topic: string, owner: NodeId): FactEntry | null {
    return this.replica.facts.get(topic, owner, this.#nowMs());
  }

  publishFact(topic: string, value: unknown): void {
    this.replica.publish(topic, value);
  }

  reader(doc: DocName): LeafReader {
    return this.replica.documents.document(doc);
  }

  readerAtLastApply(doc: DocName, source: string): LeafReader | null {
    return this.replica.documents.lastApply(doc, source);
  }

  edit(
    session: EditSession,
    doc: DocName,
    edit: Edit,
    done: (result: EditReceipt | ClusterError) => void,
  ): void {
    this.replica.edit(session, doc, edit, done);
  }

  /** Adds a roster record of our own making: session, invite, member, removal. */
  addRecord(signed: SignedBytes, synced?: (error?: Error) => void): RosterOutcome {
    return this.replica.addRoster(signed, synced);
  }

  spread(hash: Hash): Spread {
    const nowMs = this.#nowMs();
    const entry = this.replica.documents.entryByHash(hash);
    const have: HostId[] = [this.self.host];
    const missing: HostId[] = [];
    const asked: NodeId[] = [];
    for (const member of this.members()) {
      if (member.isSelf || member.liveness !== 'alive') continue;
      const has =
        entry !== null && this.replica.sync.hasDocument(member.node, entry.doc, nowMs) === true;
      (has ? have : missing).push(member.host);
      if (!has) asked.push(member.node);
    }
    this.replica.sync.ask(asked, nowMs);
    return { hash, have, missing };
  }

  conflicts(): readonly ConflictEntry[] {
    return listConflicts(
      this.replica,
      (host) => this.hosts().find((view) => view.id === host)?.name ?? host,
    );
  }

  history(options: {
    doc?: DocName;
    pointerPrefix?: string;
    max: number;
  }): readonly HistoryEntry[] {
    return listHistory(this.replica, options);
  }

  planInputs(): PlanInputs {
    return this.#planning.inputs();
  }

  committedPlan(): CommittedPlan | null {
    return this.replica.plans.current(this.env)?.committed ?? null;
  }

  commitPlan(
    session: EditSession | null,
    proposal: { readonly inputs: PlanInputs; readonly plan: Plan },
    done: (result: { readonly pointerHash: Hash } | ClusterError) => void,
  ): void {
    this.replica.commitPlan(session, this.env, proposal, done);
  }

  effectivePlacements(): readonly Placement[] {
    return this.#planning.effective();
  }

  leaseInputs(): PlanInputs | null {
    return this.#planning.leaseInputs();
  }

  leaseHolders(): ReadonlyMap<LeaseName, Holder> {
    return (this.#options.leases ?? noLeases).holders();
  }

  /** What `NodeOptions.leases` says has changed. */
  leasesChanged(): void {
    this.#changed();
  }

  /** What the plugins of this host shall bring about; null while nothing was ever committed. */
  desiredView(advertise: string): DesiredView | null {
    return this.#planning.view(advertise, this.#nowMs());
  }

  events(): readonly EventEntry[] {
    return this.#events.all(
      this.facts(eventsTopic),
      this.self.node,
      (owner) => this.replica.roster.memberEver(owner)?.host ?? null,
    );
  }

  emit(event: Omit<EventEntry, 'host' | 'seq' | 'atWallMs'>): void {
    const { clock, log } = this.#options.ports;
    this.#events.add(this.self.host, event, clock.wallMs());
    log[event.severity === 'info' ? 'info' : 'warn'](event.kind, { text: event.text });
    if (this.#eventTimer !== null || this.#isStopped) return;
    this.#eventTimer = clock.setTimer(eventFlushMs, () => {
      this.#eventTimer = null;
      this.replica.publish(eventsTopic, this.#events.own());
    });
  }

  damages(): readonly Damage[] {
    return this.replica.journal.damages();
  }

  /** Of what was mended before this node existed. */
  noteDamage(damage: Damage): void {
    this.replica.journal.note(damage);
    this.#reportDamage(damage);
  }

  /** A torn tail is what every power cut may leave: nobody was told that it was kept. */
  #reportDamage(damage: Damage): void {
    this.emit({
      kind: 'state.damaged',
      severity: damage.kind === 'torn-tail' ? 'info' : 'alarm',
      text: `${damage.name}: ${damage.detail}`,
    });
  }

  onChange(handle: () => void): () => void {
    this.#listeners.add(handle);
    return () => this.#listeners.delete(handle);
  }

  // ---- For the edge -------------------------------------------------------------------------------------------

  mayWrite(session: SessionId, doc: DocName): boolean {
    return this.replica.mayWrite(session, doc) === true;
  }

  /**
   * Somebody alive was heard just now. Status alone is not enough: a host that is cut off finds its peers dead one after
   * the other, and must not think that it reaches the last ones.
   */
  #hasLivePeer(): boolean {
    const { probeIntervalMs, suspicionTimeoutMsMin } = this.#options.config;
    const freshMs = probeIntervalMs + suspicionTimeoutMsMin;
    return this.members().some(
      ({ isSelf, liveness, lastSeenMs }) =>
        !isSelf && liveness === 'alive' && lastSeenMs !== null && lastSeenMs <= freshMs,
    );
  }

  #reach(host: HostId): { address: string; apiPort: number } | null {
    const view = this.hosts().find((one) => one.id === host);
    const fact = view === undefined ? null : this.fact('host', view.node);
    const { apiPort } = (fact?.value ?? {}) as Partial<HostFact>;
    if (view === undefined || view.address === null || typeof apiPort !== 'number') return null;
    return { address: view.address, apiPort };
  }

  #nowMs(): number {
    return this.#options.ports.clock.monotonicMs();
  }
}
