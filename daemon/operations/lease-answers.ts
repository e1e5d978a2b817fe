/**
 * Shapes of the answers about leases, voters and alerts that programs parse: types only, shared with the client's views.
 * A contract: add fields, never change or drop one. Hosts are names; durations are milliseconds.
 */

export interface LeaseRow {
  /** 'service/prod/0123456789abcdef'. */
  readonly name: string;
  /** For people: 'service db'. */
  readonly title: string;
  /** Host; null: nobody that this host knows of. */
  readonly holder: string | null;
  /** Fencing epoch of the holder, or the newest that was heard of; 0: never held. */
  readonly epoch: number;
  /** 'opening', 'active', 'frozen', 'handing-over' or 'parked' of the holder; 'acquiring' or 'waiting' here; else 'free'. */
  readonly state: string;
  readonly voters: readonly string[];
  /** Of the holder's authority, as known here; renewed long before it ends. Null: not known, not held or parked. */
  readonly expiresInMs: number | null;
  /** Best first. */
  readonly candidates: readonly string[];
  readonly profile: string | null;
  readonly onLoss: string | null;
  /** No automatic takeover: of the lease itself or of the whole environment. */
  readonly frozen: boolean;
  /** What a person should know, one line each; empty when all is well. */
  readonly trouble: readonly string[];
}

export interface CandidateRow {
  readonly host: string;
  /** From 1; null: it is no candidate, although it carries the role. */
  readonly place: number | null;
  readonly isHolder: boolean;
  /** Would take the lease if the holder were gone now. */
  readonly mayTake: boolean;
  /** Why not. */
  readonly reasons: readonly CandidateReason[];
}

export interface CandidateReason {
  readonly code:
    | 'dead'
    | 'drained'
    | 'host-frozen'
    | 'lease-frozen'
    | 'environment-frozen'
    | 'engine-down'
    | 'guard-down'
    | 'gate-fault'
    | 'not-in-sync'
    | 'start-failed'
    | 'unfit';
  readonly text: string;
}

export interface LeaseDetails extends Omit<LeaseRow, 'candidates'> {
  readonly env: string;
  /** Services that run under it. */
  readonly services: readonly string[];
  /** When the holder took it, ISO 8601 by the holder's clock; null: not known here. */
  readonly since: string | null;
  readonly candidates: readonly CandidateRow[];
  /** A handover on its way, as the holder says; `to` null: the best of those that get ready. Null: there is none. */
  readonly moving: {
    readonly to: string | null;
    readonly step: 'preparing' | 'stopping' | 'clearing' | 'settling';
  } | null;
  /** Of the holder, as far as it could be asked. */
  readonly gate: {
    readonly host: string;
    readonly state: string;
    readonly fault: string | null;
  } | null;
  readonly timing: LeaseTiming | null;
  /** Newest last. */
  readonly history: readonly LeaseHistoryRow[];
  readonly quorum: QuorumAnswer;
  /** Host losses, of any hosts, that it survives by itself; see `QuorumAnswer.survives`. */
  readonly survives: number;
  /** Which host this was answered from: the holder's where it could be asked. */
  readonly seenFrom: string;
}

/** Of the profile. */
export interface LeaseTiming {
  readonly exclusionMs: number;
  readonly authorityMs: number;
  readonly renewMs: number;
  readonly freezeBeforeMs: number;
  readonly killBeforeMs: number;
}

export interface LeaseHistoryRow {
  readonly epoch: number;
  readonly host: string;
  readonly what: string;
  readonly why: string;
  /** ISO 8601 by the clock of the host that noted it. */
  readonly at: string;
}

export interface VoterRow {
  readonly host: string;
  readonly isReachable: boolean;
  /** It forgot its votes, and waits until none can matter, or until it was let in anew. */
  readonly isSilent: boolean;
  /** Null: never. */
  readonly lastHeardMs: number | null;
}

