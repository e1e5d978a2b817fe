/** Runs programs of this machine for the local cluster: bounded output, bounded time, never throws on a bad exit. */
import { spawn } from 'node:child_process';
import { ClusterError } from '../../daemon/errors.ts';

export interface CommandResult {
  /** Exit code; 137 when killed for taking too long, 127 when the program could not be started. */
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export interface CommandOptions {
  readonly input?: string | Uint8Array;
  /** Default 30 000. */
  readonly timeoutMs?: number;
}

/** Kept per stream; what comes beyond it is dropped from the front of nothing: the head is kept. */
const outputBytesMax = 16 << 20;

export function runCommand(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  return new Promise((resolve) => {
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'pipe'] });
    const out = collect(child.stdout);
    const err = collect(child.stderr);
    const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? 30_000);
    const finish = (code: number, note: string) => {
      clearTimeout(timer);
      resolve({ code, stdout: out(), stderr: err() + note });
    };
    child.on('error', (error) => finish(127, error.message));
    child.on('close', (code) => finish(code ?? 137, ''));
    // A program that ends without reading its input breaks the pipe; its exit code says what matters.
    child.stdin.on('error', () => undefined);
    child.stdin.end(options.input ?? '');
  });
}

/** Same, but anything other than exit code 0 is COMMAND_FAILED. Returns what it printed. */
export async function mustRun(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<string> {
  const result = await runCommand(program, args, options);
  if (result.code === 0) return result.stdout;
  const reason = result.stderr.trim() || result.stdout.trim() || `exit code ${result.code}`;
  throw new ClusterError('COMMAND_FAILED', {
    command: [program, ...args].join(' ').slice(0, 300),
    reason,
  });
}

function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  let bytes = 0;
  stream.on('data', (chunk: Buffer) => {
    if (bytes < outputBytesMax) chunks.push(chunk);
    bytes += chunk.length;
  });
  return () => Buffer.concat(chunks).toString('utf8');
}
