/** A terminal that remembers what was written, for tests of the client. */
import { makeStyle } from '../../../daemon/cli/terminal.ts';
import type { Terminal } from '../../../daemon/cli/terminal.ts';

export interface FakeTerminal extends Terminal {
  readonly stdout: () => string;
  readonly stderr: () => string;
}

export function fakeTerminal(options: {
  env?: Record<string, string>;
  input?: string;
  /** Given: standard input is a terminal on which these are typed in turn. */
  answers?: string[];
}): FakeTerminal {
  const written = { stdout: '', stderr: '' };
  const answers = [...(options.answers ?? [])];
  const next = (question: string) => {
    written.stderr += question;
    return Promise.resolve(answers.shift() ?? '');
  };
  return {
    env: options.env ?? {},
    isOutTty: false,
    isInTty: options.answers !== undefined,
    columns: 80,
    style: makeStyle(false),
    out: (text) => void (written.stdout += text),
    write: (stream, bytes) => {
      written[stream] += Buffer.from(bytes).toString('utf8');
      return Promise.resolve();
    },
    note: (text) => void (written.stderr += `${text}\n`),
    ask: next,
    askSecret: next,
    readInput: () => Promise.resolve(options.input ?? ''),
    stdout: () => written.stdout,
    stderr: () => written.stderr,
  };
}
