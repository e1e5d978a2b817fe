/**
 * How a daemon becomes a member and stops being one, as `init`, `join`, `leave` and the other operations of cluster and
 * operators see it. `daemon/daemon.ts` implements it: it brings the node up and down in this process.
 */
import type { EditSession, NodeApi } from '../node-api.ts';
import type { SessionKeeper } from '../trust/login.ts';
import type { RosterAccess } from '../trust/roster-access.ts';

export interface Lifecycle {
  /** Null before `init` or `join` and after `leave`. */
  cluster(): ClusterAccess | null;
  /** Of this daemon, also before it belongs to a cluster. */
  readonly host: { readonly version: string; readonly stateDir: string; readonly socket: string };
  /**
   * Founds a cluster of one (`trust/found.ts` makes keys and records), persists all of it and brings the node up. The
   * first operator is logged in on this host afterwards. Fails with ALREADY_MEMBER, PASSPHRASE_WEAK, DISK_FULL; then
   * nothing is left in the state directory.
   */
  init(request: InitRequest, control: Control): Promise<InitOutcome>;
  /**
   * Joins over HTTPS (`trust/join-client.ts`), persists the answer and brings the node up. Fails with ALREADY_MEMBER,
   * INVITE_REFUSED, JOIN_REFUSED, JOIN_UNREACHABLE; then nothing is left but the host id.
   */
  join(request: JoinRequest, control: Control): Promise<JoinOutcome>;
  /** Publishes the departure, purges what the plugins own on this host, stops the node, wipes keys and cluster state. */
  leave(request: LeaveRequest, control: Control): Promise<LeaveOutcome>;
}

export interface Control {
  readonly signal: AbortSignal;
  /** Shown to the user while it takes longer. */
  progress(text: string): void;
}

/** A cluster this daemon belongs to. */
export interface ClusterAccess {
  readonly node: NodeApi;
  readonly roster: RosterAccess;
  readonly sessions: SessionKeeper;
  /** The cluster's certificate authority, PEM. */
  readonly caPem: string;
  /** 'address:port' of HTTPS APIs: own first, then those of live members. */
  apiPeers(): readonly string[];
  /** Unlocks an operator's key on this host (`trust/login.ts`). Fails with LOGIN_REFUSED. */
  login(request: LoginRequest): Promise<EditSession>;
  /** Names of the operators logged out. */
  logout(operator: string | null): Promise<readonly string[]>;
}

export interface LoginRequest {
  /** Null: the only one there is. */
  readonly operator: string | null;
  readonly passphrase: string;
  /** False over HTTPS: the login lives in memory only, and is not the one that the socket uses. */
  readonly isKept: boolean;
}

export interface InitRequest {
  /** Of the cluster. */
  readonly name: string;
  readonly env: string;
  readonly operator: string;
  /** Null: one is generated. */
  readonly passphrase: string | null;
  /** Null: the machine's host name, made a DNS label. */
  readonly hostName: string | null;
  readonly roles: readonly string[];
  readonly meta: Readonly<Record<string, string>>;
  /** Where the daemon writes the recovery key (0600, must not exist); null: it is in the answer, once. */
  readonly recoveryFile: string | null;
}

export interface InitOutcome {
  readonly clusterId: string;
  readonly name: string;
  readonly env: string;
  readonly operator: string;
  readonly hostId: string;
  readonly hostName: string;
  /** Only when it was generated; shown once, kept nowhere. */
  readonly passphrase?: string;
  /** The recovery key; absent when it was written to `recoveryFile`. Kept nowhere. */
  readonly recovery?: string;
  readonly recoveryFile?: string;
}

export interface JoinRequest {
  /** 'address:port' of HTTPS APIs, tried in turn. */
  readonly peers: readonly string[];
  readonly caPem: string;
  readonly code: string;
  /** Null: the machine's host name, made a DNS label. */
  readonly hostName: string | null;
  /** Empty: those of the invite. */
  readonly roles: readonly string[];
  readonly meta: Readonly<Record<string, string>>;
}

export interface JoinOutcome {
  readonly clusterId: string;
  readonly name: string;
  readonly env: string;
  readonly hostId: string;
  readonly hostName: string;
  readonly roles: readonly string[];
  /** The peer that admitted this host. */
  readonly peer: string;
}

export interface LeaveRequest {
  /** Leave although nobody could be told. */
  readonly isForced: boolean;
}

export interface LeaveOutcome {
  readonly clusterId: string;
  readonly name: string;
  /** Live members that know of it. */
  readonly toldPeers: number;
}
