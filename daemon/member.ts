/**
 * Everything that lives while this daemon belongs to a cluster: the node, its network, logins, admission of others and
 * the API's certificate. `daemon.ts` makes it at start, `init` or `join`, and ends it at `leave` or stop.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ClusterId, HostId, NodeId, SessionId } from '../crdt/ids.ts';
import type { HostFact } from '../crdt/model.ts';
import type { SignedBytes } from '../crdt/records.ts';
import { seal } from '../crdt/records.ts';
import type { Config } from './config.ts';
import { systemCrypto } from './crypto.ts';
import { ClusterError, invariant } from './errors.ts';
import { createNetwork } from './net/create-network.ts';
import { Gateway } from './net/gateway.ts';
import { lastAddressOf } from './last-address.ts';
import { localAddresses, watchLocalAddresses } from './net/local-addresses.ts';
import type { PeerNetwork } from './net/peer-network.ts';
import type { PlanningLeases } from './plan/planning.ts';
import { TrellisNode } from './node.ts';
import type { EditSession } from './node-api.ts';
import type { ClusterAccess, LoginRequest } from './operations/lifecycle.ts';
import type { Clock, Log, Random } from './ports.ts';
import type { RosterOutcome } from './replication/roster.ts';
import type { Store } from './store/open-store.ts';
import { ApiCertificate } from './trust/api-certificate.ts';
import type { Certificate, CertificateAuthority } from './trust/certificates.ts';
import { pemOf } from './trust/certificates.ts';
import { introduce } from './trust/introduce.ts';
import { Introductions } from './introductions.ts';
import { readIssuingKey } from './trust/issuing-key.ts';
import { Admission } from './trust/join-server.ts';
import type { JoinAttempt } from './trust/join-server.ts';
import type { PeerHint } from './trust/join-wire.ts';
import { Logins } from './trust/login.ts';
import type { RosterAccess, RosterAdded } from './trust/roster-access.ts';

export interface MemberOptions {
  readonly clusterId: ClusterId;
  readonly store: Store;
  readonly runDir: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly config: Config;
  /** Multiaddrs. */
  readonly listen: readonly string[];
  /** Null: the first usable address. */
  readonly advertise: string | null;
  readonly version: string;
  /** First addresses of others, from the join answer; own facts replace them. */
  readonly hints: readonly PeerHint[];
  /** Names of small files that came back from their copies; reported. */
  readonly mended: string[];
  readonly leases: PlanningLeases;
  apiPort(): number;
  onJoinAttempt(attempt: JoinAttempt): void;
  onCertificate(certificate: Certificate): void;
}

/** Told members answer within this time, or the joiner is answered anyway: anti-entropy brings the rest. */
const admitPushMs = 300;

export class Member implements ClusterAccess {
  readonly node: TrellisNode;
  readonly network: PeerNetwork;
  readonly roster: RosterAccess;
  readonly admission: Admission;
  readonly certificate: ApiCertificate;
  readonly caPem: string;
  readonly #options: MemberOptions;
  readonly #logins: Logins;
  readonly #gateway: Gateway;
  readonly #hints = new Map<NodeId, readonly string[]>();
  readonly #introductions: Introductions;
  #stopWatching: () => void = () => {};
  #hostFact: HostFact | null = null;
  #lastAddress = '127.0.0.1';
  #isReady = false;
  readonly #onReady: (() => void)[] = [];
  readonly #bootId = readBootId();
  #state: Partial<Pick<HostFact, 'isLeaving' | 'isDraining' | 'engine' | 'plan' | 'isBusy'>> = {};

