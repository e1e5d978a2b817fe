import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { Layout, type StorageState } from '../../../plugins/storage/layout.ts';

let dir: string;
let path: string;
let work: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'trellis-layout-'));
  path = join(dir, 'db');
  work = join(dir, '.db.trellis');
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

const put = (place: string, text: string): void => {
  mkdirSync(place, { recursive: true });
  writeFileSync(join(place, 'row'), text);
};
const state = (changes: Partial<StorageState>): StorageState => ({
  v: 1,
  id: 'x',
  role: 'copy',
  epoch: 1,
  version: 4,
  knownEpoch: 1,
  knownVersion: 4,
  fingerprint: '',
  from: null,
  ...changes,
});
const crashedWith = (found: StorageState): void => {
  mkdirSync(work, { recursive: true });
  writeFileSync(join(work, 'state.json'), JSON.stringify(found));
};

describe('after a crash in the middle', () => {
  test('of a promotion before the copy was moved: it is finished', async () => {
    crashedWith(state({ role: 'promoting', epoch: 2 }));
    put(join(work, 'copy'), 'copied');
    expect(await new Layout(path, 'x').open()).toMatchObject({ role: 'active', epoch: 2 });
    expect(readFileSync(join(path, 'row'), 'utf8')).toBe('copied');
  });

  test('of a promotion after the copy was moved: what is there stays', async () => {
    crashedWith(state({ role: 'promoting', epoch: 2 }));
    put(path, 'copied');
    expect(await new Layout(path, 'x').open()).toMatchObject({ role: 'active', epoch: 2 });
    expect(readFileSync(join(path, 'row'), 'utf8')).toBe('copied');
  });

  test('between the renames of a finished copy: there is none, and a new one begins', async () => {
    const layout = new Layout(path, 'x');
    await layout.open();
    put(layout.next, 'new');
    put(layout.copy, 'old');
    const after = await layout.adoptNext(state({}), { epoch: 1, version: 5 });
    expect(after).toMatchObject({ role: 'copy', version: 5 });
    crashedWith(state({ role: 'none' }));
    rmSync(layout.copy, { recursive: true });
    expect((await new Layout(path, 'x').open()).role).toBe('none');
  });

  test('a state that cannot be read: what lies there is set aside, not trusted', async () => {
    mkdirSync(work, { recursive: true });
    writeFileSync(join(work, 'state.json'), '{"v":1,"role":"act');
    put(path, 'whose is this');
    expect(await new Layout(path, 'x').open()).toMatchObject({ role: 'none', epoch: 0 });
    expect(readdirSync(path)).toEqual([]);
    expect(readFileSync(join(work, 'aside-other-unreadable', 'row'), 'utf8')).toBe('whose is this');
  });
});

describe('a storage made anew under an old path', () => {
  test('begins with what was active here', async () => {
    crashedWith(state({ id: 'old-one', role: 'active' }));
    put(path, 'of the old one');
    expect(await new Layout(path, 'x').open()).toMatchObject({ role: 'none', epoch: 0 });
    expect(readFileSync(join(path, 'row'), 'utf8')).toBe('of the old one');
  });

  test('and not with what lay in the place of a copy', async () => {
    crashedWith(state({ id: 'old-one', role: 'copy' }));
    put(path, 'who put this here');
    expect(await new Layout(path, 'x').open()).toMatchObject({ role: 'none', epoch: 0 });
    expect(readdirSync(path)).toEqual([]);
    expect(readFileSync(join(work, 'aside-other-old-one', 'row'), 'utf8')).toBe(
      'who put this here',
    );
  });
});

test('what is set aside is bounded', async () => {
  const layout = new Layout(path, 'x');
  await layout.open();
  for (const epoch of [1, 2, 3, 4]) {
    put(path, String(epoch));
    await layout.demote(state({ role: 'active', epoch }), false);
  }
  const left = readdirSync(work).filter((name) => name.startsWith('aside'));
  expect(left.toSorted()).toEqual(['aside-3', 'aside-4']);
});

test('what is promoted does not overwrite what is in the way', async () => {
  const layout = new Layout(path, 'x');
  await layout.open();
  put(layout.copy, 'copied');
  put(path, 'in the way');
  await layout.promote(state({}), 2);
  expect(readFileSync(join(path, 'row'), 'utf8')).toBe('copied');
  expect(readFileSync(join(work, 'aside-before-2', 'row'), 'utf8')).toBe('in the way');
  expect(existsSync(layout.copy)).toBe(false);
});
