/** `trellis logs`: bytes as they came; lines of several instances begin with the instance's name. */
import { TextDecoder } from 'node:util';
import type { OutputChunk } from '../../operations/wire.ts';
import { progressHooks, show } from '../run.ts';
import type { Run } from '../spec.ts';

export async function run(run: Run): Promise<number> {
  const { terminal, options, params } = run;
  const isFollowing = params['follow'] === true;
  const entries: LogEntry[] = [];
  const splitter = new LineSplitter();
  const emit = (entry: LogEntry) => {
    if (!options.isJson) terminal.out(showLine(entry, splitter.isMany, terminal.style));
    else if (isFollowing) terminal.out(`${JSON.stringify(entry)}\n`);
    else entries.push(entry);
  };
  await run.client.call('service/logs', params, {
    ...progressHooks(run),
    onData: (data) => splitter.push(data as OutputChunk | Announcement).forEach(emit),
  });
  splitter.flush().forEach(emit);
  if (options.isJson && !isFollowing) await show(run, entries);
  return 0;
}

/** First message of a stream: which instances will speak, so that prefixes are the same from the first line on. */
export interface Announcement {
  readonly instances: readonly string[];
}

export interface LogEntry {
  readonly host: string;
  readonly instance: string;
  readonly stream: 'stdout' | 'stderr';
  readonly line: string;
}

const lineCharsMax = 1 << 20;

/** Chunks to whole lines, per instance and stream. */
export class LineSplitter {
  isMany = false;
  readonly #held = new Map<string, { chunk: OutputChunk; text: string; decoder: TextDecoder }>();

  push(data: OutputChunk | Announcement): LogEntry[] {
    if ('instances' in data) {
      this.isMany = data.instances.length > 1;
      return [];
    }
    const key = `${data.instance} ${data.stream}`;
    const held = this.#held.get(key) ?? { chunk: data, text: '', decoder: new TextDecoder() };
    held.text += held.decoder.decode(Buffer.from(data.bytes, 'base64'), { stream: true });
    const lines = held.text.split('\n');
    held.text = lines.pop() ?? '';
    if (held.text.length > lineCharsMax) {
      lines.push(held.text);
      held.text = '';
    }
    this.#held.set(key, held);
    return lines.map((line) => entryOf(data, line));
  }

  /** What did not end with a line feed. */
  flush(): LogEntry[] {
    const entries: LogEntry[] = [];
    for (const { chunk, text } of this.#held.values()) {
      if (text !== '') entries.push(entryOf(chunk, text));
    }
    this.#held.clear();
    return entries;
  }
}

function entryOf(chunk: OutputChunk, line: string): LogEntry {
  const { host, instance, stream } = chunk;
  return { host, instance, stream, line: line.replace(/\r$/, '') };
}

function showLine(entry: LogEntry, isMany: boolean, style: Run['terminal']['style']): string {
  return `${isMany ? style.dim(`${entry.instance} | `) : ''}${entry.line}\n`;
}
