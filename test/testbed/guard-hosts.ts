/**
 * Guards as real processes on loopback in a network namespace of their own, each with its state, its part of a scratch
 * cgroup and a harness in the place of its daemon, which starts a workload when a gate opens.
 */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readSync,
  rmSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { connect, type Socket } from 'node:net';
import { setPriority, tmpdir } from 'node:os';
import path from 'node:path';
import { hex, type ClusterId, type HostId, type NodeId } from '../../crdt/ids.ts';
import { buildProgram } from '../../bootstrap/build.ts';
import { keyPairFromSeed } from '../../daemon/crypto.ts';
import { certifyLeaseKey } from '../../daemon/lease/certificate.ts';
import type {
  FromGuard,
  GuardCommand,
  GuardDesired,
  GuardNotice,
  GuardReply,
  GuardStatus,
  LeaseDesired,
  LeaseStatus,
  ToGuard,
} from '../../daemon/lease/guard-api.ts';
import { guardMallocSettings, guardNodeFlags } from '../../daemon/lease/guard-start.ts';
import { cgroupsOf } from '../../daemon/lease/guard/freezer.ts';
import { keeperCommand } from '../../daemon/lease/guard/keeper.ts';
import { LineSplitter } from '../../daemon/lease/guard/lines.ts';
import { eventually } from '../await.ts';
import { cgroupRoots } from '../conformance/lease/scratch-gates.ts';

const env = 'prod';
export const webLease = `service/${env}/aaaa000011112222`;
export const plannerLease = `planner/${env}`;

export interface WorldOptions {
  readonly count: number;
  readonly isCareful?: boolean;
  /** Besides planner and web. */
  readonly moreLeases?: number;
  readonly hasTraffic?: boolean;
  /** A program in the place of guard-workload.mjs, with the same arguments. */
  readonly workload?: string;
  /** Each has a keeper that starts it again when it was killed, as where no service manager does. */
  readonly isKept?: boolean;
}

export class GuardWorld {
  readonly dir = mkdtempSync(path.join(tmpdir(), 'trellis-guards-'));
  /** On tmpfs, as /run is. */
  readonly runDir = mkdtempSync('/dev/shm/trellis-guards-');
  readonly namespace = `tg${process.pid}`;
  readonly cgroup: string;
  readonly clusterId = hex(randomBytes(16)) as ClusterId;
  readonly hosts: GuardHost[] = [];
  readonly options: WorldOptions;
  readonly journal: string;
  program = '';

  constructor(options: WorldOptions) {
    this.options = options;
    this.journal = path.join(this.dir, 'journal');
    const [tree] = cgroupRoots();
    if (tree === undefined) throw new Error('no cgroups here');
    this.cgroup = path.join(tree.root, `trellis-guards-${process.pid}`);
    mkdirSync(this.cgroup);
    execFileSync('ip', ['netns', 'add', this.namespace]);
    execFileSync('ip', ['-n', this.namespace, 'link', 'set', 'lo', 'up']);
    for (let index = 0; index < options.count; index += 1)
      this.hosts.push(new GuardHost(this, index));
  }

  get cluster8(): string {
    return this.clusterId.slice(0, 8);
  }

  async start(): Promise<void> {
    // As it is released: from the sources it takes a second to load on a busy machine, and is not back in time.
    this.program = path.join(this.dir, 'guard.mjs');
    await buildProgram('guard', this.program);
    for (const host of this.hosts) host.start();
    await Promise.all(this.hosts.map((host) => host.greeted()));
  }

  /** Everybody votes: the chain of voters has grown to its size. */
  async settled(voters: number): Promise<void> {
    await eventually(
      () =>
        this.hosts
          .filter(({ isUp }) => isUp)
          .every(
            ({ status }) =>
              status?.chosen?.config.voters.length === voters &&
              status.hasQuorum &&
              status.silentMs === 0,
          ),
      { withinMs: 60_000, what: `${voters} voters` },
    );
  }

  /** The host whose gate is open, by the word of its own guard. */
  holder(name = webLease): GuardHost | null {
    return this.hosts.find((host) => host.isUp && host.lease(name)?.state === 'active') ?? null;
  }

  holding(withinMs = 20_000): Promise<GuardHost> {
    return eventually(() => this.holder(), { withinMs, what: 'a holder' });
  }

  /** How much is written, and by whom last; cheap. */
  progress(): { readonly bytes: number; readonly host: string } {
    if (!existsSync(this.journal)) return { bytes: 0, host: '' };
    const bytes = statSync(this.journal).size;
    const fd = openSync(this.journal, 'r');
    const tail = Buffer.alloc(Math.min(bytes, 256));
    readSync(fd, tail, 0, tail.length, bytes - tail.length);
    closeSync(fd);
    const last = tail.toString('latin1').split('\n').at(-2) ?? '';
    return { bytes, host: last.split(' ')[2] ?? '' };
  }

