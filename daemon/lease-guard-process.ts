/**
 * Starting the guard. It is a process of its own session, so that nothing that happens to the daemon reaches it, and it is
 * never stopped with the daemon: what it holds goes on being held. Its parent is a keeper that starts it again when it is
 * killed, with or without a daemon.
 */
import { spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readdirSync, rmdirSync } from 'node:fs';
import { setPriority } from 'node:os';
import { dirname, join } from 'node:path';
import { reasonOf } from './errors.ts';
import type { HostId } from '../crdt/ids.ts';
import {
  guardArguments,
  guardMallocSettings,
  guardNodeFlags,
  guardRunFiles,
} from './lease/guard-start.ts';
import type { GuardStart } from './lease/guard-start.ts';
import { keeperCommand } from './lease/guard/keeper.ts';
import type { Log } from './ports.ts';
import { privateDirMode, privateFileMode } from './store/durable.ts';

/** Where the service manager would start one by itself, for the daemon that uses the default directories. */
const unitFiles = [
  '/etc/systemd/system/trellis-guard.service',
  '/usr/lib/systemd/system/trellis-guard.service',
];
const unitRunDir = '/run/trellis/guard';

/** systemd runs here and starts the guard by its own unit: then it is not ours to start. */
export function isGuardOfServiceManager(start: GuardStart): boolean {
  return (
    start.runDir === unitRunDir && existsSync('/run/systemd/system') && unitFiles.some(existsSync)
  );
}

/** False in a tree or bundle that has none. */
export function hasGuardProgram(): boolean {
  return existsSync(guardProgram());
}

/** Its socket says whether it lives; `onEnd` is called when its keeper has ended, or could not be started. */
export function startGuard(
  start: GuardStart,
  { log, onEnd }: { readonly log: Log; readonly onEnd: () => void },
): void {
  mkdirSync(start.runDir, { recursive: true, mode: privateDirMode });
  const output = openSync(join(start.runDir, guardRunFiles.log), 'a', privateFileMode);
  try {
    const guard = [process.execPath, ...guardNodeFlags, guardProgram(), ...guardArguments(start)];
    const { program, args } = keeperCommand(start.runDir, guard);
    const child = spawn(program, args, {
      // A session of its own: no terminal's ^C and no end of the daemon's session reaches it.
      detached: true,
      cwd: '/',
      stdio: ['ignore', output, output],
      env: guardEnvironment(),
    });
    log.info('guard.starting', { pid: child.pid });
    child.once('error', (error) => {
      log.error('guard.not-started', { error: error.message });
      onEnd();
    });
    child.once('exit', (code, signal) => {
      log.warn('guard.ended', { pid: child.pid, status: code ?? signal });
      onEnd();
    });
    child.unref();
    hurry(child.pid, log);
  } finally {
    closeSync(output);
  }
}

/**
 * Takes away the gates of a host that is no member any more, in all hierarchies and under either driver's spelling. What is
 * still busy stays: an empty directory does no harm, and a gate with something in it is not ours to open.
 */
export function removeGates(cluster8: string, host: HostId, log: Log): void {
  const pattern = new RegExp(`^trellis-x-${cluster8}-[0-9a-z]+-${host.slice(0, 6)}$`);
  const nameOf = (entry: string): string =>
    entry.replace(/\.slice$/, '').replaceAll(String.raw`\x2d`, '-');
  const tops = [cgroupRoot, ...directoriesIn(cgroupRoot).map((name) => join(cgroupRoot, name))];
  for (const top of tops) {
    for (const name of directoriesIn(top).filter((entry) => pattern.test(nameOf(entry)))) {
      try {
        removeTree(join(top, name));
      } catch (error) {
        log.warn('lease.gate-stays', { gate: name, error: String(error) });
      }
    }
  }
}

const cgroupRoot = '/sys/fs/cgroup';

function directoriesIn(dir: string): string[] {
  if (!existsSync(dir)) return [];
  const entries = readdirSync(dir, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

function removeTree(dir: string): void {
  for (const name of directoriesIn(dir)) removeTree(join(dir, name));
  rmdirSync(dir);
}

/**
 * Loading takes five times as long on a busy host, and a guard that is started again has a second. What the keeper starts
 * inherits it; the guard does this itself later.
 */
function hurry(pid: number | undefined, log: Log): void {
  if (pid === undefined) return;
  try {
    setPriority(pid, -20);
  } catch (error) {
    log.warn('guard.priority', { error: reasonOf(error) });
  }
}

/** Beside the daemon's single file in a bundle, from the sources in development. */
function guardProgram(): string {
  const here = import.meta.filename;
  return here.endsWith('.ts')
    ? join(dirname(here), 'lease', 'guard', 'main.ts')
    : join(dirname(here), 'guard.mjs');
}

function guardEnvironment(): NodeJS.ProcessEnv {
  const kept = ['PATH', 'TRELLIS_BOOT_ID_PATH', 'DOCKER_HOST', 'NODE_COMPILE_CACHE'];
  const values = kept.flatMap((name) => {
    const value = process.env[name];
    return value === undefined ? [] : [[name, value] as const];
  });
  return { ...guardMallocSettings, ...Object.fromEntries(values) };
}