export interface QuorumAnswer {
  /** Number of the configuration in the chain, and of its generation; null: none is known here. */
  readonly n: number | null;
  readonly generation: number | null;
  readonly mode: 'none' | 'single' | 'pair' | 'majority';
  readonly voters: readonly VoterRow[];
  readonly hasQuorum: boolean;
  /** Voters that must answer for a lease to change hands. */
  readonly needed: number;
  /** Further voters that may be lost before no lease can change hands any more; -1: that is so now. */
  readonly survives: number;
  /** What is lost if one more voter goes, in words. */
  readonly ifOneMoreGoes: string;
  /** Why this is not seen first-hand; '' when this host's guard answers. */
  readonly note: string;
}

export interface EnvRow {
  readonly name: string;
  readonly hosts: number;
  readonly live: number;
  /** Empty where this host does not know: it is in another environment. */
  readonly voters: readonly string[];
  readonly hasQuorum: boolean | null;
  readonly frozen: boolean | null;
  readonly isOwn: boolean;
}

export interface EnvDetails extends EnvRow {
  /** As operators have set it: 'auto' or the names of the voters wanted. */
  readonly votersWanted: 'auto' | readonly string[];
  readonly autoApply: string;
  readonly quorum: QuorumAnswer;
  /** Who plans by itself; null: nobody. */
  readonly planner: { readonly host: string; readonly epoch: number } | null;
  /** Lines for people about what each choice of voters loses; empty unless there are two hosts. */
  readonly choices: readonly string[];
}

export interface AlertRow {
  /** '<kind>:<subject>'; what `alert ack` takes. */
  readonly id: string;
  readonly kind: string;
  readonly severity: 'warn' | 'alarm';
  readonly subject: string;
  readonly text: string;
  /** What to do. */
  readonly todo: string;
  /** ISO 8601, of the earliest host that reported it. */
  readonly since: string;
  /** Hosts that report it. */
  readonly reportedBy: readonly string[];
  /** Null: nobody has seen it yet. */
  readonly acknowledged: { readonly at: string; readonly operator: string | null } | null;
}

/** Of `status`: one exclusive service. */
export interface ExclusiveRow {
  readonly service: string;
  readonly lease: string;
  readonly holder: string | null;
  readonly epoch: number;
  readonly state: string;
  /** Further host losses that it survives by itself; 0: the next may stop it, -1: it is not running or nobody may take it. */
  readonly survives: number;
  /** What limits it. */
  readonly limit: string;
}

/** Of `lease switch` and the others that change a holder. */
export interface MoveAnswer {
  readonly name: string;
  readonly title: string;
  readonly from: string | null;
  readonly to: string | null;
  readonly epoch: number;
  readonly tookMs: number;
  /** With `dryRun`: what it would do, one line each. */
  readonly plan?: readonly string[];
}

export interface StorageRow {
  readonly name: string;
  readonly id: string;
  readonly driver: string;
  readonly role: string;
  readonly path: string;
  /** 'storage dbdata'; null: it is not exclusive. */
  readonly lease: string | null;
  /** Host that holds it; null: nobody that this host knows of. */
  readonly active: string | null;
  /** Of the holder; 0: never held. */
  readonly epoch: number;
  /** Hosts of its role, by name. */
  readonly hosts: readonly StorageCopyRow[];
}

export interface StorageCopyRow {
  readonly host: string;
  /** False: what is said here it said before it died. */
  readonly isAlive: boolean;
  /** 'active', 'replica', 'absent', 'failed'; 'unknown': it has said nothing. */
  readonly state: string;
  readonly epoch: number;
  readonly version: number;
  /** Age of the oldest write that the copy lacks, as its host last said; 0: nothing is known to be missing; null: not known. */
  readonly lagMs: number | null;
  /** It may take over. */
  readonly isInSync: boolean;
  readonly bytes: number;
  /** Since it said so; null: never. */
  readonly ageMs: number | null;
  /** Why it could not be copied; null: it could. */
  readonly reason: string | null;
}
