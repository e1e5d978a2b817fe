/**
 * From one guard process to the next: what is kept on tmpfs, when it may be believed, and what becomes of the gates that are
 * found. A guard of the same boot that left its state is continued under the same session; otherwise nobody knows under which
 * epoch anything runs, and every gate of this host is closed and emptied.
 */
import type { HostId } from '../../../crdt/ids.ts';
import { reasonOf } from '../../errors.ts';
import type { Log } from '../../ports.ts';
import type { GuardDesired } from '../guard-api.ts';
import { profiles } from '../profiles.ts';
import { jumpMs, type Clocks } from './clocks.ts';
import type { Effects } from './effects.ts';
import type { Gates } from './gates.ts';
import type { LeaseEntry, LeaseTable } from './lease-table.ts';
import type { Core } from './turn-loop.ts';
import type { VolatileStore } from './volatile-store.ts';

/** On tmpfs. */
export interface Kept {
  readonly v: 1;
  readonly bootId: string;
  readonly self: HostId;
  readonly env: string;
  /** BOOTTIME minus MONOTONIC: if it has grown, the host slept while no guard ran. */
  readonly bootAheadMs: number;
  /** Taken by tools. */
  readonly acquired: readonly LeaseEntry[];
  readonly core: unknown;
}

export interface ContinuityParts {
  readonly store: VolatileStore;
  readonly bootId: string;
  readonly clocks: Clocks;
  readonly log: Log;
  readonly table: LeaseTable;
  /** Null: this host cannot freeze, and nothing was ever opened. */
  readonly gates: Gates | null;
}

export class Continuity {
  readonly #parts: ContinuityParts;

  constructor(parts: ContinuityParts) {
    this.#parts = parts;
  }

  /** Null: silence and a new session. */
  read(desired: GuardDesired): Kept | null {
    const { bootId, clocks, store, log } = this.#parts;
    try {
      const kept = store.read() as Kept | null;
      if (kept === null || kept.v !== 1 || kept.bootId !== bootId) return null;
      if (kept.self !== desired.self || kept.env !== desired.env) return null;
      const slept = Math.abs(clocks.bootAheadMs - kept.bootAheadMs) > jumpMs;
      return slept ? null : kept;
    } catch (error) {
      log.error('guard.state-damaged', { error: reasonOf(error) });
      return null;
    }
  }

  /** Throws when the file system is full. */
  keep(core: Core, desired: GuardDesired): void {
    const { bootId, clocks, store, table } = this.#parts;
    const kept: Kept = {
      v: 1,
      bootId,
      self: desired.self,
      env: desired.env,
      bootAheadMs: clocks.bootAheadMs,
      acquired: table.acquired(),
      core: core.volatileState(),
    };
    store.write(kept);
  }

  /** Closed and emptied. Work that may go on without a lease (`keep`) stays. */
  async closeLeftovers(desired: GuardDesired): Promise<void> {
    const { gates, log } = this.#parts;
    if (gates === null) return;
    const spared = new Set(
      desired.leases.flatMap(({ gate, onLoss }) => (onLoss === 'keep' ? [gate] : [])),
    );
    const found = this.ourGates(desired).filter((gate) => !spared.has(gate));
    const results = await Promise.all(
      found.map(async (gate) => ({ gate, result: await gates.clear(gate) })),
    );
    for (const { gate, result } of results) {
      if (result !== 'empty') log.error('guard.leftover-not-cleared', { gate, result });
    }
  }

  /**
   * What the core believes to be open is open, everything else is not; its first tick closes what is past its time. From
   * here on `effects` counts these as open.
   */
  async resumeGates(core: Core, desired: GuardDesired, effects: Effects): Promise<void> {
    const { gates, clocks, table } = this.#parts;
    if (gates === null) return;
    /** With the time by which it has to be closed again. */
    const open = new Map<string, number>();
    const resumed: { name: string; untilMs: number }[] = [];
    for (const lease of core.status(clocks.now(), Date.now()).leases) {
      const gate = table.get(lease.name)?.gate ?? null;
      if (gate === null || lease.gate !== 'open') continue;
      const isParked = lease.state === 'parked';
      const untilMs = clocks.now().authorityMs + (lease.remainMs ?? 0);
      resumed.push({ name: lease.name, untilMs: isParked ? Infinity : untilMs });
      const { freezeBeforeMs, killBeforeMs } = profiles[lease.profile];
      if (!isParked && (lease.remainMs ?? 0) <= freezeBeforeMs) continue;
      open.set(gate, isParked ? Infinity : untilMs - killBeforeMs);
    }
    effects.resumeOpen(resumed);
    for (const [gate, closeMs] of open) {
      await gates.thaw(gate);
      // This process may have stood still just before.
      if (clocks.now().authorityMs >= closeMs) await gates.freeze(gate);
    }
    const closed = this.ourGates(desired).filter((gate) => !open.has(gate));
    await Promise.all(closed.map((gate) => gates.freeze(gate)));
  }

  /** Gates of leases that this host has no part in any more go once they are empty. Returns their names. */
  removeFormer(desired: GuardDesired, open: ReadonlySet<string>): string[] {
    const { gates, table } = this.#parts;
    if (gates === null) return [];
    const wanted = new Set(table.all().map(({ gate }) => gate));
    const inUse = new Set([...open].map((name) => table.get(name)?.gate));
    const former = this.ourGates(desired).filter(
      (gate) =>
        !wanted.has(gate) &&
        !inUse.has(gate) &&
        !gate.includes('-test') &&
        gates.look(gate) === 'empty',
    );
    for (const gate of former) gates.remove(gate);
    return former;
  }

  /** Several hosts of a test machine share one tree of cgroups: the host is part of the name. */
  ourGates(desired: GuardDesired): string[] {
    const prefix = `trellis-x-${desired.cluster8}-`;
    const suffix = `-${desired.self.slice(0, 6)}`;
    return (
      this.#parts.gates?.list((gate) => gate.startsWith(prefix) && gate.endsWith(suffix)) ?? []
    );
  }
}
