/**
 * The guard of one host: the core with its clocks, disks, gates, peers and clients around it.
 *
 * It starts with what it finds. A wish of an earlier time is enough to go on renewing, fencing and granting; without one it
 * waits for a daemon. What a guard of this boot left in memory is continued under the same session; otherwise every gate of
 * ours that exists is closed and emptied before anything else.
 */
import { join } from 'node:path';
import { hex, type HostId } from '../../../crdt/ids.ts';
import type { CoreEffect, CoreEvent, CoreStart } from '../core-api.ts';
import type {
  GuardCommand,
  GuardDesired,
  GuardNotice,
  GuardReply,
  GuardStatus,
} from '../guard-api.ts';
import { guardRunFiles } from '../guard-start.ts';
import type { Message } from '../messages.ts';
import { reasonOf } from '../../errors.ts';
import type { Log, Random } from '../../ports.ts';
import { version } from '../../version.ts';
import { Clients } from './clients.ts';
import type { Clocks } from './clocks.ts';
import { Continuity } from './continuity.ts';
import { Deadman } from './deadman.ts';
import { DesiredFile, DurableLog, isFirstOfBoot } from './durable-state.ts';
import { Effects } from './effects.ts';
import type { Gates } from './gates.ts';
import { GateProof } from './gate-proof.ts';
import { LeaseDirs } from './lease-dir.ts';
import { faultOf } from './desired-fault.ts';
import { isGateName, LeaseTable } from './lease-table.ts';
import { Mesh } from './mesh.ts';
import type { Settings } from './settings.ts';
import { emptyStatus } from './status.ts';
import { TrafficLine } from './traffic-line.ts';
import { TurnLoop, type Core } from './turn-loop.ts';
import { VolatileStore } from './volatile-store.ts';
import { Watchdog } from './watchdog.ts';

export interface GuardParts {
  readonly settings: Settings;
  readonly log: Log;
  readonly clocks: Clocks;
  readonly random: Random;
  readonly bootId: string;
  /** Null with the reason: this host cannot freeze. */
  readonly gates: Gates | string;
  readonly makeCore: (start: CoreStart) => Core;
  /** Ends the process. */
  readonly exit: (status: number) => void;
}

const housekeepingMs = 1_000;
/** Answers to a release after which nothing is held any more. */
const releasedCodes: ReadonlySet<string> = new Set([
  'LEASE_NOT_HELD',
  'LEASE_UNKNOWN',
  'LEASE_LOST',
]);

export class Guard {
  readonly #parts: GuardParts;
  readonly #log: Log;
  readonly #clients: Clients;
  readonly #mesh: Mesh;
  readonly #table = new LeaseTable();
  readonly #dirs: LeaseDirs;
  readonly #continuity: Continuity;
  readonly #durable: DurableLog;
  readonly #desiredFile: DesiredFile;
  readonly #watchdog: Watchdog | null;
  readonly #deadman: Deadman;
  readonly #effects: Effects;
  readonly #gates: Gates | null;
  readonly #proof: GateProof;
  readonly #isFreshBoot: boolean;
  readonly #traffic: TrafficLine | null;
  #desired: GuardDesired | null = null;
  #core: Core | null = null;
  #loop: TurnLoop | null = null;
  #isStarting = false;
  #isDaemonThere = false;
  #housekeeping: NodeJS.Timeout | null = null;

