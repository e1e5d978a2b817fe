/**
 * A host without its programs: two clocks, power, a disk for the guard, one gate per lease, the kernel's traffic gate, and
 * a container engine that is late.
 *
 * Real time is the simulator's. Both clocks of a host run at `rate` against it (1 ± ρ); `mono` stands still while the host
 * sleeps, `authority` does not, and is read in steps of 10 ms once the host has slept, as /proc/uptime is.
 */
import type { HostId } from '../../../crdt/ids.ts';
import type { CoreStart, DurableRecord, LinkMark } from '../../../daemon/lease/core-api.ts';
import type { GuardDesired } from '../../../daemon/lease/guard-api.ts';
import type { Epoch, LeaseName } from '../../../daemon/lease/model.ts';
import { compareRefs } from '../../../daemon/lease/voter-config.ts';

/** Records of a log before it is rewritten. */
const historyMax = 300;

/** What runs in a gate. It reads its epoch from the lease directory at each write, as a good workload does. */
export interface SimProcess {
  readonly startedMs: number;
  /** Epoch of the lease file when it began, or under which it was let go on. */
  epoch: Epoch;
  /** False while it has only ever been frozen: not one instruction of it was carried out. */
  hasRun: boolean;
}

/** One lease on one host, as its kernel and engine know it. Survives the guard and the daemon, not the power. */
export class SimGate {
  readonly name: LeaseName;
  isFrozen = true;
  process: SimProcess | null = null;
  /** Of the lease directory. */
  fileEpoch: Epoch = 0;
  fileUntilMs: number | null = null;
  /** Real time of the last change of the file. */
  fileAtMs = 0;
  /** On the authority clock. */
  trafficUntilMs = 0;
  /** The engine's: a start that was asked for and has not happened. Goes up to void older ones at a power cut. */
  startPending = false;
  startGeneration = 0;
  /** A freeze was refused by the kernel: outside of what is claimed until one succeeds. */
  isBroken = false;
  /** Operations that wait for the one in progress. */
  readonly queue: { readonly act: GateAct; readonly token: number; readonly life: number }[] = [];
  isBusy = false;

  constructor(name: LeaseName) {
    this.name = name;
  }

  get isRunning(): boolean {
    return this.process !== null && !this.isFrozen;
  }
}

export type GateAct = 'freeze' | 'thaw' | 'clear' | 'look';

export class Machine {
  readonly index: number;
  readonly id: HostId;
  isUp = true;
  isAsleep = false;
  /** Declared dead by an operator: does not come back while faults last. */
  isKeptOff = false;
  /** Goes up at every boot: voids what was scheduled for an earlier one. */
  boot = 0;
  /** The boot in which a guard has started last. */
  startedInBoot = 0;
  rate: number;
  #rawBaseMs = 0;
  #realBaseMs = 0;
  #sleptMs = 0;
  #asleepSinceRawMs = 0;
  readonly gates = new Map<LeaseName, SimGate>();
  readonly gateList: SimGate[] = [];
  /** The guard's log, synced part only; compacted, because the last of a kind and key wins. */
  durable = new Map<string, DurableRecord>();
  /** Every record since the last rewrite, as the log has them: damage keeps what stands before it. */
  #history: DurableRecord[] = [];
  /** In a file of its own, as the guard keeps it. */
  #mark: LinkMark | null = null;
  /** The last wish that the guard kept. */
  desiredFile: GuardDesired | null = null;
  /** tmpfs: of this boot; null: absent. */
  volatile: unknown = null;
  /** How long the host had slept as far as the guard that wrote it had noticed. */
  #volatileSleptMs = 0;

  constructor(index: number, id: HostId, rate: number, rawMs: number) {
    this.index = index;
    this.id = id;
    this.rate = rate;
    this.#rawBaseMs = rawMs;
  }

  gate(name: LeaseName): SimGate {
    let gate = this.gates.get(name);
    if (gate === undefined) {
      gate = new SimGate(name);
      this.gates.set(name, gate);
      this.gateList.push(gate);
    }
    return gate;
  }

  rawMs(realMs: number): number {
    return this.#rawBaseMs + (realMs - this.#realBaseMs) * this.rate;
  }

  monoMs(realMs: number): number {
    const raw = this.isAsleep ? this.#asleepSinceRawMs : this.rawMs(realMs);
    return raw - this.#sleptMs;
  }

