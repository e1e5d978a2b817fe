/**
 * What a local network of hosts has on this machine, written down before it is made, so that a later run can remove
 * what a killed run left: exactly that and nothing else.
 */
import { createHash } from 'node:crypto';
import {
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
  existsSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { isRunning, killProcess, type ProcessId } from './process-id.ts';

export interface RunRecord {
  readonly v: 1;
  readonly name: string;
  /** Everything on disk is below it. */
  readonly dir: string;
  /** The run that must end it; null: stays until somebody takes it down (`trellis dev up`). */
  readonly owner: ProcessId | null;
  readonly processes: readonly ProcessId[];
  /** Names below every cgroup controller, see cgroupName. */
  readonly cgroups: readonly string[];
  /** What reopens the hosts. */
  readonly hosts: readonly HostRecord[];
  readonly switchPid: number | null;
}

export interface HostRecord {
  readonly index: number;
  readonly name: string;
  readonly ip: string;
  /** As seen from the machine; null while powered off. */
  readonly initPid: number | null;
}

/** Directory of all runs; root's alone. */
export function runsDir(): string {
  return process.env['TRELLIS_LOCAL_DIR'] ?? '/var/tmp/trellis-local';
}

/** Of one host, below every controller; differs for equal names in different places. */
export function cgroupName(lanDir: string, host: string): string {
  const place = createHash('sha256').update(lanDir).digest('hex').slice(0, 4);
  return `tb-${basename(lanDir)}-${place}-${host}`;
}

export function writeRecord(record: RunRecord): void {
  const file = join(record.dir, 'record.json');
  writeFileSync(`${file}.new`, JSON.stringify(record), { mode: 0o600, flush: true });
  renameSync(`${file}.new`, file);
}

/** Null when there is none or it cannot be read. */
export function readRecord(dir: string): RunRecord | null {
  try {
    const record = JSON.parse(readFileSync(join(dir, 'record.json'), 'utf8')) as RunRecord;
    return record.v === 1 && record.dir === dir ? record : null;
  } catch (error) {
    if (error instanceof SyntaxError || (error as NodeJS.ErrnoException).code === 'ENOENT')
      return null;
    throw error;
  }
}

export function allRecords(): RunRecord[] {
  if (!existsSync(runsDir())) return [];
  return readdirSync(runsDir())
    .map((name) => readRecord(join(runsDir(), name)))
    .filter((record) => record !== null);
}

/** Runs whose owner is gone. Those without an owner are meant to stay. */
export function abandonedRecords(): RunRecord[] {
  return allRecords().filter((record) => record.owner !== null && !isRunning(record.owner));
}

/**
 * Kills the processes and removes the directory and cgroups of a record. Mounts need no care: they live in the mount
 * namespaces of the killed processes. Waits at most 10 s for the kernel to let go.
 */
export async function removeRun(record: RunRecord): Promise<void> {
  killRun(record);
  const deadline = Date.now() + 10_000;
  for (;;) {
    try {
      for (const cgroup of cgroupsOfRun(record)) removeCgroup(cgroup);
      rmSync(record.dir, { recursive: true, force: true });
      return;
    } catch (error) {
      // Busy until the last process of the namespaces is reaped.
      if (Date.now() > deadline) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

/** Only the killing, synchronous: what an exit handler can do. */
export function killRun(record: RunRecord): void {
  for (const id of record.processes) killProcess(id);
  for (const cgroup of cgroupsOfRun(record)) thawCgroup(cgroup);
}

function cgroupsOfRun({ cgroups, hosts, dir }: RunRecord): string[] {
  return [...cgroups, ...hosts.flatMap(({ name }) => gatesOf(join(dir, name)))];
}

/**
 * Gates of exclusive work of one host, in the machine's own tree of cgroups: all hosts share it, and the end of the host's
 * id in the name tells them apart. `dir`: of the host, on the machine.
 */
export function gatesOf(dir: string): string[] {
  const idFile = join(dir, 'upper', 'var', 'lib', 'trellis', 'host.id');
  const host = existsSync(idFile) ? readFileSync(idFile, 'utf8').slice(0, 6) : '';
  // Never a member, or not any more: then it has given them back.
  if (!/^[0-9a-f]{6}$/.test(host)) return [];
  const pattern = new RegExp(`^trellis-x-[0-9a-f]{8}-[0-9a-z]+-${host}$`);
  const base = '/sys/fs/cgroup';
  const names = [base, ...readdirSync(base).map((controller) => join(base, controller))]
    .filter((root) => statSync(root).isDirectory())
    .flatMap((root) => readdirSync(root));
  return [...new Set(names)].filter((name) => pattern.test(name));
}

/** Version 1 lists controllers as directories; version 2 is one tree. Both are covered by looking one level down. */
function cgroupDirs(name: string): string[] {
  const base = '/sys/fs/cgroup';
  const roots = [base, ...readdirSync(base).map((controller) => join(base, controller))];
  return roots.map((root) => join(root, name)).filter((dir) => existsSync(dir));
}

/** A frozen process does not die of SIGKILL before it is thawed (cgroup v1). */
export function thawCgroup(name: string): void {
  for (const dir of cgroupDirs(name)) {
    forEachDirBelow(dir, (path) => {
      const state = join(path, 'freezer.state');
      if (existsSync(state)) writeFileSync(state, 'THAWED');
    });
  }
}

export function removeCgroup(name: string): void {
  for (const dir of cgroupDirs(name)) forEachDirBelow(dir, (path) => rmdirSync(path));
}

/** Deepest first, the directory itself last. */
function forEachDirBelow(dir: string, visit: (path: string) => void): void {
  for (const entry of readdirSync(dir, { withFileTypes: true })) {
    if (entry.isDirectory()) forEachDirBelow(join(dir, entry.name), visit);
  }
  visit(dir);
}
