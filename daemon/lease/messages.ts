/**
 * What guards say to each other. The channel proves the sender's host; `core.ts` hands a message to a part only when the
 * sender is who it speaks for. See `daemon/docs/leases.md` for the protocol and what we changed from the papers.
 */
import type { HostId } from '../../crdt/ids.ts';
import type {
  Ballot,
  ChosenConfig,
  Epoch,
  LeaseFloor,
  LeaseName,
  Owner,
  VoterConfig,
} from './model.ts';

/** Under which voters the sender acts. */
export interface ConfigRef {
  readonly env: string;
  readonly generation: number;
  readonly n: number;
}

interface LeaseHeader extends ConfigRef {
  readonly name: LeaseName;
  readonly ballot: Ballot;
}

export interface Prepare extends LeaseHeader {
  readonly kind: 'prepare';
  /** An operator declared the host dead that had parked it: a park is passed over, a live lease never. */
  readonly isForced: boolean;
}

export interface PromiseReply extends LeaseHeader {
  readonly kind: 'promise';
  /** False: somebody else's lease is live here; nothing was promised. */
  readonly isOpen: boolean;
  /** Of the live lease, whoever's. */
  readonly live: { readonly owner: Owner; readonly epoch: Epoch; readonly remainMs: number } | null;
  readonly maxEpoch: Epoch;
  readonly maxEpochOwner: Owner | null;
  /** The owner of `maxEpoch` gave it up itself, or there was none: nobody has to be fenced. */
  readonly isReleased: boolean;
  readonly promisedCounter: number;
  /** Parked: no other owner until unparked or forced. */
  readonly parkedBy: Owner | null;
  /** As the owner of `maxEpoch` said last, see `Accept`; null: this voter knows of that epoch by hearsay. */
  readonly unfenced: readonly HostId[] | null;
}

export interface Accept extends LeaseHeader {
  readonly kind: 'accept';
  readonly purpose: 'acquire' | 'renew' | 'park' | 'unpark';
  readonly epoch: Epoch;
  /** `D_A`; more than the configuration's `ttlMsMax` is refused. 0 only with `unpark`: ends a park, grants nothing. */
  readonly exclusionMs: number;
  /** As in `Prepare`. */
  readonly isForced: boolean;
  /**
   * With `fence: command`: hosts of earlier owners that nobody has fenced yet; nothing runs under the lease while there are any.
   * Whoever owns it next inherits them. At most `leaseLimits.unfencedMax`.
   */
  readonly unfenced: readonly HostId[];
}

export interface Accepted extends LeaseHeader {
  readonly kind: 'accepted';
  readonly purpose: Accept['purpose'];
  /** This acceptor is about to leave a configuration of two: renewals need the full majority from now on. */
  readonly isFull: boolean;
}

export interface Reject extends LeaseHeader {
  readonly kind: 'reject';
  readonly why: 'ballot' | 'busy' | 'epoch' | 'parked' | 'denied' | 'ttl' | 'limit';
  readonly promisedCounter: number;
  readonly maxEpoch: Epoch;
  readonly remainMs: number;
}

/** The sender's configuration is older than ours, or we ask for it: here is ours. */
export interface ConfigNews {
  readonly kind: 'config';
  readonly chosen: ChosenConfig;
}

/** We are behind: send what you have. */
export interface ConfigAsk extends ConfigRef {
  readonly kind: 'config-ask';
}

/** Only after the holder's gate was verified empty. */
export interface Release extends LeaseHeader {
  readonly kind: 'release';
  /** Other preparers are told busy for `reservationMs`: liveness only. */
  readonly successor: HostId | null;
}

/** A hint for candidates, operators and balancers; never a reason to start. */
export interface Learn {
  readonly kind: 'learn';
  readonly env: string;
  readonly name: LeaseName;
  readonly owner: Owner;
  readonly epoch: Epoch;
  readonly remainMs: number;
  readonly state: 'active' | 'parked' | 'released';
}

/** A candidate wants to hear of expiry from this voter. Repeated; forgotten after `watchMs`. */
export interface Watch {
  readonly kind: 'watch';
  readonly env: string;
  readonly names: readonly LeaseName[];
}

export interface Expired {
  readonly kind: 'expired';
  readonly env: string;
  readonly name: LeaseName;
  readonly epoch: Epoch;
}

// ---- Handover: holder and candidate ------------------------------------------------------------------------------

/**
 * ask (anyone -> holder), prepare (holder -> target), ready (target), [holder stops its workload], stopped (holder), settled
 * (target: storage caught up), [release], go (holder -> target), done (target: active). `here` (target): still at it. `abort`
 * from either side at any time before the release: the holder continues under its unbroken lease.
 */
export interface Handover {
  readonly kind: 'handover';
  readonly env: string;
  readonly name: LeaseName;
  readonly step:
    | 'ask'
    | 'prepare'
    | 'ready'
    | 'stopped'
    | 'settled'
    | 'go'
    | 'done'
    | 'abort'
    | 'here';
  /** Names one handover: 12 random hex digits by the asker. */
  readonly id: string;
  readonly epoch: Epoch;
  readonly to: HostId;
  readonly reason: string;
}

// ---- Chain of voters: ordinary durable single-decree Paxos for slot n + 1 among the voters of n ------------------

interface ChainHeader extends ConfigRef {
  readonly ballot: Ballot;
}

/** Asks voters of a configuration of two to enter intent first. */
export interface ChainPrepare extends ChainHeader {
  readonly kind: 'chain-prepare';
}

export interface ChainPromise extends ChainHeader {
  readonly kind: 'chain-promise';
  readonly isOpen: boolean;
  /** Not yet: it has been in this configuration for too short a time, or intent is too young. */
  readonly waitMs: number;
  readonly promised: Ballot | null;
  readonly accepted: { readonly ballot: Ballot; readonly config: VoterConfig } | null;
  /** For the next record's floors. */
  readonly floors: readonly LeaseFloor[];
  readonly floorRest: Epoch;
}

export interface ChainAccept extends ChainHeader {
  readonly kind: 'chain-accept';
  readonly config: VoterConfig;
}

export interface ChainAccepted extends ChainHeader {
  readonly kind: 'chain-accepted';
  readonly hash: string;
  readonly isAccepted: boolean;
  readonly waitMs: number;
  readonly promised: Ballot | null;
}

export type Message =
  | Prepare
  | PromiseReply
  | Accept
  | Accepted
  | Reject
  | ConfigNews
  | ConfigAsk
  | Release
  | Learn
  | Watch
  | Expired
  | Handover
  | ChainPrepare
  | ChainPromise
  | ChainAccept
  | ChainAccepted;
