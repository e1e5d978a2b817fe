/**
 * The committed plan of an environment: a signed pointer and two immutable blobs (the plan, its inputs).
 *
 * Pointers are totally ordered by (planEpoch, seq, record hash); the highest wins whole and is never merged with
 * another. A plan that a host signed is followed only when everything that operators decide (services, roles, numbers) is
 * as in the plan before or as in the document, and this host computes the same from the same inputs; one that an operator
 * signed is followed as it is. Until the blobs of a higher pointer are here the former plan stays in force.
 *
 * Every plan names those that it takes account of. When two operators committed without knowing of each other, the
 * loser is not among them, and its work may be missing from the winner: `isMergePending` says so, a function of the plans
 * known and not of the order of arrival, and the automatic planner then plans the merged document.
 */
import { compareText, encode, equalBytes } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { ClusterId, Hash, NodeId, SessionId } from '../../crdt/ids.ts';
import type { Plan, PlanInputs, PlanPointer } from '../../crdt/model.ts';
import { decodePlan, decodePlanInputs } from '../../crdt/plan-shape.ts';
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
  /** Is it a member, and of this environment? */
  isMemberOf(node: NodeId, env: string): boolean;
  /** The pure planner: what this host makes of these inputs. */
  compute(inputs: PlanInputs): Plan;
  /** What the merged document of this host says now; null for an environment it does not hold. */
  desired(env: string): DecidedInputs | null;
  /** Do this host's documents hold what these heads stand for? */
  hasHeads(heads: PlanPointer['heads']): boolean;
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

