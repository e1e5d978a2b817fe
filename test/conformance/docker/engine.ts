/**
 * A host of its own for tests of the docker plugin: network, mount and process namespace with a real dockerd in them.
 *
 * Everything hangs on one shell that is process 1 of the namespace, reaps what dies and reads our pipe: when it ends (on
 * `destroy`, or because the test process died in whatever way), the kernel kills dockerd, containerd and every container.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, rmdir, symlink, cp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import Docker from 'dockerode';
import { eventually } from '../../await.ts';

const run = promisify(execFile);

export interface TestHost {
  readonly dir: string;
  readonly socket: string;
  readonly docker: Docker;
  /** Starts dockerd and waits until it answers. */
  startEngine(): Promise<void>;
  /** SIGKILL, as the out-of-memory killer would. Containers stay. */
  killEngine(): Promise<void>;
  signalEngine(signal: NodeJS.Signals): void;
  /** Runs a command in the host's namespaces; rejects when it fails. */
  run(command: string, ...args: string[]): Promise<string>;
  /** Starts a process in the host's namespaces; it dies with the host at the latest. */
  spawn(command: string, args: readonly string[], options?: { ipc?: boolean }): ChildProcess;
  destroy(): Promise<void>;
}

/** `name` must be unique among the hosts that live at one time. */
export async function createTestHost(name: string): Promise<TestHost> {
  const dir = await mkdtemp(join(tmpdir(), `trellis-${name}-`));
  const holder = spawn(
    'unshare',
    [
      '--net',
      '--mount',
      '--pid',
      '--uts',
      '--fork',
      '--kill-child',
      '--mount-proc',
      '--propagation',
      'private',
      'sh',
      '-c',
      `ip link set lo up && ip address add 10.99.0.1/24 dev lo && hostname ${name} && mount -t tmpfs tmpfs /run && echo ready && cat >/dev/null; exit 0`,
    ],
    // unshare complains when it is ended with its child; a real failure shows in the missing 'ready'.
    { stdio: ['pipe', 'pipe', 'ignore'] },
  );
  await new Promise<void>((resolve, reject) => {
    holder.stdout.once('data', () => resolve());
    holder.once('exit', (code) =>
      reject(new Error(`no namespace: unshare ended with ${String(code)}`)),
    );
  });
  const init = await onlyChild(holder);
  return new NamespacedHost({ name, dir, holder, init });
}

class NamespacedHost implements TestHost {
  readonly dir: string;
  readonly socket: string;
  readonly docker: Docker;
  readonly #name: string;
  readonly #holder: ChildProcess;
  readonly #init: number;
  #engine: { starter: ChildProcess; pid: number } | null = null;

  constructor(parts: { name: string; dir: string; holder: ChildProcess; init: number }) {
    this.dir = parts.dir;
    this.socket = join(parts.dir, 'docker.sock');
    this.docker = new Docker({ socketPath: this.socket });
    this.#name = parts.name;
    this.#holder = parts.holder;
    this.#init = parts.init;
  }

  async startEngine(): Promise<void> {
    // Options as in production packages, but nothing outside `dir`. The cgroup parent is the host's own, so that it can be removed.
    const starter = this.spawn('dockerd', [
      '--data-root',
      join(this.dir, 'data'),
      '--exec-root',
      join(this.dir, 'exec'),
      '-p',
      join(this.dir, 'docker.pid'),
      '-H',
      `unix://${this.socket}`,
      '--bip',
      '172.30.1.1/24',
      '--cgroup-parent',
      this.#cgroup(),
      '--storage-driver',
      'overlay2',
    ]);
    const pid = await onlyChild(starter);
    this.#engine = { starter, pid };
    const isUp = async (): Promise<boolean> => {
      if (starter.exitCode !== null) return true;
      await this.docker.ping();
      return true;
    };
    await eventually(isUp, { withinMs: 30_000, everyMs: 50, what: `dockerd of ${this.#name}` });
    if (starter.exitCode !== null) throw new Error(`dockerd of ${this.#name} ended at once`);
  }

  async killEngine(): Promise<void> {
    const engine = this.#engine;
    if (engine === null) return;
    this.#engine = null;
    const ended = new Promise((resolve) => engine.starter.once('exit', resolve));
    process.kill(engine.pid, 'SIGKILL');
    await ended;
  }

