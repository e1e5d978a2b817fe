/**
 * What the daemon tells its guard, and what it hears: one JSON value per line on a unix socket that only root may open.
 *
 * Level-triggered: `desired` is the whole wish, sent on connect and after every change; the guard keeps the last one in its
 * state directory, so that it goes on, and boots into going on, with no daemon. The guard never asks the daemon whether it
 * may renew or fence.
 */
import type { HostId, NodeId } from '../../crdt/ids.ts';
import type { ChosenConfig, Epoch, Fence, LeaseName, OnLoss, Owner, ProfileName } from './model.ts';

export const guardApiVersion = 1;

/** Everything a guard has to know of the world. */
export interface GuardDesired {
  readonly v: 1;
  readonly clusterId: string;
  readonly cluster8: string;
  readonly env: string;
  readonly self: HostId;
  /** Members of the environment (and witnesses): whom to speak with, and how to know them. */
  readonly peers: readonly GuardPeer[];
  /** Every lease of the environment, also those that this host may not hold: acceptors refuse what is not listed. */
  readonly leases: readonly LeaseDesired[];
  /** Newest configuration of voters that the daemons have gossiped; the guard takes it if it is newer. Null: none known. */
  readonly chosen: ChosenConfig | null;
  /** True on the founder of an environment only: it makes configuration 0 of itself when nothing is known. */
  readonly isFounder: boolean;
  /** Voters that there should be (of the holder of `planner/<env>`); null: leave as they are. */
  readonly votersWanted: readonly HostId[] | null;
  /** No new acquisitions and no handover in the whole environment, or by this host; renewal and fencing go on. */
  readonly isFrozen: boolean;
  /** Failing probes of this host (engine, data disk) by name, empty when all is well: a holder hands over when a candidate is ready. */
  readonly failingProbes: readonly string[];
  /** True: this guard is only an acceptor (a witness). */
  readonly isWitness: boolean;
}

export interface GuardPeer {
  readonly host: HostId;
  readonly name: string;
  /** PeerId text of the host's key: its lease key is certified by it. */
  readonly node: NodeId;
  /** Lease ports to try, 'address:port'; empty: not known. */
  readonly addresses: readonly string[];
}

export interface LeaseDesired {
  readonly name: LeaseName;
  /** For people: 'service db'. */
  readonly title: string;
  readonly profile: ProfileName;
  readonly onLoss: OnLoss;
  /** Eligible hosts, best first: an acceptor grants to these only, a candidate waits by its place. */
  readonly candidates: readonly HostId[];
  /** Hosts that may have it only by force, because their copy of the storage is stale. Absent: none. */
  readonly forceable?: readonly HostId[];
  /** May this host try, as far as the daemon knows (storage in sync, not drained, not failed to start)? */
  readonly mayAcquire: boolean;
  /** Why not, for people; '' when it may. */
  readonly why: string;
  /** No new acquisition or move of this one. */
  readonly isFrozen: boolean;
  /** Name of the gate's cgroup, [a-z0-9-]{1,80}; null: nothing runs under it (planner, invites, jobs). */
  readonly gate: string | null;
  /** Container addresses behind the traffic gate. */
  readonly traffic: readonly string[];
  readonly fence: Fence;
  /** Run by the winner before it starts, arguments only; needed when `fence` is 'command'. */
  readonly fenceCommand: readonly string[];
  /** Extra exclusion after an expiry without release. */
  readonly lockDelayMs: number;
  /**
   * `stay`: the daemon's death moves nothing. `move`: hand over when the daemon is gone for 30 s and a candidate is ready; with
   * no gate also when it was stopped, and a guard without its daemon does not take it.
   */
  readonly onDaemonDown: 'stay' | 'move';
}

// ---- Commands -------------------------------------------------------------------------------------------------------

