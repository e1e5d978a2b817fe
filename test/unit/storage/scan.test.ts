import {
  linkSync,
  mkdirSync,
  mkdtempSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { distrust, scanAtRest, scanTree } from '../../../plugins/storage/scan.ts';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'trellis-scan-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

test('what was written a moment ago is not settled, at rest it is', async () => {
  writeFileSync(join(dir, 'row'), '1');
  expect((await scanTree(dir)).isSettled).toBe(false);
  const rested = await scanAtRest(dir);
  expect(rested.isSettled).toBe(true);
  expect((await scanTree(dir)).fingerprint).toBe(rested.fingerprint);
});

test('a write after a settled look always shows, of the same size too', async () => {
  writeFileSync(join(dir, 'row'), '1');
  const before = await scanAtRest(dir);
  writeFileSync(join(dir, 'row'), '2');
  expect((await scanTree(dir)).fingerprint).not.toBe(before.fingerprint);
});

test('the rights of the directory itself count', async () => {
  const before = await scanTree(dir);
  const { chmodSync } = await import('node:fs');
  chmodSync(dir, 0o711);
  expect((await scanTree(dir)).fingerprint).not.toBe(before.fingerprint);
});

test('what was changed as late as it was copied is distrusted, what is shared with an earlier copy is not', async () => {
  mkdirSync(join(dir, 'deep'));
  const [late, early, shared] = ['deep/late', 'early', 'shared'].map((name) => join(dir, name));
  for (const path of [late, early, shared]) writeFileSync(path as string, 'x');
  utimesSync(early as string, 1_000, 1_000);
  linkSync(shared as string, join(dir, 'link'));
  await distrust(dir, Date.now() - 5_000);
  expect(statSync(late as string).mtimeMs).toBe(0);
  expect(statSync(early as string).mtimeMs).toBe(1_000_000);
  expect(statSync(shared as string).mtimeMs).toBeGreaterThan(1_000_000);
});
