import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { expect, test } from 'vitest';
import {
  enginePackages,
  missingPackages,
  testPackages,
  withoutCluster,
} from '../../../bootstrap/packages.mjs';

const root = path.resolve(import.meta.dirname, '../../..');

function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  // The inner run must not take the outer one's settings for its own.
  const env = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !name.startsWith('VITEST')),
  );
  return spawnSync(process.execPath, ['bootstrap/run.mjs', ...args], {
    cwd: root,
    encoding: 'utf8',
    env,
  });
}

test('an unknown target is refused and the known ones are named', () => {
  const { status, stderr } = run('tset');
  expect(status).toBe(1);
  expect(stderr).toContain(
    "no target 'tset'; use one of start, test, check, sim, model, e2e, bench, build",
  );
});

test('a run without tests fails and still ends with the count', () => {
  const { status, stdout } = run('test', 'test/unit/no-such-folder');
  expect(status).not.toBe(0);
  expect(stdout.trimEnd().split('\n').at(-1)).toBe('0 passed, 1 failed');
});

test('a run ends with the count', () => {
  const { status, stdout } = run('test', 'test/unit/house/await.test.ts');
  expect(stdout.trimEnd().split('\n').at(-1)).toBe('4 passed, 0 failed');
  expect(status).toBe(0);
});

test('a file that cannot be loaded counts as a failure', () => {
  const dir = mkdtempSync(path.join(root, 'test/unit/bootstrap/tmp-'));
  try {
    writeFileSync(path.join(dir, 'broken.test.ts'), "import './absent.ts';\n");
    const { status, stdout } = run('test', path.relative(root, dir));
    expect(stdout.trimEnd().split('\n').at(-1)).toBe('0 passed, 1 failed');
    expect(status).toBe(1);
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test('packages that are there are not asked for, and every one has a name of its own', () => {
  const list = [
    { name: 'present', has: () => true },
    { name: 'absent', has: () => false },
  ];
  expect(missingPackages(list)).toEqual(['absent']);
  expect(new Set(testPackages.map(({ name }) => name)).size).toBe(testPackages.length);
  expect(enginePackages.map(({ name }) => name)).toEqual(['docker.io', 'iptables']);
});

test('a command in a clone runs under an older Node too', () => {
  const home = mkdtempSync(path.join(os.tmpdir(), 'home-'));
  const { stdout, status } = spawnSync(path.join(root, 'bootstrap', 'trellis.mjs'), ['--version'], {
    cwd: root,
    encoding: 'utf8',
    env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: home },
  });
  rmSync(home, { recursive: true });
  expect({ stdout, status }).toEqual({
    stdout: expect.stringMatching(/^trellis \d+\.\d+\.\d+\n$/),
    status: 0,
  });
});

test('no database of the machine is made by the way, also when the installation fails', () => {
  const dir = mkdtempSync(path.join(os.tmpdir(), 'trellis-packages-'));
  const settings = path.join(dir, 'createcluster.d');
  const seen: string[] = [];
  const install = (): void => {
    for (const file of readdirSync(settings))
      seen.push(readFileSync(path.join(settings, file), 'utf8'));
  };
  try {
    withoutCluster(['curl'], () => expect(existsSync(settings)).toBe(false), settings);
    withoutCluster(['curl', 'postgresql'], install, settings);
    expect(seen).toEqual([expect.stringContaining('create_main_cluster = false')]);
    expect(readdirSync(settings)).toEqual([]);
    const script = `import { withoutCluster } from './bootstrap/packages.mjs';
      withoutCluster(['postgresql'], () => process.exit(3), ${JSON.stringify(settings)});`;
    const failed = spawnSync(process.execPath, ['--input-type=module', '-e', script], {
      cwd: root,
    });
    expect(failed.status).toBe(3);
    expect(readdirSync(settings)).toEqual([]);
  } finally {
    rmSync(dir, { recursive: true });
  }
});
