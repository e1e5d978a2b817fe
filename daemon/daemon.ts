/**
 * The process: owns the state directory, serves the unix socket from its first moment, and brings membership up and
 * down (`Lifecycle`). What exists only while the host is a member is in `member.ts` and `workload.ts`.
 */
import { existsSync, rmSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join as joinPath } from 'node:path';
import { BundleSource } from '../bootstrap/bundle-source.ts';
import { renderInvitation, renderJoinScript } from '../bootstrap/join-script.ts';
import type { SignedBytes } from '../crdt/records.ts';
import { alertReminder } from './alert-reminder.ts';
import { AlertWatch } from './alert-watch.ts';
import { createApi } from './api/create-api.ts';
import type { Api } from './api/create-api.ts';
import { TokenTable } from './api/tokens.ts';
import { defaultConfig } from './config.ts';
import { ClusterError } from './errors.ts';
import { makeHostTools } from './host-tools.ts';
import { leaseRootOf, Leases } from './leases.ts';
import type { GuardOptions } from './leases.ts';
import { Member } from './member.ts';
import { membershipFile, readMembership, writeMembership } from './membership-file.ts';
import type { Membership } from './membership-file.ts';
import { collectMetrics } from './metrics.ts';
import { BlobTransfer } from './net/blob-transfer.ts';
import { assertPortFree } from './net/free-port.ts';
import { AuditLog } from './operations/audit-log.ts';
import { Bus } from './operations/bus.ts';
import type { RemoteCaller } from './operations/bus.ts';
import type {
  ClusterAccess,
  Control,
  InitOutcome,
  InitRequest,
  JoinOutcome,
  JoinRequest,
  LeaveOutcome,
  LeaveRequest,
  Lifecycle,
} from './operations/lifecycle.ts';
import { createRemoteCaller, serveRemoteCalls } from './operations/remote.ts';
import { allOperations } from './operations/all-operations.ts';
import type { Paths } from './paths.ts';
import { noLeases } from './plan/planning.ts';
import type { PlanningLeases } from './plan/planning.ts';
import type { Clock, Log, Random } from './ports.ts';
import { BlobStore } from './store/blobs.ts';
import { writeFileDurablySync } from './store/durable.ts';
import { openStore } from './store/open-store.ts';
import type { Store } from './store/open-store.ts';
import { foundCluster } from './trust/authority.ts';
import { writeSecretFile } from './trust/secret-file.ts';
import type { Login } from './trust/login.ts';
import { dnsLabelOf } from './trust/identity.ts';
import type { InvitationForm } from './trust/invites.ts';
import { writeIssuingKey } from './trust/issuing-key.ts';
import { join } from './trust/join-client.ts';
import { fetchRoster } from './roster-recovery.ts';
import { Workload } from './workload.ts';

export interface DaemonOptions {
  readonly paths: Paths;
  readonly version: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
  readonly listen: readonly string[];
  readonly advertise: string | null;
  readonly api: { readonly address: string; readonly port: number };
  readonly hostsFile: string | null;
  readonly guard: GuardOptions;
}

/** `init` and `join` answer when the host is ready, or after this: an engine may hang. */
const readyWithinMs = 10_000;
const blobChunkBytes = 256 << 10;

export class Daemon implements Lifecycle {
  readonly host: Lifecycle['host'];
  readonly #options: DaemonOptions;
  readonly #tokens: TokenTable;
  readonly #bus: Bus;
  readonly #api: Api;
  #store: Store;
  #audit: AuditLog;
  #blobs: BlobTransfer | null = null;
  #member: Member | null = null;
  #workload: Workload | null = null;
  #leases: Leases | null = null;
  #alerts: AlertWatch | null = null;
  #remote: RemoteCaller | null = null;
  readonly #bundle: BundleSource;
  #apiPort = 0;
  #isReady = false;

