/**
 * Logins and sessions: how an operator's sealed key becomes the right to sign on this host for a while.
 *
 * Unsealing gives the operator's key for the moment it takes to certify a random login key; that key lives at most
 * `loginMsMax` in the volatile run directory (0600), so that a restarted daemon needs no passphrase. Every login and
 * every daemon start makes a new session key, certified by the login key, in memory only: an Automerge actor is never
 * used by two processes, not even after a crash or on a restored disk.
 */
import { join } from 'node:path';
import { readdirSync, rmSync } from 'node:fs';
import { hex, unhex } from '../../crdt/ids.ts';
import type { ClusterId, HostId, SessionId } from '../../crdt/ids.ts';
import { equalBytes } from '../../crdt/codec.ts';
import { openAs, seal, signedBytes } from '../../crdt/records.ts';
import type { Opened, OperatorRecord, SignedBytes } from '../../crdt/records.ts';
import { defaultConfig } from '../config.ts';
import { systemCrypto } from '../crypto.ts';
import { ClusterError, reasonOf } from '../errors.ts';
import type { EditSession } from '../node-api.ts';
import type { KeyPair, Log } from '../ports.ts';
import { systemRandom } from '../random.ts';
import { sessionIdOf } from './identity.ts';
import { unlockOperator } from './operators.ts';
import type { RosterAccess } from './roster-access.ts';
import { isCode, readSecretFile, writeSecretFile } from './secret-file.ts';

export const loginMsMax = defaultConfig.sessionMaxMs;
/** Sessions held by one daemon; beyond it the oldest login over HTTPS ends. */
const sessionsMax = 1_000;
/** Kept logins read at start; more files than this in the run directory are ignored. */
const loginFilesMax = 100;

/** An unlocked login: whoever holds `seed` may open sessions until it expires. */
export interface Login {
  readonly operator: string;
  readonly operatorKey: Uint8Array;
  /** Private seed of the login key. */
  readonly seed: Uint8Array;
  /** Signed by the operator's key. */
  readonly record: SignedBytes;
  readonly expiresAtWallMs: number;
}

/** Certifies a new random login key. `operatorKeys` may be forgotten afterwards. */
export function makeLogin(options: {
  readonly clusterId: ClusterId;
  readonly operator: string;
  readonly operatorKeys: KeyPair;
  readonly nowWallMs: number;
  /** At most and by default `loginMsMax`. */
  readonly forMs?: number;
}): Login {
  const seed = systemRandom.bytes(32);
  const expiresAt = options.nowWallMs + Math.min(options.forMs ?? loginMsMax, loginMsMax);
  const record = seal(
    {
      kind: 'login',
      v: 1,
      clusterId: options.clusterId,
      operator: options.operatorKeys.publicKey,
      loginKey: systemCrypto.keyPair(seed).publicKey,
      expiresAt,
    },
    (bytes) => options.operatorKeys.sign(bytes),
  );
  return {
    operator: options.operator,
    operatorKey: options.operatorKeys.publicKey,
    seed,
    record,
    expiresAtWallMs: expiresAt,
  };
}

interface Held {
  readonly session: EditSession;
  readonly keys: KeyPair;
  /** The one that the unix socket uses; false for logins over HTTPS. */
  readonly isKept: boolean;
}

/** The private keys of this process's sessions. They never leave it; `EditSession` carries only the id. */
export class SessionKeeper {
  readonly #held = new Map<SessionId, Held>();
  readonly #clusterId: ClusterId;
  readonly #host: HostId;
  readonly #wallMs: () => number;

  constructor(options: { clusterId: ClusterId; host: HostId; wallMs: () => number }) {
    this.#clusterId = options.clusterId;
    this.#host = options.host;
    this.#wallMs = options.wallMs;
  }

  /** A new session under a login; `record` must reach the roster before anything it signs. Fails with BUSY. */
  open(login: Login, options: { isKept: boolean }): { session: EditSession; record: SignedBytes } {
    this.#prune();
    this.#makeRoom();
    const keys = systemCrypto.keyPair(systemRandom.bytes(32));
    const loginKeys = systemCrypto.keyPair(login.seed);
    const record = seal(
      {
        kind: 'session',
        v: 1,
        clusterId: this.#clusterId,
        login: login.record,
        sessionKey: keys.publicKey,
        host: this.#host,
        startedAt: this.#wallMs(),
      },
      (bytes) => loginKeys.sign(bytes),
    );
    const session: EditSession = {
      id: sessionIdOf(keys.publicKey),
      operator: login.operator,
      expiresAtWallMs: login.expiresAtWallMs,
    };
    this.#held.set(session.id, { session, keys, isKept: options.isKept });
    return { session, record };
  }

