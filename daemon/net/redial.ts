/**
 * Dials every wanted member until it is connected, for ever: backoff with jitter, reset by success, by a new address,
 * and by the first reconnection after many failures (the link to everybody else has probably come back too).
 * libp2p's own keep-alive gives up after five tries.
 */
import type { NodeId } from '../../crdt/ids.ts';
import type { Random } from '../ports.ts';
import type { NetworkLimits } from './peer-network.ts';

/** A session that lived for less does not reset the backoff. */
const stableMs = 5_000;
/** The member with the higher id lets the other one dial first. */
const politeMs = 300;
/** After a heal the dials to all others spread over this time. */
const spreadMs = 500;

export interface RedialOptions {
  readonly self: NodeId;
  readonly limits: NetworkLimits;
  readonly random: Random;
  readonly isConnected: (node: NodeId) => boolean;
  /** Resolves when connected; rejects when no address answers. */
  readonly dial: (node: NodeId) => Promise<void>;
  readonly onFailure: (node: NodeId, error: unknown) => void;
}

interface Wanted {
  backoffMs: number;
  timer: NodeJS.Timeout | null;
  isDialing: boolean;
}

export class Redial {
  readonly #options: RedialOptions;
  readonly #wanted = new Map<NodeId, Wanted>();
  #dialing = 0;
  readonly #waiting: (() => void)[] = [];
  #isStopped = false;

  constructor(options: RedialOptions) {
    this.#options = options;
  }

  /** Idempotent. */
  want(node: NodeId): void {
    if (this.#wanted.has(node) || this.#isStopped) return;
    this.#wanted.set(node, {
      backoffMs: this.#options.limits.redialMsMin,
      timer: null,
      isDialing: false,
    });
    this.#schedule(node, node < this.#options.self ? politeMs : 0);
  }

  forget(node: NodeId): void {
    clearTimeout(this.#wanted.get(node)?.timer ?? undefined);
    this.#wanted.delete(node);
  }

  /** Dial soon whatever the backoff: its address changed, or its old connection was found dead. */
  hurry(node: NodeId): void {
    const wanted = this.#wanted.get(node);
    if (wanted === undefined) return;
    wanted.backoffMs = this.#options.limits.redialMsMin;
    this.#schedule(
      node,
      this.#options.random.next() * spreadMs * (node < this.#options.self ? 1 : 0.2),
    );
  }

  /** `node` is connected, by whichever side. */
  connected(node: NodeId): void {
    const { redialMsMin } = this.#options.limits;
    const wanted = this.#wanted.get(node);
    if (wanted === undefined || wanted.backoffMs <= 8 * redialMsMin) return;
    for (const [other, { backoffMs }] of this.#wanted) {
      if (backoffMs > 8 * redialMsMin && !this.#options.isConnected(other)) this.hurry(other);
    }
  }

  lost(node: NodeId, livedMs: number): void {
    const wanted = this.#wanted.get(node);
    if (wanted === undefined) return;
    if (livedMs >= stableMs) wanted.backoffMs = this.#options.limits.redialMsMin;
    this.#scheduleNext(node, wanted);
  }

  stop(): void {
    this.#isStopped = true;
    for (const node of this.#wanted.keys()) this.forget(node);
  }

  #schedule(node: NodeId, delayMs: number): void {
    const wanted = this.#wanted.get(node);
    if (wanted === undefined || this.#isStopped) return;
    clearTimeout(wanted.timer ?? undefined);
    wanted.timer = setTimeout(() => {
      wanted.timer = null;
      void this.#attempt(node, wanted);
    }, delayMs);
  }

  async #attempt(node: NodeId, wanted: Wanted): Promise<void> {
    if (wanted.isDialing || this.#options.isConnected(node)) return;
    wanted.isDialing = true;
    await this.#takeSlot();
    try {
      if (!this.#options.isConnected(node) && this.#wanted.has(node))
        await this.#options.dial(node);
    } catch (error) {
      this.#options.onFailure(node, error);
    } finally {
      wanted.isDialing = false;
      this.#dialing--;
      this.#waiting.shift()?.();
    }
    if (!this.#options.isConnected(node) && wanted.timer === null) this.#scheduleNext(node, wanted);
  }

  #scheduleNext(node: NodeId, wanted: Wanted): void {
    this.#schedule(node, wanted.backoffMs * (0.5 + this.#options.random.next() / 2));
    wanted.backoffMs = Math.min(wanted.backoffMs * 2, this.#options.limits.redialMsMax);
  }

  async #takeSlot(): Promise<void> {
    while (this.#dialing >= this.#options.limits.dialsParallelMax) {
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    }
    this.#dialing++;
  }
}
