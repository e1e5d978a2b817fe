/**
 * The members of one cluster over libp2p: TCP, noise, yamux, no other service. The libraries' identify, ping and pubsub
 * are left out: addresses are our own facts, and a handler that is not registered needs no fence. See ADR 4.
 */
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys';
import type { Connection, Libp2p, Stream } from '@libp2p/interface';
import { noise } from '@libp2p/noise';
import { tcp } from '@libp2p/tcp';
import { yamux } from '@libp2p/yamux';
import { createLibp2p } from 'libp2p';
import { hex } from '../../crdt/ids.ts';
import type { NodeId } from '../../crdt/ids.ts';
import { keyPairFromSeed } from '../crypto.ts';
import { ClusterError, invariant, reasonOf } from '../errors.ts';
import { StreamBlobPeers } from './blob-peers.ts';
import { Bulk } from './bulk.ts';
import { newCounters } from './counters.ts';
import { Dialer } from './dialer.ts';
import { Gate } from './gate.ts';
import { protocolMax, protocolMin } from './hello.ts';
import type { Hello } from './hello.ts';
import { Link } from './link.ts';
import { watchLocalAddresses } from './local-addresses.ts';
import { hostOf, nodeIdOf, peerIdOf, portOf } from './peer-ids.ts';
import { Pacer } from './pacer.ts';
import { defaultLimits } from './peer-network.ts';
import type {
  CallOptions,
  MessageStream,
  NetworkCounters,
  NetworkLimits,
  NetworkOptions,
  PeerNetwork,
  StreamPurpose,
} from './peer-network.ts';
import { Redial } from './redial.ts';
import { Rpc } from './rpc.ts';
import type { CallHandler, StreamHandler } from './rpc.ts';
import { acceptSession, HandshakeError, openSession } from './session.ts';
import type { SessionOptions } from './session.ts';
import { sever } from './sever.ts';

const bulkOpenTimeoutMs = 10_000;
/** Larger than a stream's receive window, so that a paused reader never loses its stream. */
const windowBytesMax = 4 << 20;
const readBufferBytesMax = 2 * windowBytesMax;
/** Limits of libp2p that ours replace: what they refuse is not counted. */
const outOfReach = 1_000_000;

/** Nothing is opened before `start`. */
export function createNetwork(options: NetworkOptions): PeerNetwork {
  return new Libp2pNetwork(options);
}

class Libp2pNetwork implements PeerNetwork {
  readonly self: NodeId;
  readonly blobs: StreamBlobPeers;
  readonly #options: NetworkOptions;
  readonly #limits: NetworkLimits;
  readonly #counters = newCounters();
  readonly #hello: Hello;
  readonly #gate: Gate;
  readonly #redial: Redial;
  readonly #dialer: Dialer;
  readonly #bulk: Bulk;
  readonly #rpc: Rpc;
  readonly #links = new Map<NodeId, Link>();
  readonly #addresses = new Map<NodeId, string>();
  /** Streams being served, per protocol and member. */
  readonly #serving = new Map<string, number>();
  readonly #idleSince = new WeakMap<Connection, number>();
  #libp2p: Libp2p | null = null;
  #sweepTimer: NodeJS.Timeout | null = null;
  #stopWatching: () => void = () => {};
  #onFrame: (from: NodeId, frame: Uint8Array) => void = () => {};
  #onPeer: (peer: NodeId, isConnected: boolean) => void = () => {};

