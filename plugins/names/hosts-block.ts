/**
 * Service names in /etc/hosts: one marked block per daemon, every other line untouched byte for byte. Pure.
 *
 * When the file does not end with a line break, the block has to bring one; its first line says so, and taking the
 * block out takes the break out too.
 */
import type { HostId } from '../../crdt/ids.ts';
import type { DesiredView } from '../api.ts';

/** More names are left out: a longer file would slow every lookup on the host. */
export const namesMax = 5_000;

/** The block with its markers and line breaks; '' when there are no names. */
export function renderHostsBlock(
  view: Pick<DesiredView, 'hostId' | 'virtualAddress' | 'routes'>,
): string {
  const names = [...new Set(view.routes.map((route) => route.name))]
    .filter(isHostName)
    .toSorted()
    .slice(0, namesMax);
  if (names.length === 0) return '';
  const lines = names.map((name) => `${view.virtualAddress} ${name}`);
  return [beginOf(view.hostId), ...lines, endOf(view.hostId), ''].join('\n');
}

/** `text` with the host's block replaced, added (at the end) or, for '', removed. */
export function replaceHostsBlock(text: string, hostId: HostId, block: string): string {
  const found = findBlock(text, hostId);
  if (found === null) {
    if (block === '') return text;
    const needsBreak = text !== '' && !text.endsWith('\n');
    return needsBreak ? `${text}\n${marked(block, hostId)}` : text + block;
  }
  const { before, after, hasBreak } = found;
  if (block === '') return (hasBreak && after === '' ? before.slice(0, -1) : before) + after;
  return before + (hasBreak ? marked(block, hostId) : block) + after;
}

export function isHostName(name: string): boolean {
  return (
    name.length <= 253 &&
    /^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+$/.test(name)
  );
}

function findBlock(
  text: string,
  hostId: HostId,
): { before: string; after: string; hasBreak: boolean } | null {
  const begin = beginOf(hostId);
  const start = text === '' ? -1 : `\n${text}`.indexOf(`\n${begin}`);
  if (start < 0) return null;
  const firstLine = text.slice(start, lineEnd(text, start)).trimEnd();
  const hasBreak = firstLine === begin + breakMark;
  let end = lineEnd(text, start);
  // Only lines that we could have written belong to the block: a lost end marker must not swallow others' lines.
  while (end < text.length) {
    const next = lineEnd(text, end);
    const line = text.slice(end, next).trimEnd();
    if (line === endOf(hostId))
      return { before: text.slice(0, start), after: text.slice(next), hasBreak };
    if (!isOurLine(line)) break;
    end = next;
  }
  return { before: text.slice(0, start), after: text.slice(end), hasBreak };
}

const breakMark = ' (with the line break before)';

function marked(block: string, hostId: HostId): string {
  return block.replace(beginOf(hostId), beginOf(hostId) + breakMark);
}

function isOurLine(line: string): boolean {
  const [address = '', name = '', ...rest] = line.split(' ');
  return rest.length === 0 && address.startsWith('169.254.') && name.endsWith('.internal');
}

/** Index after the line that begins at `start`, with its break. */
function lineEnd(text: string, start: number): number {
  const at = text.indexOf('\n', start);
  return at < 0 ? text.length : at + 1;
}

function beginOf(hostId: HostId): string {
  return `# begin trellis ${hostId.slice(0, 8)}: written by the daemon, do not edit`;
}

function endOf(hostId: HostId): string {
  return `# end trellis ${hostId.slice(0, 8)}`;
}
