/**
 * What `apply` writes: a three-way comparison of the file, the environment as it is, and the environment as the last
 * apply of the same source left it.
 *
 * - Only fields that differ are written; applying a file twice writes nothing the second time.
 * - A field that differs and was changed elsewhere since the last apply is stale, and then nothing is written at all,
 *   unless `overwrite`. Where this source was never applied there is no "since", and the file's fields are written.
 * - An object belongs to the source that made it; there a field that the file leaves out goes back to its default.
 *   In an object of another file only the fields that this file names are written, and it stays the other's.
 *   Objects that a command made are taken over by the first file that names them. `overwrite` takes over all.
 * - Objects of this source that the file no longer names are kept and listed, and go only with `prune`.
 * - What commands set (`isEnabled`, `restarts`) is no file's business.
 */
import { compareText } from './codec.ts';
import type { DesiredFile } from './desired-file.ts';
import type { ObjectId } from './ids.ts';
import type { LeafSource } from './leaf-source.ts';
import type { Edit, LeafPut, LeafReader, LeafValue } from './leaves.ts';
import type { EnvView } from './model.ts';
import { freeNumber, isServiceNumber } from './numbers.ts';
import { equalLeaves, pointerOf } from './pointer.ts';
import { isFileLeaf, objectKinds, objectsOf, readers } from './object-kinds.ts';
import type { ObjectKind } from './object-kinds.ts';
import { commandSource, isProblem, roleToLeaves, serviceToLeaves } from './service-leaves.ts';
import { storageToLeaves } from './storage-leaves.ts';

export interface ApplyInputs {
  readonly file: DesiredFile;
  /** What the objects of this file carry; by custom the file's name. */
  readonly source: string;
  readonly current: { readonly view: EnvView; readonly reader: LeafSource };
  /** The environment right after the newest edit with this source; null: never applied. */
  readonly lastApplied: LeafReader | null;
  readonly options: { readonly prune: boolean; readonly overwrite: boolean };
  /** A fresh id at every call. */
  readonly newId: () => ObjectId;
}

export interface ApplyResult {
  /** Nothing to write when anything is stale. */
  readonly edit: Edit;
  readonly summary: readonly ChangeSummary[];
  readonly stale: readonly StaleField[];
}

export interface ChangeSummary {
  /** `absent`: of this source, no longer in the file, kept because `prune` was not given. */
  readonly kind: 'create' | 'update' | 'delete' | 'absent';
  readonly object: ObjectKind;
  readonly name: string;
  readonly fields: readonly FieldChange[];
}

export interface FieldChange {
  readonly pointer: string;
  readonly from: LeafValue;
  readonly to: LeafValue;
}

export interface StaleField {
  readonly object: ObjectKind;
  readonly name: string;
  /** '/deleted' when the object would go and was changed meanwhile. */
  readonly pointer: string;
  /** As the last apply left it, as it is, and as the file wants it. */
  readonly applied: LeafValue;
  readonly current: LeafValue;
  readonly wanted: LeafValue;
}

export function applyEdits(inputs: ApplyInputs): ApplyResult {
  const work = new Application(inputs);
  for (const role of inputs.file.roles) work.write('role', role.name, roleToLeaves(role));
  for (const service of inputs.file.services)
    work.write('service', service.name, serviceToLeaves(service));
  for (const storage of inputs.file.storage ?? [])
    work.write('storage', storage.name, storageToLeaves(storage));
  work.removeAbsent();
  work.allocateNumbers();
  return work.result();
}

/** What `apply --prune --overwrite` would change: the difference between file and environment, for `trellis diff`. */
export function diffFile(
  inputs: Pick<ApplyInputs, 'file' | 'source' | 'current'>,
): readonly ChangeSummary[] {
  // Differences are of content: who owns an object is not one.
  return applyEdits({
    ...inputs,
    lastApplied: null,
    options: { prune: true, overwrite: true },
    newId: () => '' as ObjectId,
  }).summary.filter(
    ({ kind, fields }) => kind !== 'update' || fields.some((field) => field.pointer !== '/source'),
  );
}

