/**
 * A read-only image registry on loopback over the blob store: how an engine gets an image that the cluster holds.
 *
 * The engine pulls by digest and asks for exactly the layers it lacks; each is fetched from other hosts at that moment
 * (the blob plane shares, resumes and verifies transfers), and the engine verifies every digest again. Only what was
 * offered is served, under a path that other users of this machine cannot guess. See ADR 3.
 */
import { randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { type IncomingMessage, type Server, type ServerResponse, createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import type { Hash } from '../../crdt/ids.ts';
import type { Blobs, PluginContext } from '../api.ts';
import { reasonOf } from './errors.ts';
import { readJson, writeFileAtomic } from './files.ts';

export const manifestMediaType = 'application/vnd.oci.image.manifest.v1+json';

/** Beyond this many connections new ones are refused; an engine opens about four per pull. */
const connectionsMax = 64;

export interface Offer {
  /** As the engine must name it: '127.0.0.1:PORT/SECRET@sha256:...'. */
  readonly reference: string;
  /** Ends the offer. Idempotent. */
  withdraw(): void;
}

export class Registry {
  readonly #fetch: Blobs['fetch'];
  readonly #log: PluginContext['log'];
  readonly #server: Server;
  readonly #name: string;
  readonly #port: number;
  /** Hash to how many offers name it, per kind. */
  readonly #manifests = new Map<Hash, number>();
  readonly #contents = new Map<
    Hash,
    { count: number; onProgress: (done: number, total: number) => void; signal: AbortSignal }
  >();

  private constructor(parts: {
    fetch: Blobs['fetch'];
    log: PluginContext['log'];
    server: Server;
    name: string;
    port: number;
  }) {
    this.#fetch = parts.fetch;
    this.#log = parts.log;
    this.#server = parts.server;
    this.#name = parts.name;
    this.#port = parts.port;
  }

  /** Listens on the port of last time, or on another when that is taken. */
  static async open(options: {
    fetch: Blobs['fetch'];
    log: PluginContext['log'];
    stateDir: string;
  }): Promise<Registry> {
    const path = join(options.stateDir, 'registry.json');
    const kept = readJson(path) as { port?: unknown; name?: unknown } | null;
    const name =
      typeof kept?.name === 'string' && /^[0-9a-f]{32}$/.test(kept.name)
        ? kept.name
        : randomBytes(16).toString('hex');
    let handle: (request: IncomingMessage, response: ServerResponse) => void = () => undefined;
    const server = createServer((request, response) => handle(request, response));
    server.maxConnections = connectionsMax;
    server.requestTimeout = 30_000;
    // Engines try TLS first, and then say goodbye in ways that Node reports as client errors.
    server.on('clientError', (_, socket) => socket.destroy());
    const wanted =
      typeof kept?.port === 'number' && kept.port > 1023 && kept.port < 65_536 ? kept.port : 0;
    const port = await listen(server, wanted).catch(() => listen(server, 0));
    if (port !== kept?.port || name !== kept?.name)
      await writeFileAtomic(path, JSON.stringify({ port, name }));
    const registry = new Registry({ fetch: options.fetch, log: options.log, server, name, port });
    handle = (request, response) => void registry.#answer(request, response);
    server.unref();
    return registry;
  }

  /** Serves one image until withdrawn. */
  offer(image: {
    manifest: Hash;
    contents: readonly Hash[];
    signal: AbortSignal;
    onProgress: (hash: Hash, doneBytes: number, totalBytes: number) => void;
  }): Offer {
    this.#manifests.set(image.manifest, (this.#manifests.get(image.manifest) ?? 0) + 1);
    for (const hash of new Set(image.contents)) {
      const count = this.#contents.get(hash)?.count ?? 0;
      this.#contents.set(hash, {
        count: count + 1,
        onProgress: (done, total) => image.onProgress(hash, done, total),
        signal: image.signal,
      });
    }
    let isOpen = true;
    return {
      reference: `127.0.0.1:${this.#port}/${this.#name}@sha256:${image.manifest}`,
      withdraw: () => {
        if (!isOpen) return;
        isOpen = false;
        const left = (this.#manifests.get(image.manifest) ?? 1) - 1;
        if (left === 0) this.#manifests.delete(image.manifest);
        else this.#manifests.set(image.manifest, left);
        for (const hash of new Set(image.contents)) this.#forget(hash);
      },
    };
  }

  async close(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #forget(hash: Hash): void {
    const entry = this.#contents.get(hash);
    if (entry === undefined) return;
    if (entry.count === 1) this.#contents.delete(hash);
    else this.#contents.set(hash, { ...entry, count: entry.count - 1 });
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      response.setHeader('Docker-Distribution-Api-Version', 'registry/2.0');
      if (request.method !== 'GET' && request.method !== 'HEAD')
        return refuse(response, 405, 'UNSUPPORTED');
      const path = (request.url ?? '').split('?')[0] ?? '';
      if (path === '/v2/' || path === '/v2') return sendJson(response, 200, {});
      const match = /^\/v2\/([0-9a-f]{32})\/(manifests|blobs)\/sha256:([0-9a-f]{64})$/.exec(path);
      if (match === null || match[1] !== this.#name) return refuse(response, 404, 'NAME_UNKNOWN');
      const hash = match[3] as Hash;
      if (match[2] === 'manifests') await this.#sendManifest(hash, request, response);
      else await this.#sendBlob(hash, request, response);
    } catch (error) {
      this.#log.warn('docker.registry', {
        path: request.url?.replace(this.#name, '…'),
        reason: reasonOf(error),
      });
      if (response.headersSent) response.destroy();
      else refuse(response, 503, 'UNAVAILABLE', reasonOf(error));
    }
  }

  async #sendManifest(
    hash: Hash,
    request: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    if (!this.#manifests.has(hash)) return refuse(response, 404, 'MANIFEST_UNKNOWN');
    const path = await this.#fetch(hash, {});
    await sendFile(path, { hash, mediaType: manifestMediaType, request, response });
  }

  async #sendBlob(hash: Hash, request: IncomingMessage, response: ServerResponse): Promise<void> {
    const entry = this.#contents.get(hash);
    if (entry === undefined) return refuse(response, 404, 'BLOB_UNKNOWN');
    const path = await this.#fetch(hash, { signal: entry.signal, onProgress: entry.onProgress });
    await sendFile(path, { hash, mediaType: 'application/octet-stream', request, response });
  }
}

