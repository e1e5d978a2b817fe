/**
 * Messages to and from other guards: who this guard is, and whom it speaks with. Key and
 * certificate are the daemon's to make; until they are there, nobody is spoken with.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { hex, unhex, type HostId } from '../../../crdt/ids.ts';
import { keyPairFromSeed, systemCrypto } from '../../crypto.ts';
import { reasonOf } from '../../errors.ts';
import type { Log, Random } from '../../ports.ts';
import { isAbsent } from '../../store/durable.ts';
import { readLeaseCertificate, type LeaseCertificate } from '../certificate.ts';
import type { GuardDesired } from '../guard-api.ts';
import { guardStateFiles } from '../guard-start.ts';
import type { Message } from '../messages.ts';
import { channelOpener } from './secure-channel.ts';
import { Transport } from './transport.ts';

const identityRetryMs = 1_000;

/** Nothing comes back for these. A hint that is lost is not missed: whoever waits for it asks its own voters again. */
const answers: ReadonlySet<Message['kind']> = new Set([
  'promise',
  'accepted',
  'reject',
  'learn',
  'expired',
  'chain-promise',
  'chain-accepted',
]);

interface Identity {
  readonly seed: Uint8Array;
  readonly certificate: LeaseCertificate;
}

export interface MeshOptions {
  readonly stateDir: string;
  readonly listen: { readonly address: string; readonly port: number };
  readonly log: Log;
  readonly random: Random;
  readonly nowMs: () => number;
  readonly onMessage: (from: HostId, message: Message) => void;
  readonly onPeer: () => void;
}

export class Mesh {
  readonly #options: MeshOptions;
  #transport: Transport | null = null;
  #desired: GuardDesired | null = null;
  #retry: NodeJS.Timeout | null = null;
  #messagesIn = 0;
  #messagesOut = 0;
  /** 0 until it listens. */
  port = 0;

  constructor(options: MeshOptions) {
    this.#options = options;
  }

  /** Rejects when the port is taken. Without an identity it waits for one. */
  async start(): Promise<void> {
    const { stateDir, log, random, nowMs, onPeer, listen } = this.#options;
    const identity = readIdentity(stateDir, log);
    if (identity === null) {
      this.#retry = setTimeout(() => {
        this.start().catch((error: unknown) => {
          log.error('guard.listen-failed', { error: reasonOf(error) });
        });
      }, identityRetryMs);
      return;
    }
    const transport = new Transport({
      open: channelOpener(identity.seed),
      certificate: identity.certificate,
      log,
      random,
      nowMs,
      onMessages: (from, messages) => this.#onMessages(from, messages),
      onPeer,
    });
    this.port = await transport.listen(listen.address, listen.port);
    this.#transport = transport;
    if (this.#desired !== null) this.setPeers(this.#desired);
  }

  setPeers(desired: GuardDesired): void {
    this.#desired = desired;
    this.#transport?.setPeers(desired.peers.filter(({ host }) => host !== desired.self));
  }

  send(to: HostId, messages: readonly Message[]): void {
    this.#messagesOut += messages.length;
    const isAnswer = messages.every(({ kind }) => answers.has(kind));
    this.#transport?.send(to, messages, { isAnswer });
  }

  counters(): Record<string, number> {
    return {
      ...this.#transport?.counters,
      messagesIn: this.#messagesIn,
      messagesOut: this.#messagesOut,
    };
  }

  close(): void {
    if (this.#retry !== null) clearTimeout(this.#retry);
    this.#transport?.close();
  }

  #onMessages(from: HostId, messages: readonly Message[]): void {
    this.#messagesIn += messages.length;
    for (const message of messages) this.#options.onMessage(from, message);
  }
}

/** Null when it is not there yet, or not good. */
function readIdentity(stateDir: string, log: Log): Identity | null {
  try {
    const seed = unhex(readFileSync(join(stateDir, guardStateFiles.key), 'utf8').trim());
    const text = readFileSync(join(stateDir, guardStateFiles.certificate), 'utf8');
    const certificate = readLeaseCertificate(JSON.parse(text), systemCrypto);
    if (seed?.length !== 32 || certificate === null)
      throw new Error('key or certificate is damaged');
    if (hex(keyPairFromSeed(seed).publicKey) !== certificate.leaseKey) {
      throw new Error('the certificate is for another key');
    }
    return { seed, certificate };
  } catch (error) {
    if (!isAbsent(error)) log.error('guard.identity', { error: reasonOf(error) });
    return null;
  }
}
