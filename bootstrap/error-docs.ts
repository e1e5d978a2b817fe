/**
 * `daemon/docs/errors.md` from the error table. A test compares the two; after a change of the table run
 * `node bootstrap/error-docs.ts`.
 */
import { writeFileSync } from 'node:fs';
import { errorTable, retiredCodes, type ErrorKind } from '../daemon/errors.ts';

export const errorDocsFile = new URL('../daemon/docs/errors.md', import.meta.url);

const exits: Readonly<Record<ErrorKind['exit'], string>> = {
  1: 'failed',
  2: 'wrong usage',
  3: 'refused',
  4: 'not found',
  5: 'timed out',
};

export function renderErrorDocs(): string {
  const kinds: readonly (readonly [string, ErrorKind])[] = Object.entries(errorTable);
  const rows = kinds.map(
    ([code, { exit, http, text }]) =>
      `| \`${code}\` | ${exit} ${exits[exit]} | ${http} | ${text.replaceAll('|', '\\|')} |`,
  );
  const retired =
    retiredCodes.length === 0
      ? 'None so far.'
      : retiredCodes.map((code) => `\`${code}\``).join(', ');
  return [
    '# Errors',
    '',
    'Every operating error has a code, which programs may branch on, and a text that says what happened and what to do. The',
    'command prints `error CODE: text` on stderr, or with `--json` `{"error":{"code","message","details"}}`. Names in braces are filled',
    'in from `details`. This page is made from `daemon/errors.ts` by `node bootstrap/error-docs.ts`.',
    '',
    '| code | exit | HTTP | text |',
    '|---|---|---|---|',
    ...rows,
    '',
    '## Retired codes',
    '',
    `Were used by an earlier version and are never used again. ${retired}`,
    '',
  ].join('\n');
}

if (import.meta.main) writeFileSync(errorDocsFile, renderErrorDocs());
