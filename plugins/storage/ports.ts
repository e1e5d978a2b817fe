/** What the storage plugin needs of the daemon: other hosts' facts, streams to them, and a pause of the workload. */
import type { HostId, ObjectId } from '../../crdt/ids.ts';
import type { StorageFact } from '../../crdt/model.ts';

/** Messages in both directions between two members, in order; encrypted and proven by whoever provides it. */
export interface StorageStream {
  /** Resolves when there is room for more. Rejects when the other side is gone. */
  send(message: Uint8Array): Promise<void>;
  readonly messages: AsyncIterable<Uint8Array>;
  /** No more messages from us; what was sent arrives. */
  close(): Promise<void>;
  abort(reason: string): void;
  readonly ended: AbortSignal;
}

export interface StoragePorts {
  /** Directories of this installation that no storage may be in, or hold. */
  readonly reserved: readonly string[];
  /** Rejects when the host cannot be reached. */
  open(host: HostId, signal: AbortSignal): Promise<StorageStream>;
  /** One handler; `from` is proven. */
  serve(handle: (from: HostId, stream: StorageStream) => Promise<void>): void;
  /** Topic 'storage' of every host of the environment. */
  facts(): readonly { readonly host: HostId; readonly ageMs: number; readonly fact: StorageFact }[];
  /**
   * Stops everything under the lease for at most `maxMs`, by freezing it; it goes on by itself then, whatever becomes of
   * this process. Resolves to the function that ends it sooner, which says whether it lasted until then; null when it
   * cannot be done.
   */
  pause(storage: ObjectId, maxMs: number): Promise<(() => Promise<boolean>) | null>;
}
