/** Files of this plugin and the one file of the host that it shares with others. */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { chmod, chown, mkdir, open, readFile, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Null when there is none. */
export async function readText(path: string): Promise<string | null> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return null;
    throw error;
  }
}

/** Temporary file, fsync, rename. */
export async function writeAtomic(path: string, text: string, mode: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const temporary = `${path}.new`;
  await writeSynced(temporary, text, mode);
  await rename(temporary, path);
}

/**
 * Replaces a file that others own too: same mode, same owner, atomically where the file system lets us. In a container
 * /etc/hosts is a bind mount that nothing can be renamed over (EBUSY): then it is rewritten in place.
 */
export async function replaceShared(path: string, text: string): Promise<void> {
  // A symbolic link stays one: its target is replaced.
  const real = await realpath(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return path;
    throw error;
  });
  const old = await stat(real).catch(() => null);
  // Daemons may share a machine, and so this file: each its own name.
  const temporary = `${real}.${randomBytes(4).toString('hex')}.trellis-new`;
  try {
    await writeSynced(temporary, text, (old?.mode ?? 0o644) & 0o7777);
    if (old) await chown(temporary, old.uid, old.gid);
    await rename(temporary, real);
  } catch (error) {
    await rm(temporary, { force: true });
    const code = (error as NodeJS.ErrnoException).code ?? '';
    if (old === null || !['EBUSY', 'EXDEV', 'EACCES', 'EPERM', 'EROFS'].includes(code)) throw error;
    await rewriteInPlace(real, text);
  }
}

async function writeSynced(path: string, text: string, mode: number): Promise<void> {
  const file = await open(path, 'w', mode);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  // The process's umask may have taken bits away, and an older file keeps its own mode.
  await chmod(path, mode);
}

async function rewriteInPlace(path: string, text: string): Promise<void> {
  const file = await open(path, constants.O_WRONLY);
  try {
    const bytes = Buffer.from(text);
    await file.write(bytes, 0, bytes.length, 0);
    await file.truncate(bytes.length);
    await file.sync();
  } finally {
    await file.close();
  }
}