class Application {
  readonly #inputs: ApplyInputs;
  readonly #puts: LeafPut[] = [];
  readonly #summary: ChangeSummary[] = [];
  readonly #stale: StaleField[] = [];
  readonly #names = {
    role: new Set<string>(),
    service: new Set<string>(),
    storage: new Set<string>(),
  };

  constructor(inputs: ApplyInputs) {
    this.#inputs = inputs;
  }

  write(kind: ObjectKind, name: string, wanted: Map<string, LeafValue>): void {
    this.#names[kind].add(name);
    wanted.set('/source', this.#inputs.source);
    const id = this.#find(kind, name);
    if (id === null) this.#create(kind, name, wanted);
    else this.#update(kind, name, id, wanted);
  }

  removeAbsent(): void {
    const { view } = this.#inputs.current;
    const all = objectKinds.flatMap((kind) =>
      [...objectsOf(view, kind).values()].map((object) => ({ kind, object })),
    );
    for (const { kind, object } of all) {
      if (object.source !== this.#inputs.source || this.#names[kind].has(object.name)) continue;
      if (this.#inputs.options.prune) this.#delete(kind, object.name, object.id);
      else this.#summary.push({ kind: 'absent', object: kind, name: object.name, fields: [] });
    }
  }

  /** Numbers are for good: a port keeps the one it has, also when it went and came back. */
  allocateNumbers(): void {
    const { view, reader } = this.#inputs.current;
    const taken = new Set(view.numbers.values());
    const wanted = new Set<string>();
    for (const service of this.#inputs.file.services) {
      for (const port of service.ports ?? []) {
        const key = `${service.name}/${port.name}`;
        wanted.add(key);
        const pointer = pointerOf('numbers', service.name, port.name);
        const recorded = reader.leaf('settings', pointer);
        const number = this.#numberFor(key, recorded, taken);
        if (number === null) continue;
        taken.add(number);
        if (number !== recorded) this.#puts.push({ object: 'settings', pointer, value: number });
      }
    }
    this.#freeNumbers(wanted);
  }

  result(): ApplyResult {
    const isRefused = this.#stale.length > 0;
    const counted = { create: 0, update: 0, delete: 0, absent: 0 };
    for (const { kind } of this.#summary) counted[kind] += 1;
    const edit: Edit = {
      message: `apply ${this.#inputs.source}: ${counted.create} created, ${counted.update} changed, ${counted.delete} removed`,
      source: this.#inputs.source,
      puts: isRefused ? [] : this.#puts,
    };
    return { edit, summary: this.#summary, stale: this.#stale };
  }

  /** Also finds an object that cannot be read: the file then repairs it. */
  #find(kind: ObjectKind, name: string): ObjectId | null {
    const { view, reader } = this.#inputs.current;
    const known = objectsOf(view, kind).get(name);
    if (known !== undefined) return known.id;
    const indexed = reader.leaf('names', pointerOf(kind, name));
    if (typeof indexed !== 'string') return null;
    const leaves = reader.leaves(indexed as ObjectId);
    const isLive =
      leaves.get('/kind') === kind &&
      leaves.get('/deleted') !== true &&
      leaves.get('/name') === name;
    return isLive ? (indexed as ObjectId) : null;
  }

  #create(kind: ObjectKind, name: string, wanted: ReadonlyMap<string, LeafValue>): void {
    const object = this.#inputs.newId();
    const fields: FieldChange[] = [];
    for (const [pointer, value] of wanted) {
      this.#puts.push({ object, pointer, value });
      if (isFileLeaf(kind, pointer)) fields.push({ pointer, from: null, to: value });
    }
    this.#puts.push({ object: 'names', pointer: pointerOf(kind, name), value: object });
    this.#summary.push({ kind: 'create', object: kind, name, fields });
  }

  #update(kind: ObjectKind, name: string, id: ObjectId, wanted: Map<string, LeafValue>): void {
    const { current, lastApplied, options, source } = this.#inputs;
    const now = current.reader.leaves(id);
    const applied = lastApplied?.leaves(id) ?? null;
    const owner = now.get('/source') ?? null;
    const isOurs =
      owner === source ||
      owner === commandSource ||
      owner === null ||
      owner === '' ||
      options.overwrite;
    if (!isOurs) wanted.delete('/source');
    const isSame = meansTheSame(kind, now, { wanted, isWhole: isOurs });
    const fields: FieldChange[] = [];
    for (const pointer of pointersToCompare(kind, wanted, isOurs ? now : null)) {
      const to = wanted.get(pointer) ?? null;
      const from = now.get(pointer) ?? null;
      const isFileField = isFileLeaf(kind, pointer);
      if (equalLeaves(from, to) || (isFileField && isSame)) continue;
      const was = applied?.get(pointer) ?? null;
      if (isFileField && applied !== null && !equalLeaves(from, was) && !options.overwrite) {
        this.#stale.push({ object: kind, name, pointer, applied: was, current: from, wanted: to });
      }
      fields.push({ pointer, from, to });
      this.#puts.push({ object: id, pointer, value: to });
    }
    // The index may still name a loser of two twins, or nothing.
    const index = pointerOf(kind, name);
    if (fields.length > 0 && current.reader.leaf('names', index) !== id) {
      this.#puts.push({ object: 'names', pointer: index, value: id });
    }
    if (fields.length > 0) this.#summary.push({ kind: 'update', object: kind, name, fields });
  }

  #delete(kind: ObjectKind, name: string, id: ObjectId): void {
    const { current, lastApplied, options } = this.#inputs;
    const now = current.reader.leaves(id);
    const applied = lastApplied?.leaves(id) ?? null;
    const pointers = new Set([...now.keys(), ...(applied?.keys() ?? [])]);
    const isChanged = [...pointers].some(
      (pointer) =>
        isFileLeaf(kind, pointer) &&
        !equalLeaves(now.get(pointer) ?? null, applied?.get(pointer) ?? null),
    );
    if (applied !== null && isChanged && !options.overwrite) {
      this.#stale.push({
        object: kind,
        name,
        pointer: '/deleted',
        applied: null,
        current: null,
        wanted: true,
      });
    }
    this.#puts.push({ object: id, pointer: '/deleted', value: true });
    this.#puts.push({ object: 'names', pointer: pointerOf(kind, name), value: null });
    this.#summary.push({
      kind: 'delete',
      object: kind,
      name,
      fields: [{ pointer: '/deleted', from: null, to: true }],
    });
  }

  #numberFor(key: string, recorded: LeafValue, taken: ReadonlySet<number>): number | null {
    const inUse = this.#inputs.current.view.numbers.get(key);
    if (inUse !== undefined) return inUse;
    if (isServiceNumber(recorded) && !taken.has(recorded)) return recorded;
    return freeNumber(key, taken);
  }

  /** Of ports that this edit takes away. */
  #freeNumbers(wanted: ReadonlySet<string>): void {
    const { view, reader } = this.#inputs.current;
    for (const change of this.#summary) {
      if (change.object !== 'service' || change.kind === 'create' || change.kind === 'absent')
        continue;
      for (const port of view.services.get(change.name)?.ports ?? []) {
        const isGone =
          change.kind === 'delete' ||
          change.fields.some(
            ({ pointer, to }) =>
              to === null && pointer === pointerOf('ports', port.name, 'container'),
          );
        const pointer = pointerOf('numbers', change.name, port.name);
        if (!isGone || wanted.has(`${change.name}/${port.name}`)) continue;
        if (reader.leaf('settings', pointer) !== null)
          this.#puts.push({ object: 'settings', pointer, value: null });
      }
    }
  }
}

