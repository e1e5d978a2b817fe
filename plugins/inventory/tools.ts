/** The container engine and the tools beside it, with their versions. */
import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import http from 'node:http';
import path from 'node:path';
import type { InventoryFact } from '../../crdt/model.ts';

/** How each tool is asked; the first thing that looks like a version is taken. */
const questions: Readonly<Record<string, readonly string[]>> = {
  docker: ['--version'],
  iptables: ['--version'],
  nft: ['--version'],
  ip: ['-V'],
  conntrack: ['--version'],
  systemctl: ['--version'],
  'rc-service': ['--version'],
  curl: ['--version'],
  openssl: ['version'],
  haproxy: ['-v'],
};

const askTimeoutMs = 2_000;
const answerBytesMax = 64 << 10;
const engineTimeoutMs = 2_000;

/** Remembers answers by the file's size and time, so that a refresh starts no process unless a tool was replaced. */
export class ToolVersions {
  readonly #known = new Map<string, { stamp: string; version: string }>();
  readonly #dirs: readonly string[];

  /** `dirs`: where to look, in order. */
  constructor(dirs: readonly string[]) {
    this.#dirs = dirs;
  }

  /** Null for a tool that is not there; 'unknown' for one that does not say. */
  async read(): Promise<Record<string, string | null>> {
    const entries = Object.entries(questions).map(
      async ([tool, args]) => [tool, await this.#versionOf(tool, args)] as const,
    );
    return Object.fromEntries(await Promise.all(entries));
  }

  async #versionOf(tool: string, args: readonly string[]): Promise<string | null> {
    const found = await this.#find(tool);
    if (found === null) return null;
    const known = this.#known.get(tool);
    if (known?.stamp === found.stamp) return known.version;
    const version = await askVersion(found.file, args);
    this.#known.set(tool, { stamp: found.stamp, version });
    return version;
  }

  async #find(tool: string): Promise<{ file: string; stamp: string } | null> {
    for (const dir of this.#dirs) {
      const file = path.join(dir, tool);
      const info = await stat(file).catch(() => null);
      if (info?.isFile()) return { file, stamp: `${file} ${info.size} ${info.mtimeMs}` };
    }
    return null;
  }
}

/** A daemon started by a service manager may lack the system directories. */
export function toolDirs(pathVariable: string): readonly string[] {
  const dirs = [
    ...pathVariable.split(path.delimiter),
    '/usr/local/sbin',
    '/usr/local/bin',
    '/usr/sbin',
    '/usr/bin',
    '/sbin',
    '/bin',
  ];
  return [...new Set(dirs.filter((dir) => dir.startsWith('/')))];
}

function askVersion(file: string, args: readonly string[]): Promise<string> {
  const options = {
    timeout: askTimeoutMs,
    maxBuffer: answerBytesMax,
    env: { PATH: process.env['PATH'], LC_ALL: 'C' },
  };
  return new Promise((resolve) => {
    execFile(file, args, options, (_, stdout, stderr) => {
      resolve(/\d+\.\d+[\w.+~-]*|\b\d{2,}\b/.exec(stdout + stderr)?.[0] ?? 'unknown');
    });
  });
}

/** As in DOCKER_HOST; the default is Docker's own. */
export function engineEndpoint(environment: Readonly<Record<string, string | undefined>>): string {
  return environment['DOCKER_HOST'] || 'unix:///var/run/docker.sock';
}

/** Path of a unix socket endpoint, null for others. */
export function socketOf(endpoint: string): string | null {
  return endpoint.startsWith('unix://') ? endpoint.slice('unix://'.length) : null;
}

/** `absent`: nothing listens. `hung`: something does and gives no usable answer in time. Never rejects. */
export function askEngine(endpoint: string): Promise<InventoryFact['engine']> {
  const unanswered = { endpoint, version: null, apiVersion: null };
  const target = requestTarget(endpoint);
  if (target === null) return Promise.resolve({ ...unanswered, state: 'absent' });
  return new Promise((resolve) => {
    const request = http.get(
      { ...target, path: '/version', timeout: engineTimeoutMs },
      (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('data', (chunk: string) => {
          text += chunk;
          if (text.length > answerBytesMax) request.destroy();
        });
        response.on('end', () => resolve(parseEngine(endpoint, text)));
        response.on('error', () => resolve({ ...unanswered, state: 'hung' }));
        response.on('close', () => resolve({ ...unanswered, state: 'hung' }));
      },
    );
    request.on('timeout', () => request.destroy(new Error('timeout')));
    request.on('error', (error: NodeJS.ErrnoException) => {
      const isAbsent = ['ENOENT', 'ECONNREFUSED', 'EACCES', 'ENOTFOUND'].includes(error.code ?? '');
      resolve({ ...unanswered, state: isAbsent ? 'absent' : 'hung' });
    });
  });
}

function parseEngine(endpoint: string, text: string): InventoryFact['engine'] {
  try {
    const { Version, ApiVersion } = JSON.parse(text) as { Version?: unknown; ApiVersion?: unknown };
    if (typeof Version !== 'string') throw new Error('no version in the answer');
    return {
      state: 'ok',
      endpoint,
      version: Version,
      apiVersion: typeof ApiVersion === 'string' ? ApiVersion : null,
    };
  } catch {
    // Whatever answers there is not an engine we can use.
    return { state: 'hung', endpoint, version: null, apiVersion: null };
  }
}

function requestTarget(endpoint: string): http.RequestOptions | null {
  const socketPath = socketOf(endpoint);
  if (socketPath !== null) return { socketPath };
  const url = URL.parse(endpoint.replace(/^tcp:/, 'http:'));
  return url?.protocol === 'http:' ? { host: url.hostname, port: url.port || 2375 } : null;
}
