/**
 * Who this host is, in three files made once: the seed of its Ed25519 key (`host.key`), its host id (`host.id`, which
 * survives a change of key) and the number of its current run (`incarnation`). Key and id carry a check word, because a
 * flipped bit would otherwise turn the host silently into a stranger, and are kept twice, because nobody else has them.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { hex, unhex } from '../../crdt/ids.ts';
import type { HostId, NodeId } from '../../crdt/ids.ts';
import { keyPairFromSeed, systemCrypto } from '../crypto.ts';
import { ClusterError } from '../errors.ts';
import type { Clock, KeyPair, Random } from '../ports.ts';
import { isAbsent, writeFileDurablySync } from './durable.ts';
import { readTwice, writeTwice } from './kept-twice.ts';

export interface Identity {
  /** 32 secret bytes. */
  readonly seed: Uint8Array;
  readonly keyPair: KeyPair;
  readonly nodeId: NodeId;
  readonly hostId: HostId;
  /** Greater than in every earlier run of this state directory. */
  readonly incarnation: number;
  /** Names of files that came back from their copies. */
  readonly mended: readonly string[];
}

/** Sync, at start. Throws IDENTITY_DAMAGED (never replaces a key), DISK_FULL. */
export function openIdentity(
  stateDir: string,
  { random, clock }: { readonly random: Random; readonly clock: Clock },
): Identity {
  const isFirstRun = !['host.key', 'host.key.copy'].some((name) =>
    existsSync(join(stateDir, name)),
  );
  const mended: string[] = [];
  const make = (length: number) => random.bytes(length);
  const seed = once(join(stateDir, 'host.key'), 32, { make, mended });
  const hostId = hex(once(join(stateDir, 'host.id'), 16, { make, mended })) as HostId;
  const keyPair = keyPairFromSeed(seed);
  const nodeId = hex(keyPair.publicKey) as NodeId;
  const lostCounter = isFirstRun ? 1 : Math.floor(clock.wallMs() / 1000);
  return {
    seed,
    keyPair,
    nodeId,
    hostId,
    incarnation: nextIncarnation(stateDir, lostCounter),
    mended,
  };
}

function once(
  path: string,
  length: number,
  { make, mended }: { make: (length: number) => Uint8Array; mended: string[] },
): Uint8Array {
  const found = readTwice(
    path,
    (text) => {
      const [value, check] = text.toString('utf8').trim().split(' ');
      const bytes = unhex(value ?? '');
      return bytes?.length === length && check === checkWord(bytes) ? bytes : null;
    },
    mended,
  );
  if (found.kind === 'damaged') throw new ClusterError('IDENTITY_DAMAGED', { file: path });
  if (found.kind !== 'absent') return found.value;
  const made = make(length);
  writeTwice(path, Buffer.from(`${hex(made)} ${checkWord(made)}\n`));
  return made;
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
