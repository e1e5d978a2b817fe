/**
 * Gets this host past members that do not know it: whoever was away while we were admitted refuses our key until somebody
 * tells it, and may be the only one we can reach. A member that stays unconnected for a while is shown our chain over
 * HTTPS, again now and then.
 */
import type { NodeId } from '../crdt/ids.ts';
import { reasonOf } from './errors.ts';
import type { MemberInfo } from './node-api.ts';
import type { Clock, Log, Timer } from './ports.ts';

/** Longer than a redial takes when nothing is wrong. */
const firstAfterMs = 5_000;
const againAfterMs = 60_000;
/** Members waited for at once; beyond it they take turns. */
const waitingMax = 64;

export class Introductions {
  readonly #options: {
    readonly clock: Clock;
    readonly log: Log;
    introduce(node: NodeId): Promise<void>;
  };
  readonly #waiting = new Map<NodeId, Timer>();
  /** Away, but without a turn yet; whoever had one comes last. */
  #queue: readonly NodeId[] = [];
  /** Away and shown our chain before. */
  #asked = new Set<NodeId>();

  constructor(options: {
    readonly clock: Clock;
    readonly log: Log;
    introduce(node: NodeId): Promise<void>;
  }) {
    this.#options = options;
  }

  /** Whoever is connected now needs none. */
  look(members: readonly MemberInfo[]): void {
    const away = new Set(
      members.filter((member) => !member.isConnected).map((member) => member.node),
    );
    for (const [node, timer] of this.#waiting) {
      if (away.has(node)) continue;
      timer.cancel();
      this.#waiting.delete(node);
    }
    this.#asked = new Set([...this.#asked].filter((node) => away.has(node)));
    const queued = new Set(this.#queue.filter((node) => away.has(node)));
    for (const node of away) if (!this.#waiting.has(node)) queued.add(node);
    this.#queue = [...queued];
    this.#fill();
  }

  #fill(): void {
    const free = Math.max(0, waitingMax - this.#waiting.size);
    const next = this.#queue.slice(0, free);
    this.#queue = this.#queue.slice(free);
    // Whoever was asked before comes about once a minute, also when it has to share its turn.
    const share = waitingMax / (waitingMax + this.#queue.length);
    const againMs = Math.max(firstAfterMs, againAfterMs * share);
    for (const node of next) this.#wait(node, this.#asked.has(node) ? againMs : firstAfterMs);
  }

  stop(): void {
    for (const timer of this.#waiting.values()) timer.cancel();
    this.#waiting.clear();
    this.#queue = [];
  }

  #wait(node: NodeId, delayMs: number): void {
    const timer = this.#options.clock.setTimer(delayMs, () => {
      this.#options.introduce(node).catch((error: unknown) => {
        this.#options.log.debug('introduction.failed', { node, reason: reasonOf(error) });
      });
      if (!this.#waiting.delete(node)) return;
      this.#asked.add(node);
      this.#queue = [...this.#queue, node];
      this.#fill();
    });
    this.#waiting.set(node, timer);
  }
}
