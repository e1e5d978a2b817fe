/** What the daemon and people ask of the guard, checked, and handed to the lease that it concerns. */
import type { HostId } from '../../crdt/ids.ts';
import type { Acceptor } from './acceptor.ts';
import type { LeaseAgent } from './agent.ts';
import type { Chain } from './chain.ts';
import { pauseMsMax } from './gate.ts';
import type { GuardCommand, GuardReply } from './guard-api.ts';
import { leaseLimits } from './model.ts';
import type { Instant, LeaseName } from './model.ts';
import { clockMarginMs, clockRateError } from './profiles.ts';
import type { Shared } from './shared.ts';
import type { Turn } from './turn.ts';

export interface CommandParts {
  readonly shared: Shared;
  readonly agents: ReadonlyMap<LeaseName, LeaseAgent>;
  readonly acceptor: Acceptor;
  readonly chain: Chain;
  readonly isListed: (name: LeaseName) => boolean;
  /** Made when missing; null: there are too many. */
  readonly agent: (name: LeaseName) => LeaseAgent | null;
  readonly touch: (agent: LeaseAgent) => void;
  readonly daemonStopping: () => void;
}

/** A command for several leases: answered when all of them have answered. */
interface Group {
  readonly id: number;
  left: number;
  fault: GuardReply | null;
}

interface Forcing {
  readonly id: number;
  readonly generation: number;
  readonly untilMs: number;
}

/** Longer than a force takes once its wait is over. */
const forceMsMax = 70_000;

export class Commands {
  readonly #parts: CommandParts;
  readonly #groups = new Map<number, Group>();
  #inner = 0;
  #forcing: Forcing | null = null;

  constructor(parts: CommandParts) {
    this.#parts = parts;
  }

