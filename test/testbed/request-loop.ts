/** A consumer inside a host that sends one request after the other and remembers how each went. */
import { resolve } from 'node:path';
import { ClusterError } from '../../daemon/errors.ts';
import type { LocalHost } from '../../bootstrap/local-cluster/local-host.ts';

export interface RequestLoopOptions {
  readonly url: string;
  /** Start to start; a request that is still under way is not waited for. Default 50. */
  readonly everyMs?: number;
  /** Default 1000. */
  readonly timeoutMs?: number;
  /** The loop ends by itself after so many requests (default 20 000) and so long (default 10 minutes). */
  readonly requestsMax?: number;
  readonly durationMaxMs?: number;
  /** Sends from the network of this container instead of the host's. */
  readonly fromContainer?: string;
}

export interface Sample {
  /** Wall clock of the machine, when it was sent. */
  readonly atMs: number;
  readonly tookMs: number;
  readonly isOk: boolean;
  /** Body (first 100 characters) or error code. */
  readonly answer: string;
}

export interface RequestLoopResult {
  readonly ok: number;
  readonly failed: number;
  /** Longest time between two good answers in a row, also from start to the first and from the last to the end. */
  readonly longestGapMs: number;
  readonly samples: readonly Sample[];
  /** How often each answer came. */
  readonly answers: Readonly<Record<string, number>>;
}

export interface RequestLoop {
  /** So far. */
  peek(): RequestLoopResult;
  stop(): Promise<RequestLoopResult>;
}

const client = resolve(import.meta.dirname, 'request-client.mjs');

/** Resolves after the loop has started; its first answers may be failures. */
export async function requestLoop(
  host: LocalHost,
  options: RequestLoopOptions,
): Promise<RequestLoop> {
  const settings = JSON.stringify({
    url: options.url,
    everyMs: options.everyMs ?? 50,
    timeoutMs: options.timeoutMs ?? 1000,
    requestsMax: options.requestsMax ?? 20_000,
    durationMaxMs: options.durationMaxMs ?? 600_000,
  });
  const program = [process.execPath, client, settings];
  const command =
    options.fromContainer === undefined
      ? program
      : await inContainer(host, options.fromContainer, program);
  const started = await host.spawn(command, { label: 'requests' });
  const read = () => summarise(started.log());
  return {
    peek: read,
    stop: async () => {
      await started.signal('TERM');
      await started.exited;
      return read();
    },
  };
}

async function inContainer(
  host: LocalHost,
  container: string,
  program: readonly string[],
): Promise<string[]> {
  const pid = (await host.docker(['inspect', '-f', '{{.State.Pid}}', container])).stdout.trim();
  if (!/^[1-9]\d*$/.test(pid))
    throw new ClusterError('NOT_FOUND', {
      kind: 'running container',
      name: container,
      list: 'docker ps',
    });
  return ['nsenter', '-t', pid, '-n', '--', ...program];
}

/** Last line may be torn when it is read while being written. */
export function summarise(log: string): RequestLoopResult {
  const samples: Sample[] = [];
  let startMs = 0;
  let endMs = 0;
  for (const line of log.slice(0, log.lastIndexOf('\n') + 1).split('\n')) {
    const [kind, at, took, ...rest] = line.split(' ');
    if (kind === 'start') startMs = Number(at);
    if (kind === 'end') endMs = Number(at);
    if (kind === 'ok' || kind === 'failed') {
      samples.push({
        atMs: Number(at),
        tookMs: Number(took),
        isOk: kind === 'ok',
        answer: rest.join(' '),
      });
    }
  }
  const good = samples.filter((sample) => sample.isOk).map((sample) => sample.atMs + sample.tookMs);
  good.sort((a, b) => a - b);
  const last = endMs || Math.max(startMs, ...samples.map((sample) => sample.atMs + sample.tookMs));
  const marks = [startMs, ...good, last];
  const answers: Record<string, number> = {};
  for (const { answer } of samples) answers[answer] = (answers[answer] ?? 0) + 1;
  return {
    ok: good.length,
    failed: samples.length - good.length,
    longestGapMs: marks.reduce(
      (longest, mark, i) => Math.max(longest, mark - (marks[i - 1] ?? mark)),
      0,
    ),
    samples,
    answers,
  };
}
