/** May this host take a lease, under which profile, and if not, why not. */
import type { HostId } from '../../crdt/ids.ts';
import type { Gate } from './gate.ts';
import type { LeaseDesired } from './guard-api.ts';
import type { GivingKind } from './handover.ts';
import type { LeaseName } from './model.ts';
import { profiles } from './profiles.ts';
import type { Profile } from './profiles.ts';
import type { Shared } from './shared.ts';
import type { Turn } from './turn.ts';

/** After it was given away nobody here takes it for so long. */
const holdOffMs = Object.freeze({ handover: 5_000, release: 15_000, 'start-failed': 900_000 });

/** What it needs of the lease. */
export interface StandingHost {
  readonly name: LeaseName;
  readonly desired: LeaseDesired | null;
  readonly isByCommand: boolean;
  readonly gate: Gate;
  /** Nothing is left inside, and it is closed. */
  readonly isGateEmpty: boolean;
}

export class Standing {
  readonly #host: StandingHost;
  readonly #shared: Shared;
  /** The voters do not grant what the wanted profile needs. */
  #isTooLong = false;
  #untilMs = 0;
  #why = '';

  constructor(host: StandingHost, shared: Shared) {
    this.#host = host;
    this.#shared = shared;
  }

  /** '' when it may. */
  whyNot(): string {
    const { desired, gate } = this.#host;
    const shared = this.#shared;
    if (!desired) return 'it is not wanted here';
    if (shared.desired?.isWitness) return 'this host is a witness';
    if (!desired.candidates.includes(shared.self)) return 'this host is no candidate';
    if (!desired.mayAcquire) return desired.why === '' ? 'this host may not' : desired.why;
    if (this.isFrozen) return 'frozen';
    if (this.#isUseless(desired)) return 'its daemon does not run';
    if (this.#untilMs > 0) return this.#why;
    if (this.#isTooLong && gate.hasGate)
      return `its profile ${desired.profile} needs voters that grant ${profiles[desired.profile].exclusionMs} ms`;
    if (gate.state === 'failed') return 'its gate could not be emptied';
    return '';
  }

  /**
   * Nobody would make use of it here: without its daemon a guard can thaw what stands still inside the gate, and start nothing.
   * What nothing runs under is for the daemon alone.
   */
  #isUseless({ gate, onDaemonDown }: LeaseDesired): boolean {
    if (this.#shared.isDaemonHere || this.#host.isByCommand) return false;
    return gate === null ? onDaemonDown === 'move' : this.#host.isGateEmpty;
  }

  /** A frozen environment or host moves nothing by itself; what is taken by command somebody asked for. */
  get isFrozen(): boolean {
    const { desired, isByCommand } = this.#host;
    const isAllFrozen = this.#shared.desired?.isFrozen === true && !isByCommand;
    return isAllFrozen || desired?.isFrozen === true;
  }

  /** Other candidates, best first. */
  others(): readonly HostId[] {
    return this.#host.desired?.candidates.filter((host) => host !== this.#shared.self) ?? [];
  }

  /**
   * The wanted profile, when the voters grant so long an exclusion. Until they do, what is held (and what has no gate, so
   * that the planner can make them) goes on under the longest that fits; nothing else is taken under a shorter one.
   */
  profileOf(desired: LeaseDesired): Profile {
    const ttlMsMax = this.#shared.electorate?.ttlMsMax ?? Infinity;
    let profile = profiles[desired.profile];
    this.#isTooLong = profile.exclusionMs > ttlMsMax;
    if (this.#isTooLong) {
      profile = profiles.fast;
      for (const each of [profiles.wan, profiles.fenced])
        if (each.exclusionMs <= ttlMsMax) profile = each;
    }
    return profile;
  }

  // ---- Held off -----------------------------------------------------------------------------------------------------------

  /** It was given away. */
  onReleased(kind: GivingKind, why: string, turn: Turn): void {
    if (kind === 'handover') this.#holdOff(holdOffMs.handover, 'handed over', turn);
    // What was taken by command is asked for again only when somebody wants it.
    if (kind === 'release' && !this.#host.isByCommand)
      this.#holdOff(holdOffMs.release, 'released', turn);
    if (kind === 'start-failed')
      this.#holdOff(holdOffMs['start-failed'], `it did not start here: ${why}`, turn);
  }

  #holdOff(forMs: number, why: string, turn: Turn): void {
    this.#untilMs = turn.authorityMs + forMs;
    this.#why = why;
  }

  /** A new wish ends what held an attempt off. */
  onWish(before: LeaseDesired, desired: LeaseDesired): void {
    if (this.#why !== '' && isChanged(before, desired)) this.endHoldOff();
  }

  endHoldOff(): void {
    this.#shared.watchDue.push(this.#host.name);
    this.#untilMs = 0;
    this.#why = '';
  }

  nextMs(): number {
    return this.#untilMs > 0 ? this.#untilMs : Infinity;
  }
}

function isChanged(a: LeaseDesired, b: LeaseDesired): boolean {
  return (
    a.mayAcquire !== b.mayAcquire ||
    a.why !== b.why ||
    a.gate !== b.gate ||
    a.candidates.length !== b.candidates.length ||
    a.candidates.some((host, index) => host !== b.candidates[index])
  );
}
