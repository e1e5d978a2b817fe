/**
 * The committed plan of an environment: a signed pointer and two immutable blobs (the plan, its inputs).
 *
 * Pointers are totally ordered by (planEpoch, seq, record hash); the highest wins whole and is never merged with
 * another. A plan that a host signed is followed only when everything that operators decide (services, roles, numbers) is
 * as in the plan before or as in the document, and this host computes the same from the same inputs; one that an operator
 * signed is followed as it is. When two operators committed without knowing of each other, the loser's work is not in the
 * winner's plan: `isMergePending` says so, and the automatic planner then plans the merged document. Until the blobs of a higher pointer are here the former plan stays in force.
 */
import { compareText, decode, encode, equalBytes } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, Hash, NodeId, SessionId } from '../../crdt/ids.ts';
import type { Plan, PlanInputs, PlanPointer } from '../../crdt/model.ts';
import { openAs, signedBytes } from '../../crdt/records.ts';
import type { Opened, SignedBytes } from '../../crdt/records.ts';
import type { CommittedPlan } from '../node-api.ts';
import type { Crypto } from '../ports.ts';

export interface PlansOptions {
  readonly clusterId: ClusterId;
  readonly crypto: Crypto;
  readonly blobBytesMax: number;
  sessionKey(session: SessionId): Uint8Array | null;
  mayPlan(session: SessionId, env: string): boolean | null;
  isMember(node: NodeId): boolean;
  /** The pure planner: what this host makes of these inputs. */
  compute(inputs: PlanInputs): Plan;
  /** What the merged document of this host says now; null for an environment it does not hold. */
  desired(env: string): DecidedInputs | null;
}

export interface StoredPlan {
  readonly signed: SignedBytes;
  readonly hash: Hash;
  readonly pointer: PlanPointer;
  readonly planBytes: Uint8Array;
  readonly inputBytes: Uint8Array;
  readonly committed: CommittedPlan;
}

interface Candidate {
  readonly signed: SignedBytes;
  readonly hash: Hash;
  readonly pointer: PlanPointer;
  readonly blobs: Map<Hash, Uint8Array>;
}

export type PlanOutcome =
  | 'adopted'
  | 'waiting-for-blobs'
  | 'known'
  | 'parked'
  | 'refused'
  | 'rejected';

/** Former plans remembered per environment, to tell an old one from a rival. */
const pastMax = 256;
/** Refused plans remembered. */
const refusedMax = 16;
/** Plans waited for at once, over all environments. */
const candidatesMax = 16;
/** Parts of a blob fetched at once. */
export const planPartBytes = 256 << 10;

export class Plans {
  readonly #options: PlansOptions;
  readonly #current = new Map<string, StoredPlan>();
  /** Verified pointers above the plan in force whose blobs are on their way; the highest are kept. */
  readonly #candidates = new Map<Hash, Candidate>();
  readonly #partial = new Map<Hash, Uint8Array[]>();
  readonly #parked = new Map<Hash, SignedBytes>();
  readonly #refused = new Map<Hash, Candidate>();
  /** Plans that were in force here, newest last, by environment. */
  readonly #past = new Map<string, Hash[]>();
  readonly #mergePending = new Set<string>();

  constructor(options: PlansOptions) {
    this.#options = options;
  }

  current(env: string): StoredPlan | null {
    return this.#current.get(env) ?? null;
  }

  /** Two operators committed side by side and the plan in force holds only one's work. */
  isMergePending(env: string): boolean {
    return this.#mergePending.has(env);
  }

  /** A higher plan than the one in force was refused here: somebody else may follow it. */
  isRefusing(env: string): boolean {
    const best = this.#current.get(env);
    return [...this.#refused.values()].some(
      (candidate) =>
        candidate.pointer.env === env && (best === undefined || isHigher(candidate, best)),
    );
  }

