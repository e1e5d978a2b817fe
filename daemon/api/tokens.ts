/** Bearer tokens of the HTTPS API: random, kept only as hashes, each bound to a session and ending with it. */
import { hex } from '../../crdt/ids.ts';
import { systemCrypto } from '../crypto.ts';
import type { EditSession } from '../node-api.ts';
import type { TokenIssuer } from '../operations/operator.ts';
import { systemRandom } from '../random.ts';

/** Beyond it the oldest ends: a script that logs in for every call locks nobody out. */
const tokensMax = 1_000;
const prefix = 'trellis_';

export class TokenTable implements TokenIssuer {
  /** By hex of the token's sha-256. */
  readonly #sessions = new Map<string, EditSession>();
  readonly #wallMs: () => number;

  constructor(wallMs: () => number) {
    this.#wallMs = wallMs;
  }

  issue(session: EditSession): string {
    this.#prune();
    const oldest = this.#sessions.keys().next();
    if (this.#sessions.size >= tokensMax && oldest.done !== true)
      this.#sessions.delete(oldest.value);
    const token = prefix + Buffer.from(systemRandom.bytes(32)).toString('base64url');
    this.#sessions.set(hashOf(token), session);
    return token;
  }

  revoke(session: EditSession): void {
    for (const [hash, held] of this.#sessions)
      if (held.id === session.id) this.#sessions.delete(hash);
  }

  /** After `leave`. */
  clear(): void {
    this.#sessions.clear();
  }

  /** Null when there is no such token or its session has expired. Looked up by hash: timing tells nothing. */
  find(token: string): EditSession | null {
    const session = this.#sessions.get(hashOf(token));
    return session !== undefined && session.expiresAtWallMs > this.#wallMs() ? session : null;
  }

  #prune(): void {
    for (const [hash, held] of this.#sessions) {
      if (held.expiresAtWallMs <= this.#wallMs()) this.#sessions.delete(hash);
    }
  }
}

function hashOf(token: string): string {
  return hex(systemCrypto.sha256(Buffer.from(token)));
}
