/**
 * One append-only log on disk with group commit: what is appended while an fdatasync runs shares the next one.
 *
 * A failed write (full disk) leaves nothing behind: the file is cut back to its last durable byte, and every record of
 * that batch gets the error. After a failed fdatasync the kernel may have dropped the pages, so the file is cut back
 * too; if even that fails, the log refuses everything until it is rewritten.
 */
import { closeSync, existsSync, ftruncateSync, fsyncSync, openSync, readFileSync } from 'node:fs';
import { open, unlink } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { ClusterError, reasonOf } from '../errors.ts';
import type { Damage } from '../ports.ts';
import {
  diskError,
  privateFileMode,
  setAside,
  syncDirectory,
  writeFileDurably,
  writeFileDurablySync,
} from './durable.ts';
import { encodeFrame, encodeHeader, headerBytes, logVersion, scanLog } from './framing.ts';
import type { Scan } from './framing.ts';

/** Appended but not yet durable; beyond it appends are refused. */
const queuedBytesMax = 256 << 20;
/** One write call. */
const batchBytesMax = 8 << 20;

type Synced = (error?: Error) => void;
type Operation =
  | { readonly kind: 'append'; readonly frame: Uint8Array; readonly synced: Synced }
  | { readonly kind: 'rewrite'; readonly frames: readonly Uint8Array[]; readonly synced: Synced }
  | { readonly kind: 'refuse'; readonly error: Error; readonly synced: Synced };

export class LogFile {
  readonly #path: string;
  readonly #name: string;
  readonly #queue: Operation[] = [];
  #queuedBytes = 0;
  #draining: Promise<void> | null = null;
  #file: FileHandle | null = null;
  /** Null: not looked at yet in this run. */
  #durableBytes: number | null = null;
  #fault: Error | null = null;

  constructor(path: string, name: string) {
    this.#path = path;
    this.#name = name;
  }

  get exists(): boolean {
    return this.#durableBytes !== null || existsSync(this.#path);
  }