/** True when the object reads the same after the edit: then a default that is written out, or left out, is no change. */
function meansTheSame(
  kind: ObjectKind,
  now: ReadonlyMap<string, LeafValue>,
  file: { readonly wanted: ReadonlyMap<string, LeafValue>; readonly isWhole: boolean },
): boolean {
  const after = new Map(now);
  if (file.isWhole)
    for (const pointer of now.keys()) if (isFileLeaf(kind, pointer)) after.delete(pointer);
  for (const [pointer, value] of file.wanted) after.set(pointer, value);
  const read = readers[kind];
  const before = read('' as ObjectId, now);
  return (
    !isProblem(before) &&
    JSON.stringify({ ...before, source: '' }) ===
      JSON.stringify({ ...read('' as ObjectId, after), source: '' })
  );
}

/** What the file names, and, in an object of its own, what it could have named and does not. Sorted. */
function pointersToCompare(
  kind: ObjectKind,
  wanted: ReadonlyMap<string, LeafValue>,
  now: ReadonlyMap<string, LeafValue> | null,
): string[] {
  const pointers = new Set(wanted.keys());
  for (const pointer of now?.keys() ?? []) if (isFileLeaf(kind, pointer)) pointers.add(pointer);
  return [...pointers].toSorted(compareText);
}