/** Plans that a plan names as its past, to tell an old one from a rival. */
const pastMax = 32;
/** Rivals remembered per environment until a plan takes account of them. */
const rivalsMax = 16;
/** A host may not run away with the numbers: beyond the largest safe one nobody could commit any more. */
const jumpMax = 1_000_000;
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
  /** Lower plans whose work is not in the plan in force, by environment. */
  readonly #rivals = new Map<string, Map<Hash, PlanPointer>>();

  constructor(options: PlansOptions) {
    this.#options = options;
  }

  current(env: string): StoredPlan | null {
    return this.#current.get(env) ?? null;
  }

  /**
   * Two operators committed side by side and the plan in force holds only one's work; or a higher plan was refused here,
   * which others may follow: without a newer one of the merged document the two sides would stay apart for ever.
   */
  isMergePending(env: string): boolean {
    return (
      (this.#hasCaughtUp(env) && this.#mergeable(env).length > 0) ||
      (this.#current.has(env) && this.isRefusing(env))
    );
  }

  /**
   * Rivals whose work is in this host's documents. A plan may arrive before the edits it was made of: a new plan that named
   * it as its past without them would settle it, and its work would be in no plan.
   */
  #mergeable(env: string): readonly Hash[] {
    return [...(this.#rivals.get(env) ?? [])]
      .filter(([, { heads }]) => this.#options.hasHeads(heads))
      .map(([hash]) => hash);
  }

  /** Is what the plan in force was made of in this host's documents? */
  #hasCaughtUp(env: string): boolean {
    const best = this.#current.get(env);
    return best !== undefined && this.#options.hasHeads(best.pointer.heads);
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

  /**
   * What a new plan of this environment says about its place among all others. `planEpoch`: of the planner's lease, when
   * its holder plans; a higher one that is known is kept, or the new plan would lose to the one in force. It names nothing
   * whose edits are not here: to name too little makes a merge too many, to name too much loses somebody's work.
   */
  next(env: string, planEpoch = 0): Pick<PlanPointer, 'planEpoch' | 'seq' | 'after' | 'past'> {
    const best = this.#current.get(env);
    const others = [...this.#candidates.values(), ...this.#refused.values()];
    const known = others.filter(({ pointer }) => pointer.env === env);
    const pointers = [...known, ...(best === undefined ? [] : [best])].map((one) => one.pointer);
    const before = best !== undefined && this.#hasCaughtUp(env) ? best : null;
    const past = [...(before === null ? [] : [before.hash]), ...this.#mergeable(env)];
    return {
      planEpoch: Math.max(planEpoch, ...pointers.map((pointer) => pointer.planEpoch)),
      seq: Math.max(0, ...pointers.map((pointer) => pointer.seq)) + 1,
      after: before?.hash ?? '',
      past: [...new Set([...past, ...(before?.pointer.past ?? [])])].slice(0, pastMax),
    };
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
      this.#noteRival({ pointer, hash }, best.pointer);
      return 'known';
    }
    if (!isPlausible(pointer, best?.pointer ?? null)) return 'rejected';
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
    const wanted = this.wanted();
    const names = new Set(wanted.map((want) => want.hash));
    for (const known of this.#partial.keys()) if (!names.has(known)) this.#partial.delete(known);
    const want = wanted.find((entry) => entry.hash === hash);
    if (want === undefined || want.offset !== offset || total > this.#options.blobBytesMax)
      return 'known';
    const length = offset + bytes.length;
    if (length > total || (bytes.length === 0 && length < total)) {
      this.#partial.delete(hash);
      return 'rejected';
    }
    const parts = [...(this.#partial.get(hash) ?? []), bytes];
    if (length < total) {
      this.#partial.set(hash, parts);
      return 'waiting-for-blobs';
    }
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
    const plan = decodePlan(planBytes);
    const inputs = decodePlanInputs(inputBytes);
    const { signed, hash, pointer } = candidate;
    const isSound = plan?.env === pointer.env && inputs?.env === pointer.env;
    if (!isSound) {
      this.#refuse(candidate);
      return 'refused';
    }
    if (!('session' in pointer.author) && !this.#isRightful(pointer.env, inputs, planBytes)) {
      this.#refuse(candidate);
      return 'refused';
    }
    const committed = { pointer, pointerHash: hash, plan, inputs, isAccepted: true };
    const before = this.#current.get(pointer.env);
    this.#current.set(pointer.env, { signed, hash, pointer, planBytes, inputBytes, committed });
    for (const [rival, of] of Array.from(this.#rivals.get(pointer.env) ?? []))
      if (!isBeside({ pointer: of, hash: rival }, pointer))
        this.#rivals.get(pointer.env)?.delete(rival);
    if (before !== undefined) this.#noteRival(before, pointer);
    for (const other of Array.from(this.#candidates.values()))
      if (other.pointer.env === pointer.env && isHigher(candidate, other)) {
        this.#candidates.delete(other.hash);
        this.#noteRival(other, pointer);
      }
    this.#reconsider(pointer.env);
    return 'adopted';
  }

  /** `lower` was made beside the plan in force: is there work in it that nobody would miss? */
  #noteRival(lower: { pointer: PlanPointer; hash: Hash }, best: PlanPointer): void {
    if (!isBeside(lower, best)) return;
    const { env } = lower.pointer;
    const rivals = this.#rivals.get(env) ?? new Map<Hash, PlanPointer>();
    this.#rivals.set(env, rivals.set(lower.hash, lower.pointer));
    const oldest = rivals.keys().next().value;
    if (rivals.size > rivalsMax && oldest !== undefined) rivals.delete(oldest);
  }

  #refuse(candidate: Candidate): void {
    this.#refused.set(candidate.hash, candidate);
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
    if (!this.#options.isMemberOf(hex(record.host) as NodeId, record.env)) return null;
    return this.#options.crypto.verify(record.host, signedBytes(opened.payload), opened.signature);
  }
}

/**
 * A host claims the epoch of its planner lease, which nobody else can check, and the next number. Neither may jump: then
 * no host could ever put them out of reach. An operator may do both: it is asked for nothing else either.
 */
function isPlausible(
  pointer: PlanPointer,
  inForce: Pick<PlanPointer, 'planEpoch' | 'seq'> | null,
): boolean {
  if ('session' in pointer.author) return true;
  return (
    pointer.planEpoch <= (inForce?.planEpoch ?? 0) + jumpMax &&
    (inForce === null || pointer.seq <= inForce.seq + jumpMax)
  );
}

/** Was the lower plan unknown to whoever made the higher one, and does it hold other work? */
function isBeside(lower: { pointer: PlanPointer; hash: Hash }, higher: PlanPointer): boolean {
  if (higher.after === lower.hash || higher.past.includes(lower.hash)) return false;
  if (lower.pointer.decided !== null && lower.pointer.decided === higher.decided) return false;
  // Too old to be among those that the higher one names.
  return !(higher.past.length >= pastMax && lower.pointer.seq + pastMax <= higher.seq);
}

/** Names what operators decided in a plan's inputs. */
export function decidedHash(inputs: DecidedInputs, crypto: Crypto): Hash {
  const { services, roles, numbers, images, storage = [] } = inputs;
  // Plans without storage have the hash that they always had.
  const more = storage.length === 0 ? [] : [storage];
  return hex(crypto.sha256(encode([services, roles, numbers, images ?? [], ...more]))) as Hash;
}

/** The part of a plan's inputs that operators decide. */
export type DecidedInputs = Pick<
  PlanInputs,
  'services' | 'roles' | 'numbers' | 'images' | 'storage'
>;

/** Is every part one that operators decided: in the plan before or in the document? */
function isDecided(inputs: DecidedInputs, sources: readonly DecidedInputs[]): boolean {
  const parts = (of: DecidedInputs): string[] =>
    [...of.services, ...of.roles, ...of.numbers, ...(of.images ?? []), ...(of.storage ?? [])].map(
      (part) => encode(part).join(),
    );
  const allowed = new Set(sources.flatMap(parts));
  return parts(inputs).every((part) => allowed.has(part));
}

function pointerOf(opened: Opened<'plan'>): PlanPointer {
  const { env, planEpoch, seq, inputHash, inputBlob, blob, session, host } = opened.record;
  const { after, past, decided, heads } = opened.record;
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
    past: (past ?? []) as Hash[],
    decided: (decided ?? null) as Hash | null,
    heads: Object.fromEntries(
      Object.entries(heads ?? {}).map(([doc, known]) => [doc, known as Hash[]]),
    ),
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
