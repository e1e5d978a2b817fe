/**
 * What surfaces, operations and reconcile may ask of the running node. `node.ts` implements it; everything returned is
 * a snapshot that nobody mutates. Calls are synchronous and cheap unless they take a callback.
 */
import type { ClusterId, Hash, HostId, NodeId, ObjectId, SessionId } from '../crdt/ids.ts';
import type { Edit, LeafReader, LeafValue } from '../crdt/leaves.ts';
import type {
  EnvView,
  HostView,
  Liveness,
  Placement,
  Plan,
  PlanInputs,
  PlanPointer,
} from '../crdt/model.ts';
import type { LeaseName } from './lease/model.ts';
import type { Holder } from './plan/leases.ts';
import type { Damage } from './ports.ts';
import type { ClusterError } from './errors.ts';

export interface EditReceipt {
  /** Names the edit; null when nothing had to change. */
  readonly hash: Hash | null;
  readonly changed: number;
}

/** Document names are 'cluster' and 'env/<name>'. */
export type DocName = string;

export interface ConflictEntry {
  /** Stable: hash of doc, object and pointer, 12 hex digits. */
  readonly id: string;
  readonly doc: DocName;
  readonly object: ObjectId | 'names' | 'settings';
  /** For people: 'service site', 'host h1'. */
  readonly subject: string;
  readonly pointer: string;
  /** The first is the one in force. */
  readonly values: readonly {
    readonly value: LeafValue;
    readonly operator: string;
    readonly session: SessionId;
    readonly hash: Hash;
    readonly atWallMs: number;
  }[];
}

export interface HistoryEntry {
  readonly hash: Hash;
  readonly doc: DocName;
  readonly operator: string;
  readonly session: SessionId;
  readonly atWallMs: number;
  readonly message: string;
}

export interface FactEntry {
  readonly owner: NodeId;
  readonly topic: string;
  readonly value: unknown;
  /** Age when it reached us plus the time since, local clock. */
  readonly ageMs: number;
}

export interface EventEntry {
  readonly host: string;
  readonly seq: number;
  readonly atWallMs: number;
  /** Constant such as 'instance.died'. */
  readonly kind: string;
  readonly severity: 'info' | 'warn' | 'alarm';
  readonly text: string;
  readonly details?: Readonly<Record<string, unknown>>;
}

export interface MemberInfo {
  readonly node: NodeId;
  readonly host: HostId;
  readonly liveness: Liveness;
  /** Milliseconds since a frame of it arrived; null: never in this run. 0 for self. */
  readonly lastSeenMs: number | null;
  readonly isConnected: boolean;
  readonly isSelf: boolean;
}

/** An operator's unlocked session on this host. Holds the private key; never leaves the process. */
export interface EditSession {
  readonly id: SessionId;
  readonly operator: string;
  readonly expiresAtWallMs: number;
}

export interface CommittedPlan {
  readonly pointer: PlanPointer;
  readonly pointerHash: Hash;
  readonly plan: Plan;
  readonly inputs: PlanInputs;
  /** False: it differs from what this host computes from the inputs and no operator signed it; not followed. */
  readonly isAccepted: boolean;
}

/** How far an edit or plan has spread. */
export interface Spread {
  readonly hash: Hash;
  /** Live members that have it, and those that do not yet. */
  readonly have: readonly HostId[];
  readonly missing: readonly HostId[];
}

export interface NodeApi {
  readonly clusterId: ClusterId;
  readonly clusterName: string;
  readonly env: string;
  readonly self: { readonly node: NodeId; readonly host: HostId };

  envView(): EnvView;
  hosts(): readonly HostView[];
  members(): readonly MemberInfo[];
  facts(topic: string): readonly FactEntry[];
  fact(topic: string, owner: NodeId): FactEntry | null;
  /** Own fact; equal values are not republished. */
  publishFact(topic: string, value: unknown): void;

  reader(doc: DocName): LeafReader;
  /** State that the newest edit with this source left, or null if there was none. */
  readerAtLastApply(doc: DocName, source: string): LeafReader | null;
  /**
   * Acknowledged after fsync here. Leaves that already have the value are left out. Fails with FORBIDDEN,
   * LOGIN_REQUIRED (session expired), EDIT_TOO_LARGE, DISK_FULL: then nothing has changed.
   */
  edit(
    session: EditSession,
    doc: DocName,
    edit: Edit,
    done: (result: EditReceipt | ClusterError) => void,
  ): void;
  spread(hash: Hash): Spread;
  conflicts(): readonly ConflictEntry[];
  /** Newest first, at most `max`. */
  history(options: { doc?: DocName; pointerPrefix?: string; max: number }): readonly HistoryEntry[];

  planInputs(): PlanInputs;
  committedPlan(): CommittedPlan | null;
  /** Commits as the operator of `session`, or as this host when null (automatic planning). */
  commitPlan(
    session: EditSession | null,
    proposal: { readonly inputs: PlanInputs; readonly plan: Plan },
    done: (result: { readonly pointerHash: Hash } | ClusterError) => void,
  ): void;
  /** Where everything should run now: the committed plan with failover applied, as seen from here. */
  effectivePlacements(): readonly Placement[];

  /**
   * What decides who may hold which lease: the committed inputs with hosts as alive as they are now and the committed
   * placements. Null while nothing was ever committed. The same object until something in it changes.
   */
  leaseInputs(): PlanInputs | null;
  /** Who holds what, by what all hosts say. A hint. */
  leaseHolders(): ReadonlyMap<LeaseName, Holder>;

  events(): readonly EventEntry[];
  emit(event: Omit<EventEntry, 'host' | 'seq' | 'atWallMs'>): void;
  damages(): readonly Damage[];

  /** Called after anything above may have changed; coalesced to one call per turn. Returns unsubscribe. */
  onChange(handle: () => void): () => void;
}