  /** Plans that differ from what this host computes or from what operators decided: not followed, listed. */
  refused(): readonly PlanPointer[] {
    return [...this.#refused.values()].map((candidate) => candidate.pointer);
  }

  environments(): readonly string[] {
    return [...this.#current.keys()].toSorted(compareText);
  }

  nextSeq(env: string): number {
    const waiting = [...this.#candidates.values()].filter(({ pointer }) => pointer.env === env);
    const known = [this.#current.get(env), ...waiting].map((plan) => plan?.pointer.seq ?? 0);
    const refused = this.refused()
      .filter((pointer) => pointer.env === env)
      .map((pointer) => pointer.seq);
    return Math.max(0, ...known, ...refused) + 1;
  }

  heads(): Record<string, Hash> {
    return Object.fromEntries(
      this.environments().map((env) => [env, this.#current.get(env)?.hash ?? ('' as Hash)]),
    );
  }

  /** A pointer, with its blobs when they are at hand (own commits, restart). */
  accept(signed: SignedBytes, blobs: ReadonlyMap<Hash, Uint8Array> = new Map()): PlanOutcome {
    const opened = openAs('plan', signed);
    if (opened === null || opened.record.clusterId !== this.#options.clusterId) return 'rejected';
    const hash = hex(this.#options.crypto.sha256(opened.payload)) as Hash;
    if (this.#current.get(opened.record.env)?.hash === hash || this.#refused.has(hash))
      return 'known';
    const verdict = this.#verify(opened);
    if (verdict === null) {
      if (this.#parked.size < 64) this.#parked.set(hash, signed);
      return 'parked';
    }
    if (!verdict) return 'rejected';
    const pointer = pointerOf(opened);
    const best = this.#current.get(pointer.env);
    if (best !== undefined && !isHigher({ pointer, hash }, best)) {
      this.#noteLoser(pointer, hash);
      return 'known';
    }
    const isNews = !this.#candidates.has(hash);
    const candidate = this.#candidates.get(hash) ?? { signed, hash, pointer, blobs: new Map() };
    this.#candidates.set(hash, candidate);
    this.#dropLowestCandidate();
    for (const [name, bytes] of blobs) candidate.blobs.set(name, bytes);
    const outcome = this.#tryAdopt(candidate);
    // What is passed on each time it is heard goes round for ever.
    return outcome === 'waiting-for-blobs' && !isNews ? 'known' : outcome;
  }

  /** After the roster, rights or a document changed. */
  retry(): readonly PlanOutcome[] {
    for (const env of new Set(this.refused().map((pointer) => pointer.env))) this.#reconsider(env);
    const parked = [...this.#parked.values()];
    this.#parked.clear();
    return parked.map((signed) => this.accept(signed));
  }

  /** Blobs still missing, with the offset to ask from. */
  wanted(): readonly { readonly hash: Hash; readonly offset: number }[] {
    const out: { hash: Hash; offset: number }[] = [];
    for (const candidate of this.#candidates.values()) {
      for (const hash of [candidate.pointer.blob, candidate.pointer.inputBlob]) {
        if (candidate.blobs.has(hash)) continue;
        const parts = this.#partial.get(hash) ?? [];
        out.push({ hash, offset: parts.reduce((sum, part) => sum + part.length, 0) });
      }
    }
    return out;
  }

  part(hash: Hash, offset: number): { total: number; bytes: Uint8Array } | null {
    for (const plan of this.#current.values()) {
      const bytes =
        plan.pointer.blob === hash
          ? plan.planBytes
          : plan.pointer.inputBlob === hash
            ? plan.inputBytes
            : null;
      if (bytes !== null)
        return { total: bytes.length, bytes: bytes.subarray(offset, offset + planPartBytes) };
    }
    return null;
  }

  /** In order only; a part that does not continue what is here is dropped and asked for again. */
  takePart(hash: Hash, offset: number, total: number, bytes: Uint8Array): PlanOutcome {
    const want = this.wanted().find((entry) => entry.hash === hash);
    if (want === undefined || want.offset !== offset || total > this.#options.blobBytesMax)
      return 'known';
    const parts = [...(this.#partial.get(hash) ?? []), bytes];
    const length = offset + bytes.length;
    if (length > total || (bytes.length === 0 && length < total)) {
      this.#partial.delete(hash);
      return 'rejected';
    }
    this.#partial.set(hash, parts);
    if (length < total) return 'waiting-for-blobs';
    this.#partial.delete(hash);
    const whole = concat(parts, total);
    if (hex(this.#options.crypto.sha256(whole)) !== hash) return 'rejected';
    let outcome: PlanOutcome = 'known';
    for (const candidate of Array.from(this.#candidates.values())) {
      if (candidate.pointer.blob !== hash && candidate.pointer.inputBlob !== hash) continue;
      candidate.blobs.set(hash, whole);
      outcome = this.#tryAdopt(candidate);
    }
    return outcome;
  }

  /** A pointer whose blobs died with their host must not keep others from being followed, nor pile up. */
  #dropLowestCandidate(): void {
    if (this.#candidates.size <= candidatesMax) return;
    const [first, ...others] = this.#candidates.values();
    if (first === undefined) return;
    const lowest = others.reduce((low, other) => (isHigher(low, other) ? other : low), first);
    this.#candidates.delete(lowest.hash);
  }

  #tryAdopt(candidate: Candidate): PlanOutcome {
    const planBytes = candidate.blobs.get(candidate.pointer.blob);
    const inputBytes = candidate.blobs.get(candidate.pointer.inputBlob);
    if (planBytes === undefined || inputBytes === undefined) return 'waiting-for-blobs';
    this.#candidates.delete(candidate.hash);
    const plan = decode(planBytes) as Plan | null;
    const inputs = decode(inputBytes) as PlanInputs | null;
    if (plan === null || inputs === null) return 'rejected';
    const { signed, hash, pointer } = candidate;
    if (!('session' in pointer.author) && !this.#isRightful(pointer.env, inputs, planBytes)) {
      this.#refuse(candidate);
      return 'refused';
    }
    this.#noteAdoption(pointer);
    const committed = { pointer, pointerHash: hash, plan, inputs, isAccepted: true };
    this.#current.set(pointer.env, { signed, hash, pointer, planBytes, inputBytes, committed });
    for (const other of Array.from(this.#candidates.values()))
      if (other.pointer.env === pointer.env && isHigher(candidate, other))
        this.#candidates.delete(other.hash);
    this.#reconsider(pointer.env);
    return 'adopted';
  }

  /** `pointer` is about to replace the plan in force. */
  #noteAdoption(pointer: PlanPointer): void {
    const before = this.#current.get(pointer.env);
    if (before === undefined) return;
    const past = this.#past.get(pointer.env) ?? [];
    this.#past.set(pointer.env, [...past, before.hash].slice(-pastMax));
    if (pointer.after === before.hash) this.#mergePending.delete(pointer.env);
    else if ('session' in before.pointer.author) this.#mergePending.add(pointer.env);
  }

  /** A lower plan that never was in force here was made beside ours. */
  #noteLoser(pointer: PlanPointer, hash: Hash): void {
    if (!('session' in pointer.author) || this.#past.get(pointer.env)?.includes(hash) === true)
      return;
    const best = this.#current.get(pointer.env);
    if (best === undefined || best.hash === hash || best.pointer.after === hash) return;
    this.#past.set(pointer.env, [...(this.#past.get(pointer.env) ?? []), hash].slice(-pastMax));
    this.#mergePending.add(pointer.env);
  }

  /**
   * Others may follow it, and theirs is the higher: without a newer plan the two sides would stay apart for ever. One of
   * the merged document is acceptable to both.
   */
  #refuse(candidate: Candidate): void {
    this.#refused.set(candidate.hash, candidate);
    if (this.#current.has(candidate.pointer.env)) this.#mergePending.add(candidate.pointer.env);
    if (this.#refused.size <= refusedMax) return;
    const oldest = this.#refused.keys().next().value;
    if (oldest !== undefined) this.#refused.delete(oldest);
  }

  /** A refused plan may have been built on one that only now arrived; what is outdated is forgotten. */
  #reconsider(env: string): void {
    for (const candidate of Array.from(this.#refused.values())) {
      if (candidate.pointer.env !== env) continue;
      this.#refused.delete(candidate.hash);
      const best = this.#current.get(env);
      if (best === undefined || isHigher(candidate, best)) this.#tryAdopt(candidate);
    }
  }

  #isRightful(env: string, inputs: PlanInputs, planBytes: Uint8Array): boolean {
    if (inputs.env !== env) return false;
    const now = this.#options.desired(env);
    // A host that has just joined knows no plan before; it can still judge one of what the document says now.
    const before = this.#current.get(env)?.committed.inputs ?? now;
    if (now === null || before === null || !isDecided(inputs, [before, now])) return false;
    return equalBytes(encode(this.#options.compute(inputs)), planBytes);
  }

  #verify(opened: Opened<'plan'>): boolean | null {
    const { record } = opened;
    if (record.session !== undefined) {
      const key = this.#options.sessionKey(record.session as SessionId);
      if (key === null) return null;
      const mayPlan = this.#options.mayPlan(record.session as SessionId, record.env);
      if (mayPlan !== true) return mayPlan;
      return this.#options.crypto.verify(key, signedBytes(opened.payload), opened.signature);
    }
    if (record.host === undefined) return false;
    if (!this.#options.isMember(hex(record.host) as NodeId)) return null;
    return this.#options.crypto.verify(record.host, signedBytes(opened.payload), opened.signature);
  }
}

/** The part of a plan's inputs that operators decide. */
export type DecidedInputs = Pick<PlanInputs, 'services' | 'roles' | 'numbers' | 'images'>;

/** Is every part one that operators decided: in the plan before or in the document? */
function isDecided(inputs: DecidedInputs, sources: readonly DecidedInputs[]): boolean {
  const parts = (of: DecidedInputs): string[] =>
    [...of.services, ...of.roles, ...of.numbers, ...(of.images ?? [])].map((part) =>
      encode(part).join(),
    );
  const allowed = new Set(sources.flatMap(parts));
  return parts(inputs).every((part) => allowed.has(part));
}

function pointerOf(opened: Opened<'plan'>): PlanPointer {
  const { env, planEpoch, seq, inputHash, inputBlob, blob, session, host, after } = opened.record;
  const author =
    session === undefined
      ? { host: hex(host ?? new Uint8Array()) as NodeId }
      : { session: session as SessionId };
  return {
    env,
    planEpoch,
    seq,
    inputHash: inputHash as Hash,
    inputBlob: inputBlob as Hash,
    blob: blob as Hash,
    author,
    after: after as Hash,
  };
}

function isHigher(
  a: { pointer: PlanPointer; hash: Hash },
  b: { pointer: PlanPointer; hash: Hash },
): boolean {
  if (a.pointer.planEpoch !== b.pointer.planEpoch) return a.pointer.planEpoch > b.pointer.planEpoch;
  if (a.pointer.seq !== b.pointer.seq) return a.pointer.seq > b.pointer.seq;
  return compareText(a.hash, b.hash) > 0;
}

function concat(parts: readonly Uint8Array[], total: number): Uint8Array {
  const out = new Uint8Array(total);
  let offset = 0;
  for (const part of parts) {
    out.set(part, offset);
    offset += part.length;
  }
  return out;
}
