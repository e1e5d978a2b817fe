/**
 * How long everything takes, per lease, and the relations that make it safe, asserted once at import.
 *
 * A holder's authority `D_P` runs from before its first message; an acceptor's exclusion `D_A` from acceptance, later. With
 * clocks whose rates differ by at most ρ each way, `D_P (1 + ρ) / (1 - ρ) + g <= D_A` keeps the first inside the second.
 */
import { invariant } from '../errors.ts';
import type { ProfileName } from './model.ts';

export interface Profile {
  readonly name: ProfileName;
  /** `D_A`: what an acceptor refuses others for; travels in the message. */
  readonly exclusionMs: number;
  /** Upper bound of `D_P`. */
  readonly authorityMs: number;
  readonly renewMs: number;
  /** A voter that has not answered is asked again after this. */
  readonly resendMs: number;
  /** An attempt to acquire is given up after this. */
  readonly attemptMs: number;
  /** Before the end of authority: freeze, kill, and be verified. */
  readonly freezeBeforeMs: number;
  readonly killBeforeMs: number;
  readonly verifiedBeforeMs: number;
}

/** Rate error that the design allows each clock: 1 %. */
export const clockRateError = 0.01;
/** `g`: granularity of timers and of the boot clock. */
export const clockMarginMs = 20;

export const profiles: Readonly<Record<ProfileName, Profile>> = Object.freeze({
  fast: {
    name: 'fast',
    exclusionMs: 1_600,
    authorityMs: 1_500,
    renewMs: 400,
    resendMs: 120,
    attemptMs: 300,
    freezeBeforeMs: 300,
    killBeforeMs: 150,
    verifiedBeforeMs: 50,
  },
  wan: {
    name: 'wan',
    exclusionMs: 5_000,
    authorityMs: 4_600,
    renewMs: 1_200,
    resendMs: 400,
    attemptMs: 1_000,
    freezeBeforeMs: 800,
    killBeforeMs: 400,
    verifiedBeforeMs: 100,
  },
  fenced: {
    name: 'fenced',
    exclusionMs: 15_000,
    authorityMs: 14_000,
    renewMs: 3_000,
    resendMs: 1_000,
    attemptMs: 2_500,
    freezeBeforeMs: 3_000,
    killBeforeMs: 1_500,
    verifiedBeforeMs: 500,
  },
});

/** The longest authority that an exclusion of `exclusionMs` can contain: derived from the number in the message, so that two
 * opinions about a lease's profile can never disagree in the unsafe direction. */
export function authorityWithin(exclusionMs: number): number {
  return Math.floor(((exclusionMs - clockMarginMs) * (1 - clockRateError)) / (1 + clockRateError));
}

/** `D_Q`: how long an acceptor that forgot must be silent, when authority of up to `ttlMsMax` may be out. */
export function silenceMs(ttlMsMax: number): number {
  return ttlMsMax;
}

for (const profile of Object.values(profiles)) {
  invariant(
    profile.authorityMs <= authorityWithin(profile.exclusionMs),
    'authority fits exclusion',
  );
  invariant(profile.freezeBeforeMs > profile.killBeforeMs, 'freeze before kill');
  invariant(profile.killBeforeMs > profile.verifiedBeforeMs, 'kill before the check');
  invariant(
    profile.renewMs * 2 + profile.resendMs < profile.authorityMs - profile.freezeBeforeMs,
    'two rounds may be lost before the freeze',
  );
}
