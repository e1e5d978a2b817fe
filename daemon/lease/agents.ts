/** The leases that this host has or may have: made when wanted, settled when touched or due, forgotten when idle. */
import type { HostId } from '../../crdt/ids.ts';
import { LeaseAgent } from './agent.ts';
import type { AgentState } from './agent.ts';
import type { Message } from './messages.ts';
import { leaseLimits } from './model.ts';
import type { LeaseName } from './model.ts';
import type { Shared } from './shared.ts';
import type { Turn } from './turn.ts';

/** Sweeps are at least so far apart, should a part name a deadline that has passed. */
export const sweepMsMin = 1;

/** From voters and other candidates. */
export type AgentMessage = Extract<
  Message,
  { kind: 'promise' | 'accepted' | 'reject' | 'learn' | 'expired' | 'handover' }
>;

export class Agents {
  readonly #shared: Shared;
  readonly #byName = new Map<LeaseName, LeaseAgent>();
  readonly #touched: LeaseAgent[] = [];

  constructor(shared: Shared) {
    this.#shared = shared;
  }

  get byName(): ReadonlyMap<LeaseName, LeaseAgent> {
    return this.#byName;
  }

  get(name: LeaseName): LeaseAgent | undefined {
    return this.#byName.get(name);
  }

  all(): Iterable<LeaseAgent> {
    return this.#byName.values();
  }

  /** Made when missing; null: there are too many. */
  add(name: LeaseName): LeaseAgent | null {
    const known = this.#byName.get(name);
    if (known) return known;
    if (this.#byName.size >= leaseLimits.leasesMax) return null;
    const agent = new LeaseAgent(name, this.#shared);
    this.#byName.set(name, agent);
    return agent;
  }

  /** It decides before this turn is over. */
  touch(agent: LeaseAgent | undefined | null): void {
    if (agent && !this.#touched.includes(agent)) this.#touched.push(agent);
  }

  each(act: (agent: LeaseAgent) => void): void {
    for (const agent of this.#byName.values()) {
      act(agent);
      this.touch(agent);
    }
  }

  volatile(): readonly AgentState[] {
    const states: AgentState[] = [];
    for (const agent of this.#byName.values()) states.push(agent.volatile());
    return states;
  }

  /** False: something may run without authority. */
  isSafe(authorityMs: number): boolean {
    for (const agent of this.#byName.values())
      if (!agent.isParked && !agent.gate.isSafe(authorityMs)) return false;
    return true;
  }

  /** True when nothing runs here by a park that forced voters would not know. */
  endParks(turn: Turn): boolean {
    let isDone = true;
    for (const agent of this.#byName.values()) {
      if (agent.isParked) {
        agent.forcedOut(turn);
        this.touch(agent);
      }
      if (agent.isOusted) isDone = false;
    }
    return isDone;
  }

  get hasTouched(): boolean {
    return this.#touched.length > 0;
  }

  onMessage(from: HostId, message: AgentMessage, turn: Turn): void {
    const isOwnPark =
      message.kind === 'learn' && message.state === 'parked' && message.owner.host === turn.self;
    // Of what nobody wants any more, and nothing is known of, a park may be left with voters: it is ended.
    const agent = isOwnPark ? this.add(message.name) : this.#byName.get(message.name);
    if (!agent) return;
    if (message.kind === 'learn') agent.onLearn(from, message, turn);
    else if (message.kind === 'expired') agent.onExpired(message, turn);
    else if (message.kind === 'handover') agent.onHandover(from, message, turn);
    else agent.onAnswer(from, message, turn);
    this.touch(agent);
  }

  /** Every lease whose time has come, and those that are renewed together with it. Returns when the next one is due. */
  settleDue(turn: Turn): number {
    for (const agent of this.#byName.values()) {
      if (agent.dueMs > turn.authorityMs) continue;
      this.#settle(agent, turn);
      if (agent.desired === null && agent.isIdle) this.#byName.delete(agent.name);
    }
    let dueMs = Infinity;
    const isRenewing = this.#shared.renewedAtMs === turn.authorityMs;
    for (const agent of this.#byName.values()) {
      if (isRenewing && agent.isRenewalDue(turn)) this.#settle(agent, turn);
      if (agent.dueMs < dueMs) dueMs = agent.dueMs;
    }
    this.#callWaiting();
    return dueMs;
  }

  /** As `settleDue`, of those that were touched. */
  settleTouched(turn: Turn): number {
    let dueMs = Infinity;
    while (this.#touched.length > 0) {
      const agent = this.#touched.pop()!;
      this.#settle(agent, turn);
      if (agent.dueMs < dueMs) dueMs = agent.dueMs;
      if (agent.desired === null && agent.isIdle) this.#byName.delete(agent.name);
      if (this.#touched.length === 0) this.#callWaiting();
    }
    return dueMs;
  }

  /** Attempts may have ended: those that were kept waiting for it decide in this turn. */
  #callWaiting(): void {
    const isTrying = (name: LeaseName): boolean =>
      this.#byName.get(name)?.proposer.purpose === 'acquire';
    for (const name of this.#shared.admission.call(isTrying)) this.touch(this.#byName.get(name));
  }

  #settle(agent: LeaseAgent, turn: Turn): void {
    agent.settle(turn);
    agent.dueMs = Math.max(agent.nextMs(), turn.authorityMs + sweepMsMin);
  }
}
