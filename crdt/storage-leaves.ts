/**
 * Storage as leaves: /kind 'storage', /name /source /role /driver /path /isExclusive, and /placement/… /lease/… as in
 * `lease-leaves.ts`. A path that must not be is poison wherever it comes from: files are checked, documents may come from
 * a version that knew less.
 */
import type { ObjectId } from './ids.ts';
import {
  leaseFileLeaves,
  leaseOf,
  leaseToLeaves,
  placementFileLeaves,
  placementOf,
  placementToLeaves,
} from './lease-leaves.ts';
import type { LeaseSpec, PlacementSpec } from './lease-leaves.ts';
import { given, LeafSet, Reading } from './leaf-reading.ts';
import type { LeafValue } from './leaves.ts';
import type { Problem, Storage } from './model.ts';
import { storagePathProblem } from './storage-path.ts';

/** What somebody set of a storage. A `Storage` is one too. */
export interface StorageSpec {
  readonly name: string;
  readonly source?: string;
  readonly role: string;
  /** Absent: local. */
  readonly driver?: Storage['driver'];
  readonly path: string;
  /** Absent: false. */
  readonly isExclusive?: boolean;
  readonly lease?: LeaseSpec;
  readonly placement?: PlacementSpec;
}

export const storageDrivers = ['local', 'sync'] as const;
export const storageDriverDefault: Storage['driver'] = 'local';

/** Leaves that a desired-state file decides. */
export const storageFileLeaf = new RegExp(
  `^/(role|driver|path|isExclusive|${leaseFileLeaves}|${placementFileLeaves})$`,
);

export function storageToLeaves(storage: StorageSpec): Map<string, LeafValue> {
  const leaves = new LeafSet();
  leaves.set('/kind', 'storage');
  leaves.set('/name', storage.name);
  leaves.set('/source', storage.source);
  leaves.set('/role', storage.role);
  leaves.set('/driver', storage.driver);
  leaves.set('/path', storage.path);
  leaves.set('/isExclusive', storage.isExclusive);
  placementToLeaves(leaves, storage.placement);
  leaseToLeaves(leaves, storage.lease);
  return leaves.map;
}

export function storageFromLeaves(
  id: ObjectId,
  leaves: ReadonlyMap<string, LeafValue>,
): Storage | Problem {
  const read = new Reading(leaves);
  const lease = leaseOf(read);
  const storage: Storage = {
    id,
    name: read.text('/name') ?? read.missing('/name'),
    source: read.text('/source') ?? '',
    role: read.text('/role') ?? read.missing('/role'),
    driver: read.oneOf('/driver', storageDrivers) ?? storageDriverDefault,
    path: read.text('/path') ?? read.missing('/path'),
    isExclusive: read.flag('/isExclusive') ?? false,
    ...given('lease', lease),
    placement: placementOf(read),
  };
  const wrong = storagePathProblem(storage.path);
  if (wrong !== null) read.refuse(`/path ${wrong}`);
  if (storage.driver === 'sync' && !storage.isExclusive)
    read.refuse('/driver is sync, which needs /isExclusive');
  return read.problem(id, `storage ${storage.name || id}`) ?? storage;
}
