/**
 * What happened, for people: a short ring of own events, published as a fact so that every host can show everybody's.
 */
import { compareText } from '../crdt/codec.ts';
import type { NodeId } from '../crdt/ids.ts';
import type { EventEntry, FactEntry } from './node-api.ts';

export const eventsTopic = 'events';

export class Events {
  readonly #max: number;
  #own: EventEntry[] = [];
  #seq: number;

  /** `firstSeq` above every number of earlier runs, so that readers never take a new event for an old one. */
  constructor(max: number, firstSeq: number) {
    this.#max = max;
    this.#seq = firstSeq;
  }

  add(host: string, event: Omit<EventEntry, 'host' | 'seq' | 'atWallMs'>, wallMs: number): void {
    const entry: EventEntry = { host, seq: ++this.#seq, atWallMs: Math.round(wallMs), ...event };
    this.#own = [...this.#own, entry].slice(-this.#max);
  }

  /** The fact's value. */
  own(): readonly EventEntry[] {
    return this.#own;
  }

  /**
   * Own and everybody else's, oldest first by the writers' clocks. Whose they are is said by whoever signed the fact, not
   * by the event; `hostOf` is null for owners that are unknown here.
   */
  all(
    facts: readonly FactEntry[],
    self: NodeId,
    hostOf: (owner: NodeId) => string | null,
  ): readonly EventEntry[] {
    const others = facts.flatMap(({ owner, value }) => {
      const host = hostOf(owner);
      if (owner === self || host === null || !Array.isArray(value)) return [];
      return value
        .filter(isEvent)
        .slice(-this.#max)
        .map((event): EventEntry => ({ ...event, host }));
    });
    return [...others, ...this.#own].toSorted(
      (a, b) => a.atWallMs - b.atWallMs || compareText(a.host, b.host) || a.seq - b.seq,
    );
  }
}

function isEvent(value: unknown): value is EventEntry {
  const event = value as Partial<EventEntry> | null;
  return (
    typeof event?.kind === 'string' &&
    typeof event.text === 'string' &&
    ['info', 'warn', 'alarm'].includes(event.severity ?? '') &&
    Number.isSafeInteger(event.seq) &&
    Number.isSafeInteger(event.atWallMs)
  );
}
