import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { contentHash, writeArchive } from '../../../bootstrap/archive.ts';
import { BundleSource } from '../../../bootstrap/bundle-source.ts';

let work: string;
beforeEach(() => (work = mkdtempSync(path.join(os.tmpdir(), 'bundle-'))));
afterEach(() => rmSync(work, { recursive: true, force: true }));

function tree(name: string, files: Record<string, string>): string {
  const dir = path.join(work, name);
  for (const [file, text] of Object.entries(files)) {
    mkdirSync(path.dirname(path.join(dir, file)), { recursive: true });
    writeFileSync(path.join(dir, file), text);
  }
  return dir;
}

const files = { 'b/two': '2', 'a/one': '1', VERSION: '1.2.3\n' };

test('an archive depends on names, modes and bytes alone', async () => {
  const first = tree('first', files);
  const second = tree('second', Object.fromEntries(Object.entries(files).reverse()));
  utimesSync(path.join(second, 'a/one'), 1, 1);
  const one = await writeArchive({ dir: first, file: path.join(work, '1.tgz'), top: 'trellis' });
  const two = await writeArchive({ dir: second, file: path.join(work, '2.tgz'), top: 'trellis' });
  expect(two.sha256).toBe(one.sha256);
  expect(await contentHash(second)).toBe(await contentHash(first));
  chmodSync(path.join(second, 'a/one'), 0o755);
  expect(await contentHash(second)).not.toBe(await contentHash(first));
});

test('an archive unpacks to what it was made of, and leaves no draft', async () => {
  const dir = tree('dir', { ...files, 'cache/x': 'out' });
  chmodSync(path.join(dir, 'a/one'), 0o755);
  const file = path.join(work, 'out.tgz');
  await writeArchive({ dir, file, top: 'trellis', exclude: ['cache'] });
  execFileSync('tar', ['-xzf', file, '-C', work]);
  expect(readdirSync(path.join(work, 'trellis')).sort()).toEqual(['VERSION', 'a', 'b']);
  expect(readFileSync(path.join(work, 'trellis/b/two'), 'utf8')).toBe('2');
  expect(readdirSync(work).filter((name) => name.includes('draft'))).toEqual([]);
});

test('a link in the tree is refused and nothing is left', async () => {
  const dir = tree('dir', files);
  execFileSync('ln', ['-s', '/etc/passwd', path.join(dir, 'link')]);
  await expect(writeArchive({ dir, file: path.join(work, 'x.tgz'), top: 't' })).rejects.toThrow(
    'link',
  );
  expect(readdirSync(work)).toEqual(['dir']);
});

async function installed(): Promise<{ home: string; original: string }> {
  const home = tree('home', files);
  const about = { version: '1.2.3', arch: process.arch, content: await contentHash(home) };
  writeFileSync(path.join(home, 'bundle.json'), JSON.stringify(about));
  const { sha256 } = await writeArchive({
    dir: home,
    file: path.join(work, 'o.tgz'),
    top: 'trellis',
  });
  return { home, original: sha256 };
}

test('an installed host serves the bytes that it was installed from', async () => {
  const { home, original } = await installed();
  mkdirSync(path.join(home, 'cache'));
  writeFileSync(path.join(home, 'cache/compiled'), 'x');
  const source = new BundleSource(path.join(work, 'served'), home);
  const [one, two] = await Promise.all([source.bundle(), source.bundle()]);
  expect(one).toBe(two);
  expect(one).toMatchObject({ sha256: original, version: '1.2.3', arch: process.arch });
  const name = `trellis-linux-${process.arch}.tar.gz`;
  expect(await source.file(name)).toBe(one.file);
  const sums = await source.file(`${name}.sha256`);
  expect(readFileSync(sums ?? '', 'utf8')).toBe(`${original}  ${name}\n`);
  expect(await source.file('trellis-linux-sparc.tar.gz')).toBeNull();
});

test('the packed file is kept over a restart, an older one goes', async () => {
  const { home, original } = await installed();
  const cache = path.join(work, 'served');
  mkdirSync(cache);
  writeFileSync(path.join(cache, 'trellis-0.0.1-abc.tar.gz'), 'old');
  await new BundleSource(cache, home).bundle();
  rmSync(path.join(home, 'a'), { recursive: true });
  const again = await new BundleSource(cache, home).bundle();
  expect(again.sha256).toBe(original);
  expect(readdirSync(cache)).toHaveLength(2);
});

test('changed files are not handed on', async () => {
  const { home } = await installed();
  writeFileSync(path.join(home, 'a/one'), 'tampered');
  const source = new BundleSource(path.join(work, 'served'), home);
  await expect(source.bundle()).rejects.toThrow('were changed');
});

test('a host that kept its archive hands on that very file', async () => {
  const { home, original } = await installed();
  renameSync(path.join(work, 'o.tgz'), path.join(home, 'bundle.tar.gz'));
  const cache = path.join(work, 'served');
  for (const _ of ['first start', 'second start']) {
    const { sha256, file } = await new BundleSource(cache, home).bundle();
    expect(sha256).toBe(original);
    expect(realpathSync(file)).toBe(realpathSync(path.join(home, 'bundle.tar.gz')));
  }
});
