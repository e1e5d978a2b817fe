/** Virtual time: a binary heap ordered by (`atMs`, sequence). What is due at one moment runs in the order it was asked for. */
export interface ScheduledEvent {
  readonly atMs: number;
  readonly sequence: number;
  fire: (() => void) | null;
}

export class Scheduler {
  #heap: ScheduledEvent[] = [];
  #sequence = 0;
  #nowMs = 0;

  get nowMs(): number {
    return this.#nowMs;
  }

  /** Events waiting, cancelled ones included. */
  get size(): number {
    return this.#heap.length;
  }

  /** Never in the past: an earlier `atMs` means now. */
  at(atMs: number, fire: () => void): ScheduledEvent {
    const event: ScheduledEvent = {
      atMs: atMs > this.#nowMs ? atMs : this.#nowMs,
      sequence: this.#sequence++,
      fire,
    };
    this.#push(event);
    return event;
  }

  after(delayMs: number, fire: () => void): ScheduledEvent {
    return this.at(this.#nowMs + delayMs, fire);
  }

  cancel(event: ScheduledEvent): void {
    event.fire = null;
  }

  /** Runs one event that is due at or before `untilMs`; false when there is none (time then stands at `untilMs`). */
  step(untilMs: number): boolean {
    for (;;) {
      const first = this.#heap[0];
      if (first === undefined || first.atMs > untilMs) {
        if (untilMs > this.#nowMs) this.#nowMs = untilMs;
        return false;
      }
      this.#pop();
      if (first.fire === null) continue;
      this.#nowMs = first.atMs;
      const fire = first.fire;
      first.fire = null;
      fire();
      return true;
    }
  }

  #push(event: ScheduledEvent): void {
    const heap = this.#heap;
    let index = heap.length;
    heap.push(event);
    while (index > 0) {
      const above = (index - 1) >> 1;
      const parent = heap[above] as ScheduledEvent;
      if (isBefore(parent, event)) break;
      heap[index] = parent;
      index = above;
    }
    heap[index] = event;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop() as ScheduledEvent;
    const count = heap.length;
    if (count === 0) return;
    let index = 0;
    for (;;) {
      let child = 2 * index + 1;
      if (child >= count) break;
      if (
        child + 1 < count &&
        isBefore(heap[child + 1] as ScheduledEvent, heap[child] as ScheduledEvent)
      )
        child++;
      const lower = heap[child] as ScheduledEvent;
      if (isBefore(last, lower)) break;
      heap[index] = lower;
      index = child;
    }
    heap[index] = last;
  }
}

function isBefore(a: ScheduledEvent, b: ScheduledEvent): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.sequence < b.sequence);
}
