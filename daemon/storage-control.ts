/**
 * Between the storage plugin and the rest of the daemon: streams to other hosts' plugins, their facts, and what leases ask
 * of storage.
 */
import type { HostId, NodeId, ObjectId } from '../crdt/ids.ts';
import type { RunningStorage } from '../plugins/storage/plugin.ts';
import type { StoragePorts } from '../plugins/storage/ports.ts';
import { ClusterError } from './errors.ts';
import type { LeaseApi } from './lease-api.ts';
import { readStorage } from './lease-input.ts';
import type { StorageControl } from './lease-workload.ts';
import type { LeaseName } from './lease/model.ts';
import type { Member } from './member.ts';
import { leaseNameOf } from './plan/leases.ts';
import type { Clock, Log } from './ports.ts';

/** Topic of the storage plugin's facts. */
const storageTopic = 'storage';

export function storagePorts(
  member: Member,
  { reserved, pause }: Pick<StoragePorts, 'reserved' | 'pause'>,
): StoragePorts {
  const { node, network } = member;
  const hostOf = (owner: NodeId): HostId | undefined =>
    node.hosts().find((host) => host.node === owner && host.env === node.env)?.id;
  return {
    reserved,
    open: async (host, signal) => {
      const found = node.hosts().find(({ id }) => id === host);
      if (found === undefined)
        throw new ClusterError('HOST_UNREACHABLE', { host, state: 'unknown', ago: 'never' });
      return await network.openStream(found.node, { signal, purpose: 'copies' });
    },
    serve: (handle) =>
      network.onStream(async (from, stream) => {
        const host = hostOf(from);
        if (host === undefined) throw new Error('no host of this environment');
        await handle(host, stream);
      }, 'copies'),
    facts: () =>
      node.facts(storageTopic).flatMap(({ owner, ageMs, value }) => {
        const host = hostOf(owner);
        const fact = readStorage(value);
        return host === undefined || fact === null ? [] : [{ host, ageMs, fact }];
      }),
    pause,
  };
}

/** The guard pauses a lease no more often: within this time an answer is about the pause that was asked for. */
const pauseEveryMs = 2_000;

/** What runs under a storage's lease stands still for a moment, by its guard. */
export function pauseBy(
  guard: Pick<LeaseApi, 'command'>,
  env: string,
  { clock, log }: { readonly clock: Clock; readonly log: Log },
): StoragePorts['pause'] {
  return async (storage, maxMs) => {
    const name = leaseNameOf(env, { kind: 'storage', id: storage });
    const { signal } = new AbortController();
    const startedMs = clock.monotonicMs();
    const isDone = async (kind: 'pause' | 'resume'): Promise<boolean> => {
      try {
        const command = kind === 'pause' ? { kind, name, maxMs } : { kind, name };
        const reply = await guard.command(command, signal);
        if (!reply.isOk) log.info('storage.not-paused', { name, kind, ...reply.details });
        return reply.isOk && clock.monotonicMs() - startedMs < pauseEveryMs;
      } catch (error) {
        // The guard is gone; the next one opens what is held.
        log.warn('storage.not-paused', { name, kind, error: String(error) });
        return false;
      }
    };
    return (await isDone('pause')) ? () => isDone('resume') : null;
  };
}

export function storageControl(storage: RunningStorage): StorageControl {
  return {
    activate: (lease, epoch) => storage.activate(storageIdOf(lease), epoch),
    settle: async (lease) => {
      const { isFit, why } = await storage.settle(storageIdOf(lease));
      if (!isFit) throw new Error(why);
    },
  };
}

function storageIdOf(lease: LeaseName): ObjectId {
  return lease.slice(lease.lastIndexOf('/') + 1) as ObjectId;
}
