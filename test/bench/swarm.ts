/** Docker Swarm on the engines of a testbed: what our rows are compared with. Three managers, as three equal hosts of ours. */
import { performance } from 'node:perf_hooks';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';
import { eventually } from '../await.ts';
import { ask } from './daemons.ts';
import { engineSocket, image, untilRunning } from './engine-api.ts';

export class Swarm {
  readonly #hosts: readonly LocalHost[];

  private constructor(hosts: readonly LocalHost[]) {
    this.#hosts = hosts;
  }

  static async form(hosts: readonly LocalHost[]): Promise<Swarm> {
    const [first, ...others] = hosts as [LocalHost, ...LocalHost[]];
    await first.mustExec(['docker', 'swarm', 'init', '--advertise-addr', first.ip], {
      timeoutMs: 60_000,
    });
    const token = (await first.mustExec('docker swarm join-token -q manager')).trim();
    for (const host of others) {
      const join = [
        'docker',
        'swarm',
        'join',
        '--token',
        token,
        '--advertise-addr',
        host.ip,
        `${first.ip}:2377`,
      ];
      await host.mustExec(join, { timeoutMs: 60_000 });
    }
    const swarm = new Swarm(hosts);
    await swarm.untilReady();
    return swarm;
  }

  /** All nodes ready, all reachable as managers. */
  async untilReady(): Promise<void> {
    await eventually(
      async () => {
        for (const host of this.#hosts) {
          const text = await host.mustExec(
            `docker node ls --format '{{.Hostname}} {{.Status}} {{.ManagerStatus}}'`,
          );
          const ready = text.split('\n').filter((line) => / Ready (Leader|Reachable)/.test(line));
          if (ready.length !== this.#hosts.length) throw new Error(text);
        }
        return true;
      },
      { withinMs: 180_000, everyMs: 500, what: 'a swarm of ready managers' },
    );
  }

  /** Straight to the API of a manager: no start-up of a client counts against it. `port` is published on the host that runs it. */
  async createService(
    name: string,
    options: { readonly port?: number } = {},
    from = 0,
  ): Promise<void> {
    const ports =
      options.port === undefined
        ? []
        : [{ Protocol: 'tcp', TargetPort: 80, PublishedPort: options.port, PublishMode: 'host' }];
    const body = {
      Name: name,
      TaskTemplate: { ContainerSpec: { Image: image, StopGracePeriod: 1_000_000_000 } },
      Mode: { Replicated: { Replicas: 1 } },
      EndpointSpec: { Ports: ports },
    };
    const host = this.#hosts[from] as LocalHost;
    const { status, text } = await ask(engineSocket(host), '/services/create', { body });
    if (status !== 201) throw new Error(`service create: ${status} ${text.slice(0, 200)}`);
  }

  /** Milliseconds until all run. */
  async apply(prefix: string, count: number): Promise<number> {
    const start = performance.now();
    for (let index = 0; index < count; index++) await this.createService(`${prefix}${index}`);
    await untilRunning(this.#hosts, prefix, count, 300_000);
    return performance.now() - start;
  }

  /** All services, until no container of theirs is left. */
  async removeAll(): Promise<void> {
    const first = this.#hosts[0] as LocalHost;
    await first.mustExec('docker service ls -q | xargs -r docker service rm', {
      timeoutMs: 60_000,
    });
    const list = "docker ps -aq --filter 'label=com.docker.swarm.service.id'";
    await eventually(
      async () => {
        const left = await Promise.all(this.#hosts.map((host) => host.mustExec(list)));
        return left.join('').trim() === '';
      },
      { withinMs: 120_000, everyMs: 250, what: 'the swarm to be empty' },
    );
  }

  async dissolve(): Promise<void> {
    for (const host of this.#hosts.toReversed())
      await host.mustExec('docker swarm leave --force', { timeoutMs: 60_000 });
  }
}
