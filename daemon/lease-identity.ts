/**
 * The guard's key and its certificate, made by the daemon before it starts the guard: the certificate needs the host's
 * key, which the guard must not have.
 */
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { hex, unhex } from '../crdt/ids.ts';
import type { ClusterId, HostId } from '../crdt/ids.ts';
import { keyPairFromSeed, systemCrypto } from './crypto.ts';
import { certifyLeaseKey, readLeaseCertificate } from './lease/certificate.ts';
import { guardStateFiles } from './lease/guard-start.ts';
import type { KeyPair, Random } from './ports.ts';
import { isAbsent, privateDirMode, writeFileDurablySync } from './store/durable.ts';

/**
 * Makes what is missing or does not belong to this member, in `<state>/lease`. A lost key costs nothing but new connections:
 * others know a guard by its certificate. Throws DISK_FULL.
 */
export function ensureLeaseIdentity(
  dir: string,
  member: { readonly clusterId: ClusterId; readonly host: HostId; readonly hostKeys: KeyPair },
  random: Random,
): void {
  mkdirSync(dir, { recursive: true, mode: privateDirMode });
  const keyFile = join(dir, guardStateFiles.key);
  const seed = readSeed(keyFile) ?? random.bytes(seedBytes);
  const leaseKey = keyPairFromSeed(seed).publicKey;
  const wanted = certifyLeaseKey(
    { clusterId: member.clusterId, host: member.host, leaseKey },
    member.hostKeys,
  );
  if (!existsSync(keyFile) || readSeed(keyFile) === null)
    writeFileDurablySync(keyFile, Buffer.from(`${hex(seed)}\n`));
  const certificateFile = join(dir, guardStateFiles.certificate);
  if (readCertificate(certificateFile)?.sig !== wanted.sig)
    writeFileDurablySync(certificateFile, Buffer.from(`${JSON.stringify(wanted)}\n`));
}

const seedBytes = 32;

/** Null: absent or damaged. */
function readSeed(path: string): Uint8Array | null {
  const seed = unhex((readText(path) ?? '').trim());
  return seed?.length === seedBytes ? seed : null;
}

function readCertificate(path: string): ReturnType<typeof readLeaseCertificate> {
  const text = readText(path);
  if (text === null) return null;
  try {
    return readLeaseCertificate(JSON.parse(text), systemCrypto);
  } catch {
    // Torn by a power cut of long ago: made again.
    return null;
  }
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isAbsent(error)) return null;
    throw error;
  }
}
