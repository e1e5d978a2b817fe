/**
 * The disk of one simulated host (`SimDisk`), and the storage port of one life on it.
 *
 * Every write is an operation in its file's queue until it is synced, a few milliseconds later and in order. A crash
 * keeps some prefix of the queue (what the kernel happened to write), may tear the append after it, and loses the rest;
 * whole-file replacement is atomic: old or new. Faults beyond that (`flipByte`, `lose`, `isFull`) are asked for by tests.
 */
import type { Damage, Storage } from '../../daemon/ports.ts';
import type { Life, SimHost } from './sim-host.ts';
import type { SimRandom } from './sim-random.ts';
import type { Scheduler } from './scheduler.ts';
import { traceKind, type Trace } from './trace.ts';

export interface StorageOptions {
  readonly syncMsMin: number;
  readonly syncMsMax: number;
  /** A neighbour writes a lot: now and then a sync takes up to `stallMsMax`. */
  readonly stallChance: number;
  readonly stallMsMax: number;
  /** Of crashes with an unsynced append: how often it leaves half a record. */
  readonly tornChance: number;
}

export const defaultStorage: StorageOptions = {
  syncMsMin: 0.5,
  syncMsMax: 6,
  stallChance: 0.01,
  stallMsMax: 140,
  tornChance: 0.5,
};

type Operation =
  | { readonly kind: 'append'; readonly record: Uint8Array }
  | { readonly kind: 'replace'; readonly records: readonly Uint8Array[] };

interface DiskFile {
  records: Uint8Array[];
  /** Written, not yet synced; oldest first. */
  unsynced: Operation[];
  damage: Damage | null;
  /** When the newest operation will be synced: later ones never overtake it. */
  syncedAtMs: number;
}

export class SimDisk {
  readonly #files = new Map<string, DiskFile>();
  readonly #random: SimRandom;
  readonly options: StorageOptions;
  /** Writes fail while set; nothing of them is kept. */
  isFull = false;
  #setAsides = 0;

  constructor(random: SimRandom, options: StorageOptions) {
    this.#random = random;
    this.options = options;
  }

  /** Names of what exists, logs as 'log/<name>' and files as 'file/<name>'. */
  names(): readonly string[] {
    return [...this.#files.keys()].sort();
  }

  /** The process died: what had not been synced survives in part. */
  crash(): void {
    for (const name of this.names()) {
      const file = this.#file(name);
      const kept = file.unsynced.length === 0 ? 0 : this.#random.index(file.unsynced.length + 1);
      for (const operation of file.unsynced.slice(0, kept)) apply(file, operation);
      const next = file.unsynced[kept];
      if (next?.kind === 'append' && this.#random.chance(this.options.tornChance)) {
        file.damage = {
          name: short(name),
          kind: 'torn-tail',
          setAside: null,
          detail: 'half a record at the end',
        };
      }
      file.unsynced = [];
      file.syncedAtMs = 0;
    }
  }

  /** A bit turned while nobody looked: found by checksum at the next read. False when there is nothing to damage. */
  flipByte(name: string): boolean {
    const file = this.#files.get(name);
    if (file === undefined || file.records.length === 0) return false;
    const at = this.#random.index(file.records.length);
    // Whether what comes after the damage is found again is not promised.
    const after = this.#random.chance(0.5) ? file.records.slice(at + 1) : [];
    file.records = [...file.records.slice(0, at), ...after];
    file.damage = {
      name: short(name),
      kind: 'corrupt',
      setAside: `${short(name)}.damaged-${++this.#setAsides}`,
      detail: `checksum of record ${at} does not match`,
    };
    return true;
  }

  /** The file is gone, without a trace. */
  lose(name: string): boolean {
    return this.#files.delete(name);
  }

  /** A new disk. */
  wipe(): void {
    this.#files.clear();
  }

  /** What a power-cut now could not take, for checkers. */
  synced(name: string): readonly Uint8Array[] {
    return this.#files.get(name)?.records ?? [];
  }

  /** Damage is told once, to the next reader. */
  read(name: string): { records: Uint8Array[]; damage: Damage | null } {
    const file = this.#files.get(name);
    if (file === undefined) return { records: [], damage: null };
    const view: DiskFile = { ...file, records: [...file.records] };
    for (const operation of file.unsynced) apply(view, operation);
    const damage = file.damage;
    file.damage = null;
    return { records: view.records.map((record) => record.slice()), damage };
  }

  /** Returns when it will be synced, and what to do then. */
  write(name: string, operation: Operation, nowMs: number): { atMs: number; commit: () => void } {
    const file = this.#file(name);
    file.unsynced.push(operation);
    const { syncMsMin, syncMsMax, stallChance, stallMsMax } = this.options;
    const stallMs = this.#random.chance(stallChance) ? this.#random.between(0, stallMsMax) : 0;
    const atMs = Math.max(
      file.syncedAtMs,
      nowMs + this.#random.between(syncMsMin, syncMsMax) + stallMs,
    );
    file.syncedAtMs = atMs;
    const commit = (): void => {
      const first = file.unsynced.shift();
      if (first !== undefined) apply(file, first);
    };
    return { atMs, commit };
  }

  /** When a write that does not fit is answered: after those before it. */
  refuse(name: string, nowMs: number): number {
    const file = this.#file(name);
    file.syncedAtMs = Math.max(file.syncedAtMs, nowMs + this.options.syncMsMin);
    return file.syncedAtMs;
  }

  #file(name: string): DiskFile {
    let file = this.#files.get(name);
    if (file === undefined) {
      file = { records: [], unsynced: [], damage: null, syncedAtMs: 0 };
      this.#files.set(name, file);
    }
    return file;
  }
}

