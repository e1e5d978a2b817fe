/**
 * Where one storage keeps what, and the moves between those places. Everything lies in one directory beside the storage's
 * own path, so that a move is a rename on one file system:
 *
 *   /srv/db                      what the workload sees; an empty stand-in on a host that only keeps a copy
 *   /srv/.db.trellis/state.json  what this host has, see `StorageState`
 *   /srv/.db.trellis/copy        the last complete copy of the active host's
 *   /srv/.db.trellis/next        a copy in the making
 *   /srv/.db.trellis/snapshot    on the active host: one moment of what never rests, see `snapshot.ts`
 *   /srv/.db.trellis/aside-E     what this host had when another became active without taking it over; the newest two stay
 */
import { mkdir, readFile, readdir, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { writeFileAtomic } from './files.ts';

export interface StorageState {
  readonly v: 1;
  readonly id: string;
  /**
   * `none`: never active here and no copy. `active`: the path is the original of `epoch`. `copy`: there is a complete copy
   * of version `version` of `epoch`. `promoting`: the copy is on its way to the path; finished at the next look.
   */
  readonly role: 'none' | 'active' | 'copy' | 'promoting';
  readonly epoch: number;
  readonly version: number;
  /** Newest that this host has ever heard of: a copy older than this is stale even when nobody else answers. */
  readonly knownEpoch: number;
  readonly knownVersion: number;
  /** Of the path when `version` was counted; '' when not known. See `scan.ts`. */
  readonly fingerprint: string;
  /** What an active one began its epoch with. */
  readonly from: { readonly epoch: number; readonly version: number } | null;
}

export function freshState(id: string): StorageState {
  return {
    v: 1,
    id,
    role: 'none',
    epoch: 0,
    version: 0,
    knownEpoch: 0,
    knownVersion: 0,
    fingerprint: '',
    from: null,
  };
}

const asideMax = 2;

export class Layout {
  readonly path: string;
  readonly #work: string;
  readonly #id: string;

  constructor(path: string, id: string) {
    this.path = path;
    this.#work = join(dirname(path), `.${basename(path)}.trellis`);
    this.#id = id;
  }

  get copy(): string {
    return join(this.#work, 'copy');
  }

  get next(): string {
    return join(this.#work, 'next');
  }

  get snapshot(): string {
    return join(this.#work, 'snapshot');
  }

  /** Makes what is missing and finishes what a crash left half done. */
  async open(): Promise<StorageState> {
    await mkdir(this.#work, { recursive: true, mode: 0o700 });
    const state = await this.#read();
    await mkdir(this.path, { recursive: true, mode: 0o700 });
    // A pass that was broken off may have read files half written, and nothing tells which.
    for (const half of [this.next, this.snapshot]) await rm(half, { recursive: true, force: true });
    return state.role === 'promoting' ? await this.#finishPromotion(state) : state;
  }

  async write(state: StorageState): Promise<void> {
    await writeFileAtomic(join(this.#work, 'state.json'), `${JSON.stringify(state)}\n`);
  }

  /** The path becomes the original of `epoch`; what was in the way is set aside unless it is an empty stand-in. */
  async promote(state: StorageState, epoch: number): Promise<StorageState> {
    if (state.role !== 'copy') {
      const active: StorageState = { ...state, role: 'active', ...newest(state, epoch) };
      await this.write(active);
      return active;
    }
    const promoting: StorageState = { ...state, role: 'promoting', ...newest(state, epoch) };
    await this.write(promoting);
    return await this.#finishPromotion(promoting);
  }

  async #finishPromotion(state: StorageState): Promise<StorageState> {
    if (await isThere(this.copy)) {
      await this.setAside(`before-${state.epoch}`);
      await rm(this.path, { recursive: true, force: true });
      await rename(this.copy, this.path);
    }
    const active: StorageState = { ...state, role: 'active' };
    await this.write(active);
    return active;
  }

  /**
   * Another host is active now. `isTakenOver`: it has every byte of ours, which makes ours the first copy; otherwise ours
   * may hold what nobody else has, and is set aside.
   */
  async demote(state: StorageState, isTakenOver: boolean): Promise<StorageState> {
    if (isTakenOver) {
      await rm(this.copy, { recursive: true, force: true });
      await rename(this.path, this.copy);
      await mkdir(this.path, { mode: 0o700 });
    } else {
      await this.setAside(String(state.epoch));
    }
    const after: StorageState = { ...state, role: isTakenOver ? 'copy' : 'none' };
    await this.write(after);
    return after;
  }

  /** The finished `next` becomes the copy. Whatever the crash, one of the two is complete and `state` says which. */
  async adoptNext(
    state: StorageState,
    of: { epoch: number; version: number },
  ): Promise<StorageState> {
    const old = join(this.#work, 'old');
    await rm(old, { recursive: true, force: true });
    // Between the two renames there is no copy: the state says so first.
    await this.write({ ...state, role: 'none' });
    if (await isThere(this.copy)) await rename(this.copy, old);
    await rename(this.next, this.copy);
    const after: StorageState = {
      ...state,
      ...of,
      role: 'copy',
      fingerprint: '',
      from: null,
      knownEpoch: Math.max(state.knownEpoch, of.epoch),
      knownVersion: newestVersion(state, of),
    };
    await this.write(after);
    await rm(old, { recursive: true, force: true });
    return after;
  }

  /** What the next copy can take unchanged files from. */
  async basis(): Promise<string | null> {
    if (await isThere(this.copy)) return this.copy;
    return (await this.#asides())[0] ?? null;
  }

  /** Moves the path away when there is anything in it; an empty one takes its place. */
  async setAside(name: string): Promise<string | null> {
    await mkdir(this.path, { recursive: true, mode: 0o700 });
    if ((await readdir(this.path)).length === 0) return null;
    const place = join(this.#work, `aside-${name}`);
    await rm(place, { recursive: true, force: true });
    await rename(this.path, place);
    await mkdir(this.path, { mode: 0o700 });
    for (const old of (await this.#asides()).slice(asideMax))
      await rm(old, { recursive: true, force: true });
    return place;
  }

  /** Copies and state go; the storage's own content stays where it is. */
  async purge(): Promise<void> {
    await rm(this.#work, { recursive: true, force: true });
  }

  /** Newest first. */
  async #asides(): Promise<readonly string[]> {
    const names = (await readdir(this.#work)).filter((name) => name.startsWith('aside-'));
    const found = await Promise.all(
      names.map(async (name) => {
        const path = join(this.#work, name);
        return { path, atMs: (await stat(path)).ctimeMs };
      }),
    );
    return found.toSorted((a, b) => b.atMs - a.atMs).map(({ path }) => path);
  }

  async #read(): Promise<StorageState> {
    let text: string;
    try {
      text = await readFile(join(this.#work, 'state.json'), 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      return freshState(this.#id);
    }
    const state = parseState(text);
    if (state !== null && state.id === this.#id) return state;
    // A storage made anew under an old path begins with what was active here; a stand-in's or unknown content is set aside.
    if (state?.role !== 'active')
      await this.setAside(`other-${state?.id.slice(0, 8) ?? 'unreadable'}`);
    return freshState(this.#id);
  }
}

/** The state of a promotion under `epoch`: versions begin anew with it. */
function newest(state: StorageState, epoch: number): Omit<StorageState, 'v' | 'id' | 'role'> {
  return {
    epoch,
    version: 0,
    fingerprint: '',
    from: { epoch: state.epoch, version: state.version },
    knownEpoch: Math.max(state.knownEpoch, epoch),
    knownVersion: state.knownEpoch > epoch ? state.knownVersion : 0,
  };
}

function newestVersion(state: StorageState, of: { epoch: number; version: number }): number {
  if (of.epoch > state.knownEpoch) return of.version;
  return of.epoch === state.knownEpoch
    ? Math.max(of.version, state.knownVersion)
    : state.knownVersion;
}

function parseState(text: string): StorageState | null {
  try {
    const raw = JSON.parse(text) as Partial<StorageState> | null;
    const isNumber = (value: unknown): boolean => Number.isSafeInteger(value);
    const isWhole =
      raw?.v === 1 &&
      typeof raw.id === 'string' &&
      ['none', 'active', 'copy', 'promoting'].includes(String(raw.role)) &&
      typeof raw.fingerprint === 'string' &&
      (raw.from === null || [raw.from?.epoch, raw.from?.version].every(isNumber)) &&
      [raw.epoch, raw.version, raw.knownEpoch, raw.knownVersion].every(isNumber);
    return isWhole ? (raw as StorageState) : null;
  } catch {
    // Not JSON: treated as unknown, and the content is set aside rather than trusted.
    return null;
  }
}

async function isThere(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return false;
    throw error;
  }
}
