/**
 * Reading values that came from a peer or a disk, field by field, without a schema library: the guard must stay small.
 *
 * A reader returns the value or throws `Malformed`, which `decodeFrame` and `durable.ts` turn into a rejection; nothing else
 * of them throws. Fields that a newer version adds are not looked at.
 */
import type { HostId } from '../../crdt/ids.ts';
import { partsMax } from './chain-voter.ts';
import type { ChainState, Slot } from './chain-voter.ts';
import type { LinkMark } from './core-api.ts';
import { leaseLimits } from './model.ts';
import type { Ballot, ChosenConfig, LeaseFloor, LeaseName, Owner, VoterConfig } from './model.ts';
import { chainLimits, noLink } from './voter-config.ts';

export class Malformed extends Error {}

/** A day: longer than anything that travels. */
export const durationMsMax = 86_400_000;

const hostPattern = /^[0-9a-f]{32}$/;
const sessionPattern = /^[0-9a-f]{24}$/;
const hashPattern = /^[0-9a-f]{64}$/;
const namePattern = /^[\x21-\x7e]{1,160}$/;
const envPattern = /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/;

type Fields = Readonly<Record<string, unknown>>;

export function fields(value: unknown): Fields {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new Malformed('not an object');
  }
  return value as Fields;
}

export function listOf(value: unknown): readonly unknown[] {
  if (!Array.isArray(value)) throw new Malformed('not a list');
  return value as unknown[];
}

export function list<T>(value: unknown, max: number, read: (item: unknown) => T): T[] {
  const items = listOf(value);
  if (items.length > max) throw new Malformed('list too long');
  return items.map((item) => read(item));
}

export function nullOr<T>(value: unknown, read: (value: unknown) => T): T | null {
  return value === null ? null : read(value);
}

export function integer(value: unknown, min: number, max: number): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max) {
    throw new Malformed('not a number in range');
  }
  return value;
}

export function readBoolean(value: unknown): boolean {
  if (typeof value !== 'boolean') throw new Malformed('not a boolean');
  return value;
}

/** At most `max` characters of any kind. */
export function text(value: unknown, max: number): string {
  if (typeof value !== 'string' || value.length > max) throw new Malformed('not a short text');
  return value;
}

function matching(value: unknown, pattern: RegExp, what: string): string {
  // Length first: a pattern is never run over what is too long.
  if (
    typeof value !== 'string' ||
    value.length > leaseLimits.nameCharsMax ||
    !pattern.test(value)
  ) {
    throw new Malformed(`not a ${what}`);
  }
  return value;
}

export const counter = (value: unknown) => integer(value, 0, leaseLimits.counterMax);
export const generation = (value: unknown) => integer(value, 0, chainLimits.numberMax);
export const number = (value: unknown) => integer(value, noLink, chainLimits.numberMax);
export const hostId = (value: unknown) => matching(value, hostPattern, 'host') as HostId;
export const sessionId = (value: unknown) => matching(value, sessionPattern, 'session');
export const hash = (value: unknown) => matching(value, hashPattern, 'hash');
export const leaseName = (value: unknown): LeaseName => matching(value, namePattern, 'lease');
export const envName = (value: unknown) => matching(value, envPattern, 'environment');

export function owner(value: unknown): Owner {
  const { host, session } = fields(value);
  return { host: hostId(host), session: sessionId(session) };
}

export function ballot(value: unknown): Ballot {
  const all = fields(value);
  return { counter: counter(all['counter']), ...owner(all) };
}

export function floor(value: unknown): LeaseFloor {
  const { name, epoch, owner: of } = fields(value);
  return { name: leaseName(name), epoch: counter(epoch), owner: owner(of) };
}

export const floorList = (value: unknown) => list(value, chainLimits.floorsMax, floor);

export function voterConfig(value: unknown): VoterConfig {
  const all = fields(value);
  return {
    env: envName(all['env']),
    n: integer(all['n'], 0, chainLimits.numberMax),
    prevHash: all['prevHash'] === '' ? '' : hash(all['prevHash']),
    generation: generation(all['generation']),
    voters: list(all['voters'], leaseLimits.votersMax, hostId),
    ttlMsMax: integer(all['ttlMsMax'], chainLimits.ttlMsMin, chainLimits.ttlMsMax),
    floors: floorList(all['floors']),
    floorRest: counter(all['floorRest']),
  };
}

export function chosenConfig(value: unknown): ChosenConfig {
  const { config, electorate, votes } = fields(value);
  return {
    config: voterConfig(config),
    electorate: list(electorate, leaseLimits.votersMax, hostId),
    votes: list(votes, leaseLimits.votersMax, hostId),
  };
}

export function acceptedConfig(value: unknown): { ballot: Ballot; config: VoterConfig } {
  const { ballot: by, config } = fields(value);
  return { ballot: ballot(by), config: voterConfig(config) };
}

function slot(value: unknown): Slot {
  const all = fields(value);
  return {
    generation: generation(all['generation']),
    n: number(all['n']),
    promised: nullOr(all['promised'], ballot),
    accepted: nullOr(all['accepted'], acceptedConfig),
  };
}

export function linkMark(value: unknown): LinkMark {
  const all = fields(value);
  return {
    env: envName(all['env']),
    generation: generation(all['generation']),
    n: integer(all['n'], 0, chainLimits.numberMax),
    ttlMsMax: integer(all['ttlMsMax'], chainLimits.ttlMsMin, chainLimits.ttlMsMax),
  };
}

/** Null: cannot be read, so that what was promised is not known. */
export function readChainState(value: unknown): ChainState | null {
  try {
    const all = fields(value);
    const before = nullOr(all['before'], fields);
    return {
      v: integer(all['v'], 1, 1) as 1,
      slot: nullOr(all['slot'], slot),
      force: nullOr(all['force'], slot),
      ...(all['parts'] !== undefined && { parts: list(all['parts'], partsMax, generation) }),
      before: before && {
        generation: generation(before['generation']),
        n: number(before['n']),
        ttlMsMax: integer(before['ttlMsMax'], chainLimits.ttlMsMin, chainLimits.ttlMsMax),
      },
    };
  } catch (error) {
    if (error instanceof Malformed) return null;
    throw error;
  }
}
