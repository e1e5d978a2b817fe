/**
 * Several chains, a network that does what the test says, and disks that keep what was synced. Every world checks at every
 * step what may never happen: two links of one number, a vote before its time, a pair's vote without full intent.
 */
import type { HostId } from '../../../crdt/ids.ts';
import { Chain } from '../../../daemon/lease/chain.ts';
import type { Adoption, ChainMessage } from '../../../daemon/lease/chain.ts';
import type { Slot } from '../../../daemon/lease/chain-voter.ts';
import type { CoreEffect, DurableRecord } from '../../../daemon/lease/core-api.ts';
import type { ChosenConfig, Instant, LeaseFloor } from '../../../daemon/lease/model.ts';
import {
  compareRefs,
  configHash,
  firstConfig,
  voteWaitMs,
} from '../../../daemon/lease/voter-config.ts';
import type { Random } from '../../../daemon/ports.ts';

export const worldEnv = 'prod';
/** Of the link that a world with `voters` begins with. */
export const startN = 9;

/** 'a', 'b', ... as whole host ids. */
export function host(letter: string): HostId {
  return letter.repeat(32) as HostId;
}

export function hosts(letters: string): HostId[] {
  return letters.split('').map(host);
}

/** 'abc' of whole host ids. */
export function letters(ids: readonly HostId[]): string {
  return ids.map((id) => id[0]).join('');
}

/** xorshift; good enough to shuffle. */
export function seededRandom(seed: number): Random {
  let state = (seed ^ 0x9e3779b9) >>> 0 || 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state / 2 ** 32;
  };
  return {
    next,
    bytes: (count) => Uint8Array.from({ length: count }, () => Math.floor(next() * 256)),
  };
}

export interface Letter {
  readonly from: HostId;
  readonly to: HostId;
  readonly message: ChainMessage;
}

type Persist = Extract<CoreEffect, { kind: 'persist' }>;

/** One host: its chain, its disk, and the epochs that its acceptor would know. */
export class ChainHost {
  readonly id: HostId;
  readonly world: ChainWorld;
  readonly isFounder: boolean;
  chain: Chain;
  durable: DurableRecord[] = [];
  /** Asked for, not yet on the disk. */
  unsynced: Persist[] = [];
  adoptions: Adoption[] = [];
  events: string[] = [];
  epochs = new Map<string, LeaseFloor>();
  rest = 0;
  isSilent = false;
  isUp = true;
  sinceMs = 0;
  fullSinceMs: number | null = null;
  #token = 0;
  #runs = 0;

  constructor(world: ChainWorld, id: HostId, isFounder: boolean) {
    this.world = world;
    this.id = id;
    this.isFounder = isFounder;
    this.chain = this.#make();
    this.sinceMs = world.nowMs;
  }

  begin(): void {
    this.run((now) => this.chain.start(now));
  }

  #make(): Chain {
    this.#runs += 1;
    return new Chain({
      self: this.id,
      env: worldEnv,
      durable: this.durable,
      random: seededRandom((this.id.codePointAt(0) ?? 0) * 1_000 + this.#runs + this.world.seed),
      isFounder: this.isFounder,
      ports: {
        floors: () => ({ floors: [...this.epochs.values()], rest: this.rest }),
        raiseFloors: (floors, rest) => this.raise(floors, rest),
        token: () => ++this.#token,
        isSilent: () => this.isSilent,
        adopted: (adoption) => {
          this.adoptions.push(adoption);
          this.sinceMs = this.world.nowMs;
          return [];
        },
      },
    });
  }

  /** As if it had had this link before. */
  remember(chosen: ChosenConfig): void {
    this.durable.push({ kind: 'chosen', chosen });
    this.restart();
  }

  /** What it has voted for as the next link, as its disk knows. */
  accepted(): unknown {
    const last = this.durable.findLast((record) => record.kind === 'chain');
    const { slot } = (last?.state ?? { slot: null }) as { slot: Slot | null };
    return slot?.n === this.chain.ref().n ? slot.accepted : null;
  }

  raise(floors: readonly LeaseFloor[], rest: number): void {
    this.rest = Math.max(this.rest, rest);
    for (const floor of floors) {
      if (floor.epoch > this.epoch(floor.name)) this.epochs.set(floor.name, floor);
    }
  }

  epoch(name: string): number {
    return Math.max(this.epochs.get(name)?.epoch ?? 0, this.rest);
  }

  /** Everything that was not synced is lost; epochs are durable, as an acceptor's are. */
  crash(): void {
    this.isUp = false;
    this.unsynced = [];
    this.durable = this.durable.filter((record) => record.kind !== this.world.forgets);
  }

  restart(): void {
    this.isUp = true;
    this.chain = this.#make();
    this.sinceMs = this.world.nowMs;
    this.fullSinceMs = this.chain.isFull() ? this.world.nowMs : null;
    this.begin();
  }

  run(act: (now: Instant) => CoreEffect[]): void {
    if (!this.isUp) return;
    this.carryOut(act(this.world.now()));
    const isFull = this.chain.isFull();
    if (!isFull) this.fullSinceMs = null;
    else this.fullSinceMs ??= this.world.nowMs;
    this.world.check(this);
  }

  carryOut(effects: readonly CoreEffect[]): void {
    for (const effect of effects) {
      if (effect.kind === 'send') {
        if (effect.to === this.id) throw new Error('sent to itself');
        this.world.post({ from: this.id, to: effect.to, message: effect.message as ChainMessage });
      } else if (effect.kind === 'persist') {
        this.unsynced.push(effect);
        if (!this.world.hasSlowDisks) this.sync();
      } else if (effect.kind === 'notice' && effect.notice.kind === 'event') {
        this.events.push(effect.notice.event);
      }
    }
  }

