/**
 * The chain of voters of one environment: which hosts' acceptors count, decided by the ones that counted before.
 *
 * Ordinary single-decree Paxos, durable, once per link: the voters of link n choose link n + 1. See `chain-voter.ts` for
 * what a voter may grant and `voter-config.ts` for what a link may change. `daemon/docs/leases.md` says why.
 *
 * For the hub:
 * - `start` first, and again after the host was suspended: every wait begins anew.
 * - A link takes effect when its `persist` was reported (`persisted`), not before: until then `current()` is the old one.
 * - Every method returns effects that must be carried out in order.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { Random } from '../ports.ts';
import type { CoreEffect, DurableRecord } from './core-api.ts';
import type {
  ChainAccept,
  ChainAccepted,
  ChainPrepare,
  ChainPromise,
  ConfigAsk,
  ConfigNews,
  ConfigRef,
} from './messages.ts';
import type { ChosenConfig, Epoch, Instant, LeaseFloor } from './model.ts';

export type ChainMessage =
  | ChainPrepare
  | ChainPromise
  | ChainAccept
  | ChainAccepted
  | ConfigNews
  | ConfigAsk;

/** A link took effect. */
export interface Adoption {
  readonly chosen: ChosenConfig;
  readonly previous: ChosenConfig | null;
  /**
   * The link came from a force in which this host had no part: whoever forced it took this host for dead. Every lease
   * held here must be fenced at once, and the acceptor must forget records and promises (epochs stay).
   */
  readonly mustDrop: boolean;
}

/** What the chain needs of the hub. */
export interface ChainPorts {
  /** Highest epochs this acceptor has accepted or was told to respect, with their owners. */
  floors(): { readonly floors: readonly LeaseFloor[]; readonly rest: Epoch };
  /** Raise where lower; never lowers. Called at start and before `adopted`. */
  raiseFloors(floors: readonly LeaseFloor[], rest: Epoch): void;
  /** A new token for a `persist`; the hub hands the `persisted` event with it to `Chain.persisted`. */
  token(): number;
  /** A silent acceptor does not vote. */
  isSilent(now: Instant): boolean;
  /** Called when a link has taken effect; what it returns is carried out after what the chain does. */
  adopted(adoption: Adoption, now: Instant): readonly CoreEffect[];
}

export interface ChainOptions {
  readonly self: HostId;
  readonly env: string;
  readonly durable: readonly DurableRecord[];
  readonly random: Random;
  /** Makes link 0 of itself at `start` when no link is known; `found` does it later. */
  readonly isFounder: boolean;
  readonly ports: ChainPorts;
}

/** `reason` completes "was not forced: ...". */
export type ForceAnswer =
  | { readonly isOk: true; readonly waitMs: number; readonly effects: readonly CoreEffect[] }
  | { readonly isOk: false; readonly reason: string };

export class Chain {
  /** Waits begin now. Called once after construction, and again after a suspend. */
  start(now: Instant): CoreEffect[] {
    throw new Error(`not there yet ${now.monoMs}`);
  }

  /** Link 0 of this host alone; nothing when any link is known. Only ever on the founder of the environment. */
  found(now: Instant): CoreEffect[] {
    throw new Error(`not there yet ${now.monoMs}`);
  }

  /** Null: this host knows no link yet and may neither grant nor ask. */
  current(): ChosenConfig | null {
    return null;
  }

  /** Of `current()`; n is -1 when there is none. */
  ref(): ConfigRef {
    return { env: '', generation: 0, n: -1 };
  }

  isVoter(): boolean {
    return false;
  }

  /** `Accepted.isFull`: this voter is about to leave a configuration of two. */
  isFull(): boolean {
    return false;
  }

  /** Longest exclusion that may still be out under this link or the one before: what a silence must cover. */
  exclusionMsMax(): number {
    return 0;
  }

  /**
   * A lease message came under `ref`. True when it is ours; otherwise the effects bring whoever is behind up to date, and the
   * message must be dropped.
   */
  meet(from: HostId, ref: ConfigRef, now: Instant): { isOurs: boolean; effects: CoreEffect[] } {
    throw new Error(`not there yet ${from} ${ref.n} ${now.monoMs}`);
  }

  handle(from: HostId, message: ChainMessage, now: Instant): CoreEffect[] {
    throw new Error(`not there yet ${from} ${message.kind} ${now.monoMs}`);
  }

  /** For every `persisted` event; tokens of others are ignored. */
  persisted(token: number, now: Instant): CoreEffect[] {
    throw new Error(`not there yet ${token} ${now.monoMs}`);
  }

  tick(now: Instant): CoreEffect[] {
    throw new Error(`not there yet ${now.monoMs}`);
  }

  /** Monotonic milliseconds (`Instant.monoMs`) at which `tick` has something to do; null: never. */
  nextDeadlineMs(): number | null {
    return null;
  }

  /** Drive towards these voters, one step at a time; null: leave them. The caller sees to it that few do this at once. */
  want(target: readonly HostId[] | null, now: Instant): CoreEffect[] {
    throw new Error(`not there yet ${target?.length} ${now.monoMs}`);
  }

  /** Drive towards this longest exclusion, as a step of its own before any change of voters; null: leave it. */
  wantTtlMsMax(ttlMsMax: number | null, now: Instant): CoreEffect[] {
    throw new Error(`not there yet ${ttlMsMax} ${now.monoMs}`);
  }

  /** What gossip or a message brought. Older, equal and impossible links change nothing. */
  adopt(chosen: ChosenConfig, now: Instant): CoreEffect[] {
    throw new Error(`not there yet ${chosen.config.n} ${now.monoMs}`);
  }

  /**
   * Survivors become the voters of a new generation, after 2 M. Every other voter must be named dead. Two confirmations
   * are the caller's business. A restart forgets it.
   */
  force(voters: readonly HostId[], assertDead: readonly HostId[], now: Instant): ForceAnswer {
    throw new Error(`not there yet ${voters.length} ${assertDead.length} ${now.monoMs}`);
  }

  constructor(options: ChainOptions) {
    void options;
  }
}
