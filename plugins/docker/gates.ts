/**
 * Which gates are open: where exclusive containers may be started, and where the engine may be asked about them at all.
 *
 * Told by whoever guards the leases, or, where nobody tells, read from the desired view. What is not known is closed: a
 * call on a frozen container hangs in the engine, and everything that waits for that container hangs with it.
 */
import type { DesiredView } from '../api.ts';
import type { GateState } from './diff.ts';

export interface OpenGate {
  readonly epoch: number;
  /** False while the workload is being handed over: what runs is left alone and nothing is started. */
  readonly mayStart: boolean;
}

export class Gates {
  #open: ReadonlyMap<string, OpenGate> = new Map();
  #isTold = false;

  /** All that are open now, by lease. */
  set(open: ReadonlyMap<string, OpenGate>): void {
    this.#isTold = true;
    this.#open = open;
  }

  setView(view: DesiredView): void {
    if (this.#isTold) return;
    const open = new Map<string, OpenGate>();
    for (const { exclusive } of view.instances)
      if (exclusive !== undefined && exclusive.epoch !== null)
        open.set(exclusive.lease, { epoch: exclusive.epoch, mayStart: true });
    this.#open = open;
  }

  isOpen(lease: string): boolean {
    return this.#open.has(lease);
  }

  /** Null: closed. */
  epochOf(lease: string): number | null {
    return this.#open.get(lease)?.epoch ?? null;
  }

  stateOf(lease: string): GateState {
    const gate = this.#open.get(lease);
    return gate === undefined ? 'closed' : gate.mayStart ? 'open' : 'resting';
  }
}
