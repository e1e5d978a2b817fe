/** Real time. `monotonicMs` counts from an arbitrary point and survives changes of the wall clock. */
import type { Clock } from './ports.ts';

/** Longest delay that Node's timers take; a longer one would fire at once. */
const delayMsMax = 0x7fff_ffff;

export const systemClock: Clock = {
  monotonicMs: () => Number(process.hrtime.bigint() / 1000n) / 1000,
  wallMs: () => Date.now(),
  setTimer: (delayMs, fire) => {
    // Node may fire up to a millisecond early against hrtime: rounding up keeps the promise "never before".
    const timeout = setTimeout(fire, Math.min(Math.max(0, Math.ceil(delayMs) + 1), delayMsMax));
    return { cancel: () => clearTimeout(timeout) };
  },
};
