/**
 * One simulated machine: it outlives the processes that run on it. A `Life` is one process, from start to crash; every
 * port is bound to a life and goes silent when it ends, so that a crashed node cannot act as a ghost.
 */
import type { NodeId } from '../../crdt/ids.ts';
import type { Scheduler } from './scheduler.ts';

export interface Life {
  readonly number: number;
  isAlive: boolean;
}

interface Held {
  readonly kind: 'timer' | 'io';
  readonly life: Life;
  readonly fire: () => void;
}

export class SimHost {
  readonly index: number;
  readonly id: NodeId;
  life: Life | null = null;
  isPaused = false;
  /** Added to the wall clock; changed by jumps. */
  wallOffsetMs = 0;
  /** Local milliseconds per simulated one. */
  rate = 1;
  #lives = 0;
  #held: Held[] = [];
  readonly #scheduler: Scheduler;

  constructor(index: number, id: NodeId, scheduler: Scheduler) {
    this.index = index;
    this.id = id;
    this.#scheduler = scheduler;
  }

  get isUp(): boolean {
    return this.life !== null;
  }

  begin(): Life {
    this.life = { number: this.#lives++, isAlive: true };
    return this.life;
  }

  end(): void {
    if (this.life !== null) this.life.isAlive = false;
    this.life = null;
    this.isPaused = false;
    this.#held = [];
  }

  /** Runs `fire` now, when the pause ends, or never when that life is over. */
  deliver(kind: 'timer' | 'io', life: Life, fire: () => void): void {
    if (!life.isAlive) return;
    if (this.isPaused) this.#held.push({ kind, life, fire });
    else fire();
  }

  /** As the event loop does: first the timers that are due, then what waits in the sockets. */
  resume(): void {
    this.isPaused = false;
    const held = this.#held;
    this.#held = [];
    for (const kind of ['timer', 'io'] as const) {
      for (const one of held) {
        if (one.kind === kind)
          this.#scheduler.after(0, () => this.deliver(kind, one.life, one.fire));
      }
    }
  }
}
