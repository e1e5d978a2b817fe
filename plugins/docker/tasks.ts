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

/** Changes made after their reconcile had returned, kept for the next one's report. */
const lateChangesMax = 100;

export class Tasks {
  readonly #running = new Map<string, Promise<void>>();
  readonly #late = new Map<string, ItemFailure>();
  readonly #lateChanges: string[] = [];
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

  /** Resolves when nobody works on this container. */
  async whenFree(container: string): Promise<void> {
    for (;;) {
      const running = this.#running.get(container);
      if (running === undefined) return;
      await running;
    }
  }

  /** Containers being worked on now. A list of containers taken later may show them half done. */
  busy(): Set<string> {
    return new Set(this.#running.keys());
  }

  /** Closes a batch: what ended after the reconcile that began it is reported by the one that sees it. */
  close(batch: Batch): void {
    batch.changes.push(...this.#lateChanges.splice(0));
    batch.failures.push(...this.#late.values());
    this.#late.clear();
    batch.isOver = true;
  }

  /** Starts the piece unless one is under way for its container. Never rejects. */
  start(piece: Piece, batch: Batch): Promise<void> {
    const running = this.#running.get(piece.container);
    if (running !== undefined) return running;
    // Its failure is not reported yet. Reporting it first gives the caller's backoff a chance to slow it down.
    if (this.#late.has(piece.item)) return Promise.resolve();
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
    } else if (result.change !== undefined) {
      if (!batch.isOver) batch.changes.push(result.change);
      else if (this.#lateChanges.length < lateChangesMax) this.#lateChanges.push(result.change);
    }
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