  constructor(options: NetworkOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.self = hex(keyPairFromSeed(options.seed).publicKey) as NodeId;
    const { clusterId, random } = options;
    this.#hello = { clusterId, min: protocolMin, max: protocolMax, run: hex(random.bytes(8)) };
    this.#gate = this.#makeGate();
    this.#dialer = new Dialer({
      limits: this.#limits,
      counters: this.#counters,
      addressesOf: (node) => options.addressesOf(node),
      connect: (address, signal) => this.#running().dial(address, { force: true, signal }),
    });
    this.#redial = this.#makeRedial();
    this.#bulk = new Bulk({
      dialer: this.#dialer,
      controlConnection: (node) => this.#links.get(node)?.session?.connection ?? null,
      lastSeen: (node) => this.#lastSeen(node),
      streamsPerPeerMax: this.#limits.streamsPerPeerMax,
      openTimeoutMs: bulkOpenTimeoutMs,
    });
    const { blobBytesPerSecondMax, blobChunkBytes } = this.#limits;
    const pacer = new Pacer(blobBytesPerSecondMax, 2 * blobChunkBytes);
    this.#rpc = new Rpc({
      bulk: this.#bulk,
      callProtocol: this.#protocol('rpc'),
      streamProtocols: { calls: this.#protocol('stream'), copies: this.#protocol('copy') },
      pacer,
      frameBytesMax: options.config.frameBytesMax,
      log: options.log,
    });
    this.blobs = new StreamBlobPeers({
      bulk: this.#bulk,
      protocol: this.#protocol('blob'),
      pacer,
      limits: this.#limits,
      log: options.log,
      connected: () => this.connected(),
    });
  }

  async start(): Promise<void> {
    invariant(this.#libp2p === null, 'a network starts once');
    const libp2p = await this.#makeLibp2p();
    this.#libp2p = libp2p;
    await this.#register(libp2p);
    try {
      await libp2p.start();
    } catch (error) {
      const port = portOf(this.#options.listen[0] ?? '');
      if (!/EADDRINUSE/.test(deepReason(error))) throw error;
      throw new ClusterError(
        'PORT_TAKEN',
        { port, host: 'this host', owner: 'another process' },
        error,
      );
    }
    this.#gate.open();
    this.#sweepTimer = setInterval(() => this.#sweep(), this.#limits.sweepMs);
    this.#sweepTimer.unref();
    this.#stopWatching = watchLocalAddresses(() => this.localAddressesChanged());
    this.rosterChanged();
  }

  async stop(): Promise<void> {
    this.#gate.close();
    this.#redial.stop();
    this.#stopWatching();
    if (this.#sweepTimer !== null) clearInterval(this.#sweepTimer);
    // Last words go out; then the ends are cut, because the library waits half a second for each of them.
    await Promise.allSettled([...this.#links.values()].map((link) => link.finish()));
    for (const connection of this.#libp2p?.getConnections() ?? []) sever(connection, 'stopping');
    await this.#libp2p?.stop();
  }

  send(to: NodeId, frame: Uint8Array): void {
    if (frame.length > this.#options.config.frameBytesMax) {
      this.#counters.framesDroppedTooLarge++;
      this.#options.log.warn('net.frame-too-large', { to, bytes: frame.length });
      return;
    }
    const link = this.#links.get(to);
    if (link === undefined) this.#counters.framesDroppedUnconnected++;
    else link.send(frame);
  }

  onFrame(handle: (from: NodeId, frame: Uint8Array) => void): void {
    this.#onFrame = handle;
  }

  onPeer(handle: (peer: NodeId, isConnected: boolean) => void): void {
    this.#onPeer = handle;
  }

  connected(): readonly NodeId[] {
    return [...this.#links].flatMap(([node, link]) => (link.session === null ? [] : [node]));
  }

  rosterChanged(): void {
    const members = new Set(this.#options.roster().filter((node) => node !== this.self));
    for (const node of this.#addresses.keys()) if (!members.has(node)) this.#forget(node);
    const hosts = new Set<string>();
    for (const node of members) {
      const addresses = this.#options.addressesOf(node);
      for (const address of addresses) hosts.add(hostOf(address));
      const text = addresses.join(' ');
      const before = this.#addresses.get(node);
      this.#addresses.set(node, text);
      if (this.#libp2p === null) continue;
      this.#redial.want(node);
      if (before !== undefined && before !== text) this.#redial.hurry(node);
    }
    this.#gate.setKnownHosts(hosts);
    this.#closeStrangers();
  }

  disconnect(node: NodeId, reason: string): void {
    this.#links.get(node)?.drop(reason);
    this.#bulk.drop(node, reason);
    for (const connection of this.#connectionsOf(node)) sever(connection, reason);
    this.#redial.hurry(node);
  }

  localAddressesChanged(): void {
    for (const [node, link] of this.#links) {
      this.#bulk.drop(node, 'addresses of this host changed');
      void link.verify();
    }
    for (const node of this.#addresses.keys()) this.#redial.hurry(node);
  }

  listening(): readonly string[] {
    const manager = this.#libp2p?.getMultiaddrs() ?? [];
    return manager.map((address) => address.toString().replace(/\/p2p\/.*/, ''));
  }

  port(): number {
    return portOf(this.listening()[0] ?? '');
  }

  counters(): NetworkCounters {
    return { ...this.#counters, connections: this.#libp2p?.getConnections().length ?? 0 };
  }

  call(node: NodeId, request: Uint8Array, options?: CallOptions): Promise<Uint8Array> {
    return this.#rpc.call(node, request, options);
  }

  onCall(handle: CallHandler): void {
    this.#rpc.onCall(handle);
  }

  openStream(
    node: NodeId,
    options: { readonly signal?: AbortSignal; readonly purpose?: StreamPurpose } = {},
  ): Promise<MessageStream> {
    return this.#rpc.openStream(node, options.purpose ?? 'calls', options.signal);
  }

  onStream(handle: StreamHandler, purpose: StreamPurpose = 'calls'): void {
    this.#rpc.onStream(handle, purpose);
  }

  #makeGate(): Gate {
    return new Gate({
      limits: this.#limits,
      isMember: (node) => this.#options.isMember(node),
      connectionsOf: (node) => this.#connectionsOf(node).length,
      count: (what) => this.#counters[what]++,
    });
  }

  #makeRedial(): Redial {
    return new Redial({
      self: this.self,
      limits: this.#limits,
      random: this.#options.random,
      isConnected: (node) => (this.#links.get(node)?.session ?? null) !== null,
      dial: (node) => this.#dialControl(node),
      onFailure: (node, error) => {
        if (error instanceof HandshakeError) this.#refused(node, error);
        else this.#options.log.debug('net.dial-failed', { node, reason: reasonOf(error) });
      },
    });
  }

  async #makeLibp2p(): Promise<Libp2p> {
    const { seed, listen } = this.#options;
    const limits = this.#limits;
    return createLibp2p({
      start: false,
      privateKey: await generateKeyPairFromSeed('Ed25519', seed),
      addresses: { listen: [...listen] },
      transports: [tcp({ maxConnections: limits.connectionsMax + limits.unprovenMax })],
      connectionEncrypters: [noise()],
      streamMuxers: [
        yamux({
          enableKeepAlive: false,
          maxInboundStreams: 4 * limits.streamsPerPeerMax,
          streamOptions: {
            maxStreamWindowSize: windowBytesMax,
            maxReadBufferLength: readBufferBytesMax,
          },
        }),
      ],
      connectionGater: this.#gate.gater,
      connectionManager: {
        maxConnections: limits.connectionsMax,
        maxIncomingPendingConnections: outOfReach,
        inboundConnectionThreshold: outOfReach,
        inboundUpgradeTimeout: limits.handshakeMsMax,
        maxParallelDials: 2 * limits.dialsParallelMax,
      },
      // Links watch their own sessions (`Link.tick`).
      connectionMonitor: { enabled: false },
    });
  }

  /** Before the listener starts: the first connection finds every handler. */
  async #register(libp2p: Libp2p): Promise<void> {
    const few = { maxInboundStreams: 4, maxOutboundStreams: 4 };
    const many = {
      maxInboundStreams: this.#limits.streamsPerPeerMax,
      maxOutboundStreams: this.#limits.streamsPerPeerMax,
    };
    await this.#handle(libp2p, 'ctl', few, (node, stream, connection) =>
      this.#accept(node, stream, connection),
    );
    await this.#handle(libp2p, 'rpc', many, (node, stream) => this.#rpc.serveCall(node, stream));
    await this.#handle(libp2p, 'stream', many, (node, stream) =>
      this.#rpc.serveStream(node, stream, 'calls'),
    );
    await this.#handle(libp2p, 'copy', many, (node, stream) =>
      this.#rpc.serveStream(node, stream, 'copies'),
    );
    await this.#handle(libp2p, 'blob', many, (node, stream) => this.blobs.answer(node, stream));
  }

  async #handle(
    libp2p: Libp2p,
    name: string,
    limits: { maxInboundStreams: number; maxOutboundStreams: number },
    serve: (node: NodeId, stream: Stream, connection: Connection) => Promise<void>,
  ): Promise<void> {
    await libp2p.handle(
      this.#protocol(name),
      (stream, connection) => {
        const node = nodeIdOf(connection.remotePeer);
        // A member that was removed since it connected.
        if (node === null || !this.#options.isMember(node)) stream.abort(new Error('not a member'));
        else
          void this.#serveCounted(`${name} ${node}`, stream, () => serve(node, stream, connection));
      },
      limits,
    );
  }

  /** The library counts streams per connection; a member may have several connections. */
  async #serveCounted(key: string, stream: Stream, serve: () => Promise<void>): Promise<void> {
    const serving = this.#serving.get(key) ?? 0;
    if (serving >= this.#limits.streamsPerPeerMax) {
      this.#counters.streamsRefused++;
      stream.abort(new Error('too many streams'));
      return;
    }
    this.#serving.set(key, serving + 1);
    try {
      await serve();
    } finally {
      const left = (this.#serving.get(key) ?? 1) - 1;
      if (left > 0) this.#serving.set(key, left);
      else this.#serving.delete(key);
    }
  }

  async #dialControl(node: NodeId): Promise<void> {
    const isWanted = (): boolean => (this.#links.get(node)?.session ?? null) === null;
    await this.#dialer.dial(
      node,
      async (connection, signal) => {
        const options = this.#sessionOptions(signal);
        this.#link(node).add(await openSession(connection, this.#protocol('ctl'), options));
      },
      isWanted,
    );
  }

  async #accept(node: NodeId, stream: Stream, connection: Connection): Promise<void> {
    const signal = AbortSignal.timeout(this.#limits.handshakeMsMax);
    const options = this.#sessionOptions(signal);
    try {
      this.#link(node).add(await acceptSession(stream, connection, options));
    } catch (error) {
      this.#refused(node, error);
      sever(connection, 'no agreement on the control stream');
    }
  }

  /** One byte says the kind of a frame. */
  #sessionOptions(signal: AbortSignal): SessionOptions {
    return { hello: this.#hello, frameBytesMax: this.#options.config.frameBytesMax + 1, signal };
  }

  #refused(node: NodeId, error: unknown): void {
    this.#counters.protocolErrors++;
    this.#options.log.warn('net.handshake-refused', { node, reason: reasonOf(error) });
  }

  #link(node: NodeId): Link {
    let link = this.#links.get(node);
    if (link !== undefined) return link;
    link = new Link({
      self: this.self,
      node,
      limits: this.#limits,
      counters: this.#counters,
      log: this.#options.log,
      onFrame: (from, frame) => this.#onFrame(from, frame),
      onPeer: (peer, isConnected) => {
        this.#options.log.debug('net.peer', { peer, isConnected });
        if (isConnected) this.#redial.connected(peer);
        this.#onPeer(peer, isConnected);
      },
      onLost: (livedMs) => this.#redial.lost(node, livedMs),
    });
    this.#links.set(node, link);
    return link;
  }

  #forget(node: NodeId): void {
    this.#addresses.delete(node);
    this.#redial.forget(node);
    this.#dialer.forget(node);
    this.disconnect(node, 'no longer a member');
    this.#links.delete(node);
  }

  #closeStrangers(): void {
    for (const connection of this.#libp2p?.getConnections() ?? []) {
      const node = nodeIdOf(connection.remotePeer);
      if (node === null || !this.#options.isMember(node)) sever(connection, 'not a member');
    }
  }

  /** Closes what nobody uses: idle second connections, and what never became a session. */
  #sweep(): void {
    const nowMs = performance.now();
    const inUse = new Set([...this.#links.values()].map((link) => link.session?.connection));
    for (const connection of this.#libp2p?.getConnections() ?? []) {
      if (inUse.has(connection) || connection.streams.length > 0) {
        this.#idleSince.delete(connection);
        continue;
      }
      const since = this.#idleSince.get(connection);
      if (since === undefined) this.#idleSince.set(connection, nowMs);
      else if (nowMs - since > this.#limits.idleConnectionMs) sever(connection, 'idle');
    }
    for (const link of this.#links.values()) link.tick();
    this.#closeStrangers();
  }

  #connectionsOf(node: NodeId): readonly Connection[] {
    return this.#libp2p?.getConnections(peerIdOf(node)) ?? [];
  }

  #lastSeen(node: NodeId): string {
    const lastMs = this.#links.get(node)?.lastFrameMs ?? null;
    return lastMs === null ? 'never' : `${Math.round((performance.now() - lastMs) / 1_000)} s ago`;
  }

  #protocol(name: string): string {
    return `/trellis/${this.#options.clusterId}/${name}/1`;
  }

  #running(): Libp2p {
    invariant(this.#libp2p !== null, 'the network has started');
    return this.#libp2p;
  }
}

function deepReason(error: unknown): string {
  const inner = error instanceof AggregateError ? error.errors.map(deepReason).join(' ') : '';
  const cause = error instanceof Error && error.cause !== undefined ? deepReason(error.cause) : '';
  return `${reasonOf(error)} ${inner} ${cause}`;
}
