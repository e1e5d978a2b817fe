/**
 * Who this host is, in three files made once: the seed of its Ed25519 key (`host.key`), its host id (`host.id`, which
 * survives a change of key) and the number of its current run (`incarnation`). Key and id carry a check word: a flipped
 * bit would otherwise turn the host silently into a stranger.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { hex, unhex } from '../../crdt/ids.ts';
import type { HostId, NodeId } from '../../crdt/ids.ts';
import { keyPairFromSeed, systemCrypto } from '../crypto.ts';
import { ClusterError } from '../errors.ts';
import type { Clock, KeyPair, Random } from '../ports.ts';
import { isAbsent, writeFileDurablySync } from './durable.ts';

export interface Identity {
  /** 32 secret bytes. */
  readonly seed: Uint8Array;
  readonly keyPair: KeyPair;
  readonly nodeId: NodeId;
  readonly hostId: HostId;
  /** Greater than in every earlier run of this state directory. */
  readonly incarnation: number;
}

/** Sync, at start. Throws IDENTITY_DAMAGED (never replaces a key), DISK_FULL. */
export function openIdentity(
  stateDir: string,
  { random, clock }: { readonly random: Random; readonly clock: Clock },
): Identity {
  const isFirstRun = !existsSync(join(stateDir, 'host.key'));
  const seed = once(join(stateDir, 'host.key'), 32, random);
  const hostId = hex(once(join(stateDir, 'host.id'), 16, random)) as HostId;
  const keyPair = keyPairFromSeed(seed);
  const nodeId = hex(keyPair.publicKey) as NodeId;
  const lostCounter = isFirstRun ? 1 : Math.floor(clock.wallMs() / 1000);
  return { seed, keyPair, nodeId, hostId, incarnation: nextIncarnation(stateDir, lostCounter) };
}

function once(path: string, length: number, random: Random): Uint8Array {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (!isAbsent(error)) throw error;
    const made = random.bytes(length);
    writeFileDurablySync(path, Buffer.from(`${hex(made)} ${checkWord(made)}\n`));
    return made;
  }
  const [value, check] = text.trim().split(' ');
  const bytes = unhex(value ?? '');
  if (bytes?.length !== length || check !== checkWord(bytes)) {
    throw new ClusterError('IDENTITY_DAMAGED', { file: path });
  }
  return bytes;
}

function checkWord(bytes: Uint8Array): string {
  return hex(systemCrypto.sha256(bytes)).slice(0, 8);
}

/**
 * Counts runs. When the counter is lost (or unreadable) it goes on from the wall clock in seconds, which no counter of
 * runs reaches: peers must never see an incarnation twice.
 */
function nextIncarnation(stateDir: string, whenLost: number): number {
  const path = join(stateDir, 'incarnation');
  let next: number;
  try {
    const found = /^(\d{1,15})\n$/.exec(readFileSync(path, 'utf8'))?.[1];
    next = found === undefined ? whenLost : Number(found) + 1;
  } catch (error) {
    if (!isAbsent(error)) throw error;
    next = whenLost;
  }
  writeFileDurablySync(path, Buffer.from(`${next}\n`));
  return next;
}
