/**
 * `trellis lock NAME -- CMD`: acquire, run CMD inside the gate, give back.
 *
 * The child puts itself into the gate before it becomes CMD, so that CMD and all it starts are frozen and killed by the
 * guard when the lease goes; this process need not be alive for that. The guard holds the lease for as long as our
 * connection lives: our own death gives it back, after the gate was cleared.
 */
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { ClusterError, errorTable } from '../../errors.ts';
import type { ErrorCode } from '../../errors.ts';
import type { FromGuard, GuardReply } from '../../lease/guard-api.ts';
import type { LockTicket } from '../../operations/lock.ts';
import { version } from '../../version.ts';
import { GuardConnection } from '../guard-connection.ts';
import type { Run } from '../spec.ts';

const waitMsDefault = 30_000;
/** On top of the wait itself: the guard answers by then. */
const answerSlackMs = 10_000;
/** A gate that cannot be cleared within this keeps the lease; we need not stay for it. */
const giveBackMsMax = 15_000;
/** The guard's word that the lease went may come a little after the kill. */
const lossNewsMs = 1_000;
const waitingNoteMs = 1_000;
const outputCharsMax = 16 << 20;
/** After its end a command's last output arrives within this. */
const lastOutputMs = 500;
const askAgainMs = 200;
const newGuardMsMax = 5_000;
const notEntered = 125;
/** Numbers of commands on the connection: acquisitions count up from it. */
const releaseId = 1;

/** Enters each of the first `$1` files' groups, then becomes the command. */
const enterGate =
  'n=$1; shift; while [ "$n" -gt 0 ]; do echo $$ > "$1" || exit 125; shift; n=$((n-1)); done; exec "$@"';

