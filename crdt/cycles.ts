/**
 * Circles in a graph of names: the strongly connected components with more than one member (Tarjan 1972), each sorted,
 * in sorted order. Iterative, because a chain of 10,000 services must not end on the call stack. Edges to names that are
 * no key are ignored. Self-edges are not looked at.
 */
import { compareText } from './codec.ts';

export function cyclesOf(edges: ReadonlyMap<string, readonly string[]>): string[][] {
  const search = new Search(edges);
  for (const name of edges.keys()) search.from(name);
  return search.cycles.toSorted((a, b) => compareText(a[0] ?? '', b[0] ?? ''));
}

interface Visit {
  readonly name: string;
  readonly targets: readonly string[];
  next: number;
}

class Search {
  readonly cycles: string[][] = [];
  readonly #edges: ReadonlyMap<string, readonly string[]>;
  readonly #index = new Map<string, number>();
  readonly #low = new Map<string, number>();
  readonly #open: string[] = [];
  readonly #isOpen = new Set<string>();

  constructor(edges: ReadonlyMap<string, readonly string[]>) {
    this.#edges = edges;
  }

  from(start: string): void {
    if (this.#index.has(start)) return;
    const visits: Visit[] = [this.#enter(start)];
    for (let visit = visits.at(-1); visit !== undefined; visit = visits.at(-1)) {
      const target = visit.targets[visit.next++];
      if (target === undefined) {
        visits.pop();
        this.#leave(visit.name);
        const parent = visits.at(-1);
        if (parent !== undefined) this.#lower(parent.name, this.#low.get(visit.name));
      } else if (!this.#index.has(target)) {
        if (this.#edges.has(target)) visits.push(this.#enter(target));
      } else if (this.#isOpen.has(target)) {
        this.#lower(visit.name, this.#index.get(target));
      }
    }
  }

  #enter(name: string): Visit {
    const index = this.#index.size;
    this.#index.set(name, index);
    this.#low.set(name, index);
    this.#open.push(name);
    this.#isOpen.add(name);
    return { name, targets: this.#edges.get(name) ?? [], next: 0 };
  }

  #lower(name: string, to = Number.MAX_SAFE_INTEGER): void {
    if (to < (this.#low.get(name) ?? 0)) this.#low.set(name, to);
  }

  #leave(name: string): void {
    if (this.#low.get(name) !== this.#index.get(name)) return;
    const members = this.#open.splice(this.#open.lastIndexOf(name));
    for (const member of members) this.#isOpen.delete(member);
    if (members.length > 1) this.cycles.push(members.toSorted(compareText));
  }
}
