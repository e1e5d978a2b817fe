import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { silentLog } from '../../../daemon/logger.ts';
import { FileStorage } from '../../../daemon/store/file-storage.ts';

test('a record appended, or a file written, as soon as the one before is durable is written too', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'trellis-store-'));
  try {
    const storage = new FileStorage(dir, silentLog);
    const append = (byte: number) =>
      new Promise<void>((resolve, reject) => {
        storage.append('chain', Uint8Array.of(byte), (error) =>
          error ? reject(error) : resolve(),
        );
      });
    const write = (byte: number) =>
      new Promise<void>((resolve, reject) => {
        storage.writeFile('file', Uint8Array.of(byte), (error) =>
          error ? reject(error) : resolve(),
        );
      });
    for (const byte of [1, 2, 3]) await append(byte);
    for (const byte of [1, 2, 3]) await write(byte);
    expect(storage.readLog('chain').records).toEqual([1, 2, 3].map((byte) => Uint8Array.of(byte)));
    expect(storage.readFile('file').bytes).toEqual(Uint8Array.of(3));
    await storage.close();
  } finally {
    rmSync(dir, { recursive: true });
  }
});
