/**
 * What one link of the chain of voters may be, and what it may change. Pure functions; `chain.ts` runs the votes.
 *
 * One voter is added or removed per link, so that majorities of neighbours meet in a host that knows both. Floors only
 * rise. A change of the longest exclusion is a link of its own: a voter that was just added may then conclude that the
 * link before had the same one.
 */
import { sha256 } from '@noble/hashes/sha2.js';
import { compareText } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { HostId } from '../../crdt/ids.ts';
import type { ConfigRef } from './messages.ts';
import { leaseLimits, majorityOf } from './model.ts';
import type { ChosenConfig, Epoch, LeaseFloor, VoterConfig } from './model.ts';
import { clockMarginMs, clockRateError } from './profiles.ts';

export const chainLimits = Object.freeze({
  /** Leases whose floor a link names; the others' highest epoch becomes `floorRest`, the lowest first. */
  floorsMax: 512,
  ttlMsMin: 100,
  ttlMsMax: 60_000,
  /** Of the founder's link: the profiles `fast` and `wan` fit. */
  ttlMsFirst: 5_000,
  /** A force does not know what a lost majority has granted: every epoch starts so far above what the survivors know. */
  forceEpochJump: 2 ** 20,
  numberMax: 2 ** 31,
});

/** `n` of a reference that asks survivors for a new generation, and of a host that knows no link. */
export const noLink = -1;

/** How long a voter must have been in a link before it may vote for the next: leases of the link before are over then. */
export function voteWaitMs(ttlMsMax: number): number {
  return Math.ceil((ttlMsMax * (1 + clockRateError)) / (1 - clockRateError)) + clockMarginMs;
}

/** Names a link by all that it says, in fixed order. 64 hex digits. */
export function configHash(config: VoterConfig): string {
  const floors = config.floors.map((floor) => [
    floor.name,
    floor.epoch,
    floor.owner.host,
    floor.owner.session,
  ]);
  const { env, n, prevHash, generation, voters, ttlMsMax, floorRest } = config;
  const text = JSON.stringify([
    'trellis voters 1',
    env,
    n,
    prevHash,
    generation,
    voters,
    ttlMsMax,
    floors,
    floorRest,
  ]);
  return hex(sha256(new TextEncoder().encode(text)));
}

export function firstConfig(env: string, founder: HostId): ChosenConfig {
  return {
    config: {
      env,
      n: 0,
      prevHash: '',
      generation: 0,
      voters: [founder],
      ttlMsMax: chainLimits.ttlMsFirst,
      floors: [],
      floorRest: 0,
    },
    electorate: [],
    votes: [],
  };
}

/** Above 0: `a` replaces `b`. A higher generation replaces any lower one, whatever its n. */
export function compareRefs(
  a: { readonly generation: number; readonly n: number },
  b: { readonly generation: number; readonly n: number },
): number {
  return a.generation - b.generation || a.n - b.n;
}

export function refOf(config: VoterConfig): ConfigRef {
  return { env: config.env, generation: config.generation, n: config.n };
}

/** Null: fine in itself; else what is wrong. */
export function configFault(config: VoterConfig): string | null {
  const { n, generation, voters, ttlMsMax, floors, floorRest } = config;
  if (!inRange(n, 0, chainLimits.numberMax)) return 'number out of range';
  if (!inRange(generation, 0, chainLimits.numberMax)) return 'generation out of range';
  if (!isSortedSet(voters) || voters.length === 0) return 'voters not sorted or none';
  if (voters.length > leaseLimits.votersMax) return 'too many voters';
  if (!inRange(ttlMsMax, chainLimits.ttlMsMin, chainLimits.ttlMsMax)) return 'ttl out of range';
  if (floors.length > chainLimits.floorsMax) return 'too many floors';
  if (!isSortedSet(floors.map((floor) => floor.name))) return 'floors not sorted';
  const epochs = [floorRest, ...floors.map((floor) => floor.epoch)];
  if (!epochs.every((epoch) => inRange(epoch, 0, leaseLimits.counterMax))) return 'epoch too high';
  return null;
}

/** Null: `next` may follow `current` by a vote of the voters of `current`; else why not. */
export function stepFault(current: VoterConfig, next: VoterConfig): string | null {
  const fault = configFault(next);
  if (fault !== null) return fault;
  if (next.env !== current.env) return 'another environment';
  if (next.generation !== current.generation) return 'another generation';
  if (next.n !== current.n + 1) return 'not the next number';
  if (next.prevHash !== configHash(current)) return 'follows another link';
  const changed = distance(current.voters, next.voters);
  if (changed > 1) return 'more than one voter at once';
  const isSameTtl = next.ttlMsMax === current.ttlMsMax;
  if (changed === 1 && !isSameTtl) return 'voters and ttl at once';
  if (changed === 0 && isSameTtl) return 'nothing changes';
  if (!coversFloors(next, current)) return 'floors fall';
  return null;
}

