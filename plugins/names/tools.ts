/** Runs the host's network tools: never through a shell, bounded in time and output. */
import { execFile } from 'node:child_process';
import { PluginError } from '../api.ts';

export interface ToolResult {
  readonly stdout: string;
  readonly stderr: string;
  /** Exit code, or null when the tool could not be run to its end. */
  readonly code: number | null;
  readonly isMissing: boolean;
}

const outputBytesMax = 64 << 20;
const toolTimeoutMs = 20_000;

/** Never throws. */
export function runTool(
  tool: string,
  args: readonly string[],
  options: { input?: string; signal?: AbortSignal } = {},
): Promise<ToolResult> {
  return new Promise((resolve) => {
    const limits = {
      maxBuffer: outputBytesMax,
      timeout: toolTimeoutMs,
      killSignal: 'SIGKILL' as const,
    };
    const child = execFile(
      tool,
      args,
      { ...limits, ...(options.signal && { signal: options.signal }) },
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : null;
        const isMissing = error !== null && (error.code as unknown) === 'ENOENT';
        resolve({
          stdout,
          stderr: stderr || (code === null && error ? error.message : ''),
          code,
          isMissing,
        });
      },
    );
    // A tool that ends without reading breaks the pipe; its exit code says what matters.
    child.stdin?.on('error', () => undefined);
    child.stdin?.end(options.input ?? '');
  });
}

/** Which Debian package has the tool, for TOOL_MISSING. */
const packages: Readonly<Record<string, string>> = {
  ip: 'iproute2',
  bridge: 'iproute2',
  conntrack: 'conntrack',
};

/** Like runTool, but anything except exit code 0 throws a PluginError. */
export async function mustRunTool(
  tool: string,
  args: readonly string[],
  options: { input?: string; signal?: AbortSignal } = {},
): Promise<string> {
  const result = await runTool(tool, args, options);
  if (result.code === 0) return result.stdout;
  if (result.isMissing) {
    const how = `apt-get install ${packages[tool] ?? 'iptables'}`;
    throw new PluginError(
      'TOOL_MISSING',
      { tool, how },
      `${tool} is missing on this host; install it: ${how}`,
    );
  }
  const reason = result.stderr.trim().slice(0, 1000) || `exit code ${result.code}`;
  throw new PluginError('COMMAND_FAILED', { command: tool, reason }, `${tool} failed: ${reason}`);
}
