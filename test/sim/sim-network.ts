/**
 * Directed links between simulated hosts, and the connections over them.
 *
 * A frame takes the link's latency and may be lost, repeated or overtaken; bytes are copied when sent. A cut is silent:
 * frames vanish at once, but each end believes in its connection until its own time limit has passed (as TCP does), and
 * a redial succeeds only when both directions work. A killed process resets its connections, a power-cut does not.
 *
 * Harsher than TCP on purpose: loss and repetition also happen inside a living connection.
 */
import type { NodeId } from '../../crdt/ids.ts';
import type { Network } from '../../daemon/ports.ts';
import type { Life, SimHost } from './sim-host.ts';
import type { SimRandom } from './sim-random.ts';
import type { ScheduledEvent, Scheduler } from './scheduler.ts';
import { traceKind, type Trace } from './trace.ts';

export interface LinkOptions {
  readonly latencyMs: number;
  /** Added to the latency, uniform from 0. */
  readonly jitterMs: number;
  readonly loss: number;
  readonly duplicate: number;
  /** How often a frame may be overtaken by later ones, by up to `reorderMsMax`. */
  readonly reorder: number;
  readonly reorderMsMax: number;
}

export interface NetworkOptions extends LinkOptions {
  /** An end gives up a silent connection after this long. */
  readonly breakMsMin: number;
  readonly breakMsMax: number;
  /** From the moment that both directions work to a new connection. */
  readonly redialMsMin: number;
  readonly redialMsMax: number;
  readonly frameBytesMax: number;
}

export const defaultNetwork: NetworkOptions = {
  latencyMs: 1,
  jitterMs: 1,
  loss: 0,
  duplicate: 0,
  reorder: 0,
  reorderMsMax: 50,
  breakMsMin: 10_000,
  breakMsMax: 30_000,
  redialMsMin: 5,
  redialMsMax: 1_000,
  frameBytesMax: 4 << 20,
};

export interface Traffic {
  framesSent: number;
  bytesSent: number;
  framesReceived: number;
  bytesReceived: number;
}

interface Link {
  isCut: boolean;
  /** Frames wait here while clogged, bounded by `cloggedFramesMax`; the oldest are dropped. */
  clogged: (() => void)[] | null;
  newestAtMs: number;
  readonly random: SimRandom;
}

/** One end of a connection: what `from` believes about `to`. */
interface End {
  isConnected: boolean;
  breakEvent: ScheduledEvent | null;
}

interface Handlers {
  readonly life: Life;
  frame: ((from: NodeId, frame: Uint8Array) => void) | null;
  peer: ((peer: NodeId, isConnected: boolean) => void) | null;
}

const cloggedFramesMax = 10_000;

export class SimNetwork {
  readonly #hosts: readonly SimHost[];
  readonly #indexes = new Map<NodeId, number>();
  readonly #scheduler: Scheduler;
  readonly #random: SimRandom;
  readonly #trace: Trace;
  readonly #links: Link[] = [];
  readonly #ends: End[] = [];
  readonly #dials: (ScheduledEvent | null)[] = [];
  readonly #handlers: (Handlers | null)[] = [];
  readonly #traffic: Traffic[] = [];
  options: NetworkOptions;

