/**
 * Shapes of the answers that programs parse (`--json` and the API): types only, shared with the client's views.
 * A contract: add fields, never change or drop one.
 */
import type { LeafValue } from '../../crdt/leaves.ts';
import type { HostView, PlanStep, Unplaceable } from '../../crdt/model.ts';
import type { EventEntry } from '../node-api.ts';
import type { AlertRow, ExclusiveRow, QuorumAnswer } from './lease-answers.ts';

/** For people and JSON; SWIM's status is one of several inputs. */
export type HostState = 'joining' | 'ready' | 'suspect' | 'dead' | 'draining' | 'drained' | 'left';

export interface HostRow {
  readonly id: string;
  readonly name: string;
  readonly state: HostState;
  /** A ready host without roles. */
  readonly spare: boolean;
  readonly env: string;
  readonly roles: readonly string[];
  readonly addresses: readonly string[];
  readonly version: string | null;
  /** Milliseconds since it was last heard of here; 0 for this host; null: never in this run of the daemon. */
  readonly lastSeenMs: number | null;
  readonly meta: HostView['meta'];
  /** The host's own fact; null until it has arrived. */
  readonly inventory: unknown;
  readonly isSelf: boolean;
}

export interface HostDetails extends HostRow {
  readonly node: string;
  readonly engine: string | null;
  /** Takes nothing exclusive by itself. */
  readonly frozen: boolean;
  readonly apiPort: number | null;
  readonly peerPort: number | null;
  readonly instances: readonly InstanceRow[];
}

export interface InstanceRow {
  readonly service: string;
  readonly host: string;
  readonly instance: string;
  /**
   * As the engine says; 'missing': planned and not there; 'unknown': its host is dead; 'standby': made ready where its lease
   * is not held.
   */
  readonly state: string;
  readonly health: string;
  readonly image: string;
  /** Fencing epoch where its lease is held; null elsewhere, and for what needs no lease. */
  readonly epoch: number | null;
  readonly ports: readonly {
    readonly name: string;
    readonly container: number;
    readonly host: number | null;
    readonly number: number | null;
  }[];
  /** Owner's wall clock, ISO 8601; null when it never ran. */
  readonly since: string | null;
  readonly restarts: number;
  /** Why it does not run. */
  readonly reason: string | null;
  /** Age of the report in milliseconds. */
  readonly ageMs: number;
  readonly slot: string;
  readonly containerId: string;
}

export interface ServiceRow {
  readonly name: string;
  readonly role: string;
  readonly image: string;
  readonly enabled: boolean;
  readonly desired: number;
  readonly running: number;
  readonly healthy: number;
}

export interface ServiceDetails extends ServiceRow {
  readonly id: string;
  readonly source: string;
  /** '<service>.<env>.internal'. */
  readonly address: string;
  readonly ports: readonly {
    readonly name: string;
    readonly container: number;
    readonly host: number | null;
    readonly number: number | null;
    readonly protocol: string;
    readonly expose: string;
  }[];
  /** As desired. */
  readonly spec: unknown;
  readonly placements: readonly { readonly slot: string; readonly host: string }[];
  readonly instances: readonly InstanceRow[];
}

export interface RoleRow {
  readonly name: string;
  readonly minHosts: number;
  readonly dedicated: boolean;
  /** Names; live ones only in `live`. */
  readonly hosts: readonly string[];
  readonly live: number;
  readonly services: readonly string[];
  /** False: used or carried, but created by nobody. */
  readonly exists: boolean;
}

/** Every edit answers this. */
export interface EditAnswer {
  /** Null: nothing had to change. */
  readonly hash: string | null;
  readonly changed: number;
  /** With `wait`: names of live members that have it. */
  readonly seenBy?: readonly string[];
  /** With `dryRun`: what it would do. */
  readonly plan?: readonly string[];
  readonly warnings?: readonly string[];
}

export interface PlanAnswer {
  /** First 12 digits of the hash of the inputs: `plan apply` takes it. */
  readonly id: string;
  readonly inputHash: string;
  readonly steps: readonly PlanStep[];
  readonly warnings: readonly string[];
  readonly unplaceable: readonly Unplaceable[];
  readonly recommendations: readonly unknown[];
}

export interface ApplyAnswer {
  readonly hash: string | null;
  readonly changed: number;
  /** '<kind> <name>' of what `prune` deletes. */
  readonly pruned: readonly string[];
  /** Fields that differ. With `dryRun` these would be written. */
  readonly changes: readonly FieldChange[];
  /** Images that were put into the cluster first. */
  readonly pushed: readonly string[];
  /** Null with `noPlan`. */
  readonly plan: PlanAnswer | null;
  readonly dryRun: boolean;
  readonly seenBy?: readonly string[];
}

export interface FieldChange {
  /** 'services/site/image'. */
  readonly path: string;
  readonly from: LeafValue;
  readonly to: LeafValue;
}

export interface StatusAnswer {
  /** Nothing differs. */
  readonly ok: boolean;
  readonly cluster: string;
  readonly env: string;
  readonly services: readonly ServiceRow[];
  readonly hosts: readonly {
    readonly name: string;
    readonly state: HostState;
    readonly spare: boolean;
  }[];
  readonly conflicts: number;
  /** Parts of the documents that cannot be used. */
  readonly problems: readonly string[];
  readonly alarms: readonly EventRow[];
  /** What lasts and needs a person, acknowledged or not. */
  readonly alerts: readonly AlertRow[];
  /** Exclusive services that should run. */
  readonly exclusive: readonly ExclusiveRow[];
  readonly quorum: QuorumAnswer;
  readonly unplaceable: readonly string[];
  /** Inputs of the plan have changed since it was committed. */
  readonly planIsStale: boolean;
  /** One line for each difference. */
  readonly differences: readonly string[];
}

export interface CheckRow {
  readonly name: string;
  readonly result: 'ok' | 'warn' | 'fail';
  readonly detail: string;
  /** What to do; '' when nothing. */
  readonly todo: string;
}

export interface DoctorAnswer {
  readonly ok: boolean;
  readonly host: string;
  readonly checks: readonly CheckRow[];
}

export interface ConflictRow {
  readonly id: string;
  readonly doc: string;
  readonly subject: string;
  readonly pointer: string;
  readonly values: readonly {
    readonly n: number;
    readonly value: LeafValue;
    readonly operator: string;
    readonly session: string;
    readonly hash: string;
    readonly at: string;
    readonly inForce: boolean;
  }[];
}

export interface HistoryRow {
  readonly hash: string;
  readonly doc: string;
  readonly operator: string;
  readonly session: string;
  readonly at: string;
  readonly message: string;
}

export interface EventRow {
  readonly at: string;
  readonly host: string;
  readonly seq: number;
  readonly kind: string;
  readonly severity: EventEntry['severity'];
  readonly text: string;
  readonly details?: EventEntry['details'];
}

export interface ImageRow {
  readonly reference: string;
  readonly manifest: string;
  readonly imageId: string;
  readonly sizeBytes: number;
}

export interface NameRow {
  readonly service: string;
  readonly name: string;
  readonly address: string;
  readonly port: string;
  readonly protocol: string;
  readonly number: number | null;
  readonly container: number;
  /** '<address>:<port>' that this host sends to. */
  readonly targets: readonly string[];
}
