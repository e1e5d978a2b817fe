/**
 * What the daemon gets from its peer-to-peer network: the Network port for the protocol core, and calls, streams and
 * blobs for the surfaces. `createNetwork` in `create-network.ts` makes it. Addresses are multiaddrs without a peer id,
 * such as '/ip4/10.0.0.2/tcp/7440'.
 */
import type { ClusterId, Hash, NodeId } from '../../crdt/ids.ts';
import type { Config } from '../config.ts';
import type { Log, Network, Random } from '../ports.ts';

export interface NetworkOptions {
  /** 32 secret bytes: the identity of this daemon on the wire. */
  readonly seed: Uint8Array;
  readonly clusterId: ClusterId;
  /** Multiaddrs; port 0 takes a free one. Default in production: ['/ip4/0.0.0.0/tcp/7440']. */
  readonly listen: readonly string[];
  /** Asked at every connection and every stream: everybody else is refused. Cheap, synchronous. */
  readonly isMember: (node: NodeId) => boolean;
  /** Where `node` may be reached, best first, from its own facts or the member record. */
  readonly addressesOf: (node: NodeId) => readonly string[];
  /** Every member that we want a connection to, dead ones included; self is skipped. */
  readonly roster: () => readonly NodeId[];
  readonly log: Log;
  readonly config: Config;
  /** Jitter of the redial loop. */
  readonly random: Random;
  /** Changed limits, for tests. */
  readonly limits?: Partial<NetworkLimits>;
}

export interface PeerNetwork extends Network {
  readonly self: NodeId;
  /** Listens and begins to dial the roster. Rejects with PORT_TAKEN when the port is in use. */
  start(): Promise<void>;
  /** Closes every connection. Timers of closing sockets keep the process alive for about 1 s: exit explicitly. */
  stop(): Promise<void>;
  /** The roster or an address changed: dial what is not connected now, close whom we no longer know. */
  rosterChanged(): void;
  /** Membership found `node` silent: drop its connections and dial again at once. */
  disconnect(node: NodeId, reason: string): void;
  /**
   * Addresses of this host changed: sessions that do not answer are given up and everybody is dialled. The network
   * watches the interfaces itself; calling it more often does no harm.
   */
  localAddressesChanged(): void;
  /** What we listen on, with real ports; a wildcard is spelt out per interface. */
  listening(): readonly string[];
  /** TCP port of the first listener; 0 before start. */
  port(): number;
  counters(): NetworkCounters;

  /** One request, one reply. Rejects HOST_UNREACHABLE (not connected, lost), TIMED_OUT, or the remote's ClusterError. */
  call(node: NodeId, request: Uint8Array, options?: CallOptions): Promise<Uint8Array>;
  /** One handler; a rejection travels back as its code and details. */
  onCall(
    handle: (from: NodeId, request: Uint8Array, signal: AbortSignal) => Promise<Uint8Array>,
  ): void;
  /** Messages in both directions. Rejects HOST_UNREACHABLE. */
  openStream(
    node: NodeId,
    options?: { readonly signal?: AbortSignal; readonly purpose?: StreamPurpose },
  ): Promise<MessageStream>;
  /** One handler per purpose. The stream is aborted when it rejects and closed when it returns. */
  onStream(
    handle: (from: NodeId, stream: MessageStream) => Promise<void>,
    purpose?: StreamPurpose,
  ): void;

  readonly blobs: BlobPeers;
}

/** `calls` (the default): logs and exec of other hosts. `copies`: of storage; paced like blobs. */
export type StreamPurpose = 'calls' | 'copies';

export interface CallOptions {
  readonly signal?: AbortSignal;
  /** Default 30,000. */
  readonly timeoutMs?: number;
}

export interface MessageStream {
  readonly peer: NodeId;
  /** Resolves when there is room for more: await it. Rejects HOST_UNREACHABLE when the stream is gone. At most `frameBytesMax`. */
  send(message: Uint8Array): Promise<void>;
  /** Ends when the other side closes; throws HOST_UNREACHABLE when it is lost. One reader. */
  readonly messages: AsyncIterable<Uint8Array>;
  /** No more messages from us; what was sent arrives. */
  close(): Promise<void>;
  abort(reason: string): void;
  /** Fires when the stream has ended in whatever way. */
  readonly ended: AbortSignal;
}