  /** Takes the state directory. Throws STATE_LOCKED, STATE_NEWER, DISK_FULL. */
  constructor(options: DaemonOptions) {
    const { paths, clock, log, random, version } = options;
    this.#options = options;
    this.host = { version, stateDir: paths.state, socket: paths.socket };
    this.#store = openStore(paths.state, { log, random, clock });
    this.#audit = this.#openAudit();
    this.#tokens = new TokenTable(() => clock.wallMs());
    this.#bundle = new BundleSource(joinPath(paths.state, 'bundle'));
    this.#bus = this.#makeBus();
    this.#api = this.#makeApi();
  }

  async start(): Promise<void> {
    const { paths } = this.#options;
    await mkdir(paths.run, { recursive: true, mode: 0o755 });
    await this.#api.openSocket(paths.socket);
    const mended = [...this.#store.identity.mended];
    const membership = readMembership(paths.state, mended);
    if (membership !== null) await this.#bringUp(membership, mended);
    this.#isReady = true;
  }

  /** Saves and closes; containers, rules and names stay as they are. */
  async stop(): Promise<void> {
    await this.#api.close();
    await this.#takeDown();
    this.#audit.close();
    await this.#store.close();
  }

  isMember(): boolean {
    return this.#member !== null;
  }

  get apiPort(): number {
    return this.#apiPort;
  }

  // ---- Lifecycle ----------------------------------------------------------------------------------------------

  cluster(): ClusterAccess | null {
    return this.#member;
  }

  async init(request: InitRequest, control: Control): Promise<InitOutcome> {
    this.#assertNoMember();
    await this.#assertPortsFree();
    if (request.recoveryFile !== null && existsSync(request.recoveryFile)) {
      throw new ClusterError('INVALID', { reason: `recovery file ${request.recoveryFile} exists` });
    }
    control.progress('making keys and certificates');
    const { identity, stateDir } = this.#store;
    const hostName = request.hostName ?? dnsLabelOf(hostname());
    const founding = await foundCluster({
      ...request,
      hostKeySeed: identity.seed,
      hostId: identity.hostId,
      hostName,
      nowWallMs: this.#options.clock.wallMs(),
    });
    await this.#undoOnFailure(async () => {
      writeIssuingKey(stateDir, founding.certificates.keyPem);
      if (request.recoveryFile !== null)
        writeSecretFile(request.recoveryFile, `${founding.recovery}\n`);
      await this.#keepRecords(founding.records);
      await this.#becomeMember({ v: 1, clusterId: founding.clusterId, hints: [] }, founding.login);
    });
    const { clusterId } = founding;
    return {
      clusterId,
      name: request.name,
      env: request.env,
      operator: request.operator,
      hostId: identity.hostId,
      hostName,
      ...(founding.passphrase === null ? {} : { passphrase: founding.passphrase }),
      ...(request.recoveryFile === null
        ? { recovery: founding.recovery }
        : { recoveryFile: request.recoveryFile }),
    };
  }

  async join(request: JoinRequest, control: Control): Promise<JoinOutcome> {
    this.#assertNoMember();
    await this.#assertPortsFree();
    const { identity, stateDir } = this.#store;
    const joined = await join({
      ...request,
      hostKeySeed: identity.seed,
      hostId: identity.hostId,
      name: request.hostName ?? dnsLabelOf(hostname()),
      listenAddresses: this.#options.listen,
      signal: control.signal,
      progress: (text) => control.progress(text),
    });
    control.progress('admitted; fetching the configuration');
    await this.#undoOnFailure(async () => {
      writeIssuingKey(stateDir, joined.issuingKeyPem);
      await this.#keepRecords(joined.records);
      await this.#becomeMember({ v: 1, clusterId: joined.clusterId, hints: joined.peers }, null);
    });
    const { clusterId, clusterName, member, hostId, peer } = joined;
    return {
      clusterId,
      name: clusterName,
      env: member.env,
      hostId,
      hostName: member.name,
      roles: member.roles,
      peer,
    };
  }

  async leave(request: LeaveRequest, control: Control): Promise<LeaveOutcome> {
    const member = this.#member;
    if (member === null) throw new ClusterError('NOT_INITIALISED');
    const { clusterId, clusterName } = member.node;
    const others = member.node.members().filter((other) => !other.isSelf);
    if (others.length > 0 && member.network.connected().length === 0 && !request.isForced) {
      throw new ClusterError('CONFLICT', {
        reason: 'no other member can be told that this host leaves',
        todo: 'connect it again, or use --force and `trellis host remove` it elsewhere',
      });
    }
    // While it is a member: its guard needs the others to give up what it holds, and its vote.
    const kept =
      (await this.#leases?.leave(control.signal, (text) => control.progress(text))) ?? [];
    for (const what of kept) control.progress(`not given up: ${what}`);
    control.progress('telling the others');
    const toldPeers = await member.depart();
    control.progress('removing what Trellis owns on this host');
    const left = (await this.#workload?.purge(control.signal)) ?? [];
    for (const what of left) control.progress(`could not remove ${what}`);
    member
      .logout(null)
      .catch((error: unknown) => this.#options.log.warn('logout.failed', { error: String(error) }));
    await this.#wipe();
    return { clusterId, name: clusterName, toldPeers };
  }

  // ---- Up and down --------------------------------------------------------------------------------------------

  /** While the state is read back, nobody may take this host for one that belongs to no cluster. */
  #memberNow(): Member | null {
    if (this.#member === null && !this.#isReady) throw new ClusterError('DAEMON_STARTING');
    return this.#member;
  }

  #assertNoMember(): void {
    this.#memberNow();
    if (this.#member !== null)
      throw new ClusterError('ALREADY_MEMBER', { cluster: this.#member.node.clusterName });
  }

  async #assertPortsFree(): Promise<void> {
    const { listen, api } = this.#options;
    for (const multiaddr of listen) {
      const match = /^\/ip[46]\/([^/]+)\/tcp\/(\d+)/.exec(multiaddr);
      if (match?.[1] !== undefined) await assertPortFree(match[1], Number(match[2]));
    }
    await assertPortFree(api.address, api.port);
  }

  async #keepRecords(records: readonly SignedBytes[]): Promise<void> {
    for (const signed of records) {
      await new Promise<void>((resolve, reject) => {
        this.#store.storage.append('roster', signed, (error) =>
          error === undefined ? resolve() : reject(error),
        );
      });
    }
  }

  /** A host is a member once this file is there; before that nothing counts. */
  async #becomeMember(membership: Membership, login: Login | null): Promise<void> {
    writeMembership(this.#store.stateDir, membership);
    await this.#reopenStore();
    await this.#bringUp(membership);
    if (login !== null) this.#member?.logins.begin(login);
    await this.#member?.whenReady(readyWithinMs);
  }

  async #undoOnFailure(act: () => Promise<void>): Promise<void> {
    try {
      await act();
    } catch (error) {
      await this.#wipe({ keepIdentity: true });
      throw error;
    }
  }

  async #bringUp(membership: Membership, mended: string[] = []): Promise<void> {
    const { clock, random, log } = this.#options;
    const member = await this.#makeMember(membership, mended);
    this.#member = member;
    await member.start();
    const leases = this.#makeLeases(member);
    this.#leases = leases;
    leases.start();
    const { version } = this.#options;
    this.#alerts = new AlertWatch({ node: member.node, leases: leases.link, clock, version });
    this.#alerts.start();
    leases.jobs.register(alertReminder(member.node, () => clock.wallMs()));
    const certificate = await member.certificate.start();
    this.#apiPort = await this.#api.openHttps({ ...this.#options.api, certificate });
    this.#blobs = this.#makeBlobs(member);
    this.#remote = this.#makeRemote(member);
    member.publishHost();
    this.#workload = new Workload({
      member,
      store: this.#store,
      blobs: this.#blobs,
      leases,
      config: defaultConfig,
      clock,
      random,
      log,
      runDir: this.#options.paths.run,
      hostsFile: this.#options.hostsFile,
    });
    await this.#workload.start();
  }

  async #makeMember(membership: Membership, mended: string[]): Promise<Member> {
    const { clock, random, log, paths, version, listen, advertise } = this.#options;
    const make = (): Member =>
      new Member({
        clusterId: membership.clusterId,
        store: this.#store,
        runDir: paths.run,
        clock,
        random,
        log,
        config: defaultConfig,
        listen,
        advertise,
        version,
        hints: membership.hints,
        mended,
        leases: this.#planningLeases(),
        apiPort: () => this.#apiPort,
        onJoinAttempt: (attempt) => this.#auditJoin(attempt),
        onCertificate: (certificate) => this.#api.setCertificate(certificate),
      });
    try {
      return make();
    } catch (error) {
      if (!(error instanceof ClusterError) || error.code !== 'ROSTER_LOST') throw error;
    }
    const { clusterId, hints } = membership;
    const store = this.#store;
    const options = { clusterId, hints, store, listen, clock, random, log, config: defaultConfig };
    const records = await fetchRoster(options);
    await this.#keepRecords(records);
    await this.#reopenStore();
    const member = make();
    member.node.noteDamage({
      name: 'roster',
      kind: 'missing',
      setAside: null,
      detail: `its ${records.length} records were fetched again from other members`,
    });
    return member;
  }

  #makeLeases(member: Member): Leases {
    const { paths, clock, random, log, version, guard } = this.#options;
    return new Leases({
      member,
      stateDir: paths.state,
      runDir: paths.run,
      hostKeys: this.#store.identity.keyPair,
      guard,
      version,
      clock,
      random,
      log,
    });
  }

  /** The node is there before its leases are, and asks them at every look. */
  #planningLeases(): PlanningLeases {
    const now = (): PlanningLeases => this.#leases ?? noLeases;
    return {
      held: () => now().held(),
      holders: () => now().holders(),
      plannerLease: () => now().plannerLease(),
      leaseRoot: leaseRootOf(this.#options.paths.run),
    };
  }

  async #takeDown(): Promise<void> {
    await this.#workload?.stop();
    this.#alerts?.stop();
    this.#alerts = null;
    await this.#leases?.stop();
    await this.#member?.stop();
    this.#workload = null;
    this.#leases = null;
    this.#member = null;
    this.#remote = null;
    this.#blobs = null;
  }

  /**
   * Back to a host that belongs to nobody. After `leave` with a new identity, since the old key must never speak for a
   * member again; after a join that failed half-way with the same, so that trying again with the same code costs no use.
   */
  async #wipe({ keepIdentity = false } = {}): Promise<void> {
    await this.#api.closeHttps();
    this.#apiPort = 0;
    rmSync(joinPath(this.#store.stateDir, membershipFile), { force: true });
    await this.#workload?.stop();
    await this.#leases?.purge();
    await this.#takeDown();
    this.#audit.close();
    await this.#store.close();
    const { state } = this.#options.paths;
    const identity = keepIdentity
      ? []
      : ['host.key.copy', 'host.key', 'host.id.copy', 'host.id', 'incarnation'];
    for (const name of [
      `${membershipFile}.copy`,
      ...identity,
      'index.log',
      'logs',
      'files',
      'plugins',
      'blobs',
      'issuing.key.copy',
      'issuing.key',
      'api.key',
      'api.pem',
    ]) {
      rmSync(joinPath(state, name), { recursive: true, force: true });
    }
    this.#open();
  }

  /** The node reads its logs at start, so what was appended before must be read back. */
  async #reopenStore(): Promise<void> {
    this.#audit.close();
    await this.#store.close();
    this.#open();
  }

  #open(): void {
    const { paths, clock, log, random } = this.#options;
    this.#store = openStore(paths.state, { log, random, clock });
    this.#audit = this.#openAudit();
  }

  // ---- Parts --------------------------------------------------------------------------------------------------

  #makeBus(): Bus {
    const { clock, log } = this.#options;
    const operations = allOperations({
      lifecycle: this,
      renderInvitation: (target, form) => this.#invitation(target, form),
      clock,
      tokens: this.#tokens,
      tools: makeHostTools({
        stateDir: this.#options.paths.state,
        runDir: this.#options.paths.run,
        member: () => this.#member,
        workload: () => this.#workload,
        audit: () => this.#audit,
      }),
    });
    return new Bus({
      operations,
      host: {
        node: () => this.#memberNow()?.node ?? null,
        leases: () => this.#leases?.link ?? null,
        runtime: () => this.#workload?.runtime ?? null,
        blobs: () => this.#requireBlobs(),
        remote: () => this.#remote,
      },
      mayAct: (session, access, env) =>
        this.#member?.node.mayWrite(session.id, access === 'admin' ? 'cluster' : `env/${env}`) ===
        true,
      audit: (entry) => this.#audit.append(entry),
      clock,
      log,
    });
  }

  #makeApi(): Api {
    const { clock, log, version } = this.#options;
    return createApi({
      bus: this.#bus,
      tokens: this.#tokens,
      version,
      clock,
      log,
      node: () => this.#member?.node ?? null,
      socketSession: (operator) => this.#member?.logins.current(operator) ?? null,
      session: (id) => this.#member?.sessions.get(id) ?? null,
      admission: () => this.#member?.admission ?? null,
      joinScript: () => this.#joinScript(),
      bundleFile: (path) => this.#bundleFile(path),
      metrics: () => collectMetrics({ member: this.#member, blobs: this.#blobs, api: this.#api }),
      isReady: () => this.#isReady,
    });
  }

  #makeBlobs(member: Member): BlobTransfer {
    const { log, random } = this.#options;
    const store = new BlobStore({
      dir: this.#store.blobsDir,
      diskFloorBytes: defaultConfig.diskFloorBytes,
      chunkBytes: blobChunkBytes,
      log,
    });
    return new BlobTransfer({ store, peers: member.network.blobs, random, log });
  }

  #makeRemote(member: Member): RemoteCaller {
    const { clock, log } = this.#options;
    const { clusterId, self } = member.node;
    serveRemoteCalls({
      clusterId,
      self: self.host,
      net: member.network,
      bus: this.#bus,
      roster: member.roster,
      clock,
      log,
    });
    return createRemoteCaller({
      clusterId,
      net: member.network,
      nodeOf: (host) => member.nodeOf(host),
      sessionRecord: (id) => member.sessionRecord(id),
      sign: (id, bytes) => member.sessions.sign(id, bytes),
      clock,
    });
  }

  #requireBlobs(): BlobTransfer {
    if (this.#blobs === null) throw new ClusterError('NOT_INITIALISED');
    return this.#blobs;
  }

  #openAudit(): AuditLog {
    const { clock, log } = this.#options;
    return new AuditLog({
      dir: joinPath(this.#store.stateDir, 'audit'),
      host: this.#store.identity.hostId,
      clock,
      log,
      onHead: (head) => this.#member?.node.publishFact('audit', head),
    });
  }

  #auditJoin(attempt: {
    readonly address: string;
    readonly outcome: string;
    readonly reason: string;
  }): void {
    this.#audit.append({
      group: 'join',
      command: 'attempt',
      via: 'https',
      address: attempt.address,
      operator: null,
      session: null,
      params: { ...attempt },
      outcome: attempt.outcome,
    });
  }

  /** Whoever runs the line will want the bundle in a moment; making it takes seconds. */
  #invitation(target: Parameters<typeof renderInvitation>[0], form: InvitationForm): string {
    this.#bundle
      .bundle()
      .catch((error: unknown) =>
        this.#options.log.warn('bundle.not-made', { error: String(error) }),
      );
    return renderInvitation(target, form);
  }

  #joinScript(): string | null {
    const member = this.#member;
    if (member === null) return null;
    return renderJoinScript({
      caPem: member.caPem,
      clusterName: member.node.clusterName,
      peers: member.apiPeers(),
    });
  }

  async #bundleFile(path: string): Promise<string | null> {
    const served = await this.#bundle.bundle();
    const name = `trellis-linux-${served.arch}.tar.gz`;
    if (path === name) return served.file;
    if (path !== `${name}.sha256`) return null;
    const sums = `${served.file}.sha256`;
    if (!existsSync(sums)) writeFileDurablySync(sums, Buffer.from(`${served.sha256}  ${name}\n`));
    return sums;
  }
}