  run(id: number, command: GuardCommand, turn: Turn, now: Instant): void {
    turn.onInnerReply ??= (inner, reply) => this.#onInner(inner, reply, turn);
    switch (command.kind) {
      case 'acquire':
        this.#acquire(id, command, turn);
        return;
      case 'park':
      case 'unpark':
        if (command.name === null) this.#all(id, command.kind, turn);
        else
          this.#one(id, command.name, turn, (agent) => this.#park(id, command.kind, agent, turn));
        return;
      case 'force-voters':
        this.#forceVoters(id, command.voters, command.assertDead, turn, now);
        return;
      case 'pause':
        this.#one(id, command.name, turn, (agent) => this.#pause(id, agent, command.maxMs, turn));
        return;
      case 'resume':
        this.#one(id, command.name, turn, (agent) => {
          if (agent.gate.resumePaused(turn)) turn.reply(id, { isOk: true, epoch: agent.epoch });
          else this.#busy(id, agent, 'it did not stand still until now', turn);
        });
        return;
      case 'daemon-stopping':
        this.#parts.daemonStopping();
        turn.reply(id, { isOk: true });
        return;
      case 'exit':
        this.#exit(id, command.isForced, turn);
        return;
      case 'switch':
      case 'release':
      case 'force-active':
      case 'prepared':
      case 'stopped':
      case 'settled':
      case 'start-failed':
        this.#one(id, command.name, turn, (agent) => this.#onAgent(id, command, agent, turn));
    }
  }

  nextMs(): number {
    return this.#forcing?.untilMs ?? Infinity;
  }

  /** A force is done when its generation is in force. */
  tick(turn: Turn): void {
    const forcing = this.#forcing;
    if (!forcing) return;
    if (this.#parts.chain.ref().generation > forcing.generation) {
      this.#forcing = null;
      turn.reply(forcing.id, { isOk: true });
    } else if (turn.authorityMs >= forcing.untilMs) {
      this.#forcing = null;
      this.#noQuorum(forcing.id, 'not all survivors answered', turn);
    }
  }

  #one(id: number, name: LeaseName, turn: Turn, act: (agent: LeaseAgent) => void): void {
    const agent = this.#parts.agents.get(name);
    if (!agent) {
      turn.refuse(id, 'LEASE_UNKNOWN', { name });
      return;
    }
    act(agent);
    this.#parts.touch(agent);
  }

  #onAgent(
    id: number,
    command: Extract<
      GuardCommand,
      {
        kind:
          | 'switch'
          | 'release'
          | 'force-active'
          | 'prepared'
          | 'stopped'
          | 'settled'
          | 'start-failed';
      }
    >,
    agent: LeaseAgent,
    turn: Turn,
  ): void {
    switch (command.kind) {
      case 'switch':
        this.#switch(id, agent, command.to, command.reason, turn);
        return;
      case 'release':
        this.#release(id, agent, command.reason, turn);
        return;
      case 'force-active':
        this.#forceActive(id, agent, command.of ?? null, turn);
        return;
      case 'prepared':
        this.#told(
          id,
          agent,
          turn,
          agent.handovers.onPrepared(command.id, command.isReady, command.why, turn),
        );
        return;
      case 'stopped':
        this.#told(
          id,
          agent,
          turn,
          agent.handovers.onStopped(command.id, command.isStopped, command.why, turn),
        );
        return;
      case 'settled':
        this.#told(
          id,
          agent,
          turn,
          agent.handovers.onSettled(command.id, command.isSettled, command.why, turn),
        );
        return;
      case 'start-failed':
        if (!this.#isHeld(id, agent, turn)) return;
        if (command.epoch === agent.epoch)
          agent.handovers.giveUp('start-failed', agent.newId(), command.why, id, turn);
        else this.#busy(id, agent, `epoch ${agent.epoch} is in force, not ${command.epoch}`, turn);
    }
  }

  #told(id: number, agent: LeaseAgent, turn: Turn, isExpected: boolean): void {
    if (isExpected) turn.reply(id, { isOk: true });
    else this.#busy(id, agent, 'nothing waits for this answer any more', turn);
  }

  #isHeld(id: number, agent: LeaseAgent, turn: Turn): boolean {
    const host = this.#parts.shared.self;
    if (agent.isParked) turn.refuse(id, 'LEASE_PARKED', { name: agent.name, host });
    else if (!agent.isHolding)
      turn.refuse(id, 'LEASE_NOT_HELD', {
        name: agent.name,
        host,
        reason: 'another host may hold it',
      });
    return agent.isHolding && !agent.isParked;
  }

  /** Also of what is only asked for yet: whoever asked may be gone, and would hold it for nobody. */
  #release(id: number, agent: LeaseAgent, why: string, turn: Turn): void {
    const wasAsked = agent.cancelAcquire(turn);
    if (wasAsked && !agent.isHolding) turn.reply(id, { isOk: true });
    else if (this.#isHeld(id, agent, turn))
      agent.handovers.giveUp('release', agent.newId(), why, id, turn);
  }

  #pause(id: number, agent: LeaseAgent, maxMs: number, turn: Turn): void {
    if (!(maxMs >= 1 && maxMs <= pauseMsMax)) {
      turn.refuse(id, 'INVALID', { reason: `a pause lasts 1 to ${pauseMsMax} ms, not ${maxMs}` });
      return;
    }
    if (!this.#isHeld(id, agent, turn)) return;
    const reason = agent.handovers.isGiving
      ? 'it is being handed over'
      : agent.gate.pause(turn, maxMs, id);
    if (reason !== null) this.#busy(id, agent, reason, turn);
  }

  #switch(id: number, agent: LeaseAgent, to: HostId | null, reason: string, turn: Turn): void {
    if (!this.#isHeld(id, agent, turn)) return;
    const { name } = agent;
    const others = agent.others();
    if (to === this.#parts.shared.self)
      turn.reply(id, { isOk: true, epoch: agent.epoch, holder: to });
    else if (agent.isFrozen)
      turn.refuse(id, 'LEASE_FROZEN', { name, reason: 'an operator froze it or the environment' });
    else if (agent.handovers.isGiving) this.#busy(id, agent, 'it is being handed over', turn);
    else if (to !== null && !others.includes(to))
      turn.refuse(id, 'LEASE_DENIED', { name, host: to, reason: 'it is no candidate' });
    else if (others.length === 0) this.#busy(id, agent, 'no other host is a candidate', turn);
    else agent.handovers.give(agent.newId(), to, reason, id, turn);
  }

  #acquire(id: number, command: Extract<GuardCommand, { kind: 'acquire' }>, turn: Turn): void {
    const { name } = command.lease;
    if (name === '' || name.length > leaseLimits.nameCharsMax || this.#parts.isListed(name)) {
      turn.refuse(id, 'LEASE_DENIED', {
        name,
        host: this.#parts.shared.self,
        reason: 'it is held for a service or storage, or has no valid name',
      });
      return;
    }
    const agent = this.#parts.agent(name);
    if (!agent || agent.desired !== null || !agent.isIdle) {
      turn.refuse(id, 'LEASE_BUSY', {
        name,
        reason: agent ? 'this host has it' : 'too many leases',
      });
      return;
    }
    const { self } = this.#parts.shared;
    const { candidates } = command.lease;
    agent.setDesired(
      { ...command.lease, candidates: candidates.includes(self) ? candidates : [self] },
      turn,
    );
    agent.acquire(id, command, turn);
    this.#parts.touch(agent);
  }

  #all(id: number, kind: 'park' | 'unpark', turn: Turn): void {
    // A lock ends with whoever asked, who is not there any more when the guard is back.
    const affected = [...this.#parts.agents.values()].filter((agent) =>
      kind === 'park' ? agent.isHolding && !isLock(agent) : agent.isParked,
    );
    if (affected.length === 0) {
      turn.reply(id, { isOk: true });
      return;
    }
    const group: Group = { id, left: affected.length, fault: null };
    for (const agent of affected) {
      const inner = --this.#inner;
      this.#groups.set(inner, group);
      // Nothing runs under these: others may go on without this host.
      if (kind === 'park' && !agent.hasGate)
        agent.handovers.giveUp('release', agent.newId(), 'parked', inner, turn);
      else this.#park(inner, kind, agent, turn);
      this.#parts.touch(agent);
    }
  }

  #park(id: number, kind: 'park' | 'unpark', agent: LeaseAgent, turn: Turn): void {
    const { name } = agent;
    const host = this.#parts.shared.self;
    if (kind === 'park' && agent.isByCommand) {
      const reason = 'it ends with whoever asked for it';
      turn.refuse(id, 'LEASE_DENIED', { name, host, reason });
    } else if (kind === 'park' && agent.isFencing)
      this.#busy(id, agent, 'its last owner is being fenced', turn);
    else if (agent.isParking) this.#busy(id, agent, 'it is being parked or unparked', turn);
    else if (kind === 'park') {
      if (agent.isParked) turn.reply(id, { isOk: true, epoch: agent.epoch });
      else if (!agent.isHolding)
        turn.refuse(id, 'LEASE_NOT_HELD', { name, host, reason: 'only its holder can park it' });
      else agent.park(id, turn);
    } else if (agent.isParked) agent.unpark(id, turn);
    else if (agent.isHolding) turn.reply(id, { isOk: true, epoch: agent.epoch });
    else turn.refuse(id, 'LEASE_NOT_HELD', { name, host, reason: 'it is not parked by this host' });
  }

  #onInner(inner: number, reply: GuardReply, turn: Turn): void {
    const group = this.#groups.get(inner);
    if (!group) return;
    this.#groups.delete(inner);
    if (!reply.isOk) group.fault ??= reply;
    if (--group.left === 0) turn.reply(group.id, group.fault ?? { isOk: true });
  }

  #forceActive(id: number, agent: LeaseAgent, of: HostId | null, turn: Turn): void {
    const { self, electorate } = this.#parts.shared;
    const { name } = agent;
    if (agent.isHolding) turn.reply(id, { isOk: true, epoch: agent.epoch, holder: self });
    else if (agent.isParked) turn.refuse(id, 'LEASE_PARKED', { name, host: self });
    else if (
      ![...(agent.desired?.candidates ?? []), ...(agent.desired?.forceable ?? [])].includes(self)
    )
      turn.refuse(id, 'LEASE_DENIED', { name, host: self, reason: 'this host is no candidate' });
    else if (!electorate) this.#noQuorum(id, 'no voters are known here', turn);
    else {
      const longest = (electorate.ttlMsMax * (1 + clockRateError)) / (1 - clockRateError);
      agent.force(id, of, longest + clockMarginMs, turn);
    }
  }

  #forceVoters(
    id: number,
    voters: readonly HostId[],
    assertDead: readonly HostId[],
    turn: Turn,
    now: Instant,
  ): void {
    const { chain } = this.#parts;
    if (this.#forcing) {
      turn.refuse(id, 'LEASE_BUSY', { name: 'voters', reason: 'a force is under way' });
      return;
    }
    const { generation } = chain.ref();
    const answer = chain.force(voters, assertDead, now);
    if (!answer.isOk) {
      turn.refuse(id, 'INVALID', { reason: `voters were not forced: ${answer.reason}` });
      return;
    }
    for (const effect of answer.effects) turn.push(effect);
    const untilMs = turn.authorityMs + answer.waitMs + forceMsMax;
    this.#forcing = { id, generation, untilMs };
  }

  #exit(id: number, isForced: boolean, turn: Turn): void {
    const { agents, chain, acceptor, shared } = this.#parts;
    const held = [...agents.values()].find((agent) => agent.isHolding);
    const voters = chain.current()?.config.voters.length ?? 0;
    const isNeeded = (chain.isVoter() && voters > 1) || acceptor.hasGrantOfOthers(turn.monoMs);
    if (isForced || (!held && !isNeeded)) turn.reply(id, { isOk: true });
    else if (held)
      turn.refuse(id, 'LEASE_BUSY', { name: held.name, reason: `host ${shared.self} holds it` });
    else turn.refuse(id, 'LEASE_BUSY', { name: 'voters', reason: 'this host is a voter' });
  }

  #busy(id: number, agent: LeaseAgent, reason: string, turn: Turn): void {
    turn.refuse(id, 'LEASE_BUSY', { name: agent.name, reason });
  }

  #noQuorum(id: number, reason: string, turn: Turn): void {
    turn.refuse(id, 'NO_QUORUM', { env: this.#parts.chain.ref().env, reason });
  }
}

/** Taken by command, for what runs under it. */
function isLock(agent: LeaseAgent): boolean {
  return agent.isByCommand && agent.hasGate;
}