async function listen(server: Server, port: number): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      server.removeListener('error', reject);
      resolve();
    });
  });
  return (server.address() as AddressInfo).port;
}

async function sendFile(
  path: string,
  options: { hash: Hash; mediaType: string; request: IncomingMessage; response: ServerResponse },
): Promise<void> {
  const { request, response } = options;
  const { size } = await stat(path);
  const range = parseRange(request.headers.range, size);
  if (range === 'unsatisfiable') {
    response.setHeader('Content-Range', `bytes */${size}`);
    return refuse(response, 416, 'RANGE_INVALID');
  }
  const { start, end } = range ?? { start: 0, end: size - 1 };
  response.writeHead(range === null ? 200 : 206, {
    'Content-Type': options.mediaType,
    'Content-Length': end - start + 1,
    'Docker-Content-Digest': `sha256:${options.hash}`,
    'Accept-Ranges': 'bytes',
    ETag: `"sha256:${options.hash}"`,
    ...(range === null ? {} : { 'Content-Range': `bytes ${start}-${end}/${size}` }),
  });
  if (request.method === 'HEAD' || size === 0) {
    response.end();
    return;
  }
  await pipeline(createReadStream(path, { start, end }), response);
}

/** One range of the form 'bytes=a-b', 'bytes=a-' or 'bytes=-n'; anything else is ignored, as HTTP allows. */
export function parseRange(
  header: string | undefined,
  size: number,
): { start: number; end: number } | null | 'unsatisfiable' {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header ?? '');
  if (match === null || (match[1] === '' && match[2] === '')) return null;
  const start = match[1] === '' ? Math.max(0, size - Number(match[2])) : Number(match[1]);
  const end = match[1] === '' || match[2] === '' ? size - 1 : Math.min(Number(match[2]), size - 1);
  return start > end || start >= size ? 'unsatisfiable' : { start, end };
}

function refuse(response: ServerResponse, status: number, code: string, message = ''): void {
  sendJson(response, status, { errors: [{ code, message }] });
}

function sendJson(response: ServerResponse, status: number, body: unknown): void {
  const text = JSON.stringify(body);
  response.writeHead(status, {
    'Content-Type': 'application/json',
    'Content-Length': Buffer.byteLength(text),
  });
  response.end(text);
}
