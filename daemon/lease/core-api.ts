/**
 * The contract between the guard's core and whatever runs it: the real process (`guard/`) and the simulator
 * (`test/sim/lease/`) alike. The core is synchronous: an event goes in, effects come out in the order in which they must
 * be carried out, and nothing happens between.
 *
 * Rules for who runs it:
 * - `now` is read once per event and never goes back.
 * - Deadlines are state that the core compares in every handler; `tick` is only a wake-up. It must come at least every
 *   `tickMs` while anything is held, and may come late: lateness costs availability, never safety.
 * - Effects of one event are carried out in order. Before the first `send`, `persist`, `gate` or `lease-file` of a turn the shell
 *   has stored `core.volatileState()` (tmpfs, no fsync): what others or the kernel act upon must be remembered after kill -9.
 *   `persist` is durable before its `then` effects are carried out.
 * - `send` is never to ourselves: what a host says to its own acceptor is handled inside the same turn.
 * - `nextDeadlineMs()` is on the monotonic clock, Infinity when there is none: a `tick` then, or a little later.
 * - Gate effects answer with a `gate` event carrying the same token; a newer token makes older answers void.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { GuardCommand, GuardDesired, GuardReply, GuardNotice } from './guard-api.ts';
import type { ChosenConfig, Epoch, LeaseName, Owner } from './model.ts';
import type { Message } from './messages.ts';

/** Longest time between two looks at the deadlines while a gate is open. */
export const tickMs = 20;

export type CoreEvent =
  | { readonly kind: 'message'; readonly from: HostId; readonly message: Message }
  | { readonly kind: 'tick' }
  | { readonly kind: 'desired'; readonly desired: GuardDesired }
  | { readonly kind: 'command'; readonly id: number; readonly command: GuardCommand }
  | {
      readonly kind: 'gate';
      readonly name: LeaseName;
      readonly token: number;
      readonly result: GateResult;
    }
  | { readonly kind: 'persisted'; readonly token: number }
  /** Answer to the effect `fence` with how 'command': the victim is known to be off (or it failed: nothing starts here). */
  | {
      readonly kind: 'fenced';
      readonly name: LeaseName;
      readonly epoch: Epoch;
      readonly isFenced: boolean;
    }
  /**
   * `suspend`: the clocks jumped apart in a way that means that this host slept or was restored; every lease is dropped and
   * fenced, the acceptor is silent, the session is new. `wall`: only the wall clock stepped: freeze, renew once, thaw.
   */
  | { readonly kind: 'clock'; readonly what: 'suspend' | 'wall' }
  /** The daemon's connection to the guard came or went. */
  | { readonly kind: 'daemon'; readonly isConnected: boolean };

export type GateResult = 'frozen' | 'open' | 'empty' | 'populated' | 'failed';

export type CoreEffect =
  | { readonly kind: 'send'; readonly to: HostId; readonly message: Message }
  /** Append to the durable log, fsync, then report `persisted` with this token; then carry out `then`. */
  | {
      readonly kind: 'persist';
      readonly token: number;
      readonly records: readonly DurableRecord[];
      readonly then: readonly CoreEffect[];
    }
  /**
   * `freeze`: close the gate (answer `frozen`). `thaw`: open it (answer `open`). `clear`: kill everything inside and verify
   * that nothing is left, leaving it frozen (answer `empty`, or `populated` when it could not be done within 2 s).
   * `look`: answer `empty` or `populated`.
   */
  | {
      readonly kind: 'gate';
      readonly name: LeaseName;
      readonly token: number;
      readonly act: 'freeze' | 'thaw' | 'clear' | 'look';
    }
  /** The lease directory: `epoch` and `lease.json`; null removes authority (epoch stays, deadline 0). */
  | {
      readonly kind: 'lease-file';
      readonly name: LeaseName;
      readonly epoch: Epoch;
      readonly authorityUntilMs: number | null;
    }
  /** Kernel traffic gate: let traffic pass until then (on the authority clock); null: cut now. */
  | { readonly kind: 'traffic'; readonly name: LeaseName; readonly untilMs: number | null }
  | {
      readonly kind: 'fence';
      readonly name: LeaseName;
      readonly how: 'panic' | 'command';
      readonly victim: HostId | null;
      /** Names the answer of 'command'; 'panic' has none. */
      readonly epoch: Epoch;
    }
  | { readonly kind: 'reply'; readonly id: number; readonly reply: GuardReply }
  | { readonly kind: 'notice'; readonly notice: GuardNotice };

/** What survives a reboot. Applied in order; the last of a kind and key wins. */
export type DurableRecord =
  | {
      readonly kind: 'epoch';
      readonly name: LeaseName;
      readonly epoch: Epoch;
      readonly owner: Owner;
      /** As in `Accept`; absent: none. */
      readonly unfenced?: readonly HostId[];
    }
  | {
      readonly kind: 'parked';
      readonly name: LeaseName;
      readonly owner: Owner | null;
      readonly epoch: Epoch;
    }
  | { readonly kind: 'chosen'; readonly chosen: ChosenConfig }
  | { readonly kind: 'chain'; readonly state: unknown }
  | { readonly kind: 'intent'; readonly n: number; readonly isOn: boolean }
  | { readonly kind: 'floor-rest'; readonly epoch: Epoch }
  /** The log has lost something that this voter had promised to keep: it votes no more until it was let in anew. */
  | { readonly kind: 'forgotten'; readonly isOn: boolean; readonly beyond: LinkMark | null };

/** The newest link that a host has acted upon, and the longest exclusion that it has granted under any. */
export interface LinkMark {
  readonly env: string;
  readonly generation: number;
  readonly n: number;
  readonly ttlMsMax: number;
}

/** What a start finds. */
export interface CoreStart {
  readonly self: HostId;
  readonly env: string;
  readonly durable: readonly DurableRecord[];
  /** Of this boot and intact, as `volatileState()` gave it; null: silence and a new session. */
  readonly volatile: unknown;
  /** Milliseconds of the monotonic clock at the boot of the kernel, when durable state is from an earlier boot: silence counts from there. */
  readonly bootMonoMs: number;
  /** True when `volatile` is null because the kernel has booted since, false when it was lost or damaged. */
  readonly isFreshBoot: boolean;
  /** Leases that are tried at once at most; absent: `admissionLimits.windowMax`. Worlds of few leases need a small one to see any wait. */
  readonly attemptsMax?: number;
}
