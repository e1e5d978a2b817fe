/** What commands do with the person in front of them. Tests give their own. */
import { ClusterError } from '../errors.ts';

export interface Terminal {
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly isOutTty: boolean;
  readonly isInTty: boolean;
  readonly columns: number;
  readonly style: Style;
  /** stdout: answers only. Text is written as it is. */
  out(text: string): void;
  /** Raw bytes to one of the two streams (logs, exec). Resolves when there is room for more. */
  write(stream: 'stdout' | 'stderr', bytes: Uint8Array): Promise<void>;
  /** stderr: one line, for progress and remarks. */
  note(text: string): void;
  /** The answer to a question asked on stderr. Only when `isInTty`. */
  ask(question: string): Promise<string>;
  /** The same without echo. */
  askSecret(question: string): Promise<string>;
  /** All of stdin, at most 1 MiB. */
  readInput(): Promise<string>;
}

/** Colour only for a person: a terminal, and no NO_COLOR. */
export interface Style {
  good(text: string): string;
  warn(text: string): string;
  bad(text: string): string;
  dim(text: string): string;
  bold(text: string): string;
}

export function makeStyle(isColoured: boolean): Style {
  const paint = (code: number) => (text: string) =>
    isColoured && text !== '' ? `\u001b[${code}m${text}\u001b[0m` : text;
  return { good: paint(32), warn: paint(33), bad: paint(31), dim: paint(2), bold: paint(1) };
}

export function isColoured(
  env: Readonly<Record<string, string | undefined>>,
  isTty: boolean,
): boolean {
  if ((env['NO_COLOR'] ?? '') !== '' || env['TERM'] === 'dumb') return false;
  return isTty;
}

const inputBytesMax = 1 << 20;

/** The real one. A reader that goes away (`| head`) ends the program quietly. */
export function processTerminal(): Terminal {
  const { env, stdin, stdout, stderr } = process;
  stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(0);
    throw error;
  });
  return {
    env,
    isOutTty: stdout.isTTY,
    isInTty: stdin.isTTY,
    columns: stdout.columns ?? 80,
    style: makeStyle(isColoured(env, stdout.isTTY)),
    out: (text) => void stdout.write(text),
    write: (stream, bytes) => writeAll(stream === 'stdout' ? stdout : stderr, bytes),
    note: (text) => void stderr.write(`${text}\n`),
    ask: async (question) => {
      const { createInterface } = await import('node:readline/promises');
      const lines = createInterface({ input: stdin, output: stderr });
      try {
        return await lines.question(question);
      } finally {
        lines.close();
      }
    },
    askSecret: async (question) => {
      const { readSecret } = await import('./secret.ts');
      return readSecret(question, stdin, stderr);
    },
    readInput: () => readAll(stdin),
  };
}

function writeAll(stream: NodeJS.WriteStream, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    if (stream.write(bytes)) resolve();
    else stream.once('drain', resolve);
  });
}

async function readAll(stdin: NodeJS.ReadStream): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of stdin) {
    const piece = chunk as Buffer;
    bytes += piece.length;
    if (bytes > inputBytesMax) {
      throw new ClusterError('INVALID', { reason: 'standard input is over 1 MiB' });
    }
    chunks.push(piece);
  }
  return Buffer.concat(chunks).toString('utf8');
}