export class SimStorage implements Storage {
  readonly #disk: SimDisk;
  readonly #host: SimHost;
  readonly #life: Life;
  readonly #scheduler: Scheduler;
  readonly #trace: Trace;

  constructor(options: {
    disk: SimDisk;
    host: SimHost;
    life: Life;
    scheduler: Scheduler;
    trace: Trace;
  }) {
    this.#disk = options.disk;
    this.#host = options.host;
    this.#life = options.life;
    this.#scheduler = options.scheduler;
    this.#trace = options.trace;
  }

  readLog(log: string): { records: Uint8Array[]; damage: Damage | null } {
    return this.#disk.read(`log/${log}`);
  }

  append(log: string, record: Uint8Array, synced: (error?: Error) => void): void {
    this.#write(`log/${log}`, { kind: 'append', record: record.slice() }, synced);
  }

  rewriteLog(log: string, records: readonly Uint8Array[], synced: (error?: Error) => void): void {
    this.#write(
      `log/${log}`,
      { kind: 'replace', records: records.map((record) => record.slice()) },
      synced,
    );
  }

  readFile(name: string): { bytes: Uint8Array | null; damage: Damage | null } {
    const { records, damage } = this.#disk.read(`file/${name}`);
    return { bytes: records[0] ?? null, damage };
  }

  writeFile(name: string, bytes: Uint8Array, synced: (error?: Error) => void): void {
    this.#write(`file/${name}`, { kind: 'replace', records: [bytes.slice()] }, synced);
  }

  #write(name: string, operation: Operation, synced: (error?: Error) => void): void {
    if (!this.#life.isAlive) return;
    const nowMs = this.#scheduler.nowMs;
    if (this.#disk.isFull) {
      this.#scheduler.at(this.#disk.refuse(name, nowMs), () => this.#answer(synced, fullDisk()));
      return;
    }
    const { atMs, commit } = this.#disk.write(name, operation, nowMs);
    this.#scheduler.at(atMs, () => {
      if (!this.#life.isAlive) return;
      commit();
      this.#trace.mix(traceKind.sync, this.#host.index, this.#scheduler.nowMs, size(operation));
      this.#answer(synced);
    });
  }

  #answer(synced: (error?: Error) => void, error?: Error): void {
    this.#host.deliver('io', this.#life, () => (error === undefined ? synced() : synced(error)));
  }
}

function apply(file: DiskFile, operation: Operation): void {
  if (operation.kind === 'append') file.records.push(operation.record);
  else file.records = [...operation.records];
}

function size(operation: Operation): number {
  if (operation.kind === 'append') return operation.record.length;
  return operation.records.reduce((sum, record) => sum + record.length, 0);
}

function fullDisk(): Error {
  return Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });
}

function short(name: string): string {
  return name.slice(name.indexOf('/') + 1);
}
