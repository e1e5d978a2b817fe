/**
 * One copy of a storage from the active host to this one, by rsync on both ends with our own stream between them. rsync
 * starts a "remote shell" to reach the other side; ours is a few lines that connect its pipes with this process.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import type { Duplex } from 'node:stream';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { limited } from './limited.ts';
import type { StorageStream } from './ports.ts';
import {
  bytesPart,
  jsonPart,
  readAnswer,
  readEnd,
  readPart,
  senderArgs,
  senderOptions,
  type CopyEnd,
  type CopyRequest,
} from './wire.ts';

/** File descriptors of the relay: what comes from the other side, and what goes there. */
const relayIn = 3;
const relayOut = 4;
const relayText = `#!/bin/sh
for one do printf '%s\\n' "$one"; done >&${relayOut}
printf '\\n' >&${relayOut}
exec 5<&0
cat <&5 >&${relayOut} ${relayIn}<&- &
exec cat <&${relayIn} 5<&- ${relayOut}>&-
`;
/**
 * Of every rsync that makes a copy. Stamps are compared to the nanosecond: by default it takes two files of one size that
 * were changed within the same second for one.
 */
export const localOptions: readonly string[] = [
  '-aHAX',
  '--delete',
  '--modify-window=-1',
  '--numeric-ids',
];
const argsBytesMax = 8 << 10;
const errorCharsMax = 2_000;

export class CopyError extends Error {
  readonly code: string;

  constructor(code: string, why: string) {
    super(why);
    this.name = 'CopyError';
    this.code = code;
  }
}

export async function writeRelay(dir: string): Promise<string> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  const path = join(dir, 'relay.sh');
  await writeFile(path, relayText, { mode: 0o700 });
  return path;
}

/** Makes `to` what the other side has. Rejects CopyError; what has arrived is kept for the next try. */
export async function pull(options: {
  readonly relay: string;
  readonly to: string;
  /** Directory whose unchanged files are linked instead of fetched. */
  readonly basis: string | null;
  readonly open: () => Promise<StorageStream>;
  readonly request: Omit<CopyRequest, 'v' | 'args'>;
  /** The other side begins: what it had changed before that time of its own clock is at rest. */
  readonly onBegin: (wallMs: number) => void;
  readonly signal: AbortSignal;
}): Promise<CopyEnd> {
  const { relay, to, basis, signal } = options;
  const linked = basis === null || basis === to ? [] : [`--link-dest=${basis}`];
  // The relay is a shell, which does not know of pipes that are full for the moment.
  const fixed = [...localOptions, ...senderOptions, '--blocking-io'];
  const child = spawn('rsync', [...fixed, ...linked, '-e', relay, 'active:/', `${to}/`], {
    stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'],
    signal,
    env: { PATH: process.env['PATH'] ?? '', LC_ALL: 'C' },
  });
  const ended = exitOf(child);
  const errors = textOf(child.stderr);
  try {
    return await talk(child, ended, options);
  } catch (error) {
    child.kill('SIGKILL');
    const said = errors();
    throw error instanceof CopyError || said === ''
      ? error
      : new CopyError('STORAGE_COPY_FAILED', said);
  } finally {
    await ended;
    // The relay's programs end with their pipes.
    for (const pipe of [child.stdio[relayIn], child.stdio[relayOut]]) (pipe as Duplex).destroy();
  }
}

