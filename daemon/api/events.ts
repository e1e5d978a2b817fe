/** GET /api/v1/events: what happened, as server-sent events, from what is kept on and then live. */
import type { ServerResponse } from 'node:http';
import { ClusterError } from '../errors.ts';
import type { EventEntry, NodeApi } from '../node-api.ts';
import type { Clock } from '../ports.ts';

/** Followers at once; more are refused. */
const followersMax = 64;
/** A follower that does not read is cut off; it reconnects and gets what is kept. */
const bufferedBytesMax = 1 << 20;
/** Keeps proxies from closing a quiet connection. */
const keepAliveMs = 15_000;

export class EventFollowers {
  readonly #clock: Clock;
  readonly #open = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get count(): number {
    return this.#open.size;
  }

  /** Takes the response over. Fails with BUSY before a byte is written. */
  follow(node: NodeApi, response: ServerResponse, headers: Readonly<Record<string, string>>): void {
    if (this.#open.size >= followersMax)
      throw new ClusterError('BUSY', { max: followersMax, what: 'event streams' });
    let seen = new Set<string>();
    const send = (text: string): void => {
      if (response.writableLength > bufferedBytesMax) response.destroy();
      else response.write(text);
    };
    const look = (): void => {
      const events = node.events().map((event) => ({ event, id: idOf(event) }));
      const fresh = events.filter(({ id }) => !seen.has(id));
      seen = new Set(events.map(({ id }) => id));
      for (const { event, id } of fresh.toSorted((a, b) => a.event.atWallMs - b.event.atWallMs)) {
        send(`id: ${id}\nevent: ${event.kind}\ndata: ${JSON.stringify(event)}\n\n`);
      }
    };
    let timer = this.#clock.setTimer(keepAliveMs, beat.bind(this));
    function beat(this: EventFollowers): void {
      send(': still here\n\n');
      timer = this.#clock.setTimer(keepAliveMs, beat.bind(this));
    }
    const unsubscribe = node.onChange(look);
    const close = (): void => {
      timer.cancel();
      unsubscribe();
      this.#open.delete(close);
      if (!response.destroyed) response.end();
    };
    this.#open.add(close);
    response.on('close', close);
    response.writeHead(200, { ...headers, 'content-type': 'text/event-stream' });
    response.flushHeaders();
    look();
  }

  /** When the daemon stops or leaves. */
  closeAll(): void {
    for (const close of this.#open) close();
  }
}

/** A restarted host may count from the beginning again: the time tells them apart. */
function idOf(event: EventEntry): string {
  return `${event.host}/${event.seq}/${event.atWallMs}`;
}
