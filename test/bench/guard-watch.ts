/** What the guards of a testbed say, with the time at which this process heard it: a further listener beside their daemons. */
import { connect, type Socket } from 'node:net';
import type { FromGuard, GuardNotice, ToGuard } from '../../daemon/lease/guard-api.ts';
import { LineSplitter } from '../../daemon/lease/guard/lines.ts';
import { eventually } from '../await.ts';
import { monotonicMs } from '../testbed/exclusive-proof.ts';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';

export interface Heard {
  /** Monotonic clock of the machine. */
  readonly atMs: number;
  readonly index: number;
  readonly notice: GuardNotice;
}

const lineBytesMax = 4 << 20;
/** Older ones are forgotten. */
const heardMax = 4_096;

export class GuardWatch {
  readonly #sockets: Socket[] = [];
  #heard: Heard[] = [];
  #greeted = 0;

  /** Resolves when all of them have answered. */
  static async on(hosts: readonly LocalHost[]): Promise<GuardWatch> {
    const watch = new GuardWatch();
    for (const host of hosts) watch.#listen(host);
    await eventually(() => watch.#greeted === hosts.length, {
      withinMs: 20_000,
      what: 'the guards answer',
    });
    return watch;
  }

  close(): void {
    for (const socket of this.#sockets) socket.destroy();
  }

  /** The first that fits, since `sinceMs`. */
  find(sinceMs: number, fits: (heard: Heard) => boolean): Heard | null {
    return this.#heard.find((heard) => heard.atMs >= sinceMs && fits(heard)) ?? null;
  }

  #listen(host: LocalHost): void {
    const socket = connect(`${host.rootPath}/run/trellis/guard/guard.sock`);
    const splitter = new LineSplitter(lineBytesMax);
    this.#sockets.push(socket);
    socket.on('connect', () => {
      const hello: ToGuard = { kind: 'hello', v: 1, version: 'bench' };
      socket.write(`${JSON.stringify(hello)}\n`);
    });
    socket.on('data', (bytes) => {
      const atMs = monotonicMs();
      for (const text of splitter.push(bytes) ?? []) {
        const line = JSON.parse(text) as FromGuard;
        if (line.kind === 'hello') this.#greeted++;
        if (line.kind !== 'notice') continue;
        this.#heard = [...this.#heard.slice(1 - heardMax), { atMs, index: host.index, ...line }];
      }
    });
    // Its power is cut, or it is replaced: whoever waits for its words has a deadline.
    socket.on('error', () => socket.destroy());
  }
}
