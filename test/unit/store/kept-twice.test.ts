import { mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { copyPathOf, readTwice, writeTwice } from '../../../daemon/store/kept-twice.ts';

let dir: string;
let path: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'trellis-twice-'));
  path = join(dir, 'file');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const parse = (bytes: Buffer): string | null =>
  bytes.toString().startsWith('good ') ? bytes.toString() : null;

function look(): { found: ReturnType<typeof readTwice<string>>; mended: string[] } {
  const mended: string[] = [];
  return { found: readTwice(path, parse, mended), mended };
}

test('either file alone gives the value, and both are whole again', () => {
  writeTwice(path, Buffer.from('good one'));
  const value = { kind: 'found', value: 'good one' };
  expect(look()).toEqual({ found: value, mended: [] });
  for (const spoil of [
    () => rmSync(path),
    () => writeFileSync(path, 'bad'),
    () => writeFileSync(path, ''),
  ]) {
    spoil();
    expect(look()).toEqual({ found: value, mended: ['file'] });
    expect(look()).toEqual({ found: value, mended: [] });
  }
  for (const spoil of [
    () => rmSync(copyPathOf(path)),
    () => writeFileSync(copyPathOf(path), 'good but older'),
  ]) {
    spoil();
    expect(look()).toEqual({ found: value, mended: [] });
    expect(readFileSync(copyPathOf(path), 'utf8')).toBe('good one');
  }
  for (const one of [path, copyPathOf(path)]) expect(statSync(one).mode & 0o777).toBe(0o600);
});

test('nothing is made up', () => {
  expect(look().found).toEqual({ kind: 'absent' });
  writeTwice(path, Buffer.from('bad'));
  expect(look()).toEqual({ found: { kind: 'damaged' }, mended: [] });
});
