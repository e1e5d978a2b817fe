/**
 * Every operating error a person or program can meet, once.
 *
 * `exit` is the CLI's exit code, `http` the API's status. Text is "what happened; what to do", with {names} filled
 * from `details`. Codes are never reused: a retired one stays listed in `retiredCodes`.
 * `daemon/docs/errors.md` is compared with this table by a test.
 */
export interface ErrorKind {
  readonly exit: 1 | 2 | 3 | 4 | 5;
  readonly http: number;
  readonly text: string;
}

export const errorTable = {
  INTERNAL: {
    exit: 1,
    http: 500,
    text: 'internal fault: {reason}; see the daemon log and report it',
  },
  USAGE: { exit: 2, http: 400, text: '{reason}; see `trellis help {command}`' },
  INVALID: { exit: 2, http: 400, text: '{reason}; correct it and try again' },
  NOT_SUPPORTED: {
    exit: 2,
    http: 400,
    text: '{feature} is not supported yet; remove it from {place}',
  },
  FILE_INVALID: {
    exit: 2,
    http: 400,
    text: '{file} is not valid: {reason}; nothing was changed, correct the file',
  },
  NOT_FOUND: { exit: 4, http: 404, text: 'no {kind} named {name}; list them with `{list}`' },
  AMBIGUOUS: {
    exit: 3,
    http: 409,
    text: '{name} means several {kind}s: {choices}; name one by its id',
  },
  TIMED_OUT: { exit: 5, http: 504, text: '{what} did not finish within {seconds} s; {todo}' },
  DAEMON_UNREACHABLE: {
    exit: 1,
    http: 503,
    text: 'no daemon answers on {socket}; start it with `trellis daemon`, or set TRELLIS_SOCKET',
  },
  DAEMON_STARTING: {
    exit: 1,
    http: 503,
    text: 'the daemon is still starting; try again in a moment',
  },
  NOT_INITIALISED: {
    exit: 3,
    http: 409,
    text: 'this host belongs to no cluster; run `trellis init` or `trellis join`',
  },
  ALREADY_MEMBER: {
    exit: 3,
    http: 409,
    text: 'this host already belongs to cluster {cluster}; `trellis leave` it first',
  },
  STATE_LOCKED: {
    exit: 1,
    http: 503,
    text: 'state directory {dir} is in use by process {pid}; stop that daemon or choose another --state',
  },
  STATE_NEWER: {
    exit: 1,
    http: 503,
    text: 'state directory {dir} has format {found}, this version reads up to {known}; run the newer version',
  },
  STATE_DAMAGED: {
    exit: 1,
    http: 503,
    text: '{name} in the state directory is damaged: {detail}; {todo}',
  },
  ROSTER_LOST: {
    exit: 1,
    http: 503,
    text: 'the list of members on this disk is lost and no other member answered within {seconds} s; start another member, then this daemon again',
  },
  IDENTITY_DAMAGED: {
    exit: 1,
    http: 503,
    text: 'the identity file {file} is damaged; restore it from a backup, or remove the state directory and join again',
  },
  DISK_FULL: {
    exit: 1,
    http: 507,
    text: 'cannot write to {dir}: {reason}; nothing was changed, make room and try again',
  },
  LOGIN_REQUIRED: { exit: 3, http: 401, text: '{action} needs an operator; run `trellis login`' },
  LOGIN_REFUSED: {
    exit: 3,
    http: 401,
    text: 'wrong passphrase for operator {operator}, or no such operator; try again',
  },
  LOGIN_THROTTLED: { exit: 3, http: 429, text: 'too many failed logins; wait {seconds} s' },
  PASSPHRASE_WEAK: {
    exit: 2,
    http: 400,
    text: 'passphrase refused: {reason}; choose a longer one or let one be generated',
  },
  RATE_LIMITED: { exit: 1, http: 429, text: 'too many requests from {address}; wait {seconds} s' },
  BUSY: { exit: 1, http: 503, text: '{max} {what} are under way already; try again in a moment' },
  SOCKET_IN_USE: {
    exit: 1,
    http: 503,
    text: 'cannot listen on {socket}: {reason}; stop the other daemon or set TRELLIS_SOCKET',
  },
  CALL_REFUSED: { exit: 3, http: 403, text: 'host {host} refused the call: {reason}; {todo}' },
  FORBIDDEN: {
    exit: 3,
    http: 403,
    text: 'operator {operator} may not {action}; ask an admin for the right',
  },
  INVITE_REFUSED: {
    exit: 3,
    http: 403,
    text: 'the invitation code was refused: {reason}; ask for a new one with `trellis invite`',
  },
  JOIN_REFUSED: { exit: 3, http: 403, text: 'could not join: {reason}; {todo}' },
  JOIN_UNREACHABLE: {
    exit: 1,
    http: 503,
    text: 'no peer answered at {peers}; check the addresses and that port 8443 is open',
  },
  CONFLICT: { exit: 3, http: 409, text: '{reason}; {todo}' },
  STALE: {
    exit: 3,
    http: 409,
    text: '{what} changed since {since}; look with `{look}`, or use {override}',
  },
  EDIT_TOO_LARGE: {
    exit: 2,
    http: 413,
    text: 'the edit is {bytes} bytes, the limit is {max}; split it',
  },
  HOST_UNREACHABLE: {
    exit: 1,
    http: 503,
    text: 'host {host} does not answer ({state}, last seen {ago}); try again or run it there',
  },
  ENGINE_UNREACHABLE: {
    exit: 1,
    http: 503,
    text: 'the container engine at {endpoint} does not answer: {reason}; start it or set DOCKER_HOST',
  },
  ENGINE_REFUSED: {
    exit: 1,
    http: 502,
    text: 'the container engine refused to {action}: {reason}; see `trellis doctor`',
  },
  CONTAINER_FOREIGN: {
    exit: 3,
    http: 409,
    text: 'container {container} exists and is not ours; rename or remove it, Trellis will not touch it',
  },
  PORT_TAKEN: {
    exit: 3,
    http: 409,
    text: 'port {port} on host {host} is in use by {owner}; free it or choose another port',
  },
  IMAGE_UNAVAILABLE: {
    exit: 1,
    http: 502,
    text: 'image {image} is in no registry that answers and on no host: {reason}; build it on one host and run `trellis image push {image}`',
  },
  BLOB_UNAVAILABLE: {
    exit: 1,
    http: 502,
    text: 'blob {hash} is held by no reachable host; bring a host that has it back',
  },
  PLUGIN_CONFIG_INVALID: {
    exit: 2,
    http: 400,
    text: 'plugin {plugin}: {reason}; correct its configuration',
  },
  PLUGIN_FAILED: {
    exit: 1,
    http: 500,
    text: 'plugin {plugin} failed: {reason}; see the daemon log',
  },
  GUARD_UNREACHABLE: {
    exit: 1,
    http: 503,
    text: 'the guard of leases on host {host} does not answer: {reason}; nothing exclusive runs or moves there until it does, see `trellis doctor`',
  },
  LEASE_UNKNOWN: {
    exit: 4,
    http: 404,
    text: 'no lease named {name}; list them with `trellis lease ls`',
  },
  LEASE_NOT_HELD: {
    exit: 3,
    http: 409,
    text: 'lease {name} is not held by {host}: {reason}; look with `trellis lease show`',
  },
  LEASE_BUSY: {
    exit: 3,
    http: 409,
    text: 'lease {name} is busy: {reason}; wait for it to end, or look with `trellis lease show`',
  },
  LEASE_TIMED_OUT: {
    exit: 5,
    http: 504,
    text: 'lease {name} was not acquired within {seconds} s: {reason}; look with `trellis lease show`, or wait longer',
  },
  LEASE_FROZEN: {
    exit: 3,
    http: 409,
    text: 'lease {name} is frozen: {reason}; `trellis lease unfreeze` first',
  },
  LEASE_PARKED: {
    exit: 3,
    http: 409,
    text: 'lease {name} is parked by {host}; `trellis lease unpark` there, or `trellis lease force-active` when that host is gone for good',
  },
  LEASE_DENIED: {
    exit: 3,
    http: 403,
    text: 'host {host} may not take lease {name}: {reason}; see its candidates with `trellis lease show`',
  },
  LEASE_LOST: {
    exit: 1,
    http: 409,
    text: 'lease {name} was lost: {reason}; what ran under it was killed, run it again',
  },
  START_FAILED: {
    exit: 1,
    http: 500,
    text: '{item} did not start under its lease: {reason}; look with `trellis logs`, this host takes the lease again when the service was changed, or after a while',
  },
  NO_QUORUM: {
    exit: 1,
    http: 503,
    text: 'no majority of voters answers in environment {env}: {reason}; bring hosts back, or see `trellis help env force-voters`',
  },
  HANDOVER_ABORTED: {
    exit: 1,
    http: 409,
    text: 'the handover of lease {name} was given up: {reason}; the holder goes on, correct it and try again',
  },
  GATE_FAULT: {
    exit: 1,
    http: 503,
    text: 'exclusive work cannot be fenced on host {host}: {reason}; nothing exclusive starts there, see `trellis doctor`',
  },
  STALE_COPY: {
    exit: 3,
    http: 409,
    text: 'the copy of storage {name} on host {host} is not in sync: {reason}; wait for it, or force it and lose what is missing',
  },
  CONFIRMATION_NEEDED: {
    exit: 3,
    http: 409,
    text: '{action} needs two confirmations: {risk}; run it again with --yes --confirm {confirm}',
  },
  VOTERS_REFUSED: {
    exit: 3,
    http: 409,
    text: 'the voters of environment {env} were not changed: {reason}; look with `trellis env show`',
  },
  STORAGE_FAILED: {
    exit: 1,
    http: 500,
    text: 'storage {storage} cannot be kept on this host: {reason}; look at its directory and disk',
  },
  STORAGE_COPY_FAILED: {
    exit: 1,
    http: 502,
    text: 'the copy of storage {storage} broke off: {reason}; it is tried again by itself',
  },
  STORAGE_NOT_ACTIVE: {
    exit: 3,
    http: 409,
    text: 'storage {storage} is not active on the asked host: {reason}; it is tried again by itself',
  },
  TOOL_MISSING: { exit: 1, http: 503, text: '{tool} is missing on this host; install it: {how}' },
  COMMAND_FAILED: { exit: 1, http: 500, text: '{command} failed: {reason}' },
  REFUSED_UNCONFIRMED: {
    exit: 3,
    http: 409,
    text: '{action} needs confirmation; run it again with --yes',
  },
} as const satisfies Record<string, ErrorKind>;

