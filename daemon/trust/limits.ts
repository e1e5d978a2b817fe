/** How much strangers may ask of us: token buckets per address, bounded in number. */
import { ClusterError } from '../errors.ts';

/** Addresses remembered; the one that asked longest ago is forgotten first. */
const addressesMax = 10_000;

export interface BucketSize {
  /** Tokens of a full bucket. */
  readonly burst: number;
  readonly perSecond: number;
}

interface Bucket {
  tokens: number;
  atMs: number;
}

export class TokenBuckets {
  readonly #buckets = new Map<string, Bucket>();
  readonly #size: BucketSize;

  constructor(size: BucketSize) {
    this.#size = size;
  }

  /** 0 when a token is there, else milliseconds until one is. Takes nothing. */
  waitMs(key: string, nowMs: number): number {
    const bucket = this.#filled(key, nowMs);
    return bucket.tokens >= 1 ? 0 : Math.ceil(((1 - bucket.tokens) / this.#size.perSecond) * 1_000);
  }

  /** Takes one, even below zero down to minus one burst. */
  take(key: string, nowMs: number): void {
    const bucket = this.#filled(key, nowMs);
    bucket.tokens = Math.max(-this.#size.burst, bucket.tokens - 1);
    this.#buckets.delete(key);
    this.#buckets.set(key, bucket);
    if (this.#buckets.size <= addressesMax) return;
    const oldest = this.#buckets.keys().next();
    if (oldest.done !== true) this.#buckets.delete(oldest.value);
  }

  give(key: string, nowMs: number): void {
    const bucket = this.#filled(key, nowMs);
    bucket.tokens = Math.min(this.#size.burst, bucket.tokens + 1);
  }

  reset(key: string): void {
    this.#buckets.delete(key);
  }

  #filled(key: string, nowMs: number): Bucket {
    const bucket = this.#buckets.get(key);
    if (bucket === undefined) return { tokens: this.#size.burst, atMs: nowMs };
    const gained = (Math.max(0, nowMs - bucket.atMs) / 1_000) * this.#size.perSecond;
    bucket.tokens = Math.min(this.#size.burst, bucket.tokens + gained);
    bucket.atMs = nowMs;
    return bucket;
  }
}

/** Joins and checks of codes. Codes cannot be guessed (128 bits): this bounds the work, not the luck. */
export class StrangerLimits {
  readonly #nowMs: () => number;
  readonly #requests = new TokenBuckets({ burst: 60, perSecond: 1 });
  readonly #failures = new TokenBuckets({ burst: 10, perSecond: 1 / 6 });
  readonly #all = new TokenBuckets({ burst: 400, perSecond: 100 });

  /** `nowMs` is monotonic. */
  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** Fails with RATE_LIMITED. */
  enter(address: string): void {
    const nowMs = this.#nowMs();
    const waitMs = Math.max(
      this.#requests.waitMs(address, nowMs),
      this.#failures.waitMs(address, nowMs),
      this.#all.waitMs('', nowMs),
    );
    if (waitMs > 0)
      throw new ClusterError('RATE_LIMITED', { address, seconds: Math.ceil(waitMs / 1_000) });
    this.#requests.take(address, nowMs);
    this.#all.take('', nowMs);
  }

  failed(address: string): void {
    this.#failures.take(address, this.#nowMs());
  }
}

/**
 * Failed logins: each costs a token of the address and, over HTTPS, of the operator. The socket has its own bucket, so
 * that a stranger on the network cannot lock an operator out of the machine itself.
 */
export class LoginThrottle {
  readonly #nowMs: () => number;
  readonly #perAddress = new TokenBuckets({ burst: 5, perSecond: 1 / 20 });
  readonly #perOperator = new TokenBuckets({ burst: 30, perSecond: 1 / 10 });

  /** `nowMs` is monotonic. */
  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  /** Fails with LOGIN_THROTTLED. */
  enter(from: LoginSource): void {
    const nowMs = this.#nowMs();
    const waitMs = Math.max(
      this.#perAddress.waitMs(addressOf(from), nowMs),
      from.address === null ? 0 : this.#perOperator.waitMs(from.operator, nowMs),
    );
    if (waitMs > 0)
      throw new ClusterError('LOGIN_THROTTLED', { seconds: Math.ceil(waitMs / 1_000) });
    // Paid in advance and given back by success: parallel guesses get no free round.
    this.#perAddress.take(addressOf(from), nowMs);
    if (from.address !== null) this.#perOperator.take(from.operator, nowMs);
  }

  /** It failed for another reason than the passphrase. */
  refund(from: LoginSource): void {
    this.#perAddress.give(addressOf(from), this.#nowMs());
    if (from.address !== null) this.#perOperator.give(from.operator, this.#nowMs());
  }

  succeeded(from: LoginSource): void {
    this.#perAddress.reset(addressOf(from));
    if (from.address !== null) this.#perOperator.reset(from.operator);
  }
}

export interface LoginSource {
  /** Null: the unix socket. */
  readonly address: string | null;
  readonly operator: string;
}

function addressOf({ address }: LoginSource): string {
  return address ?? 'socket';
}
