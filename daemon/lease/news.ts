/** What becomes of a lease is told: to people as events and history, to the other guards as hints. */
import type { HostId } from '../../crdt/ids.ts';
import type { GivingKind } from './handover.ts';
import type { Hints } from './hints.ts';
import type { Epoch, LeaseName, Owner } from './model.ts';
import type { Shared } from './shared.ts';
import { History } from './status.ts';
import type { Turn } from './turn.ts';

/** What it needs of the lease. */
export interface NewsHost {
  readonly name: LeaseName;
  readonly epoch: Epoch;
  readonly hints: Hints;
  /** Other hosts that may take it. */
  others(): readonly HostId[];
}

export class News {
  readonly #host: NewsHost;
  readonly #shared: Shared;
  readonly history = new History();
  /** The newest that is in the history as somebody's. */
  #newest: Epoch = 0;

  constructor(host: NewsHost, shared: Shared) {
    this.#host = host;
    this.#shared = shared;
  }

  /** `from`: who had it before and did not give it back; null: nobody. */
  acquired(wasForced: boolean, from: Owner | null, turn: Turn): void {
    const { name, epoch } = this.#host;
    const isOther = from !== null && from.host !== turn.self;
    const how = wasForced ? 'was declared dead' : 'did not renew it';
    const why = isOther ? `${from.host} ${how}` : '';
    const what = wasForced ? 'forced' : 'acquired';
    this.#newest = Math.max(this.#newest, epoch);
    this.history.add(what, epoch, turn.self, why, turn.authorityMs);
    const words = why === '' ? `epoch ${epoch}` : `epoch ${epoch}, ${why}`;
    turn.event(`lease.${what}`, 'info', name, words);
  }

  /** Another host has it: so every history has all changes of host that its guard lived to hear of. */
  heard(host: HostId, epoch: Epoch, turn: Turn): void {
    if (epoch <= this.#newest) return;
    this.#newest = epoch;
    this.history.add('acquired', epoch, host, 'as it was heard of', turn.authorityMs);
  }

  /** The whole environment: routes follow the holder. */
  tellAll(state: 'active' | 'parked', turn: Turn): void {
    const peers = this.#shared.desired?.peers.map((peer) => peer.host) ?? [];
    this.#host.hints.tell(state, peers, turn);
  }

  lost(turn: Turn): void {
    const { name, epoch } = this.#host;
    this.history.add('expired', epoch, turn.self, 'not renewed in time', turn.authorityMs);
    turn.event('lease.lost', 'warn', name, `epoch ${epoch} ran out`);
  }

  released(kind: GivingKind, why: string, turn: Turn): void {
    const { name, epoch, hints } = this.#host;
    const what = { handover: 'handed-over', 'start-failed': 'start-failed' } as const;
    const entry = kind === 'handover' || kind === 'start-failed' ? what[kind] : 'released';
    this.history.add(entry, epoch, turn.self, why, turn.authorityMs);
    turn.event(`lease.${entry}`, kind === 'start-failed' ? 'warn' : 'info', name, why);
    hints.tell('released', this.#host.others(), turn);
  }

  parked(turn: Turn): void {
    const { name, epoch } = this.#host;
    this.history.add('parked', epoch, turn.self, '', turn.authorityMs);
    turn.event('lease.parked', 'info', name, `epoch ${epoch}`);
    this.tellAll('parked', turn);
  }

  unparked(turn: Turn): void {
    const { name, epoch, hints } = this.#host;
    turn.event('lease.unparked', 'info', name, `epoch ${epoch}`);
    hints.tell('active', this.#host.others(), turn);
  }

  /** `epoch`: the one of who took it. */
  taken(owner: Owner, epoch: Epoch, turn: Turn): void {
    const text = `${owner.host} took it by force, epoch ${epoch}`;
    turn.event('lease.taken', 'alarm', this.#host.name, text);
  }
}
