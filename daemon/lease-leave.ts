/**
 * What a host does about leases before it leaves: gives up what it holds, in order and not by letting it run out, and then
 * its vote, while the others still count it. Nothing is parked: nobody comes back.
 */
import { isHeld } from './lease-facts.ts';
import type { LeaseLink } from './lease-link.ts';
import type { LeaseName } from './lease/model.ts';
import type { HostId } from '../crdt/ids.ts';
import type { Clock } from './ports.ts';

export interface LeaveOptions {
  readonly link: LeaseLink;
  readonly clock: Clock;
  readonly self: HostId;
  readonly planner: LeaseName;
  /** Live members that could have its vote. */
  readonly hasOthers: boolean;
  readonly signal: AbortSignal;
  readonly progress: (text: string) => void;
}

/** Voters change one at a time, with the longest exclusion between two changes. */
const voteMsMax = 60_000;
const lookMs = 100;

/** Returns what could not be done, for people. */
export async function giveUpLeases(options: LeaveOptions): Promise<readonly string[]> {
  const { link, planner, hasOthers, progress } = options;
  const held = (): LeaseName[] =>
    (link.status()?.leases ?? []).filter(isHeld).map(({ name }) => name);
  const work = held().filter((name) => name !== planner);
  if (work.length > 0) progress('stopping exclusive work and giving up its leases');
  const outcomes = await Promise.all(work.map((name) => release(name, options)));
  const left = outcomes.filter((why) => why !== null);
  if (isVoter(options) && hasOthers) {
    progress('handing over its vote');
    if (!(await voteIsGone(options)))
      left.push('its vote could not be handed over; `trellis env show` says what is lost');
  }
  // Last: its holder is who changes voters.
  if (held().includes(planner)) await release(planner, options);
  return left;
}

/** Null: done. Else why not. */
async function release(name: LeaseName, { link, signal }: LeaveOptions): Promise<string | null> {
  const reason = 'this host leaves the cluster';
  try {
    const reply = await link.command({ kind: 'release', name, reason }, signal);
    return reply.isOk ? null : `lease ${name}: ${reply.code}`;
  } catch (error) {
    return `lease ${name}: ${error instanceof Error ? error.message : String(error)}`;
  }
}

function isVoter({ link, self }: LeaveOptions): boolean {
  return link.status()?.chosen?.config.voters.includes(self) === true;
}

async function voteIsGone(options: LeaveOptions): Promise<boolean> {
  const { clock, signal } = options;
  const dueMs = clock.monotonicMs() + voteMsMax;
  while (isVoter(options)) {
    if (signal.aborted || clock.monotonicMs() >= dueMs) return false;
    await new Promise<void>((resolve) => clock.setTimer(lookMs, resolve));
  }
  return true;
}