  /** Lines of the workloads, in the order in which they reached the file. */
  lines(): { readonly epoch: number; readonly ns: bigint; readonly host: string }[] {
    if (!existsSync(this.journal)) return [];
    return readFileSync(this.journal, 'utf8')
      .split('\n')
      .filter((line) => line !== '')
      .map((line) => {
        const [epoch = '', ns = '', host = ''] = line.split(' ');
        return { epoch: Number(epoch), ns: BigInt(ns), host };
      });
  }

  async stop(): Promise<void> {
    for (const host of this.hosts) host.kill();
    await eventually(() => this.hosts.every(({ isUp }) => !isUp), { withinMs: 10_000 });
    for (const dir of cgroupsOf(this.cgroup).toReversed()) {
      // Whatever is still inside was started here.
      const procs = (): number[] =>
        readFileSync(path.join(dir, 'cgroup.procs'), 'utf8')
          .split('\n')
          .map(Number)
          .filter(Boolean);
      for (const pid of procs()) process.kill(pid, 'SIGKILL');
      const state = path.join(dir, 'freezer.state');
      if (existsSync(state)) writeFileSync(state, 'THAWED');
      else if (existsSync(path.join(dir, 'cgroup.freeze')))
        writeFileSync(path.join(dir, 'cgroup.freeze'), '0');
      await eventually(() => procs().length === 0, { withinMs: 10_000 });
      rmdirSync(dir);
    }
    execFileSync('ip', ['netns', 'del', this.namespace]);
    for (const dir of [this.dir, this.runDir]) rmSync(dir, { recursive: true, force: true });
  }
}

export class GuardHost {
  readonly world: GuardWorld;
  readonly index: number;
  readonly name: string;
  readonly host = hex(randomBytes(16)) as HostId;
  readonly port: number;
  readonly #dir: string;
  readonly #hostKeys = keyPairFromSeed(randomBytes(32));
  /** The guard, or its keeper. */
  #process: ChildProcess | null = null;
  /** By its own word. */
  #guardPid = 0;
  #socket: Socket | null = null;
  #lastId = 0;
  readonly #replies = new Map<number, (reply: GuardReply) => void>();
  status: GuardStatus | null = null;
  readonly notices: GuardNotice[] = [];
  /** Called with each notice when it comes, before anything is done about it. */
  onNotice: (notice: GuardNotice) => void = () => undefined;
  workload: ChildProcess | null = null;
  /** Guards that end by themselves are started again, as a service manager would. */
  restarts = true;
  starts = 0;