  constructor(options: {
    hosts: readonly SimHost[];
    scheduler: Scheduler;
    random: SimRandom;
    trace: Trace;
    network: NetworkOptions;
  }) {
    this.#hosts = options.hosts;
    this.#scheduler = options.scheduler;
    this.#random = options.random;
    this.#trace = options.trace;
    this.options = options.network;
    const count = this.#hosts.length;
    for (const host of this.#hosts) {
      this.#indexes.set(host.id, host.index);
      this.#handlers.push(null);
      this.#traffic.push({ framesSent: 0, bytesSent: 0, framesReceived: 0, bytesReceived: 0 });
    }
    for (let pair = 0; pair < count * count; pair++) {
      this.#links.push({
        isCut: false,
        clogged: null,
        newestAtMs: 0,
        random: this.#random.fork(`link${pair}`),
      });
      this.#ends.push({ isConnected: false, breakEvent: null });
      this.#dials.push(null);
    }
  }

  /** The port of one life of one host. */
  port(host: SimHost, life: Life): Network {
    const handlers: Handlers = { life, frame: null, peer: null };
    this.#handlers[host.index] = handlers;
    return {
      send: (to, frame) => {
        const target = this.#indexes.get(to);
        if (life.isAlive && target !== undefined && target !== host.index)
          this.#send(host.index, target, frame);
      },
      onFrame: (handle) => void (handlers.frame = handle),
      connected: () => (life.isAlive ? this.#connectedTo(host.index) : []),
      onPeer: (handle) => void (handlers.peer = handle),
    };
  }

  /** Frames from `from` to `to` vanish, and with `bothWays` (the default) also the other way. */
  partition(
    from: readonly NodeId[],
    to: readonly NodeId[],
    options: { bothWays?: boolean } = {},
  ): void {
    for (const a of from) {
      for (const b of to) {
        if (a === b) continue;
        this.#link(this.#index(a), this.#index(b)).isCut = true;
        if (options.bothWays !== false) this.#link(this.#index(b), this.#index(a)).isCut = true;
      }
    }
    this.reassess();
  }

  /** Ends every cut and clog. */
  heal(): void {
    for (const link of this.#links) {
      link.isCut = false;
      release(link);
    }
    this.reassess();
  }

  /** Frames of this direction wait until `unclog` or `heal`, then all arrive at once. */
  clog(from: NodeId, to: NodeId): void {
    this.#link(this.#index(from), this.#index(to)).clogged ??= [];
  }

  unclog(from: NodeId, to: NodeId): void {
    release(this.#link(this.#index(from), this.#index(to)));
  }

  traffic(id: NodeId): Traffic {
    return this.#traffic[this.#index(id)] as Traffic;
  }

  isConnected(from: NodeId, to: NodeId): boolean {
    return this.#end(this.#index(from), this.#index(to)).isConnected;
  }

  /** After any change of links, pauses or processes: plans what will break and what will be redialled. */
  reassess(): void {
    const count = this.#hosts.length;
    for (let a = 0; a < count; a++) {
      for (let b = a + 1; b < count; b++) this.#reassessPair(a, b);
    }
  }

  /** The process of `index` is gone; `kill` lets the operating system reset its connections. */
  ended(index: number, how: 'kill' | 'power'): void {
    for (let peer = 0; peer < this.#hosts.length; peer++) {
      if (peer === index) continue;
      this.#end(index, peer).isConnected = false;
      const there = this.#end(peer, index);
      if (how === 'power' || !there.isConnected || this.#link(index, peer).isCut) continue;
      this.#scheduleBreak(peer, index, this.#random.between(0.1, 5));
    }
    this.reassess();
  }

  #reassessPair(a: number, b: number): void {
    const pair = a * this.#hosts.length + b;
    if (this.#isPathOpen(a, b)) {
      this.#cancelBreak(a, b);
      this.#cancelBreak(b, a);
      const isWhole = this.#end(a, b).isConnected && this.#end(b, a).isConnected;
      if (!isWhole && this.#dials[pair] === null) {
        const { redialMsMin, redialMsMax } = this.options;
        const delayMs = this.#random.between(redialMsMin, redialMsMax);
        this.#dials[pair] = this.#scheduler.after(delayMs, () => this.#connect(a, b, pair));
      }
      return;
    }
    const dial = this.#dials[pair];
    if (dial) this.#scheduler.cancel(dial);
    this.#dials[pair] = null;
    const { breakMsMin, breakMsMax } = this.options;
    this.#scheduleBreak(a, b, this.#random.between(breakMsMin, breakMsMax));
    this.#scheduleBreak(b, a, this.#random.between(breakMsMin, breakMsMax));
  }

  #isPathOpen(a: number, b: number): boolean {
    const isRunning = (index: number): boolean => {
      const host = this.#hosts[index] as SimHost;
      return host.isUp && !host.isPaused;
    };
    return isRunning(a) && isRunning(b) && !this.#link(a, b).isCut && !this.#link(b, a).isCut;
  }

  #connect(a: number, b: number, pair: number): void {
    this.#dials[pair] = null;
    for (const [from, to] of [
      [a, b],
      [b, a],
    ] as const) {
      // An end that had not noticed the break learns of both at once.
      if (this.#end(from, to).isConnected && this.#random.chance(0.5))
        this.#setConnected(from, to, false);
      this.#setConnected(from, to, true);
    }
  }

  #scheduleBreak(from: number, to: number, delayMs: number): void {
    const end = this.#end(from, to);
    if (!end.isConnected || end.breakEvent !== null) return;
    end.breakEvent = this.#scheduler.after(delayMs, () => {
      end.breakEvent = null;
      this.#setConnected(from, to, false);
      this.#reassessPair(Math.min(from, to), Math.max(from, to));
    });
  }

  #cancelBreak(from: number, to: number): void {
    const end = this.#end(from, to);
    if (end.breakEvent !== null) this.#scheduler.cancel(end.breakEvent);
    end.breakEvent = null;
  }

  #setConnected(from: number, to: number, isConnected: boolean): void {
    this.#end(from, to).isConnected = isConnected;
    const handlers = this.#handlers[from];
    if (!handlers?.life.isAlive) return;
    const host = this.#hosts[from] as SimHost;
    const peer = (this.#hosts[to] as SimHost).id;
    host.deliver('io', handlers.life, () => {
      this.#trace.mix(traceKind.peer, from, this.#scheduler.nowMs, to * 2 + (isConnected ? 1 : 0));
      handlers.peer?.(peer, isConnected);
    });
  }

  #send(from: number, to: number, frame: Uint8Array): void {
    if (frame.length > this.options.frameBytesMax || !this.#end(from, to).isConnected) return;
    const traffic = this.#traffic[from] as Traffic;
    traffic.framesSent++;
    traffic.bytesSent += frame.length;
    const link = this.#link(from, to);
    const receiver = this.#handlers[to]?.life;
    if (link.isCut || receiver === undefined || link.random.chance(this.options.loss)) return;
    const copies = link.random.chance(this.options.duplicate) ? 2 : 1;
    for (let copy = 0; copy < copies; copy++) {
      const bytes = frame.slice();
      this.#scheduler.at(this.#arrivalMs(link), () =>
        this.#arrive({ from, to, bytes, receiver, link }),
      );
    }
  }

  #arrivalMs(link: Link): number {
    const { latencyMs, jitterMs, reorder, reorderMsMax } = this.options;
    const plainMs = this.#scheduler.nowMs + latencyMs + link.random.between(0, jitterMs);
    if (link.random.chance(reorder)) return plainMs + link.random.between(0, reorderMsMax);
    link.newestAtMs = Math.max(link.newestAtMs, plainMs);
    return link.newestAtMs;
  }

  #arrive(frame: {
    from: number;
    to: number;
    bytes: Uint8Array;
    receiver: Life;
    link: Link;
  }): void {
    const { from, to, bytes, receiver, link } = frame;
    if (link.isCut) return;
    if (link.clogged !== null) {
      link.clogged.push(() => this.#arrive(frame));
      if (link.clogged.length > cloggedFramesMax) link.clogged.shift();
      return;
    }
    const host = this.#hosts[to] as SimHost;
    host.deliver('io', receiver, () => {
      if (!this.#end(to, from).isConnected) return;
      const traffic = this.#traffic[to] as Traffic;
      traffic.framesReceived++;
      traffic.bytesReceived += bytes.length;
      this.#trace.mix(traceKind.frame, to, this.#scheduler.nowMs, from, bytes);
      this.#handlers[to]?.frame?.((this.#hosts[from] as SimHost).id, bytes);
    });
  }

  #connectedTo(from: number): NodeId[] {
    const out: NodeId[] = [];
    for (const host of this.#hosts) {
      if (host.index !== from && this.#end(from, host.index).isConnected) out.push(host.id);
    }
    return out;
  }

  #index(id: NodeId): number {
    const index = this.#indexes.get(id);
    if (index === undefined) throw new Error(`no simulated host ${id}`);
    return index;
  }

  #link(from: number, to: number): Link {
    return this.#links[from * this.#hosts.length + to] as Link;
  }

  #end(from: number, to: number): End {
    return this.#ends[from * this.#hosts.length + to] as End;
  }
}

function release(link: Link): void {
  const waiting = link.clogged ?? [];
  link.clogged = null;
  for (const deliver of waiting) deliver();
}
