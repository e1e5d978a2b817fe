/**
 * The bundle that a member hands to joining hosts: the archive it was installed from, else packed again from what
 * is installed, or built when the daemon runs from a clone. Made on the first request and kept in a cache directory; at most one version is kept.
 */
import { existsSync } from 'node:fs';
import { mkdir, readFile, readdir, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { contentHash, fileHash, writeArchive, type Archive } from './archive.ts';

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
  readonly #home: string;
  #made: Promise<ServedBundle> | null = null;

  /** `home`: where the bundle is unpacked; the default is right in a bundle, and in a clone it names none. */
  constructor(cacheDir: string, home = path.dirname(import.meta.dirname)) {
    this.#cacheDir = cacheDir;
    this.#home = home;
  }

  /**
   * File behind /bundle/<name>, null when there is none: `trellis-linux-<arch>.tar.gz` and the same with `.sha256`.
   * Rejects when there is no room or a clone lacks its build tools; the next call tries again.
   */
  async file(name: string): Promise<string | null> {
    const served = `trellis-linux-${process.arch}.tar.gz`;
    if (name === served) return (await this.bundle()).file;
    return name === `${served}.sha256` ? sumFile((await this.bundle()).file) : null;
  }

  bundle(): Promise<ServedBundle> {
    this.#made ??= this.#make().catch((error: unknown) => {
      this.#made = null;
      throw error;
    });
    return this.#made;
  }

  async #make(): Promise<ServedBundle> {
    await mkdir(this.#cacheDir, { recursive: true });
    const aboutFile = path.join(this.#home, 'bundle.json');
    const made = existsSync(aboutFile)
      ? await this.#installed(JSON.parse(await readFile(aboutFile, 'utf8')) as About)
      : await this.#build();
    const draft = `${sumFile(made.file)}.${process.pid}`;
    await writeFile(draft, `${made.sha256}  trellis-linux-${made.arch}.tar.gz\n`);
    await rename(draft, sumFile(made.file));
    return made;
  }

  async #build(): Promise<ServedBundle> {
    await this.#clear(null);
    const { buildBundle } = await import('./build.ts');
    return buildBundle(this.#cacheDir);
  }

  /** What this host was installed from: kept beside it, else packed again, since an archive depends on contents alone. */
  async #installed({ version, arch, content }: About): Promise<ServedBundle> {
    const kept = path.join(this.#home, keptArchive);
    if (existsSync(kept)) {
      await this.#clear(null);
      const link = path.join(this.#cacheDir, `trellis-${version}.tar.gz`);
      await symlink(kept, link);
      return {
        file: link,
        sha256: await fileHash(kept),
        sizeBytes: (await stat(kept)).size,
        version,
        arch,
      };
    }
    const file = path.join(this.#cacheDir, `trellis-${version}-${content.slice(0, 16)}.tar.gz`);
    await this.#clear(path.basename(file));
    const sum = await readFile(sumFile(file), 'utf8').catch(() => null);
    if (sum !== null && existsSync(file)) {
      const sha256 = sum.split(' ')[0] ?? '';
      return { file, sha256, sizeBytes: (await stat(file)).size, version, arch };
    }
    const found = await contentHash(this.#home, [...installedExtras, 'bundle.json']);
    if (found !== content) {
      throw new Error(
        `the installed files in ${this.#home} were changed; install the bundle again`,
      );
    }
    const packed = await writeArchive({
      dir: this.#home,
      file,
      top: 'trellis',
      exclude: installedExtras,
    });
    return { ...packed, version, arch };
  }

  async #clear(keep: string | null): Promise<void> {
    for (const name of await readdir(this.#cacheDir)) {
      const isOurs = /^trellis-.*\.tar\.gz/.test(name);
      const isKept = keep !== null && (name === keep || name === sumFile(keep));
      if (isOurs && !isKept) await rm(path.join(this.#cacheDir, name), { force: true });
    }
  }
}

function sumFile(file: string): string {
  return `${file}.sha256`;
}

/** What appears beside an installed bundle: the archive it came from, and compiled code. */
const keptArchive = 'bundle.tar.gz';
const installedExtras = [keptArchive, 'cache'];
