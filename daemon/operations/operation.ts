/**
 * One uniform operation behind CLI, HTTPS API and web page: validated, authorised, audited, logged in one place.
 *
 * A file per group registers its operations in a list; `bus.ts` runs them. Nothing here knows HTTP or terminals.
 */
import type { ZodType } from 'zod';
import type { HostId } from '../../crdt/ids.ts';
import type { Blobs, ContainerRuntime } from '../../plugins/api.ts';
import type { LeaseApi } from '../lease-api.ts';
import type { EditSession, NodeApi } from '../node-api.ts';
import type { Clock, Log } from '../ports.ts';

/** Who asks. Local root reads everything local and acts on this host alone; everything else needs an operator. */
export interface Caller {
  readonly via: 'socket' | 'https' | 'peer';
  /** The unlocked session, or null for local root that has not logged in. */
  readonly session: EditSession | null;
  /** Remote address over HTTPS, for throttling and audit. */
  readonly address?: string;
}

/**
 * `public`: anyone who reaches the socket, also before there is a cluster. `viewer`: over HTTPS a session is needed, on the
 * socket none. `local`: acts on this host alone: none on the socket, from elsewhere as `operator`. `operator`, `admin`: a
 * session whose operator has the right in this environment.
 */
export type Access = 'public' | 'viewer' | 'local' | 'operator' | 'admin';

export interface Operation<Params = unknown, Data = unknown> {
  readonly group: string;
  readonly command: string;
  readonly summary: string;
  readonly access: Access;
  /** Changes something: audited. */
  readonly isMutation: boolean;
  readonly params: ZodType<Params>;
  /** Shape of the answer, for OpenAPI. Absent: any JSON. */
  readonly data?: ZodType<Data>;
  /** Events, logs, exec: also uses `io`. */
  readonly isStream?: boolean;
  /** Only on the unix socket of this host (init, join). */
  readonly isSocketOnly?: boolean;
  /** Default: `operationTimeLimitMs` of the bus; streams have none unless said here. */
  readonly timeLimitMs?: number;
  run(context: OperationContext, params: Params): Promise<Data>;
}

/** Two-way bytes and messages of a streaming call. On HTTP: newline-delimited JSON; exec upgrades the connection. */
export interface StreamIo {
  /** One JSON value to the caller. Resolves when there is room for more. */
  send(message: unknown): Promise<void>;
  /** Messages from the caller, until it half-closes. */
  readonly input: AsyncIterable<unknown>;
}

export interface OperationContext {
  /** Null before init or join. */
  readonly node: NodeApi | null;
  readonly caller: Caller;
  readonly clock: Clock;
  readonly log: Log;
  /** Aborted when the caller goes away or the daemon stops. */
  readonly signal: AbortSignal;
  /** Anything over a second says what it does: shown on stderr by the CLI. */
  progress(text: string): void;
  readonly io: StreamIo | null;
  readonly runtime: ContainerRuntime | null;
  readonly blobs: Blobs;
  /** Null before init or join. What this host's guard and those of the others say. */
  readonly leases: LeaseApi | null;
  /**
   * Runs an operation on another host under the caller's session, signed for that host; itself when `host` is self.
   * Fails with HOST_UNREACHABLE.
   */
  remote(
    host: HostId,
    call: { group: string; command: string; params: unknown },
    io?: StreamIo,
  ): Promise<unknown>;
}