  constructor(options: MemberOptions) {
    const { store, clusterId, log, clock } = options;
    this.#options = options;
    this.#gateway = new Gateway(log);
    for (const hint of options.hints) this.#hints.set(hint.node as NodeId, hint.addresses);
    this.network = this.#makeNetwork();
    this.node = this.#makeNode();
    this.roster = rosterAccess(this.node);
    this.node.start();
    const known = this.node.replica.journal.addresses();
    this.#lastAddress = lastAddressOf(this.node.self.node, known) ?? this.#lastAddress;
    this.#assertRoster();
    const host = store.identity.hostId;
    this.#logins = new Logins({
      runDir: this.#loginDir(),
      clusterId,
      host,
      roster: this.roster,
      wallMs: () => clock.wallMs(),
      log,
    });
    const authority = this.roster.authority();
    invariant(authority !== null, 'a member has its authority record');
    this.caPem = pemOf(authority.caCertificate);
    const issuing = this.#issuing(authority.caCertificate);
    for (const name of options.mended)
      this.node.noteDamage({
        name,
        kind: 'corrupt',
        setAside: null,
        detail: 'it came back from its copy',
      });
    this.certificate = this.#makeCertificate(authority.name, issuing);
    this.admission = this.#makeAdmission(issuing);
    this.#introductions = new Introductions({
      clock,
      log,
      introduce: (node) => this.#introduceTo(node),
    });
  }

  get sessions(): Logins['sessions'] {
    return this.#logins.sessions;
  }

  async start(): Promise<void> {
    await this.network.start();
    this.#logins.resume();
    this.publishHost();
    this.node.onChange(() => this.#onNodeChange());
    this.#stopWatching = watchLocalAddresses(() => {
      this.publishHost();
      this.network.rosterChanged();
      void this.certificate
        .refresh()
        .catch((error: unknown) =>
          this.#options.log.warn('api.certificate-failed', { error: String(error) }),
        );
    });
  }

  async stop(): Promise<void> {
    this.#introductions.stop();
    this.#stopWatching();
    this.#gateway.stop();
    this.certificate.stop();
    this.node.stop();
    await this.network.stop();
  }

  hostName(): string {
    const { hostId } = this.#options.store.identity;
    return this.node.hosts().find((host) => host.id === hostId)?.name ?? 'host';
  }

  advertise(): string {
    if (this.#options.advertise !== null) return this.#options.advertise;
    const listened = /^\/ip[46]\/([^/]+)\//.exec(this.#options.listen[0] ?? '')?.[1];
    if (listened !== undefined && listened !== '0.0.0.0' && listened !== '::') return listened;
    // While the cable is out there is no address; the last one is where we shall most likely be again.
    this.#lastAddress = localAddresses()[0]?.address ?? this.#lastAddress;
    return this.#lastAddress;
  }

  /** What this host says of itself; published when it differs. */
  publishHost(
    state: Partial<Pick<HostFact, 'isLeaving' | 'isDraining' | 'engine' | 'plan' | 'isBusy'>> = {},
  ): void {
    this.#state = { ...this.#state, ...state };
    const fact: HostFact = {
      name: this.hostName(),
      version: this.#options.version,
      addresses: localAddresses().map((entry) => entry.address),
      advertise: this.advertise(),
      peerPort: this.network.port(),
      apiPort: this.#options.apiPort(),
      isReady: this.#isReady,
      isLeaving: this.#state.isLeaving ?? false,
      isDraining: this.#state.isDraining ?? false,
      bootId: this.#bootId,
      engine: this.#state.engine ?? 'absent',
      plan: this.#state.plan ?? null,
      isBusy: this.#state.isBusy ?? false,
    };
    this.#hostFact = fact;
    this.node.publishFact('host', fact);
  }

  get hostFact(): HostFact | null {
    return this.#hostFact;
  }

  /** Resolves once the plugins have looked at this host, or after the limit: then it becomes ready by itself later. */
  whenReady(limitMs: number): Promise<void> {
    if (this.#isReady) return Promise.resolve();
    return new Promise((resolve) => {
      this.#options.clock.setTimer(limitMs, resolve);
      this.#onReady.push(resolve);
    });
  }

  markReady(): void {
    if (this.#isReady) return;
    this.#isReady = true;
    for (const resolve of this.#onReady.splice(0)) resolve();
    this.publishHost();
  }

  // ---- ClusterAccess ------------------------------------------------------------------------------------------

  apiPeers(): readonly string[] {
    const live = this.node
      .members()
      .filter((member) => !member.isSelf && member.liveness === 'alive');
    const others = live.flatMap((member) => {
      const fact = this.node.fact('host', member.node)?.value as HostFact | undefined;
      return fact === undefined || fact.apiPort === 0
        ? []
        : [hostPort(fact.advertise, fact.apiPort)];
    });
    return [hostPort(this.advertise(), this.#options.apiPort()), ...others];
  }

  login(request: LoginRequest): Promise<EditSession> {
    return this.#logins.login(request);
  }

  get logins(): Logins {
    return this.#logins;
  }

  logout(operator: string | null): Promise<readonly string[]> {
    return Promise.resolve(this.#logins.logout(operator));
  }

  /** This host's own departure; returns how many live members were told. */
  async depart(): Promise<number> {
    const { store, clusterId } = this.#options;
    this.publishHost({ isLeaving: true });
    const record = seal(
      {
        kind: 'removal',
        v: 1,
        clusterId,
        subject: 'member',
        id: store.identity.nodeId,
        by: 'self',
        reason: 'left',
      },
      (bytes) => store.identity.keyPair.sign(bytes),
    );
    this.node.membership.leave(this.#options.clock.monotonicMs());
    const told = this.network.connected().length;
    this.node.addRecord(record);
    await settle(this.#options.clock, admitPushMs);
    return told;
  }

  /** Signs and spreads that a member is out. Fails with LOGIN_REQUIRED, FORBIDDEN, DISK_FULL. */
  async removeMember(session: EditSession, node: NodeId, reason: string): Promise<void> {
    if (!this.node.mayWrite(session.id, `env/${this.node.env}`)) {
      throw new ClusterError('FORBIDDEN', { operator: session.operator, action: 'remove a host' });
    }
    const { clusterId } = this.#options;
    const record = seal(
      { kind: 'removal', v: 1, clusterId, subject: 'member', id: node, by: session.id, reason },
      (bytes) => this.sessions.sign(session.id, bytes),
    );
    await this.#addDurably(record);
    this.network.rosterChanged();
  }

  /** Durable and on its way to whoever is connected, so that any of them lets a new host in. Fails with JOIN_REFUSED, DISK_FULL. */
  async keepRecord(record: SignedBytes): Promise<void> {
    await this.#addDurably(record);
    this.network.rosterChanged();
  }

  sessionRecord(id: SessionId): SignedBytes | null {
    return this.node.replica.roster.session(id)?.signed ?? null;
  }

  nodeOf(host: HostId): NodeId | null {
    for (const member of this.node.replica.roster.members().values())
      if (member.host === host) return member.node;
    return null;
  }

  // ---- Inside -------------------------------------------------------------------------------------------------

  /** Throws ROSTER_LOST: see `roster-recovery.ts`. */
  #assertRoster(): void {
    const { roster } = this.node.replica;
    if (roster.authority() !== null && roster.memberEver(this.node.self.node) !== null) return;
    this.node.stop();
    throw new ClusterError('ROSTER_LOST', { seconds: 0 });
  }

  #makeNetwork(): PeerNetwork {
    const { store, clusterId, config, log, random, listen } = this.#options;
    return createNetwork({
      seed: store.identity.seed,
      clusterId,
      listen,
      isMember: (node) => this.node.replica.roster.members().has(node),
      addressesOf: (node) => this.#addressesOf(node),
      roster: () => [...this.node.replica.roster.members().keys()],
      log,
      config,
      random,
    });
  }

  #makeNode(): TrellisNode {
    const { store, clusterId, config, log, random, clock } = this.#options;
    return new TrellisNode({
      clusterId,
      self: { node: store.identity.nodeId, host: store.identity.hostId },
      keys: store.identity.keyPair,
      incarnation: store.identity.incarnation,
      ports: {
        clock,
        random,
        network: this.network,
        storage: store.storage,
        crypto: systemCrypto,
        log,
      },
      config,
      signer: {
        sign: (session, bytes) => this.#logins.sessions.sign(session, bytes),
        retire: (session) => this.#logins.retire(session),
      },
      hasGateway: () => this.#gateway.answers(),
      leases: this.#options.leases,
      onDead: (node) => this.network.disconnect(node, 'dead'),
    });
  }

  #issuing(caCertificate: Uint8Array): CertificateAuthority {
    const issuing = readIssuingKey(
      this.#options.store.stateDir,
      caCertificate,
      this.#options.mended,
    );
    if (issuing !== null) return issuing;
    throw new ClusterError('STATE_DAMAGED', {
      name: 'issuing.key',
      detail: 'it is missing or is not the key of this cluster, and so is its copy',
      todo: 'copy it from the state directory of another member, or restore a backup',
    });
  }

  #makeCertificate(clusterName: string, authority: CertificateAuthority): ApiCertificate {
    const { store, clock, log } = this.#options;
    return new ApiCertificate({
      dir: store.stateDir,
      authority,
      clusterName,
      hostName: () => this.hostName(),
      addresses: () => [
        ...new Set([this.advertise(), ...localAddresses().map((entry) => entry.address)]),
      ],
      clock,
      log,
      onRenewed: (certificate) => this.#options.onCertificate(certificate),
    });
  }

  #makeAdmission(issuing: CertificateAuthority): Admission {
    const { store, clock, log } = this.#options;
    return new Admission({
      roster: this.roster,
      hostKeys: store.identity.keyPair,
      issuingKeyPem: issuing.keyPem,
      peers: () => this.#peerHints(),
      admit: (record) => this.keepRecord(record),
      settled: () => settle(clock, admitPushMs),
      onAttempt: (attempt) => this.#options.onJoinAttempt(attempt),
      clock,
      log,
    });
  }

  #onNodeChange(): void {
    this.network.rosterChanged();
    this.publishHost();
    const members = this.node.members().filter((member) => !member.isSelf);
    this.#introductions.look(members);
  }

  /** Shows our chain of trust to a member that does not let us in, over its HTTPS API. */
  async #introduceTo(node: NodeId): Promise<void> {
    const fact = this.node.fact('host', node)?.value as HostFact | undefined;
    if (fact === undefined || fact.apiPort === 0) return;
    const peer = hostPort(fact.advertise, fact.apiPort);
    await introduce({ roster: this.roster, self: this.node.self.node, peer, caPem: this.caPem });
    this.network.rosterChanged();
  }

  async #addDurably(record: SignedBytes): Promise<void> {
    const written = Promise.withResolvers<void>();
    const outcome = this.node.addRecord(record, (error) => {
      if (error === undefined) written.resolve();
      else {
        const details = { dir: this.#options.store.stateDir, reason: error.message };
        written.reject(new ClusterError('DISK_FULL', details, error));
      }
    });
    if (outcome.kind === 'added' || outcome.kind === 'known') return written.promise;
    throw new ClusterError('JOIN_REFUSED', {
      reason: outcome.reason,
      todo: 'ask for a new invitation',
    });
  }

  #addressesOf(node: NodeId): readonly string[] {
    const fact = this.node.fact('host', node)?.value as HostFact | undefined;
    const known =
      fact === undefined
        ? []
        : [fact.advertise, ...fact.addresses].map((address) => multiaddr(address, fact.peerPort));
    return [...new Set([...known, ...(this.#hints.get(node) ?? [])])];
  }

  #peerHints(): readonly PeerHint[] {
    const self = this.#options.store.identity.nodeId;
    const others = this.node.members().filter((member) => !member.isSelf);
    return [
      { node: self, addresses: [multiaddr(this.advertise(), this.network.port())] },
      ...others.map((member) => ({ node: member.node, addresses: this.#addressesOf(member.node) })),
    ];
  }

  /** Per host, since several daemons may share a run directory. */
  #loginDir(): string {
    return join(this.#options.runDir, this.#options.store.identity.hostId.slice(0, 8));
  }
}

function rosterAccess(node: TrellisNode): RosterAccess {
  const { roster } = node.replica;
  return {
    authority: () => roster.authority(),
    operators: () => roster.operators(),
    session: (id) => roster.session(id),
    invites: () => roster.invites(),
    membersEver: () => roster.membersEver(),
    isRemoved: (subject, id) => roster.isRemoved(subject, id),
    records: () => roster.records(),
    add: (signed) => toAdded(node.addRecord(signed)),
  };
}

function toAdded(outcome: RosterOutcome): RosterAdded {
  return outcome.kind === 'parked' || outcome.kind === 'rejected'
    ? { kind: outcome.kind, reason: outcome.reason }
    : { kind: outcome.kind };
}

export function multiaddr(address: string, port: number): string {
  return `/${address.includes(':') ? 'ip6' : 'ip4'}/${address}/tcp/${port}`;
}

function hostPort(address: string, port: number): string {
  return address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;
}

/** Changes with every boot of the kernel. */
function readBootId(): string {
  const path = process.env['TRELLIS_BOOT_ID_PATH'] ?? '/proc/sys/kernel/random/boot_id';
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    // Not Linux, or hidden: reboots are then not noticed, which `doctor` shows as an empty boot id.
    return '';
  }
}

function settle(clock: Clock, forMs: number): Promise<void> {
  return new Promise((resolve) => clock.setTimer(forMs, resolve));
}
