/** The voters that are wanted, and the longest exclusion that leases need: told to the chain by one host at a time. */
import type { HostId } from '../../crdt/ids.ts';
import type { GuardDesired } from './guard-api.ts';
import type { Instant } from './model.ts';
import { profiles } from './profiles.ts';

export interface VoterWishPorts {
  /** Does this host hold the environment's planner, as far as there is one? */
  isPlanner(env: string): boolean;
  /** Of the voters in force; null: none are known. */
  ttlMsMax(): number | null;
  /** Null: leave them as they are. */
  want(voters: readonly HostId[] | null, now: Instant): void;
  wantTtlMsMax(ttlMsMax: number | null, now: Instant): void;
}

export class VoterWish {
  readonly #ports: VoterWishPorts;
  #isDriver = false;
  /** What was told to the chain last. */
  #driven: GuardDesired | null = null;

  constructor(ports: VoterWishPorts) {
    this.#ports = ports;
  }

  /** The voters changed: they are told again. */
  again(): void {
    this.#driven = null;
  }

  /** Only the holder of the environment's planner changes voters, so that few do at once. */
  drive(desired: GuardDesired | null, now: Instant): void {
    const ports = this.#ports;
    if (!desired || ports.ttlMsMax() === null) return;
    const isDriver = ports.isPlanner(desired.env);
    if (isDriver === this.#isDriver && this.#driven === desired) return;
    this.#isDriver = isDriver;
    this.#driven = desired;
    ports.want(isDriver ? desired.votersWanted : null, now);
    const needMs = Math.max(...desired.leases.map((each) => profiles[each.profile].exclusionMs), 0);
    // Asked for only now: the chain may have come to new voters by what it was told.
    const isShort = (ports.ttlMsMax() ?? 0) < needMs;
    ports.wantTtlMsMax(isDriver && isShort ? needMs : null, now);
  }
}
