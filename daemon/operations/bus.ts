/**
 * The one place where operations run, whoever asks: found, authorised, validated, timed, audited, logged.
 *
 * In this order, so that a stranger learns nothing from the shape of an error: find, authorise, then look at parameters.
 * Mutations are audited with their outcome, refused ones included. What an operation throws becomes a coded error; a bug
 * becomes INTERNAL and is logged with its stack, and the daemon goes on.
 */
import type { ZodError } from 'zod';
import type { HostId } from '../../crdt/ids.ts';
import type { Blobs, ContainerRuntime } from '../../plugins/api.ts';
import { asClusterError, ClusterError } from '../errors.ts';
import type { LeaseApi } from '../lease-api.ts';
import type { EditSession, NodeApi } from '../node-api.ts';
import type { Clock, Log } from '../ports.ts';
import type { Access, Caller, Operation, OperationContext, StreamIo } from './operation.ts';

/** Of operations that name no limit of their own and do not stream. */
export const operationTimeLimitMs = 120_000;
/** Operations under way at once; a further one is refused. */
const runningMax = 512;

export interface Call {
  readonly group: string;
  readonly command: string;
  readonly params: unknown;
}

export interface CallControl {
  /** The caller went away, or the daemon stops. */
  readonly signal?: AbortSignal;
  readonly progress?: (text: string) => void;
  /** For streaming operations. */
  readonly io?: StreamIo;
}

/** What the daemon lends to operations; asked anew at every call. */
export interface BusHost {
  node(): NodeApi | null;
  runtime(): ContainerRuntime | null;
  /** May throw NOT_INITIALISED. */
  blobs(): Blobs;
  remote(): RemoteCaller | null;
  /** Absent: this daemon has no part that speaks with a guard. */
  leases?(): LeaseApi | null;
}

/** `operations/remote.ts` makes it. */
export interface RemoteCaller {
  /** Fails with HOST_UNREACHABLE, NOT_FOUND (no such host), LOGIN_REQUIRED, and whatever the operation fails with there. */
  call(host: HostId, call: Call, session: EditSession, control: CallControl): Promise<unknown>;
}

export interface AuditEntry {
  readonly group: string;
  readonly command: string;
  readonly via: Caller['via'];
  readonly address?: string;
  readonly operator: string | null;
  readonly session: string | null;
  /** Parameters without values that are long or may be secret. */
  readonly params: Readonly<Record<string, unknown>>;
  /** 'ok' or an error code. */
  readonly outcome: string;
}

export interface BusOptions {
  readonly operations: readonly Operation[];
  readonly host: BusHost;
  /** True when the session's operator has the right in this environment. */
  readonly mayAct: (session: EditSession, access: 'operator' | 'admin', env: string) => boolean;
  readonly audit: (entry: AuditEntry) => void;
  readonly clock: Clock;
  readonly log: Log;
}

export class Bus {
  readonly operations: readonly Operation[];
  readonly #options: BusOptions;
  readonly #byName: ReadonlyMap<string, Operation>;
  #running = 0;

