/** The issuing key in the state directory (0600): every member holds it, so that any member can admit the next. */
import { join } from 'node:path';
import type { CertificateAuthority } from './certificates.ts';
import { readSecretFile, writeSecretFile } from './secret-file.ts';

const fileName = 'issuing.key';

export function writeIssuingKey(stateDir: string, keyPem: string): void {
  writeSecretFile(join(stateDir, fileName), keyPem);
}

/** Null when this host has none. `caCertificate` is that of the authority record. */
export function readIssuingKey(
  stateDir: string,
  caCertificate: Uint8Array,
): CertificateAuthority | null {
  const keyPem = readSecretFile(join(stateDir, fileName))?.toString();
  return keyPem === undefined ? null : { keyPem, certificateDer: caCertificate };
}
