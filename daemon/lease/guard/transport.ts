/**
 * Frames between guards: a full mesh of the guards that this one needs, one connection of its own to each, and those that
 * they dial. What is sent takes the connection on which the other end was heard last, so that an answer comes back on the
 * way of its question and a half-dead connection swallows nothing for long.
 *
 * Best effort: frames may be lost, and are dropped, oldest first, when they cannot be sent soon. Strangers are refused before
 * anything of theirs is parsed besides one certificate of at most 1 KiB.
 */
import { createServer, connect, type Server, type Socket } from 'node:net';
import type { HostId } from '../../../crdt/ids.ts';
import type { LeaseCertificate } from '../certificate.ts';
import { wireVersions } from '../codec.ts';
import type { GuardPeer } from '../guard-api.ts';
import type { Message } from '../messages.ts';
import type { Log, Random } from '../../ports.ts';
import { reasonOf } from '../../errors.ts';
import { Link, type LinkEvents } from './link.ts';
import type { OpenChannel } from './secure-channel.ts';

/** Connections that have not proved anything yet; beyond it the oldest is closed. */
const unprovenMax = 32;
/** Time for handshake and certificates. */
const provingMs = 1_500;
/** A peer that restarts dials again before its old connections are known to be dead. */
const inboundPerPeerMax = 4;
const dialLimitMs = 1_000;
const backoffMsMin = 50;
const backoffMsMax = 1_000;
/** Frames that wait for a connection: lease messages are worth nothing when they are old. */
const queuedFramesMax = 16;
const queuedMsMax = 1_000;
const lookMs = 200;
/** In looks: a ping after 400 ms without an answer, the end after a second, a ping on an idle connection every 15 s. */
const looks = { pingAfter: 2, closeAfter: 5, idle: 75 };

export interface TransportCounters {
  framesIn: number;
  framesOut: number;
  bytesIn: number;
  bytesOut: number;
  framesDropped: number;
  framesRejected: number;
  strangers: number;
  /** Members met that speak no version of frames that is spoken here. */
  otherVersions: number;
  dials: number;
  linksLost: number;
}

interface Peer {
  readonly host: HostId;
  entry: GuardPeer;
  readonly links: Set<Link>;
  readonly queue: {
    readonly messages: readonly Message[];
    readonly isAnswer: boolean;
    readonly atMs: number;
  }[];
  dialing: AbortController | null;
  redial: NodeJS.Timeout | null;
  failures: number;
  lastHeardMs: number | null;
  /** Oldest and newest version of frames that it speaks, none of them spoken here; '': not so. */
  otherVersions: string;
}

export class Transport {
  readonly #open: OpenChannel;
  readonly #certificate: LeaseCertificate;
  readonly #log: Log;
  readonly #random: Random;
  readonly #nowMs: () => number;
  readonly #onMessages: (from: HostId, messages: readonly Message[]) => void;
  readonly #onPeer: () => void;
  readonly #peers = new Map<HostId, Peer>();
  readonly #unproven = new Set<{ close(): void }>();
  readonly #server: Server;
  readonly #looker: NodeJS.Timeout;
  #isClosed = false;
  readonly counters: TransportCounters = {
    framesIn: 0,
    framesOut: 0,
    bytesIn: 0,
    bytesOut: 0,
    framesDropped: 0,
    framesRejected: 0,
    strangers: 0,
    otherVersions: 0,
    dials: 0,
    linksLost: 0,
  };

  constructor(options: {
    readonly open: OpenChannel;
    readonly certificate: LeaseCertificate;
    readonly log: Log;
    readonly random: Random;
    readonly nowMs: () => number;
    readonly onMessages: (from: HostId, messages: readonly Message[]) => void;
    /** A peer became reachable or ceased to be. */
    readonly onPeer: () => void;
  }) {
    this.#open = options.open;
    this.#certificate = options.certificate;
    this.#log = options.log;
    this.#random = options.random;
    this.#nowMs = options.nowMs;
    this.#onMessages = options.onMessages;
    this.#onPeer = options.onPeer;
    this.#server = createServer((socket) => void this.#accept(socket));
    this.#looker = setInterval(() => this.#look(), lookMs);
    this.#looker.unref();
  }

