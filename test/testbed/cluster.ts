/**
 * A Trellis cluster on a testbed, driven as a person would: through the CLI of any host. Daemons run from the work tree.
 */
import { connect } from 'node:net';
import type { HostProcess, LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import type { FromGuard, GuardStatus, ToGuard } from '../../daemon/lease/guard-api.ts';
import type { HostRow, InstanceRow } from '../../daemon/operations/answers.ts';
import { eventually } from '../await.ts';
import { keepersOf, signalAll } from './process-tree.ts';
import { Testbed } from './testbed.ts';
import type { TestbedOptions } from './testbed.ts';

export interface ClusterOptions extends TestbedOptions {
  /** Roles of each host, given at init and join. */
  readonly roles?: readonly (readonly string[])[];
}

export interface CliResult {
  readonly code: number;
  /** Parsed when it is JSON. */
  readonly data: unknown;
  readonly stdout: string;
  readonly stderr: string;
}

export class TestCluster {
  readonly bed: Testbed;
  readonly #daemons = new Map<LocalHost, HostProcess>();

  constructor(bed: Testbed) {
    this.bed = bed;
  }

  /** Founded by the first host, joined by the others one after the other, logged in on all. Ready when it resolves. */
  static async create(options: ClusterOptions): Promise<TestCluster> {
    const cluster = new TestCluster(await Testbed.create(options));
    try {
      await cluster.found(options.roles?.[0] ?? []);
      for (let index = 1; index < options.hosts; index++)
        await cluster.join(index, options.roles?.[index] ?? []);
      await cluster.waitReady(options.hosts);
      return cluster;
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
  }

  passphrase = '';

  async found(roles: readonly string[] = []): Promise<void> {
    await this.startDaemon(0);
    const flags = roles.flatMap((role) => ['--role', role]);
    const answer = await this.json<{ passphrase: string }>(0, [
      'init',
      '--name',
      'testbed',
      '--env',
      'prod',
      ...flags,
    ]);
    this.passphrase = answer.passphrase;
  }

  async join(index: number, roles: readonly string[] = [], from = 0): Promise<void> {
    await this.startDaemon(index);
    const flags = roles.flatMap((role) => ['--role', role]);
    const ticket = await this.trellis(from, ['invite', '--json', ...flags]);
    this.bed.host(index).writeFile('/run/ticket', ticket.stdout, 0o600);
    await this.json(index, ['join', '--code-file', '/run/ticket']);
  }

  async login(index: number): Promise<void> {
    this.bed.host(index).writeFile('/run/passphrase', `${this.passphrase}\n`, 0o600);
    await this.json(index, ['login', '--passphrase-file', '/run/passphrase']);
  }

  /** Starts `trellis daemon` in the host and waits until it answers. */
  async startDaemon(index: number, args: readonly string[] = []): Promise<HostProcess> {
    const host = this.bed.host(index);
    const daemon = await host.spawn(['trellis', 'daemon', ...args], { label: 'trellis' });
    this.keepDaemon(host, daemon);
    await eventually(async () => (await this.trellis(index, ['info', '--json'])).code === 0, {
      withinMs: 30_000,
    });
    return daemon;
  }

  /** For those who start it in another way. */
  protected keepDaemon(host: LocalHost, daemon: HostProcess): void {
    this.#daemons.set(host, daemon);
  }

  daemon(index: number): HostProcess {
    const daemon = this.#daemons.get(this.bed.host(index));
    if (daemon === undefined) throw new Error(`no daemon was started on host ${index}`);
    return daemon;
  }

  async signalDaemon(index: number, signal: 'TERM' | 'KILL' | 'STOP' | 'CONT'): Promise<void> {
    // The command of a clone starts the runtime as its child; both are meant.
    await this.bed.host(index).mustExec(`pkill -${signal} -f '[d]aemon/main.ts daemon'`);
    if (signal === 'TERM' || signal === 'KILL') await this.daemon(index).exited;
  }

  /** Number inside the host. */
  async guardPid(index: number): Promise<number> {
    return Number(await this.bed.host(index).mustExec('cat /run/trellis/guard/guard.pid'));
  }

  /** Does not wait: a guard that is killed is started again by its keeper, one that ends by its daemon. */
  async signalGuard(index: number, signal: 'TERM' | 'KILL' | 'STOP' | 'CONT'): Promise<void> {
    const pid = await this.guardPid(index);
    await this.bed.host(index).mustExec(['kill', '-s', signal, String(pid)]);
  }

  /** `STOP`: hung, in every thread and child. `KILL` leaves its containers; see LocalHost.stopEngine. */
  async signalEngine(index: number, signal: 'KILL' | 'STOP' | 'CONT'): Promise<void> {
    const host = this.bed.host(index);
    const script = `kill -s ${signal} $(cat /run/docker.pid)`;
    await host.mustExec(script);
    // Whoever entered the host for it stops together with it, and is not woken by its going on.
    if (signal === 'CONT') signalAll(keepersOf(host.initPid ?? 0), 'SIGCONT');
  }

  /** First-hand, by the guard's own socket: works with a daemon that is dead or stopped. */
  async leaseStatus(index: number): Promise<GuardStatus> {
    return askGuard(`${this.bed.host(index).rootPath}/run/trellis/guard/guard.sock`);
  }

  /** Hosts whose own guard says that it holds the lease with its gate open; `title` as in 'service db'. */
  async holders(title: string): Promise<{ index: number; epoch: number; name: string }[]> {
    const on = this.bed.hosts.filter((host) => host.isOn);
    const found = await Promise.all(
      on.map(async ({ index }) => {
        const status = await this.leaseStatus(index).catch(() => null);
        const lease = status?.leases.find((one) => one.title === title && one.gate === 'open');
        return lease === undefined ? [] : [{ index, epoch: lease.epoch, name: lease.name }];
      }),
    );
    return found.flat();
  }

  /** The environment's voters are so many and every guard that is on knows it: one more is added every few seconds. */
  async waitVoters(count: number): Promise<void> {
    const isSo = async ({ index }: LocalHost): Promise<boolean> =>
      (await this.leaseStatus(index)).chosen?.config.voters.length === count;
    for (const host of this.bed.hosts.filter(({ isOn }) => isOn))
      await eventually(() => isSo(host), {
        withinMs: 90_000,
        everyMs: 100,
        what: `${host.name} knows ${count} voters`,
      });
  }

  async trellis(index: number, args: readonly string[], timeoutMs = 150_000): Promise<CliResult> {
    const { code, stdout, stderr } = await this.bed.host(index).trellis(args, { timeoutMs });
    return { code, data: parse(stdout), stdout, stderr };
  }

  /** Runs with --json; throws with what the command said when it fails. */
  async json<T = unknown>(index: number, args: readonly string[], timeoutMs?: number): Promise<T> {
    const result = await this.trellis(index, [...args, '--json'], timeoutMs);
    if (result.code !== 0)
      throw new Error(
        `h${index + 1}: trellis ${args.join(' ')}: exit ${result.code}: ${result.stdout}${result.stderr}`,
      );
    return result.data as T;
  }

  async apply(
    index: number,
    yaml: string,
    flags: readonly string[] = ['--wait'],
  ): Promise<CliResult> {
    this.bed.host(index).writeFile('/run/desired.yaml', yaml);
    return this.trellis(index, ['apply', '-f', '/run/desired.yaml', '--json', ...flags]);
  }

  async mustApply(index: number, yaml: string, flags?: readonly string[]): Promise<void> {
    const result = await this.apply(index, yaml, flags);
    if (result.code !== 0)
      throw new Error(`apply: exit ${result.code}: ${result.stdout}${result.stderr}`);
  }

  hosts(index: number): Promise<HostRow[]> {
    return this.json<HostRow[]>(index, ['host', 'ls']);
  }

  ps(index: number, service?: string): Promise<InstanceRow[]> {
    return this.json<InstanceRow[]>(index, ['ps', ...(service === undefined ? [] : [service])]);
  }

  /** All hosts agree that `count` hosts are ready. */
  async waitReady(
    count: number,
    from: readonly number[] = this.bed.hosts.map((_, index) => index).slice(0, count),
  ): Promise<void> {
    for (const index of from) {
      await eventually(
        async () => {
          const rows = await this.hosts(index);
          const ready = rows.filter((row) => row.state === 'ready').length;
          if (ready !== count)
            throw new Error(
              `h${index + 1} sees ${JSON.stringify(rows.map((row) => [row.name, row.state]))}`,
            );
          return true;
        },
        { withinMs: 60_000, everyMs: 250 },
      );
    }
  }

  /** Container names on a host, sorted; only running ones. */
  async containers(index: number): Promise<string[]> {
    const { stdout } = await this.bed.host(index).docker(['ps', '--format', '{{.Names}}']);
    return stdout
      .split('\n')
      .filter((name) => name !== '')
      .toSorted();
  }

  log(index: number): string {
    return this.daemon(index).log();
  }

  async destroy(): Promise<void> {
    await this.bed.destroy();
  }
}

const guardAnswerMs = 3_000;

function askGuard(socketPath: string): Promise<GuardStatus> {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath);
    const write = (line: ToGuard): void => void socket.write(`${JSON.stringify(line)}\n`);
    let text = '';
    socket.setTimeout(guardAnswerMs, () => socket.destroy(new Error('the guard says nothing')));
    socket.on('connect', () => {
      write({ kind: 'hello', v: 1, version: 'test' });
      write({ kind: 'status', id: 1 });
    });
    socket.on('data', (chunk: Buffer) => {
      const lines = (text + chunk.toString()).split('\n');
      text = lines.pop() ?? '';
      for (const line of lines) {
        const answer = JSON.parse(line) as FromGuard;
        if (answer.kind !== 'status' || answer.id !== 1) continue;
        socket.destroy();
        resolve(answer.status);
      }
    });
    socket.on('error', reject);
    socket.on('close', () => reject(new Error('the guard closed the connection')));
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
