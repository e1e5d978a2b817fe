/**
 * What the protocol core needs from the world: interfaces only.
 *
 * The core (membership, replication, plan, node) is synchronous: a handler runs to completion and hands
 * effects to these ports. Production implements them in `net/`, `store/` and `clock.ts`; the simulator
 * implements them in `test/sim/`. One conformance suite runs on both.
 */
import type { NodeId } from '../crdt/ids.ts';

export interface Timer {
  /** Idempotent. A cancelled timer never fires. */
  cancel(): void;
}

/** The only source of time. `monotonicMs` never goes back; `wallMs` may jump (NTP, resume of a VM). */
export interface Clock {
  monotonicMs(): number;
  wallMs(): number;
  /** Fires once, never before `delayMs` has passed, possibly much later. */
  setTimer(delayMs: number, fire: () => void): Timer;
}

/** One stream per consumer; never shared between nodes of a simulation. */
export interface Random {
  /** Uniform in [0, 1). */
  next(): number;
  /** Unpredictable bytes in production, seeded ones in the simulator. */
  bytes(count: number): Uint8Array;
}

/**
 * Best effort between members: may lose, repeat, delay or reorder frames. Never throws, never blocks.
 * Frames over `frameBytesMax` (config) are dropped and counted by the implementation.
 */
export interface Network {
  send(to: NodeId, frame: Uint8Array): void;
  /** One handler; called with a copy that the receiver may keep. */
  onFrame(handle: (from: NodeId, frame: Uint8Array) => void): void;
  /** Peers to which a frame sent now has a chance to arrive. Order is unspecified: sort before use. */
  connected(): readonly NodeId[];
  /** Fires after `connected()` changed. A peer that reconnects quickly may fire once or twice. */
  onPeer(handle: (peer: NodeId, isConnected: boolean) => void): void;
}

/** What was wrong with a log or file when it was opened; the good part is still usable. */
export interface Damage {
  readonly name: string;
  readonly kind: 'torn-tail' | 'corrupt' | 'missing';
  /** Where the damaged bytes were set aside, or null when they were only cut off. */
  readonly setAside: string | null;
  readonly detail: string;
}

/**
 * Durable state of one daemon. Reads are synchronous and happen at start; writes call back once the bytes are
 * on stable storage, or with an error (full disk): then nothing of that record is kept.
 * A crash may lose or tear anything not yet synced. `synced` never fires synchronously inside the call,
 * and fires in call order per log.
 */
export interface Storage {
  /** All intact records, oldest first, and what had to be cut off or set aside. */
  readLog(log: string): { records: Uint8Array[]; damage: Damage | null };
  append(log: string, record: Uint8Array, synced: (error?: Error) => void): void;
  /** Atomic replacement of a whole log by `records` (after a rebuild or compaction). */
  rewriteLog(log: string, records: readonly Uint8Array[], synced: (error?: Error) => void): void;
  /** Null when absent; `damage` when the checksum does not match (the file is set aside). */
  readFile(name: string): { bytes: Uint8Array | null; damage: Damage | null };
  /** Atomic replacement. Latest call wins. */
  writeFile(name: string, bytes: Uint8Array, synced: (error?: Error) => void): void;
}

/** Ed25519 and SHA-256, synchronous. The simulator may use a cheaper signature of the same shape. */
export interface Crypto {
  /** 32 bytes. */
  sha256(bytes: Uint8Array): Uint8Array;
  /** From a 32-byte seed. */
  keyPair(seed: Uint8Array): KeyPair;
  /** False for malformed keys and signatures; never throws. */
  verify(publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean;
}

export interface KeyPair {
  /** 32 bytes. */
  readonly publicKey: Uint8Array;
  /** 64 bytes, deterministic. */
  sign(bytes: Uint8Array): Uint8Array;
}

/** `event` is a constant such as 'replication.parked'; values must hold no secret. */
export interface Log {
  debug(event: string, values?: Record<string, unknown>): void;
  info(event: string, values?: Record<string, unknown>): void;
  warn(event: string, values?: Record<string, unknown>): void;
  error(event: string, values?: Record<string, unknown>): void;
}
