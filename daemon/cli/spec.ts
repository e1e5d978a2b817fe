/** Shapes of the command table: what `trellis` understands, said once for parser, help, completion and tests. */
import type { Client } from './client.ts';
import type { Terminal } from './terminal.ts';

/** What a completion asks the daemon for; 'file' is left to the shell. */
export type Completer =
  | 'host'
  | 'service'
  | 'role'
  | 'invite'
  | 'conflict'
  | 'image'
  | 'lease'
  | 'alert'
  | 'file'
  | readonly string[];

export interface Flag {
  /** Without the dashes, kebab-case. */
  readonly name: string;
  readonly short?: string;
  /**
   * `boolean` takes no value; `strings` may be given several times; `pairs` is several `k=v`; `duration` is seconds or
   * a number with ms, s, m, h or d, and gives milliseconds.
   */
  readonly kind: 'boolean' | 'string' | 'integer' | 'duration' | 'strings' | 'pairs';
  /** Placeholder in help, e.g. 'HOST'. */
  readonly value?: string;
  readonly summary: string;
  /** Name of the parameter; absent: the camelCase of `name`. */
  readonly param?: string;
  readonly complete?: Completer;
}

export interface Positional {
  /** Upper case, for help. */
  readonly name: string;
  readonly param: string;
  readonly isOptional?: boolean;
  /** Takes all that are left, as a list. */
  readonly isMany?: boolean;
  /** Takes everything that is left as it stands, flags included (a command to run). */
  readonly isRest?: boolean;
  readonly complete?: Completer;
}

export type Params = Readonly<Record<string, unknown>>;

/** What every command may use. */
export interface Run {
  readonly command: Command;
  readonly params: Params;
  readonly options: GlobalOptions;
  readonly terminal: Terminal;
  readonly client: Client;
}

export interface GlobalOptions {
  readonly isJson: boolean;
  readonly isConfirmed: boolean;
  readonly socket: string;
}

export interface Handler {
  /** Returns the exit code; throws ClusterError. */
  run(run: Run): Promise<number>;
}

export interface Command {
  readonly words: readonly string[];
  readonly section: Section;
  readonly summary: string;
  /** More than the summary, for `trellis help CMD`. */
  readonly about?: string;
  readonly positionals?: readonly Positional[];
  readonly flags?: readonly Flag[];
  /** Whole command lines. At least one. */
  readonly examples: readonly string[];
  /** '<group>/<command>' of the operation behind it. Absent: the handler decides, or no daemon is asked. */
  readonly call?: string;
  /** Name of the function in views.ts that shows the answer to people; absent: as indented JSON. */
  readonly view?: string;
  /** Exit code 1 although the operation succeeded: `status` with differences, `doctor` with failures. */
  readonly isFailure?: (data: unknown) => boolean;
  /** What would be lost, one line each; empty: nothing to confirm. */
  readonly confirm?: (run: Run) => Promise<readonly string[]>;
  /** Instead of call and view. Loaded only when the command runs: start-up time is a budget. */
  readonly handler?: () => Promise<Handler>;
}

export type Section =
  | 'cluster'
  | 'hosts'
  | 'desired state'
  | 'services'
  | 'leases'
  | 'looking'
  | 'tools';
export const sections: readonly Section[] = [
  'cluster',
  'hosts',
  'desired state',
  'services',
  'leases',
  'looking',
  'tools',
];

/** Understood by every command, before or after its name. */
export const globalFlags: readonly Flag[] = [
  { name: 'json', kind: 'boolean', summary: 'print exactly one JSON value' },
  { name: 'yes', short: 'y', kind: 'boolean', summary: 'do not ask before something is lost' },
  { name: 'env', kind: 'string', value: 'ENV', summary: 'environment; default: that of this host' },
  {
    name: 'socket',
    kind: 'string',
    value: 'PATH',
    summary: 'socket of the daemon to ask; default: TRELLIS_SOCKET',
    complete: 'file',
  },
  { name: 'help', short: 'h', kind: 'boolean', summary: 'show help and do nothing' },
];
