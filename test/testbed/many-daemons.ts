/**
 * The light mode: many daemons on one machine, without engines and without roots of their own, each with its own state
 * directory and ports. The "machine" is one host of the testbed, so that names and rules of the real one stay alone.
 */
import type {
  ExecOptions,
  HostProcess,
  LocalHost,
} from '../../bootstrap/local-cluster/local-host.ts';
import type { CommandResult } from '../../bootstrap/local-cluster/run-command.ts';
import { eventually } from '../await.ts';

export interface DaemonUse {
  /** Proportional set size: shared pages are divided among those who share them. */
  readonly pssBytes: number;
  /** User and system time since its start. */
  readonly cpuMs: number;
}

export class LightDaemon {
  readonly name: string;
  readonly stateDir: string;
  readonly peerPort: number;
  readonly apiPort: number;
  readonly #host: LocalHost;
  readonly #env: Readonly<Record<string, string>>;
  #process: HostProcess | null = null;

  constructor(host: LocalHost, index: number) {
    this.#host = host;
    this.name = `d${index + 1}`;
    this.stateDir = `/srv/${this.name}`;
    this.peerPort = 17_440 + index;
    this.apiPort = 18_443 + index;
    const run = `/run/${this.name}`;
    this.#env = {
      TRELLIS_STATE: this.stateDir,
      TRELLIS_RUN: run,
      TRELLIS_SOCKET: `${run}/trellis.sock`,
      DOCKER_HOST: 'unix:///run/no-engine.sock',
    };
  }

  /** Resolves when its socket answers. */
  async start(): Promise<void> {
    const listen = ['--listen', `/ip4/${this.#host.ip}/tcp/${this.peerPort}`];
    const api = ['--api', `${this.#host.ip}:${this.apiPort}`, '--advertise', this.#host.ip];
    this.#process = await this.#host.spawn(
      ['trellis', 'daemon', ...listen, ...api, '--no-hosts-file', '--no-guard'],
      {
        env: this.#env,
        label: this.name,
      },
    );
    await eventually(async () => (await this.trellis(['info', '--json'])).code === 0, {
      withinMs: 120_000,
      everyMs: 100,
      what: `${this.name} answers`,
    });
  }

  trellis(args: readonly string[], options: ExecOptions = {}): Promise<CommandResult> {
    return this.#host.trellis(args, { ...options, env: { ...this.#env, ...options.env } });
  }

  async json<T>(args: readonly string[], options: ExecOptions = {}): Promise<T> {
    const { code, stdout, stderr } = await this.trellis([...args, '--json'], options);
    if (code !== 0) throw new Error(`${this.name}: trellis ${args.join(' ')}: ${stderr}${stdout}`);
    return JSON.parse(stdout) as T;
  }

  async use(): Promise<DaemonUse> {
    const pid = await this.#daemonPid();
    const rollup = await this.#host.mustExec(`cat /proc/${pid}/smaps_rollup`);
    const stat = await this.#host.mustExec(`cat /proc/${pid}/stat`);
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const ticksPerSecond = 100;
    return {
      pssBytes: Number(/^Pss:\s+(\d+) kB/m.exec(rollup)?.[1]) * 1024,
      cpuMs: ((Number(fields[11]) + Number(fields[12])) * 1000) / ticksPerSecond,
    };
  }

  async kill(): Promise<void> {
    const pid = await this.#daemonPid();
    await this.#host.exec(['kill', '-s', 'KILL', pid]);
    await this.#process?.exited;
    this.#process = null;
  }

  log(): string {
    return this.#process?.log() ?? '';
  }

  /** The command of a clone is a parent that passes signals on; the daemon is its child. */
  async #daemonPid(): Promise<string> {
    const parent = this.#process?.pid;
    const child = (
      await this.#host.exec(`cat /proc/${parent}/task/${parent}/children`)
    ).stdout.trim();
    return child === '' ? String(parent) : (child.split(' ')[0] as string);
  }
}

/** Starts `count` daemons on one host and makes them one cluster; the first is the founder. At most `atOnce` start at a time. */
export async function startDaemons(
  host: LocalHost,
  { count, atOnce = 4 }: { readonly count: number; readonly atOnce?: number },
): Promise<LightDaemon[]> {
  const daemons = Array.from({ length: count }, (_, index) => new LightDaemon(host, index));
  const [first, ...others] = daemons as [LightDaemon, ...LightDaemon[]];
  await first.start();
  await first.json(['init', '--name', 'many', '--operator', 'admin', '--host-name', first.name], {
    timeoutMs: 180_000,
  });
  const invite = await first.json<unknown>([
    'invite',
    '--uses',
    String(Math.max(1, others.length)),
  ]);
  const waiting = [...others];
  const work = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      await next.start();
      await next.json(['join', '--name', next.name], {
        input: JSON.stringify(invite),
        timeoutMs: 180_000,
      });
    }
  };
  await Promise.all(Array.from({ length: atOnce }, work));
  return daemons;
}
