/** A cluster on a testbed whose hosts run the release bundle instead of the work tree, and quick calls to its daemons. */
import { Agent, request } from 'node:http';
import { mustRun } from '../../bootstrap/local-cluster/run-command.ts';
import type { HostProcess, LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { TestCluster } from '../testbed/cluster.ts';
import { Testbed } from '../testbed/testbed.ts';
import type { BenchContext } from './context.ts';

export interface BundleClusterOptions {
  readonly hosts: number;
  readonly engines: boolean;
  /**
   * A bundle of its own for each host: memory is then counted as on a machine of its own, and not divided among
   * daemons that run the same file. Without it all run one copy.
   */
  readonly ownBundles: boolean;
  readonly roles?: readonly string[];
  /** One directory of all hosts at /srv/shared. */
  readonly hasSharedDisk?: boolean;
}

export class BundleCluster extends TestCluster {
  readonly #context: BenchContext;
  readonly #options: BundleClusterOptions;

  private constructor(bed: Testbed, context: BenchContext, options: BundleClusterOptions) {
    super(bed);
    this.#context = context;
    this.#options = options;
  }

  /** Founded, joined, everybody ready; the operator is logged in on the first host. */
  static async make(context: BenchContext, options: BundleClusterOptions): Promise<BundleCluster> {
    await context.bundle();
    const bed = await Testbed.create({
      hosts: options.hosts,
      engines: options.engines,
      hasTrellis: false,
      hasSharedDisk: options.hasSharedDisk ?? false,
    });
    const cluster = new BundleCluster(bed, context, options);
    try {
      await Promise.all(bed.hosts.map((host) => cluster.install(host)));
      await cluster.found(options.roles);
      for (let index = 1; index < options.hosts; index++) await cluster.join(index, options.roles);
      await cluster.waitReady(options.hosts);
      return cluster;
    } catch (error) {
      await cluster.destroy();
      throw error;
    }
  }

  /** One more host with a daemon that has joined. */
  async grow(): Promise<void> {
    const host = await this.bed.grow({ engine: this.#options.engines, hasTrellis: false });
    await this.install(host);
    await this.join(host.index, this.#options.roles);
  }

  async install(host: LocalHost): Promise<void> {
    const command = this.#options.ownBundles
      ? await this.#unpackInside(host)
      : await this.#context.sharedBundle();
    await host.mustExec(`mkdir -p /usr/local/bin && ln -sf ${command} /usr/local/bin/trellis`);
    // As the installer does: proves that it runs and warms the compile cache.
    await host.mustExec('trellis --version && trellis daemon --version', { timeoutMs: 60_000 });
  }

  async #unpackInside(host: LocalHost): Promise<string> {
    await host.mustExec(['mkdir', '-p', '/opt']);
    const parent = `${host.rootPath}/opt`;
    await mustRun('tar', ['-C', parent, '-xzf', await this.#context.bundle()], {
      timeoutMs: 120_000,
    });
    return '/opt/trellis/bin/trellis';
  }

  /** The daemon's unix socket, as this process reaches it. */
  socket(index: number): string {
    return socketOf(this.bed.host(index));
  }

  /** Starts the daemon without waiting for it. */
  async launch(index: number): Promise<HostProcess> {
    const host = this.bed.host(index);
    const daemon = await host.spawn(['trellis', 'daemon'], { label: 'trellis' });
    this.keepDaemon(host, daemon);
    return daemon;
  }

  /** A clean end, as the service manager does it. */
  async stopDaemon(index: number): Promise<void> {
    const daemon = this.daemon(index);
    await daemon.signal('TERM');
    await daemon.exited;
  }
}

export function socketOf(host: LocalHost): string {
  return `${host.rootPath}/run/trellis/trellis.sock`;
}

const agent = new Agent({ keepAlive: true });

export interface Answer {
  readonly status: number;
  readonly text: string;
}

/** One HTTP request over a unix socket, connections kept; rejects when there is no answer within 30 s. */
export function ask(
  socketPath: string,
  path: string,
  options: { readonly method?: string; readonly body?: unknown } = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const body = options.body === undefined ? '' : JSON.stringify(options.body);
    const outgoing = request({
      socketPath,
      agent,
      path,
      method: options.method ?? (options.body === undefined ? 'GET' : 'POST'),
      headers: { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
    });
    outgoing.setTimeout(30_000, () => outgoing.destroy(new Error(`no answer to ${path}`)));
    outgoing.on('error', reject);
    outgoing.on('response', (response) => {
      let text = '';
      response.setEncoding('utf8');
      response.on('data', (chunk: string) => (text += chunk));
      response.on('error', reject);
      response.on('end', () => resolve({ status: response.statusCode ?? 0, text }));
    });
    outgoing.end(body);
  });
}

/** An operation of the daemon; throws what it said when it was refused. */
export async function call<T>(socket: string, operation: string, params: unknown): Promise<T> {
  const { status, text } = await ask(socket, `/api/v1/${operation}`, { body: params });
  if (status !== 200) throw new Error(`${operation}: ${status} ${text.slice(0, 300)}`);
  return JSON.parse(text) as T;
}

/** The API answers and the daemon says that it is ready. */
export async function untilReady(socket: string, withinMs = 30_000): Promise<void> {
  await eventually(async () => (await ask(socket, '/healthz')).status === 200, {
    withinMs,
    everyMs: 2,
  });
}

export interface ProcessUse {
  readonly pssMegabytes: number;
  readonly rssMegabytes: number;
  readonly anonymousMegabytes: number;
  /** Of itself and of the programs that it ran. */
  readonly cpuMs: number;
}

const ticksPerSecond = 100;

/** Of a process inside a host. Megabytes of a million bytes. */
export async function useOf(host: LocalHost, pid: number): Promise<ProcessUse> {
  const rollup = await host.mustExec(`cat /proc/${pid}/smaps_rollup`);
  const stat = await host.mustExec(`cat /proc/${pid}/stat`);
  const megabytes = (field: string): number =>
    (Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(rollup)?.[1]) * 1024) / 1e6;
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  // utime, stime, and those of children that have ended.
  const ticks = [11, 12, 13, 14].reduce((sum, field) => sum + Number(fields[field]), 0);
  return {
    pssMegabytes: megabytes('Pss'),
    rssMegabytes: megabytes('Rss'),
    anonymousMegabytes: megabytes('Pss_Anon'),
    cpuMs: (ticks * 1_000) / ticksPerSecond,
  };
}
