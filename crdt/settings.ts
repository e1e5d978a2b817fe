/** What the settings of an environment say: hosts, images, numbers and policies, one leaf each. */
import { compareText } from './codec.ts';
import type { Hash, HostId } from './ids.ts';
import type { LeafValue } from './leaves.ts';
import type { EnvView, HostSettings, ImageEntry } from './model.ts';
import { isServiceNumber } from './numbers.ts';
import { segmentsOf } from './pointer.ts';

export interface Settings {
  /** Sorted by id. */
  readonly hosts: ReadonlyMap<HostId, HostSettings>;
  /** Sorted by reference. */
  readonly images: ReadonlyMap<string, ImageEntry>;
  /** As recorded, for ports that exist and ports that are gone. */
  readonly numbers: ReadonlyMap<string, number>;
  readonly autoApply: EnvView['autoApply'];
  readonly voters: EnvView['voters'];
  readonly isFrozen: boolean;
}

const votersMax = 7;
const hostIdPattern = /^[0-9a-f]{32}$/;

interface HostDraft {
  name?: string;
  roles: Record<string, boolean>;
  meta: Record<string, string>;
  isDrained: boolean;
  isFrozen?: true;
}

/** Leaves of a newer version, and values that make no sense, are passed over. */
export function readSettings(leaves: ReadonlyMap<string, LeafValue>): Settings {
  const hosts = new Map<HostId, HostDraft>();
  const images = new Map<string, ImageEntry>();
  const numbers = new Map<string, number>();
  let autoApply: EnvView['autoApply'] = 'safe';
  let voters: EnvView['voters'] = null;
  let isFrozen = false;
  for (const pointer of [...leaves.keys()].toSorted(compareText)) {
    const value = leaves.get(pointer) ?? null;
    const [group, ...path] = segmentsOf(pointer);
    if (value === null) continue;
    if (group === 'hosts') {
      readHost(hosts, path, value);
    } else if (group === 'images' && path.length === 1) {
      const image = imageOf(path[0] ?? '', value);
      if (image !== null) images.set(image.reference, image);
    } else if (group === 'numbers' && path.length === 2 && isServiceNumber(value)) {
      numbers.set(`${path[0]}/${path[1]}`, value);
    } else if (group === 'autoApply' && value === 'off') {
      autoApply = 'off';
    } else if (group === 'voters' && path.length === 0) {
      voters = votersOf(value);
    } else if (group === 'frozen' && path.length === 0) {
      isFrozen = value === true;
    }
  }
  return { hosts, images, numbers, autoApply, voters, isFrozen };
}

function readHost(hosts: Map<HostId, HostDraft>, path: readonly string[], value: LeafValue): void {
  const [id, field, key] = path;
  if (id === undefined || field === undefined || !hostIdPattern.test(id)) return;
  const host = hosts.get(id as HostId) ?? { roles: {}, meta: {}, isDrained: false };
  hosts.set(id as HostId, host);
  if (field === 'name' && typeof value === 'string') host.name = value;
  else if (field === 'drained' && typeof value === 'boolean') host.isDrained = value;
  else if (field === 'frozen' && key === undefined && value === true) host.isFrozen = true;
  else if (field === 'roles' && key !== undefined && typeof value === 'boolean')
    host.roles[key] = value;
  else if (field === 'meta' && key !== undefined && typeof value === 'string')
    host.meta[key] = value;
}

/** Null for anything but a list of one to `votersMax` distinct hosts. */
function votersOf(value: LeafValue): EnvView['voters'] {
  if (!Array.isArray(value) || value.length === 0 || value.length > votersMax) return null;
  const ids = value as readonly unknown[];
  const isGood = (id: unknown): boolean => typeof id === 'string' && hostIdPattern.test(id);
  if (!ids.every(isGood) || new Set(ids).size !== ids.length) return null;
  return (ids as readonly HostId[]).toSorted(compareText);
}

function imageOf(reference: string, value: LeafValue): ImageEntry | null {
  if (!Array.isArray(value)) return null;
  const [manifest, imageId, sizeBytes] = value as readonly unknown[];
  if (typeof manifest !== 'string' || !/^[0-9a-f]{64}$/.test(manifest)) return null;
  if (typeof imageId !== 'string' || typeof sizeBytes !== 'number') return null;
  return { reference, manifest: manifest as Hash, imageId, sizeBytes };
}
