/**
 * Who may connect. libp2p's hooks are per connection, so this is the one door: a key that is not in the roster is
 * refused as soon as noise has proven it, and before that proof only a bounded number of connections may wait, for a
 * bounded time. Addresses that members are known at get generous limits (many members may share one address: a NAT, or
 * one machine), all others few. libp2p's own limits are set out of reach, because what they refuse is not counted.
 */
import type { ConnectionGater, MultiaddrConnection } from '@libp2p/interface';
import type { NodeId } from '../../crdt/ids.ts';
import { hostOf, nodeIdOf } from './peer-ids.ts';
import type { NetworkLimits } from './peer-network.ts';

/** Addresses whose rate is remembered; when full, unknown addresses are refused until the second is over. */
const addressesMax = 10_000;

export interface GateOptions {
  readonly limits: NetworkLimits;
  readonly isMember: (node: NodeId) => boolean;
  /** Open connections of one member. */
  readonly connectionsOf: (node: NodeId) => number;
  readonly count: (what: 'strangersRefused' | 'connectionsLimited' | 'handshakesFailed') => void;
}

export class Gate {
  readonly #options: GateOptions;
  /** Not yet proven, per address. */
  readonly #unproven = new Map<string, number>();
  readonly #pending = new Set<MultiaddrConnection>();
  /** Connections within the current second, per address. */
  readonly #recent = new Map<string, number>();
  #recentSince = 0;
  #knownHosts: ReadonlySet<string> = new Set();
  #isOpen = false;

  constructor(options: GateOptions) {
    this.#options = options;
  }

  /** Until then everybody is refused. */
  open(): void {
    this.#isOpen = true;
  }

  close(): void {
    this.#isOpen = false;
  }

  /** Addresses at which members are known to be. */
  setKnownHosts(hosts: ReadonlySet<string>): void {
    this.#knownHosts = hosts;
  }

  readonly gater: ConnectionGater = {
    denyDialMultiaddr: () => false,
    denyInboundConnection: (connection) => !this.#admit(connection),
    denyInboundEncryptedConnection: (peer, connection) => {
      this.#settle(connection);
      const node = nodeIdOf(peer);
      if (node === null || !this.#options.isMember(node)) {
        this.#options.count('strangersRefused');
        return true;
      }
      if (this.#options.connectionsOf(node) < this.#options.limits.connectionsPerMemberMax)
        return false;
      this.#options.count('connectionsLimited');
      return true;
    },
  };

  #admit(connection: MultiaddrConnection): boolean {
    if (!this.#isOpen) return false;
    const host = hostOf(connection.remoteAddr);
    if (this.#isOverLimit(host)) {
      this.#options.count('connectionsLimited');
      return false;
    }
    this.#pending.add(connection);
    this.#unproven.set(host, (this.#unproven.get(host) ?? 0) + 1);
    connection.addEventListener('close', () => {
      if (this.#settle(connection)) this.#options.count('handshakesFailed');
    });
    return true;
  }

  #isOverLimit(host: string): boolean {
    const { limits } = this.#options;
    const isKnown = this.#knownHosts.has(host);
    if (this.#pending.size >= limits.unprovenMax) return true;
    if (!isKnown && (this.#unproven.get(host) ?? 0) >= limits.unprovenPerAddressMax) return true;
    const second = Math.floor(performance.now() / 1_000);
    if (second !== this.#recentSince) {
      this.#recentSince = second;
      this.#recent.clear();
    }
    const recent = (this.#recent.get(host) ?? 0) + 1;
    if (recent === 1 && !isKnown && this.#recent.size >= addressesMax) return true;
    this.#recent.set(host, recent);
    return (
      recent > (isKnown ? limits.knownConnectionsPerSecondMax : limits.connectionsPerSecondMax)
    );
  }

  /** True the first time for a connection. */
  #settle(connection: MultiaddrConnection): boolean {
    if (!this.#pending.delete(connection)) return false;
    const host = hostOf(connection.remoteAddr);
    const left = (this.#unproven.get(host) ?? 1) - 1;
    if (left > 0) this.#unproven.set(host, left);
    else this.#unproven.delete(host);
    return true;
  }
}
