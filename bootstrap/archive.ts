/**
 * A directory as a .tar.gz whose bytes depend on its contents alone: sorted names, no times, no owners. Every member so
 * serves the same bundle of a version, and a build twice gives the same file.
 */
import { createHash } from 'node:crypto';
import { createReadStream, createWriteStream } from 'node:fs';
import { lstat, open, readdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import { pack, type Pack } from 'tar-stream';

export interface Archive {
  readonly file: string;
  /** Of the archive, lower-case hex. */
  readonly sha256: string;
  readonly sizeBytes: number;
}

interface Entry {
  /** Relative, '/' between parts. */
  readonly name: string;
  readonly isDirectory: boolean;
  readonly isExecutable: boolean;
  readonly sizeBytes: number;
}

/** Written to a draft beside `file` and renamed when complete and on disk. `top` is the one directory inside. */
export async function writeArchive(options: {
  readonly dir: string;
  readonly file: string;
  readonly top: string;
  /** Names directly in `dir` that stay out. */
  readonly exclude?: readonly string[];
}): Promise<Archive> {
  const draft = `${options.file}.${process.pid}.draft`;
  const hash = createHash('sha256');
  let sizeBytes = 0;
  const count = new Transform({
    transform(chunk: Buffer, _encoding, done) {
      hash.update(chunk);
      sizeBytes += chunk.length;
      done(null, chunk);
    },
  });
  const tar = pack();
  try {
    await Promise.all([
      fill(tar, options.dir, options.top, await listEntries(options.dir, options.exclude)),
      pipeline(tar, createGzip({ level: 3 }), count, createWriteStream(draft)),
    ]);
    const handle = await open(draft, 'r+');
    await handle.sync();
    await handle.close();
    await rename(draft, options.file);
  } finally {
    await rm(draft, { force: true });
  }
  return { file: options.file, sha256: hash.digest('hex'), sizeBytes };
}

/** One hash for everything in a directory: names, modes and bytes. */
export async function contentHash(dir: string, exclude: readonly string[] = []): Promise<string> {
  const hash = createHash('sha256');
  for (const entry of await listEntries(dir, exclude)) {
    hash.update(`${entry.name}\0${entry.isDirectory ? 'd' : entry.isExecutable ? 'x' : 'f'}\0`);
    if (!entry.isDirectory) hash.update(await fileHash(path.join(dir, entry.name)));
  }
  return hash.digest('hex');
}

/** sha-256 of a file, lower-case hex. */
export async function fileHash(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}

async function listEntries(dir: string, exclude: readonly string[] = []): Promise<Entry[]> {
  const entries: Entry[] = [];
  const walk = async (below: string): Promise<void> => {
    for (const name of (await readdir(path.join(dir, below))).sort()) {
      if (below === '' && exclude.includes(name)) continue;
      const place = below === '' ? name : `${below}/${name}`;
      const info = await lstat(path.join(dir, place));
      if (!info.isDirectory() && !info.isFile())
        throw new Error(`${place} is neither file nor directory`);
      const isExecutable = (info.mode & 0o100) !== 0;
      entries.push({
        name: place,
        isDirectory: info.isDirectory(),
        isExecutable,
        sizeBytes: info.size,
      });
      if (info.isDirectory()) await walk(place);
    }
  };
  await walk('');
  return entries;
}

const fixed = { mtime: new Date(0), uid: 0, gid: 0, uname: '', gname: '' };

async function fill(tar: Pack, dir: string, top: string, entries: readonly Entry[]): Promise<void> {
  await addEntry(tar, { ...fixed, name: `${top}/`, type: 'directory', mode: 0o755 });
  for (const { name, isDirectory, isExecutable, sizeBytes } of entries) {
    const place = `${top}/${name}`;
    const mode = isDirectory || isExecutable ? 0o755 : 0o644;
    if (isDirectory) await addEntry(tar, { ...fixed, name: `${place}/`, type: 'directory', mode });
    else
      await addFile(
        tar,
        { ...fixed, name: place, type: 'file', mode, size: sizeBytes },
        path.join(dir, name),
      );
  }
  tar.finalize();
}

function addEntry(tar: Pack, header: Parameters<Pack['entry']>[0]): Promise<void> {
  return new Promise((resolve, reject) => {
    tar.entry(header, (error) => (error ? reject(error) : resolve()));
  });
}

/** In pieces: the runtime alone is 120 MB, which a daemon that packs its bundle must not hold at once. */
async function addFile(
  tar: Pack,
  header: Parameters<Pack['entry']>[0],
  file: string,
): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const entry = tar.entry(header, (error) => (error ? reject(error) : resolve()));
    const source = createReadStream(file);
    source.on('error', (error) => entry.destroy(error));
    source.pipe(entry);
  });
}
