/**
 * The gate of one lease: what may run, as the kernel enforces it, driven by the end of our authority.
 *
 * The gate is closed by default. It opens only when it was verified empty after the lease was acquired (or holds exactly what
 * ran under this session before, with nobody in between), and only while authority has more than the freezing margin left.
 * Everything here is a comparison of stored deadlines with the clock of the event at hand; nothing waits for a timer's turn.
 *
 * What happens when authority runs out:
 *   stop    frozen `freezeBeforeMs` before the end, killed `killBeforeMs` before it, fenced when not empty `verifiedBeforeMs`
 *           before it
 *   freeze  frozen at the same time, and left so: it goes on if nobody else held the lease meanwhile, else it is killed
 *   keep    nothing, which is not exclusive: an alarm says so, and a higher epoch elsewhere ends it at once
 */
import type { CoreEffect, GateResult } from './core-api.ts';
import type { LeaseDesired } from './guard-api.ts';
import type { Epoch, LeaseName } from './model.ts';
import type { Profile } from './profiles.ts';
import type { Turn } from './turn.ts';

export type GateState =
  /** Not looked at since we lost our memory: anything may run in it. */
  | 'unknown'
  | 'closed'
  | 'opening'
  | 'open'
  | 'freezing'
  | 'clearing'
  /** Could not be closed or emptied. */
  | 'failed';

/** What the lease asks of its gate. `parked`: left open with no deadline. `empty`: nothing may be left inside. */
export type GateWish = 'open' | 'closed' | 'empty' | 'parked';

/** As `volatile()` gives it. */
export interface GateMemory {
  readonly state: GateState;
  readonly isEmpty: boolean;
  readonly epoch: Epoch;
  readonly untilMs: number;
}

/** Longest time for which a workload is stopped on request, and how long it runs at least between two of them. */
export const pauseMsMax = 1_000;
const pauseEveryMs = 2_000;
/** A gate that could not be emptied is tried again after this. */
const retryMs = 5_000;
/** No deadline, and survives JSON. */
export const foreverMs = 1e15;

/** What is remembered of a paused gate. */
const passing = { freezing: 'freezing', frozen: 'freezing', thawing: 'opening' } as const;

type Act = Extract<CoreEffect, { kind: 'gate' }>['act'];

/** Frozen on request for a moment. The gate counts as open meanwhile: all that ends an open gate ends a pause. */
interface Pause {
  /** The command that is answered when everything stands still; null: it was. */
  id: number | null;
  readonly untilMs: number;
  stage: 'freezing' | 'frozen' | 'thawing';
}

export class Gate {
  readonly name: LeaseName;
  profile: Profile;
  onLoss: LeaseDesired['onLoss'] = 'stop';
  fence: LeaseDesired['fence'] = 'none';
  /** False: nothing runs under this lease, so there is nothing to close. */
  hasGate = false;
  hasTraffic = false;
  state: GateState = 'unknown';
  /** Verified since it was last opened. */
  isEmpty = false;
  /** Under which the contents were started. */
  epoch: Epoch = 0;
  /** End of the authority under which it is, or was last, open. */
  untilMs = 0;
  #token = 0;
  /** An answer is awaited; false in a passing state: memory of before a restart, ask again. */
  #isAsked = false;
  #isFenced = false;
  #isAlarmed = false;
  /** The file and the traffic gate may not say what we remember: killed between remembering and acting. */
  #isFileStale = false;
  #isResuming = false;
  #retryMs = 0;
  /** The tenure for which it is being, or was, emptied since that began; 0: none. */
  #clearingFor: Epoch = 0;
  #clearedFor: Epoch = 0;
  /** When the last kill was asked for. */
  #killMs = -foreverMs;
  #why = '';
  #pause: Pause | null = null;
  #pauseAgainMs = -foreverMs;

  constructor(name: LeaseName, profile: Profile) {
    this.name = name;
    this.profile = profile;
  }

  resume(memory: GateMemory): void {
    this.state = memory.state;
    this.isEmpty = memory.isEmpty;
    this.epoch = memory.epoch;
    this.untilMs = memory.untilMs;
    this.#isFileStale = true;
  }

  volatile(): GateMemory {
    const { isEmpty, epoch, untilMs } = this;
    // Whoever goes on from here freezes what may not be frozen yet, and opens it when it is held.
    const state = this.#pause === null ? this.state : passing[this.#pause.stage];
    return { state, isEmpty, epoch, untilMs };
  }

  get isOpen(): boolean {
    return this.state === 'open';
  }

