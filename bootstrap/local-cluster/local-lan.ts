/** Several local hosts on one switch, with the record that lets any later run remove them. */
import { spawn } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { ClusterError } from '../../daemon/errors.ts';
import { LanSwitch, hostAddress } from './lan-switch.ts';
import { LocalHost } from './local-host.ts';
import { processId, type ProcessId } from './process-id.ts';
import {
  cgroupName,
  killRun,
  readRecord,
  removeRun,
  runsDir,
  writeRecord,
  type RunRecord,
} from './run-record.ts';

export interface LanOptions {
  /** Letters, digits and dashes; names directory and cgroups. */
  readonly name: string;
  readonly hosts: number;
  /** Start a container engine in each. */
  readonly engines: boolean;
  /** End with this process; false for networks that outlive it (`trellis dev up`). */
  readonly diesWithParent: boolean;
  /** See LocalHostOptions. */
  readonly hasTrellis: boolean;
  /** One directory, `shared` in the network's own, is /srv/shared on every host. Default false. */
  readonly hasSharedDisk?: boolean;
}

export const hostsMax = 100;

export class LocalLan {
  readonly name: string;
  readonly dir: string;
  readonly hosts: LocalHost[] = [];
  readonly #owner: ProcessId | null;
  #switchProcess: ProcessId | null = null;
  #switch: LanSwitch | null = null;

  private constructor(name: string, owner: ProcessId | null) {
    this.name = name;
    this.dir = join(runsDir(), name);
    this.#owner = owner;
  }

  /** Needs root. Everything is up when it resolves; after a failure everything is gone again. */
  static async create(options: LanOptions): Promise<LocalLan> {
    checkOptions(options);
    const lan = new LocalLan(options.name, options.diesWithParent ? processId(process.pid) : null);
    if (readRecord(lan.dir) !== null) {
      throw new ClusterError('CONFLICT', {
        reason: `a local network named ${options.name} exists`,
        todo: 'take it down first',
      });
    }
    mkdirSync(lan.dir, { recursive: true, mode: 0o755 });
    if (options.hasSharedDisk === true) mkdirSync(join(lan.dir, 'shared'));
    lan.#record();
    try {
      await lan.#startSwitch(options.diesWithParent);
      for (let index = 0; index < options.hosts; index++) lan.#addHost(index, options);
      await Promise.all(
        lan.hosts.map(async (host) => {
          await host.boot();
          if (options.engines) await host.startEngine();
        }),
      );
      return lan;
    } catch (error) {
      await lan.destroy();
      throw error;
    }
  }

  /** Takes over a network that another process made; null when there is none of that name. */
  static open(name: string): LocalLan | null {
    const record = readRecord(join(runsDir(), name));
    if (record === null || record.switchPid === null) return null;
    const lan = new LocalLan(name, record.owner);
    lan.#switchProcess = processId(record.switchPid);
    lan.#switch = new LanSwitch(record.switchPid);
    for (const { index, ip, initPid } of record.hosts) {
      const host = lan.#addHost(index, { diesWithParent: false, hasTrellis: true });
      host.ip = ip;
      if (initPid !== null) host.adopt(initPid);
    }
    return lan;
  }

  get switch(): LanSwitch {
    if (this.#switch === null)
      throw new ClusterError('CONFLICT', {
        reason: 'the switch is gone',
        todo: 'create the network again',
      });
    return this.#switch;
  }

  host(index: number): LocalHost {
    const host = this.hosts[index];
    if (host === undefined)
      throw new ClusterError('NOT_FOUND', {
        kind: 'host',
        name: String(index),
        list: 'trellis dev status',
      });
    return host;
  }

  /** One more host, booted. */
  async grow(options: {
    readonly engine: boolean;
    readonly hasTrellis?: boolean;
  }): Promise<LocalHost> {
    const host = this.#addHost(this.hosts.length, {
      diesWithParent: this.#owner !== null,
      hasTrellis: options.hasTrellis ?? true,
    });
    await host.boot();
    if (options.engine) await host.startEngine();
    return host;
  }

  /** Kills and removes everything; fine to call twice. */
  async destroy(): Promise<void> {
    await removeRun(this.#snapshot());
    this.#switch = null;
  }

  /** What an exit handler can do: kills, leaves files to a later clean-up. */
  kill(): void {
    killRun(this.#snapshot());
  }

  #addHost(index: number, options: { diesWithParent: boolean; hasTrellis: boolean }): LocalHost {
    const name = `h${index + 1}`;
    const host = new LocalHost(
      {
        index,
        name,
        ip: hostAddress(index),
        dir: join(this.dir, name),
        hasTrellis: options.hasTrellis,
      },
      {
        lanSwitch: this.switch,
        cgroup: cgroupName(this.dir, name),
        diesWithParent: options.diesWithParent,
        onProcesses: () => this.#record(),
      },
    );
    this.hosts.push(host);
    return host;
  }

  async #startSwitch(diesWithParent: boolean): Promise<void> {
    const hold = ['unshare', '-n', 'sh', '-c', 'echo ready; exec sleep infinity'];
    const command = diesWithParent ? ['setpriv', '--pdeathsig', 'KILL', ...hold] : hold;
    const child = spawn(command[0] as string, command.slice(1), {
      stdio: ['ignore', 'pipe', 'ignore'],
      detached: true,
    });
    child.unref();
    await new Promise<void>((resolve, reject) => {
      child.stdout.once('data', () => resolve());
      child.once('error', reject);
      child.once('exit', () =>
        reject(
          new ClusterError('COMMAND_FAILED', { command: 'unshare -n', reason: 'it ended at once' }),
        ),
      );
    });
    child.stdout.destroy();
    this.#switchProcess = processId(child.pid as number);
    this.#switch = new LanSwitch(child.pid as number);
    this.#record();
    await this.#switch.setUp();
  }

  #snapshot(): RunRecord {
    return {
      v: 1,
      name: this.name,
      dir: this.dir,
      owner: this.#owner,
      processes: [this.#switchProcess, ...this.hosts.flatMap((host) => host.processes)].filter(
        (id) => id !== null,
      ),
      cgroups: this.hosts.map((host) => cgroupName(this.dir, host.name)),
      hosts: this.hosts.map(({ index, name, ip, initPid }) => ({ index, name, ip, initPid })),
      switchPid: this.#switchProcess?.pid ?? null,
    };
  }

  #record(): void {
    writeRecord(this.#snapshot());
  }
}

function checkOptions(options: LanOptions): void {
  if (process.getuid?.() !== 0) {
    throw new ClusterError('INVALID', {
      reason: 'hosts on this machine need root: they have namespaces of their own',
    });
  }
  if (!/^[a-z0-9][a-z0-9-]{0,23}$/.test(options.name)) {
    throw new ClusterError('INVALID', { reason: `${options.name} is no name for a local network` });
  }
  if (!Number.isInteger(options.hosts) || options.hosts < 1 || options.hosts > hostsMax) {
    throw new ClusterError('INVALID', { reason: `the number of hosts is 1 to ${hostsMax}` });
  }
}