export type GuardCommand =
  /** On the holder: hand over to `to` (null: best ready candidate). Ends when the target is active or it was aborted. */
  | {
      readonly kind: 'switch';
      readonly name: LeaseName;
      readonly to: HostId | null;
      readonly reason: string;
    }
  /** On the holder: stop the workload and give the lease up; nobody here takes it for 15 s. */
  | { readonly kind: 'release'; readonly name: LeaseName; readonly reason: string }
  /**
   * On the holder: freeze what runs under it for at most `maxMs` (1 to 1,000 ms; once per 2 s), for a copy of one moment.
   * Answered when it stands still. It goes on by itself then; the lease is renewed meanwhile.
   */
  | { readonly kind: 'pause'; readonly name: LeaseName; readonly maxMs: number }
  /** Ends a pause sooner. Refused when it had not stood still until now. */
  | { readonly kind: 'resume'; readonly name: LeaseName }
  /**
   * Take a lease for as long as the daemon's connection and the process live (`trellis lock`, jobs, invite uses). One at a
   * time for each name; `release` also ends the asking. Its epoch is at least `epochMin`, and just that if nobody ever had
   * one as high: whoever numbers what it does by it does each thing once.
   */
  | {
      readonly kind: 'acquire';
      readonly lease: LeaseDesired;
      readonly waitMs: number;
      readonly epochMin?: Epoch;
    }
  /** Durable, without end: everything held (or one) is kept through a stop of everything. */
  | { readonly kind: 'park'; readonly name: LeaseName | null }
  | { readonly kind: 'unpark'; readonly name: LeaseName | null }
  /**
   * Take a lease from an owner that an operator declares dead: a parked one at once, any other when its time is over, which
   * voters never cut short.
   */
  | {
      readonly kind: 'force-active';
      readonly name: LeaseName;
      /** Whom the operator declares dead; null: nobody was known to have it. Refused when another turns out to have it. */
      readonly of: HostId | null;
    }
  /** Majority lost: survivors become the voters of a new generation; waits 2 M first. */
  | {
      readonly kind: 'force-voters';
      readonly voters: readonly HostId[];
      readonly assertDead: readonly HostId[];
    }
  // Answers of the daemon to notices:
  /** The target of a handover is ready (image pulled, container created, storage near), or says why not. */
  | {
      readonly kind: 'prepared';
      readonly name: LeaseName;
      readonly id: string;
      readonly isReady: boolean;
      readonly why: string;
    }
  /** The holder's workload was stopped in order. */
  | {
      readonly kind: 'stopped';
      readonly name: LeaseName;
      readonly id: string;
      readonly isStopped: boolean;
      readonly why: string;
    }
  /** The target has the last of the storage. */
  | {
      readonly kind: 'settled';
      readonly name: LeaseName;
      readonly id: string;
      readonly isSettled: boolean;
      readonly why: string;
    }
  /** The workload did not start under this epoch: release, and do not try here until `desired` says so. */
  | {
      readonly kind: 'start-failed';
      readonly name: LeaseName;
      readonly epoch: Epoch;
      readonly why: string;
    }
  /** The daemon is being stopped for good or for a while; nothing that is held changes. */
  | { readonly kind: 'daemon-stopping' }
  /** Ends the guard process: refused while it holds, or is needed as a voter, unless forced. */
  | { readonly kind: 'exit'; readonly isForced: boolean };

/** `code` is one of the error table. */
export type GuardReply =
  | {
      readonly isOk: true;
      readonly epoch?: Epoch;
      readonly holder?: HostId;
      /**
       * Of `acquire` with a gate: files to write a process id to, so that it and its children run inside the gate (one for
       * each hierarchy). The gate is frozen until the lease is valid and empty when this answer is given.
       */
      readonly gateProcs?: readonly string[];
      /** Of `acquire` with a gate: the directory with `epoch` and `lease.json`. */
      readonly leaseDir?: string;
    }
  | {
      readonly isOk: false;
      readonly code: string;
      readonly details: Readonly<Record<string, unknown>>;
    };

// ---- What the guard says ------------------------------------------------------------------------------------------------

/** Something that somebody has to act upon, or that belongs in the events. */
export type GuardNotice =
  /** The gate is open: start the workload under this epoch. `isResumed`: it was only frozen. */
  | {
      readonly kind: 'open';
      readonly name: LeaseName;
      readonly epoch: Epoch;
      readonly isResumed: boolean;
    }
  /** The gate is closed; nothing inside runs any more (`isKilled`) or it is frozen. */
  | {
      readonly kind: 'closed';
      readonly name: LeaseName;
      readonly epoch: Epoch;
      readonly isKilled: boolean;
      readonly why: string;
    }
  | {
      readonly kind: 'prepare';
      readonly name: LeaseName;
      readonly id: string;
      readonly from: HostId;
    }
  | { readonly kind: 'stop'; readonly name: LeaseName; readonly id: string; readonly to: HostId }
  | {
      readonly kind: 'settle';
      readonly name: LeaseName;
      readonly id: string;
      readonly from: HostId;
    }
  /** A handover was given up: start the workload again (holder) or forget it (target). */
  | { readonly kind: 'resume'; readonly name: LeaseName; readonly id: string; readonly why: string }
  | {
      readonly kind: 'event';
      readonly event: string;
      readonly severity: 'info' | 'warn' | 'alarm';
      readonly name: LeaseName | null;
      readonly text: string;
    };

