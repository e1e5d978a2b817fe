/** Whoever starts a guard starts the same one. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { guardMallocSettings, guardNodeFlags } from '../../../daemon/lease/guard-start.ts';

const root = path.join(import.meta.dirname, '../../..');
const textOf = (file: string): string => readFileSync(path.join(root, 'bootstrap', file), 'utf8');

test('this Node knows every flag of a guard', () => {
  const out = execFileSync(process.execPath, [...guardNodeFlags, '-p', '6 * 7']);
  expect(out.toString()).toBe('42\n');
});

test('the command of a bundle and that of a clone use the flags of a guard', () => {
  const bundle = textOf('trellis.sh');
  const start = bundle.slice(bundle.indexOf('guard)'), bundle.indexOf('guard.mjs'));
  expect(start.match(/--[\w-]+(=\d+)?/g)).toEqual([...guardNodeFlags]);
  const clone = textOf('trellis.mjs');
  const [first, ...others] = guardNodeFlags;
  expect(clone).toContain(`'${first}'`);
  expect(clone).toContain(`'${others.join(' ')}'`);
  for (const [name, value] of Object.entries(guardMallocSettings))
    expect(bundle).toContain(`${name}-${value}`);
});