const passedOn = ['SIGINT', 'SIGTERM', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2'] as const;

type Granted = GuardReply & { readonly isOk: true };

export async function run(run: Run): Promise<number> {
  const { name, cmd, waitMs: given, ...rest } = run.params;
  const waitMs = typeof given === 'number' ? given : waitMsDefault;
  const ticket = (await run.client.call('lock/prepare', { ...rest, name })) as LockTicket;
  const guard = await GuardConnection.open(ticket.socket);
  const lock = new Lock(run, ticket, guard);
  try {
    const granted = await lock.acquire(waitMs);
    if (granted === null) return 128 + lock.interruptedBy;
    return await lock.runCommand(granted, cmd as readonly string[]);
  } finally {
    await lock.giveBack();
  }
}

class Lock {
  interruptedBy = 0;
  readonly #run: Run;
  readonly #ticket: LockTicket;
  readonly #guard: GuardConnection;
  readonly #onSignal = (signal: NodeJS.Signals) => this.#signalled(signal);
  readonly #reply = Promise.withResolvers<GuardReply>();
  readonly #released = Promise.withResolvers<void>();
  readonly #interrupted = Promise.withResolvers<null>();
  readonly #lost = Promise.withResolvers<string>();
  #child: ChildProcess | null = null;
  #isGranted = false;
  #epoch: number | null = null;
  #askId = releaseId;
  #deadlineMs = 0;
  /** A guard that has heard nothing by then will not. */
  #newUntilMs = 0;
  #again: NodeJS.Timeout | null = null;

  constructor(run: Run, ticket: LockTicket, guard: GuardConnection) {
    this.#run = run;
    this.#ticket = ticket;
    this.#guard = guard;
    guard.onMessage((message) => this.#hear(message));
    void guard.closed.then(() => this.#lost.resolve('the guard has ended'));
    for (const signal of passedOn) process.on(signal, this.#onSignal);
  }

  /** Null: a signal came first. Fails with LEASE_TIMED_OUT and what the guard refuses with. */
  async acquire(waitMs: number): Promise<Granted | null> {
    const { lease, guardApiVersion } = this.#ticket;
    this.#deadlineMs = performance.now() + waitMs;
    this.#newUntilMs = performance.now() + newGuardMsMax;
    this.#guard.send({ kind: 'hello', v: guardApiVersion, version });
    this.#ask(waitMs);
    const note = setTimeout(
      () => this.#run.terminal.note(`waiting for ${lease.title}`),
      waitingNoteMs,
    );
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(
      () => late.reject(this.#timedOut(waitMs, 'the guard gave no answer')),
      waitMs + newGuardMsMax + answerSlackMs,
    );
    const gone = this.#lost.promise.then((reason): never => {
      throw new ClusterError('GUARD_UNREACHABLE', { host: 'here', reason });
    });
    try {
      const reply = await Promise.race([
        this.#reply.promise,
        this.#interrupted.promise,
        late.promise,
        gone,
      ]);
      this.#isGranted = reply?.isOk === true;
      if (reply === null || reply.isOk) return reply;
      throw this.#refused(reply, waitMs);
    } finally {
      if (this.#again !== null) clearTimeout(this.#again);
      clearTimeout(note);
      clearTimeout(timer);
    }
  }

  /** Exit code of the command. Fails with LEASE_LOST, GATE_FAULT. */
  async runCommand(granted: Granted, cmd: readonly string[]): Promise<number> {
    const { gateProcs = [], leaseDir = '', epoch = 0 } = granted;
    const { options, terminal } = this.#run;
    if (gateProcs.length === 0)
      throw new ClusterError('GATE_FAULT', { host: 'here', reason: 'the guard named no gate' });
    if (this.interruptedBy !== 0) return 128 + this.interruptedBy;
    const child = spawn(
      '/bin/sh',
      ['-c', enterGate, 'trellis-lock', String(gateProcs.length), ...gateProcs, ...cmd],
      {
        stdio: options.isJson ? ['inherit', 'pipe', 'pipe'] : 'inherit',
        env: { ...process.env, TRELLIS_EPOCH: String(epoch), TRELLIS_LEASE_DIR: leaseDir },
      },
    );
    this.#child = child;
    const kept = keepOutput(child);
    const ended = exitOf(child);
    const first = await Promise.race([ended, this.#lost.promise]);
    if (typeof first === 'string') await this.#killAll(child, ended, gateProcs);
    const code = await ended;
    this.#child = null;
    const reason = typeof first === 'string' ? first : await this.#lossBehind(code);
    if (reason !== null)
      throw new ClusterError('LEASE_LOST', { name: this.#ticket.lease.title, reason });
    if (code === notEntered && !isInside(gateProcs))
      throw new ClusterError('GATE_FAULT', {
        host: 'here',
        reason: 'the command could not enter it',
      });
    if (options.isJson) {
      const { name } = this.#ticket.lease;
      terminal.out(`${JSON.stringify({ name, epoch, exitCode: code, ...kept })}\n`);
    }
    return code;
  }

  /** Waits until the guard has cleared the gate and given the lease back, within reason. */
  async giveBack(): Promise<void> {
    for (const signal of passedOn) process.off(signal, this.#onSignal);
    // Without a grant there is nothing to wait for.
    if (!this.#isGranted) return this.#guard.destroy();
    const { name } = this.#ticket.lease;
    const reason = 'the command has ended';
    this.#guard.send({
      kind: 'command',
      id: releaseId,
      command: { kind: 'release', name, reason },
    });
    const timeout = Promise.withResolvers<void>();
    const timer = setTimeout(() => timeout.resolve(), giveBackMsMax);
    await Promise.race([this.#released.promise, this.#guard.closed, timeout.promise]);
    clearTimeout(timer);
    this.#guard.destroy();
  }

  #hear(message: FromGuard): void {
    if (message.kind === 'reply' && message.id === releaseId) this.#released.resolve();
    else if (message.kind === 'reply') this.#take(message.reply);
    if (message.kind !== 'notice') return;
    const { notice } = message;
    if (notice.kind !== 'closed' || notice.name !== this.#ticket.lease.name) return;
    // Of another command on this host, which had it before.
    if (notice.epoch !== this.#epoch) return;
    // Only frozen: the next renewal opens it again.
    if (notice.isKilled) this.#lost.resolve(notice.why === '' ? 'its time ran out' : notice.why);
  }

  #ask(waitMs: number): void {
    const { lease } = this.#ticket;
    this.#askId += 1;
    const command = { kind: 'acquire', lease, waitMs } as const;
    this.#guard.send({ kind: 'command', id: this.#askId, command });
  }

  /**
   * Another command of this very host has it: the guard says so at once, and is asked again. So is one that was started a
   * moment ago and has not heard yet what it is for.
   */
  #take(reply: GuardReply): void {
    const now = performance.now();
    const leftMs = this.#deadlineMs - now;
    if (reply.isOk) this.#epoch = reply.epoch ?? 0;
    const isBusy = !reply.isOk && reply.code === 'LEASE_BUSY' && leftMs > askAgainMs;
    const isNew = !reply.isOk && reply.code === 'GUARD_UNREACHABLE' && now < this.#newUntilMs;
    if (!isBusy && !isNew) {
      this.#reply.resolve(reply);
      return;
    }
    const waitMs = Math.max(0, Math.round(leftMs - askAgainMs));
    this.#again = setTimeout(() => this.#ask(waitMs), askAgainMs);
  }

  #signalled(signal: NodeJS.Signals): void {
    if (this.#child === null) {
      this.interruptedBy = constants.signals[signal];
      this.#interrupted.resolve(null);
      return;
    }
    // A terminal sends these to the command by itself.
    const isOfTerminal = signal === 'SIGINT' || signal === 'SIGQUIT';
    if (!(isOfTerminal && process.stdin.isTTY)) this.#child.kill(signal);
  }

  /** The guard has done it already, unless it is the guard that is gone. */
  async #killAll(
    child: ChildProcess,
    ended: Promise<number>,
    gateProcs: readonly string[],
  ): Promise<void> {
    const isOver = ended.then(() => true);
    for (let round = 0; round < 50; round++) {
      child.kill('SIGKILL');
      for (const pid of pidsIn(gateProcs)) killQuietly(pid);
      if (await Promise.race([isOver, sleep(100)])) return;
    }
  }

  /** A kill that nobody asked for is most likely the guard's: its word is waited for. */
  async #lossBehind(code: number): Promise<string | null> {
    if (code !== 128 + constants.signals.SIGKILL) return null;
    return Promise.race([this.#lost.promise, sleep(lossNewsMs).then(() => null)]);
  }

  #refused(reply: GuardReply & { isOk: false }, waitMs: number): ClusterError {
    const { code, details } = reply;
    const { hosts, lease } = this.#ticket;
    const { holder } = details;
    const host = typeof holder === 'string' ? (hosts[holder] ?? 'another host') : null;
    const said = host === null ? (details['reason'] ?? details['why']) : `${host} has it`;
    const reason = typeof said === 'string' ? said : (reasons[code] ?? 'it was refused');
    if (Object.hasOwn(reasons, code)) return this.#timedOut(waitMs, reason);
    if (!Object.hasOwn(errorTable, code))
      return new ClusterError('INTERNAL', { reason: `the guard answered ${code}` });
    return new ClusterError(code as ErrorCode, {
      ...details,
      host: 'here',
      reason,
      name: lease.title,
    });
  }

  #timedOut(waitMs: number, reason: string): ClusterError {
    const { title } = this.#ticket.lease;
    return new ClusterError('LEASE_TIMED_OUT', { name: title, seconds: waitMs / 1_000, reason });
  }
}

/** Answers that mean: not within the time given. */
const reasons: Readonly<Record<string, string>> = {
  LEASE_BUSY: 'another host has it',
  LEASE_TIMED_OUT: 'another host has it',
  TIMED_OUT: 'another host has it',
  NO_QUORUM: 'no majority of voters answers',
};

function keepOutput(child: ChildProcess): { stdout: string; stderr: string } {
  const kept = { stdout: '', stderr: '' };
  for (const stream of ['stdout', 'stderr'] as const) {
    child[stream]?.setEncoding('utf8').on('data', (text: string) => {
      if (kept[stream].length < outputCharsMax) kept[stream] += text;
    });
  }
  return kept;
}

/** As a shell says it: 128 and the number of the signal that ended it. */
function exitOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve, reject) => {
    child.once('error', (error) =>
      reject(
        new ClusterError('COMMAND_FAILED', { command: '/bin/sh', reason: error.message }, error),
      ),
    );
    child.once('exit', (code, signal) => {
      const exitCode = signal === null ? (code ?? 1) : 128 + constants.signals[signal];
      const timer = setTimeout(() => resolve(exitCode), lastOutputMs);
      // What it left running in the background may keep its output open; that ends with the gate.
      child.once('close', () => {
        clearTimeout(timer);
        resolve(exitCode);
      });
    });
  });
}

function isInside(gateProcs: readonly string[]): boolean {
  return gateProcs.every((file) => read(file) !== null);
}

function pidsIn(gateProcs: readonly string[]): number[] {
  const lines = gateProcs.flatMap((file) => (read(file) ?? '').split('\n'));
  return lines
    .map(Number)
    .filter((pid) => Number.isSafeInteger(pid) && pid > 1 && pid !== process.pid);
}

function read(file: string): string | null {
  try {
    return readFileSync(file, 'utf8');
  } catch {
    // The guard removes the group when it has cleared it.
    return null;
  }
}

function killQuietly(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It has ended meanwhile.
  }
}

function sleep(ms: number): Promise<false> {
  return new Promise((resolve) => {
    setTimeout(() => resolve(false), ms);
  });
}