  authorityMs(realMs: number): number {
    const raw = this.rawMs(realMs);
    if (this.#sleptMs === 0) return this.isAsleep ? Math.max(raw, this.monoMs(realMs)) : raw;
    return Math.max(this.monoMs(realMs), Math.floor(raw / 10) * 10);
  }

  /** Real time at which the monotonic clock shows `monoMs`, if the host does not sleep before. */
  realOfMono(monoMs: number, realMs: number): number {
    return realMs + (monoMs - this.monoMs(realMs)) / this.rate;
  }

  realOfAuthority(authorityMs: number, realMs: number): number {
    return realMs + (authorityMs - this.authorityMs(realMs)) / this.rate;
  }

  setRate(rate: number, realMs: number): void {
    this.#rawBaseMs = this.rawMs(realMs);
    this.#realBaseMs = realMs;
    this.rate = rate;
  }

  sleep(realMs: number): void {
    this.#asleepSinceRawMs = this.rawMs(realMs);
    this.isAsleep = true;
  }

  wake(realMs: number): void {
    this.#sleptMs += this.rawMs(realMs) - this.#asleepSinceRawMs;
    this.isAsleep = false;
  }

  get sleptMs(): number {
    return this.#sleptMs;
  }

  keep(state: unknown, sleptMs: number): void {
    this.volatile = state;
    this.#volatileSleptMs = sleptMs;
  }

  /** As the guard reads it: what is from before a sleep is no memory. */
  readVolatile(): unknown {
    if (this.#sleptMs - this.#volatileSleptMs > 500) this.volatile = null;
    // As it was written: what does not survive that is not there.
    return JSON.parse(JSON.stringify(this.volatile)) as unknown;
  }

  /** Everything that is not on a disk is gone. */
  cutPower(): void {
    this.isUp = false;
    this.isAsleep = false;
    this.volatile = null;
    for (const gate of this.gateList) {
      gate.isFrozen = true;
      gate.process = null;
      gate.fileEpoch = 0;
      gate.fileUntilMs = null;
      gate.trafficUntilMs = 0;
      gate.startPending = false;
      gate.startGeneration++;
      gate.isBroken = false;
      gate.queue.length = 0;
      gate.isBusy = false;
    }
  }

  powerOn(realMs: number): void {
    this.isUp = true;
    this.boot++;
    this.#rawBaseMs = 0;
    this.#realBaseMs = realMs;
    this.#sleptMs = 0;
  }

  /** What a starting guard finds. */
  startOf(env: string, isFreshBoot: boolean): CoreStart {
    return {
      self: this.id,
      env,
      durable: [...this.durable.values()],
      volatile: this.readVolatile(),
      bootMonoMs: 0,
      isFreshBoot,
    };
  }

  write(records: readonly DurableRecord[]): void {
    for (const record of records) {
      this.#history.push(record);
      this.#apply(record);
      if (record.kind !== 'chosen') continue;
      const { env, generation, n, ttlMsMax } = record.chosen.config;
      const longestMs = Math.max(ttlMsMax, this.#mark?.ttlMsMax ?? 0);
      if (this.#mark === null || compareRefs(record.chosen.config, this.#mark) > 0)
        this.#mark = { env, generation, n, ttlMsMax: longestMs };
    }
    if (this.#history.length > historyMax) this.#history = [...this.durable.values()];
  }

  #apply(record: DurableRecord): void {
    const key = keyOf(record);
    // The last of a kind wins, and comes last.
    this.durable.delete(key);
    this.durable.set(key, record);
  }

  /**
   * The log has lost what stands behind some place, and its guard will see it. `kept`: of its records, from 0 to 1; of the links that
   * a world began with, one.
   */
  damageLog(kept: number, isFounded: boolean): void {
    // Nothing was promised yet.
    if (this.#mark === null) return;
    const least = isFounded ? 1 + this.#history.findIndex(({ kind }) => kind === 'chosen') : 0;
    const records = this.#history.slice(0, Math.max(least, this.#history.length * kept));
    this.durable = new Map();
    this.#history = [];
    this.write([...records, { kind: 'forgotten', isOn: true, beyond: this.#mark }]);
  }
}

function keyOf(record: DurableRecord): string {
  return record.kind === 'epoch' || record.kind === 'parked'
    ? `${record.kind} ${record.name}`
    : record.kind;
}

/** 'a', 'b', ... and zeros: 32 characters that differ at the first. */
export function hostIdOf(index: number): HostId {
  return (String.fromCodePoint(97 + index) + '0'.repeat(31)) as HostId;
}
