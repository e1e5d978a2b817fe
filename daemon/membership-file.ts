/**
 * `cluster.json` in the state directory: its presence means that this host is a member. Written last, removed first, kept
 * twice, because without it a host would not know whose its other files are.
 */
import { existsSync } from 'node:fs';
import { join as joinPath } from 'node:path';
import { hex } from '../crdt/ids.ts';
import type { ClusterId } from '../crdt/ids.ts';
import { systemCrypto } from './crypto.ts';
import { ClusterError } from './errors.ts';
import { readTwice, writeTwice } from './store/kept-twice.ts';
import type { PeerHint } from './trust/join-wire.ts';

export const membershipFile = 'cluster.json';

export interface Membership {
  readonly v: 1;
  readonly clusterId: ClusterId;
  readonly hints: readonly PeerHint[];
}

/** The copy counts only while the file itself is there: `leave` removes that first. */
export function readMembership(stateDir: string, mended: string[]): Membership | null {
  const path = joinPath(stateDir, membershipFile);
  if (!existsSync(path)) return null;
  const found = readTwice(path, parseMembership, mended);
  if (found.kind === 'found') return found.value;
  throw new ClusterError('STATE_DAMAGED', {
    name: membershipFile,
    detail: 'neither it nor its copy makes sense',
    todo: 'restore a backup, or remove the state directory and join again',
  });
}

export function writeMembership(stateDir: string, membership: Membership): void {
  const check = checkOf(membership);
  const path = joinPath(stateDir, membershipFile);
  writeTwice(path, Buffer.from(JSON.stringify({ ...membership, check })));
}

function parseMembership(bytes: Buffer): Membership | null {
  let value: Partial<Membership> & { check?: unknown };
  try {
    value = JSON.parse(bytes.toString('utf8')) as typeof value;
  } catch {
    // Damaged, which is what was asked.
    return null;
  }
  const { v, clusterId, hints, check } = value;
  if (v !== 1 || typeof clusterId !== 'string' || !Array.isArray(hints)) return null;
  const membership: Membership = { v, clusterId, hints };
  return check === checkOf(membership) ? membership : null;
}

function checkOf({ v, clusterId, hints }: Membership): string {
  const text = JSON.stringify([v, clusterId, hints]);
  return hex(systemCrypto.sha256(new TextEncoder().encode(text))).slice(0, 16);
}
