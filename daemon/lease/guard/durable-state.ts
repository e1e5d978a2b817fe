/**
 * What survives a reboot: the core's log, the daemon's last wish, and the boot in which this guard last ran.
 *
 * The log is appended with one fdatasync for everything that came while the one before was under way, and is rewritten with
 * the last of each kind and key when it has grown. A failed write holds everything behind it back and is tried again:
 * records must not overtake each other, since the last one wins.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
} from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as pause } from 'node:timers/promises';
import type { DurableRecord, LinkMark } from '../core-api.ts';
import { compactRecords, decodeLog, encodeBatch } from '../durable.ts';
import { Malformed, linkMark } from '../fields.ts';
import type { GuardDesired } from '../guard-api.ts';
import { compareRefs } from '../voter-config.ts';
import { ClusterError, reasonOf } from '../../errors.ts';
import type { Log } from '../../ports.ts';
import {
  isAbsent,
  privateDirMode,
  privateFileMode,
  setAside,
  syncDirectory,
  writeFileDurably,
  writeFileDurablySync,
} from '../../store/durable.ts';

/** Beside the log, written after it and before anybody hears of it: damage to the log does not reach it. */
const markFile = 'link.json';
/** Records appended since the last rewrite, besides one for each key. */
const compactAfterRecords = 4_096;
const retryMs = 250;

interface Batch {
  readonly records: readonly DurableRecord[];
  readonly synced: () => void;
}

export class DurableLog {
  readonly #path: string;
  readonly #markPath: string;
  readonly #log: Log;
  /** The last of each key, which is all that a start needs. */
  #newest: DurableRecord[];
  readonly #waiting: Batch[] = [];
  #writing: Promise<void> | null = null;
  #file: FileHandle | null = null;
  #mark: LinkMark | null;
  /** What stands behind it is no part of the log. */
  #goodBytes: number;
  #appended: number;
  /** fdatasyncs so far. */
  syncs = 0;

