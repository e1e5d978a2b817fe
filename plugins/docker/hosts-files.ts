/**
 * One hosts file per instance, mounted on its /etc/hosts: localhost, the instance itself, and every service of the
 * environment under its name. Rewritten in place when names change, because a mounted single file follows the inode and
 * not the name: a replaced file would never be seen inside.
 */
import { rmSync } from 'node:fs';
import { mkdir, open, readFile, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { DesiredView } from '../api.ts';

/** A file that somebody else changed is put right after this. */
const trustMs = 30_000;
const instancePattern = /^[a-z0-9][a-z0-9._-]{0,199}$/;

export class HostsFiles {
  readonly #dir: string;
  /** What was written or found last, and when: most reconciles change no name and should read no file. */
  readonly #known = new Map<string, { text: string; atMs: number }>();

  constructor(stateDir: string) {
    this.#dir = join(stateDir, 'hosts');
  }

  pathOf(instance: string): string {
    if (!instancePattern.test(instance)) throw new Error(`'${instance}' cannot name a directory`);
    return join(this.#dir, instance, 'hosts');
  }

  /** Returns whether the content differed. */
  async write(instance: string, text: string): Promise<boolean> {
    const path = this.pathOf(instance);
    const known = this.#known.get(instance);
    if (known?.text === text && performance.now() - known.atMs < trustMs) return false;
    this.#known.delete(instance);
    const before = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return null;
      throw error;
    });
    if (before === text) {
      this.#known.set(instance, { text, atMs: performance.now() });
      return false;
    }
    // Readable inside by users that the image chooses.
    if (before === null) await mkdir(join(this.#dir, instance), { recursive: true, mode: 0o755 });
    const file = await open(path, before === null ? 'w' : 'r+', 0o644);
    try {
      // One write and then the cut, so that a reader in between sees names and at worst an old tail, never an empty file.
      const bytes = Buffer.from(text);
      await file.write(bytes, 0, bytes.length, 0);
      await file.truncate(bytes.length);
      await file.chmod(0o644);
      await file.sync();
    } finally {
      await file.close();
    }
    this.#known.set(instance, { text, atMs: performance.now() });
    return true;
  }

  /** Something went wrong that a missing file would explain: read them all again. */
  doubt(): void {
    this.#known.clear();
  }

  /**
   * Removes the files of instances that `isNeeded` denies. It is asked at the moment of removal, and the removal is
   * synchronous, so that an instance that is wanted again meanwhile cannot lose its new file.
   */
  async keepOnly(isNeeded: (instance: string) => boolean): Promise<void> {
    const names = await readdir(this.#dir).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return [];
      throw error;
    });
    for (const name of names) {
      if (isNeeded(name)) continue;
      this.#known.delete(name);
      rmSync(join(this.#dir, name), { recursive: true, force: true });
    }
  }
}

export function hostsText(
  view: Pick<DesiredView, 'routes' | 'virtualAddress'>,
  self: { hostname: string; address: string },
): string {
  const lines = [
    '127.0.0.1\tlocalhost',
    '::1\tlocalhost ip6-localhost ip6-loopback',
    `${self.address}\t${self.hostname}`,
    ...view.routes.map((route) => `${view.virtualAddress}\t${route.name}`).toSorted(),
  ];
  return `${lines.join('\n')}\n`;
}
