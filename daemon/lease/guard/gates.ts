/**
 * Gates: one cgroup for each exclusive lease with a workload. Everything of the workload lives inside (the engine puts its
 * containers below it), and the gate is frozen unless the lease is valid. A process that is put into a frozen gate does not
 * run, so that a start that comes late does no harm, and no call to an engine is needed to fence.
 *
 * `Gates` gives every act a turn of its own per gate: a newer act makes an older one, which may still be killing, give up.
 */
import { execFile } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  readdirSync,
  rmdirSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { GateResult } from '../core-api.ts';
import type { Log } from '../../ports.ts';
import { isAbsent } from '../../store/durable.ts';
import { CgroupV1 } from './cgroup-v1.ts';
import { CgroupV2 } from './cgroup-v2.ts';
import { cgroupsOf, type Freezer } from './freezer.ts';

/** `clear` gives up after this: then the core fences by harder means. */
export const clearLimitMs = 2_000;
/** Longest time for a freeze or thaw to be complete. */
const settleLimitMs = 2_000;
/** Between two looks while something is settling. */
const pollMs = 2;
/** Killed processes of v1 get this long in the thawed gate before it is frozen and looked at again. */
const dyingMs = 50;

export type CgroupDriver = 'cgroupfs' | 'systemd';

/** Where gates live and how to speak to the kernel there. */
export interface CgroupTree {
  readonly version: 'v1' | 'v2';
  readonly root: string;
  readonly freezer: Freezer;
  /** Roots of the other v1 hierarchies, where engines leave empty directories of the same name. */
  readonly others: readonly string[];
}

/** Null with the reason when this host cannot freeze. `root`: a cgroup directory of tests, null: the machine's. */
export function findCgroupTree(root: string | null, mount = '/sys/fs/cgroup'): CgroupTree | string {
  const place = root ?? (existsSync(join(mount, 'freezer')) ? join(mount, 'freezer') : mount);
  if (!existsSync(join(place, 'cgroup.procs'))) return `${place} is no cgroup directory`;
  if (!isWritable(place))
    return `${place} cannot be written; a guard needs root and the cgroups of the host, which a container has not`;
  if (existsSync(join(place, 'cgroup.controllers'))) {
    return { version: 'v2', root: place, freezer: new CgroupV2(), others: [] };
  }
  const others =
    root === null
      ? readdirSync(mount)
          .filter((name) => name !== 'freezer' && name !== 'unified')
          .map((name) => join(mount, name))
          .filter((dir) => existsSync(join(dir, 'cgroup.procs')))
      : [];
  return { version: 'v1', root: place, freezer: new CgroupV1(), others };
}

/** Also asked when a gate worked earlier in this boot: that may have been outside of the container in which this runs. */
function isWritable(dir: string): boolean {
  try {
    accessSync(dir, constants.W_OK);
    return true;
  } catch {
    // Whatever the reason: nothing can be frozen here.
    return false;
  }
}

/** 'trellis-x-a.slice' would be three levels deep for systemd: dashes are escaped. */
export function sliceName(gate: string): string {
  return `${gate.replaceAll('-', '\\x2d')}.slice`;
}

export class Gates {
  readonly tree: CgroupTree;
  readonly #log: Log;
  #driver: CgroupDriver;
  readonly #turns = new Map<string, number>();

  constructor(tree: CgroupTree, options: { readonly log: Log; readonly driver: CgroupDriver }) {
    this.tree = tree;
    this.#log = options.log;
    this.#driver = options.driver;
  }

  /** As the engine says; gates that exist under the other driver's name are left to `list`. */
  setDriver(driver: CgroupDriver): void {
    this.#driver = driver;
  }

