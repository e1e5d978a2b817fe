/** `trellis --version`. */
import packageJson from '../../package.json' with { type: 'json' };
import type { Terminal } from './terminal.ts';

export function showVersion(terminal: Terminal, isJson: boolean): number {
  const { version } = packageJson;
  terminal.out(isJson ? `${JSON.stringify({ version })}\n` : `trellis ${version}\n`);
  return 0;
}
