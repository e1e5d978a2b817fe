/**
 * What survives a reboot: the core's log, the daemon's last wish, and the boot in which this guard last ran.
 *
 * The log is appended with one fdatasync for everything that came while the one before was under way, and is rewritten with
 * the last of each kind and key when it has grown. A failed write holds everything behind it back and is tried again:
 * records must not overtake each other, since the last one wins.
 */
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { DurableRecord } from '../core-api.ts';
import type { GuardDesired } from '../guard-api.ts';
import type { Log } from '../../ports.ts';
import { isAbsent, privateDirMode, setAside, writeFileDurablySync } from '../../store/durable.ts';
import { LogFile } from '../../store/log-file.ts';

/** Records appended since the last rewrite, besides one for each key. */
const compactAfterRecords = 4_096;
const retryMs = 250;

interface Batch {
  readonly records: readonly DurableRecord[];
  readonly synced: () => void;
}

export class DurableLog {
  readonly #file: LogFile;
  readonly #log: Log;
  /** The last of each key, which is all that a start needs. */
  readonly #newest = new Map<string, DurableRecord>();
  readonly #waiting: Batch[] = [];
  #isWriting = false;
  #appended = 0;
  /** fdatasyncs so far. */
  syncs = 0;

  constructor(dir: string, log: Log) {
    mkdirSync(dir, { recursive: true, mode: privateDirMode });
    this.#file = new LogFile(join(dir, 'log'), 'lease/log');
    this.#log = log;
    const { records, damage } = this.#file.read();
    if (damage !== null) log.warn('guard.log-damaged', { ...damage });
    for (const record of records.flatMap(decode)) {
      this.#keep(record);
      this.#appended += 1;
    }
  }

  /** In an order that may be applied from the first to the last. */
  records(): DurableRecord[] {
    return [...this.#newest.values()];
  }

  append(records: readonly DurableRecord[], synced: () => void): void {
    this.#waiting.push({ records, synced });
    this.#pump();
  }

  /** Waits for what was appended. */
  close(): Promise<void> {
    return this.#file.close();
  }

  #pump(): void {
    if (this.#isWriting || this.#waiting.length === 0) return;
    const batches = this.#waiting.splice(0);
    const records = batches.flatMap((batch) => batch.records);
    this.#isWriting = true;
    this.syncs += 1;
    const done = (error?: Error): void => {
      if (error === undefined) {
        this.#isWriting = false;
        for (const batch of batches) batch.synced();
        this.#pump();
        return;
      }
      this.#log.error('guard.log-write-failed', { error: error.message });
      setTimeout(() => {
        this.#isWriting = false;
        this.#waiting.unshift(...batches);
        this.#pump();
      }, retryMs);
    };
    for (const record of records) this.#keep(record);
    this.#appended += records.length;
    if (this.#appended > compactAfterRecords + this.#newest.size) {
      this.#appended = this.#newest.size;
      this.#file.rewrite([encode(this.records())], done);
      return;
    }
    // One record for all of them: they are kept or lost together.
    this.#file.append(encode(records), done);
  }

  #keep(record: DurableRecord): void {
    const key = 'name' in record ? `${record.kind} ${record.name}` : record.kind;
    this.#newest.delete(key);
    this.#newest.set(key, record);
  }
}

function encode(records: readonly DurableRecord[]): Uint8Array {
  return Buffer.from(JSON.stringify(records));
}

function decode(bytes: Uint8Array): readonly DurableRecord[] {
  return JSON.parse(Buffer.from(bytes).toString('utf8')) as readonly DurableRecord[];
}

/** The daemon's last wish: a guard boots into it with no daemon. */
export class DesiredFile {
  readonly #path: string;
  #text: string | null = null;

  constructor(dir: string) {
    this.#path = join(dir, 'desired.json');
  }

  read(log: Log): GuardDesired | null {
    const text = readText(this.#path);
    if (text === null) return null;
    try {
      const desired = JSON.parse(text) as GuardDesired;
      if (desired.v !== 1) throw new Error(`version ${String(desired.v)}`);
      this.#text = text;
      return desired;
    } catch (error) {
      log.warn('guard.desired-damaged', { setAside: setAside(this.#path), error: String(error) });
      return null;
    }
  }

  /** Only when it differs from what is there. Throws DISK_FULL. */
  write(desired: GuardDesired): void {
    const text = JSON.stringify(desired);
    if (text === this.#text) return;
    writeFileDurablySync(this.#path, Buffer.from(text));
    this.#text = text;
  }
}

/** True when this guard has not run in this boot yet. Remembers it. */
export function isFirstOfBoot(dir: string, bootId: string): boolean {
  const path = join(dir, 'boot-id');
  const isFirst = readText(path)?.trim() !== bootId;
  if (isFirst) writeFileDurablySync(path, Buffer.from(`${bootId}\n`));
  return isFirst;
}

function readText(path: string): string | null {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    if (isAbsent(error)) return null;
    throw error;
  }
}