/** Null: `chosen` was chosen as far as can be told here; else why not. `previous`: what is known now, null for nothing. */
export function chosenFault(chosen: ChosenConfig, previous: ChosenConfig | null): string | null {
  const { config, electorate, votes } = chosen;
  const fault = configFault(config);
  if (fault !== null) return fault;
  if (config.n === 0 && config.generation === 0) {
    const isFirst = config.voters.length === 1 && config.prevHash === '';
    return isFirst && electorate.length === 0 && votes.length === 0 ? null : 'not a first link';
  }
  if (!isSortedSet(electorate) || !isSortedSet(votes)) return 'votes not sorted';
  if (!votes.every((vote) => electorate.includes(vote))) return 'votes of strangers';
  if (votes.length < majorityOf(electorate.length)) return 'no majority';
  if (distance(electorate, config.voters) > 1) return 'more than one voter at once';
  if (previous === null || previous.config.generation !== config.generation) return null;
  if (config.n !== previous.config.n + 1) return null;
  if (distance(electorate, previous.config.voters) !== 0) return 'voted by others';
  return stepFault(previous.config, config);
}

/** True when a link was made by force: by the votes of those that it names itself, and no step of membership. */
export function keepsVoters(chosen: ChosenConfig): boolean {
  return chosen.votes.length > 0 && distance(chosen.electorate, chosen.config.voters) === 0;
}

/**
 * The next step towards `target`: add while there are no more voters than there shall be, else remove. So a replacement
 * is added before anybody is removed, there are never fewer voters than at the start or at the end, whichever is less,
 * and at most one more than the larger of both. Null: nothing to do.
 */
export function nextVoters(
  current: readonly HostId[],
  target: readonly HostId[],
): readonly HostId[] | null {
  const wanted = [...new Set(target)].toSorted(compareText);
  if (wanted.length === 0 || wanted.length > leaseLimits.votersMax) return null;
  const added = wanted.find((host) => !current.includes(host));
  const removed = current.find((host) => !wanted.includes(host));
  const mayAdd = current.length <= wanted.length && current.length < leaseLimits.votersMax;
  if (added !== undefined && (mayAdd || removed === undefined)) {
    return [...current, added].toSorted(compareText);
  }
  if (removed === undefined) return null;
  return current.filter((host) => host !== removed);
}

export interface Floors {
  readonly floors: readonly LeaseFloor[];
  readonly rest: Epoch;
}

/** The highest of each, at most `floorsMax` named, sorted by name. Any order of arguments gives the same. */
export function mergeFloors(all: readonly Floors[]): Floors {
  let rest = 0;
  const highest = new Map<string, LeaseFloor>();
  for (const each of all) {
    rest = Math.max(rest, each.rest);
    for (const floor of each.floors) {
      const known = highest.get(floor.name);
      if (known === undefined || compareFloors(floor, known) > 0) highest.set(floor.name, floor);
    }
  }
  const byEpoch = [...highest.values()].toSorted(
    (a, b) => b.epoch - a.epoch || compareText(a.name, b.name),
  );
  for (const floor of byEpoch.slice(chainLimits.floorsMax)) rest = Math.max(rest, floor.epoch);
  const kept = byEpoch.slice(0, chainLimits.floorsMax).filter((floor) => floor.epoch >= rest);
  return { floors: kept.toSorted((a, b) => compareText(a.name, b.name)), rest };
}

/**
 * Every floor higher by the jump of a force, and none below what as many forces as there were have jumped: of some of them nobody
 * who is asked may remember the epochs.
 */
export function raiseAll(floors: Floors, generation: number): Floors {
  const by = chainLimits.forceEpochJump;
  const raised = (epoch: Epoch) => Math.min(leaseLimits.counterMax, epoch + by);
  const rest = Math.max(raised(floors.rest), Math.min(leaseLimits.counterMax, by * generation));
  const named = floors.floors.map((floor) => ({ ...floor, epoch: raised(floor.epoch) }));
  return { floors: named.filter(({ epoch }) => epoch >= rest), rest };
}

function coversFloors(next: VoterConfig, current: VoterConfig): boolean {
  if (next.floorRest < current.floorRest) return false;
  const named = new Map(next.floors.map((floor) => [floor.name, floor.epoch]));
  return current.floors.every(
    (floor) => Math.max(named.get(floor.name) ?? 0, next.floorRest) >= floor.epoch,
  );
}

/** Of two owners at one epoch only one can have had a majority; which is not known here, so any fixed choice does. */
function compareFloors(a: LeaseFloor, b: LeaseFloor): number {
  return (
    a.epoch - b.epoch ||
    compareText(a.owner.host, b.owner.host) ||
    compareText(a.owner.session, b.owner.session)
  );
}

/** Hosts in one but not in the other. */
function distance(a: readonly HostId[], b: readonly HostId[]): number {
  return (
    a.filter((host) => !b.includes(host)).length + b.filter((host) => !a.includes(host)).length
  );
}

export function isSortedSet(texts: readonly string[]): boolean {
  return texts.every((text, index) => index === 0 || compareText(texts[index - 1] ?? '', text) < 0);
}

function inRange(value: number, min: number, max: number): boolean {
  return Number.isInteger(value) && value >= min && value <= max;
}
