/**
 * Several Docker hosts on this machine for end-to-end tests and benchmarks. What hosts and switch can do is in
 * bootstrap/local-cluster; this adds images, request loops and the promise that nothing stays behind.
 *
 *   const bed = await Testbed.create({ hosts: 3, engines: true });
 *   try { ... } finally { await bed.destroy(); }
 */
import { randomBytes } from 'node:crypto';
import { LocalLan } from '../../bootstrap/local-cluster/local-lan.ts';
import type { LanSwitch } from '../../bootstrap/local-cluster/lan-switch.ts';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';

export interface TestbedOptions {
  readonly hosts: number;
  /** Default true. Without them a host takes about 30 ms and 2 MB: what 20 daemons on one machine need. */
  readonly engines?: boolean;
  /** Default random. */
  readonly name?: string;
  /** Default true; false for tests of the installer: no `/usr/local/bin/trellis`. */
  readonly hasTrellis?: boolean;
  /** Default false. True: `<dir>/shared` on the machine is /srv/shared on every host. */
  readonly hasSharedDisk?: boolean;
}

const open = new Set<LocalLan>();

export class Testbed {
  readonly #lan: LocalLan;

  private constructor(lan: LocalLan) {
    this.#lan = lan;
  }

  static async create(options: TestbedOptions): Promise<Testbed> {
    listenForEnd();
    const lan = await LocalLan.create({
      name: options.name ?? `t${randomBytes(3).toString('hex')}`,
      hosts: options.hosts,
      engines: options.engines ?? true,
      hasTrellis: options.hasTrellis ?? true,
      hasSharedDisk: options.hasSharedDisk ?? false,
      diesWithParent: true,
    });
    open.add(lan);
    return new Testbed(lan);
  }

  get name(): string {
    return this.#lan.name;
  }

  get dir(): string {
    return this.#lan.dir;
  }

  get hosts(): readonly LocalHost[] {
    return this.#lan.hosts;
  }

  get switch(): LanSwitch {
    return this.#lan.switch;
  }

  host(index: number): LocalHost {
    return this.#lan.host(index);
  }

  grow(options: { readonly engine: boolean; readonly hasTrellis?: boolean }): Promise<LocalHost> {
    return this.#lan.grow(options);
  }

  /** Kills every process and removes every file, cgroup and interface. Fine to call twice. */
  async destroy(): Promise<void> {
    await this.#lan.destroy();
    open.delete(this.#lan);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.destroy();
  }
}

let isListening = false;

/**
 * Whatever ends this process ends the hosts: the kernel kills them with their parent (also after SIGKILL), these
 * handlers do it in good order, and what is left on disk then is removed by cleanup.ts.
 */
function listenForEnd(): void {
  if (isListening) return;
  isListening = true;
  process.on('exit', () => {
    for (const lan of open) lan.kill();
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.once(signal, () => {
      void Promise.allSettled([...open].map((lan) => lan.destroy())).then(() =>
        process.kill(process.pid, signal),
      );
    });
  }
}
