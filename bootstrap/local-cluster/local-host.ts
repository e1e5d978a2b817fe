/**
 * One host on this machine: own root (overlay on the machine's), own network, processes, mounts and name, optionally an
 * own container engine. Killing its first process is an honest power cut: every process and container of it dies at
 * once, and what is left is its disk. See host-init.sh.
 */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { ClusterError } from '../../daemon/errors.ts';
import { gatewayAddress, prefixLength, type LanSwitch } from './lan-switch.ts';
import { isRunning, killProcess, processId, type ProcessId } from './process-id.ts';
import { runCommand, type CommandOptions, type CommandResult } from './run-command.ts';
import { gatesOf, removeCgroup, thawCgroup } from './run-record.ts';

export const repoDir = resolve(import.meta.dirname, '../..');
const nodeDir = dirname(process.execPath);

/** Where the rest of the local network is reached; the network itself implements it. */
export interface HostSurroundings {
  readonly lanSwitch: LanSwitch;
  readonly cgroup: string;
  /** End with this process, even when it is killed. */
  readonly diesWithParent: boolean;
  /** Called with every process made for the host and when one is gone, to keep the record true. */
  onProcesses(): void;
}

export interface LocalHostOptions {
  readonly index: number;
  readonly name: string;
  readonly ip: string;
  /** On the machine; holds upper, work, docker, logs. */
  readonly dir: string;
  /** `/usr/local/bin/trellis` runs the work tree; false: absent, as on a machine that never saw Trellis. */
  readonly hasTrellis: boolean;
}

export interface ExecOptions extends CommandOptions {
  readonly env?: Readonly<Record<string, string>>;
}

export interface SpawnOptions {
  readonly env?: Readonly<Record<string, string>>;
  /** Names the log file; default 'process'. */
  readonly label?: string;
}

/** A process that was started in a host and goes on there. */
export interface HostProcess {
  /** Number inside the host. */
  readonly pid: number;
  /** On the machine: standard output and error. */
  readonly logFile: string;
  log(): string;
  signal(signal: 'TERM' | 'KILL' | 'STOP' | 'CONT' | 'HUP' | 'INT'): Promise<void>;
  /** Exit code; 137 when killed, also by a power cut. */
  readonly exited: Promise<number>;
}

export class LocalHost {
  readonly index: number;
  readonly name: string;
  readonly dir: string;
  ip: string;
  /** Run in order at the end of every boot, like units of a service manager. */
  readonly bootCommands: string[] = [];
  readonly #surroundings: HostSurroundings;
  readonly #hasTrellis: boolean;
  #init: ProcessId | null = null;
  #supervisor: ProcessId | null = null;
  #engine: HostProcess | null = null;
  #spawned = 0;

  constructor(options: LocalHostOptions, surroundings: HostSurroundings) {
    this.index = options.index;
    this.name = options.name;
    this.ip = options.ip;
    this.dir = options.dir;
    this.#hasTrellis = options.hasTrellis;
    this.#surroundings = surroundings;
  }

  get isOn(): boolean {
    return this.#init !== null;
  }

  /** First process as the machine sees it; null while off. */
  get initPid(): number | null {
    return this.#init?.pid ?? null;
  }

  /** The host's `/` as the machine sees it; only while it is on. */
  get rootPath(): string {
    return `/proc/${this.#on().pid}/root`;
  }

