/**
 * `trellis exec` and `trellis shell`: bytes both ways, the command's own exit code.
 *
 * With a terminal it is put into raw mode, so that every key reaches the command, and set back whatever happens.
 */
import type { OutputChunk, ServerLine } from '../../operations/wire.ts';
import { ClusterError } from '../../errors.ts';
import type { TwoWay } from '../client.ts';
import type { Run } from '../spec.ts';

const shellCommand = ['/bin/sh', '-c', 'command -v bash >/dev/null && exec bash; exec sh'];

export async function run(run: Run): Promise<number> {
  const { tty, noTty, interactive: _, cmd, ...rest } = run.params;
  const isShell = run.command.words[0] === 'shell';
  const canTty = run.terminal.isInTty && run.terminal.isOutTty && !run.options.isJson;
  const isTty = noTty !== true && (tty === true || canTty);
  if (isShell && !run.terminal.isInTty && tty !== true) {
    run.terminal.note('note: standard input is no terminal; the shell reads commands from it');
  }
  const link = await run.client.open('service/exec', {
    ...rest,
    cmd: isShell ? shellCommand : cmd,
    isTty,
    ...(isTty ? terminalSize() : {}),
  });
  const restore = attachInput(link, isTty && process.stdin.isTTY);
  try {
    return await passOutput(run, link);
  } finally {
    restore();
    link.close();
  }
}

/** Ends with the exit code of the command. */
async function passOutput(run: Run, link: TwoWay): Promise<number> {
  const kept = { stdout: '', stderr: '' };
  for await (const line of link.lines) {
    if (line.type === 'progress') run.terminal.note(run.terminal.style.dim(line.text));
    if (line.type === 'data') await passChunk(run, line.data as OutputChunk, kept);
    if (line.type === 'result') return finish(run, line, kept);
  }
  throw new ClusterError('INTERNAL', { reason: 'the command ended without an exit code' });
}

const jsonOutputCharsMax = 16 << 20;

async function passChunk(
  run: Run,
  chunk: OutputChunk,
  kept: { stdout: string; stderr: string },
): Promise<void> {
  const bytes = Buffer.from(chunk.bytes, 'base64');
  if (!run.options.isJson) return run.terminal.write(chunk.stream, bytes);
  if (kept[chunk.stream].length < jsonOutputCharsMax) kept[chunk.stream] += bytes.toString('utf8');
}

function finish(
  run: Run,
  line: ServerLine & { type: 'result' },
  kept: { stdout: string; stderr: string },
): number {
  const { exitCode, host, instance } = line.data as {
    exitCode: number;
    host: string;
    instance: string;
  };
  if (run.options.isJson) {
    run.terminal.out(`${JSON.stringify({ host, instance, exitCode, ...kept })}\n`);
  }
  return exitCode;
}

function terminalSize(): { columns: number; rows: number } {
  return { columns: process.stdout.columns ?? 80, rows: process.stdout.rows ?? 24 };
}

/** Returns what sets everything back. */
function attachInput(link: TwoWay, isRaw: boolean): () => void {
  const { stdin, stdout } = process;
  const onData = (bytes: Buffer) => {
    if (link.send({ type: 'input', bytes: bytes.toString('base64') })) return;
    stdin.pause();
    void link.drained().then(() => stdin.resume());
  };
  const onEnd = () => void link.send({ type: 'end' });
  const onResize = () => void link.send({ type: 'resize', ...terminalSize() });
  if (isRaw) {
    stdin.setRawMode(true);
    stdout.on('resize', onResize);
  }
  stdin.on('data', onData);
  stdin.on('end', onEnd);
  return () => {
    stdin.off('data', onData);
    stdin.off('end', onEnd);
    stdout.off('resize', onResize);
    if (isRaw) stdin.setRawMode(false);
    stdin.pause();
    // An open pipe on stdin would keep the process alive after the command has ended.
    stdin.unref?.();
  };
}
