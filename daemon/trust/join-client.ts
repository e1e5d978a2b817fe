/**
 * Joining: proves to a member over HTTPS that we know a code, and takes home what a new member needs.
 *
 * Nothing is trusted before it is checked: the connection against the cluster's certificate that came with the code, the
 * authority's record against that certificate, our own member record against our keys. The peers are tried in turn; a
 * refusal that another peer would repeat ends it at once.
 */
import { createPrivateKey, X509Certificate } from 'node:crypto';
import { request as httpsRequest } from 'node:https';
import { z } from 'zod';
import { equalBytes } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, HostId } from '../../crdt/ids.ts';
import { consentBytes, openAs, signedBytes } from '../../crdt/records.ts';
import type { MemberRecord, SignedBytes } from '../../crdt/records.ts';
import { systemCrypto } from '../crypto.ts';
import { ClusterError, errorTable, reasonOf } from '../errors.ts';
import type { ErrorCode } from '../errors.ts';
import { openAuthority } from './authority.ts';
import { clusterDomain } from './certificates.ts';
import {
  checkAnswerSchema,
  joinAnswerBytesMax,
  joinAnswerSchema,
  joinCheckPath,
  joinPath,
} from './join-wire.ts';
import type { CheckAnswer, JoinAnswer, PeerHint } from './join-wire.ts';

const requestTimeoutMs = 20_000;
const peersMax = 32;

export interface JoinOptions {
  /** 'address:port', '[v6]:port' or 'name:port' of HTTPS APIs. */
  readonly peers: readonly string[];
  readonly caPem: string;
  readonly code: string;
  readonly hostKeySeed: Uint8Array;
  /** Null: the admitting peer assigns one. */
  readonly hostId: HostId | null;
  readonly name: string;
  readonly roles: readonly string[];
  readonly meta: Readonly<Record<string, string>>;
  /** Multiaddrs at which this host listens for peers. */
  readonly listenAddresses: readonly string[];
  readonly signal?: AbortSignal;
  readonly progress?: (text: string) => void;
}

export interface Joined {
  readonly clusterId: ClusterId;
  readonly clusterName: string;
  readonly hostId: HostId;
  /** Our own, as admitted: name, environment, roles. */
  readonly member: MemberRecord;
  /** For the roster, in order; our member record is the last. */
  readonly records: readonly SignedBytes[];
  readonly caPem: string;
  readonly issuingKeyPem: string;
  readonly peers: readonly PeerHint[];
  /** The one that admitted us. */
  readonly peer: string;
}

/** Fails with INVITE_REFUSED, JOIN_REFUSED, JOIN_UNREACHABLE, INVALID. */
export async function join(options: JoinOptions): Promise<Joined> {
  const keys = systemCrypto.keyPair(options.hostKeySeed);
  return eachPeer(options, async (peer) => {
    options.progress?.(`asking ${peer} to admit this host`);
    const check = checkAnswerSchema.parse(
      await postToPeer(options, peer, joinCheckPath, {
        code: options.code,
        hostKey: hex(keys.publicKey),
      }),
    );
    const clusterId = assertAuthority(check, options.caPem);
    const hostId = options.hostId ?? (check.hostId as HostId);
    const consent = keys.sign(consentBytes({ clusterId, hostId, hostKey: keys.publicKey }));
    const answer = await postToPeer(options, peer, joinPath, {
      v: 1,
      code: options.code,
      hostKey: hex(keys.publicKey),
      hostId,
      consent: Buffer.from(consent).toString('base64'),
      name: options.name,
      roles: options.roles,
      meta: options.meta,
      addresses: options.listenAddresses,
    });
    return accept(joinAnswerSchema.parse(answer), {
      clusterId,
      hostId,
      hostKey: keys.publicKey,
      caPem: options.caPem,
      peer,
    });
  });
}

/** Is the code good? Uses nothing up. Fails like `join`. */
export async function checkInvite(
  options: Pick<JoinOptions, 'peers' | 'caPem' | 'code' | 'signal'>,
): Promise<CheckAnswer & { peer: string }> {
  return eachPeer(options, async (peer) => {
    const check = checkAnswerSchema.parse(
      await postToPeer(options, peer, joinCheckPath, { code: options.code }),
    );
    assertAuthority(check, options.caPem);
    return { ...check, peer };
  });
}

type PeerOptions = Pick<JoinOptions, 'peers' | 'caPem' | 'code' | 'signal'>;

async function eachPeer<T>(options: PeerOptions, ask: (peer: string) => Promise<T>): Promise<T> {
  if (options.peers.length === 0)
    throw new ClusterError('INVALID', { reason: 'no peer is named (--peer ADDR:PORT)' });
  const failures: string[] = [];
  let refusal: ClusterError | null = null;
  for (const peer of options.peers.slice(0, peersMax)) {
    try {
      return await ask(peer);
    } catch (error) {
      options.signal?.throwIfAborted();
      if (error instanceof ClusterError) {
        if (!mayDifferElsewhere(error)) throw error;
        refusal = error;
      }
      failures.push(`${peer} (${whyNot(error)})`);
    }
  }
  if (refusal !== null) throw refusal;
  throw new ClusterError('JOIN_UNREACHABLE', { peers: failures });
}

/** An invite may not have reached every member yet, and a busy one is not the only one. */
function mayDifferElsewhere(error: ClusterError): boolean {
  if (error.code === 'INVITE_REFUSED') return error.details['refusal'] === 'unknown';
  return errorTable[error.code].http >= 429 && error.code !== 'JOIN_UNREACHABLE';
}

