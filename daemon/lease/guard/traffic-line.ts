/** The second line of this host: the kernel's traffic gate for all leases that have addresses, and a word when it fails. */
import type { Log } from '../../ports.ts';
import type { GuardDesired, GuardNotice } from '../guard-api.ts';
import type { Clocks } from './clocks.ts';
import type { LeaseTable } from './lease-table.ts';
import { TrafficGate } from './traffic.ts';
import type { Core } from './turn-loop.ts';

export class TrafficLine {
  readonly #clocks: Clocks;
  readonly #log: Log;
  #gate: TrafficGate | null = null;
  #saidFault: string | null = null;

  constructor(clocks: Clocks, log: Log) {
    this.#clocks = clocks;
    this.#log = log;
  }

  /** Null until a lease has addresses. */
  get gate(): TrafficGate | null {
    return this.#gate;
  }

  /** Why there is no second line; null: it holds, or is not needed. */
  get fault(): string | null {
    return this.#gate?.fault ?? null;
  }

  /** Needs the core: what is open when a guard continues must not be cut. */
  follow(table: LeaseTable, desired: GuardDesired, core: Core): void {
    const wanted = new Map(
      table
        .all()
        .filter(({ traffic }) => traffic.length > 0)
        .map(({ name, traffic }) => [name, traffic] as const),
    );
    if (wanted.size > 0 && this.#gate === null) {
      this.#gate = new TrafficGate({
        cluster8: desired.cluster8,
        host4: desired.self.slice(0, 4),
        log: this.#log,
        nowMs: () => this.#clocks.now().authorityMs,
        untilMs: this.#openUntil(core),
      });
    }
    this.#gate?.setLeases(wanted);
  }

  /** A warning only: the cgroup gate is what fencing rests on. Null: nothing has changed. */
  news(): GuardNotice | null {
    const { fault } = this;
    if (fault === this.#saidFault) return null;
    this.#saidFault = fault;
    return {
      kind: 'event',
      event: 'lease.traffic-gate',
      severity: fault === null ? 'info' : 'warn',
      name: null,
      text: fault === null ? 'the packet filter holds it again' : `no second line: ${fault}`,
    };
  }

  close(): void {
    this.#gate?.close();
  }

  /** Ends of authority, on its clock, of what is open now. */
  #openUntil(core: Core): ReadonlyMap<string, number> {
    const now = this.#clocks.now();
    return new Map(
      core
        .status(now, 0)
        .leases.filter(({ gate }) => gate === 'open')
        .map(({ name, state, remainMs }) => [
          name,
          state === 'parked' ? Infinity : now.authorityMs + (remainMs ?? 0),
        ]),
    );
  }
}
