/** What the names plugin remembers over restarts. Losing it costs one needless replacement of the rules. */
import type { AppliedRules } from './iptables.ts';

export interface NamesState {
  readonly v: 1;
  /** On lo because of us. */
  readonly virtualAddress: string | null;
  readonly rules: AppliedRules | null;
  /** Number of every UDP port to its targets, as of the last flush. */
  readonly udp: Readonly<Record<string, readonly string[]>>;
}

export const emptyState: NamesState = { v: 1, virtualAddress: null, rules: null, udp: {} };

/** Null when it is damaged or of another version. */
export function parseState(text: string): NamesState | null {
  try {
    const state = JSON.parse(text) as Partial<NamesState> | null;
    return state?.v === 1 ? { ...emptyState, ...state } : null;
  } catch {
    return null; // Torn by a full disk; everything in it can be found out again.
  }
}
