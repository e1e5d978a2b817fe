/** Starts the plugin in a test host and calls it. */
import type { ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { ClusterId, HostId, ObjectId } from '../../../crdt/ids.ts';
import type { InstanceFact, InstancesFact } from '../../../crdt/model.ts';
import type { DesiredInstance, DesiredView } from '../../../plugins/api.ts';
import { type TestHost, fixture } from './engine.ts';
import type { HostCalls } from './host-main.ts';

export const clusterId = 'c1a2b3c4d5e6f708192a3b4c5d6e7f80' as ClusterId;

export interface PluginHost {
  readonly call: HostCalls;
  facts(): Promise<InstancesFact>;
  fact(instance: string): Promise<InstanceFact>;
  /** SIGKILL, like a crash of the daemon. */
  kill(): Promise<void>;
}

export async function startPlugin(
  host: TestHost,
  hostId: string,
  options: { config?: object; peers?: readonly string[] } = {},
): Promise<PluginHost> {
  const child = host.spawn(
    process.execPath,
    [
      fixture('host-main.ts'),
      host.dir,
      host.socket,
      clusterId,
      hostId,
      JSON.stringify(options.config ?? {}),
      ...(options.peers ?? []),
    ],
    { ipc: true },
  );
  const waiting = new Map<
    number,
    { resolve: (value: never) => void; reject: (error: Error) => void }
  >();
  const ready = new Promise<void>((resolve, reject) => {
    waiting.set(0, { resolve: () => resolve(), reject });
  });
  child.on(
    'message',
    (message: {
      id: number;
      value?: never;
      error?: { code: string; message: string; stack: string };
    }) => {
      const entry = waiting.get(message.id);
      waiting.delete(message.id);
      if (message.error === undefined) entry?.resolve(message.value as never);
      else entry?.reject(Object.assign(new Error(message.error.message), message.error));
    },
  );
  child.on('exit', () => {
    for (const { reject } of waiting.values()) reject(new Error('the plugin process has ended'));
  });
  let id = 0;
  const call = new Proxy({} as HostCalls, {
    get:
      (_, name: string) =>
      (...args: unknown[]) =>
        new Promise((resolve, reject) => {
          waiting.set(++id, { resolve, reject });
          child.send({ id, name, args });
        }),
  });
  await ready;
  const facts = async (): Promise<InstancesFact> => (await call.facts()) as InstancesFact;
  return {
    call,
    facts,
    fact: async (instance) => {
      const found = (await facts()).instances.find((candidate) => candidate.instance === instance);
      if (found === undefined) throw new Error(`no fact of ${instance}`);
      return found;
    },
    kill: () => killChild(child),
  };
}

async function killChild(child: ChildProcess): Promise<void> {
  const ended = new Promise((resolve) => child.once('exit', resolve));
  child.disconnect();
  await ended;
}

export function blobDir(host: TestHost): string {
  return join(host.dir, 'blobs');
}

export type InstanceChanges = Partial<Omit<DesiredInstance, 'instance' | 'containerName'>> & {
  service: string;
  slot?: string;
};

/** A desired instance whose spec follows from its content. */
export function instance(changes: InstanceChanges): DesiredInstance {
  const slot = changes.slot ?? '0';
  const base: Omit<DesiredInstance, 'spec'> = {
    serviceId: '00000000000000aa' as ObjectId,
    slot,
    instance: `${changes.service}-${slot}`,
    containerName: `trellis-${clusterId.slice(0, 8)}-${changes.service}-${slot}`,
    image: 'base:1',
    clusterImage: null,
    command: ['sleep', '1000000'],
    env: {},
    ports: [],
    resources: {},
    dependsOn: [],
    stopGraceMs: 1_000,
    isEnabled: true,
    restart: 'unless-stopped',
    ...changes,
  };
  const { isEnabled: _, ...shape } = base;
  return { spec: createHash('sha256').update(JSON.stringify(shape)).digest('hex'), ...base };
}

export function view(
  hostId: string,
  instances: readonly DesiredInstance[],
  changes: Partial<DesiredView> = {},
): DesiredView {
  return {
    clusterId,
    cluster8: clusterId.slice(0, 8),
    hostId: hostId as HostId,
    hostName: 'h1',
    env: 'default',
    advertise: '10.99.0.1',
    virtualAddress: '169.254.71.12',
    instances,
    keep: [],
    routes: [],
    ...changes,
  };
}
