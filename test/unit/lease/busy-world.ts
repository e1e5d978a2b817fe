/**
 * Guards whose time costs something: each takes its messages one after the other, and what it says leaves when it is through
 * with what came together. So a rush makes everybody late, as it does in the real process.
 */
import type { Message } from '../../../daemon/lease/messages.ts';
import type { HostId } from '../../../crdt/ids.ts';
import { BenchWorld } from './bench-world.ts';
import type { Bench } from './bench-world.ts';

/** Of one guard, for one message read or written; five guards that share two cores, with the kernel's part. */
const messageMs = 0.1;
const turnMs = 0.3;
const syncMs = 3;
const latencyMs = 0.2;
/** As the real loop has it. */
const eventsPerTurnMax = 1_024;

interface Coming {
  readonly atMs: number;
  readonly act: () => void;
}

interface Desk {
  readonly bench: Bench;
  readonly inbox: Coming[];
  freeMs: number;
}

export class BusyWorld extends BenchWorld {
  readonly counts = new Map<string, number>();
  readonly #desks = new Map<HostId, Desk>();
  #current: Desk | null = null;
  #leaving: { readonly to: HostId; readonly act: () => void; readonly delayMs: number }[] = [];

  count(kind: Message['kind']): number {
    return this.counts.get(kind) ?? 0;
  }

  /** Tells every guard what is wanted, at one instant. */
  override begin(): this {
    for (const bench of this.hosts) {
      const desk = this.#desks.get(bench.self) ?? { bench, inbox: [], freeMs: this.nowMs };
      this.#desks.set(bench.self, desk);
      this.#on(desk, () => bench.desire({}));
    }
    return this;
  }

  kill(bench: Bench): void {
    bench.isAlive = false;
    this.#desks.delete(bench.self);
  }

  override send(from: HostId, to: HostId, message: Message): void {
    this.counts.set(message.kind, (this.counts.get(message.kind) ?? 0) + 1);
    const act = (): void => this.deliver({ from, to, message });
    this.#leaving.push({ to, act, delayMs: latencyMs });
  }

  /** Of the guard at work: its disk and its gates. */
  override later(act: () => void): void {
    if (this.#current === null) super.later(act);
    else this.#leaving.push({ to: this.#current.bench.self, act, delayMs: syncMs });
  }

  override run(forMs: number): void {
    const endMs = this.nowMs + forMs;
    for (;;) {
      let next: Desk | null = null;
      let atMs = endMs;
      for (const desk of this.#desks.values()) {
        const dueMs = Math.min(
          desk.inbox[0]?.atMs ?? Infinity,
          desk.bench.core.nextDeadlineMs() - desk.bench.skewMs,
        );
        const startMs = Math.max(desk.freeMs, dueMs);
        if (startMs >= atMs) continue;
        next = desk;
        atMs = startMs;
      }
      this.nowMs = atMs;
      if (next === null) return;
      this.#turn(next);
    }
  }

  #turn(desk: Desk): void {
    const startMs = this.nowMs;
    const { inbox, bench } = desk;
    let come = 0;
    while (come < eventsPerTurnMax && (inbox[come]?.atMs ?? Infinity) <= startMs) come++;
    const batch = inbox.splice(0, come);
    this.#on(desk, () => {
      if (batch.length === 0) bench.event({ kind: 'tick' });
      for (const { act } of batch) {
        act();
        this.nowMs += messageMs;
      }
    });
    this.nowMs = startMs;
  }

  #on(desk: Desk, act: () => void): void {
    this.#current = desk;
    this.#leaving = [];
    act();
    this.#current = null;
    desk.freeMs = Math.max(desk.freeMs, this.nowMs) + turnMs + this.#leaving.length * messageMs;
    for (const { to, act: arrive, delayMs } of this.#leaving)
      insert(this.#desks.get(to)?.inbox ?? [], { atMs: desk.freeMs + delayMs, act: arrive });
  }
}

function insert(inbox: Coming[], coming: Coming): void {
  let index = inbox.length;
  while (index > 0 && inbox[index - 1]!.atMs > coming.atMs) index--;
  inbox.splice(index, 0, coming);
}
