/**
 * Work on containers: one piece at a time per container, whoever asked for it, and nobody has to wait for a slow one.
 *
 * A reconcile waits for its pieces up to a limit and then returns; what is still running goes on (a large image, a long
 * grace period) and is not started twice. When it ends, another reconcile is asked for, which also reports how it failed.
 */
import type { ItemFailure } from '../api.ts';

export interface Piece {
  /** Container name: the key of its queue. */
  readonly container: string;
  /** For failures: an instance, or a container that must go. */
  readonly item: string;
  /** Returns what it changed, for events. */
  run(): Promise<string>;
}

export interface BatchResult {
  readonly changes: string[];
  readonly failures: ItemFailure[];
}

export class Tasks {
  readonly #running = new Map<string, Promise<void>>();
  readonly #late = new Map<string, ItemFailure>();
  readonly #toFailure: (item: string, error: unknown) => ItemFailure;
  readonly #onLateEnd: (item: string) => void;

  constructor(options: {
    toFailure: (item: string, error: unknown) => ItemFailure;
    onLateEnd: (item: string) => void;
  }) {
    this.#toFailure = options.toFailure;
    this.#onLateEnd = options.onLateEnd;
  }

  /** Somebody is working on this container now. */
  isBusy(container: string): boolean {
    return this.#running.has(container);
  }

  /** Containers being worked on now. A list of containers taken later may show them half done. */
  busy(): Set<string> {
    return new Set(this.#running.keys());
  }

  /** Starts the piece unless one is under way for its container. Never rejects. */
  start(piece: Piece, batch: Batch): Promise<void> {
    const running = this.#running.get(piece.container);
    if (running !== undefined) return running;
    const late = this.#late.get(piece.item);
    if (late !== undefined) {
      // Its failure was not reported yet. Doing so now gives the caller's backoff a chance to slow it down.
      this.#late.delete(piece.item);
      batch.failures.push(late);
      return Promise.resolve();
    }
    const work = piece
      .run()
      .then(
        (change) => this.#end(piece, batch, { change }),
        (error: unknown) =>
          this.#end(piece, batch, { failure: this.#toFailure(piece.item, error) }),
      )
      .finally(() => this.#running.delete(piece.container));
    this.#running.set(piece.container, work);
    // After the entry is gone, so that the reconcile it asks for sees the container free.
    void work.then(() => {
      if (batch.isOver) this.#onLateEnd(piece.item);
    });
    return work;
  }

  #end(piece: Piece, batch: Batch, result: { change?: string; failure?: ItemFailure }): void {
    if (result.failure !== undefined) {
      if (batch.isOver) this.#late.set(piece.item, result.failure);
      else batch.failures.push(result.failure);
    } else if (result.change !== undefined && !batch.isOver) batch.changes.push(result.change);
  }
}

/** What one reconcile gathers. `isOver` once it has returned. */
export interface Batch {
  readonly changes: string[];
  readonly failures: ItemFailure[];
  isOver: boolean;
}

export function newBatch(): Batch {
  return { changes: [], failures: [], isOver: false };
}