  constructor(parts: GuardParts) {
    this.#parts = parts;
    this.#log = parts.log;
    const { settings, log, clocks } = parts;
    this.#gates = typeof parts.gates === 'string' ? null : parts.gates;
    this.#durable = new DurableLog(settings.stateDir, log);
    this.#desiredFile = new DesiredFile(settings.stateDir);
    this.#isFreshBoot = isFirstOfBoot(settings.stateDir, parts.bootId);
    this.#continuity = new Continuity({
      store: new VolatileStore(settings.runDir),
      bootId: parts.bootId,
      clocks,
      log,
      table: this.#table,
      gates: this.#gates,
    });
    this.#traffic = settings.hasTraffic ? new TrafficLine(clocks, log) : null;
    this.#dirs = new LeaseDirs(join(settings.runDir, guardRunFiles.leases));
    this.#watchdog =
      settings.watchdogPath === null ? null : new Watchdog(settings.watchdogPath, log);
    this.#deadman = new Deadman({
      path: join(settings.runDir, 'deadman'),
      generation: hex(parts.random.bytes(8)),
      tree: this.#gates?.tree ?? null,
      log,
    });
    this.#proof = new GateProof({
      gates: parts.gates,
      runDir: settings.runDir,
      bootId: parts.bootId,
      log,
    });
    this.#mesh = new Mesh({
      stateDir: settings.stateDir,
      listen: settings.listen,
      log,
      random: parts.random,
      nowMs: () => clocks.monoMs(),
      onMessage: (from, message) => this.#loop?.enqueue({ kind: 'message', from, message }),
      onPeer: () => this.#clients.statusChanged(),
    });
    this.#clients = this.#makeClients();
    this.#effects = this.#makeEffects();
  }

  /** Resolves when the socket answers. Throws when another process has the lease port. */
  async start(): Promise<void> {
    await this.#mesh.start();
    await this.#clients.listen(join(this.#parts.settings.runDir, guardRunFiles.socket));
    const desired = this.#desiredFile.read(this.#log);
    if (desired !== null) this.#apply(desired);
    this.#housekeeping = setInterval(() => this.#housekeep(), housekeepingMs);
  }

  /**
   * SIGTERM: somebody else will start a guard, or nobody. Open gates are frozen, since nobody watches their deadlines any
   * more; a guard that is back in time opens them again. Parked work runs on: that is what parking is for.
   */
  async stop(): Promise<void> {
    this.#loop?.stop();
    if (this.#housekeeping !== null) clearInterval(this.#housekeeping);
    const parked = new Set(
      this.#status().leases.flatMap(({ name, state }) => (state === 'parked' ? [name] : [])),
    );
    const open = [...this.#effects.open].filter((name) => !parked.has(name));
    const gates = open.flatMap((name) => this.#table.get(name)?.gate ?? []);
    await Promise.all(gates.map(async (gate) => this.#gates?.freeze(gate)));
    this.#keepQuietly();
    this.#deadman.close();
    this.#watchdog?.close();
    this.#traffic?.close();
    this.#clients.close();
    this.#mesh.close();
  }

  // ---- The daemon's wish ------------------------------------------------------------------------------------------

  #onDesired(desired: GuardDesired): void {
    const fault = faultOf(desired);
    if (fault !== null) {
      this.#log.error('guard.desired-refused', { fault });
      return;
    }
    try {
      this.#desiredFile.write(desired);
    } catch (error) {
      // It is followed all the same; only a boot without a daemon would find the one before.
      this.#log.error('guard.desired-not-kept', { error: reasonOf(error) });
    }
    this.#apply(desired);
  }

  #apply(desired: GuardDesired): void {
    const before = this.#desired;
    if (before !== null && (before.env !== desired.env || before.self !== desired.self)) {
      // Another environment is another life: fenced, ended, and started again by whoever starts guards.
      this.#log.warn('guard.environment-changed', { from: before.env, to: desired.env });
      void this.stop().then(() => this.#parts.exit(0));
      return;
    }
    this.#desired = desired;
    this.#table.setDesired(desired);
    this.#prepare(desired);
    this.#mesh.setPeers(desired);
    if (this.#core !== null) this.#tellDesired();
    else if (!this.#isStarting) {
      this.#isStarting = true;
      // A failure here is a fault of ours: the process ends and is started again.
      void this.#startCore();
    }
  }

  /** Gates and lease directories are there before the daemon makes containers. */
  #prepare(desired: GuardDesired): void {
    for (const { gate } of this.#table.all()) if (gate !== null) this.#prepareGate(gate);
    this.#watchdog?.setLeases(
      desired.leases.flatMap(({ name, fence }) => (fence === 'watchdog' ? [name] : [])),
    );
    if (this.#core !== null) this.#traffic?.follow(this.#table, desired, this.#core);
  }

  #prepareGate(gate: string): void {
    try {
      this.#gates?.ensure(gate);
      this.#dirs.ensure(gate);
    } catch (error) {
      this.#log.error('guard.gate-not-made', { gate, error: reasonOf(error) });
    }
  }

  #tellDesired(): void {
    if (this.#desired === null) return;
    this.#loop?.enqueue({ kind: 'desired', desired: this.#proof.mask(this.#desired) });
  }

  // ---- The core ---------------------------------------------------------------------------------------------------

  async #startCore(): Promise<void> {
    const desired = this.#desired;
    if (desired === null) return;
    await this.#proof.ensure(desired);
    const kept = this.#continuity.read(desired);
    if (kept !== null) this.#table.restoreAcquired(kept.acquired);
    if (kept === null) await this.#continuity.closeLeftovers(desired);
    const { clocks } = this.#parts;
    const start: CoreStart = {
      self: desired.self,
      env: desired.env,
      durable: this.#durable.records(),
      volatile: kept?.core ?? null,
      // No credit for the time since the boot of the kernel: see architecture.md.
      bootMonoMs: clocks.now().monoMs,
      isFreshBoot: kept === null && this.#isFreshBoot,
    };
    const core = this.#parts.makeCore(start);
    this.#core = core;
    if (kept !== null) await this.#continuity.resumeGates(core, desired, this.#effects);
    this.#traffic?.follow(this.#table, this.#desired ?? desired, core);
    const loop = new TurnLoop({
      core,
      clocks,
      run: (effects) => this.#effects.run(effects),
      isGateOpen: () => this.#effects.open.size > 0,
      afterTurn: (events, effects) => this.#afterTurn(events, effects),
    });
    this.#loop = loop;
    this.#log.info('guard.core-started', {
      env: desired.env,
      isResumed: kept !== null,
      records: start.durable.length,
    });
    this.#tellDesired();
    loop.start();
    if (this.#isDaemonThere) loop.enqueue({ kind: 'daemon', isConnected: true });
    // Whoever took these is gone with the connection to the guard before this one.
    this.#abandon(this.#table.acquired().map(({ name }) => name));
  }

  #keep(): void {
    if (this.#core !== null && this.#desired !== null) {
      this.#continuity.keep(this.#core, this.#desired);
    }
  }

  #keepQuietly(): void {
    try {
      this.#keep();
    } catch (error) {
      this.#log.error('guard.state-not-kept', { error: reasonOf(error) });
    }
  }

  #afterTurn(events: readonly CoreEvent[], effects: readonly CoreEffect[]): void {
    this.#watchdog?.pet(this.#parts.clocks.now().authorityMs);
    const isNews =
      events.some(({ kind }) => kind !== 'message' && kind !== 'tick') ||
      effects.some(({ kind }) => kind === 'notice' || kind === 'gate' || kind === 'persist');
    if (isNews) this.#clients.statusChanged();
  }

  // ---- Clients ----------------------------------------------------------------------------------------------------

  #makeClients(): Clients {
    return new Clients({
      log: this.#log,
      events: {
        onDesired: (desired) => this.#onDesired(desired),
        onCommand: (id, command) => this.#onCommand(id, command),
        onTestGate: (answer) => void this.#onTestGate(answer),
        onDaemon: (isConnected) => {
          this.#isDaemonThere = isConnected;
          this.#loop?.enqueue({ kind: 'daemon', isConnected });
        },
        onAbandoned: (names) => this.#abandon(names),
        status: () => this.#status(),
        hello: () => ({
          kind: 'hello',
          v: 1,
          version,
          pid: process.pid,
          leasePort: this.#mesh.port,
        }),
      },
    });
  }

  #onCommand(id: number, command: GuardCommand): void {
    if (this.#loop === null) {
      const reason = 'it has not heard from a daemon yet';
      const details = { host: '', reason };
      this.#clients.reply(id, { isOk: false, code: 'GUARD_UNREACHABLE', details });
      return;
    }
    if (command.kind === 'acquire' && !this.#mayAcquire(id, command)) return;
    this.#loop.enqueue({ kind: 'command', id, command });
  }

  #mayAcquire(id: number, command: Extract<GuardCommand, { kind: 'acquire' }>): boolean {
    const { gate, name } = command.lease;
    if (this.#isTaken(id, name)) {
      const details = { name, reason: 'this host has it' };
      this.#clients.reply(id, { isOk: false, code: 'LEASE_BUSY', details });
      return false;
    }
    this.#clients.disown(name);
    if (gate === null) {
      this.#table.addAcquired(command.lease);
      return true;
    }
    const reason = isGateName(gate) ? this.#proof.fault : `${String(gate)} cannot name a gate`;
    if (reason !== null) {
      const details = { host: this.#desired?.self ?? '', reason };
      this.#clients.reply(id, { isOk: false, code: 'GATE_FAULT', details });
      return false;
    }
    this.#table.addAcquired(command.lease);
    this.#prepareGate(gate);
    return true;
  }

  /** Taken here, or about to be: what is known of it, its gate above all, must stay as it is. */
  #isTaken(id: number, name: string): boolean {
    if (this.#table.isWanted(name)) return false;
    if (this.#clients.isAskedFor(name, id)) return true;
    const { leases } = this.#status();
    return leases.some((lease) => lease.name === name);
  }

  #reply(id: number, reply: GuardReply): void {
    const command = this.#clients.commandOf(id);
    if (command?.kind === 'acquire') {
      const { name } = command.lease;
      if (!reply.isOk) this.#table.dropAcquired(name);
      this.#clients.reply(id, reply.isOk ? { ...reply, ...this.#wayIn(name) } : reply);
      return;
    }
    const isOver = reply.isOk || releasedCodes.has(reply.code);
    if (command?.kind === 'release' && isOver && !this.#clients.isAskedFor(command.name, id)) {
      this.#table.dropAcquired(command.name);
      this.#clients.disown(command.name);
    }
    this.#clients.reply(id, reply);
    if (command?.kind === 'exit' && reply.isOk) void this.stop().then(() => this.#parts.exit(0));
  }

  #notice(notice: GuardNotice): void {
    if (notice.kind === 'event') {
      const { event, severity, name, text } = notice;
      this.#log[severity === 'info' ? 'info' : 'warn'](event, { name, text });
    }
    this.#clients.notice(notice);
    if (notice.kind !== 'stop' || !this.#table.isAcquired(notice.name)) return;
    // No daemon runs what a tool put there: the gate is emptied at once.
    const { name, id } = notice;
    this.#tellCore({ kind: 'stopped', name, id, isStopped: true, why: '' });
  }

  #wayIn(name: string): { gateProcs?: readonly string[]; leaseDir?: string } {
    const gate = this.#table.get(name)?.gate ?? null;
    if (gate === null || this.#gates === null) return {};
    return { gateProcs: this.#gates.procsFiles(gate), leaseDir: this.#dirs.dirOf(gate) };
  }

  #abandon(names: readonly string[]): void {
    for (const name of names)
      this.#tellCore({ kind: 'release', name, reason: 'whoever took it is gone' });
  }

  #tellCore(command: GuardCommand): void {
    this.#loop?.enqueue({ kind: 'command', id: this.#clients.ask(command), command });
  }

  async #onTestGate(answer: (reply: GuardReply) => void): Promise<void> {
    const before = this.#proof.fault;
    await this.#proof.run(this.#desired);
    const reason = this.#proof.fault;
    const host = this.#desired?.self ?? '';
    answer(
      reason === null
        ? { isOk: true }
        : { isOk: false, code: 'GATE_FAULT', details: { host, reason } },
    );
    if (reason !== before) this.#tellDesired();
    this.#clients.statusChanged();
  }

  #status(): GuardStatus {
    const core =
      this.#core?.status(this.#parts.clocks.now(), Date.now()) ??
      emptyStatus(this.#desired?.env ?? '', this.#desired?.self ?? ('' as HostId));
    return {
      ...core,
      pid: process.pid,
      version,
      gateFault: this.#proof.fault,
      counters: { ...core.counters, ...this.#counters() },
    };
  }

  #counters(): Record<string, number> {
    return {
      ...this.#mesh.counters(),
      ...this.#proof.times(),
      turns: this.#loop?.turns ?? 0,
      latenessMs: Math.round(this.#loop?.latenessMs ?? 0),
      syncs: this.#durable.syncs,
      keepFailures: this.#effects.keepFailures,
      trafficFault: (this.#traffic?.fault ?? null) === null ? 0 : 1,
      watchdogPets: this.#watchdog?.pets ?? 0,
    };
  }

  // ---- Everything else --------------------------------------------------------------------------------------------

  #makeEffects(): Effects {
    return new Effects({
      log: this.#log,
      table: this.#table,
      gates: this.#gates,
      dirs: this.#dirs,
      durable: this.#durable,
      watchdog: this.#watchdog,
      deadman: this.#deadman,
      sysrqPath: this.#parts.settings.sysrqPath,
      traffic: () => this.#traffic?.gate ?? null,
      keep: () => this.#keep(),
      send: (to: HostId, messages: readonly Message[]) => this.#mesh.send(to, messages),
      enqueue: (event, then) => this.#loop?.enqueue(event, then),
      reply: (id, reply) => this.#reply(id, reply),
      notice: (notice) => this.#notice(notice),
      nameOf: (host) => this.#desired?.peers.find((peer) => peer.host === host)?.name ?? '',
    });
  }

  #housekeep(): void {
    this.#watchdog?.pet(this.#parts.clocks.now().authorityMs);
    if (this.#core === null) return;
    if (this.#table.all().length > 0) this.#clients.pushStatus();
    const news = this.#traffic?.news() ?? null;
    if (news !== null) this.#notice(news);
    this.#removeFormerGates();
    void this.#effects.repair(this.#parts.clocks.now().authorityMs);
  }

  #removeFormerGates(): void {
    if (this.#desired === null) return;
    const former = this.#continuity.removeFormer(this.#desired, this.#effects.open);
    for (const gate of former) this.#dirs.remove(gate);
  }
}