  /** The oldest write reaches the disk. */
  sync(): void {
    const persist = this.unsynced.shift();
    if (persist === undefined) return;
    this.durable.push(...persist.records);
    this.world.voted(this, persist.records);
    this.carryOut(persist.then);
    this.run((now) => this.chain.persisted(persist.token, now));
  }
}

function linkOf(voters: readonly HostId[]): ChosenConfig {
  const { config } = firstConfig(worldEnv, host('a'));
  return {
    config: { ...config, n: startN, prevHash: '9'.repeat(64), voters },
    electorate: voters.slice(1),
    votes: voters.slice(1),
  };
}

export class ChainWorld {
  readonly seed: number;
  readonly hosts = new Map<HostId, ChainHost>();
  nowMs = 1_000_000;
  mail: Letter[] = [];
  hasSlowDisks = false;
  /** Records that a crash loses, to see that it is noticed. */
  forgets: DurableRecord['kind'] | null = null;
  /** Drops what it says so of. */
  filter: (letter: Letter) => boolean = () => true;
  /** By 'generation.n': the one link of that number. */
  readonly links = new Map<string, ChosenConfig>();

  /** `voters`: begins with a link of these, which every host has had for long. */
  constructor(names: string, options: { seed?: number; founder?: string; voters?: string } = {}) {
    this.seed = options.seed ?? 1;
    for (const letter of names) {
      const id = host(letter);
      const one = new ChainHost(this, id, letter === (options.founder ?? names[0]));
      this.hosts.set(id, one);
      if (options.voters !== undefined) one.remember(linkOf(hosts(options.voters)));
      else one.begin();
    }
    if (options.voters !== undefined) this.nowMs += 600_000;
  }

  host(letter: string): ChainHost {
    const found = this.hosts.get(host(letter));
    if (found === undefined) throw new Error(`no host ${letter}`);
    return found;
  }

  now(): Instant {
    return { monoMs: this.nowMs, authorityMs: this.nowMs };
  }

  post(letter: Letter): void {
    if (this.filter(letter)) this.mail.push(letter);
  }

  deliver(index: number, isKept = false): void {
    const letter = this.mail[index];
    if (letter === undefined) return;
    if (!isKept) this.mail.splice(index, 1);
    const to = this.hosts.get(letter.to);
    to?.run((now) => to.chain.handle(letter.from, letter.message, now));
  }

  /** Time goes on; everything arrives at once, whoever is due is woken. */
  run(forMs: number, until: () => boolean = () => false): boolean {
    const endMs = this.nowMs + forMs;
    for (;;) {
      while (this.mail.length > 0) this.deliver(0);
      if (until()) return true;
      if (this.nowMs >= endMs) return false;
      const up = [...this.hosts.values()].filter((one) => one.isUp);
      const dueMs = Math.min(...up.map((one) => one.chain.nextDeadlineMs()));
      this.nowMs = Math.min(endMs, Math.max(this.nowMs + 1, dueMs));
      for (const one of up) one.run((now) => one.chain.tick(now));
    }
  }

  /** Lease messages between all: whoever is behind hears of it. */
  gossip(): void {
    for (const one of this.hosts.values()) {
      for (const other of this.hosts.values()) {
        if (one === other) continue;
        this.nowMs += 100;
        const ref = other.chain.ref();
        one.run((now) => one.chain.meet(other.id, ref, now).effects);
        while (this.mail.length > 0) this.deliver(0);
      }
    }
  }

  /** Voters as the host knows them: 'abc'. */
  voters(letter: string): string {
    return letters(this.host(letter).chain.current()?.config.voters ?? []);
  }

  /** Has every one of these hosts the same voters, and these? */
  agree(names: string, voters: string): boolean {
    return names.split('').every((letter) => this.voters(letter) === voters);
  }

  check(one: ChainHost): void {
    const chosen = one.chain.current();
    if (chosen === null) return;
    const key = `${chosen.config.generation}.${chosen.config.n}`;
    const known = this.links.get(key);
    if (known === undefined) this.links.set(key, chosen);
    else if (known !== chosen && configHash(known.config) !== configHash(chosen.config)) {
      throw new Error(`two links ${key}`);
    }
    const last = one.adoptions.at(-1);
    if (last !== undefined && compareRefs(last.chosen.config, chosen.config) > 0) {
      throw new Error('went back');
    }
    const isOnDisk = one.durable.some(
      (record) => record.kind === 'chosen' && record.chosen === chosen,
    );
    if (!isOnDisk) throw new Error('acts on a link that is not on its disk');
    const isPair = chosen.config.voters.length === 2;
    if (isPair && one.accepted() !== null && !one.chain.isFull()) {
      throw new Error('a pair voted and is not full');
    }
  }

  /** A vote reached the disk: it must have been its time. */
  voted(one: ChainHost, records: readonly DurableRecord[]): void {
    const chosen = one.chain.current();
    for (const record of records) {
      if (record.kind !== 'chain' || chosen === null) continue;
      if (one.accepted() === null) continue;
      const waitMs = voteWaitMs(chosen.config.ttlMsMax);
      if (this.nowMs < one.sinceMs + waitMs) throw new Error('voted too soon');
      if (chosen.config.voters.length !== 2) continue;
      if (one.fullSinceMs === null || this.nowMs < one.fullSinceMs + waitMs) {
        throw new Error('a pair voted without intent');
      }
    }
  }
}
