/** Rules of the house that no linter knows. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { filesOf, root } from './repository.ts';

const sources = filesOf('{daemon,crdt,plugins,bootstrap,test}/**/*.{ts,mjs}');
const tests = sources.filter((file) => file.startsWith('test/'));
const texts = new Map(sources.map((file) => [file, readFileSync(path.join(root, file), 'utf8')]));

/** 'file:line' of every match outside comments. */
function places(files: readonly string[], pattern: RegExp): string[] {
  return files.flatMap((file) => {
    const lines = (texts.get(file) ?? '').split('\n');
    return lines.flatMap((line, index) => {
      const isComment = /^\s*(\/\/|\*|\/\*)/.test(line);
      return !isComment && pattern.test(line) ? [`${file}:${index + 1}`] : [];
    });
  });
}

/** `await.ts` is the one place that pauses; simulators and load generators schedule, they do not wait for a result. */
const mayPause = (file: string): boolean =>
  file === 'test/await.ts' ||
  file.startsWith('test/unit/house/') ||
  /^test\/(sim|bench|testbed)\//.test(file);

test('no test sleeps: await a condition with `eventually`', () => {
  const files = tests.filter((file) => !mayPause(file));
  expect(places(files, /node:timers\/promises|\bsleep\(|await new Promise.*setTimeout/)).toEqual(
    [],
  );
});

test('no test is switched off or narrowed', () => {
  const files = tests.filter((file) => !file.startsWith('test/unit/house/'));
  expect(places(files, /\b(?:it|test|describe)\.(?:skip|only|todo|fails|skipIf|runIf)\b/)).toEqual(
    [],
  );
});

test('nothing is mocked by the test runner', () => {
  const files = tests.filter((file) => !file.startsWith('test/unit/house/'));
  expect(places(files, /\bvi\.(?:mock|fn|spyOn|useFakeTimers|stub\w+)\(/)).toEqual([]);
});

test('no barrel files: import the file that defines the thing', () => {
  expect(sources.filter((file) => /(^|\/)index\.(ts|mjs)$/.test(file))).toEqual([]);
  expect(places(sources, /^export (?:\*|\{[^}]*\}) from /)).toEqual([]);
});

test('no empty catch', () => {
  const empty = sources.filter((file) =>
    /catch\s*(\([^)]*\))?\s*\{\s*\}/.test(texts.get(file) ?? ''),
  );
  expect(empty.filter((file) => !file.startsWith('test/unit/house/'))).toEqual([]);
});

test('every error code that is used is in the table', async () => {
  const { errorTable } = await import('../../../daemon/errors.ts');
  const used = sources.flatMap((file) =>
    [...(texts.get(file) ?? '').matchAll(/new (?:ClusterError|PluginError)\(\s*'([A-Z_]+)'/g)].map(
      ([, code = '']) => code,
    ),
  );
  expect([...new Set(used)].filter((code) => !Object.hasOwn(errorTable, code))).toEqual([]);
});

test('every error code of the table is used', async () => {
  const { errorTable } = await import('../../../daemon/errors.ts');
  const all = [...texts]
    .filter(([file]) => file !== 'daemon/errors.ts' && !file.startsWith('test/'))
    .map(([, text]) => text);
  const text = all.join('\n');
  expect(Object.keys(errorTable).filter((code) => !text.includes(`'${code}'`))).toEqual([]);
});

describe('files', () => {
  test('are named in kebab-case', () => {
    const names = sources.map((file) => path.basename(file));
    expect(
      names.filter((name) => !/^[a-z0-9]+(-[a-z0-9]+)*(\.[a-z]+)*\.(ts|mjs)$/.test(name)),
    ).toEqual([]);
  });

  test('are at most 600 lines', () => {
    const long = sources.filter((file) => (texts.get(file) ?? '').split('\n').length > 601);
    expect(long.filter((file) => !file.startsWith('test/'))).toEqual([]);
  });

  test('the shell scripts are executable where they are run', () => {
    for (const file of [
      '.ci/run',
      'bootstrap/install.sh',
      'bootstrap/trellis.mjs',
      'bootstrap/sample/make-image.sh',
    ]) {
      expect(existsSync(path.join(root, file)), file).toBe(true);
    }
  });
});
