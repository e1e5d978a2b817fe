/**
 * The state directory of one daemon:
 *
 * ```
 * lock  format  index.log  incarnation
 * host.key  host.id        and a `.copy` of each, see `kept-twice.ts`
 * logs/  files/            the Storage port
 * blobs/sha256/ab/<hash>   content-addressed bytes
 * plugins/<name>/          each plugin's own
 * ```
 */
import { chmodSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ClusterError } from '../errors.ts';
import type { Clock, Log, Random } from '../ports.ts';
import { isAbsent, privateDirMode, writeFileDurablySync } from './durable.ts';
import { FileStorage } from './file-storage.ts';
import { openIdentity } from './identity.ts';
import type { Identity } from './identity.ts';
import { lockStateDir } from './lock.ts';

export const stateFormat = 1;

export interface Store {
  readonly stateDir: string;
  readonly storage: FileStorage;
  readonly identity: Identity;
  readonly blobsDir: string;
  /** Made on demand, 0700; survives restarts. */
  pluginDir(plugin: string): string;
  /** Waits until everything written is durable, then lets another daemon in. */
  close(): Promise<void>;
}

/**
 * Opens (and makes, 0700) the state directory and takes its lock. Throws STATE_LOCKED, STATE_NEWER, DISK_FULL,
 * IDENTITY_DAMAGED. The incarnation in `identity` is one more than in any earlier run.
 */
export function openStore(
  stateDir: string,
  { log, random, clock }: { readonly log: Log; readonly random: Random; readonly clock: Clock },
): Store {
  makePrivate(stateDir);
  const lock = lockStateDir(stateDir);
  try {
    checkFormat(stateDir);
    const storage = new FileStorage(stateDir, log);
    const identity = openIdentity(stateDir, { random, clock });
    const blobsDir = join(stateDir, 'blobs');
    makePrivate(blobsDir);
    return {
      stateDir,
      storage,
      identity,
      blobsDir,
      pluginDir: (plugin) => {
        const dir = join(stateDir, 'plugins', plugin);
        makePrivate(dir);
        return dir;
      },
      close: async () => {
        await storage.close();
        lock.release();
      },
    };
  } catch (error) {
    lock.release();
    throw error;
  }
}

function makePrivate(dir: string): void {
  mkdirSync(dir, { recursive: true, mode: privateDirMode });
  chmodSync(dir, privateDirMode);
}

function checkFormat(stateDir: string): void {
  const path = join(stateDir, 'format');
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (!isAbsent(error)) throw error;
    writeFileDurablySync(path, Buffer.from(`trellis-state ${stateFormat}\n`));
    return;
  }
  const found = /^trellis-state (\d+)\n$/.exec(text)?.[1];
  // An unreadable file says nothing; every other file carries its own version and checksum.
  if (found === undefined)
    writeFileDurablySync(path, Buffer.from(`trellis-state ${stateFormat}\n`));
  else if (Number(found) > stateFormat) {
    throw new ClusterError('STATE_NEWER', { dir: stateDir, found, known: stateFormat });
  }
}