function whyNot(error: unknown): string {
  if (error instanceof z.ZodError) return 'answers something else than a Trellis API';
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  if (/CERT|SIGNATURE|ALTNAME|UNSPECIFIED|^ERR_TLS/.test(code)) {
    return `is not of this cluster: ${reasonOf(error).slice(0, 200)}`;
  }
  return code === '' ? reasonOf(error) : code;
}

/** The cluster's id, proven: the record is the authority's own and names the certificate that we were given. */
function assertAuthority(check: CheckAnswer, caPem: string): ClusterId {
  const authority = openAuthority(fromBase64(check.authority), caPem);
  if (authority !== null && authority.record.clusterId === check.clusterId)
    return check.clusterId as ClusterId;
  throw new ClusterError('JOIN_REFUSED', {
    reason: 'the peer does not prove that the certificate is its cluster’s',
    todo: 'ask for a new invitation, from a member you trust',
  });
}

function accept(
  answer: JoinAnswer,
  ours: { clusterId: ClusterId; hostId: HostId; hostKey: Uint8Array; caPem: string; peer: string },
): Joined {
  const signed = fromBase64(answer.member);
  const opened = openAs('member', signed);
  const member = opened?.record;
  const admittedBy = member?.admittedBy;
  const isOurs =
    opened !== null &&
    member !== undefined &&
    admittedBy !== undefined &&
    member.clusterId === ours.clusterId &&
    answer.clusterId === ours.clusterId &&
    member.hostId === ours.hostId &&
    equalBytes(member.hostKey, ours.hostKey) &&
    systemCrypto.verify(admittedBy, signedBytes(opened.payload), opened.signature);
  if (!isOurs || !isKeyOf(ours.caPem, answer.issuingKey)) {
    throw new ClusterError('JOIN_REFUSED', {
      reason: 'the peer’s answer does not prove our admission',
      todo: 'try another peer and report it',
    });
  }
  return {
    clusterId: ours.clusterId,
    clusterName: answer.clusterName,
    hostId: ours.hostId,
    member,
    records: [...answer.records.map(fromBase64), signed],
    caPem: ours.caPem,
    issuingKeyPem: answer.issuingKey,
    peers: answer.peers,
    peer: ours.peer,
  };
}

function isKeyOf(caPem: string, keyPem: string): boolean {
  try {
    return new X509Certificate(caPem).checkPrivateKey(createPrivateKey(keyPem));
  } catch {
    // What is no key is not the key.
    return false;
  }
}

/** The name that every member's certificate carries: the CA's common name is the cluster's. */
export function apiServerName(caPem: string): string {
  let subject: string;
  try {
    subject = new X509Certificate(caPem).subject;
  } catch (error) {
    throw new ClusterError(
      'INVALID',
      { reason: `the cluster’s certificate cannot be read: ${reasonOf(error)}` },
      error,
    );
  }
  const name = /^CN=([a-z0-9-]+)$/m.exec(subject)?.[1];
  if (name === undefined)
    throw new ClusterError('INVALID', { reason: 'the certificate is not of a Trellis cluster' });
  return `${name}.${clusterDomain}`;
}

/** One request to a member's HTTPS API, checked against the cluster's certificate. Rejects with the peer's ClusterError. */
export async function postToPeer(
  options: Pick<JoinOptions, 'caPem' | 'signal'>,
  peer: string,
  path: string,
  body: unknown,
): Promise<unknown> {
  const servername = apiServerName(options.caPem);
  const url = peerUrl(peer, path);
  const text = JSON.stringify(body);
  const signal = AbortSignal.any([
    AbortSignal.timeout(requestTimeoutMs),
    ...(options.signal === undefined ? [] : [options.signal]),
  ]);
  const { status, answer } = await new Promise<{ status: number; answer: Buffer }>(
    (resolve, reject) => {
      const outgoing = httpsRequest(
        url,
        {
          method: 'POST',
          ca: options.caPem,
          servername,
          agent: false,
          signal,
          minVersion: 'TLSv1.2',
          headers: {
            'content-type': 'application/json',
            'content-length': Buffer.byteLength(text),
          },
        },
        (response) => {
          const chunks: Buffer[] = [];
          let bytes = 0;
          response.on('data', (chunk: Buffer) => {
            bytes += chunk.length;
            if (bytes > joinAnswerBytesMax) outgoing.destroy(new Error('the answer is too large'));
            else chunks.push(chunk);
          });
          response.on('error', reject);
          response.on('end', () =>
            resolve({ status: response.statusCode ?? 0, answer: Buffer.concat(chunks) }),
          );
        },
      );
      outgoing.on('error', reject);
      outgoing.end(text);
    },
  );
  return readAnswer(status, answer);
}

function readAnswer(status: number, answer: Buffer): unknown {
  let body: unknown;
  try {
    body = JSON.parse(answer.toString('utf8'));
  } catch (error) {
    throw new Error(`answered ${status} without JSON`, { cause: error });
  }
  if (status === 200) return body;
  const { error } = body as { error?: { code?: string; details?: Record<string, unknown> } };
  if (error?.code === undefined || !Object.hasOwn(errorTable, error.code))
    throw new Error(`answered ${status}`);
  throw new ClusterError(error.code as ErrorCode, error.details ?? {});
}

function peerUrl(peer: string, path: string): URL {
  const url = URL.parse(`https://${peer}${path}`);
  if (url === null || url.pathname !== path || url.username !== '') {
    throw new ClusterError('INVALID', { reason: `${JSON.stringify(peer)} is no address:port` });
  }
  return url;
}

function fromBase64(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, 'base64'));
}
