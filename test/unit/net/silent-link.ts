/** A TCP forwarder whose `cut` is silent: no reset, no end, bytes just stop, as when a cable is pulled. */
import { connect, createServer } from 'node:net';
import type { AddressInfo, Server, Socket } from 'node:net';

export class SilentLink {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  #isCut = false;

  private constructor(server: Server) {
    this.#server = server;
  }

  static async to(port: number): Promise<SilentLink> {
    const server = createServer();
    const link = new SilentLink(server);
    server.on('connection', (socket) => link.#forward(socket, connect(port, '127.0.0.1')));
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return link;
  }

  get address(): string {
    return `/ip4/127.0.0.1/tcp/${(this.#server.address() as AddressInfo).port}`;
  }

  cut(): void {
    this.#isCut = true;
  }

  /** Old connections stay lost; new ones work. */
  heal(): void {
    this.#isCut = false;
  }

  async close(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #forward(near: Socket, far: Socket): void {
    let isLost = this.#isCut;
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#sockets.add(from);
      from.on('data', (bytes) => {
        isLost ||= this.#isCut;
        if (!isLost) to.write(bytes);
      });
      from.on('close', () => {
        isLost ||= this.#isCut;
        if (!isLost) to.destroy();
      });
      // A reset of one side is told to the other, unless the link is cut, by its close.
      from.on('error', () => from.destroy());
    }
  }
}
