/** What the environment wants, as the daemon told it last: its leases and hosts, and who may take what. */
import type { HostId } from '../../crdt/ids.ts';
import type { GuardDesired, LeaseDesired } from './guard-api.ts';
import { leaseLimits } from './model.ts';
import type { LeaseName } from './model.ts';

/** Taken by command: any host of the environment may. */
const dynamicPrefixes = ['lock/', 'job/', 'invite/', 'rollout/'] as const;

export class Wishes {
  readonly #self: HostId;
  readonly #listed = new Map<LeaseName, LeaseDesired>();
  readonly #peers = new Set<HostId>();

  constructor(self: HostId) {
    this.#self = self;
  }

  /** The whole wish, in place of the one before. */
  take(desired: GuardDesired): void {
    this.#peers.clear();
    for (const peer of desired.peers) this.#peers.add(peer.host);
    this.#peers.add(this.#self);
    this.#listed.clear();
    for (const lease of desired.leases.slice(0, leaseLimits.leasesMax))
      this.#listed.set(lease.name, lease);
  }

  get listed(): ReadonlyMap<LeaseName, LeaseDesired> {
    return this.#listed;
  }

  /** This host included. */
  get peers(): ReadonlySet<HostId> {
    return this.#peers;
  }

  isListed(name: LeaseName): boolean {
    return this.#listed.has(name);
  }

  lockDelayMs(name: LeaseName): number {
    return this.#listed.get(name)?.lockDelayMs ?? 0;
  }

  /** False for leases that are not known. Force lets more hosts in. */
  isEligible(name: LeaseName, host: HostId, isForced: boolean): boolean {
    const lease = this.#listed.get(name);
    if (lease)
      return (
        lease.candidates.includes(host) || (isForced && lease.forceable?.includes(host) === true)
      );
    return this.#peers.has(host) && dynamicPrefixes.some((prefix) => name.startsWith(prefix));
  }
}