  constructor(options: BusOptions) {
    this.#options = options;
    this.operations = options.operations;
    this.#byName = new Map(options.operations.map((one) => [nameOf(one), one]));
    if (this.#byName.size !== options.operations.length)
      throw new Error('two operations have one name');
  }

  find(group: string, command: string): Operation | null {
    return this.#byName.get(`${group}/${command}`) ?? null;
  }

  /** Operations under way, for metrics. */
  get running(): number {
    return this.#running;
  }

  /** Rejects with ClusterError only. */
  async run(call: Call, caller: Caller, control: CallControl = {}): Promise<unknown> {
    const operation = this.find(call.group, call.command);
    if (operation === null) {
      const name = `${call.group} ${call.command}`.slice(0, 100);
      throw new ClusterError('NOT_FOUND', { kind: 'operation', name, list: 'trellis help' });
    }
    const startedMs = this.#options.clock.monotonicMs();
    try {
      const data = await this.#runFound(operation, call, caller, control);
      this.#note(operation, call, caller, 'ok', startedMs);
      return data;
    } catch (error) {
      const fault = asClusterError(error);
      this.#note(operation, call, caller, fault.code, startedMs);
      if (fault.code === 'INTERNAL')
        this.#options.log.error('operation.fault', { operation: nameOf(operation), error });
      throw fault;
    }
  }

  async #runFound(
    operation: Operation,
    call: Call,
    caller: Caller,
    control: CallControl,
  ): Promise<unknown> {
    this.#authorise(operation, call, caller);
    const params = parseParams(operation, call.params);
    if (this.#running >= runningMax)
      throw new ClusterError('BUSY', { max: runningMax, what: 'operations' });
    const limit = new AbortController();
    const signal = AbortSignal.any([
      limit.signal,
      ...(control.signal === undefined ? [] : [control.signal]),
    ]);
    const timer = this.#startLimit(operation, limit);
    this.#running++;
    try {
      signal.throwIfAborted();
      // Listens before the operation does: the reason of an abort is what the caller hears, not what it broke.
      const aborted = rejectOnAbort(signal);
      const run = (async () => operation.run(this.#context(caller, control, signal), params))();
      return await Promise.race([aborted, run]);
    } finally {
      this.#running--;
      timer?.cancel();
      // Whatever the operation still has open (a follow, a remote call) ends with it.
      limit.abort(new Error('the operation has ended'));
    }
  }

  #startLimit(operation: Operation, limit: AbortController): { cancel(): void } | null {
    const limitMs =
      operation.timeLimitMs ?? (operation.isStream === true ? null : operationTimeLimitMs);
    if (limitMs === null) return null;
    return this.#options.clock.setTimer(limitMs, () =>
      limit.abort(
        new ClusterError('TIMED_OUT', {
          what: `${operation.group} ${operation.command}`,
          seconds: limitMs / 1_000,
          todo: 'look with `trellis status` what was done',
        }),
      ),
    );
  }

  #context(caller: Caller, control: CallControl, signal: AbortSignal): OperationContext {
    const { host, clock, log } = this.#options;
    const progress = (text: string): void => control.progress?.(text);
    const io = control.io ?? null;
    return {
      node: host.node(),
      caller,
      clock,
      log,
      signal,
      progress,
      io,
      runtime: host.runtime(),
      leases: host.leases?.() ?? null,
      get blobs() {
        // Asked for only where it is used: before `init` there are none.
        return host.blobs();
      },
      remote: async (target, call, remoteIo) => {
        const ownControl: CallControl = {
          signal,
          progress,
          ...(remoteIo === undefined ? {} : { io: remoteIo }),
        };
        if (host.node()?.self.host === target) return this.run(call, caller, ownControl);
        if (caller.session === null)
          throw new ClusterError('LOGIN_REQUIRED', { action: 'an operation on another host' });
        const remote = host.remote();
        if (remote === null) throw new ClusterError('NOT_INITIALISED');
        return remote.call(target, call, caller.session, ownControl);
      },
    };
  }