  /** False when something may run here that no authority covers: then a watchdog must not be petted. */
  isSafe(authorityMs: number): boolean {
    if (!this.hasGate || this.isEmpty || this.onLoss === 'keep') return true;
    if (this.state === 'closed') return true;
    return this.untilMs > 0 && authorityMs < this.untilMs - this.profile.verifiedBeforeMs;
  }

  /** On the authority clock. */
  nextMs(): number {
    return Math.min(this.pauseEndMs(), this.#nextEndMs());
  }

  /** On the authority clock; Infinity: nothing is paused. */
  pauseEndMs(): number {
    return this.#pause === null || this.#pause.stage === 'thawing' ? Infinity : this.#pause.untilMs;
  }

  #nextEndMs(): number {
    if (this.state === 'failed') return this.#retryMs;
    if (this.untilMs === 0 || this.untilMs >= foreverMs) return Infinity;
    const isLoose = this.state === 'open' || this.state === 'opening';
    if (this.onLoss === 'keep') return isLoose && !this.#isAlarmed ? this.untilMs : Infinity;
    if (isLoose) return this.untilMs - this.profile.freezeBeforeMs;
    if (this.isEmpty || this.#isFenced) return Infinity;
    if (this.onLoss === 'freeze' && this.state !== 'freezing') return Infinity;
    if (this.onLoss === 'stop' && this.state !== 'clearing')
      return this.untilMs - this.profile.killBeforeMs;
    return this.#fenceMs();
  }

  /**
   * Makes the gate follow the lease. `untilMs` and `epoch` matter with 'open' only; `isResumable`: nobody else held the lease
   * since the contents were frozen, so that they may go on under a new epoch.
   */
  settle(turn: Turn, wish: GateWish, epoch: Epoch, untilMs: number, isResumable: boolean): void {
    this.#follow(turn, wish, epoch, untilMs, isResumable);
    // Last: nothing is thawed that was to be closed in the same moment.
    if (turn.authorityMs >= this.pauseEndMs()) this.#thawPaused(turn, 'it did not freeze in time');
  }

  #follow(turn: Turn, wish: GateWish, epoch: Epoch, untilMs: number, isResumable: boolean): void {
    if (!this.#isAsked) this.#askAgain(turn);
    if (wish === 'parked') {
      // Without a deadline: only its own end, unparking or force take it from here.
      this.#towardsOpen(turn, epoch, foreverMs, isResumable);
      return;
    }
    if (wish === 'open' && turn.authorityMs < untilMs - this.profile.freezeBeforeMs) {
      this.#towardsOpen(turn, epoch, untilMs, isResumable);
      return;
    }
    // Closed on purpose while the lease goes on: what is inside is covered for as long.
    if (!this.isEmpty && epoch === this.epoch && untilMs > this.untilMs) this.untilMs = untilMs;
    if (this.state === 'open' || this.state === 'opening') {
      if (this.onLoss === 'keep' && wish !== 'empty') {
        this.#alarmKeep(turn);
        return;
      }
      this.#close(turn, wish === 'open' ? 'authority ends' : 'not held');
    }
    this.#towardsEmpty(turn, wish);
  }

  answered(turn: Turn, token: number, result: GateResult): void {
    if (token !== this.#token || !this.#isAsked) return;
    this.#isAsked = false;
    if (this.#pause !== null) {
      this.#onPauseAnswer(turn, this.#pause, result);
      return;
    }
    if (result === 'open' && this.state === 'opening') {
      this.state = 'open';
      if (this.hasTraffic) turn.push({ kind: 'traffic', name: this.name, untilMs: this.untilMs });
      this.#noticeOpen(turn);
    } else if (result === 'frozen' && this.state === 'freezing') {
      this.state = 'closed';
      this.#noticeClosed(turn, false);
    } else if (result === 'empty' && this.state === 'clearing') {
      const hadContents = !this.isEmpty && this.epoch > 0;
      this.state = 'closed';
      this.isEmpty = true;
      this.#clearedFor = this.#clearingFor;
      this.untilMs = 0;
      if (hadContents) this.#noticeClosed(turn, true);
    } else if (this.state === 'freezing' || this.state === 'opening') {
      // It does not obey: kill.
      this.clear(turn, `the gate answered ${result}`);
    } else if (this.state === 'clearing') {
      this.#fail(turn, result);
    }
  }

  /** Freezes what is open until `resumePaused`, at most `maxMs`; answers `id` once it stands still. Null, or why not. */
  pause(turn: Turn, maxMs: number, id: number): string | null {
    if (!this.hasGate) return 'nothing runs under it';
    if (this.state !== 'open') return 'its gate is not open';
    if (this.#pause !== null) return 'it is paused already';
    if (turn.authorityMs < this.#pauseAgainMs) return 'it was paused a moment ago';
    this.#pauseAgainMs = turn.authorityMs + pauseEveryMs;
    this.#pause = { id, untilMs: turn.authorityMs + maxMs, stage: 'freezing' };
    this.#act(turn, 'freeze');
    return null;
  }

  /** Did it stand still until now? */
  resumePaused(turn: Turn): boolean {
    const isWhole = this.#pause?.stage === 'frozen' && turn.authorityMs < this.#pause.untilMs;
    if (this.pauseEndMs() < Infinity) this.#thawPaused(turn, 'it was resumed before it was frozen');
    return isWhole;
  }

  /** Only within authority; beyond it the next `settle` closes the gate. */
  #thawPaused(turn: Turn, why: string): void {
    const isCovered = turn.authorityMs < this.untilMs - this.profile.freezeBeforeMs;
    if (this.#pause === null || (!isCovered && this.onLoss !== 'keep')) return;
    this.#refusePause(turn, this.#pause, why);
    this.#pause.stage = 'thawing';
    this.#act(turn, 'thaw');
  }

  #onPauseAnswer(turn: Turn, pause: Pause, result: GateResult): void {
    if (result === 'frozen' && pause.stage === 'freezing') {
      pause.stage = 'frozen';
      if (pause.id !== null) turn.reply(pause.id, { isOk: true, epoch: this.epoch });
      pause.id = null;
    } else if (result === 'open' && pause.stage === 'thawing') {
      this.#pause = null;
    } else this.clear(turn, `the gate answered ${result}`);
  }

  #refusePause(turn: Turn, pause: Pause, reason: string): void {
    if (pause.id !== null) turn.refuse(pause.id, 'LEASE_BUSY', { name: this.name, reason });
    pause.id = null;
  }

  /** The gate closes for another reason. */
  #endPause(turn: Turn): void {
    if (this.#pause !== null) this.#refusePause(turn, this.#pause, 'its gate was closed');
    this.#pause = null;
  }

  /** Kills everything inside and verifies it; leaves the gate closed. */
  clear(turn: Turn, why: string): void {
    this.#endPause(turn);
    if (this.state === 'open' || this.state === 'opening') this.#cut(turn);
    else if (this.state === 'unknown' && this.hasTraffic)
      turn.push({ kind: 'traffic', name: this.name, untilMs: null });
    this.#why = why;
    // Killing takes time; closing does not.
    const isShut = this.state === 'closed' || this.state === 'freezing';
    if (this.hasGate && !isShut) this.#act(turn, 'freeze');
    if (this.state !== 'clearing') this.#killMs = turn.authorityMs;
    this.state = 'clearing';
    this.#act(turn, 'clear');
  }

  #towardsOpen(turn: Turn, epoch: Epoch, untilMs: number, isResumable: boolean): void {
    switch (this.state) {
      case 'open':
      case 'opening':
        if (epoch === this.epoch) {
          if (untilMs !== this.untilMs || this.#isFileStale) this.#extend(turn, untilMs);
        } else if (isResumable) {
          this.epoch = epoch;
          this.#isResuming = true;
          this.#extend(turn, untilMs);
          if (this.state === 'open') this.#noticeOpen(turn);
        } else {
          this.#clearingFor = epoch;
          this.clear(turn, 'acquired anew');
        }
        return;
      case 'closed':
        if (!this.hasGate) {
          this.#open(turn, epoch, untilMs);
          return;
        }
        // Empty once is not empty now: an engine may have carried out a late start into the closed gate.
        if (epoch === this.epoch || epoch === this.#clearedFor || (isResumable && !this.isEmpty))
          this.#open(turn, epoch, untilMs);
        else {
          this.#clearingFor = epoch;
          this.clear(turn, 'acquired anew');
        }
        return;
      case 'unknown':
        this.#clearingFor = epoch;
        this.clear(turn, 'not known what runs inside');
        return;
      case 'failed':
        this.#retry(turn);
        return;
      case 'freezing':
      case 'clearing':
    }
  }

  #towardsEmpty(turn: Turn, wish: GateWish): void {
    if (this.state === 'failed') this.#retry(turn);
    if (this.isEmpty || this.state === 'clearing') {
      this.#fenceIfLate(turn);
      return;
    }
    if (wish === 'empty' && this.state !== 'failed') {
      this.clear(turn, this.#why || 'not held');
      return;
    }
    const isOver = this.untilMs > 0 && turn.authorityMs >= this.untilMs - this.profile.killBeforeMs;
    if (this.onLoss === 'stop' && isOver && this.state !== 'failed' && this.state !== 'unknown')
      this.clear(turn, 'authority ended');
    this.#fenceIfLate(turn);
  }

  /** The last resort, once per tenure: what is inside could not be stopped in time. */
  #fenceIfLate(turn: Turn): void {
    if (this.isEmpty || this.#isFenced || this.untilMs <= 0) return;
    if (turn.authorityMs < this.#fenceMs()) return;
    if (this.onLoss === 'keep' || (this.onLoss === 'freeze' && this.state !== 'freezing')) return;
    this.#fenceNow(turn, 'its gate was not empty in time');
  }

  /** After a stall of everything the kill comes late; it gets its time before the host is ended for it. */
  #fenceMs(): number {
    const { killBeforeMs, verifiedBeforeMs } = this.profile;
    return Math.max(
      this.untilMs - verifiedBeforeMs,
      this.#killMs + killBeforeMs - verifiedBeforeMs,
    );
  }

  #fenceNow(turn: Turn, why: string): void {
    if (this.#isFenced) return;
    this.#isFenced = true;
    turn.event('lease.zombie', 'alarm', this.name, why);
    if (this.fence === 'panic')
      turn.push({ kind: 'fence', name: this.name, how: 'panic', victim: null, epoch: this.epoch });
  }

  #fail(turn: Turn, result: GateResult): void {
    this.state = 'failed';
    this.#retryMs = turn.authorityMs + retryMs;
    turn.event('lease.gate-failed', 'alarm', this.name, `its gate could not be emptied: ${result}`);
    // Before anything was opened here there is nothing that a panic would end sooner than the lapse of the lease does.
    if (this.epoch > 0) this.#fenceNow(turn, 'its gate could not be emptied');
  }

  #retry(turn: Turn): void {
    if (turn.authorityMs >= this.#retryMs) this.clear(turn, 'tried again');
  }

  #open(turn: Turn, epoch: Epoch, untilMs: number): void {
    this.#isResuming = this.hasGate ? !this.isEmpty : epoch === this.epoch;
    this.isEmpty = !this.hasGate;
    this.epoch = epoch;
    this.untilMs = untilMs;
    this.#isFenced = false;
    this.#isAlarmed = false;
    this.state = 'opening';
    this.#writeFile(turn, untilMs);
    this.#act(turn, 'thaw');
  }

  #extend(turn: Turn, untilMs: number): void {
    this.untilMs = untilMs;
    this.#isAlarmed = false;
    this.#writeFile(turn, untilMs);
    if (this.hasTraffic && this.state === 'open')
      turn.push({ kind: 'traffic', name: this.name, untilMs });
  }

