/**
 * An operation on another host, under the caller's own session: the target trusts the operator's signature, never the host
 * that passes it on.
 *
 * The first message is the signed call together with its session's record (which may not have reached the target yet). The
 * target checks: signature, that the session lives and nobody removed it or its operator, that the call is for this very
 * host, was made within `clockSkewMsMax`, and was never seen before. Then `ServerLine`s come back and, for two-way
 * operations, `ClientLine`s go there, one JSON value per message. There is no private key of the session at the target, so
 * nothing can be edited or signed there in the operator's name.
 */
import { decode, encode } from '../../crdt/codec.ts';
import { hex } from '../../crdt/ids.ts';
import type { HostId, NodeId, SessionId } from '../../crdt/ids.ts';
import { openAs, seal, signedBytes } from '../../crdt/records.ts';
import type { CallRecord, Opened, SignedBytes } from '../../crdt/records.ts';
import { systemCrypto } from '../crypto.ts';
import { asClusterError, ClusterError } from '../errors.ts';
import type { MessageStream, PeerNetwork } from '../net/peer-network.ts';
import type { EditSession } from '../node-api.ts';
import type { Clock, Log } from '../ports.ts';
import { systemRandom } from '../random.ts';
import type { RosterAccess } from '../trust/roster-access.ts';
import type { Bus, Call, CallControl, RemoteCaller } from './bus.ts';
import type { Caller, StreamIo } from './operation.ts';
import type { ServerLine } from './wire.ts';
import { fromWireError, toWireError } from './wire-error.ts';

/** Clocks of hosts may differ by this much. */
const clockSkewMsMax = 10 * 60_000;
/** Calls remembered so that none runs twice; more within the window are refused. */
const noncesMax = 100_000;
const firstMessageTimeoutMs = 10_000;

export interface RemoteCallerOptions {
  readonly clusterId: string;
  readonly net: Pick<PeerNetwork, 'openStream'>;
  /** Null: no such member. */
  readonly nodeOf: (host: HostId) => NodeId | null;
  /** The session's signed record; null when it is not of this host. */
  readonly sessionRecord: (id: SessionId) => SignedBytes | null;
  readonly sign: (id: SessionId, bytes: Uint8Array) => Uint8Array;
  readonly clock: Clock;
}

export function createRemoteCaller(options: RemoteCallerOptions): RemoteCaller {
  return {
    call: async (host, call, session, control) => {
      const node = options.nodeOf(host);
      if (node === null)
        throw new ClusterError('NOT_FOUND', { kind: 'host', name: host, list: 'trellis host ls' });
      const first = callMessage(options, host, call, session);
      const { signal } = control;
      const stream = await options.net.openStream(node, signal === undefined ? {} : { signal });
      const abort = (): void => stream.abort('the caller went away');
      signal?.addEventListener('abort', abort, { once: true });
      try {
        signal?.throwIfAborted();
        await stream.send(first);
        if (control.io === undefined) await stream.close();
        else void forwardInput(control.io, stream);
        return await readReplies(stream, control, host);
      } finally {
        signal?.removeEventListener('abort', abort);
        // Also the end of a call that failed half-way: the target stops working for us.
        stream.abort('the call has ended');
      }
    },
  };
}

function callMessage(
  options: RemoteCallerOptions,
  host: HostId,
  call: Call,
  session: EditSession,
): Uint8Array {
  const signedCall = seal(
    {
      kind: 'call',
      v: 1,
      clusterId: options.clusterId,
      session: session.id,
      target: host,
      group: call.group,
      command: call.command,
      // As JSON: CBOR would refuse what JSON allows, and the target's schema reads JSON.
      params: JSON.stringify(call.params ?? {}),
      nonce: systemRandom.bytes(16),
      at: options.clock.wallMs(),
    },
    (bytes) => options.sign(session.id, bytes),
  );
  return encode([signedCall, options.sessionRecord(session.id)]);
}

async function forwardInput(io: StreamIo, stream: MessageStream): Promise<void> {
  try {
    for await (const line of io.input) await stream.send(textBytes(line));
    await stream.close();
  } catch (error) {
    // Either side is gone; the reader of replies reports it.
    stream.abort(asClusterError(error).message);
  }
}

async function readReplies(
  stream: MessageStream,
  control: CallControl,
  host: HostId,
): Promise<unknown> {
  for await (const message of stream.messages) {
    const line = parseLine(message) as ServerLine | null;
    switch (line?.type) {
      case 'progress':
        control.progress?.(line.text);
        break;
      case 'data':
        await control.io?.send(line.data);
        break;
      case 'result':
        return line.data;
      case 'error':
        throw fromWireError(line.error);
      case undefined:
      default:
        // A kind of line that a newer host knows.
        break;
    }
  }
  control.signal?.throwIfAborted();
  throw new ClusterError('HOST_UNREACHABLE', {
    host,
    state: 'it broke off its answer',
    ago: 'a moment ago',
  });
}

// ---- At the target ------------------------------------------------------------------------------------------------

export interface RemoteServerOptions {
  readonly clusterId: string;
  readonly self: HostId;
  readonly net: Pick<PeerNetwork, 'onStream'>;
  readonly bus: Pick<Bus, 'run'>;
  readonly roster: RosterAccess;
  readonly clock: Clock;
  readonly log: Log;
}

