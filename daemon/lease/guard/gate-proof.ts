/**
 * Whether gates work on this host: tried for real once in each boot, and again when somebody asks. A guard that is started
 * again within the boot takes the earlier result, because it must be back before authority ends.
 */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { GuardDesired } from '../guard-api.ts';
import type { Log } from '../../ports.ts';
import { reasonOf } from '../../errors.ts';
import { testGate, type GateTest } from './gate-test.ts';
import type { Gates } from './gates.ts';

interface KeptResult {
  readonly bootId: string;
  readonly result: GateTest;
}

export class GateProof {
  readonly #gates: Gates | string;
  readonly #runDir: string;
  readonly #bootId: string;
  readonly #log: Log;
  #result: GateTest | null = null;
  #running: Promise<void> | null = null;

  constructor(options: {
    readonly gates: Gates | string;
    readonly runDir: string;
    readonly bootId: string;
    readonly log: Log;
  }) {
    this.#gates = options.gates;
    this.#runDir = options.runDir;
    this.#bootId = options.bootId;
    this.#log = options.log;
  }

  /** Why exclusive work cannot be fenced here; null: it can. */
  get fault(): string | null {
    if (typeof this.#gates === 'string') return this.#gates;
    return this.#result === null ? 'the gate was not tried yet' : this.#result.fault;
  }

  times(): Record<string, number> {
    const { freezeMs, thawMs, killMs } = this.#result ?? {};
    return { gateFreezeMs: freezeMs ?? 0, gateThawMs: thawMs ?? 0, gateKillMs: killMs ?? 0 };
  }

  /** Tries it unless a guard of this boot did. */
  async ensure(desired: GuardDesired): Promise<void> {
    this.#result ??= this.#read();
    if (this.#result === null) await this.run(desired);
  }

  /** Calls at the same time share one try. */
  run(desired: GuardDesired | null): Promise<void> {
    this.#running ??= this.#try(desired).finally(() => (this.#running = null));
    return this.#running;
  }

  /** Leases that this host could not fence are not to be acquired here, whatever the daemon believes. */
  mask(desired: GuardDesired): GuardDesired {
    const { fault } = this;
    if (fault === null) return desired;
    const why = `exclusive work cannot be fenced here: ${fault}`;
    const leases = desired.leases.map((lease) =>
      lease.gate === null ? lease : { ...lease, mayAcquire: false, why },
    );
    return { ...desired, leases };
  }

  async #try(desired: GuardDesired | null): Promise<void> {
    if (typeof this.#gates === 'string') return;
    const cluster8 = desired?.cluster8 ?? '00000000';
    const host6 = desired?.self.slice(0, 6) ?? '000000';
    const gate = `trellis-x-${cluster8}-test${process.pid}-${host6}`;
    this.#result = await testGate(this.#gates, gate, this.#runDir);
    this.#log[this.#result.fault === null ? 'info' : 'error']('guard.gate-tried', {
      ...this.#result,
      version: this.#gates.tree.version,
    });
    this.#write(this.#result);
  }

  #read(): GateTest | null {
    try {
      const kept = JSON.parse(readFileSync(this.#path(), 'utf8')) as KeptResult;
      return kept.bootId === this.#bootId && kept.result.fault === null ? kept.result : null;
    } catch {
      // Absent or torn: it is tried.
      return null;
    }
  }

  #write(result: GateTest): void {
    try {
      const kept: KeptResult = { bootId: this.#bootId, result };
      writeFileSync(`${this.#path()}.tmp`, JSON.stringify(kept));
      renameSync(`${this.#path()}.tmp`, this.#path());
    } catch (error) {
      this.#log.warn('guard.gate-result-not-kept', { error: reasonOf(error) });
    }
  }

  #path(): string {
    return join(this.#runDir, 'gate-test.json');
  }
}
