/** Documents are run, not trusted: what they name exists, and what is generated is current. */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { errorDocsFile, renderErrorDocs } from '../../../bootstrap/error-docs.ts';
import { commands } from '../../../daemon/cli/table.ts';
import packageJson from '../../../package.json' with { type: 'json' };
import { filesOf, root } from './repository.ts';

const documents = filesOf('**/*.md');

function read(file: string): string {
  return readFileSync(path.join(root, file), 'utf8');
}

describe.each(documents)('%s', (file) => {
  const text = read(file);

  test('links lead somewhere', () => {
    const targets = [...text.matchAll(/\]\(([^)#]+)(?:#[^)]*)?\)/g)].map(
      ([, target = '']) => target,
    );
    const local = targets.filter((target) => !/^[a-z]+:/.test(target));
    const broken = local.filter(
      (target) => !existsSync(path.join(root, path.dirname(file), target)),
    );
    expect(broken).toEqual([]);
  });

  test('npm scripts that it names exist', () => {
    const named = [...text.matchAll(/\bnpm run ([a-z0-9]+)/g)].map(([, name = '']) => name);
    const bare = [...text.matchAll(/\bnpm (start|test)\b/g)].map(([, name = '']) => name);
    expect([...named, ...bare].filter((name) => !Object.hasOwn(packageJson.scripts, name))).toEqual(
      [],
    );
  });

  test('commands and flags of its examples exist', () => {
    const examples = [...text.matchAll(/```sh\n([\s\S]*?)```/g)]
      .map(([, block = '']) => block)
      .join('\n');
    const lines = [...examples.matchAll(/^(?:npx |docker exec trellis )?trellis ([a-z][^#\n]*)/gm)];
    const wrong = lines.filter(([, rest = '']) => {
      const words = (rest.split(' -- ')[0] ?? '').trim().split(/\s+/);
      const command = commandOf(words);
      const known = new Set([
        ...flagsEverywhere,
        ...(command?.flags ?? []).map(({ name }) => name),
      ]);
      const flags = words.filter((word) => word.startsWith('--')).map((word) => word.slice(2));
      return command === undefined || flags.some((flag) => !known.has(flag));
    });
    expect(wrong.map(([line]) => line)).toEqual([]);
  });

  test('files that its examples use exist', () => {
    const used = [
      ...text.matchAll(
        /\b(?:bootstrap|daemon|crdt|plugins|test)\/[\w./-]+\.(?:ts|mjs|sh|yaml|md|template)\b/g,
      ),
    ];
    expect(used.map(([name]) => name).filter((name) => !existsSync(path.join(root, name)))).toEqual(
      [],
    );
  });
});

/** The command with the most words that the line begins with. */
function commandOf(words: readonly string[]): (typeof commands)[number] | undefined {
  const fitting = commands.filter((command) =>
    command.words.every((word, place) => words[place] === word),
  );
  return fitting.sort((a, b) => b.words.length - a.words.length)[0];
}

const flagsEverywhere = ['json', 'yes', 'env', 'socket', 'help'];

test.each(['daemon', 'crdt', 'plugins', 'bootstrap', 'test'])(
  '%s/README.md is at most 60 lines',
  (dir) => {
    expect(read(`${dir}/README.md`).split('\n').length).toBeLessThanOrEqual(61);
  },
);

test('errors.md is the error table; if not: node bootstrap/error-docs.ts', () => {
  expect(readFileSync(errorDocsFile, 'utf8')).toBe(renderErrorDocs());
});

test('every dependency has a line in ADR 1, and no line is left over', () => {
  const text = read('daemon/docs/adr/0001-dependencies.md');
  const rows = [...text.matchAll(/^\| `([^`]+)` \|/gm)].map(([, name = '']) => name).sort();
  const declared = Object.keys({
    ...packageJson.dependencies,
    ...packageJson.optionalDependencies,
  }).sort();
  expect(rows).toEqual(declared);
  const development = Object.keys(packageJson.devDependencies).filter(
    (name) => !text.includes(`\`${name}\``),
  );
  expect(development).toEqual([]);
});

test('ADRs are numbered without gaps or twins and say their status', () => {
  const names = filesOf('daemon/docs/adr/*.md').map((file) => path.basename(file));
  expect(names.map((name) => Number(name.slice(0, 4)))).toEqual(names.map((_, place) => place));
  for (const name of names) {
    const text = read(`daemon/docs/adr/${name}`);
    expect(text, name).toMatch(/^# ADR /);
    expect(text, name).toMatch(/^Status: /m);
  }
});
