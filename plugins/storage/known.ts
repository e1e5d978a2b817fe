/**
 * What is the newest content of a storage, as far as this host has heard: from the active host's facts and from what it
 * kept itself. Versions are numbers of one epoch; hearing times are this host's own clock.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { StorageFact } from '../../crdt/model.ts';
import type { StorageState } from './layout.ts';

const heardMax = 600;
/** A fact of the active host that is older than this says nothing of the present: it may be dead. */
const freshMs = 5_000;
/** The active host looks for new writes about so often, or more. */
const lookMsMax = 2_000;

export class Known {
  #epoch: number;
  #version: number;
  /** When each version of the newest epoch was first heard of, oldest first. */
  #heard: { version: number; atMs: number }[] = [];
  #isActiveFresh = false;
  /** With which content the active host of an epoch began. */
  #takenOver: { epoch: number; from: { epoch: number; version: number } } | null = null;

  constructor(state: StorageState) {
    this.#epoch = Math.max(state.knownEpoch, state.epoch);
    this.#version = state.knownEpoch >= state.epoch ? state.knownVersion : state.version;
  }

  get newest(): { readonly epoch: number; readonly version: number } {
    return { epoch: this.#epoch, version: this.#version };
  }

  learn(
    id: string,
    facts: readonly { host: HostId; ageMs: number; fact: StorageFact }[],
    nowMs: number,
  ): void {
    this.#isActiveFresh = false;
    for (const { ageMs, fact } of facts) {
      const row = fact.storage.find((one) => one.id === id);
      if (row === undefined || (row.state !== 'active' && row.state !== 'replica')) continue;
      if (row.epoch > this.#epoch) {
        this.#epoch = row.epoch;
        this.#version = row.version;
        this.#heard = [{ version: row.version, atMs: nowMs }];
      } else if (row.epoch === this.#epoch && row.version > this.#version) {
        this.#version = row.version;
        this.#heard.push({ version: row.version, atMs: nowMs });
        if (this.#heard.length > heardMax) this.#heard.shift();
      }
      if (row.epoch === this.#epoch && row.state === 'active' && ageMs < freshMs)
        this.#isActiveFresh = true;
      if (row.state === 'active' && row.epoch === this.#epoch && row.from !== undefined)
        this.#takenOver = { epoch: row.epoch, from: row.from };
    }
  }

  /**
   * How old the oldest write is that the copy does not have, in milliseconds by this host's hearing; it is heard of when the
   * active host has looked, so that time counts too. While the active host answers it grows with time; when it is dead it stays what it
   * was. Null: not a copy of the newest epoch.
   */
  lagMs(state: StorageState, nowMs: number): number | null {
    if (state.role === 'active' && state.epoch >= this.#epoch) return 0;
    if (state.role === 'none' || state.epoch !== this.#epoch) return null;
    if (state.version >= this.#version) return 0;
    const missing = this.#heard.find(({ version }) => version > state.version);
    // Kept before a restart: nothing was heard yet by which to judge.
    if (missing === undefined) return null;
    const had = this.#heard.findLast(({ version }) => version <= state.version);
    const sinceMs = Math.max(had?.atMs ?? 0, missing.atMs - lookMsMax);
    const untilMs = this.#isActiveFresh ? nowMs : (this.#heard.at(-1)?.atMs ?? nowMs);
    return untilMs - sinceMs;
  }

  /** Has the active host of `epoch` said what it began with? */
  hasHeardOf(epoch: number): boolean {
    return this.#takenOver?.epoch === epoch;
  }

  /** The active host of `epoch` says that it began with just what `state` has. */
  isTakenOver(state: StorageState, epoch: number): boolean {
    return (
      this.#takenOver?.epoch === epoch &&
      this.#takenOver.from.epoch === state.epoch &&
      this.#takenOver.from.version >= state.version
    );
  }
}
