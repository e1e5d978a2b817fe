/** What this host has to know of each lease to carry effects out: from the daemon's wish, and from tools that acquire. */
import type { GuardDesired, LeaseDesired } from '../guard-api.ts';
import type { LeaseName } from '../model.ts';

export interface LeaseEntry {
  readonly name: LeaseName;
  readonly gate: string | null;
  readonly traffic: readonly string[];
  readonly fence: LeaseDesired['fence'];
  readonly fenceCommand: readonly string[];
  readonly onLoss: LeaseDesired['onLoss'];
  readonly profile: LeaseDesired['profile'];
}

/** Leases that are wanted no more are remembered until they were fenced; beyond this the oldest are forgotten. */
const formerMax = 256;

export class LeaseTable {
  #wanted = new Map<LeaseName, LeaseEntry>();
  /** Taken by tools, by name. */
  readonly #acquired = new Map<LeaseName, LeaseEntry>();
  readonly #former = new Map<LeaseName, LeaseEntry>();

  setDesired(desired: GuardDesired): void {
    const before = this.#wanted;
    this.#wanted = new Map(desired.leases.map((lease) => [lease.name, entryOf(lease)]));
    for (const [name, entry] of before) if (!this.#wanted.has(name)) this.#retire(entry);
  }

  addAcquired(lease: LeaseDesired): void {
    this.#acquired.set(lease.name, entryOf(lease));
  }

  dropAcquired(name: LeaseName): void {
    const entry = this.#acquired.get(name);
    if (entry === undefined) return;
    this.#acquired.delete(name);
    this.#retire(entry);
  }

  get(name: LeaseName): LeaseEntry | null {
    return this.#wanted.get(name) ?? this.#acquired.get(name) ?? this.#former.get(name) ?? null;
  }

  /** By the daemon's wish: such a lease is not to be had by command. */
  isWanted(name: LeaseName): boolean {
    return this.#wanted.has(name);
  }

  /** Wanted or taken now. */
  all(): LeaseEntry[] {
    return [...this.#wanted.values(), ...this.#acquired.values()];
  }

  /** Taken by a tool now, or until just now: no daemon knows what runs there. */
  isAcquired(name: LeaseName): boolean {
    return !this.#wanted.has(name) && this.get(name) !== null;
  }

  acquired(): readonly LeaseEntry[] {
    return [...this.#acquired.values()];
  }

  /** After a restart: nobody is connected any more for whom these were taken. */
  restoreAcquired(entries: readonly LeaseEntry[]): void {
    for (const entry of entries) this.#acquired.set(entry.name, entry);
  }

  #retire(entry: LeaseEntry): void {
    if (this.get(entry.name) !== null && !this.#former.has(entry.name)) return;
    this.#former.set(entry.name, entry);
    if (this.#former.size <= formerMax) return;
    const [oldest] = this.#former.keys();
    if (oldest !== undefined) this.#former.delete(oldest);
  }
}

/** A name that becomes a directory must not lead anywhere else. */
export function isGateName(text: unknown): text is string {
  return typeof text === 'string' && /^[a-z0-9][a-z0-9-]{0,79}$/.test(text);
}

function entryOf(lease: LeaseDesired): LeaseEntry {
  const { name, traffic, fence, fenceCommand, onLoss, profile } = lease;
  const gate = isGateName(lease.gate) ? lease.gate : null;
  return { name, gate, traffic, fence, fenceCommand, onLoss, profile };
}
