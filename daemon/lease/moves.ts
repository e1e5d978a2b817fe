/**
 * Handing a lease over unasked: for failing probes, or a daemon that stays away, where the lease says so. Only ever a handover,
 * only to who is ready, and only so often within an hour, whichever hosts made the moves. A lease that nothing runs under is of
 * no use to a guard without its daemon, however that went away.
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
    const { desired } = host;
    if (!desired || host.isFrozen || host.handovers.isGiving || !host.isHolding) return false;
    if (desired.candidates.length < 2) return false;
    return this.#failingProbes(desired).length > 0 || this.#goneMs(desired) < foreverMs;
  }

  /** Nothing that runs is hurt by them where nothing runs. */
  #failingProbes(desired: LeaseDesired): readonly string[] {
    return desired.gate === null ? [] : (this.#shared.desired?.failingProbes ?? []);
  }

  /** Since when it should be elsewhere for want of a daemon; Infinity: it need not. */
  #goneMs(desired: LeaseDesired): number {
    if (desired.onDaemonDown !== 'move') return Infinity;
    const { daemonAwayMs, daemonGoneMs } = this.#shared;
    return desired.gate === null ? daemonAwayMs : daemonGoneMs;
  }

  #move(turn: Turn): void {
    const desired = this.#host.desired!;
    const probes = this.#failingProbes(desired);
    const goneDueMs = this.#goneMs(desired) + moveLimits.daemonGoneMs;
    if (probes.length === 0 && turn.authorityMs < goneDueMs) {
      this.#dueMs = goneDueMs;
      return;
    }
    this.#dueMs = turn.authorityMs + moveLimits.everyMs;
    this.#moves = this.#moves.filter((atMs) => turn.authorityMs - atMs < hourMs);
    // Where nothing runs a move interrupts nothing.
    if (desired.gate !== null && this.#moves.length >= moveLimits.perHourMax) {
      const text = `it moved ${this.#moves.length} times within an hour and stays`;
      turn.event('lease.flapping', 'alarm', this.#host.name, text);
      this.#dueMs = this.#moves[0]! + hourMs;
      return;
    }
    const why = probes.length > 0 ? `failing: ${probes.join(', ')}` : 'the daemon is gone';
    this.#host.handovers.give(this.#host.newId(), null, why, null, turn);
  }
}
