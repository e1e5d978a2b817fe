/**
 * The unix socket. Node has no peer credentials: who may open the file is the authorisation. Mode 660, group `trellis` when
 * there is one; the mode is there from the first moment, because the file is made under a narrow umask.
 */
import { chownSync, lstatSync, mkdirSync, readFileSync, unlinkSync } from 'node:fs';
import type { Server } from 'node:http';
import { createConnection } from 'node:net';
import { dirname } from 'node:path';
import { ClusterError, reasonOf } from '../errors.ts';
import { isCode } from '../trust/secret-file.ts';

const probeTimeoutMs = 1_000;
const group = 'trellis';

/** Fails with SOCKET_IN_USE when another daemon answers there, or the path is not ours to use. */
export async function listenOnSocket(server: Server, path: string): Promise<void> {
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  await removeStale(path);
  await new Promise<void>((resolve, reject) => {
    const fail = (error: unknown): void =>
      reject(new ClusterError('SOCKET_IN_USE', { socket: path, reason: reasonOf(error) }, error));
    server.once('error', fail);
    // The file is made inside this call, synchronously: nothing else in the process is touched by the umask.
    const umask = process.umask(0o117);
    try {
      server.listen(path, () => {
        server.off('error', fail);
        resolve();
      });
    } finally {
      process.umask(umask);
    }
  });
  giveToGroup(path);
}

async function removeStale(path: string): Promise<void> {
  try {
    if (!lstatSync(path).isSocket()) {
      throw new ClusterError('SOCKET_IN_USE', {
        socket: path,
        reason: 'a file that is no socket is there',
      });
    }
  } catch (error) {
    if (isCode(error, 'ENOENT')) return;
    throw error;
  }
  if (await answers(path))
    throw new ClusterError('SOCKET_IN_USE', { socket: path, reason: 'a daemon answers there' });
  unlinkSync(path);
}

/** A daemon that does not take a connection within a second is alive but stuck: also in use. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createConnection(path);
    const done = (isAnswering: boolean): void => {
      probe.destroy();
      resolve(isAnswering);
    };
    probe.setTimeout(probeTimeoutMs, () => done(true));
    probe.on('connect', () => done(true));
    probe.on('error', (error) => done(!isCode(error, 'ECONNREFUSED') && !isCode(error, 'ENOENT')));
  });
}

function giveToGroup(path: string): void {
  const gid = groupId();
  if (gid === null || process.getuid?.() !== 0) return;
  chownSync(path, 0, gid);
}

function groupId(): number | null {
  let groups: string;
  try {
    groups = readFileSync('/etc/group', 'utf8');
  } catch (error) {
    if (isCode(error, 'ENOENT')) return null;
    throw error;
  }
  const id = new RegExp(`^${group}:[^:]*:(\\d+):`, 'm').exec(groups)?.[1];
  return id === undefined ? null : Number(id);
}