  constructor(world: GuardWorld, index: number) {
    this.world = world;
    this.index = index;
    this.name = `h${index + 1}`;
    this.port = 7_441 + index;
    this.#dir = path.join(world.dir, this.name);
    const seed = randomBytes(32);
    mkdirSync(path.join(this.#dir, 'state'), { recursive: true });
    mkdirSync(this.runDir);
    const { clusterId } = world;
    const leaseKey = keyPairFromSeed(seed).publicKey;
    const certificate = certifyLeaseKey({ clusterId, host: this.host, leaseKey }, this.#hostKeys);
    writeFileSync(path.join(this.#dir, 'state', 'key'), `${hex(seed)}\n`);
    writeFileSync(path.join(this.#dir, 'state', 'certificate.json'), JSON.stringify(certificate));
    writeFileSync(path.join(this.#dir, 'boot-id'), hex(randomBytes(16)));
  }

  get node(): NodeId {
    return hex(this.#hostKeys.publicKey) as NodeId;
  }

  get isUp(): boolean {
    return this.#process !== null;
  }

  /** Of the guard; 0: it is not there, or has not said so. */
  get pid(): number {
    if (this.#isKept) return this.#guardPid;
    return this.#process?.pid ?? 0;
  }

  get #isKept(): boolean {
    return this.world.options.isKept === true;
  }

  /** 0: it has none. */
  get keeperPid(): number {
    return this.#isKept ? (this.#process?.pid ?? 0) : 0;
  }

  get runDir(): string {
    return path.join(this.world.runDir, this.name);
  }

  gate(number = 0): string {
    return `trellis-x-${this.world.cluster8}-${String(number).padStart(4, '0')}-${this.host.slice(0, 6)}`;
  }

  lease(name = webLease): LeaseStatus | null {
    return this.status?.leases.find((lease) => lease.name === name) ?? null;
  }

  start(): void {
    this.starts += 1;
    this.status = null;
    this.#guardPid = 0;
    const child = this.run();
    this.#process = child;
    if (child.pid !== undefined) setPriority(child.pid, -20);
    child.on('exit', () => {
      if (this.#process !== child) return;
      this.#process = null;
      this.#socket?.destroy();
    });
    this.#connect(child);
  }

  /** A process of this host's guard, or of its keeper, that nothing here looks after. */
  run(): ChildProcess {
    const traffic = this.world.options.hasTraffic === true ? [] : ['--no-traffic'];
    const args = [
      '--state',
      path.join(this.#dir, 'state'),
      '--run',
      this.runDir,
      '--listen',
      `127.0.0.1:${this.port}`,
      '--cgroup-root',
      this.world.cgroup,
      '--watchdog',
      'none',
      '--no-realtime',
      ...traffic,
    ];
    const guard = [process.execPath, ...guardNodeFlags, this.world.program, ...args];
    const kept = keeperCommand(this.runDir, guard);
    const command = this.#isKept ? [kept.program, ...kept.args] : guard;
    return spawn('nsenter', [`--net=/run/netns/${this.world.namespace}`, ...command], {
      stdio: ['ignore', 'inherit', 'inherit'],
      // One group: keeper and guard can be ended at once, whichever of them is being started.
      detached: this.#isKept,
      env: {
        ...guardMallocSettings,
        PATH: process.env['PATH'],
        TRELLIS_BOOT_ID_PATH: path.join(this.#dir, 'boot-id'),
      },
    });
  }

  async greeted(): Promise<void> {
    await eventually(() => (this.status?.env === env ? this.status : null), {
      withinMs: 20_000,
      what: `${this.name} answers`,
    });
  }

  signal(signal: NodeJS.Signals): void {
    if (this.pid !== 0) process.kill(this.pid, signal);
  }

  /** At once, and its workload with it: as a power cut would. */
  kill(): void {
    this.workload?.kill('SIGKILL');
    if (this.#isKept) killGroup(this.keeperPid);
    else this.#process?.kill('SIGKILL');
  }

  /** The guard alone. Resolves when it is gone. */
  async killGuard(signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    this.signal(signal);
    await eventually(() => !this.isUp, {
      withinMs: 10_000,
      everyMs: 1,
      what: `${this.name} is gone`,
    });
  }

  /** Nothing of this host's memory survives, its disk does. */
  reboot(): void {
    writeFileSync(path.join(this.#dir, 'boot-id'), hex(randomBytes(16)));
    rmSync(this.runDir, { recursive: true, force: true });
    mkdirSync(this.runDir);
    this.start();
  }

  command(command: GuardCommand): Promise<GuardReply> {
    const id = (this.#lastId += 1);
    return new Promise((resolve) => {
      this.#replies.set(id, resolve);
      this.tell({ kind: 'command', id, command });
    });
  }

  testGate(): Promise<GuardReply> {
    const id = (this.#lastId += 1);
    return new Promise((resolve) => {
      this.#replies.set(id, resolve);
      this.tell({ kind: 'test-gate', id });
    });
  }

  async tool(): Promise<Tool> {
    const socket = connect(this.socketPath());
    await once(socket, 'connect');
    const splitter = new LineSplitter(1 << 20);
    const replies = new Map<number, (reply: GuardReply) => void>();
    socket.on('data', (bytes) => {
      for (const text of splitter.push(bytes) ?? []) {
        const line = JSON.parse(text) as FromGuard;
        if (line.kind === 'reply') replies.get(line.id)?.(line.reply);
      }
    });
    return {
      command: (command) =>
        new Promise((resolve) => {
          const id = replies.size + 1;
          replies.set(id, resolve);
          socket.write(`${JSON.stringify({ kind: 'command', id, command } satisfies ToGuard)}\n`);
        }),
      close: () => void socket.destroy(),
    };
  }

  /** Asks for the status of this moment. */
  async look(): Promise<GuardStatus> {
    const id = (this.#lastId += 1);
    await new Promise<unknown>((resolve) => {
      this.#replies.set(id, resolve);
      this.tell({ kind: 'status', id });
    });
    if (this.status === null) throw new Error('no status');
    return this.status;
  }

  /** It holds and has renewed just now. */
  async renewed(name = webLease): Promise<void> {
    await eventually(
      async () =>
        (await this.look()).leases.some(
          (lease) => lease.name === name && (lease.remainMs ?? 0) > 1_300,
        ),
      { withinMs: 10_000, what: `${this.name} renews` },
    );
  }

  tell(line: ToGuard): void {
    this.#socket?.write(`${JSON.stringify(line)}\n`);
  }

  socketPath(): string {
    return path.join(this.runDir, 'guard.sock');
  }

  desired(changes: Partial<GuardDesired> = {}): GuardDesired {
    const { world } = this;
    const hosts = world.hosts.map(({ host }) => host);
    const names = Array.from({ length: world.options.moreLeases ?? 0 }, (_, n) => n + 1);
    return {
      v: 1,
      clusterId: world.clusterId,
      cluster8: world.cluster8,
      env,
      self: this.host,
      peers: world.hosts.map(({ host, name, node, port }) => ({
        host,
        name,
        node,
        addresses: [`127.0.0.1:${port}`],
      })),
      leases: [
        leaseOf(plannerLease, null, hosts),
        leaseOf(webLease, this.gate(), hosts),
        ...names.map((n) =>
          leaseOf(`service/${env}/${String(n).padStart(16, '0')}`, this.gate(n), hosts),
        ),
      ],
      chosen: null,
      isFounder: this.index === 0,
      votersWanted: hosts.length >= 3 ? hosts.slice(0, 5) : hosts.slice(0, 1),
      isFrozen: false,
      failingProbes: [],
      isWitness: false,
      ...changes,
    };
  }

  #connect(child: ChildProcess): void {
    if (this.#process !== child) return;
    const socket = connect(this.socketPath());
    const splitter = new LineSplitter(32 << 20);
    socket.on('connect', () => {
      this.#socket = socket;
      this.tell({ kind: 'hello', v: 1, version: 'test' });
      this.tell({ kind: 'desired', desired: this.desired() });
    });
    socket.on('data', (bytes) => {
      for (const line of splitter.push(bytes) ?? []) this.#onLine(JSON.parse(line) as FromGuard);
    });
    // Not there yet, or gone with the guard: the end of the process decides.
    socket.on('error', () => socket.destroy());
    socket.on('close', () => {
      if (this.#socket === socket) {
        this.#socket = null;
        this.#guardPid = 0;
        if (this.#isKept) this.status = null;
      }
      setTimeout(() => this.#connect(child), 10);
    });
  }

  #onLine(line: FromGuard): void {
    if (line.kind === 'hello') this.#guardPid = line.pid;
    else if (line.kind === 'status') {
      this.status = line.status;
      if (line.id !== null) this.#replies.get(line.id)?.({ isOk: true });
    } else if (line.kind === 'reply') {
      this.#replies.get(line.id)?.(line.reply);
      this.#replies.delete(line.id);
    } else if (line.kind === 'notice') this.#onNotice(line.notice);
  }

  #onNotice(notice: GuardNotice): void {
    this.notices.push(notice);
    this.onNotice(notice);
    if (notice.kind === 'open' && notice.name === webLease && !notice.isResumed)
      this.#startWorkload();
    if (notice.kind === 'prepare') {
      const { name, id } = notice;
      void this.command({ kind: 'prepared', name, id, isReady: true, why: '' });
    }
    if (notice.kind === 'stop' && notice.name === webLease) {
      this.workload?.kill('SIGKILL');
      const { name, id } = notice;
      void this.command({ kind: 'stopped', name, id, isStopped: true, why: '' });
    }
    if (notice.kind === 'settle') {
      const { name, id } = notice;
      void this.command({ kind: 'settled', name, id, isSettled: true, why: '' });
    }
  }

  #startWorkload(): void {
    const procs = path.join(this.world.cgroup, this.gate(), 'cgroup.procs');
    const leaseDir = path.join(this.runDir, 'lease', this.gate());
    const script = path.join(import.meta.dirname, 'guard-workload.mjs');
    const { workload, isCareful } = this.world.options;
    const program = workload === undefined ? [process.execPath, script] : [workload];
    const careful = isCareful === true ? ['--careful'] : [];
    const args = [...program, procs, leaseDir, this.world.journal, this.name, ...careful];
    this.workload = spawn(args[0] as string, args.slice(1), {
      stdio: ['ignore', 'inherit', 'inherit'],
    });
  }
}

function killGroup(leader: number): void {
  if (leader !== 0) process.kill(-leader, 'SIGKILL');
}

/** A tool's own connection: it says no hello. */
export interface Tool {
  readonly command: (command: GuardCommand) => Promise<GuardReply>;
  readonly close: () => void;
}

function leaseOf(name: string, gate: string | null, hosts: readonly HostId[]): LeaseDesired {
  return {
    name,
    title: name,
    profile: 'fast',
    onLoss: 'stop',
    candidates: hosts,
    mayAcquire: true,
    why: '',
    isFrozen: false,
    gate,
    traffic: gate === null ? [] : ['10.99.0.1'],
    fence: 'none',
    fenceCommand: [],
    lockDelayMs: 0,
    onDaemonDown: 'stay',
  };
}

export const lockLease = leaseOf('lock/nightly', null, []);
