/**
 * The Storage port on files: `logs/<name>.log` and `files/<name>`. Names that have ever been written are listed in a log
 * of their own, so that a file that vanished is reported as missing instead of looking new.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { startSha256 } from '../crypto.ts';
import type { Damage, Log, Storage } from '../ports.ts';
import {
  fileNameOf,
  isAbsent,
  privateDirMode,
  setAside,
  syncDirectorySync,
  writeFileDurably,
} from './durable.ts';
import { LogFile } from './log-file.ts';

const fileMagic = Buffer.from('TRLSFIL1', 'latin1');
const sumBytes = 32;
const fileHeaderBytes = fileMagic.length + sumBytes;

type Synced = (error?: Error) => void;

interface FileWrites {
  /** Latest value that no write has taken yet, with everybody who waits for it. */
  waiting: { bytes: Uint8Array; callbacks: Synced[] } | null;
  running: Promise<void> | null;
}

export class FileStorage implements Storage {
  readonly #logsDir: string;
  readonly #filesDir: string;
  readonly #log: Log;
  readonly #logs = new Map<string, LogFile>();
  readonly #writes = new Map<string, FileWrites>();
  readonly #index: LogFile;
  readonly #known: Set<string>;

  constructor(stateDir: string, log: Log) {
    this.#logsDir = join(stateDir, 'logs');
    this.#filesDir = join(stateDir, 'files');
    this.#log = log;
    mkdirSync(this.#logsDir, { recursive: true, mode: privateDirMode });
    mkdirSync(this.#filesDir, { recursive: true, mode: privateDirMode });
    syncDirectorySync(stateDir);
    this.#index = new LogFile(join(stateDir, 'index.log'), 'index');
    this.#known = new Set(this.#index.read().records.map((name) => Buffer.from(name).toString()));
  }

  readLog(log: string): { records: Uint8Array[]; damage: Damage | null } {
    const file = this.#logFile(log);
    if (file.exists || !this.#known.has(`log ${log}`)) return file.read();
    return { records: [], damage: missing(log) };
  }

  append(log: string, record: Uint8Array, synced: Synced): void {
    this.#logFile(log).append(record, this.#remembering(`log ${log}`, synced));
  }

  rewriteLog(log: string, records: readonly Uint8Array[], synced: Synced): void {
    this.#logFile(log).rewrite(records, this.#remembering(`log ${log}`, synced));
  }

  readFile(name: string): { bytes: Uint8Array | null; damage: Damage | null } {
    const path = fileNameOf(this.#filesDir, name);
    let stored: Uint8Array;
    try {
      stored = readFileSync(path);
    } catch (error) {
      if (!isAbsent(error)) throw error;
      return { bytes: null, damage: this.#known.has(`file ${name}`) ? missing(name) : null };
    }
    const bytes = openFile(stored);
    if (bytes !== null) return { bytes, damage: null };
    const aside = basename(setAside(path));
    const detail = `the checksum of its ${stored.length} bytes does not match`;
    return { bytes: null, damage: { name, kind: 'corrupt', setAside: aside, detail } };
  }

  writeFile(name: string, bytes: Uint8Array, synced: Synced): void {
    const writes = this.#writes.get(name) ?? { waiting: null, running: null };
    this.#writes.set(name, writes);
    const callbacks = [
      ...(writes.waiting?.callbacks ?? []),
      this.#remembering(`file ${name}`, synced),
    ];
    writes.waiting = { bytes: new Uint8Array(bytes), callbacks };
    writes.running ??= this.#writeWaiting(name, writes);
  }

  /** Waits for everything written so far. Nothing may be written afterwards. */
  async close(): Promise<void> {
    for (const { running } of this.#writes.values()) await running;
    for (const log of this.#logs.values()) await log.close();
    await this.#index.close();
  }

  async #writeWaiting(name: string, writes: FileWrites): Promise<void> {
    await Promise.resolve();
    const path = fileNameOf(this.#filesDir, name);
    try {
      for (let next = writes.waiting; next !== null; next = writes.waiting) {
        writes.waiting = null;
        let failure: Error | undefined;
        try {
          await writeFileDurably(path, [sealFile(next.bytes)]);
        } catch (error) {
          failure = error as Error;
        }
        for (const synced of next.callbacks) synced(failure);
      }
    } finally {
      // In the same turn as the last look: whoever writes after it starts anew.
      writes.running = null;
    }
  }

  #logFile(log: string): LogFile {
    let file = this.#logs.get(log);
    if (file === undefined) {
      file = new LogFile(fileNameOf(this.#logsDir, log, '.log'), log);
      this.#logs.set(log, file);
    }
    return file;
  }

  /** Lists the name after its first durable write. Losing that entry only loses the report that it went missing. */
  #remembering(entry: string, synced: Synced): Synced {
    if (this.#known.has(entry)) return synced;
    return (failure) => {
      if (failure === undefined && !this.#known.has(entry)) {
        this.#known.add(entry);
        this.#index.append(new Uint8Array(Buffer.from(entry)), (error) => {
          if (error !== undefined) this.#log.warn('store.index-not-written', { entry, error });
        });
      }
      synced(failure);
    };
  }
}

function sealFile(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([fileMagic, checksum(bytes), bytes]);
}

function openFile(stored: Uint8Array): Uint8Array | null {
  if (stored.length < fileHeaderBytes || !fileMagic.equals(stored.subarray(0, fileMagic.length)))
    return null;
  const bytes = new Uint8Array(stored.subarray(fileHeaderBytes));
  return Buffer.from(stored.subarray(fileMagic.length, fileHeaderBytes)).equals(checksum(bytes))
    ? bytes
    : null;
}

function checksum(bytes: Uint8Array): Uint8Array {
  const sum = startSha256();
  sum.update(bytes);
  return sum.digest();
}

function missing(name: string): Damage {
  return { name, kind: 'missing', setAside: null, detail: 'it was written before and is gone' };
}