/** Blobs of other hosts, on connections of their own, so that votes and probes wait behind nothing. */
export interface BlobPeers {
  /** Sizes of those of `hashes` that `node` has. At most `blobHashesMax` hashes. Rejects HOST_UNREACHABLE. */
  have(
    node: NodeId,
    hashes: readonly Hash[],
    signal?: AbortSignal,
  ): Promise<ReadonlyMap<Hash, number>>;
  /** Bytes from `offset` to the end, in chunks. Throws HOST_UNREACHABLE, BLOB_UNAVAILABLE; unverified. */
  read(node: NodeId, hash: Hash, offset: number, signal?: AbortSignal): AsyncIterable<Uint8Array>;
  /** What this host serves. */
  serve(source: BlobSource): void;
  connected(): readonly NodeId[];
}

export interface BlobSource {
  /** Size in bytes, null when not here. */
  size(hash: Hash): number | null;
  /** From `offset` to the end. */
  read(hash: Hash, offset: number): AsyncIterable<Uint8Array>;
}

export interface NetworkCounters {
  readonly framesSent: number;
  readonly framesReceived: number;
  readonly bytesSent: number;
  readonly bytesReceived: number;
  /** Queue of a slow peer was full: the oldest frames went. */
  readonly framesDroppedFull: number;
  /** No connection to the addressee. */
  readonly framesDroppedUnconnected: number;
  readonly framesDroppedTooLarge: number;
  /** Connections of keys that are not in the roster. */
  readonly strangersRefused: number;
  /** Connections refused before any proof: too many at once or too fast from one address. */
  readonly connectionsLimited: number;
  /** Handshakes that failed or took too long: garbage, port scans. */
  readonly handshakesFailed: number;
  /** Members that spoke another cluster's protocol, another version, or malformed frames. */
  readonly protocolErrors: number;
  /** Over the limit of streams that one member may have served at a time. */
  readonly streamsRefused: number;
  readonly dials: number;
  readonly dialsFailed: number;
  readonly connections: number;
}

export interface NetworkLimits {
  /** Frames waiting for one peer; beyond it the oldest are dropped. */
  readonly queuedBytesPerPeerMax: number;
  /** Inbound connections that have not proven a key yet: all, and per address. */
  readonly unprovenMax: number;
  readonly unprovenPerAddressMax: number;
  readonly handshakeMsMax: number;
  /** New inbound connections per second and address: of strangers, and from where members are known to be. */
  readonly connectionsPerSecondMax: number;
  readonly knownConnectionsPerSecondMax: number;
  readonly connectionsPerMemberMax: number;
  readonly connectionsMax: number;
  /** One address, from the first packet to the greeting: about six round trips. */
  readonly dialTimeoutMs: number;
  readonly dialsParallelMax: number;
  readonly redialMsMin: number;
  readonly redialMsMax: number;
  /** A frame that the socket does not take for so long means the peer is gone. */
  readonly writeStallMs: number;
  /** What we sent must be answered within this (a third of it later the peer is asked to), or the session is given up. */
  readonly unansweredMs: number;
  /** A session on which nothing came for `quietMs` is asked, and given up at `silentMs`. Looked at every `sweepMs`. */
  readonly quietMs: number;
  readonly silentMs: number;
  readonly sweepMs: number;
  /** For the answer to a ping after our own address changed. */
  readonly verifyMs: number;
  /** Connections without a session and without a stream are closed after this. */
  readonly idleConnectionMs: number;
  /** Streams of calls, messages and blobs from one peer. */
  readonly streamsPerPeerMax: number;
  readonly blobHashesMax: number;
  readonly blobChunkBytes: number;
  /** Sent by this host to all peers together. */
  readonly blobBytesPerSecondMax: number;
}

export const defaultLimits: NetworkLimits = Object.freeze({
  queuedBytesPerPeerMax: 16 << 20,
  unprovenMax: 256,
  unprovenPerAddressMax: 16,
  handshakeMsMax: 5_000,
  connectionsPerSecondMax: 10,
  knownConnectionsPerSecondMax: 250,
  connectionsPerMemberMax: 8,
  connectionsMax: 2_000,
  dialTimeoutMs: 4_000,
  dialsParallelMax: 16,
  redialMsMin: 250,
  redialMsMax: 15_000,
  writeStallMs: 10_000,
  unansweredMs: 9_000,
  quietMs: 25_000,
  silentMs: 45_000,
  sweepMs: 1_500,
  verifyMs: 2_000,
  idleConnectionMs: 60_000,
  streamsPerPeerMax: 64,
  blobHashesMax: 1_000,
  blobChunkBytes: 128 << 10,
  blobBytesPerSecondMax: 64 << 20,
});