/** Were used by an earlier version and must not be used again. */
export const retiredCodes: readonly string[] = [];

export type ErrorCode = keyof typeof errorTable;
export type ErrorDetails = Readonly<Record<string, unknown>>;

/** Branch on `code`, never on `message`. `cause` is kept for the log and is not shown to users. */
export class ClusterError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, details: ErrorDetails = {}, cause?: unknown) {
    super(fillIn(errorTable[code].text, details), cause === undefined ? undefined : { cause });
    this.name = 'ClusterError';
    this.code = code;
    this.details = details;
  }
}

/** A bug, not an operating error: the daemon crashes and rejoins. On in production. */
export function invariant(holds: unknown, what: string): asserts holds {
  if (!holds) throw new Error(`invariant broken: ${what}`);
}

/** What to show for anything thrown; bugs become INTERNAL. */
export function asClusterError(error: unknown): ClusterError {
  if (error instanceof ClusterError) return error;
  const coded = error as { code?: unknown; details?: unknown } | null | undefined;
  // A PluginError: same code and details, from code that may not import this table.
  if (
    error instanceof Error &&
    error.name === 'PluginError' &&
    typeof coded?.code === 'string' &&
    coded.code in errorTable
  ) {
    return new ClusterError(coded.code as ErrorCode, (coded.details ?? {}) as ErrorDetails, error);
  }
  return new ClusterError('INTERNAL', { reason: reasonOf(error) }, error);
}

export function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function fillIn(text: string, details: ErrorDetails): string {
  return text.replaceAll(/\{(\w+)\}/g, (_, name: string) => {
    const value = details[name];
    if (value === undefined) return `(${name})`;
    if (Array.isArray(value)) return value.join(', ');
    return typeof value === 'object'
      ? JSON.stringify(value)
      : String(value as string | number | boolean);
  });
}
