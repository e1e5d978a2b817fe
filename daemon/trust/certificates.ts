/**
 * X.509 for the HTTPS API: the cluster's issuing certificate and the members' certificates under it.
 *
 * P-256, because browsers refuse Ed25519. The issuing certificate is its own trust anchor for curl and browsers; that it
 * belongs to the cluster is said by the authority's signature over the record that carries it. Name constraints keep a
 * stolen issuing key from being worth anything outside `*.trellis.internal` and addresses.
 */
import { KeyObject, webcrypto } from 'node:crypto';
import { isIP } from 'node:net';
import { systemRandom } from '../random.ts';
import { hex } from '../../crdt/ids.ts';

const dayMs = 86_400_000;
const caLifeMs = 20 * 365 * dayMs;
export const memberCertificateLifeMs = 90 * dayMs;
/** Renewed when less than this is left. */
export const renewBeforeMs = memberCertificateLifeMs / 3;
/** Hosts without internet have wrong clocks: a certificate made now is good on one that is a day late. */
const backdateMs = dayMs;
/** Names and addresses in one certificate. */
const subjectNamesMax = 64;

export const clusterDomain = 'trellis.internal';

const algorithm = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const oid = { nameConstraints: '2.5.29.30', serverAuth: '1.3.6.1.5.5.7.3.1' } as const;

export interface CertificateAuthority {
  /** PKCS #8, PEM: the issuing key. Secret. */
  readonly keyPem: string;
  readonly certificateDer: Uint8Array;
}

export interface Certificate {
  /** PKCS #8, PEM. Secret. */
  readonly keyPem: string;
  readonly certPem: string;
}

/** Loaded only when a certificate is made: that is rare, and start-up time is a budget. */
async function loadX509(): Promise<typeof import('@peculiar/x509')> {
  await import('reflect-metadata');
  const x509 = await import('@peculiar/x509');
  x509.cryptoProvider.set(webcrypto);
  return x509;
}

/** Valid for 20 years. `clusterName` becomes the common name, from which joiners know what to ask for. */
export async function makeCertificateAuthority(options: {
  readonly clusterName: string;
  readonly clusterId: string;
  readonly nowWallMs: number;
}): Promise<CertificateAuthority> {
  const x509 = await loadX509();
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const certificate = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serialNumber(),
    name: `CN=${options.clusterName}, O=Trellis ${options.clusterId}`,
    notBefore: new Date(options.nowWallMs - backdateMs),
    notAfter: new Date(options.nowWallMs + caLifeMs),
    signingAlgorithm: algorithm,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(
        x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign,
        true,
      ),
      new x509.ExtendedKeyUsageExtension([oid.serverAuth], false),
      new x509.Extension(oid.nameConstraints, true, nameConstraints()),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return {
    keyPem: await keyPemOf(keys.privateKey),
    certificateDer: new Uint8Array(certificate.rawData),
  };
}

/** A new key and its certificate, valid for 90 days; the PEM holds the chain. */
export async function issueCertificate(options: {
  readonly authority: CertificateAuthority;
  readonly dnsNames: readonly string[];
  readonly addresses: readonly string[];
  readonly nowWallMs: number;
}): Promise<Certificate> {
  const x509 = await loadX509();
  const issuer = new x509.X509Certificate(options.authority.certificateDer);
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ['sign', 'verify']);
  const names = subjectNames(options.dnsNames, options.addresses);
  const certificate = await x509.X509CertificateGenerator.create({
    serialNumber: serialNumber(),
    subject: `CN=${options.dnsNames[0] ?? clusterDomain}`,
    issuer: issuer.subject,
    notBefore: new Date(options.nowWallMs - backdateMs),
    notAfter: new Date(
      Math.min(options.nowWallMs + memberCertificateLifeMs, issuer.notAfter.getTime()),
    ),
    signingAlgorithm: algorithm,
    publicKey: keys.publicKey,
    signingKey: await issuingKey(options.authority.keyPem),
    extensions: [
      new x509.BasicConstraintsExtension(false, undefined, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
      new x509.ExtendedKeyUsageExtension([oid.serverAuth], false),
      new x509.SubjectAlternativeNameExtension(names, false),
      await x509.AuthorityKeyIdentifierExtension.create(issuer),
    ],
  });
  const chain = `${certificate.toString('pem')}\n${issuer.toString('pem')}\n`;
  return { keyPem: await keyPemOf(keys.privateKey), certPem: chain };
}

export function pemOf(der: Uint8Array): string {
  const lines =
    Buffer.from(der)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join('\n')}\n-----END CERTIFICATE-----\n`;
}

function subjectNames(
  dnsNames: readonly string[],
  addresses: readonly string[],
): { type: 'dns' | 'ip'; value: string }[] {
  const ips = [...new Set(addresses)].filter((address) => isIP(address) !== 0);
  return [
    ...[...new Set(dnsNames)].map((value) => ({ type: 'dns' as const, value })),
    ...ips.map((value) => ({ type: 'ip' as const, value })),
  ].slice(0, subjectNamesMax);
}

/** 127 random bits, positive and not zero. */
function serialNumber(): string {
  const bytes = systemRandom.bytes(16);
  bytes[0] = ((bytes[0] ?? 0) & 0x3f) | 0x40;
  return hex(bytes);
}

async function keyPemOf(key: webcrypto.CryptoKey): Promise<string> {
  return KeyObject.from(key).export({ format: 'pem', type: 'pkcs8' }) as string;
}

async function issuingKey(pem: string): Promise<webcrypto.CryptoKey> {
  const base64 = pem.replaceAll(/-----[A-Z ]+-----|\s/g, '');
  return webcrypto.subtle.importKey('pkcs8', Buffer.from(base64, 'base64'), algorithm, false, [
    'sign',
  ]);
}

/**
 * RFC 5280 4.2.1.10, permitted: names at and below the cluster domain, and every IPv4 and IPv6 address (address and mask
 * all zero). Mail addresses and URIs are permitted only at a host that does not exist, which forbids them.
 */
function nameConstraints(): Uint8Array {
  const text = (value: string): Buffer => Buffer.from(value, 'ascii');
  const permitted = [
    der(0x82, text(clusterDomain)),
    der(0x87, Buffer.alloc(8)),
    der(0x87, Buffer.alloc(32)),
    der(0x81, text('none.invalid')),
    der(0x86, text('none.invalid')),
  ].map((base) => der(0x30, base));
  return new Uint8Array(der(0x30, der(0xa0, Buffer.concat(permitted))));
}

function der(tag: number, content: Buffer): Buffer {
  const length = content.length < 0x80 ? [content.length] : [0x81, content.length];
  return Buffer.concat([Buffer.from([tag, ...length]), content]);
}
