import { describe, expect, test } from 'vitest';
import { parseArgs, parseDurationMs } from '../../../daemon/cli/args.ts';
import { editDistance, suggest } from '../../../daemon/cli/suggest.ts';
import { socketPath } from '../../../daemon/cli/socket.ts';
import { commands, laterCommands, refuseLater } from '../../../daemon/cli/table.ts';
import { ClusterError } from '../../../daemon/errors.ts';

const parse = (line: string) => parseArgs(commands, line.split(' '));

function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof ClusterError) return `${error.code} ${error.message}`;
    throw error;
  }
  return 'accepted';
}

describe('command lines', () => {
  test('flags stand before and after positionals, long, short and with =', () => {
    const { command, params, globals } = parse('--json role add web db --host h1 --host=h2 --wait');
    expect(command.words).toEqual(['role', 'add']);
    expect(params).toEqual({ roles: ['web', 'db'], hosts: ['h1', 'h2'], wait: true });
    expect(globals.isJson).toBe(true);
    expect(parse('apply -f x.yaml --dry-run').params).toEqual({ file: 'x.yaml', dryRun: true });
    expect(parse('logs site -fn20').command.words).toEqual(['logs']);
  });

  test('the longest command name wins', () => {
    expect(parse('plan').command.words).toEqual(['plan']);
    expect(parse('plan apply abc').params).toEqual({ id: 'abc' });
    expect(parse('invite --role web').command.words).toEqual(['invite']);
    expect(parse('invite ls').command.words).toEqual(['invite', 'ls']);
  });

  test('what follows the fixed words of exec is left as it stands', () => {
    expect(parse('exec site --host h2 -- ls -l --json').params).toEqual({
      service: 'site',
      host: 'h2',
      cmd: ['ls', '-l', '--json'],
    });
    expect(parse('exec site ls -l').params).toEqual({ service: 'site', cmd: ['ls', '-l'] });
    expect(refusal(() => parse('exec site'))).toContain('CMD is missing');
  });

  test('the list between two fixed positionals is bounded by them', () => {
    expect(parse('host set h2 dc=east rack=').params).toEqual({
      host: 'h2',
      pairs: ['dc=east', 'rack='],
    });
  });

  test.each([
    [
      'hst ls',
      'USAGE unknown command `trellis hst`, did you mean `trellis host`?; see `trellis help`',
    ],
    ['host', 'a subcommand of `trellis host` is missing'],
    ['host lss', 'did you mean `trellis host ls`?'],
    ['plan aply x', 'did you mean `trellis plan apply`?'],
    ['status --al', 'did you mean --all?'],
    ['status extra', 'does not take "extra"'],
    ['host show h1 h2', 'does not take "h2"'],
    ['apply --file', '--file needs a value (FILE)'],
    ['apply -f a -f b', '--file is given twice'],
    ['logs site --tail x', 'a whole number is expected'],
    ['apply -f a --timeout soon', 'a duration such as'],
    ['init --meta east', 'NAME=VALUE is expected'],
    ['status --all=3', '--all takes no value'],
    ['-x status', 'unknown flag -x'],
  ])('%s is refused with words that help', (line, words) => {
    expect(refusal(() => parse(line))).toContain(words);
  });

  test('durations', () => {
    expect(['90', '500ms', '1.5s', '5m', '1h', '2d'].map(parseDurationMs)).toEqual([
      90_000, 500, 1_500, 300_000, 3_600_000, 172_800_000,
    ]);
    expect(['', 's', '-1', '1w', '1 h'].map(parseDurationMs)).toEqual([
      null,
      null,
      null,
      null,
      null,
    ]);
  });

  test('every command of a later release is refused by name', () => {
    for (const name of laterCommands) {
      expect(refusal(() => refuseLater([...name.split(' '), '--json']))).toContain(
        'not supported yet',
      );
    }
    for (const command of commands) {
      expect(refusal(() => refuseLater(command.words))).toBe('accepted');
    }
  });
});

test('suggestions are for slips of the finger only', () => {
  expect(editDistance('hots', 'host')).toBe(1);
  expect(suggest('stauts', ['status', 'start'])).toBe('status');
  expect(suggest('xyzzy', ['status', 'start'])).toBe(null);
});

test('the socket is found as the daemon makes it', () => {
  const user = { isRoot: false, home: '/home/ada' };
  expect(socketPath({ TRELLIS_SOCKET: '/a/s', TRELLIS_RUN: '/b' }, user)).toBe('/a/s');
  expect(socketPath({ TRELLIS_RUN: '/b' }, user)).toBe('/b/trellis.sock');
  expect(socketPath({ XDG_RUNTIME_DIR: '/run/user/7' }, user)).toBe(
    '/run/user/7/trellis/trellis.sock',
  );
  expect(socketPath({ TRELLIS_STATE: '/s' }, user)).toBe('/s/run/trellis.sock');
  expect(socketPath({}, user)).toBe('/home/ada/.local/state/trellis/run/trellis.sock');
  expect(socketPath({}, { isRoot: true, home: '/root' })).toBe('/run/trellis/trellis.sock');
});
