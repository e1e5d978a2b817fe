/**
 * What a guard says again and again, apart from its leases: to voters that it waits for some, to peers that it does not know
 * who votes by now, and to people that the daemon is gone. All times on the authority clock.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { ConfigRef, Watch } from './messages.ts';
import type { LeaseName } from './model.ts';
import type { Turn } from './turn.ts';

/** Candidates remind the voters so often that they wait. */
const watchIntervalMs = 3_000;
/** A guard that starts with no memory asks all peers who votes by now, so often and so many times. */
const askIntervalMs = 1_000;
const asksMax = 4;
/** The daemon is gone: said after this. */
const daemonDownMs = 5_000;

export interface ReminderPorts {
  leases(): Iterable<{
    readonly name: LeaseName;
    readonly hasToHear: boolean;
    readonly isHolding: boolean;
    readonly hasGate: boolean;
  }>;
  peers(): Iterable<HostId>;
  ref(): ConfigRef;
  /** In force; null: none are known. */
  voters(): readonly HostId[] | null;
  /** The voter on this host grants it to another one now: it hears every renewal, a release too, and tells of the end itself. */
  isHeardHere(name: LeaseName, turn: Turn): boolean;
}

export class Reminders {
  readonly #ports: ReminderPorts;
  #watchMs = -Infinity;
  #askMs = Infinity;
  #asksLeft = 0;
  #daemonAlarmMs = Infinity;

  constructor(ports: ReminderPorts) {
    this.#ports = ports;
  }

  nextMs(): number {
    return Math.min(this.#watchMs, this.#askMs, this.#daemonAlarmMs);
  }

  tick(turn: Turn): void {
    if (turn.authorityMs >= this.#watchMs) this.#watchAll(turn);
    if (turn.authorityMs >= this.#daemonAlarmMs) this.#alarmDaemon(turn);
    if (turn.authorityMs >= this.#askMs) this.#askPeers(turn);
  }

  /** This guard has forgotten, and others may have been made voters meanwhile: it asks as soon as it knows whom. */
  mustAsk(): void {
    this.#asksLeft = asksMax;
  }

  /** There are new peers or leases. */
  onDesired(turn: Turn): void {
    this.#watchMs = turn.authorityMs;
    if (this.#asksLeft > 0 || this.#ports.voters() === null)
      this.#askMs = Math.min(this.#askMs, turn.authorityMs);
  }

  onVoters(turn: Turn): void {
    this.#watchMs = turn.authorityMs;
  }

  /** Without having said so. */
  onDaemonGone(turn: Turn): void {
    this.#daemonAlarmMs = turn.authorityMs + daemonDownMs;
  }

  onDaemonHere(): void {
    this.#daemonAlarmMs = Infinity;
  }

  #watchAll(turn: Turn): void {
    this.#watchMs = turn.authorityMs + watchIntervalMs;
    const names: LeaseName[] = [];
    for (const lease of this.#ports.leases()) if (lease.hasToHear) names.push(lease.name);
    this.sendWatch(names, turn);
  }

  /**
   * Waited for from now on, or still. Voters answer for each of them: not all are asked for when one is lost, since then
   * hundreds that are lost together make a hundred thousand answers. The other voters need not say what our own one knows.
   */
  sendWatch(names: readonly LeaseName[], turn: Turn): void {
    const voters = this.#ports.voters();
    if (!voters || names.length === 0) return;
    const unheard = names.filter((name) => !this.#ports.isHeardHere(name, turn));
    for (const voter of voters) {
      const wanted = voter === turn.self ? names : unheard;
      if (wanted.length > 0) turn.send(voter, this.#watch(wanted));
    }
  }

  #watch(names: readonly LeaseName[]): Watch {
    return { kind: 'watch', env: this.#ports.ref().env, names };
  }

  #askPeers(turn: Turn): void {
    if (this.#asksLeft > 0) this.#asksLeft--;
    // Who knows no voters at all can do nothing else.
    const mustAsk = this.#asksLeft > 0 || this.#ports.voters() === null;
    this.#askMs = mustAsk ? turn.authorityMs + askIntervalMs : Infinity;
    const ref = this.#ports.ref();
    for (const peer of this.#ports.peers())
      if (peer !== turn.self) turn.send(peer, { kind: 'config-ask', ...ref });
  }

  #alarmDaemon(turn: Turn): void {
    this.#daemonAlarmMs = Infinity;
    for (const lease of this.#ports.leases()) {
      if (!lease.isHolding || !lease.hasGate) continue;
      const text = 'the daemon of the holder does not run; the lease is renewed on';
      turn.event('lease.daemon-down', 'alarm', lease.name, text);
    }
  }
}
