import fc from 'fast-check';
import { expect, test } from 'vitest';
import { camelCase, parseArgs } from '../../daemon/cli/args.ts';
import { whatNext } from '../../daemon/cli/complete.ts';
import { globalFlags } from '../../daemon/cli/spec.ts';
import { editDistance, suggest } from '../../daemon/cli/suggest.ts';
import { commands } from '../../daemon/cli/table.ts';
import { ClusterError } from '../../daemon/errors.ts';

const known = [
  ...commands.flatMap((command) => command.words),
  ...[...globalFlags, ...commands.flatMap((command) => command.flags ?? [])].flatMap((flag) => [
    `--${flag.name}`,
    `--${flag.name}=1`,
    ...(flag.short === undefined ? [] : [`-${flag.short}`, `-${flag.short}1`]),
  ]),
  '--',
  '-',
  '=',
];
const words = fc.array(fc.oneof(fc.constantFrom(...known), fc.string({ maxLength: 12 })), {
  maxLength: 8,
});

test('any command line is taken or refused with USAGE, and can be completed', () => {
  fc.assert(
    fc.property(words, (argv) => {
      try {
        parseArgs(commands, argv);
      } catch (error) {
        expect(error).toBeInstanceOf(ClusterError);
        expect((error as ClusterError).code).toBe('USAGE');
      }
      expect(whatNext(commands, argv)).toHaveProperty('typed');
    }),
    { numRuns: 2_000 },
  );
});

test('texts come out as they went in, whatever they hold', () => {
  const withText = commands.flatMap((command) =>
    (command.flags ?? [])
      .filter((flag) => flag.kind === 'string')
      .map((flag) => ({ command, flag })),
  );
  fc.assert(
    fc.property(fc.constantFrom(...withText), fc.string(), ({ command, flag }, text) => {
      const argv = [...command.words, `--${flag.name}=${text}`, '--', ...positionals(command)];
      const { params } = parseArgs(commands, argv);
      expect(params[flag.param ?? camelCase(flag.name)]).toBe(text);
    }),
  );
});

function positionals(command: (typeof commands)[number]): string[] {
  return (command.positionals ?? []).map(({ name }) => name);
}

test('the distance of words is a metric, and a suggestion is one of the choices', () => {
  const word = fc.string({ maxLength: 8 });
  fc.assert(
    fc.property(word, word, fc.array(word), (a, b, choices) => {
      expect(editDistance(a, b)).toBe(editDistance(b, a));
      expect(editDistance(a, b) === 0).toBe(a === b);
      const near = suggest(a, choices);
      if (near !== null) expect(choices).toContain(near);
    }),
  );
});
