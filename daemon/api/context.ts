/** What the API needs of the daemon; asked anew at every request, because a daemon begins and ends to be a member. */
import type { SessionId } from '../../crdt/ids.ts';
import type { EditSession, NodeApi } from '../node-api.ts';
import type { Bus } from '../operations/bus.ts';
import type { Clock, Log } from '../ports.ts';
import type { Admission } from '../trust/join-server.ts';
import type { Metric } from './metrics.ts';
import type { TokenTable } from './tokens.ts';

export interface ApiContext {
  readonly bus: Bus;
  readonly tokens: TokenTable;
  readonly version: string;
  readonly clock: Clock;
  readonly log: Log;
  node(): NodeApi | null;
  /** What the unix socket acts under: of this operator, or of whoever logged in last. */
  socketSession(operator?: string): EditSession | null;
  /** Null when the session has ended. */
  session(id: SessionId): EditSession | null;
  /** Null while this host is no member. */
  admission(): Admission | null;
  /** The installer (`bootstrap/join-script.ts`); null while this host is no member. */
  joinScript(): string | null;
  /** File behind /bundle/<path>; null when there is none. The path has no '..', no empty part and no leading '/'. */
  bundleFile(path: string): Promise<string | null>;
  metrics(): readonly Metric[];
  /** False while the daemon is still starting. */
  isReady(): boolean;
}
