/**
 * Handing a lease over unasked: for failing probes, or a daemon that stays away, where the lease says so. Only ever a handover,
 * only to who is ready, and only so often within an hour, whichever hosts made the moves.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { LeaseDesired } from './guard-api.ts';
import { foreverMs } from './gate.ts';
import type { Handovers } from './handover.ts';
import type { Epoch, LeaseName } from './model.ts';
import type { Shared } from './shared.ts';
import type { Turn } from './turn.ts';

export const moveLimits = Object.freeze({
  /** Tried so often. */
  everyMs: 10_000,
  perHourMax: 3,
  daemonGoneMs: 30_000,
});

const hourMs = 3_600_000;

/** What it needs of the lease. */
export interface MovingHost {
  readonly name: LeaseName;
  readonly desired: LeaseDesired | null;
  readonly isFrozen: boolean;
  readonly isHolding: boolean;
  readonly handovers: Handovers;
  newId(): string;
}

export class Moves {
  readonly #host: MovingHost;
  readonly #shared: Shared;
  #dueMs = 0;
  /** Of the last hour, from whatever host and for whatever reason: all candidates see the same. */
  #moves: number[] = [];
  #tenure: { readonly epoch: Epoch; readonly host: HostId } | null = null;

  constructor(host: MovingHost, shared: Shared) {
    this.#host = host;
    this.#shared = shared;
  }

  nextMs(): number {
    return this.#isWanted() ? this.#dueMs : Infinity;
  }

  settle(turn: Turn): void {
    if (this.#isWanted() && turn.authorityMs >= this.#dueMs) this.#move(turn);
  }

  /** This host holds it from now on. */
  onAcquired(epoch: Epoch, turn: Turn): void {
    this.noteTenure(turn.self, epoch, turn);
    this.#dueMs = turn.authorityMs + moveLimits.everyMs;
  }

  noteTenure(host: HostId, epoch: Epoch, turn: Turn): void {
    const before = this.#tenure;
    if (before && epoch <= before.epoch) return;
    this.#tenure = { host, epoch };
    if (!before || before.host === host) return;
    this.#moves.push(turn.authorityMs);
    if (this.#moves.length > moveLimits.perHourMax) this.#moves.shift();
  }

  #isWanted(): boolean {
    const host = this.#host;
    const shared = this.#shared;
    const { desired } = host;
    if (!desired || host.isFrozen || host.handovers.isGiving || !host.isHolding) return false;
    if (desired.gate === null || desired.candidates.length < 2) return false;
    if ((shared.desired?.failingProbes.length ?? 0) > 0) return true;
    return desired.onDaemonDown === 'move' && shared.daemonGoneMs < foreverMs;
  }

  #move(turn: Turn): void {
    const shared = this.#shared;
    const probes = shared.desired?.failingProbes ?? [];
    if (probes.length === 0 && turn.authorityMs < shared.daemonGoneMs + moveLimits.daemonGoneMs) {
      this.#dueMs = shared.daemonGoneMs + moveLimits.daemonGoneMs;
      return;
    }
    this.#dueMs = turn.authorityMs + moveLimits.everyMs;
    this.#moves = this.#moves.filter((atMs) => turn.authorityMs - atMs < hourMs);
    if (this.#moves.length >= moveLimits.perHourMax) {
      const text = `it moved ${this.#moves.length} times within an hour and stays`;
      turn.event('lease.flapping', 'alarm', this.#host.name, text);
      this.#dueMs = this.#moves[0]! + hourMs;
      return;
    }
    const why = probes.length > 0 ? `failing: ${probes.join(', ')}` : 'the daemon is gone';
    this.#host.handovers.give(this.#host.newId(), null, why, null, turn);
  }
}