  dirOf(gate: string): string {
    return join(this.tree.root, this.#driver === 'systemd' ? sliceName(gate) : gate);
  }

  /** Files that take a process into the gate. */
  procsFiles(gate: string): readonly string[] {
    return [join(this.dirOf(gate), 'cgroup.procs')];
  }

  /** Makes the gate, frozen, when there is none. Throws what the kernel says. */
  ensure(gate: string): void {
    const dir = this.dirOf(gate);
    if (existsSync(dir)) return;
    mkdirSync(dir);
    this.tree.freezer.freeze(dir);
    if (this.#driver === 'systemd') this.#keepSlice(gate);
  }

  async freeze(gate: string): Promise<GateResult> {
    const turn = this.#newTurn(gate);
    const dir = this.dirOf(gate);
    return this.#guarded('freeze', gate, async () => {
      this.ensure(gate);
      const isDone = await this.#until(turn, settleLimitMs, () => {
        // Asked again each time: a process that just came in, or that was in the kernel, is caught by the next one.
        this.tree.freezer.freeze(dir);
        return this.tree.freezer.isFrozen(dir);
      });
      return isDone ? 'frozen' : 'failed';
    });
  }

  async thaw(gate: string): Promise<GateResult> {
    const turn = this.#newTurn(gate);
    const dir = this.dirOf(gate);
    return this.#guarded('thaw', gate, async () => {
      this.ensure(gate);
      this.tree.freezer.thaw(dir);
      const isDone = await this.#until(turn, settleLimitMs, () => this.tree.freezer.isThawed(dir));
      return isDone ? 'open' : 'failed';
    });
  }

  /** Kills everything inside, and says 'empty' only when it looked and the gate is frozen. */
  async clear(gate: string): Promise<GateResult> {
    const turn = this.#newTurn(gate);
    const dir = this.dirOf(gate);
    const { freezer } = this.tree;
    return this.#guarded('clear', gate, async () => {
      this.ensure(gate);
      const endMs = performance.now() + clearLimitMs;
      let isDone = false;
      while (!isDone && performance.now() < endMs && turn()) {
        isDone = await this.#clearOnce(turn, dir);
      }
      // A newer act decides by itself what the gate is to be.
      if (!turn()) return 'failed';
      freezer.freeze(dir);
      return isDone ? 'empty' : 'populated';
    });
  }

  async #clearOnce(isMine: () => boolean, dir: string): Promise<boolean> {
    const { freezer } = this.tree;
    const isFrozen = await this.#until(isMine, dyingMs, () => {
      freezer.freeze(dir);
      return freezer.isFrozen(dir);
    });
    if (!isMine()) return false;
    if (isFrozen && !freezer.isPopulated(dir)) return true;
    // What does not freeze is killed all the same.
    freezer.kill(dir);
    // All that was inside has its SIGKILL, so nothing of it comes back to its own code at this thaw.
    freezer.letDie(dir);
    await this.#until(isMine, dyingMs, () => {
      if (!freezer.isPopulated(dir)) return true;
      // Somebody may have come in from outside while the gate was open for dying.
      freezer.kill(dir);
      return false;
    });
    return false;
  }

  isFrozen(gate: string): boolean {
    try {
      return this.tree.freezer.isFrozen(this.dirOf(gate));
    } catch (error) {
      if (isAbsent(error)) return false;
      throw error;
    }
  }

  look(gate: string): GateResult {
    const dir = this.dirOf(gate);
    try {
      return this.tree.freezer.isPopulated(dir) ? 'populated' : 'empty';
    } catch (error) {
      if (isAbsent(error)) return 'empty';
      this.#log.warn('gate.look-failed', { gate, error: String(error) });
      return 'failed';
    }
  }

  /** Takes an empty gate away, here and where engines left directories of its name. */
  remove(gate: string): void {
    this.#newTurn(gate);
    const name = this.#driver === 'systemd' ? sliceName(gate) : gate;
    for (const root of [this.tree.root, ...this.tree.others]) removeTree(join(root, name));
    this.#turns.delete(gate);
    if (this.#driver === 'systemd') this.#dropSlice(gate);
  }

  /** Names of gates that exist, under either driver's way of writing them. */
  list(isOurs: (gate: string) => boolean): string[] {
    return readdirSync(this.tree.root)
      .map((name) => name.replace(/\.slice$/, '').replaceAll('\\x2d', '-'))
      .filter(isOurs)
      .toSorted();
  }

  #newTurn(gate: string): () => boolean {
    const turn = (this.#turns.get(gate) ?? 0) + 1;
    this.#turns.set(gate, turn);
    return () => this.#turns.get(gate) === turn;
  }

  /** True when `check` was, false at the limit or when a newer act took over. The first looks wait for nothing. */
  async #until(isMine: () => boolean, limitMs: number, check: () => boolean): Promise<boolean> {
    const endMs = performance.now() + limitMs;
    for (let looks = 0; ; looks += 1) {
      if (!isMine()) return false;
      if (check()) return true;
      if (performance.now() >= endMs) return false;
      if (looks > 2) await pause(pollMs);
      else await new Promise((resolve) => setImmediate(resolve));
    }
  }

  async #guarded(act: string, gate: string, run: () => Promise<GateResult>): Promise<GateResult> {
    try {
      return await run();
    } catch (error) {
      this.#log.error('gate.failed', { act, gate, error: String(error) });
      return 'failed';
    }
  }

  /** A unit keeps the slice's cgroup alive while it is empty. Ours works without it, so it is not waited for. */
  #keepSlice(gate: string): void {
    const unit = sliceName(gate);
    const text = `[Unit]\nDescription=Trellis gate ${gate}\nDefaultDependencies=no\n\n[Slice]\n`;
    try {
      mkdirSync(unitDir, { recursive: true });
      writeFileSync(join(unitDir, unit), text);
    } catch (error) {
      this.#log.warn('gate.unit-failed', { gate, error: String(error) });
      return;
    }
    this.#systemctl('start', unit);
  }

  #dropSlice(gate: string): void {
    const unit = sliceName(gate);
    this.#systemctl('stop', unit);
  }

  #systemctl(verb: 'start' | 'stop', unit: string): void {
    const arguments_ = ['--no-block', verb, unit];
    execFile('systemctl', arguments_, { timeout: systemctlLimitMs }, (error) => {
      if (error !== null)
        this.#log.warn('gate.unit-failed', { verb, unit, error: error.message.trim() });
    });
  }
}

const unitDir = '/run/systemd/system';
const systemctlLimitMs = 5_000;

function removeTree(dir: string): void {
  try {
    for (const place of cgroupsOf(dir).toReversed()) rmdirSync(place);
  } catch (error) {
    // Absent, or busy because an engine is still in it: empty directories do no harm.
    if (!isAbsent(error) && !isBusy(error)) throw error;
  }
}

function isBusy(error: unknown): boolean {
  return error instanceof Error && 'code' in error && error.code === 'EBUSY';
}
