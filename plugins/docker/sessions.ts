/** Output of containers, and commands run in them. */
import type { Duplex } from 'node:stream';
import { type ContainerRuntime, type ExecSession, PluginError } from '../api.ts';
import { type Engine, pause } from './engine.ts';
import { isMissing } from './errors.ts';

type Chunk = { stream: 'stdout' | 'stderr'; bytes: Uint8Array };

/** Input that a command has not taken yet; a writer beyond it is cut off. */
const inputBytesMax = 8 << 20;
const frameHeaderBytes = 8;
/** The engine learns the exit code shortly after the output has ended. */
const exitLookMsMax = 5_000;

export async function* logs(
  engine: Engine,
  containerId: string,
  options: Parameters<ContainerRuntime['logs']>[1],
  /** Behind a closed gate: it is not asked about itself, which may hang; ours have no terminal. */
  isClosed = false,
): AsyncGenerator<Chunk> {
  const container = engine.docker.getContainer(containerId);
  const isTty = isClosed
    ? false
    : await named(containerId, async () => {
        const { Config } = await engine.call('read logs', (signal) =>
          container.inspect({ abortSignal: signal }),
        );
        return Config.Tty;
      });
  const query = {
    stdout: true,
    stderr: true,
    timestamps: options.timestamps ?? false,
    ...(options.tail === undefined ? {} : { tail: options.tail }),
    // Seconds with a fraction; the published type wants a number.
    ...(options.sinceMs === undefined ? {} : { since: options.sinceMs / 1000 }),
  };
  if (!options.follow) {
    // Bounded by the log driver's own limit, which every container of ours has.
    const whole = await engine.call(
      'read logs',
      (signal) => container.logs({ ...query, follow: false, abortSignal: signal }),
      { signal: options.signal },
    );
    yield* demux(oneChunk(whole), isTty);
    return;
  }
  const stream = await engine.call(
    'follow logs',
    () => container.logs({ ...query, follow: true, abortSignal: options.signal }),
    { signal: options.signal },
  );
  yield* demux(untilAborted(stream as Duplex, options.signal), isTty);
}

export async function exec(
  engine: Engine,
  containerId: string,
  options: Parameters<ContainerRuntime['exec']>[1],
): Promise<ExecSession> {
  const container = engine.docker.getContainer(containerId);
  const exec = await named(containerId, () =>
    engine.call('run a command', (signal) =>
      container.exec({
        Cmd: [...options.command],
        Tty: options.isTty,
        AttachStdin: true,
        AttachStdout: true,
        AttachStderr: true,
        ...(options.env === undefined ? {} : { Env: [...options.env] }),
        abortSignal: signal,
      }),
    ),
  );
  const stream = await engine.call(
    'run a command',
    () => exec.start({ hijack: true, stdin: true, Tty: options.isTty }),
    { signal: options.signal },
  );
  const ended = Promise.withResolvers<void>();
  stream.once('close', () => ended.resolve());
  stream.once('end', () => ended.resolve());
  // A dying engine ends the session; whoever reads the output or the exit code is told.
  stream.on('error', () => ended.resolve());
  return {
    output: demux(untilAborted(stream, options.signal), options.isTty),
    write: (bytes) => {
      if (stream.writableLength > inputBytesMax)
        stream.destroy(new Error(`the command has not read ${inputBytesMax} bytes of input`));
      else if (!stream.writableEnded) stream.write(bytes);
    },
    end: () => void stream.end(),
    resize: async (columns, rows) => {
      await engine.call('resize a terminal', () => exec.resize({ h: rows, w: columns }));
    },
    exitCode: async () => {
      await ended.promise;
      return await exitCodeOf(engine, exec, options.signal);
    },
  };
}

async function exitCodeOf(
  engine: Engine,
  exec: { inspect(): Promise<{ Running: boolean; ExitCode: number | null }> },
  signal: AbortSignal,
): Promise<number> {
  for (let waitedMs = 0; ; waitedMs += 50) {
    signal.throwIfAborted();
    const { Running, ExitCode } = await engine.call('tell an exit code', () => exec.inspect());
    if (!Running && ExitCode !== null) return ExitCode;
    if (waitedMs >= exitLookMsMax)
      throw new PluginError(
        'ENGINE_REFUSED',
        { action: 'tell an exit code', reason: 'the command still runs' },
        'the command still runs',
      );
    await pause(50, signal);
  }
}

/**
 * Splits the engine's stream: without a terminal each frame has 8 bytes in front, the first says which stream, the last
 * four how long it is. Payload is handed on as it comes, so a frame's size needs no bound.
 */
export async function* demux(
  source: AsyncIterable<Uint8Array>,
  isTty: boolean,
): AsyncGenerator<Chunk> {
  let header = Buffer.alloc(0);
  let stream: Chunk['stream'] = 'stdout';
  let left = 0;
  for await (const bytes of source) {
    if (isTty) {
      yield { stream, bytes };
      continue;
    }
    let at = 0;
    while (at < bytes.length) {
      if (left === 0) {
        const more = bytes.subarray(at, at + frameHeaderBytes - header.length);
        header = Buffer.concat([header, more]);
        at += more.length;
        if (header.length < frameHeaderBytes) break;
        stream = header[0] === 2 ? 'stderr' : 'stdout';
        left = header.readUInt32BE(4);
        header = Buffer.alloc(0);
        continue;
      }
      const payload = bytes.subarray(at, at + left);
      at += payload.length;
      left -= payload.length;
      yield { stream, bytes: payload };
    }
  }
}

async function* untilAborted(stream: Duplex, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const destroy = (): void => {
    stream.destroy();
  };
  signal.addEventListener('abort', destroy, { once: true });
  try {
    for await (const chunk of stream) yield chunk as Uint8Array;
  } catch (error) {
    // Our own doing when aborted; otherwise the reader learns that the engine went away.
    if (!signal.aborted) throw error;
  } finally {
    signal.removeEventListener('abort', destroy);
    stream.destroy();
  }
}

async function* oneChunk(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
}

async function named<T>(containerId: string, call: () => Promise<T>): Promise<T> {
  if (!/^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/.test(containerId)) throw notFound(containerId);
  try {
    return await call();
  } catch (error) {
    if (isMissing(error)) throw notFound(containerId, error);
    throw error;
  }
}

function notFound(containerId: string, cause?: unknown): PluginError {
  const details = { kind: 'container', name: containerId, list: 'trellis ps' };
  return new PluginError('NOT_FOUND', details, `no container '${containerId}'`, cause);
}
