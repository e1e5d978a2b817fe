/**
 * Second connections, made on demand, for everything that may be large: blobs, logs, exec, calls. On the first one they
 * would hold up probes (a request beside an unpaced blob took 48 ms). When the member cannot be dialled (it is behind a
 * NAT and dialled us), its first connection serves.
 */
import type { Connection, Stream } from '@libp2p/interface';
import type { NodeId } from '../../crdt/ids.ts';
import { ClusterError, reasonOf } from '../errors.ts';
import type { Dialer } from './dialer.ts';
import { sever } from './sever.ts';

export interface BulkOptions {
  readonly dialer: Dialer;
  /** Of the control session; null: not connected. */
  readonly controlConnection: (node: NodeId) => Connection | null;
  /** For messages: how long ago it was last heard. */
  readonly lastSeen: (node: NodeId) => string;
  readonly streamsPerPeerMax: number;
  readonly openTimeoutMs: number;
}

export class Bulk {
  readonly #options: BulkOptions;
  readonly #connections = new Map<NodeId, Connection>();

  constructor(options: BulkOptions) {
    this.#options = options;
  }

  /** Rejects HOST_UNREACHABLE. `isSmall`: a few packets, which may go over the first connection. */
  async openStream(
    node: NodeId,
    protocol: string,
    options: { readonly signal?: AbortSignal | undefined; readonly isSmall?: boolean } = {},
  ): Promise<Stream> {
    const { signal, isSmall = false } = options;
    const limit = AbortSignal.timeout(this.#options.openTimeoutMs);
    const both = signal === undefined ? limit : AbortSignal.any([limit, signal]);
    try {
      const connection = await this.#connection(node, isSmall);
      both.throwIfAborted();
      return await connection.newStream(protocol, {
        signal: both,
        maxOutboundStreams: this.#options.streamsPerPeerMax,
      });
    } catch (error) {
      if (signal?.aborted === true) throw signal.reason;
      throw this.unreachable(node, error);
    }
  }

  unreachable(node: NodeId, error: unknown): ClusterError {
    if (error instanceof ClusterError) return error;
    const details = { host: node, state: reasonOf(error), ago: this.#options.lastSeen(node) };
    return new ClusterError('HOST_UNREACHABLE', details, error);
  }

  drop(node: NodeId, reason: string): void {
    const connection = this.#connections.get(node);
    if (connection !== undefined) sever(connection, reason);
    this.#connections.delete(node);
  }

  async #connection(node: NodeId, isSmall: boolean): Promise<Connection> {
    const control = this.#options.controlConnection(node);
    if (control === null) throw new Error('not connected');
    if (isSmall) return control;
    const open = this.#usable(node);
    if (open !== null) return open;
    try {
      return await this.#options.dialer.dial(node, (connection) => {
        const other = this.#usable(node);
        if (other === null) this.#connections.set(node, connection);
        return Promise.resolve(other ?? connection);
      });
    } catch {
      // It dialled us and cannot be dialled: share the connection that there is.
      return control;
    }
  }

  #usable(node: NodeId): Connection | null {
    const known = this.#connections.get(node);
    return known?.status === 'open' ? known : null;
  }
}
