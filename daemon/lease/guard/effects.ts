/**
 * Carries out what the core decides, in its order. Before the first send or act of a gate the core's state is on tmpfs, so
 * that a guard that is killed at any point finds again at least what anybody else has seen of it.
 */
import { basename } from 'node:path';
import type { CoreEffect, CoreEvent, GateResult } from '../core-api.ts';
import type { GuardNotice, GuardReply } from '../guard-api.ts';
import type { HostId } from '../../../crdt/ids.ts';
import type { Message } from '../messages.ts';
import { reasonOf } from '../../errors.ts';
import type { Log } from '../../ports.ts';
import { foreverMs } from '../gate.ts';
import { profiles } from '../profiles.ts';
import type { Deadman, DeadmanEntry } from './deadman.ts';
import type { DurableLog } from './durable-state.ts';
import type { Gates } from './gates.ts';
import type { LeaseDirs } from './lease-dir.ts';
import type { LeaseTable } from './lease-table.ts';
import type { TrafficGate } from './traffic.ts';
import { fenceByPanic, runFenceCommand, type Watchdog } from './watchdog.ts';

type Gate = Extract<CoreEffect, { kind: 'gate' }>;
type Fence = Extract<CoreEffect, { kind: 'fence' }>;
type LeaseFile = Extract<CoreEffect, { kind: 'lease-file' }>;

export interface EffectParts {
  readonly log: Log;
  readonly table: LeaseTable;
  /** Null: this host cannot freeze, and every act fails. */
  readonly gates: Gates | null;
  readonly dirs: LeaseDirs;
  readonly durable: DurableLog;
  readonly watchdog: Watchdog | null;
  readonly deadman: Deadman;
  /** Null: a panic is not allowed here. */
  readonly sysrqPath: string | null;
  readonly traffic: () => TrafficGate | null;
  /** Stores the core's state; throws when it cannot. */
  readonly keep: () => void;
  readonly send: (to: HostId, messages: readonly Message[]) => void;
  /** For the next turn. `then` is carried out after the effects of the event. */
  readonly enqueue: (event: CoreEvent, then?: readonly CoreEffect[]) => void;
  readonly reply: (id: number, reply: GuardReply) => void;
  readonly notice: (notice: GuardNotice) => void;
  readonly nameOf: (host: HostId | null) => string;
}

/** What others or the kernel act upon: the core must remember it after kill -9. */
const keptBefore: ReadonlySet<CoreEffect['kind']> = new Set([
  'send',
  'persist',
  'gate',
  'lease-file',
]);

export class Effects {
  readonly #parts: EffectParts;
  /** Leases whose gate was thawed and not seen frozen or empty since: they need the 20 ms tick. */
  readonly open = new Set<string>();
  /** Of those, the ones that the deadman has to close if we do not: not being closed by us, and not without end. */
  readonly #armed = new Set<string>();
  /** Open, with no act under way. */
  readonly #settled = new Set<string>();
  /** Ends of authority as the workload was told them, on the authority clock. */
  readonly #untilMs = new Map<string, number | null>();
  /** Newest token of each gate: older answers are void for us too. */
  readonly #tokens = new Map<string, number>();
  keepFailures = 0;

  constructor(parts: EffectParts) {
    this.#parts = parts;
  }

  run(effects: readonly CoreEffect[]): void {
    if (effects.length === 0) return;
    const maySend = this.#keep(effects);
    const outgoing = new Map<HostId, Message[]>();
    this.#noteDeadlines(effects);
    for (const effect of effects) {
      if (effect.kind !== 'send') this.#one(effect);
      else if (maySend) {
        const messages = outgoing.get(effect.to);
        if (messages === undefined) outgoing.set(effect.to, [effect.message]);
        else messages.push(effect.message);
      }
    }
    for (const [to, messages] of outgoing) this.#parts.send(to, messages);
    this.#parts.traffic()?.flush();
  }