  /** Resolves with the port. Rejects when the address is taken. */
  listen(address: string, port: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ host: address, port, backlog: 128 }, () => {
        this.#server.off('error', reject);
        this.#server.on('error', (error) =>
          this.#log.error('guard.listen-failed', { error: reasonOf(error) }),
        );
        const bound = this.#server.address();
        resolve(typeof bound === 'object' && bound !== null ? bound.port : port);
      });
    });
  }

  /** Everybody else is disconnected. Without this host itself. */
  setPeers(entries: readonly GuardPeer[]): void {
    const wanted = new Map(entries.map((entry) => [entry.host, entry]));
    for (const [host, peer] of this.#peers) {
      const entry = wanted.get(host);
      if (entry === undefined || entry.node !== peer.entry.node) this.#forget(peer);
    }
    for (const entry of entries) {
      const known = this.#peers.get(entry.host);
      if (known === undefined) {
        const peer: Peer = {
          host: entry.host,
          entry,
          links: new Set(),
          queue: [],
          dialing: null,
          redial: null,
          failures: 0,
          lastHeardMs: null,
          otherVersions: '',
        };
        this.#peers.set(entry.host, peer);
        this.#dialSoon(peer, 0);
        continue;
      }
      const isMoved = entry.addresses.join() !== known.entry.addresses.join();
      known.entry = entry;
      if (isMoved && !this.#hasOutbound(known)) this.#dialSoon(known, 0);
    }
  }

  /** Never throws and never blocks. `isAnswer`: nothing is expected to come back for these. */
  send(to: HostId, messages: readonly Message[], { isAnswer = false } = {}): void {
    const peer = this.#peers.get(to);
    if (peer === undefined) {
      this.counters.framesDropped += 1;
      return;
    }
    peer.queue.push({ messages, isAnswer, atMs: this.#nowMs() });
    this.#flush(peer);
    while (peer.queue.length > queuedFramesMax) {
      peer.queue.shift();
      this.counters.framesDropped += 1;
    }
  }

  isReachable(host: HostId): boolean {
    return [...(this.#peers.get(host)?.links ?? [])].some((link) => !link.isClosed);
  }

  /** Monotonic milliseconds at which anything came from it. */
  lastHeardMs(host: HostId): number | null {
    const peer = this.#peers.get(host);
    if (peer === undefined) return null;
    const heard = [...peer.links].map((link) => link.lastHeardMs);
    return heard.length === 0 ? peer.lastHeardMs : Math.max(...heard);
  }

  close(): void {
    this.#isClosed = true;
    clearInterval(this.#looker);
    this.#server.close();
    for (const peer of this.#peers.values()) this.#forget(peer);
    for (const link of this.#unproven) link.close();
  }

  // ---- Connections ----------------------------------------------------------------------------------------------

  async #accept(socket: Socket): Promise<void> {
    socket.on('error', () => socket.destroy());
    const entry = { close: () => void socket.destroy() };
    this.#unproven.add(entry);
    const [oldest] = this.#unproven;
    if (this.#unproven.size > unprovenMax) oldest?.close();
    const limit = setTimeout(() => socket.destroy(), provingMs);
    socket.once('close', () => {
      clearTimeout(limit);
      this.#unproven.delete(entry);
    });
    try {
      const signal = AbortSignal.timeout(provingMs);
      const open = await this.#open(socket, 'inbound', signal);
      this.#link(open, 'inbound', null, () => {
        clearTimeout(limit);
        this.#unproven.delete(entry);
      });
    } catch {
      // Port scanners and cut connections: the counter says that they come.
      this.counters.strangers += 1;
      socket.destroy();
    }
  }

  #dialSoon(peer: Peer, delayMs: number): void {
    if (this.#isClosed || peer.dialing !== null) return;
    if (peer.redial !== null) clearTimeout(peer.redial);
    peer.redial = setTimeout(() => {
      peer.redial = null;
      void this.#dial(peer);
    }, delayMs);
  }

  async #dial(peer: Peer): Promise<void> {
    const { addresses } = peer.entry;
    const address = addresses[peer.failures % Math.max(1, addresses.length)];
    if (address === undefined || this.#isClosed || peer.dialing !== null) return;
    const stop = new AbortController();
    peer.dialing = stop;
    this.counters.dials += 1;
    const signal = AbortSignal.any([stop.signal, AbortSignal.timeout(dialLimitMs)]);
    const socket = connect(splitAddress(address));
    const abort = (): void => void socket.destroy();
    signal.addEventListener('abort', abort);
    socket.on('error', abort);
    try {
      await connected(socket);
      const open = await this.#open(socket, 'outbound', signal);
      await new Promise<void>((resolve, reject) => {
        socket.once('close', () => reject(new Error('closed before it was proved')));
        this.#link(open, 'outbound', peer.host, resolve);
      });
      peer.failures = 0;
      peer.dialing = null;
    } catch {
      socket.destroy();
      peer.dialing = null;
      peer.failures += 1;
      if (this.#peers.get(peer.host) === peer) this.#dialSoon(peer, this.#backoffMs(peer));
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  /** Every address at once in turn, then pauses that double. */
  #backoffMs(peer: Peer): number {
    const rounds = Math.floor(peer.failures / Math.max(1, peer.entry.addresses.length));
    const capped = Math.min(backoffMsMax, backoffMsMin * 2 ** Math.min(rounds, 10));
    return Math.round(capped * (0.5 + this.#random.next() / 2));
  }

  #link(
    open: Awaited<ReturnType<OpenChannel>>,
    direction: 'inbound' | 'outbound',
    expected: HostId | null,
    onProved: () => void,
  ): void {
    const events: LinkEvents = {
      admit: (certificate, leaseKey) => this.#admit(certificate, leaseKey, expected),
      onReady: (link) => {
        onProved();
        this.#adopt(link);
      },
      onOtherVersion: (host, theirs) => this.#onOtherVersion(host, theirs),
      onMessages: (link, messages, bytes) => {
        this.counters.framesIn += 1;
        this.counters.bytesIn += bytes;
        if (link.host !== null) this.#onMessages(link.host, messages);
      },
      onRejected: (link, why) => {
        this.counters.framesRejected += 1;
        this.#log.warn('guard.frame-rejected', { from: link.host, why });
      },
      onStranger: () => {
        this.counters.strangers += 1;
        this.#log.warn('guard.stranger', { direction });
      },
      onClose: (link) => this.#lost(link),
      onDrain: (link) => {
        const peer = link.host === null ? undefined : this.#peers.get(link.host);
        if (peer !== undefined) this.#flush(peer);
      },
    };
    const certificate = this.#certificate;
    // The link lives by its socket's events.
    void new Link({ open, direction, certificate, events, nowMs: this.#nowMs });
  }

  /** The handshake has proved `leaseKey`; the certificate says that a member gave it to its guard. */
  #admit(certificate: LeaseCertificate, leaseKey: string, expected: HostId | null): HostId | null {
    const { host, node, clusterId } = certificate;
    const peer = this.#peers.get(host);
    const isGood =
      peer !== undefined &&
      certificate.leaseKey === leaseKey &&
      clusterId === this.#certificate.clusterId &&
      peer.entry.node === node &&
      (expected === null || expected === host);
    return isGood ? host : null;
  }

  /** Said once for each version that it has: it dials again and again. */
  #onOtherVersion(host: HostId, theirs: readonly [number, number]): void {
    this.counters.otherVersions += 1;
    const peer = this.#peers.get(host);
    if (peer === undefined || peer.otherVersions === theirs.join('-')) return;
    peer.otherVersions = theirs.join('-');
    const ours = wireVersions.join('-');
    this.#log.error('guard.other-version', { host, ours, theirs: peer.otherVersions });
  }

  #adopt(link: Link): void {
    const peer = link.host === null ? undefined : this.#peers.get(link.host);
    if (peer === undefined) {
      link.close();
      return;
    }
    peer.otherVersions = '';
    peer.links.add(link);
    const same = [...peer.links].filter(({ direction }) => direction === link.direction);
    const max = link.direction === 'outbound' ? 1 : inboundPerPeerMax;
    for (const old of same.slice(0, Math.max(0, same.length - max))) old.close();
    this.#flush(peer);
    this.#onPeer();
  }

  #lost(link: Link): void {
    if (link.host === null) return;
    const peer = this.#peers.get(link.host);
    if (peer === undefined || !peer.links.delete(link)) return;
    this.counters.linksLost += 1;
    peer.lastHeardMs = Math.max(peer.lastHeardMs ?? 0, link.lastHeardMs);
    if (link.direction === 'outbound') this.#dialSoon(peer, this.#backoffMs(peer));
    if (peer.links.size === 0) this.#onPeer();
  }

  #forget(peer: Peer): void {
    this.#peers.delete(peer.host);
    peer.dialing?.abort();
    if (peer.redial !== null) clearTimeout(peer.redial);
    for (const link of peer.links) link.close();
  }

  #hasOutbound(peer: Peer): boolean {
    return [...peer.links].some(({ direction }) => direction === 'outbound');
  }

  #flush(peer: Peer): void {
    while (peer.queue.length > 0) {
      const link = bestOf(peer.links);
      if (link === null) break;
      const frame = peer.queue.shift();
      if (frame === undefined) break;
      if (this.#nowMs() - frame.atMs > queuedMsMax) {
        this.counters.framesDropped += 1;
        continue;
      }
      // Only now: what a frame says depends on what its connection was told before.
      const { frames, bytes } = link.sendMessages(frame.messages, frame);
      this.counters.framesOut += frames;
      this.counters.bytesOut += bytes;
    }
  }

  #look(): void {
    for (const peer of this.#peers.values()) {
      for (const link of peer.links) link.look(looks);
    }
  }
}

/** Heard last; of equals our own. */
function bestOf(links: ReadonlySet<Link>): Link | null {
  let best: Link | null = null;
  for (const link of links) {
    if (!link.canTake) continue;
    const isBetter =
      best === null ||
      link.lastHeardMs > best.lastHeardMs ||
      (link.lastHeardMs === best.lastHeardMs && link.direction === 'outbound');
    if (isBetter) best = link;
  }
  return best;
}

function connected(socket: Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
    socket.once('close', () => reject(new Error('closed')));
  });
}

/** 'address:port', '[v6]:port'. */
function splitAddress(text: string): { host: string; port: number } {
  const at = text.lastIndexOf(':');
  return { host: text.slice(0, at).replace(/^\[|\]$/g, ''), port: Number(text.slice(at + 1)) };
}
