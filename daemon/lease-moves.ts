/**
 * When the holder of a lease should give it to another host although nothing is wrong with it: because operators want it
 * away from here (a drain, a changed role), because nothing is to run under it any more, or because a better candidate has
 * been there for long enough. Pure. What is decided is asked of the guard, which may refuse.
 */
import type { HostId } from '../crdt/ids.ts';
import type { LeaseOutlook } from './lease-desired.ts';
import type { LeaseName } from './lease/model.ts';

export interface MoveInput {
  readonly nowMs: number;
  readonly self: HostId;
  readonly outlooks: readonly LeaseOutlook[];
  /** Active here, with a gate that is open. */
  readonly active: ReadonlySet<LeaseName>;
  /** Hosts that would take a lease if asked, by what they say. */
  isFit(host: HostId, lease: LeaseName): boolean;
  /** Nothing moves by itself. */
  readonly isFrozen: boolean;
}

export type Move =
  | {
      readonly kind: 'switch';
      readonly lease: LeaseName;
      readonly to: HostId;
      readonly reason: string;
    }
  | { readonly kind: 'release'; readonly lease: LeaseName; readonly reason: string };

/** Asked again after this when it came to nothing. */
export const moveRetryMs = 10_000;
/** Moves to better candidates, per lease. */
export const movesPerHourMax = 3;
const hourMs = 3_600_000;

export class LeaseMoves {
  /** Since when another host has been the better one. */
  readonly #better = new Map<LeaseName, { to: HostId; sinceMs: number }>();
  readonly #askedMs = new Map<LeaseName, number>();
  readonly #moves = new Map<LeaseName, number[]>();

  /** What is to be asked of the guard now. */
  decide(input: MoveInput): readonly Move[] {
    const moves = input.outlooks.flatMap((outlook) => {
      const { lease } = outlook.subject;
      if (!input.active.has(lease)) {
        this.#better.delete(lease);
        return [];
      }
      const move = this.#moveOf(outlook, input);
      if (move === null || input.nowMs < (this.#askedMs.get(lease) ?? -Infinity) + moveRetryMs)
        return [];
      this.#askedMs.set(lease, input.nowMs);
      return [move];
    });
    return moves;
  }

  #moveOf(outlook: LeaseOutlook, input: MoveInput): Move | null {
    const { subject, candidates } = outlook;
    const { lease, services, storage } = subject;
    if (storage === null && services.length > 0 && services.every(({ isEnabled }) => !isEnabled))
      return { kind: 'release', lease, reason: 'it was stopped' };
    if (input.isFrozen || subject.settings.isFrozen) return null;
    const others = candidates.hosts.filter((host) => host !== input.self);
    const to = others.find((host) => input.isFit(host, lease));
    if (to === undefined) return null;
    if (candidates.leaving?.host === input.self)
      return { kind: 'switch', lease, to, reason: `its holder ${candidates.leaving.reason}` };
    return this.#preemption(outlook, to, input);
  }

  #preemption({ subject, candidates }: LeaseOutlook, to: HostId, input: MoveInput): Move | null {
    const { lease, settings } = subject;
    const { nowMs, self } = input;
    const isBetter = candidates.hosts.indexOf(to) < candidates.hosts.indexOf(self);
    if (settings.preemptAfterMs === null || !isBetter) {
      this.#better.delete(lease);
      return null;
    }
    const known = this.#better.get(lease);
    const better = known?.to === to ? known : { to, sinceMs: nowMs };
    this.#better.set(lease, better);
    if (nowMs - better.sinceMs < settings.preemptAfterMs) return null;
    const recent = (this.#moves.get(lease) ?? []).filter((atMs) => nowMs - atMs < hourMs);
    if (recent.length >= movesPerHourMax) return null;
    this.#moves.set(lease, [...recent, nowMs]);
    return { kind: 'switch', lease, to, reason: 'a better candidate is there' };
  }
}