  #close(turn: Turn, why: string): void {
    this.#endPause(turn);
    this.#cut(turn);
    this.#why = why;
    this.state = 'freezing';
    this.#act(turn, 'freeze');
  }

  #cut(turn: Turn): void {
    if (this.hasTraffic) turn.push({ kind: 'traffic', name: this.name, untilMs: null });
    this.#writeFile(turn, null);
  }

  #writeFile(turn: Turn, authorityUntilMs: number | null): void {
    this.#isFileStale = false;
    if (!this.hasGate) return;
    turn.push({ kind: 'lease-file', name: this.name, epoch: this.epoch, authorityUntilMs });
  }

  #alarmKeep(turn: Turn): void {
    if (this.#isAlarmed || turn.authorityMs < this.untilMs) return;
    this.#isAlarmed = true;
    turn.event(
      'lease.unsafe-keep',
      'alarm',
      this.name,
      'authority ended and it runs on, as its onLoss says: another host may run it too',
    );
  }

  #noticeOpen(turn: Turn): void {
    const { name, epoch } = this;
    turn.notice({ kind: 'open', name, epoch, isResumed: this.#isResuming });
  }

  #noticeClosed(turn: Turn, isKilled: boolean): void {
    const { name, epoch } = this;
    turn.notice({ kind: 'closed', name, epoch, isKilled, why: this.#why });
  }

  #askAgain(turn: Turn): void {
    // Killed between remembering and acting: what was to be cut may not have been.
    if (this.hasTraffic && (this.state === 'freezing' || this.state === 'clearing'))
      turn.push({ kind: 'traffic', name: this.name, untilMs: null });
    if (this.state === 'opening') this.#act(turn, 'thaw');
    else if (this.state === 'freezing') this.#act(turn, 'freeze');
    else if (this.state === 'clearing') {
      this.#act(turn, 'freeze');
      this.#act(turn, 'clear');
    }
  }

  #act(turn: Turn, act: Act): void {
    this.#token = turn.nextToken();
    this.#isAsked = true;
    if (this.hasGate) {
      turn.push({ kind: 'gate', name: this.name, token: this.#token, act });
      return;
    }
    const result = act === 'thaw' ? 'open' : act === 'freeze' ? 'frozen' : 'empty';
    this.answered(turn, this.#token, result);
  }
}
