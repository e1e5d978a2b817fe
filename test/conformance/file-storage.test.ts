import { spawnSync } from 'node:child_process';
import {
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  appendFileSync,
  mkdirSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLog } from '../../daemon/logger.ts';
import { fileNameOf } from '../../daemon/store/durable.ts';
import { FileStorage } from '../../daemon/store/file-storage.ts';
import { frameOverheadBytes, headerBytes } from '../../daemon/store/framing.ts';
import { describeStorage } from './storage.ts';
import type { StorageHarness } from './storage.ts';

describeStorage('files', makeHarness);

/** On a small file system of its own, so that it can be filled for real. Needs root. */
async function makeHarness(): Promise<StorageHarness> {
  const base = mkdtempSync(join(tmpdir(), 'trellis-storage-'));
  const disk = join(base, 'disk');
  mkdirSync(disk);
  mount(['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', disk]);
  const dir = join(disk, 'state');
  mkdirSync(dir);
  const logPath = (log: string): string => fileNameOf(join(dir, 'logs'), log, '.log');
  let storage: FileStorage | null = null;
  return {
    open: async () => {
      await storage?.close();
      storage = new FileStorage(dir, silentLog);
      return storage;
    },
    settle: async () => {
      // close() waits for every write and leaves the storage usable.
      await storage?.close();
    },
    tearTail: async (log) => {
      const whole = readFileSync(logPath(log));
      appendFileSync(
        logPath(log),
        whole.subarray(headerBytes, headerBytes + frameOverheadBytes - 3),
      );
    },
    damageRecord: async (log, index) => {
      const bytes = readFileSync(logPath(log));
      let at = headerBytes;
      for (let i = 0; i < index; i++) at += frameOverheadBytes + bytes.readUInt32LE(at + 4);
      flip(logPath(log), at + frameOverheadBytes);
    },
    damageFile: async (name) => {
      const path = fileNameOf(join(dir, 'files'), name);
      flip(path, statSync(path).size - 1);
    },
    setFull: async (isFull) => {
      const filler = join(disk, 'filler');
      if (!isFull) return rmSync(filler);
      try {
        writeFileSync(filler, new Uint8Array(2 << 20));
      } catch (error) {
        if (!(error instanceof Error && 'code' in error && error.code === 'ENOSPC')) throw error;
      }
    },
    close: async () => {
      await storage?.close();
      spawnSync('umount', [disk]);
      rmSync(base, { recursive: true, force: true });
    },
  };
}

function mount(args: readonly string[]): void {
  const { status, stderr } = spawnSync('mount', args);
  if (status !== 0)
    throw new Error(`this test needs root to mount a small disk: ${stderr.toString()}`);
}

function flip(path: string, at: number): void {
  const bytes = readFileSync(path);
  bytes[at] = (bytes[at] ?? 0) ^ 0x40;
  writeFileSync(path, bytes);
}