  signalEngine(signal: NodeJS.Signals): void {
    if (this.#engine === null) return;
    process.kill(this.#engine.pid, signal);
    // nsenter stops itself when its child is stopped, and then reaps nothing.
    if (signal === 'SIGCONT') this.#engine.starter.kill('SIGCONT');
  }

  async run(command: string, ...args: string[]): Promise<string> {
    const { stdout } = await run('nsenter', [...this.#enter(), command, ...args], {
      maxBuffer: 16 << 20,
    });
    return stdout;
  }

  spawn(command: string, args: readonly string[], options: { ipc?: boolean } = {}): ChildProcess {
    const output = process.env['TRELLIS_TEST_VERBOSE'] === undefined ? 'ignore' : 'inherit';
    return spawn('nsenter', [...this.#enter(), command, ...args], {
      stdio:
        options.ipc === true ? ['ignore', 'inherit', 'inherit', 'ipc'] : ['ignore', output, output],
      serialization: 'advanced',
    });
  }

  async destroy(): Promise<void> {
    const ended = new Promise((resolve) => this.#holder.once('exit', resolve));
    if (this.#holder.exitCode === null) {
      if (this.#engine !== null) this.signalEngine('SIGCONT');
      this.#holder.stdin?.end();
      process.kill(this.#init, 'SIGKILL');
      await ended;
    }
    await removeCgroups(this.#cgroup());
    await rm(this.dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }

  #enter(): string[] {
    return ['-t', String(this.#init), '--net', '--mount', '--pid', '--uts', '--'];
  }

  #cgroup(): string {
    return `/trellis-test-${process.pid}-${this.#name}`;
  }
}

/** Outside id of the one process that `parent` has forked into the namespace. */
async function onlyChild(parent: ChildProcess): Promise<number> {
  const children = `/proc/${parent.pid}/task/${parent.pid}/children`;
  const first = async (): Promise<number | null> =>
    Number((await readFile(children, 'utf8')).trim().split(' ')[0]) || null;
  return eventually(first, {
    withinMs: 10_000,
    everyMs: 10,
    what: 'the process has forked a child',
  });
}

/** Empty cgroups stay behind when their processes are killed; only directories of this name are removed. */
async function removeCgroups(name: string): Promise<void> {
  const root = '/sys/fs/cgroup';
  const controllers = await readdir(root).catch(() => []);
  for (const top of [root, ...controllers.map((controller) => join(root, controller))]) {
    await removeEmpty(join(top, name)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT' && error.code !== 'ENOTDIR')
        process.stderr.write(`cgroup ${name} stays: ${error.message}\n`);
    });
  }
}

async function removeEmpty(dir: string): Promise<void> {
  for (const entry of await readdir(dir, { withFileTypes: true }))
    if (entry.isDirectory()) await removeEmpty(join(dir, entry.name));
  await rmdir(dir);
}

/** Imports a busybox root file system as `reference` (2 MB, one layer). */
export async function importBusybox(host: TestHost, reference: string, marker = ''): Promise<void> {
  const root = join(host.dir, `rootfs-${reference.replaceAll(/[^a-z0-9]/g, '-')}`);
  for (const sub of ['bin', 'etc', 'tmp', 'proc', 'dev', 'sys'])
    await mkdir(join(root, sub), { recursive: true });
  await cp('/usr/bin/busybox', join(root, 'bin/busybox'));
  for (const tool of [
    'sh',
    'sleep',
    'cat',
    'echo',
    'httpd',
    'nc',
    'true',
    'false',
    'wget',
    'ls',
    'hostname',
    'stty',
    'trap',
    'kill',
    'id',
    'grep',
    'head',
    'test',
    'touch',
    'rm',
    'mkdir',
  ]) {
    await symlink('busybox', join(root, 'bin', tool)).catch(ignoreExisting);
  }
  await run('sh', [
    '-c',
    `echo '${marker}' > ${join(root, 'etc/marker')} && echo 'root:x:0:0:root:/:/bin/sh' > ${join(root, 'etc/passwd')}`,
  ]);
  await host.run(
    'sh',
    '-c',
    `tar -C ${root} -c . | docker -H unix://${host.socket} import -c 'CMD ["sleep","1000000"]' - ${reference}`,
  );
  await rm(root, { recursive: true });
}

function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EEXIST') throw error;
}

export function fixture(name: string): string {
  return join(dirname(new URL(import.meta.url).pathname), name);
}