  /** Throws STATE_NEWER. A damaged log is set aside, and what stands before the damage is kept. */
  constructor(dir: string, log: Log) {
    mkdirSync(dir, { recursive: true, mode: privateDirMode });
    this.#path = join(dir, 'log');
    this.#log = log;
    this.#markPath = join(dir, markFile);
    const bytes = existsSync(this.#path) ? readFileSync(this.#path) : new Uint8Array(0);
    const { records, damage, goodBytes } = decodeLog(bytes);
    if (damage === 'newer') {
      throw new ClusterError('STATE_NEWER', { dir, found: 'a later one', known: 1 });
    }
    this.#newest = compactRecords(records);
    this.#appended = records.length;
    this.#goodBytes = goodBytes;
    if (damage === 'torn-tail') cutTail(this.#path, goodBytes);
    this.#mark = readMark(this.#markPath);
    const known = newestMark(this.#newest, null);
    if (damage === 'corrupt' || isBehind(known, this.#mark))
      this.#noteLoss(bytes.subarray(0, goodBytes));
    else this.#raiseMark(this.#newest);
  }

  /** In one write with what is kept, so that the next start knows of it too. */
  #noteLoss(good: Uint8Array): void {
    const aside = existsSync(this.#path) ? setAside(this.#path) : null;
    const kept = this.#newest.length;
    this.#log.error('guard.log-damaged', { setAside: aside, kept, beyond: this.#mark });
    const lost: DurableRecord = { kind: 'forgotten', isOn: true, beyond: this.#mark };
    const note = encodeBatch([lost]);
    writeFileDurablySync(this.#path, Buffer.concat([good, note]));
    this.#goodBytes = good.length + note.length;
    this.#newest = compactRecords([...this.#newest, lost]);
  }

  /** In an order that may be applied from the first to the last. */
  records(): readonly DurableRecord[] {
    return this.#newest;
  }

  /** `synced` is called once all of them are on stable storage, never inside this call. */
  append(records: readonly DurableRecord[], synced: () => void): void {
    this.#waiting.push({ records, synced });
    this.#writing ??= this.#drain();
  }

  /** Waits for what was appended. */
  async close(): Promise<void> {
    while (this.#writing !== null) await this.#writing;
    await this.#file?.close();
    this.#file = null;
  }

  async #drain(): Promise<void> {
    // In a turn of its own: callers may go on adding to the same write.
    await Promise.resolve();
    while (this.#waiting.length > 0) {
      const batches = this.#waiting.splice(0);
      await this.#persist(batches.flatMap((batch) => batch.records));
      for (const batch of batches) batch.synced();
    }
    // In the same turn as the last look: whoever appends after it starts anew.
    this.#writing = null;
  }

  async #persist(records: readonly DurableRecord[]): Promise<void> {
    if (records.length === 0) return;
    this.#newest = compactRecords([...this.#newest, ...records]);
    this.#appended += records.length;
    for (;;) {
      try {
        if (this.#appended > compactAfterRecords + this.#newest.length) await this.#rewrite();
        else await this.#write(encodeBatch(records));
        this.#raiseMark(records);
        this.syncs += 1;
        return;
      } catch (error) {
        this.#log.error('guard.log-write-failed', { error: reasonOf(error) });
        await pause(retryMs);
      }
    }
  }

  #raiseMark(records: readonly DurableRecord[]): void {
    const mark = newestMark(records, this.#mark);
    if (mark === this.#mark) return;
    writeFileDurablySync(this.#markPath, Buffer.from(JSON.stringify(mark)));
    this.#mark = mark;
  }

  async #write(bytes: Uint8Array): Promise<void> {
    this.#file ??= await openLog(this.#path);
    let done = 0;
    while (done < bytes.length) {
      const at = this.#goodBytes + done;
      const { bytesWritten } = await this.#file.write(bytes, done, bytes.length - done, at);
      done += bytesWritten;
    }
    await this.#file.datasync();
    this.#goodBytes += bytes.length;
  }

  async #rewrite(): Promise<void> {
    const bytes = encodeBatch(this.#newest);
    await this.#file?.close();
    this.#file = null;
    await writeFileDurably(this.#path, [bytes]);
    this.#goodBytes = bytes.length;
    this.#appended = this.#newest.length;
  }
}

/** Null: there is none, or it cannot be read. */
function readMark(path: string): LinkMark | null {
  const text = readText(path);
  if (text === null) return null;
  try {
    return linkMark(JSON.parse(text));
  } catch (error) {
    if (error instanceof Malformed || error instanceof SyntaxError) return null;
    throw error;
  }
}

/** Of the links among these, and the one before. */
function newestMark(records: readonly DurableRecord[], before: LinkMark | null): LinkMark | null {
  let newest = before;
  for (const record of records) {
    if (record.kind !== 'chosen') continue;
    const { env, generation, n, ttlMsMax } = record.chosen.config;
    const longestMs = Math.max(ttlMsMax, newest?.ttlMsMax ?? 0);
    if (newest?.env !== env || compareRefs(record.chosen.config, newest) > 0)
      newest = { env, generation, n, ttlMsMax: longestMs };
  }
  return newest;
}

/** Of two environments, which cannot be told, the log knows better. */
function isBehind(known: LinkMark | null, mark: LinkMark | null): boolean {
  if (mark === null) return false;
  return known === null || (known.env === mark.env && compareRefs(mark, known) > 0);
}

async function openLog(path: string): Promise<FileHandle> {
  if (existsSync(path)) return open(path, 'r+');
  const file = await open(path, 'wx+', privateFileMode);
  await syncDirectory(join(path, '..'));
  return file;
}

function cutTail(path: string, goodBytes: number): void {
  const fd = openSync(path, 'r+');
  try {
    ftruncateSync(fd, goodBytes);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
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
