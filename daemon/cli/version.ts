/** `trellis --version`. */
import { version } from '../version.ts';
import type { Terminal } from './terminal.ts';

export function showVersion(terminal: Terminal, isJson: boolean): number {
  terminal.out(isJson ? `${JSON.stringify({ version })}\n` : `trellis ${version}\n`);
  return 0;
}
