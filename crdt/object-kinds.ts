/** The kinds of objects that files describe, and what is the same for all of them. */
import type { ObjectId } from './ids.ts';
import type { LeafValue } from './leaves.ts';
import type { EnvView, Problem, Role, Service, Storage } from './model.ts';
import {
  roleFileLeaf,
  roleFromLeaves,
  serviceFileLeaf,
  serviceFromLeaves,
} from './service-leaves.ts';
import { storageFileLeaf, storageFromLeaves } from './storage-leaves.ts';

export type ObjectKind = 'role' | 'service' | 'storage';
export type ConfigObject = Role | Service | Storage;

export const objectKinds: readonly ObjectKind[] = ['role', 'service', 'storage'];

export const readers: Readonly<
  Record<
    ObjectKind,
    (id: ObjectId, leaves: ReadonlyMap<string, LeafValue>) => ConfigObject | Problem
  >
> = { role: roleFromLeaves, service: serviceFromLeaves, storage: storageFromLeaves };

const fileLeaves = { role: roleFileLeaf, service: serviceFileLeaf, storage: storageFileLeaf };

/** True for leaves that a desired-state file decides; false for what commands set and for leaves of a newer version. */
export function isFileLeaf(kind: ObjectKind, pointer: string): boolean {
  return fileLeaves[kind].test(pointer);
}

/** By name. */
export function objectsOf(
  view: Pick<EnvView, 'roles' | 'services' | 'storage'>,
  kind: ObjectKind,
): ReadonlyMap<string, ConfigObject> {
  return { role: view.roles, service: view.services, storage: view.storage }[kind];
}