  /** Signs as the session. Fails with LOGIN_REQUIRED when it is not of this process, closed or expired. */
  sign(id: SessionId, bytes: Uint8Array): Uint8Array {
    const held = this.#held.get(id);
    if (held === undefined || this.get(id) === null)
      throw new ClusterError('LOGIN_REQUIRED', { action: 'signing' });
    return held.keys.sign(bytes);
  }

  /** Null when unknown here, closed or expired. */
  get(id: SessionId): EditSession | null {
    const session = this.#held.get(id)?.session;
    return session !== undefined && session.expiresAtWallMs > this.#wallMs() ? session : null;
  }

  /** The session that the unix socket acts under: of `operator`, or of whoever logged in last. */
  current(operator?: string): EditSession | null {
    this.#prune();
    const kept = [...this.#held.values()].filter((held) => held.isKept);
    return (
      kept.findLast((held) => operator === undefined || held.session.operator === operator)
        ?.session ?? null
    );
  }

  list(): readonly EditSession[] {
    this.#prune();
    return [...this.#held.values()].map((held) => held.session);
  }

  close(id: SessionId): void {
    this.#held.delete(id);
  }

  /** Forgets the kept sessions of one operator, or of all. Returns the operators' names. */
  closeKept(operator: string | null): readonly string[] {
    const names = new Set<string>();
    for (const [id, held] of this.#held) {
      if (!held.isKept || (operator !== null && held.session.operator !== operator)) continue;
      names.add(held.session.operator);
      this.#held.delete(id);
    }
    return [...names];
  }

  /** The oldest login over HTTPS goes; kept ones never. */
  #makeRoom(): void {
    if (this.#held.size < sessionsMax) return;
    const oldest = [...this.#held.values()].find((held) => !held.isKept);
    if (oldest === undefined)
      throw new ClusterError('BUSY', { max: sessionsMax, what: 'sessions' });
    this.#held.delete(oldest.session.id);
  }

  #prune(): void {
    const nowMs = this.#wallMs();
    for (const [id, held] of this.#held)
      if (held.session.expiresAtWallMs <= nowMs) this.#held.delete(id);
  }
}

/** Logging in and out on this host, and the sessions that result. */
export class Logins {
  readonly sessions: SessionKeeper;
  readonly #options: LoginsOptions;
  #hasRetired = false;

  constructor(options: LoginsOptions) {
    this.#options = options;
    this.sessions = new SessionKeeper(options);
  }

  /**
   * The session must not sign again: an envelope of it was lost (full disk). A login that is kept goes on under a new
   * session as soon as somebody asks for it; one over HTTPS ends.
   */
  retire(id: SessionId): void {
    this.sessions.close(id);
    this.#hasRetired = true;
  }

  /** The session that the unix socket acts under: of `operator`, or of whoever logged in last. */
  current(operator?: string): EditSession | null {
    if (this.#hasRetired) {
      this.#hasRetired = false;
      for (const login of readLogins(this.#options))
        if (this.sessions.current(login.operator) === null) this.#open(login, true);
    }
    return this.sessions.current(operator);
  }

  /** At daemon start: a new session for every login that is still alive. Returns how many. */
  resume(): number {
    const logins = readLogins(this.#options);
    for (const login of logins) this.#open(login, true);
    return logins.length;
  }

  /** Unseals the operator's key. Fails with LOGIN_REFUSED, INVALID (several operators and none named), BUSY. */
  async login(request: {
    readonly operator: string | null;
    readonly passphrase: string;
    readonly isKept: boolean;
  }): Promise<EditSession> {
    const { clusterId, roster, wallMs } = this.#options;
    const unlocked = await unlockOperator(roster, request);
    const login = makeLogin({
      clusterId,
      operator: unlocked.name,
      operatorKeys: unlocked.keys,
      nowWallMs: wallMs(),
    });
    return this.begin(login, request.isKept);
  }

  /** Starts a login made elsewhere: by `init`, with the operator's key in hand. */
  begin(login: Login, isKept = true): EditSession {
    if (isKept) writeLogin(this.#options.runDir, login, this.#options.clusterId);
    return this.#open(login, isKept);
  }

  /** Null: everybody on this host. Sessions over HTTPS end by their token. Returns the operators' names. */
  logout(operator: string | null): readonly string[] {
    const names = new Set(this.sessions.closeKept(operator));
    for (const name of loginFiles(this.#options.runDir)) {
      if (operator !== null && name !== operator) continue;
      names.add(name);
      rmSync(loginPath(this.#options.runDir, name), { force: true });
    }
    return [...names].toSorted();
  }

  #open(login: Login, isKept: boolean): EditSession {
    const { session, record } = this.sessions.open(login, { isKept });
    const added = this.#options.roster.add(record);
    if (added.kind === 'rejected' || added.kind === 'parked') {
      this.sessions.close(session.id);
      throw new ClusterError(
        'LOGIN_REFUSED',
        { operator: login.operator },
        new Error(added.reason),
      );
    }
    return session;
  }
}

export interface LoginsOptions {
  readonly runDir: string;
  readonly clusterId: ClusterId;
  readonly host: HostId;
  readonly roster: RosterAccess;
  readonly wallMs: () => number;
  readonly log: Log;
}

function loginPath(runDir: string, operator: string): string {
  return join(runDir, `login-${operator}.json`);
}

function writeLogin(runDir: string, login: Login, clusterId: ClusterId): void {
  const content = {
    v: 1,
    clusterId,
    operator: login.operator,
    seed: hex(login.seed),
    record: Buffer.from(login.record).toString('base64'),
  };
  writeSecretFile(loginPath(runDir, login.operator), `${JSON.stringify(content)}\n`);
}

/** Operators with a login file. */
function loginFiles(runDir: string): readonly string[] {
  let names: string[];
  try {
    names = readdirSync(runDir);
  } catch (error) {
    if (isCode(error, 'ENOENT')) return [];
    throw error;
  }
  return names
    .map((name) => /^login-([a-z0-9-]{1,63})\.json$/.exec(name)?.[1])
    .filter((name) => name !== undefined)
    .toSorted()
    .slice(0, loginFilesMax);
}

/** Live logins; what is expired, damaged or of another cluster is removed. */
function readLogins({ runDir, clusterId, roster, wallMs, log }: LoginsOptions): readonly Login[] {
  const logins: Login[] = [];
  for (const name of loginFiles(runDir)) {
    const path = loginPath(runDir, name);
    const login = parseLogin(readSecretFile(path), { clusterId, roster, nowWallMs: wallMs() });
    if (typeof login === 'string') {
      log.info('login.dropped', { operator: name, reason: login });
      rmSync(path, { force: true });
    } else {
      logins.push(login);
    }
  }
  return logins;
}

/** Returns why not, or the login. */
function parseLogin(
  bytes: Buffer | null,
  context: { clusterId: ClusterId; roster: RosterAccess; nowWallMs: number },
): Login | string {
  let content: Record<string, unknown>;
  try {
    content = JSON.parse(String(bytes)) as Record<string, unknown>;
  } catch (error) {
    return `not JSON: ${reasonOf(error)}`;
  }
  if (content?.['clusterId'] !== context.clusterId) return 'of another cluster';
  const seed = unhex(String(content['seed']));
  const opened = openAs('login', new Uint8Array(Buffer.from(String(content['record']), 'base64')));
  if (seed?.length !== 32 || opened === null) return 'damaged';
  const reason = loginProblem(opened, context);
  if (reason !== null) return reason;
  if (!equalBytes(systemCrypto.keyPair(seed).publicKey, opened.record.loginKey))
    return 'key does not match';
  const operator = operatorOf(context.roster, opened.record.operator);
  if (operator === undefined) return 'operator is gone';
  return {
    operator: operator.name,
    operatorKey: opened.record.operator,
    seed,
    record: opened.signed,
    expiresAtWallMs: opened.record.expiresAt,
  };
}

function loginProblem(
  login: Opened<'login'>,
  context: { roster: RosterAccess; nowWallMs: number },
): string | null {
  const { expiresAt, operator } = login.record;
  if (expiresAt <= context.nowWallMs) return 'expired';
  if (expiresAt > context.nowWallMs + loginMsMax) return 'lives longer than a login may';
  if (context.roster.isRemoved('operator', hex(operator)) !== null) return 'operator was removed';
  if (!systemCrypto.verify(operator, signedBytes(login.payload), login.signature))
    return 'signature is wrong';
  return null;
}

function operatorOf(roster: RosterAccess, key: Uint8Array): OperatorRecord | undefined {
  return roster.operators().find((record) => equalBytes(record.publicKey, key));
}