  #authorise(operation: Operation, call: Call, caller: Caller): void {
    const what = `${operation.group} ${operation.command}`;
    if (operation.isSocketOnly === true && caller.via !== 'socket') {
      throw new ClusterError('FORBIDDEN', {
        operator: caller.session?.operator ?? '(none)',
        action: `${what} from another machine`,
      });
    }
    const needed = neededRight(operation.access, caller.via);
    if (needed === 'nothing') return;
    const node = this.#options.host.node();
    if (node === null) throw new ClusterError('NOT_INITIALISED');
    const { session } = caller;
    if (session === null || session.expiresAtWallMs <= this.#options.clock.wallMs()) {
      throw new ClusterError('LOGIN_REQUIRED', { action: what });
    }
    if (needed === 'session') return;
    if (!this.#options.mayAct(session, needed, envOf(call.params) ?? node.env)) {
      throw new ClusterError('FORBIDDEN', { operator: session.operator, action: what });
    }
  }

  #note(
    operation: Operation,
    call: Call,
    caller: Caller,
    outcome: string,
    startedMs: number,
  ): void {
    const { audit, clock, log } = this.#options;
    const entry = {
      group: operation.group,
      command: operation.command,
      via: caller.via,
      ...(caller.address === undefined ? {} : { address: caller.address }),
      operator: caller.session?.operator ?? null,
      session: caller.session?.id ?? null,
      outcome,
    };
    const tookMs = Math.round(clock.monotonicMs() - startedMs);
    log[operation.isMutation ? 'info' : 'debug']('operation', { ...entry, tookMs });
    if (operation.isMutation) audit({ ...entry, params: auditedParams(call.params) });
  }
}

/** The rules of `Access` in operation.ts. */
function neededRight(
  access: Access,
  via: Caller['via'],
): 'nothing' | 'session' | 'operator' | 'admin' {
  switch (access) {
    case 'public':
      return 'nothing';
    case 'viewer':
      return via === 'socket' ? 'nothing' : 'session';
    case 'local':
      return via === 'socket' ? 'nothing' : 'operator';
    case 'operator':
    case 'admin':
      return access;
  }
}

function parseParams(operation: Operation, params: unknown): unknown {
  const parsed = operation.params.safeParse(params ?? {});
  if (parsed.success) return parsed.data;
  throw paramsError(operation, parsed.error);
}

/** USAGE for parameters that do not exist, INVALID for values; at most five of them, by field name. */
function paramsError(operation: Operation, error: ZodError): ClusterError {
  const command =
    operation.group === 'cluster' ? operation.command : `${operation.group} ${operation.command}`;
  const unknown = error.issues.flatMap((issue) =>
    issue.code === 'unrecognized_keys' ? issue.keys : [],
  );
  if (unknown.length > 0) {
    const reason = `${operation.group} ${operation.command} knows no parameter ${unknown.slice(0, 5).join(', ').slice(0, 200)}`;
    return new ClusterError('USAGE', { reason, command, fields: unknown.slice(0, 5) });
  }
  const issues = error.issues.slice(0, 5);
  const fields = issues.map((issue) => issue.path.join('.'));
  const reason = issues
    .map((issue, i) => (fields[i] === '' ? issue.message : `${fields[i]}: ${issue.message}`))
    .join('; ');
  return new ClusterError('INVALID', { reason, fields });
}

const secretName = /pass|secret|token|code|key|seed|recovery|credential/i;
const auditedTextMax = 64;
const auditedFieldsMax = 20;

/** Short values of harmless names; of the rest only that they were there. */
export function auditedParams(params: unknown): Record<string, unknown> {
  if (typeof params !== 'object' || params === null) return {};
  const out: Record<string, unknown> = {};
  for (const [name, value] of Object.entries(params).slice(0, auditedFieldsMax)) {
    out[name.slice(0, auditedTextMax)] = secretName.test(name) ? '(hidden)' : auditedValue(value);
  }
  return out;
}

function auditedValue(value: unknown): unknown {
  if (typeof value === 'string')
    return value.length <= auditedTextMax ? value : `(${value.length} characters)`;
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value) && value.length <= 10 && value.every((item) => typeof item === 'string'))
    return value.map(auditedValue);
  return Array.isArray(value) ? `(${value.length} items)` : `(${Object.keys(value).length} fields)`;
}

function envOf(params: unknown): string | undefined {
  const env =
    typeof params === 'object' && params !== null && 'env' in params ? params.env : undefined;
  return typeof env === 'string' ? env : undefined;
}

function nameOf(operation: Operation): string {
  return `${operation.group}/${operation.command}`;
}

function rejectOnAbort(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => {
    const fail = (): void => reject(asClusterError(signal.reason));
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail, { once: true });
  });
}