  /** False: nothing may leave this host in this turn. Fencing and everything else goes on. */
  #keep(effects: readonly CoreEffect[]): boolean {
    if (!effects.some(({ kind }) => keptBefore.has(kind))) return true;
    try {
      this.#parts.keep();
      return true;
    } catch (error) {
      this.keepFailures += 1;
      this.#parts.log.error('guard.state-not-kept', { error: reasonOf(error) });
      return false;
    }
  }

  #one(effect: Exclude<CoreEffect, { kind: 'send' }>): void {
    switch (effect.kind) {
      case 'persist': {
        const { token, then } = effect;
        const { durable, enqueue } = this.#parts;
        durable.append(effect.records, () => enqueue({ kind: 'persisted', token }, then));
        return;
      }
      case 'gate':
        void this.#gate(effect);
        return;
      case 'lease-file':
        this.#leaseFile(effect);
        return;
      case 'traffic':
        this.#parts.traffic()?.set(effect.name, effect.untilMs);
        return;
      case 'fence':
        void this.#fence(effect);
        return;
      case 'reply':
        this.#parts.reply(effect.id, effect.reply);
        return;
      case 'notice':
        this.#parts.notice(effect.notice);
    }
  }

  /** Before any gate is opened: from then on it is closed in time whatever becomes of this process. */
  #noteDeadlines(effects: readonly CoreEffect[]): void {
    let isChanged = false;
    for (const effect of effects) {
      if (effect.kind === 'lease-file') {
        this.#untilMs.set(effect.name, effect.authorityUntilMs);
        isChanged = true;
      } else if (effect.kind === 'gate' && effect.act !== 'look') {
        if (effect.act === 'thaw') this.#armed.add(effect.name);
        else this.#armed.delete(effect.name);
        isChanged = true;
      }
    }
    if (isChanged) this.#arm();
  }

  /** For gates that are open already when this process starts, all at once: the deadman of the guard before ends with it. */
  resumeOpen(leases: readonly { readonly name: string; readonly untilMs: number }[]): void {
    for (const { name, untilMs } of leases) {
      this.open.add(name);
      this.#settled.add(name);
      this.#armed.add(name);
      this.#untilMs.set(name, untilMs);
    }
    if (leases.length > 0) this.#arm();
  }

  /**
   * Opens again what was closed behind our back while the lease has time left: the deadman of the guard before this one may
   * have been in the middle of it.
   */
  async repair(nowMs: number): Promise<void> {
    const { gates, table, log } = this.#parts;
    for (const name of this.#settled) {
      const lease = table.get(name);
      const untilMs = this.#untilMs.get(name) ?? 0;
      if (lease?.gate == null || gates === null) continue;
      if (untilMs - nowMs <= profiles[lease.profile].freezeBeforeMs) continue;
      if (!gates.isFrozen(lease.gate)) continue;
      log.warn('guard.gate-was-closed', { name });
      await gates.thaw(lease.gate);
    }
  }

  #arm(): void {
    const { deadman, table, gates, log } = this.#parts;
    if (gates === null) return;
    const entries: DeadmanEntry[] = [];
    for (const name of this.#armed) {
      const lease = table.get(name);
      const untilMs = this.#untilMs.get(name) ?? 0;
      if (lease?.gate == null || lease.onLoss === 'keep' || untilMs >= foreverMs) continue;
      const deadlineMs = untilMs - profiles[lease.profile].killBeforeMs;
      entries.push({ gate: basename(gates.dirOf(lease.gate)), deadlineMs });
    }
    try {
      deadman.arm(entries);
    } catch (error) {
      // The times in the file are earlier ones, which errs to the safe side.
      log.error('guard.deadman', { error: reasonOf(error) });
    }
  }

  async #gate({ name, token, act }: Gate): Promise<void> {
    const { watchdog, enqueue } = this.#parts;
    this.#tokens.set(name, token);
    this.#settled.delete(name);
    if (act === 'thaw') {
      this.open.add(name);
      watchdog?.running(name);
    }
    const result = await this.#act(name, act);
    if (this.#tokens.get(name) !== token) return;
    if (result === 'frozen' || result === 'empty') {
      this.open.delete(name);
      watchdog?.stopped(name);
    }
    if (result === 'open') this.#settled.add(name);
    enqueue({ kind: 'gate', name, token, result });
  }

  async #act(name: string, act: Gate['act']): Promise<GateResult> {
    const { gates, table } = this.#parts;
    const gate = table.get(name)?.gate ?? null;
    // Nothing runs under this lease: there is nothing to close.
    if (gate === null) return withoutGate[act];
    if (gates === null) return 'failed';
    switch (act) {
      case 'freeze':
        return gates.freeze(gate);
      case 'thaw':
        return gates.thaw(gate);
      case 'clear':
        return gates.clear(gate);
      case 'look':
        return gates.look(gate);
    }
  }

  #leaseFile({ name, epoch, authorityUntilMs }: LeaseFile): void {
    const { dirs, table, watchdog, log } = this.#parts;
    watchdog?.extend(name, authorityUntilMs);
    const gate = table.get(name)?.gate ?? null;
    if (gate === null) return;
    try {
      dirs.ensure(gate);
      dirs.write(gate, epoch, authorityUntilMs);
    } catch (error) {
      // A workload that looks finds an earlier deadline, which errs to the safe side.
      log.error('guard.lease-file-failed', { name, error: reasonOf(error) });
    }
  }

  async #fence({ name, how, victim, epoch }: Fence): Promise<void> {
    const { log, sysrqPath, table, enqueue, nameOf } = this.#parts;
    log.warn('guard.fence', { name, how, victim });
    if (how === 'panic') {
      fenceByPanic(sysrqPath, log);
      return;
    }
    const command = table.get(name)?.fenceCommand ?? [];
    const fault = await runFenceCommand(command, { name, victim, victimName: nameOf(victim) });
    if (fault !== null) log.error('guard.fence-failed', { name, victim, error: fault });
    enqueue({ kind: 'fenced', name, epoch, isFenced: fault === null });
  }
}

const withoutGate = {
  freeze: 'frozen',
  thaw: 'open',
  clear: 'empty',
  look: 'empty',
} as const satisfies Record<Gate['act'], GateResult>;
