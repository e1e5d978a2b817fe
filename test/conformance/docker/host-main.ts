/**
 * Runs the docker plugin inside a test host's namespaces, where its engine's loopback, routes and containers are, and
 * answers the test over the parent's channel. One call in, one answer out.
 */
import { join } from 'node:path';
import type { ClusterId, HostId } from '../../../crdt/ids.ts';
import type { DesiredView, PluginContext } from '../../../plugins/api.ts';
import { defaultDockerConfig } from '../../../plugins/docker/config.ts';
import { dockerPlugin } from '../../../plugins/docker/plugin.ts';
import { openDirBlobs } from './blobs.ts';

export interface HostCalls {
  reconcile(view: DesiredView): Promise<{
    pending?: readonly string[];
    changes: readonly string[];
    failures: readonly { item: string; code: string; message: string; isTransient: boolean }[];
  }>;
  facts(): Promise<unknown>;
  /** How often the fact was published, and a reconcile asked for. */
  counts(): Promise<{ published: number; requested: number }>;
  engine(): Promise<{ state: string; version?: string; reason?: string }>;
  push(reference: string): Promise<{
    reference: string;
    manifest: string;
    imageId: string;
    sizeBytes: number;
    layers: string[];
  }>;
  fetched(): Promise<string[]>;
  logs(
    containerId: string,
    options: { tail?: number; timestamps?: boolean },
  ): Promise<{ stream: string; text: string }[]>;
  /** Follows for as long as it takes to see `until` in the output. */
  follow(containerId: string, until: string): Promise<string>;
  exec(
    containerId: string,
    options: { command: string[]; isTty: boolean; input?: string; columns?: number },
  ): Promise<{ stdout: string; stderr: string; exitCode: number }>;
  setGates(open: ReadonlyMap<string, { epoch: number; mayStart: boolean }>): Promise<void>;
  startNow(lease: string): Promise<void>;
  unprepared(lease: string): Promise<string | null>;
  stopAll(lease: string): Promise<void>;
  purge(): Promise<void>;
  stop(): Promise<void>;
}

const [, , dir = '', socket = '', clusterId = '', hostId = '', overrides = '{}', ...peers] =
  process.argv;
const counts = { published: 0, requested: 0 };
const isVerbose = process.env['TRELLIS_TEST_VERBOSE'] !== undefined;
const print = (event: string, values?: Record<string, unknown>): void => {
  if (isVerbose)
    process.stdout.write(`${hostId.slice(0, 4)} ${event} ${JSON.stringify(values ?? {})}\n`);
};
const blobs = await openDirBlobs(join(dir, 'blobs'), peers);
const context: PluginContext = {
  self: { clusterId: clusterId as ClusterId, hostId: hostId as HostId, env: 'default' },
  clock: { monotonicMs: () => performance.now(), wallMs: () => Date.now() },
  log: { debug: print, info: print, warn: print, error: print },
  stateDir: join(dir, 'state'),
  requestReconcile: (reason) => {
    counts.requested++;
    print('requested', { reason });
  },
  publish: () => counts.published++,
  blobs,
};
const config = {
  ...defaultDockerConfig,
  endpoint: `unix://${socket}`,
  ...(JSON.parse(overrides) as object),
};
const plugin = await dockerPlugin().start(context, config);
const forever = new AbortController().signal;

const calls: HostCalls = {
  reconcile: (view) => plugin.reconcile(view, forever),
  facts: async () => plugin.facts(),
  counts: async () => ({ ...counts }),
  engine: () => plugin.runtime.engine(),
  push: async (reference) => {
    const pushed = await plugin.runtime.pushImage(reference, {
      signal: forever,
      onProgress: (what, done, total) => print('push', { what, done, total }),
    });
    return { ...pushed, layers: [...pushed.layers] };
  },
  fetched: async () => [...blobs.fetched],
  logs: async (containerId, options) => {
    const out: { stream: string; text: string }[] = [];
    for await (const chunk of plugin.runtime.logs(containerId, {
      follow: false,
      signal: forever,
      ...options,
    })) {
      out.push({ stream: chunk.stream, text: Buffer.from(chunk.bytes).toString() });
    }
    return out;
  },
  follow: async (containerId, until) => {
    const stop = new AbortController();
    let text = '';
    for await (const chunk of plugin.runtime.logs(containerId, {
      follow: true,
      signal: stop.signal,
    })) {
      text += Buffer.from(chunk.bytes).toString();
      if (text.includes(until)) stop.abort();
    }
    return text;
  },
  exec: async (containerId, options) => {
    const session = await plugin.runtime.exec(containerId, {
      command: options.command,
      isTty: options.isTty,
      signal: forever,
    });
    if (options.columns !== undefined) await session.resize(options.columns, 24);
    if (options.input !== undefined) session.write(Buffer.from(options.input));
    if (!options.isTty) session.end();
    const out = { stdout: '', stderr: '' };
    for await (const chunk of session.output)
      out[chunk.stream] += Buffer.from(chunk.bytes).toString();
    return { ...out, exitCode: await session.exitCode() };
  },
  setGates: async (open) => plugin.exclusive.setGates(open),
  startNow: async (lease) => plugin.exclusive.startNow(lease),
  unprepared: async (lease) => plugin.exclusive.unpreparedReason(lease),
  stopAll: (lease) => plugin.exclusive.stopAll(lease, forever),
  purge: () => plugin.purge(forever),
  stop: () => plugin.stop(),
};

process.on('message', (message: { id: number; name: keyof HostCalls; args: never[] }) => {
  void (async () => {
    try {
      const call = calls[message.name] as (...args: never[]) => Promise<unknown>;
      process.send?.({ id: message.id, value: await call(...message.args) });
    } catch (error) {
      const { code, message: text, stack } = error as Error & { code?: string };
      process.send?.({ id: message.id, error: { code, message: text, stack } });
    }
  })();
});
process.on('disconnect', () => process.exit(0));
process.send?.({ id: 0, value: 'ready' });
