/** The issuing key in the state directory (0600, kept twice): every member holds it, so that any member can admit the next. */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import { readTwice, writeTwice } from '../store/kept-twice.ts';
import type { CertificateAuthority } from './certificates.ts';

const fileName = 'issuing.key';

export function writeIssuingKey(stateDir: string, keyPem: string): void {
  writeTwice(join(stateDir, fileName), Buffer.from(keyPem));
}

/** Null when this host has none that fits. `caCertificate` is that of the authority record; `mended` see `readTwice`. */
export function readIssuingKey(
  stateDir: string,
  caCertificate: Uint8Array,
  mended: string[] = [],
): CertificateAuthority | null {
  const path = join(stateDir, fileName);
  const found = readTwice(
    path,
    (pem) => (isKeyOf(pem, caCertificate) ? pem.toString() : null),
    mended,
  );
  return found.kind === 'found' ? { keyPem: found.value, certificateDer: caCertificate } : null;
}

/** A flipped bit would give certificates that nobody accepts. */
function isKeyOf(pem: Buffer, caCertificate: Uint8Array): boolean {
  try {
    return new X509Certificate(caCertificate).checkPrivateKey(createPrivateKey(pem));
  } catch {
    // Neither a key nor a certificate: damaged, which is what was asked.
    return false;
  }
}
