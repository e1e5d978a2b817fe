/** The document as an edit would leave it, without writing: what `--dry-run` and `plan -f` look at. */
import type { ObjectId } from '../../crdt/ids.ts';
import type { LeafOwner, LeafSource } from '../../crdt/leaf-source.ts';
import type { LeafPut, LeafReader, LeafValue } from '../../crdt/leaves.ts';
import type { EnvView } from '../../crdt/model.ts';

/** `view` tells which objects there are. */
export function overlay(base: LeafReader, view: EnvView, puts: readonly LeafPut[]): LeafSource {
  const changed = new Map<LeafOwner, Map<string, LeafValue>>();
  for (const put of puts) {
    const leaves = changed.get(put.object) ?? new Map<string, LeafValue>();
    changed.set(put.object, leaves.set(put.pointer, put.value));
  }
  const ids = new Set<ObjectId>();
  for (const { id } of view.services.values()) ids.add(id);
  for (const { id } of view.roles.values()) ids.add(id);
  for (const { id } of view.storage.values()) ids.add(id);
  for (const { object } of view.problems) if (object !== null) ids.add(object);
  for (const owner of changed.keys()) if (owner !== 'names' && owner !== 'settings') ids.add(owner);
  return {
    objectIds: () => ids,
    leaf: (object, pointer) => {
      const put = changed.get(object);
      return put?.has(pointer) === true ? (put.get(pointer) ?? null) : base.leaf(object, pointer);
    },
    leaves: (object) => {
      const merged = new Map(base.leaves(object));
      for (const [pointer, value] of changed.get(object) ?? []) {
        if (value === null) merged.delete(pointer);
        else merged.set(pointer, value);
      }
      return merged;
    },
  };
}
