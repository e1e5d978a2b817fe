/**
 * What was asked of this host and by whom: one JSON line per mutation, each carrying the hash of the one before, so that a
 * line cannot be changed or taken out of the middle without breaking the chain. The head is published as fact `audit`:
 * what peers have seen of it cannot be rewritten later either.
 *
 * Two files: `audit.jsonl` and, once that is full, `audit.1.jsonl`, `audit.2.jsonl` … at most `filesMax`. Appends are
 * written in order and fsynced in batches; a line torn by a crash is cut off at the next start.
 */
import {
  closeSync,
  existsSync,
  fdatasync,
  fstatSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { hex } from '../../crdt/ids.ts';
import { systemCrypto } from '../crypto.ts';
import { reasonOf } from '../errors.ts';
import type { Clock, Log } from '../ports.ts';
import type { AuditEntry } from './bus.ts';

const fileBytesMax = 4 << 20;
const filesMax = 8;
const fileName = 'audit.jsonl';

export interface AuditHead {
  readonly seq: number;
  /** Hash of the newest line; '' when there is none. */
  readonly hash: string;
}

export interface AuditLine extends AuditEntry {
  readonly v: 1;
  readonly seq: number;
  /** Hash of the line before, without its line feed. */
  readonly prev: string;
  readonly host: string;
  readonly atWallMs: number;
}

export interface AuditLogOptions {
  readonly dir: string;
  readonly host: string;
  readonly clock: Clock;
  readonly log: Log;
  /** After every batch on disk. */
  readonly onHead: (head: AuditHead) => void;
}

export class AuditLog {
  readonly #options: AuditLogOptions;
  #fd: number;
  #bytes: number;
  #head: AuditHead;
  #isSyncing = false;
  #isDirty = false;

  constructor(options: AuditLogOptions) {
    this.#options = options;
    mkdirSync(options.dir, { recursive: true, mode: 0o700 });
    const path = join(options.dir, fileName);
    const opened = readTail(path);
    this.#head = opened.head ??
      readTail(join(options.dir, rotatedName(1))).head ?? { seq: 0, hash: '' };
    this.#fd = openSync(path, 'a', 0o600);
    if (fstatSync(this.#fd).size > opened.goodBytes) {
      options.log.warn('audit.torn', { cutBytes: fstatSync(this.#fd).size - opened.goodBytes });
      ftruncateSync(this.#fd, opened.goodBytes);
    }
    this.#bytes = opened.goodBytes;
  }

  get head(): AuditHead {
    return this.#head;
  }

  /** Never throws: an operation that was done is not undone because it could not be written down; it is logged loudly. */
  append(entry: AuditEntry): void {
    const { host, clock, log } = this.#options;
    const seq = this.#head.seq + 1;
    const line: AuditLine = {
      v: 1,
      seq,
      prev: this.#head.hash,
      host,
      atWallMs: clock.wallMs(),
      ...entry,
    };
    const text = JSON.stringify(line);
    try {
      // Not while the old file is being synced: its descriptor would be closed under the thread that does it.
      if (this.#bytes >= fileBytesMax && !this.#isSyncing) this.#rotate();
      this.#bytes += writeSync(this.#fd, `${text}\n`);
      this.#head = { seq, hash: lineHash(text) };
      this.#sync();
    } catch (error) {
      log.error('audit.lost', { entry: text.slice(0, 500), reason: reasonOf(error) });
    }
  }

  /** At most `max` lines of this host, newest first; damaged ones are left out. Reads files: for people, not for loops. */
  newest(max: number): readonly AuditLine[] {
    const lines: AuditLine[] = [];
    for (let n = 0; n < filesMax && lines.length < max; n++) {
      const path = join(this.#options.dir, n === 0 ? fileName : rotatedName(n));
      if (!existsSync(path)) break;
      const texts = readFileSync(path, 'utf8').split('\n').toReversed();
      for (const text of texts) {
        if (lines.length >= max) break;
        if (text !== '' && parseLine(text) !== null) lines.push(JSON.parse(text) as AuditLine);
      }
    }
    return lines;
  }

  /** Idempotent; an append after it is lost, loudly. */
  close(): void {
    if (this.#fd >= 0) closeSync(this.#fd);
    this.#fd = -1;
  }

  #sync(): void {
    this.#isDirty = true;
    if (this.#isSyncing) return;
    this.#isSyncing = true;
    this.#isDirty = false;
    fdatasync(this.#fd, (error) => {
      this.#isSyncing = false;
      if (this.#fd < 0) return;
      if (error !== null) this.#options.log.error('audit.unsynced', { reason: error.message });
      this.#options.onHead(this.#head);
      if (this.#isDirty) this.#sync();
    });
  }

  #rotate(): void {
    const { dir } = this.#options;
    rmSync(join(dir, rotatedName(filesMax - 1)), { force: true });
    for (let n = filesMax - 2; n >= 1; n--) {
      const path = join(dir, rotatedName(n));
      if (existsSync(path)) renameSync(path, join(dir, rotatedName(n + 1)));
    }
    renameSync(join(dir, fileName), join(dir, rotatedName(1)));
    closeSync(this.#fd);
    this.#fd = openSync(join(dir, fileName), 'a', 0o600);
    this.#bytes = 0;
  }
}

/** Checks the chain inside one file. Returns the sequence number of the first line that breaks it, or null. */
export function firstBrokenLine(text: string): number | null {
  let before: { seq: number; hash: string } | null = null;
  for (const line of text.split('\n').filter((one) => one !== '')) {
    const parsed = parseLine(line);
    if (parsed === null) return (before?.seq ?? 0) + 1;
    if (before !== null && (parsed.seq !== before.seq + 1 || parsed.prev !== before.hash))
      return parsed.seq;
    before = { seq: parsed.seq, hash: lineHash(line) };
  }
  return null;
}

function readTail(path: string): { head: AuditHead | null; goodBytes: number } {
  if (!existsSync(path)) return { head: null, goodBytes: 0 };
  const bytes = readFileSync(path);
  let end = bytes.lastIndexOf(10) + 1;
  while (end > 0) {
    const start = bytes.lastIndexOf(10, end - 2) + 1;
    const line = bytes.toString('utf8', start, end - 1);
    const parsed = parseLine(line);
    if (parsed !== null) return { head: { seq: parsed.seq, hash: lineHash(line) }, goodBytes: end };
    end = start;
  }
  return { head: null, goodBytes: 0 };
}

function parseLine(line: string): { seq: number; prev: string } | null {
  try {
    const parsed = JSON.parse(line) as { seq?: unknown; prev?: unknown } | null;
    if (typeof parsed?.seq !== 'number' || typeof parsed.prev !== 'string') return null;
    return { seq: parsed.seq, prev: parsed.prev };
  } catch {
    // A torn or damaged line is an expected input: the caller cuts or reports it.
    return null;
  }
}

function lineHash(line: string): string {
  return hex(systemCrypto.sha256(Buffer.from(line)));
}

function rotatedName(n: number): string {
  return fileName.replace('.', `.${n}.`);
}
