/**
 * The leases of this host, as its daemon sees them: tells the guard what is wanted whenever that changes, publishes what
 * the guard says, and gives planning and plugins what follows from it. Lives while the host is a member.
 *
 * The guard decides and fences; all that the daemon adds is knowledge of the cluster, and the work on containers.
 */
import { existsSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { compareText } from '../crdt/codec.ts';
import type { HostId, NodeId } from '../crdt/ids.ts';
import type { HostView } from '../crdt/model.ts';
import type { ReconcileOutcome } from '../plugins/api.ts';
import type { ExclusiveControl } from '../plugins/docker/exclusive.ts';
import { guardDesired, leaseOutlooks } from './lease-desired.ts';
import type { LeaseDesiredInput, LeaseOutlook } from './lease-desired.ts';
import { holdersOf, isHeld, leaseFactOf, leaseTopic, readLeaseFact } from './lease-facts.ts';
import { ensureLeaseIdentity } from './lease-identity.ts';
import { isGuardOfServiceManager, removeGates } from './lease-guard-process.ts';
import { gatherLeaseInput, leaseFactsOf } from './lease-input.ts';
import { giveUpLeases } from './lease-leave.ts';
import { LeaseHolds } from './lease-hold.ts';
import { JobScheduler } from './jobs.ts';
import { withHostNames } from './host-names.ts';
import { LeaseLink } from './lease-link.ts';
import { LeaseMoves } from './lease-moves.ts';
import { LeaseProbes } from './lease-probes.ts';
import { StartFailures } from './lease-start-failures.ts';
import type { StartFailure } from './lease-start-failures.ts';
import { VoterHosts } from './lease-voter-hosts.ts';
import { LeaseWorkload } from './lease-workload.ts';
import type { StorageControl } from './lease-workload.ts';
import type { GuardNotice, GuardStatus } from './lease/guard-api.ts';
import { guardRunFiles } from './lease/guard-start.ts';
import type { GuardStart } from './lease/guard-start.ts';
import type { Epoch, LeaseName } from './lease/model.ts';
import { chooseVoters } from './lease/voters.ts';
import type { Member } from './member.ts';
import { plannerLeaseOf } from './plan/leases.ts';
import type { Holder } from './plan/leases.ts';
import type { PlanningLeases } from './plan/planning.ts';
import type { Clock, KeyPair, Log, Random, Timer } from './ports.ts';
import { writeFileDurablySync } from './store/durable.ts';
import { InviteVoters } from './trust/invite-uses.ts';

/** How the guard of this daemon is run. */
export interface GuardOptions {
  /** 'ADDRESS:PORT'; port 0: any. */
  readonly listen: string;
  /** False: it is started by somebody else, or there is none. */
  readonly maySpawn: boolean;
}

export interface LeasesOptions {
  readonly member: Member;
  readonly stateDir: string;
  readonly runDir: string;
  readonly hostKeys: KeyPair;
  readonly guard: GuardOptions;
  readonly version: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly log: Log;
}

/** Changes within this time are told together; the more there is to weigh, the longer it is. */
const refreshDelayMsMin = 20;
const refreshDelayMsMax = 500;
const refreshPauseFactor = 20;
/** Things that only time changes, while something is held. */
const tickMs = 1_000;
/** Before the plugins have looked at this host it would say that it is ready for nothing; not longer than this. */
const firstPushMsMax = 5_000;
/** What the guard said last is still published for so long when it is not heard: it is most likely being restarted. */
const factGraceMs = 5_000;
export class Leases implements PlanningLeases {
  readonly leaseRoot: string;
  readonly link: LeaseLink;
  readonly workload: LeaseWorkload;
  /** For work of the daemon that one host at a time does. */
  readonly holds: LeaseHolds;
  readonly jobs: JobScheduler;
  readonly #options: LeasesOptions;
  readonly #start: GuardStart;
  readonly #probes: LeaseProbes;
  readonly #moves = new LeaseMoves();
  readonly #startFailures = new StartFailures();
  readonly #voterHosts = new VoterHosts();
  #requestReconcile: () => void = () => {};
  #refreshTimer: Timer | null = null;
  #refreshDelayMs = refreshDelayMsMin;
  #tickTimer: Timer | null = null;
  #stopListening: () => void = () => {};
  #lastStatus: GuardStatus | null = null;
  #lastPort = 0;
  #lostAtMs: number | null = null;
  #startedAtMs = 0;
  #hasLooked = false;
  #isFounded: boolean;
  #isLeaving = false;
  #isStopped = false;
  #wasStartable = '';

  constructor(options: LeasesOptions) {
    const { member, stateDir, runDir, clock, log, guard, version } = options;
    this.#options = options;
    this.leaseRoot = leaseRootOf(runDir);
    this.#isFounded = existsSync(join(stateDir, foundedFile));
    this.#start = {
      stateDir: join(stateDir, 'lease'),
      runDir: join(runDir, 'guard'),
      listen: guard.listen,
    };
    this.link = new LeaseLink({
      start: this.#start,
      maySpawn: guard.maySpawn,
      version,
      hostName: () => member.hostName(),
      clock,
      log,
      facts: () => this.#facts(),
      onNotice: (notice) => this.#onNotice(notice),
    });
    const { node } = member;
    this.holds = new LeaseHolds({
      guard: this.link,
      clock,
      log,
      env: node.env,
      self: node.self.host,
      hostName: () => member.hostName(),
      hosts: () => envHosts(node),
    });
    this.#agreeOnInvites(member);
    this.jobs = new JobScheduler({ node, withLease: this.holds.withLease, clock, log });
    this.workload = new LeaseWorkload({
      clock,
      log,
      guard: this.link,
      gates: () => this.link.gates(),
      onGates: () => this.#gatesChanged(),
      requestReconcile: () => this.#requestReconcile(),
    });
    this.#probes = new LeaseProbes({
      stateDir,
      clock,
      log,
      engine: () => member.hostFact?.engine ?? 'absent',
      isNeeded: () => this.workload.startable().size > 0,
      onChange: () => this.refresh(),
    });
  }

  /** Makes key and certificate when they are missing, finds the guard or starts it. Throws DISK_FULL. */
  start(): void {
    const { member, stateDir, hostKeys, random, clock } = this.#options;
    const { clusterId, self } = member.node;
    ensureLeaseIdentity(join(stateDir, 'lease'), { clusterId, host: self.host, hostKeys }, random);
    this.#startedAtMs = clock.monotonicMs();
    const unsubscribe = [
      member.node.onChange(() => this.refresh()),
      this.link.onChange(() => this.#onStatus()),
    ];
    this.#stopListening = () => unsubscribe.forEach((stop) => stop());
    this.link.start();
    this.#probes.start();
    this.jobs.start();
    this.#tick();
  }

  /** Plugins run from now on, and are told of gates. */
  attach(parts: {
    readonly control: ExclusiveControl | null;
    readonly storage: StorageControl | null;
    requestReconcile(): void;
  }): void {
    this.#requestReconcile = () => parts.requestReconcile();
    this.workload.attach(parts.control, parts.storage);
  }

  /** The guard goes on, unless nobody needs it: a lone host with nothing exclusive. */
  async stop(): Promise<void> {
    if (this.#isStopped) return;
    // Forced, since it holds the planner's lease and is its own voter.
    if (this.#isNeedless()) await this.#exitGuard(true);
    this.#end();
    await this.link.stop();
  }

  // ---- PlanningLeases ---------------------------------------------------------------------------------------------

  held(): ReadonlyMap<LeaseName, Epoch> {
    return this.workload.startable();
  }

  holders(): ReadonlyMap<LeaseName, Holder> {
    return holdersOf(leaseFactsOf(this.#options.member.node));
  }

  plannerLease(): Epoch | null {
    const name = plannerLeaseOf(this.#options.member.node.env);
    const lease = this.link.status()?.leases.find((one) => one.name === name);
    return lease?.state === 'active' ? lease.epoch : null;
  }

  // ---- What happens -----------------------------------------------------------------------------------------------

  /** Of the docker plugin: what did not come up under its lease, and that it has looked at this host at all. */
  onDockerOutcome(outcome: ReconcileOutcome): void {
    this.#hasLooked = true;
    for (const { code, details } of outcome.failures) {
      if (code !== 'START_FAILED') continue;
      const { lease, epoch, reason, spec, item } = (details ?? {}) as Record<string, unknown>;
      if (typeof lease === 'string' && typeof epoch === 'number')
        this.#startFailed(lease, {
          epoch,
          why: String(reason),
          spec: String(spec),
          item: String(item),
        });
    }
    this.refresh();
  }

  /** Something may have changed that the guard or others should hear of. Coalesced. */
  refresh(): void {
    if (this.#isStopped) return;
    this.#refreshTimer ??= this.#options.clock.setTimer(this.#refreshDelayMs, () => {
      this.#refreshTimer = null;
      const { clock } = this.#options;
      const beganMs = clock.monotonicMs();
      this.#refresh();
      const pauseMs = (clock.monotonicMs() - beganMs) * refreshPauseFactor;
      this.#refreshDelayMs = Math.min(refreshDelayMsMax, Math.max(refreshDelayMsMin, pauseMs));
    });
  }

  /**
   * Before this host leaves: gives up what it holds, in order, and its vote. Returns what could not be done, for people.
   */
  async leave(signal: AbortSignal, progress: (text: string) => void): Promise<readonly string[]> {
    if (this.link.guard === null) return [];
    const { clock, member } = this.#options;
    this.#isLeaving = true;
    // Others choose voters without a host that says that it leaves.
    member.publishHost({ isLeaving: true });
    this.#refresh();
    const { self, env } = member.node;
    return giveUpLeases({
      link: this.link,
      clock,
      self: self.host,
      planner: plannerLeaseOf(env),
      hasOthers: this.#others().some(({ liveness }) => liveness === 'alive'),
      signal,
      progress,
    });
  }

  /** Ends the guard and removes its files: this host belongs to nobody any more. Never rejects. */
  async purge(): Promise<void> {
    await this.#exitGuard(true);
    this.#end();
    await this.link.stop();
    const { stateDir, runDir, member, log } = this.#options;
    const { clusterId, self } = member.node;
    removeGates(clusterId.slice(0, 8), self.host, log);
    for (const path of [
      join(stateDir, 'lease'),
      join(stateDir, foundedFile),
      join(runDir, 'guard'),
    ])
      rmSync(path, { recursive: true, force: true });
  }

  // ---- Inside -----------------------------------------------------------------------------------------------------

  #agreeOnInvites(member: Member): void {
    const voters = (): (NodeId | null)[] | null => {
      const status = this.link.status();
      if (status?.chosen == null || !status.hasQuorum) return null;
      return status.chosen.config.voters.map((host) => member.nodeOf(host));
    };
    const uses = new InviteVoters({
      env: member.node.env,
      self: member.node.self.node,
      withLease: this.holds.withLease,
      net: member.network,
      roster: member.roster,
      voters,
      keep: (record) => member.keepRecord(record),
      clock: this.#options.clock,
      log: this.#options.log,
    });
    uses.serve();
    member.admission.agreeThrough(uses);
  }

  #end(): void {
    this.#isStopped = true;
    this.#stopListening();
    this.jobs.stop();
    this.holds.stop();
    this.#probes.stop();
    this.workload.stop();
    for (const timer of [this.#refreshTimer, this.#tickTimer]) timer?.cancel();
  }

  #tick(): void {
    this.#tickTimer = this.#options.clock.setTimer(tickMs, () => {
      const isBusy = (this.link.status()?.leases ?? []).some(isHeld) || this.#lostAtMs !== null;
      if (isBusy || !this.#startFailures.isEmpty || !this.#hasLooked) this.refresh();
      this.#tick();
    });
  }

  #onStatus(): void {
    const status = this.link.status();
    const { clock, stateDir, log } = this.#options;
    if (status === null) this.#lostAtMs ??= clock.monotonicMs();
    else {
      this.#lostAtMs = null;
      this.#lastStatus = status;
      this.#lastPort = this.link.leasePort;
    }
    if (status?.chosen != null && !this.#isFounded) {
      this.#isFounded = true;
      try {
        writeFileDurablySync(join(stateDir, foundedFile), Buffer.from('1\n'));
      } catch (error) {
        // The guard remembers as well; this is for the day on which its directory is lost.
        log.warn('lease.not-marked', { error: String(error) });
      }
    }
    this.workload.gatesChanged();
    this.#gatesChanged();
  }

  /** Views depend on what may be started here. */
  #gatesChanged(): void {
    const key = JSON.stringify([...this.workload.startable(), this.plannerLease()]);
    if (key !== this.#wasStartable) {
      this.#wasStartable = key;
      this.#options.member.node.leasesChanged();
    }
    this.refresh();
  }

  #onNotice(notice: GuardNotice): void {
    const { member } = this.#options;
    if (notice.kind === 'event') {
      const { event, severity, name } = notice;
      const names = new Map(member.node.hosts().map((host) => [host.id as string, host.name]));
      const title = this.link.status()?.leases.find((lease) => lease.name === name)?.title ?? name;
      const text = withHostNames(`${title === null ? '' : `${title}: `}${notice.text}`, names);
      // One more at every tick of every job would leave no room for anything else.
      if (severity === 'info' && name !== null && isPassing(name)) return;
      member.node.emit({
        kind: event,
        severity,
        text,
        ...(name === null ? {} : { details: { lease: name } }),
      });
    } else this.workload.onNotice(notice);
  }

  #refresh(): void {
    if (this.#isStopped) return;
    this.#publish();
    const known = this.#input();
    const outlooks = leaseOutlooks(known);
    const input = { ...known, unready: this.#unready(outlooks) };
    const isEarly = this.#options.clock.monotonicMs() < this.#startedAtMs + firstPushMsMax;
    if (!this.#hasLooked && isEarly) return;
    this.link.push(guardDesired(input, outlooks));
    this.#move(input, outlooks);
  }

  #input(): LeaseDesiredInput {
    const { member } = this.#options;
    return gatherLeaseInput(member.node, {
      status: this.link.status(),
      isFounded: this.#isFounded,
      votersWanted: this.#votersWanted(),
      engine: member.hostFact?.engine ?? 'absent',
      startFailures: this.#currentStartFailures(),
      unready: new Map(),
      failingProbes: this.#probes.failing(),
      isLeaving: this.#isLeaving,
    });
  }

  /** A lease that is taken before its container can be started is held for nothing. */
  #unready(outlooks: readonly LeaseOutlook[]): ReadonlyMap<LeaseName, string> {
    const unready = new Map<LeaseName, string>();
    for (const { subject, candidates } of outlooks) {
      const isCandidate = candidates.hosts.includes(this.#options.member.node.self.host);
      if (!isCandidate || !subject.services.some(({ isEnabled }) => isEnabled)) continue;
      const why = this.workload.unpreparedReason(subject.lease);
      if (why !== null) unready.set(subject.lease, why);
    }
    return unready;
  }

  /** Null while no voters are known here: nobody tends what it cannot see. */
  #votersWanted(): readonly HostId[] | null {
    const { member, clock } = this.#options;
    const current = this.link.status()?.chosen?.config.voters;
    if (current === undefined) return null;
    const hosts = this.#voterHosts.look(member.node, {
      current,
      nowMs: clock.monotonicMs(),
      isLeaving: this.#isLeaving,
    });
    return chooseVoters({ hosts, current, operatorChoice: member.node.envView().voters });
  }

  #publish(): void {
    const { clock, member } = this.#options;
    const isLost = this.#lostAtMs !== null && clock.monotonicMs() - this.#lostAtMs >= factGraceMs;
    const status = isLost ? null : this.#lastStatus;
    const { self } = member.node;
    member.node.publishFact(
      leaseTopic,
      leaseFactOf(status, status === null ? 0 : this.#lastPort, self.host),
    );
  }

  // ---- Starts that failed -----------------------------------------------------------------------------------------

  #startFailed(lease: LeaseName, failure: StartFailure): void {
    const { clock, log, member } = this.#options;
    const { epoch, why, item } = failure;
    if (!this.#startFailures.add(lease, failure, clock.monotonicMs())) return;
    log.warn('lease.start-failed', { lease, epoch, why });
    member.node.emit({
      kind: 'lease.start-failed',
      severity: 'alarm',
      text: `${item} did not start here under epoch ${epoch}: ${why}`,
      details: { lease },
    });
    // Not to be taken again before it is given up.
    this.#refresh();
    this.#tell({ kind: 'start-failed', name: lease, epoch, why });
  }

  #currentStartFailures(): ReadonlyMap<LeaseName, string> {
    if (this.#startFailures.isEmpty) return new Map();
    const { member, clock } = this.#options;
    const instances = member.node.desiredView(member.advertise())?.instances ?? [];
    const specs = new Map(instances.map(({ instance, spec }) => [instance, spec]));
    return this.#startFailures.current(specs, clock.monotonicMs());
  }

  // ---- Moves ------------------------------------------------------------------------------------------------------

  #move(input: LeaseDesiredInput, outlooks: readonly LeaseOutlook[]): void {
    const status = this.link.status();
    if (status === null || this.#isLeaving) return;
    const active = status.leases.filter(({ state }) => state === 'active').map(({ name }) => name);
    const facts = new Map(input.leaseFacts.map(({ host, fact }) => [host, fact]));
    const alive = new Set(
      input.hosts.flatMap(({ id, liveness }) => (liveness === 'alive' ? [id] : [])),
    );
    const moves = this.#moves.decide({
      nowMs: this.#options.clock.monotonicMs(),
      self: input.self,
      outlooks,
      active: new Set(active),
      isFit: (host, lease) => {
        const fact = facts.get(host);
        return (
          alive.has(host) &&
          fact?.gateFault === null &&
          !fact.unfit.some(({ name }) => name === lease)
        );
      },
      isFrozen: input.view.isFrozen || input.view.hosts.get(input.self)?.isFrozen === true,
    });
    for (const move of moves) {
      const { lease: name, reason } = move;
      this.#options.log.info('lease.moving', { name, kind: move.kind, reason });
      if (move.kind === 'release') this.#tell({ kind: 'release', name, reason });
      else this.#tell({ kind: 'switch', name, to: move.to, reason });
    }
    this.#giveUpRemoved(input, outlooks, active);
  }

  /** Held here and wanted no more. Asked at every tick until it is gone; the guard does it once. */
  #giveUpRemoved(
    input: LeaseDesiredInput,
    outlooks: readonly LeaseOutlook[],
    active: readonly LeaseName[],
  ): void {
    if (input.inputs === null) return;
    const wanted = new Set(outlooks.map(({ subject }) => subject.lease));
    for (const name of active) {
      const isOfObject = /^(?:service|storage)\//.test(name);
      if (isOfObject && !wanted.has(name))
        this.#tell({ kind: 'release', name, reason: 'it was removed' });
    }
  }

  #tell(command: Parameters<LeaseLink['command']>[0]): void {
    const { log } = this.#options;
    this.link.command(command, new AbortController().signal).then(
      (reply) => {
        if (!reply.isOk)
          log.info('guard.refused', {
            command: command.kind,
            failure: reply.code,
            ...reply.details,
          });
      },
      (error: unknown) =>
        log.debug('guard.not-told', { command: command.kind, error: String(error) }),
    );
  }

  // ---- The end ----------------------------------------------------------------------------------------------------

  #others(): readonly HostView[] {
    const { node } = this.#options.member;
    return node
      .hosts()
      .filter(
        ({ id, env, liveness }) => id !== node.self.host && env === node.env && liveness !== 'left',
      );
  }

  /** Nobody would miss the guard: nothing has a gate, and there is no other member whose voter it could be. */
  #isNeedless(): boolean {
    const leases = this.link.status()?.leases ?? [];
    return (
      this.#options.guard.maySpawn &&
      !isGuardOfServiceManager(this.#start) &&
      this.link.guard !== null &&
      this.#others().length === 0 &&
      leases.every(({ gate }) => gate === 'none')
    );
  }

  async #exitGuard(isForced: boolean): Promise<void> {
    const { log } = this.#options;
    if (this.link.guard === null) return;
    try {
      const reply = await this.link.command(
        { kind: 'exit', isForced },
        AbortSignal.timeout(exitLimitMs),
      );
      if (!reply.isOk) log.info('guard.stays', { failure: reply.code, ...reply.details });
    } catch (error) {
      // It may have ended before its answer arrived.
      log.debug('guard.not-told', { command: 'exit', error: String(error) });
    }
  }

  #facts(): ReturnType<LeaseLink['facts']> {
    return this.#options.member.node.facts(leaseTopic).flatMap(({ owner, ageMs, value }) => {
      const fact = readLeaseFact(value);
      return fact === null ? [] : [{ owner, ageMs, fact }];
    });
  }
}

/** Taken for a moment, again and again. */
function isPassing(name: LeaseName): boolean {
  return /^(?:job|invite|rollout)\//.test(name);
}

/** Members of the environment, as candidates of what is taken by command. */
function envHosts(node: Member['node']): HostId[] {
  return node
    .hosts()
    .filter(({ env, liveness }) => env === node.env && liveness !== 'left')
    .map(({ id }) => id)
    .toSorted(compareText);
}

/** Directory in which the guard keeps a directory per gate. */
export function leaseRootOf(runDir: string): string {
  return join(runDir, 'guard', guardRunFiles.leases);
}

/** Kept outside the guard's directory: should that be lost, this host must not found the chain of voters again. */
const foundedFile = 'lease-founded';
const exitLimitMs = 3_000;
