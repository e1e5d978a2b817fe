/** `trellis storage ls`: which host has the original of each storage, and how far the copies of the others are. */
import { compareText } from '../../crdt/codec.ts';
import type { HostView, Storage, StorageFact } from '../../crdt/model.ts';
import { define, envParam, params } from './common.ts';
import { leaseWorld } from './lease-commands.ts';
import type { StorageCopyRow, StorageRow } from './lease-answers.ts';
import type { LeaseWorld } from './lease-world.ts';
import { holderOf, hostName } from './lease-world.ts';
import type { Operation } from './operation.ts';

export const storageOperations: readonly Operation[] = [
  define({
    group: 'storage',
    command: 'ls',
    summary: 'storage, where it is active, and how far the copies are',
    access: 'viewer',
    isMutation: false,
    params: params(envParam),
    run: (context, given): Promise<StorageRow[]> =>
      Promise.resolve(storageRows(leaseWorld(context, given))),
  }),
];

export function storageRows(world: LeaseWorld): StorageRow[] {
  return [...world.view.storage.values()]
    .toSorted((a, b) => compareText(a.name, b.name))
    .map((storage) => storageRow(world, storage));
}

function storageRow(world: LeaseWorld, storage: Storage): StorageRow {
  const { id, name, driver, role, path } = storage;
  const lease = world.subjects.find((subject) => subject.storage === name);
  const holder = lease === undefined ? null : holderOf(world, lease.name);
  const hosts = [...world.hosts.values()]
    .filter(({ env, liveness }) => env === world.node.env && liveness !== 'left')
    .toSorted((a, b) => compareText(a.name, b.name))
    .flatMap((host) => copyRow(world, host, storage) ?? []);
  return {
    name,
    id,
    driver,
    role,
    path,
    lease: lease?.title ?? null,
    active: holder === null ? null : hostName(world, holder.host),
    epoch: holder?.epoch ?? 0,
    hosts,
  };
}

/** Null: a host that has nothing to do with it. */
function copyRow(world: LeaseWorld, host: HostView, storage: Storage): StorageCopyRow | null {
  const entry = world.node.fact('storage', host.node);
  const fact = entry?.value as Partial<StorageFact> | undefined;
  const copy = fact?.storage?.find(({ id }) => id === storage.id);
  if (copy === undefined && !host.roles.includes(storage.role)) return null;
  return {
    host: host.name,
    isAlive: host.liveness !== 'dead',
    state: copy?.state ?? 'unknown',
    epoch: copy?.epoch ?? 0,
    version: copy?.version ?? 0,
    lagMs: copy?.lagMs ?? null,
    isInSync: copy?.isInSync ?? false,
    bytes: copy?.bytes ?? 0,
    ageMs: entry === null ? null : Math.round(entry.ageMs),
    reason: copy?.reason ?? null,
  };
}
