/**
 * The bundle that a member hands to joining hosts: packed again from where it was installed, or built when the daemon
 * runs from a clone. Made on the first request and kept in a cache directory; at most one version is kept.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { contentHash, writeArchive, type Archive } from './archive.ts';

export interface ServedBundle extends Archive {
  /** 'x64' or 'arm64': hosts of another architecture need a bundle from a member of theirs. */
  readonly arch: string;
  readonly version: string;
}

interface About {
  readonly version: string;
  readonly arch: string;
  readonly content: string;
}

/** Calls at the same time share one build. `cacheDir` is this daemon's alone. */
export class BundleSource {
  readonly #cacheDir: string;
  #made: Promise<ServedBundle> | null = null;

  constructor(cacheDir: string) {
    this.#cacheDir = cacheDir;
  }

  /** Rejects when there is no room or a clone lacks its build tools; the next call tries again. */
  bundle(): Promise<ServedBundle> {
    this.#made ??= this.#make().catch((error: unknown) => {
      this.#made = null;
      throw error;
    });
    return this.#made;
  }

  async #make(): Promise<ServedBundle> {
    await mkdir(this.#cacheDir, { recursive: true });
    const home = path.dirname(import.meta.dirname);
    const aboutFile = path.join(home, 'bundle.json');
    if (!existsSync(aboutFile)) return this.#build();
    const about = JSON.parse(await readFile(aboutFile, 'utf8')) as About;
    return this.#repack(home, about);
  }

  async #build(): Promise<ServedBundle> {
    await this.#clear(null);
    const { buildBundle } = await import('./build.ts');
    return buildBundle(this.#cacheDir);
  }

  /** The same bytes that this host was installed from, since an archive depends on contents alone. */
  async #repack(home: string, about: About): Promise<ServedBundle> {
    const { version, arch } = about;
    const key = `${about.content.slice(0, 16)}`;
    const file = path.join(this.#cacheDir, `trellis-${version}-${key}.tar.gz`);
    await this.#clear(path.basename(file));
    const known = await readFile(`${file}.sha256`, 'utf8').catch(() => null);
    if (known !== null && existsSync(file)) {
      const { size } = await stat(file);
      return { file, sha256: known.trim(), sizeBytes: size, version, arch };
    }
    const found = await contentHash(home, [...installedExtras, 'bundle.json']);
    if (found !== about.content)
      throw new Error(`the installed files in ${home} were changed; install the bundle again`);
    const archive = await writeArchive({
      dir: home,
      file,
      top: 'trellis',
      exclude: installedExtras,
    });
    await writeFile(`${file}.sha256`, `${archive.sha256}\n`);
    return { ...archive, version, arch };
  }

  async #clear(keep: string | null): Promise<void> {
    for (const name of await readdir(this.#cacheDir)) {
      const isOurs = /^trellis-.*\.tar\.gz/.test(name);
      const isKept = keep !== null && (name === keep || name === `${keep}.sha256`);
      if (isOurs && !isKept) await rm(path.join(this.#cacheDir, name), { force: true });
    }
  }
}

/** What appears beside an installed bundle in use. */
const installedExtras = ['cache'];