  get processes(): readonly ProcessId[] {
    return [this.#supervisor, this.#init].filter((id) => id !== null);
  }

  /** Takes over a host that another run booted. */
  adopt(initPid: number): void {
    this.#init = processId(initPid);
  }

  /** Same disk, new boot id, no memory of rules, addresses or processes. */
  async boot(): Promise<void> {
    if (this.isOn)
      throw new ClusterError('CONFLICT', {
        reason: `${this.name} is on`,
        todo: 'cut its power first',
      });
    const isFresh = !existsSync(join(this.dir, 'upper'));
    for (const name of ['upper', 'work', 'root', 'docker', 'logs'])
      mkdirSync(join(this.dir, name), { recursive: true });
    writeFileSync(join(this.dir, 'boot-id'), `${randomUUID()}\n`);
    const outer = await this.#startInit();
    this.#init = processId(outer);
    this.#surroundings.onProcesses();
    await this.#surroundings.lanSwitch.plug(this.index, outer);
    // New namespaces inherit this from the machine; on a real host it is off at boot, and the engine looks at it.
    const forwarding = 'echo 0 > /proc/sys/net/ipv4/ip_forward';
    const firstBoot = isFresh ? this.#firstBootScript() : '';
    await this.mustExec([firstBoot, forwarding, this.#networkScript()].join('\n'));
    for (const command of this.bootCommands) await this.mustExec(command);
  }

  /** Everything of the host is dead when this resolves; unsynced writes of its programs are not lost (same kernel). */
  async powerCut(): Promise<void> {
    const dead = this.processes;
    if (this.#init === null) return;
    killProcess(this.#init);
    // What is frozen dies when it is thawed, and not before.
    const cgroups = [this.#surroundings.cgroup, ...gatesOf(this.dir)];
    for (const cgroup of cgroups) thawCgroup(cgroup);
    await waitUntil(() => !dead.some(isRunning), 10_000, `${this.name} to die`);
    this.#init = this.#supervisor = this.#engine = null;
    await this.#surroundings.lanSwitch.unplug(this.index);
    for (const cgroup of cgroups) removeCgroup(cgroup);
    this.#surroundings.onProcesses();
  }

  /** Runs a command inside and waits for it. A string goes to the shell. */
  async exec(
    command: string | readonly string[],
    options: ExecOptions = {},
  ): Promise<CommandResult> {
    const timeoutMs = options.timeoutMs ?? 30_000;
    const inner = typeof command === 'string' ? ['sh', '-c', command] : command;
    // `timeout` inside, because killing nsenter would leave the command running in the host.
    const limited = ['timeout', '-s', 'KILL', String(timeoutMs / 1000), ...inner];
    return runCommand('nsenter', this.#enter(limited, options.env), {
      ...options,
      timeoutMs: timeoutMs + 5_000,
    });
  }

  /** Standard output; anything but exit code 0 is COMMAND_FAILED. */
  async mustExec(command: string | readonly string[], options: ExecOptions = {}): Promise<string> {
    const result = await this.exec(command, options);
    if (result.code === 0) return result.stdout;
    const text = typeof command === 'string' ? command.trim() : command.join(' ');
    throw new ClusterError('COMMAND_FAILED', {
      command: `${this.name}: ${text.slice(0, 300)}`,
      reason: `exit code ${result.code}: ${result.stderr.trim() || result.stdout.trim()}`,
    });
  }

  /** Starts a command that goes on. Output goes to a file on the machine. */
  async spawn(
    command: string | readonly string[],
    options: SpawnOptions = {},
  ): Promise<HostProcess> {
    const number = ++this.#spawned;
    const logFile = join(
      this.dir,
      'logs',
      `${options.label ?? 'process'}-${number}-${Date.now() % 1_000_000}.log`,
    );
    const inner = typeof command === 'string' ? ['sh', '-c', `exec ${command}`] : command;
    const pidFile = `/run/testbed/${number}.pid`;
    const script = `echo $$ > ${pidFile}.new && mv ${pidFile}.new ${pidFile} && exec "$@"`;
    const log = openSync(logFile, 'a');
    const args = this.#enter(['sh', '-c', script, 'sh', ...inner], options.env);
    const child = spawn('nsenter', args, { stdio: ['ignore', log, log], detached: true });
    closeSync(log);
    child.unref();
    const exited = exitOf(child);
    const pid = await this.#readPid(pidFile, exited);
    return {
      pid,
      logFile,
      exited,
      log: () => readFileSync(logFile, 'utf8'),
      signal: async (signal) => {
        await this.exec(['kill', '-s', signal, String(pid)]);
      },
    };
  }

  /** Runs `trellis …` of the work tree. */
  trellis(args: readonly string[], options: ExecOptions = {}): Promise<CommandResult> {
    return this.exec(['trellis', ...args], options);
  }

  docker(args: readonly string[], options: ExecOptions = {}): Promise<CommandResult> {
    return this.exec(['docker', ...args], options);
  }

  /** Starts dockerd and waits until it answers, at most 30 s. Does nothing when it runs. */
  async startEngine(): Promise<void> {
    if (this.#engine !== null) return;
    this.#engine = await this.spawn(['dockerd'], { label: 'dockerd' });
    const engine = this.#engine;
    let hasExited = false;
    void engine.exited.then(() => (hasExited = true));
    const wait =
      'for i in $(seq 600); do curl -fs -m 2 -o /dev/null --unix-socket /run/docker.sock http://d/_ping && exit 0; sleep 0.05; done; exit 1';
    const answer = await this.exec(wait, { timeoutMs: 35_000 });
    if (answer.code === 0 && !hasExited) return;
    throw new ClusterError('ENGINE_UNREACHABLE', {
      endpoint: `${this.name}:/run/docker.sock`,
      reason: engine.log().slice(-500),
    });
  }

  /** Adds to the engine's settings, e.g. { 'live-restore': true }; its next start reads them. */
  configureEngine(settings: Readonly<Record<string, unknown>>): void {
    const path = '/etc/docker/daemon.json';
    const current = JSON.parse(this.readFile(path)) as Record<string, unknown>;
    this.writeFile(path, JSON.stringify({ ...current, ...settings }));
  }

  /**
   * `kill`: the engine dies without goodbye and containers go on in their shims; without live-restore its next start
   * stops them, and leaves them stopped whatever their restart policy (dockerd 20.10). `stop`: as the service manager
   * would; containers are stopped unless live-restore is set.
   */
  async stopEngine(how: 'stop' | 'kill' = 'stop'): Promise<void> {
    // The engine may have been started by somebody else in the host (an installer): go by its pid file.
    const pid = (await this.exec('cat /run/docker.pid')).stdout.trim();
    if (pid !== '') {
      const script = `kill -s ${how === 'stop' ? 'TERM' : 'KILL'} ${pid}; while kill -0 ${pid} 2>/dev/null; do sleep 0.02; done`;
      await this.mustExec(script);
      if (how === 'kill') await this.exec('rm -f /run/docker.pid');
    }
    this.#engine = null;
  }

  /** As if DHCP gave another one: the old address is gone at once. */
  async changeAddress(ip: string): Promise<void> {
    this.ip = ip;
    await this.mustExec(`ip addr flush dev eth0\n${this.#networkScript()}`);
    this.#surroundings.onProcesses();
  }

  /** Path inside the host. */
  readFile(path: string): string {
    return readFileSync(this.#fileInside(path), 'utf8');
  }

  writeFile(path: string, content: string | Uint8Array, mode = 0o644): void {
    const file = this.#fileInside(path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, content);
    chmodSync(file, mode);
  }

  exists(path: string): boolean {
    return existsSync(this.#fileInside(path));
  }

  /** While it is off only what the host itself has written is visible. */
  #fileInside(path: string): string {
    return join(this.isOn ? this.rootPath : join(this.dir, 'upper'), path);
  }

  #on(): ProcessId {
    if (this.#init === null)
      throw new ClusterError('CONFLICT', { reason: `${this.name} is off`, todo: 'boot it first' });
    return this.#init;
  }

  #enter(command: readonly string[], env: Readonly<Record<string, string>> = {}): string[] {
    const all: Record<string, string> = {
      PATH: `${nodeDir}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin`,
      HOME: '/root',
      LANG: 'C.UTF-8',
      TRELLIS_BOOT_ID_PATH: '/run/boot-id',
      ...env,
    };
    const pairs = Object.entries(all).map(([name, value]) => `${name}=${value}`);
    return [
      '-t',
      String(this.#on().pid),
      '-m',
      '-u',
      '-i',
      '-n',
      '-p',
      '-r',
      '-w',
      '--',
      'env',
      '-i',
      ...pairs,
      ...command,
    ];
  }

  /** Process number of the host's first process, as the machine sees it. */
  async #startInit(): Promise<number> {
    const unshare = [
      'unshare',
      '-m',
      '-u',
      '-i',
      '-n',
      '-p',
      '-f',
      '--kill-child',
      'sh',
      join(import.meta.dirname, 'host-init.sh'),
    ];
    const command = this.#surroundings.diesWithParent
      ? ['setpriv', '--pdeathsig', 'KILL', ...unshare]
      : unshare;
    const log = openSync(join(this.dir, 'logs', 'init.log'), 'a');
    const child = spawn(command[0] as string, command.slice(1), {
      stdio: ['ignore', 'pipe', log],
      detached: true,
      env: {
        ...process.env,
        HOST_DIR: this.dir,
        HOST_NAME: this.name,
        REPO_DIR: repoDir,
        NODE_DIR: nodeDir,
      },
    });
    closeSync(log);
    child.unref();
    this.#supervisor = child.pid === undefined ? null : processId(child.pid);
    this.#surroundings.onProcesses();
    const line = await firstLine(child);
    const match = /^ready (\d+)$/.exec(line);
    if (match) return Number(match[1]);
    const reason = readFileSync(join(this.dir, 'logs', 'init.log'), 'utf8').slice(-500);
    throw new ClusterError('COMMAND_FAILED', { command: `boot of ${this.name}`, reason });
  }

  /** A machine that never saw Trellis, whatever this one has; no resolver, because there is no outside. */
  #firstBootScript(): string {
    const shim = `#!/bin/sh\\nexec "${process.execPath}" "${repoDir}/bootstrap/trellis.mjs" "$@"\\n`;
    const engine = JSON.stringify({
      'cgroup-parent': `/${this.#surroundings.cgroup}`,
      'storage-driver': 'overlay2',
    });
    return `
      rm -rf /var/lib/trellis /etc/trellis /usr/local/bin/trellis /etc/systemd/system/trellis* /etc/docker
      mkdir -p /etc/docker
      echo '${engine}' > /etc/docker/daemon.json
      echo ${this.name} > /etc/hostname
      rm -f /etc/resolv.conf; : > /etc/resolv.conf
      printf '127.0.0.1 localhost\\n::1 localhost\\n127.0.1.1 ${this.name}\\n' > /etc/hosts
      ${this.#hasTrellis ? `printf '${shim}' > /usr/local/bin/trellis; chmod 755 /usr/local/bin/trellis` : ''}`;
  }

  #networkScript(): string {
    return `
      ip addr add ${this.ip}/${prefixLength} dev eth0
      ip link set eth0 up
      ip route replace default via ${gatewayAddress}`;
  }

  async #readPid(pidFile: string, exited: Promise<number>): Promise<number> {
    const path = `${this.rootPath}${pidFile}`;
    let code: number | null = null;
    void exited.then((value) => (code = value));
    await waitUntil(() => existsSync(path) || code !== null, 10_000, 'a process to start');
    if (!existsSync(path))
      throw new ClusterError('COMMAND_FAILED', { command: 'spawn', reason: `exit code ${code}` });
    return Number(readFileSync(path, 'utf8'));
  }
}

/** Polls: what is awaited here (a process to die, a file to appear) gives no event across namespaces. */
async function waitUntil(holds: () => boolean, withinMs: number, what: string): Promise<void> {
  const deadline = Date.now() + withinMs;
  while (!holds()) {
    if (Date.now() > deadline)
      throw new ClusterError('TIMED_OUT', { what, seconds: withinMs / 1000, todo: 'try again' });
    await new Promise((next) => setTimeout(next, 5));
  }
}

function exitOf(child: ChildProcess): Promise<number> {
  return new Promise((settle) => {
    child.on('error', () => settle(127));
    child.on('exit', (code) => settle(code ?? 137));
  });
}

function firstLine(child: ChildProcess): Promise<string> {
  return new Promise((settle) => {
    let text = '';
    child.stdout?.on('data', (chunk: Buffer) => {
      text += chunk.toString();
      if (!text.includes('\n')) return;
      child.stdout?.destroy();
      settle(text.slice(0, text.indexOf('\n')));
    });
    child.on('error', (error) => settle(error.message));
    child.on('exit', () => settle(text));
  });
}
