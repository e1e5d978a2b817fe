/**
 * This member's certificate for the HTTPS API: kept in the state directory, renewed before a third of its life is left or
 * when names or addresses changed. A restart with a good one makes nothing and loads no X.509 library.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { reasonOf } from '../errors.ts';
import type { Clock, Log, Timer } from '../ports.ts';
import { clusterDomain, issueCertificate, renewBeforeMs } from './certificates.ts';
import type { Certificate, CertificateAuthority } from './certificates.ts';
import { readSecretFile, writeSecretFile } from './secret-file.ts';

/** Looked at this often; a change of address is told by `refresh`. */
const checkIntervalMs = 3_600_000;
const loopback = ['127.0.0.1', '::1'] as const;

export interface ApiCertificateOptions {
  /** Directory for `api.pem` and `api.key`. */
  readonly dir: string;
  readonly authority: CertificateAuthority;
  readonly clusterName: string;
  readonly hostName: () => string;
  /** Where this host may be reached. Loopback is added. */
  readonly addresses: () => readonly string[];
  readonly clock: Clock;
  readonly log: Log;
  /** After a renewal: put it into the listening servers. */
  readonly onRenewed: (certificate: Certificate) => void;
}

export class ApiCertificate {
  readonly #options: ApiCertificateOptions;
  #current: Certificate | null = null;
  #timer: Timer | null = null;
  #work: Promise<Certificate> | null = null;

  constructor(options: ApiCertificateOptions) {
    this.#options = options;
  }

  /** The certificate in force; from then on it is kept fresh until `stop`. */
  async start(): Promise<Certificate> {
    this.#current = this.#load();
    const certificate = await this.refresh();
    this.#schedule();
    return certificate;
  }

  /** Renews when it is due; call it when the host's name or addresses may have changed. Calls are joined. */
  async refresh(): Promise<Certificate> {
    if (this.#current !== null && !this.#isDue(this.#current)) return this.#current;
    this.#work ??= this.#renew().finally(() => (this.#work = null));
    return this.#work;
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  async #renew(): Promise<Certificate> {
    const { authority, clock, dir, log } = this.#options;
    const certificate = await issueCertificate({
      authority,
      dnsNames: this.#dnsNames(),
      addresses: this.#addresses(),
      nowWallMs: clock.wallMs(),
    });
    // Key first: with an old certificate it does not match, which `load` sees.
    writeSecretFile(join(dir, 'api.key'), certificate.keyPem);
    writeSecretFile(join(dir, 'api.pem'), certificate.certPem);
    const isFirst = this.#current === null;
    this.#current = certificate;
    log.info('api.certificate', { names: this.#dnsNames(), addresses: this.#addresses() });
    if (!isFirst) this.#options.onRenewed(certificate);
    return certificate;
  }

  /** Null when there is none, or key and certificate do not belong together or to this authority. */
  #load(): Certificate | null {
    const { dir, authority, log } = this.#options;
    const keyPem = readSecretFile(join(dir, 'api.key'))?.toString();
    const certPem = readSecretFile(join(dir, 'api.pem'))?.toString();
    if (keyPem === undefined || certPem === undefined) return null;
    try {
      const leaf = new X509Certificate(certPem);
      const issuer = new X509Certificate(authority.certificateDer);
      const isOurs = leaf.verify(issuer.publicKey) && isChainOf(certPem, issuer);
      if (isOurs && leaf.checkPrivateKey(createPrivateKey(keyPem))) return { keyPem, certPem };
    } catch (error) {
      log.warn('api.certificate-unreadable', { reason: reasonOf(error) });
    }
    return null;
  }

  #isDue({ certPem }: Certificate): boolean {
    const leaf = new X509Certificate(certPem);
    const nowMs = this.#options.clock.wallMs();
    if (leaf.validToDate.getTime() - nowMs < renewBeforeMs || leaf.validFromDate.getTime() > nowMs)
      return true;
    const isNamed = this.#dnsNames().every((name) => leaf.checkHost(name) !== undefined);
    return !isNamed || !this.#addresses().every((address) => leaf.checkIP(address) !== undefined);
  }

  #dnsNames(): readonly string[] {
    const { clusterName, hostName } = this.#options;
    return [`${hostName()}.${clusterDomain}`, `${clusterName}.${clusterDomain}`];
  }

  #addresses(): readonly string[] {
    const own = this.#options.addresses().filter((address) => isIP(address) !== 0);
    return [...new Set([...own.slice(0, 32), ...loopback])];
  }

  #schedule(): void {
    const { clock, log } = this.#options;
    this.#timer = clock.setTimer(checkIntervalMs, () => {
      this.#schedule();
      this.refresh().catch((error: unknown) =>
        log.error('api.certificate-failed', { reason: reasonOf(error) }),
      );
    });
  }
}

/** Of the chain, Node's parser looks at the first certificate only; a damaged second one would end the server. */
function isChainOf(certPem: string, issuer: X509Certificate): boolean {
  const [, second, ...others] = certPem.match(/-----BEGIN[^-]+-----[^-]+-----END[^-]+-----/g) ?? [];
  if (second === undefined || others.length > 0) return false;
  return new X509Certificate(second).fingerprint256 === issuer.fingerprint256;
}