/** Serves calls from other members until the network stops. Takes the network's one stream handler. */
export function serveRemoteCalls(options: RemoteServerOptions): void {
  const guard = new CallGuard(options);
  options.net.onStream(async (from, stream) => {
    const messages = stream.messages[Symbol.asyncIterator]();
    const timer = options.clock.setTimer(firstMessageTimeoutMs, () =>
      stream.abort('no call in time'),
    );
    const first = await messages.next();
    timer.cancel();
    if (first.done === true) return;
    const reply = (line: ServerLine): Promise<void> => stream.send(textBytes(line));
    try {
      const { call, caller } = guard.check(first.value);
      const io: StreamIo = {
        send: (data) => reply({ type: 'data', data }),
        input: inputOf(messages),
      };
      const control: CallControl = {
        signal: stream.ended,
        io,
        progress: (text) =>
          void reply({ type: 'progress', text }).catch(() => stream.abort('unreadable')),
      };
      const data = await options.bus.run(call, caller, control);
      await reply({ type: 'result', data });
    } catch (error) {
      const fault = asClusterError(error);
      options.log.info('remote.failed', { from, code: fault.code });
      if (!stream.ended.aborted) await reply({ type: 'error', error: toWireError(fault) });
    }
    await stream.close();
  });
}

async function* inputOf(messages: AsyncIterator<Uint8Array>): AsyncGenerator<unknown> {
  for (let next = await messages.next(); next.done !== true; next = await messages.next()) {
    const line = parseLine(next.value);
    if (line !== null) yield line;
  }
}

/** Decides whether a call may run here, once. Exported for tests. */
export class CallGuard {
  readonly #options: Omit<RemoteServerOptions, 'net' | 'bus'>;
  /** Nonce to monotonic time after which it may be forgotten; in order of arrival. */
  readonly #seen = new Map<string, number>();

  constructor(options: Omit<RemoteServerOptions, 'net' | 'bus'>) {
    this.#options = options;
  }

  /** Fails with CALL_REFUSED, BUSY. */
  check(message: Uint8Array): { call: Call; caller: Caller } {
    const parts = decode(message);
    const [signedCall, sessionRecord] = Array.isArray(parts) ? (parts as unknown[]) : [];
    const opened = signedCall instanceof Uint8Array ? openAs('call', signedCall) : null;
    if (opened === null)
      throw this.#refused('it is not a call', 'upgrade the older of the two hosts');
    if (sessionRecord instanceof Uint8Array) this.#options.roster.add(sessionRecord);
    const session = this.#session(opened);
    this.#assertFresh(opened.record);
    return {
      call: {
        group: opened.record.group,
        command: opened.record.command,
        params: this.#params(opened.record),
      },
      caller: { via: 'peer', session },
    };
  }

  #session(opened: Opened<'call'>): EditSession {
    const { roster, clock, clusterId, self } = this.#options;
    const { record } = opened;
    if (record.clusterId !== clusterId)
      throw this.#refused('it is from another cluster', 'ask a host of that cluster');
    if (record.target !== self) throw this.#refused('it is meant for another host', 'try again');
    const session = roster.session(record.session as SessionId);
    if (session === null) throw this.#refused('its session is not known here', 'log in again');
    if (
      !systemCrypto.verify(session.record.sessionKey, signedBytes(opened.payload), opened.signature)
    ) {
      throw this.#refused('its signature is wrong', 'log in again');
    }
    const login = openAs('login', session.record.login);
    const operator = roster
      .operators()
      .find(({ publicKey }) => hex(publicKey) === session.operatorKey);
    const isGone = roster.isRemoved('session', session.id) !== null || operator === undefined;
    if (login === null || isGone) throw this.#refused('its session was revoked', 'log in again');
    const expiresAtWallMs = login.record.expiresAt;
    if (expiresAtWallMs <= clock.wallMs())
      throw this.#refused('its session has expired', 'log in again');
    return { id: session.id, operator: operator.name, expiresAtWallMs };
  }

  #assertFresh(record: CallRecord): void {
    const { clock } = this.#options;
    const skewMs = Math.abs(clock.wallMs() - record.at);
    if (skewMs > clockSkewMsMax) {
      throw this.#refused(
        `the clocks of the two hosts differ by ${Math.round(skewMs / 60_000)} min`,
        'set the clocks',
      );
    }
    const nowMs = clock.monotonicMs();
    for (const [nonce, untilMs] of this.#seen) {
      if (untilMs > nowMs) break;
      this.#seen.delete(nonce);
    }
    const nonce = hex(record.nonce);
    if (this.#seen.has(nonce)) throw this.#refused('it ran here already', 'call again');
    if (this.#seen.size >= noncesMax)
      throw new ClusterError('BUSY', { max: noncesMax, what: 'calls' });
    // Twice the skew: it may have been made that far in our future.
    this.#seen.set(nonce, nowMs + 2 * clockSkewMsMax);
  }

  #params(record: CallRecord): unknown {
    if (typeof record.params !== 'string') return record.params;
    try {
      return JSON.parse(record.params) as unknown;
    } catch (error) {
      throw new ClusterError(
        'INVALID',
        { reason: 'the parameters of the call are not JSON' },
        error,
      );
    }
  }

  #refused(reason: string, todo: string): ClusterError {
    return new ClusterError('CALL_REFUSED', { host: this.#options.self, reason, todo });
  }
}

function textBytes(value: unknown): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(value));
}

/** Null for what is no JSON: dropped, as a member of another version may send it. */
function parseLine(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder().decode(bytes)) as unknown;
  } catch {
    // Garbage from a member is an expected input.
    return null;
  }
}
