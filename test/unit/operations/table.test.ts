import { expect, test } from 'vitest';
import { camelCase } from '../../../daemon/cli/args.ts';
import { commands } from '../../../daemon/cli/table.ts';
import { allOperations } from '../../../daemon/operations/all-operations.ts';
import type { OperationsDeps } from '../../../daemon/operations/all-operations.ts';

const operations = allOperations({ clock: { monotonicMs: () => 0 } } as unknown as OperationsDeps);
const names = operations.map(({ group, command }) => `${group}/${command}`);

/** Asked only by other hosts, or by a handler that does more than ask. */
const internal = new Set(['instance/logs', 'instance/exec', 'lock/prepare']);
/** Flags that the client itself uses up before it calls. */
const clientFlags = new Set([
  'passphrase-file',
  'code-file',
  'ca-file',
  'file',
  'tty',
  'no-tty',
  'interactive',
]);

test('every command leads to an operation, and every operation has a command', () => {
  expect(new Set(names).size).toBe(names.length);
  const called = new Set(commands.flatMap((command) => command.call ?? []));
  expect([...called].filter((call) => !names.includes(call))).toEqual([]);
  expect(names.filter((name) => !called.has(name) && !internal.has(name))).toEqual([]);
});

test('every flag and positional of a command is a parameter of its operation', () => {
  for (const command of commands) {
    const operation = operations.find(
      ({ group, command: name }) => `${group}/${name}` === command.call,
    );
    if (operation === undefined) continue;
    const shape = Object.keys((operation.params as unknown as { shape: object }).shape);
    const flags = (command.flags ?? []).filter((flag) => !clientFlags.has(flag.name));
    const given = [
      'env',
      ...flags.map((flag) => flag.param ?? camelCase(flag.name)),
      ...(command.positionals ?? []).map((positional) => positional.param),
    ];
    for (const param of given) expect(shape, command.words.join(' ')).toContain(param);
    const summary = command.summary.length;
    expect(summary, command.words.join(' ')).toBeLessThan(80);
  }
});