  /** Repairs the file the first time; later it only reads what is durable. */
  read(): { records: Uint8Array[]; damage: Damage | null } {
    if (!existsSync(this.#path)) return { records: [], damage: null };
    const bytes = readFileSync(this.#path);
    if (this.#durableBytes !== null) {
      return { records: scanLog(bytes.subarray(0, this.#durableBytes)).records, damage: null };
    }
    const scan = scanLog(bytes);
    const damage = this.#repair(scan, bytes.length);
    return { records: scan.records, damage };
  }

  append(record: Uint8Array, synced: Synced): void {
    const frame = encodeFrame(record);
    if (this.#queuedBytes + frame.length > queuedBytesMax) {
      const error = diskError(
        this.#path,
        new Error(`${this.#queuedBytes} bytes are still unwritten`),
      );
      this.#enqueue({ kind: 'refuse', error, synced });
      return;
    }
    this.#queuedBytes += frame.length;
    this.#enqueue({ kind: 'append', frame, synced });
  }

  rewrite(records: readonly Uint8Array[], synced: Synced): void {
    this.#enqueue({ kind: 'rewrite', frames: records.map(encodeFrame), synced });
  }

  /** Waits for everything queued so far, then closes the file. */
  async close(): Promise<void> {
    while (this.#draining !== null) await this.#draining;
    await this.#file?.close();
    this.#file = null;
  }

  #enqueue(operation: Operation): void {
    this.#queue.push(operation);
    this.#draining ??= this.#drain();
  }

  async #drain(): Promise<void> {
    // Callers may rely on `synced` not firing inside their call.
    await Promise.resolve();
    try {
      while (this.#queue.length > 0) {
        const batch = this.#takeBatch();
        let failure: Error | undefined;
        try {
          await this.#perform(batch);
        } catch (error) {
          failure = diskError(this.#path, error);
        }
        for (const operation of batch) operation.synced(failure);
      }
    } finally {
      // In the same turn as the last look at the queue: whoever appends after it starts anew.
      this.#draining = null;
    }
  }

  /** One rewrite or refusal, or as many consecutive appends as fit one write. */
  #takeBatch(): Operation[] {
    const batch: Operation[] = [];
    let bytes = 0;
    for (const operation of this.#queue) {
      if (operation.kind !== 'append') break;
      if (batch.length > 0 && bytes + operation.frame.length > batchBytesMax) break;
      bytes += operation.frame.length;
      batch.push(operation);
    }
    this.#queuedBytes -= bytes;
    if (batch.length === 0) return this.#queue.splice(0, 1);
    this.#queue.splice(0, batch.length);
    return batch;
  }

  async #perform(batch: readonly Operation[]): Promise<void> {
    const [first] = batch;
    if (first?.kind === 'refuse') throw first.error;
    if (first?.kind === 'rewrite') return this.#replace(first.frames);
    const frames = batch.flatMap((operation) =>
      operation.kind === 'append' ? [operation.frame] : [],
    );
    return this.#write(Buffer.concat(frames));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    if (this.#fault !== null) throw this.#fault;
    const file = (this.#file ??= await this.#openForAppend());
    const start = this.#durableBytes ?? headerBytes;
    try {
      let done = 0;
      while (done < bytes.length) {
        const { bytesWritten } = await file.write(bytes, done, bytes.length - done, start + done);
        done += bytesWritten;
      }
      await file.datasync();
      this.#durableBytes = start + bytes.length;
    } catch (error) {
      await this.#cutBack(file, start);
      throw error;
    }
  }

  async #cutBack(file: FileHandle, durableBytes: number): Promise<void> {
    try {
      await file.truncate(durableBytes);
      await file.datasync();
    } catch (error) {
      this.#fault = diskError(this.#path, error);
    }
  }

  async #replace(frames: readonly Uint8Array[]): Promise<void> {
    const chunks = [encodeHeader(), ...frames];
    await writeFileDurably(this.#path, chunks);
    await this.#file?.close();
    this.#file = null;
    this.#fault = null;
    this.#durableBytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  }

  async #openForAppend(): Promise<FileHandle> {
    if (this.#durableBytes === null && existsSync(this.#path)) this.read();
    if (existsSync(this.#path)) return open(this.#path, 'r+');
    const file = await open(this.#path, 'wx', privateFileMode);
    try {
      await file.writeFile(encodeHeader());
      await file.sync();
      await syncDirectory(dirname(this.#path));
      this.#durableBytes = headerBytes;
      return file;
    } catch (error) {
      await file.close();
      await unlink(this.#path);
      throw error;
    }
  }

  #repair(scan: Scan, fileBytes: number): Damage | null {
    if (scan.kind === 'newer') {
      throw new ClusterError('STATE_NEWER', {
        dir: this.#path,
        found: scan.version,
        known: logVersion,
      });
    }
    if (scan.kind === 'clean' && fileBytes >= headerBytes) {
      this.#durableBytes = fileBytes;
      return null;
    }
    if (scan.kind === 'torn-tail' && scan.goodBytes >= headerBytes) return this.#cutTail(scan);
    return this.#rebuild(scan);
  }

  #cutTail(scan: Scan): Damage {
    const fd = openSync(this.#path, 'r+');
    try {
      ftruncateSync(fd, scan.goodBytes);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    this.#durableBytes = scan.goodBytes;
    const detail = `cut off ${scan.badBytes} bytes of an unfinished write`;
    return { name: this.#name, kind: 'torn-tail', setAside: null, detail };
  }

  /** Damage in the middle, or an interrupted creation: keep the whole frames in a new file. */
  #rebuild(scan: Scan): Damage | null {
    const isCorrupt = scan.kind === 'corrupt';
    const aside = isCorrupt ? setAside(this.#path) : null;
    const chunks = [encodeHeader(), ...scan.records.map(encodeFrame)];
    const whole = Buffer.concat(chunks);
    try {
      writeFileDurablySync(this.#path, whole);
    } catch (error) {
      throw new ClusterError(
        'DISK_FULL',
        { dir: dirname(this.#path), reason: reasonOf(error) },
        error,
      );
    }
    this.#durableBytes = whole.length;
    if (!isCorrupt && scan.badBytes === 0) return null;
    const detail = `${scan.badBytes} bytes are unreadable, ${scan.records.length} records are intact`;
    const kind = isCorrupt ? 'corrupt' : 'torn-tail';
    return { name: this.#name, kind, setAside: aside === null ? null : basename(aside), detail };
  }
}