export type LeaseState =
  /** Not ours, and we do not try. */
  | 'idle'
  /** Waiting for somebody else's to run out, or for our turn. */
  | 'waiting'
  | 'acquiring'
  /** Held, the gate is being cleared and opened. */
  | 'opening'
  | 'active'
  /** Held, but the gate is closed: fewer than `freezeBeforeMs` left. */
  | 'frozen'
  | 'handing-over'
  | 'parked';

/** A handover on its way, as the holder sees it. */
export interface LeaseMoving {
  /** Null: several get ready, and the best of them gets it. */
  readonly to: HostId | null;
  readonly step: 'preparing' | 'stopping' | 'clearing' | 'settling';
}

export interface LeaseStatus {
  readonly name: LeaseName;
  readonly title: string;
  readonly state: LeaseState;
  /** Ours when we hold it, else the newest that was heard of. */
  readonly epoch: Epoch;
  /** As far as this guard knows; null: nobody. */
  readonly holder: {
    readonly owner: Owner;
    readonly state: 'active' | 'parked';
    readonly remainMs: number;
  } | null;
  /** Of our own authority; null: not held. */
  readonly remainMs: number | null;
  readonly gate: 'none' | 'closed' | 'open' | 'clearing' | 'failed';
  readonly profile: ProfileName;
  readonly onLoss: OnLoss;
  readonly candidates: readonly HostId[];
  readonly mayAcquire: boolean;
  readonly why: string;
  /** While the holder hands it over; absent or null: it does not. */
  readonly moving?: LeaseMoving | null;
  /** Newest last, at most `historyMax`. */
  readonly history: readonly LeaseHistory[];
}

export interface LeaseHistory {
  readonly epoch: Epoch;
  readonly host: HostId;
  readonly what:
    | 'acquired'
    | 'released'
    | 'expired'
    | 'handed-over'
    | 'parked'
    | 'forced'
    | 'start-failed';
  readonly why: string;
  /** Wall clock of this guard, for people only. */
  readonly atWallMs: number;
}

export interface GuardStatus {
  readonly v: 1;
  readonly env: string;
  readonly self: HostId;
  readonly session: string;
  readonly pid: number;
  readonly version: string;
  readonly chosen: ChosenConfig | null;
  /** Of the voters, as seen from here. */
  readonly voters: readonly {
    readonly host: HostId;
    readonly isReachable: boolean;
    readonly isSilent: boolean;
    /** Milliseconds since it last answered; null: never. */
    readonly lastHeardMs: number | null;
  }[];
  /** True when a majority answers. */
  readonly hasQuorum: boolean;
  /** Own acceptor is silent for so long yet; 0: it speaks. */
  readonly silentMs: number;
  /** Own vote lost something that it had promised to keep: it is silent until it was removed and let in anew. */
  readonly hasForgotten: boolean;
  readonly isParked: boolean;
  /** Why exclusive work cannot be fenced here; null: the gate works. Tested for real at start and by `doctor`. */
  readonly gateFault: string | null;
  readonly leases: readonly LeaseStatus[];
  readonly counters: Readonly<Record<string, number>>;
}

// ---- Lines on the socket --------------------------------------------------------------------------------------------------

export type ToGuard =
  /** Greets status and notices. Whoever sends `desired` after it is the daemon; `trellis lock` only acquires. */
  | { readonly kind: 'hello'; readonly v: number; readonly version: string }
  | { readonly kind: 'desired'; readonly desired: GuardDesired }
  | { readonly kind: 'command'; readonly id: number; readonly command: GuardCommand }
  | { readonly kind: 'status'; readonly id: number }
  /** Freeze, start, kill for real in a gate of its own; answers a reply. */
  | { readonly kind: 'test-gate'; readonly id: number };

export type FromGuard =
  | {
      readonly kind: 'hello';
      readonly v: number;
      readonly version: string;
      readonly pid: number;
      readonly leasePort: number;
    }
  /** Sent on connect, after every change, and every second while anything is held. */
  | { readonly kind: 'status'; readonly id: number | null; readonly status: GuardStatus }
  | { readonly kind: 'reply'; readonly id: number; readonly reply: GuardReply }
  | { readonly kind: 'notice'; readonly notice: GuardNotice };
