/**
 * Dials one member's addresses one after another, the last good one first. One dial per member at a time: libp2p joins
 * concurrent dials of one peer into one connection, even when two were asked for.
 */
import type { Connection } from '@libp2p/interface';
import type { Multiaddr } from '@multiformats/multiaddr';
import type { NodeId } from '../../crdt/ids.ts';
import type { MutableCounters } from './counters.ts';
import { dialAddress } from './peer-ids.ts';
import type { NetworkLimits } from './peer-network.ts';
import { sever } from './sever.ts';

/** Of one member; the rest of a longer list is ignored. */
const addressesMax = 8;

export interface DialerOptions {
  readonly limits: NetworkLimits;
  readonly counters: MutableCounters;
  readonly addressesOf: (node: NodeId) => readonly string[];
  /** Always makes a new connection. */
  readonly connect: (address: Multiaddr, signal: AbortSignal) => Promise<Connection>;
}

export class Dialer {
  readonly #options: DialerOptions;
  readonly #lastGood = new Map<NodeId, string>();
  readonly #turns = new Map<NodeId, Promise<unknown>>();

  constructor(options: DialerOptions) {
    this.#options = options;
  }

  /**
   * `use` gets each connection that comes up; when it rejects, the connection is aborted and the next address is tried.
   * Rejects with the last error when none is left.
   */
  async dial<T>(
    node: NodeId,
    use: (connection: Connection, signal: AbortSignal) => Promise<T>,
    isStillWanted: () => boolean = () => true,
  ): Promise<T> {
    const before = this.#turns.get(node) ?? Promise.resolve();
    const turn = before.then(
      () => this.#dialInTurn(node, use, isStillWanted),
      () => this.#dialInTurn(node, use, isStillWanted),
    );
    this.#turns.set(node, turn);
    try {
      return await turn;
    } finally {
      if (this.#turns.get(node) === turn) this.#turns.delete(node);
    }
  }

  forget(node: NodeId): void {
    this.#lastGood.delete(node);
  }

  async #dialInTurn<T>(
    node: NodeId,
    use: (connection: Connection, signal: AbortSignal) => Promise<T>,
    isStillWanted: () => boolean,
  ): Promise<T> {
    let failure: unknown = new Error('it has no address that we know');
    for (const address of this.#addresses(node)) {
      if (!isStillWanted()) throw new Error('no longer needed');
      const target = dialAddress(node, address);
      if (target === null) continue;
      this.#options.counters.dials++;
      try {
        const result = await this.#try(target, use);
        this.#lastGood.set(node, address);
        return result;
      } catch (error) {
        this.#options.counters.dialsFailed++;
        failure = error;
      }
    }
    throw failure;
  }

  async #try<T>(
    target: Multiaddr,
    use: (connection: Connection, signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const signal = AbortSignal.timeout(this.#options.limits.dialTimeoutMs);
    const connection = await this.#options.connect(target, signal);
    try {
      return await use(connection, signal);
    } catch (error) {
      sever(connection, error);
      throw error;
    }
  }

  #addresses(node: NodeId): string[] {
    const good = this.#lastGood.get(node);
    const known = this.#options.addressesOf(node);
    const all = good !== undefined && known.includes(good) ? [good, ...known] : known;
    return [...new Set(all)].slice(0, addressesMax);
  }
}
