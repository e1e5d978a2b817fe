/**
 * Probes in flight, ours and those we make for others.
 *
 * A probe pings its target; after the timeout it pings again and asks helpers to do the same; after a second timeout it
 * has failed. Any sign of life from the target in between ends it well. A helper that cannot reach the target says so
 * (nack), which tells the asker that at least its own links work: missing nacks are held against ourselves.
 */
import type { NodeId } from '../../crdt/ids.ts';
import type { Config } from '../config.ts';
import type { LocalHealth } from './health.ts';

export type ProbeMessage =
  | { readonly k: 'ping'; readonly q: number }
  | { readonly k: 'ask'; readonly q: number; readonly n: NodeId }
  | { readonly k: 'nack'; readonly q: number }
  | { readonly k: 'ack'; readonly q: number; readonly n: NodeId; readonly i: number };

export interface ProberOptions {
  readonly config: Pick<Config, 'probeTimeoutMs'>;
  readonly health: LocalHealth;
  readonly send: (to: NodeId, message: ProbeMessage) => void;
  /** Live members that may probe `target` for us, already drawn by lot. */
  readonly helpers: (target: NodeId) => readonly NodeId[];
  /** False: a direct ping cannot arrive, so helpers are asked at once. */
  readonly isConnected: (target: NodeId) => boolean;
  readonly onFailed: (target: NodeId, nowMs: number) => void;
}

interface Probe {
  readonly target: NodeId;
  readonly q: number;
  isIndirect: boolean;
  dueMs: number;
  asked: number;
  nacks: number;
  /** Whether failure says something about us: not when the target was thought lost anyway. */
  readonly isJudgingUs: boolean;
}

interface Relay {
  readonly asker: NodeId;
  readonly askerQ: number;
  readonly target: NodeId;
  readonly dueMs: number;
}

/** Probes in flight at most; further ones are not begun and come up again by turn. */
const probesMax = 64;
/** Probes for others at most; further requests get no answer, which the asker counts as its own trouble. */
const relaysMax = 64;
/** A helper gives up a little before its asker does, so that the nack arrives in time. */
const relayShare = 0.8;

export class Prober {
  readonly #options: ProberOptions;
  readonly #probes = new Map<NodeId, Probe>();
  readonly #relays = new Map<number, Relay>();
  #q = 0;

  constructor(options: ProberOptions) {
    this.#options = options;
  }

  isProbing(target: NodeId): boolean {
    return this.#probes.has(target);
  }

  start(target: NodeId, nowMs: number, options: { isJudgingUs: boolean }): void {
    if (this.#probes.has(target) || this.#probes.size >= probesMax) return;
    const { isJudgingUs } = options;
    const probe: Probe = {
      target,
      q: ++this.#q,
      isIndirect: false,
      dueMs: 0,
      asked: 0,
      nacks: 0,
      isJudgingUs,
    };
    this.#probes.set(target, probe);
    if (this.#options.isConnected(target)) this.#ping(probe, nowMs);
    else this.#goIndirect(probe, nowMs);
  }

  /** Any sign of life. */
  heard(target: NodeId): void {
    const probe = this.#probes.get(target);
    if (probe === undefined) return;
    this.#probes.delete(target);
    if (probe.isJudgingUs) this.#options.health.improve();
  }

  /** The connection to `target` broke: no use waiting for the direct answer. */
  hurry(target: NodeId, nowMs: number): void {
    const probe = this.#probes.get(target);
    if (probe !== undefined && !probe.isIndirect) this.#goIndirect(probe, nowMs);
  }

  forget(target: NodeId): void {
    this.#probes.delete(target);
  }

  /** Nothing in flight can be judged any more: we got no CPU ourselves. */
  clear(): void {
    this.#probes.clear();
    this.#relays.clear();
  }

  onAsk(asker: NodeId, request: { q: number; n: NodeId }, nowMs: number): void {
    if (this.#relays.size >= relaysMax) return;
    const q = ++this.#q;
    const dueMs = nowMs + this.#options.config.probeTimeoutMs * relayShare;
    this.#relays.set(q, { asker, askerQ: request.q, target: request.n, dueMs });
    this.#options.send(request.n, { k: 'ping', q });
  }

  /** A direct answer to one of our pings: passed on when it was made for somebody else. */
  onAck(from: NodeId, answer: { q: number; i: number }): void {
    const relay = this.#relays.get(answer.q);
    if (relay === undefined || relay.target !== from) return;
    this.#relays.delete(answer.q);
    this.#options.send(relay.asker, { k: 'ack', q: relay.askerQ, n: from, i: answer.i });
  }

  onNack(q: number): void {
    for (const probe of this.#probes.values()) if (probe.q === q) probe.nacks++;
  }

  /** True when the answer a helper passed on belongs to a probe in flight, which it ends. */
  onRelayedAck(target: NodeId, q: number): boolean {
    if (this.#probes.get(target)?.q !== q) return false;
    this.heard(target);
    return true;
  }

  tick(nowMs: number): void {
    for (const [q, relay] of this.#relays) {
      if (relay.dueMs > nowMs) continue;
      this.#relays.delete(q);
      this.#options.send(relay.asker, { k: 'nack', q: relay.askerQ });
    }
    // One that fails may begin anew at once; it is then met again, and not yet due.
    for (const probe of this.#probes.values()) {
      if (probe.dueMs > nowMs) continue;
      if (probe.isIndirect) this.#fail(probe, nowMs);
      else this.#goIndirect(probe, nowMs);
    }
  }

  nextDeadlineMs(): number {
    let nextMs = Number.POSITIVE_INFINITY;
    for (const probe of this.#probes.values()) nextMs = Math.min(nextMs, probe.dueMs);
    for (const relay of this.#relays.values()) nextMs = Math.min(nextMs, relay.dueMs);
    return nextMs;
  }

  #ping(probe: Probe, nowMs: number): void {
    this.#options.send(probe.target, { k: 'ping', q: probe.q });
    probe.dueMs = nowMs + this.#timeoutMs();
  }

  #goIndirect(probe: Probe, nowMs: number): void {
    probe.isIndirect = true;
    if (this.#options.isConnected(probe.target))
      this.#options.send(probe.target, { k: 'ping', q: probe.q });
    for (const helper of this.#options.helpers(probe.target)) {
      probe.asked++;
      this.#options.send(helper, { k: 'ask', q: probe.q, n: probe.target });
    }
    probe.dueMs = nowMs + this.#timeoutMs();
  }

  #fail(probe: Probe, nowMs: number): void {
    this.#probes.delete(probe.target);
    if (probe.isJudgingUs) {
      const missing = probe.asked === 0 ? 1 : probe.asked - probe.nacks;
      this.#options.health.worsen(Math.max(0, missing));
    }
    this.#options.onFailed(probe.target, nowMs);
  }

  #timeoutMs(): number {
    return this.#options.health.scaled(this.#options.config.probeTimeoutMs);
  }
}
