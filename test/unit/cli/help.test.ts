import { expect, test } from 'vitest';
import { completionScript, whatNext } from '../../../daemon/cli/complete.ts';
import { commandHelp, overview, usage } from '../../../daemon/cli/help.ts';
import { parseArgs } from '../../../daemon/cli/args.ts';
import { globalFlags } from '../../../daemon/cli/spec.ts';
import { commands } from '../../../daemon/cli/table.ts';
import { isColoured, makeStyle } from '../../../daemon/cli/terminal.ts';
import { editSecret } from '../../../daemon/cli/secret.ts';
import { views } from '../../../daemon/cli/views.ts';

const plain = makeStyle(false);

test('every command has help, a summary and examples that its own parser takes', () => {
  const list = overview(commands, plain);
  for (const command of commands) {
    const name = command.words.join(' ');
    expect(list, name).toContain(usage(command));
    expect(command.summary.length, name).toBeGreaterThan(10);
    expect(command.examples.length, name).toBeGreaterThan(0);
    const help = commandHelp(commands, command, plain);
    for (const flag of command.flags ?? []) expect(help, name).toContain(`--${flag.name}`);
    for (const example of command.examples) {
      expect(help, name).toContain(example);
      const line = /trellis (.*?)(?: >.*|\))?$/.exec(example)?.[1] ?? '';
      expect(parseArgs(commands, line.split(' ')).command.words, example).toEqual(command.words);
    }
  }
});

test('names are unique, flags too, and every view exists', () => {
  const names = commands.map((command) => command.words.join(' '));
  expect(new Set(names).size).toBe(names.length);
  for (const command of commands) {
    const flags = [...(command.flags ?? []), ...globalFlags];
    const shorts = flags.flatMap((flag) => flag.short ?? []);
    expect(new Set(shorts).size, command.words.join(' ')).toBe(shorts.length);
    expect(new Set(flags.map((flag) => flag.name)).size).toBe(flags.length);
    if (command.view !== undefined) expect(Object.keys(views)).toContain(command.view);
    expect(command.handler !== undefined || command.call !== undefined).toBe(true);
    if (command.handler === undefined) expect(command.view).toBeDefined();
  }
});

test.each([
  [[''], 'status', null],
  [['st'], 'status', null],
  [['host', ''], 'drain', null],
  [['invite', ''], 'revoke', null],
  [['apply', '--'], '--dry-run', null],
  [['host', 'drain', ''], null, 'host'],
  [['ps', ''], null, 'service'],
  [['role', 'add', 'web', ''], null, 'role'],
  [['role', 'add', '--host', ''], null, 'host'],
  [['role', 'add', '--host', '=', 'h'], null, 'host'],
  [['role', 'add', '--host=h'], null, 'host'],
  [['apply', '-f', ''], null, 'file'],
  [['exec', 'site', '--', ''], null, 'file'],
  [['--json', 'host', 'show', ''], null, 'host'],
])('completion of %j', (words, fixed, completer) => {
  const wanted = whatNext(commands, words);
  expect(wanted.completer).toEqual(completer);
  if (fixed !== null) expect(wanted.fixed.map(({ word }) => word)).toContain(fixed);
});

test('completion exists for bash, zsh and fish and for nothing else', () => {
  for (const shell of ['bash', 'zsh', 'fish']) {
    expect(completionScript(shell)).toContain('trellis __complete');
  }
  expect(completionScript('constructor')).toBe(null);
});

test('colour is for terminals, and NO_COLOR is heard', () => {
  expect(isColoured({}, true)).toBe(true);
  expect(isColoured({}, false)).toBe(false);
  expect(isColoured({ NO_COLOR: '1' }, true)).toBe(false);
  expect(makeStyle(true).bad('x')).toBe('\u001b[31mx\u001b[0m');
});

test('a passphrase can be corrected while it is typed', () => {
  const type = (keys: string) => {
    let typed = '';
    for (const key of keys) {
      const step = editSecret(typed, key);
      if (typeof step === 'string') return `${typed} ${step}`;
      typed = step.typed;
    }
    return typed;
  };
  expect(type('abc\u007fd\r')).toBe('abd done');
  expect(type('abc\u0015x\u001b\r')).toBe('x done');
  expect(type('abc\u0003')).toBe('abc break');
});
