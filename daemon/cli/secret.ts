/** Reads a passphrase from a terminal without showing it. */
import { ClusterError } from '../errors.ts';

const secretCharsMax = 1024;

/** Enter ends it, Ctrl-C and Ctrl-D break off, Backspace and Ctrl-U correct. The terminal is always set back. */
export function readSecret(
  question: string,
  input: NodeJS.ReadStream,
  output: NodeJS.WritableStream,
): Promise<string> {
  output.write(question);
  input.setRawMode(true);
  input.setEncoding('utf8');
  input.resume();
  return new Promise<string>((resolve, reject) => {
    let typed = '';
    const finish = (act: () => void) => {
      input.off('data', onData);
      input.setRawMode(false);
      input.pause();
      output.write('\n');
      act();
    };
    const onData = (text: string) => {
      for (const letter of text) {
        const step = editSecret(typed, letter);
        if (step === 'done') return finish(() => resolve(typed));
        if (step === 'break') {
          return finish(() =>
            reject(new ClusterError('USAGE', { reason: 'broken off', command: '' })),
          );
        }
        typed = step.typed;
      }
    };
    input.on('data', onData);
  });
}

/** One key press. */
export function editSecret(typed: string, key: string): 'done' | 'break' | { typed: string } {
  switch (key) {
    case '\r':
    case '\n':
      return 'done';
    case '\u0003':
    case '\u0004':
      return 'break';
    case '\u007f':
    case '\b':
      return { typed: typed.slice(0, -1) };
    case '\u0015':
      return { typed: '' };
    default:
      return { typed: key < ' ' || typed.length >= secretCharsMax ? typed : typed + key };
  }
}