async function talk(
  child: ChildProcess,
  ended: Promise<number>,
  options: Parameters<typeof pull>[0],
): Promise<CopyEnd> {
  const [incoming, outgoing] = [child.stdio[relayIn], child.stdio[relayOut]] as [Duplex, Duplex];
  const chunks = outgoing[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  const { args, rest } = await readArgs(chunks);
  const stream = limited(await options.open());
  // Whatever ends the local end of it, the other side is not waited for.
  void ended.then((exit) => {
    if (exit !== 0) stream.abort(`rsync ended with ${exit}`);
  });
  try {
    await stream.send(jsonPart({ v: 1, ...options.request, args }));
    if (rest.length > 0) await stream.send(bytesPart(rest));
    const sent = sendAll(chunks, stream);
    // A broken stream is reported by who reads it.
    sent.catch(() => undefined);
    const end = await receive(stream, incoming, options.onBegin);
    incoming.end();
    const exit = await ended;
    if (exit !== 0) throw new CopyError('STORAGE_COPY_FAILED', `rsync ended with ${exit}`);
    return end;
  } finally {
    stream.abort('the copy has ended');
  }
}

/** The other side's end; until then everything goes to the local rsync. */
async function receive(
  stream: StorageStream,
  incoming: Duplex,
  onBegin: (wallMs: number) => void,
): Promise<CopyEnd> {
  let isAnswered = false;
  incoming.on('error', () => stream.abort('the local rsync has ended'));
  for await (const message of stream.messages) {
    const part = readPart(message);
    if (part === null) throw new CopyError('STORAGE_COPY_FAILED', 'the other side sent nonsense');
    if (part.kind === 'bytes') {
      // Only says that the other side is there.
      if (part.bytes.length === 0) continue;
      if (!isAnswered) throw new CopyError('STORAGE_COPY_FAILED', 'bytes before an answer');
      await write(incoming, part.bytes);
      continue;
    }
    if (isAnswered) {
      const end = readEnd(part.value);
      if (end === null) throw new CopyError('STORAGE_COPY_FAILED', 'an end that is none');
      if (end.exit !== 0) throw new CopyError('STORAGE_COPY_FAILED', end.why);
      return end;
    }
    const answer = readAnswer(part.value);
    if (answer === null) throw new CopyError('STORAGE_COPY_FAILED', 'an answer that is none');
    if (!answer.isOk) throw new CopyError(answer.code, answer.why);
    isAnswered = true;
    onBegin(answer.wallMs);
  }
  throw new CopyError('STORAGE_COPY_FAILED', 'the other side broke off');
}

/** Runs rsync as the sender of `path` until it ends; resolves to its exit code and what it said. */
export async function serve(
  request: CopyRequest,
  path: string,
  stream: StorageStream,
  messages: AsyncIterator<Uint8Array>,
): Promise<{ exit: number; why: string }> {
  const args = senderArgs(request.args, path);
  if (args === null) return { exit: 1, why: 'its rsync asks for something else than a copy' };
  const child = spawn('rsync', [...args], {
    stdio: ['pipe', 'pipe', 'pipe'],
    signal: stream.ended,
    env: { PATH: process.env['PATH'] ?? '', LC_ALL: 'C' },
  });
  const ended = exitOf(child);
  const errors = textOf(child.stderr);
  const [input, output] = [child.stdin, child.stdout];
  input.on('error', () => undefined);
  const fed = feed(messages, input);
  // Ends with the stream, which `ended` of the stream tells as well.
  fed.catch(() => child.kill('SIGKILL'));
  for await (const chunk of output) await stream.send(bytesPart(chunk as Buffer));
  const exit = await ended;
  return { exit, why: exit === 0 ? '' : errors() || `rsync ended with ${exit}` };
}

async function feed(
  messages: AsyncIterator<Uint8Array>,
  input: NodeJS.WritableStream,
): Promise<void> {
  for (;;) {
    const next = await messages.next();
    if (next.done === true) return;
    const part = readPart(next.value);
    if (part?.kind !== 'bytes') throw new Error('not bytes');
    await write(input, part.bytes);
  }
}

async function sendAll(chunks: AsyncIterator<Buffer>, stream: StorageStream): Promise<void> {
  for (;;) {
    const next = await chunks.next();
    if (next.done === true) return;
    await stream.send(bytesPart(next.value));
  }
}

/** What the relay was called with: lines, then an empty one; the bytes after it are rsync's. */
async function readArgs(
  chunks: AsyncIterator<Buffer>,
): Promise<{ args: readonly string[]; rest: Uint8Array }> {
  let all = Buffer.alloc(0);
  for (;;) {
    const next = await chunks.next();
    if (next.done === true) throw new CopyError('STORAGE_COPY_FAILED', 'rsync did not start');
    all = Buffer.concat([all, next.value]);
    const end = all.indexOf('\n\n');
    if (end >= 0)
      return { args: all.subarray(0, end).toString().split('\n'), rest: all.subarray(end + 2) };
    if (all.length > argsBytesMax) throw new CopyError('STORAGE_COPY_FAILED', 'arguments too long');
  }
}

function write(out: NodeJS.WritableStream, bytes: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    out.write(bytes, (error) => (error ? reject(error) : resolve()));
  });
}

function exitOf(child: ChildProcess): Promise<number> {
  return new Promise((resolve) => {
    // A failed spawn and an abort come as an error; the code of a kill is null.
    child.on('error', () => resolve(127));
    child.on('exit', (code) => resolve(code ?? 137));
  });
}

function textOf(stream: NodeJS.ReadableStream | null): () => string {
  let text = '';
  stream?.on('data', (chunk: Buffer) => {
    if (text.length < errorCharsMax) text += chunk.toString();
  });
  return () => text.trim().slice(0, errorCharsMax);
}
