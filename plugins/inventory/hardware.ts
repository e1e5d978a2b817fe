/** Processors, memory, disks and file systems. */
import os from 'node:os';
import path from 'node:path';
import type { InventoryFact } from '../../crdt/model.ts';
import { namesIn, noteGap, roomOf, textOf, withinMs, type Source } from './source.ts';

const filesystemsMax = 32;
const disksMax = 64;
const sectorBytes = 512;

/** Kinds that hold data of this machine: network ones are left out because asking them may block. */
const localKinds = new Set([
  'ext2',
  'ext3',
  'ext4',
  'xfs',
  'btrfs',
  'zfs',
  'f2fs',
  'bcachefs',
  'jfs',
  'reiserfs',
]);

export async function readCpu(source: Source): Promise<InventoryFact['cpu']> {
  const info = (await textOf(source, 'proc/cpuinfo', true)) ?? '';
  const count = [...info.matchAll(/^processor\s*:/gm)].length;
  const model = /^(?:model name|Model|Hardware)\s*:\s*(.+)$/m.exec(info)?.[1]?.trim() ?? '';
  const detail = source.root === '/' ? await packagedCpu(source) : null;
  return {
    count: Math.max(1, count),
    physicalCores: detail?.physicalCores ?? null,
    model: model || detail?.model || 'unknown',
    architecture: os.arch(),
  };
}

/** Cores behind the threads, and the model where /proc/cpuinfo has none (many ARM boards): systeminformation is right here. */
async function packagedCpu(
  source: Source,
): Promise<{ physicalCores: number; model: string } | null> {
  try {
    const { cpu } = await import('systeminformation');
    const { manufacturer, brand, physicalCores } = await withinMs(2_000, cpu(), 'cpu');
    return { physicalCores, model: `${manufacturer} ${brand}`.trim() };
  } catch (error) {
    noteGap(source, 'cpu', error);
    return null;
  }
}

export async function readMemory(source: Source): Promise<InventoryFact['memory']> {
  const text = (await textOf(source, 'proc/meminfo', true)) ?? '';
  const bytes = (name: string): number => {
    const found = new RegExp(`^${name}:\\s*(\\d+) kB`, 'm').exec(text);
    return found === null ? 0 : Number(found[1]) * 1024;
  };
  return {
    totalBytes: bytes('MemTotal'),
    availableBytes: bytes('MemAvailable'),
    swapBytes: bytes('SwapTotal'),
  };
}

export async function readDisks(source: Source): Promise<InventoryFact['disks']> {
  const names = await namesIn(source, 'sys/block');
  const disks = names
    .filter((name) => !/^(loop|ram|zram|dm-|md|sr|fd|nbd)/.test(name))
    .slice(0, disksMax)
    .map(async (name) => {
      const dir = path.join('sys/block', name);
      const sectors = Number((await textOf(source, path.join(dir, 'size'))) ?? 0);
      return {
        name,
        sizeBytes: sectors * sectorBytes,
        model: ((await textOf(source, path.join(dir, 'device/model'))) ?? '').trim(),
        isRotational: (await textOf(source, path.join(dir, 'queue/rotational')))?.trim() === '1',
      };
    });
  return (await Promise.all(disks)).filter(({ sizeBytes }) => sizeBytes > 0);
}

export async function readFilesystems(source: Source): Promise<InventoryFact['filesystems']> {
  const mounts = await readMounts(source);
  const seen = new Set<string>();
  const local = mounts.filter(({ device, mount, type }) => {
    const isLocal = localKinds.has(type) || (mount === '/' && type === 'overlay');
    // Bind mounts show one device many times; the first is where it is mounted.
    if (!isLocal || seen.has(device)) return false;
    seen.add(device);
    return true;
  });
  const withRoom = local.slice(0, filesystemsMax).map(async ({ mount, type }) => {
    const room = await roomOf(source, mount);
    return room === null ? null : { mount, type, ...room };
  });
  const found = (await Promise.all(withRoom)).filter((entry) => entry !== null);
  return found.sort((a, b) => (a.mount < b.mount ? -1 : 1));
}

/** The file system that holds `dir`, which may not exist yet. */
export async function readStateDisk(
  source: Source,
  dir: string,
): Promise<InventoryFact['stateDisk']> {
  const mounts = await readMounts(source);
  const holder = mounts
    .map(({ mount }) => mount)
    .filter((mount) => mount === '/' || dir === mount || dir.startsWith(`${mount}/`))
    .reduce((longest, mount) => (mount.length > longest.length ? mount : longest), '/');
  const room = await roomOf(source, holder);
  return room === null ? null : { mount: holder, ...room };
}

interface Mount {
  readonly device: string;
  readonly mount: string;
  readonly type: string;
}

async function readMounts(source: Source): Promise<readonly Mount[]> {
  const text = (await textOf(source, 'proc/self/mounts', true)) ?? '';
  const mounts: Mount[] = [];
  for (const line of text.split('\n')) {
    const [device, mount, type] = line.split(' ');
    if (device === undefined || mount === undefined || type === undefined) continue;
    // Spaces and the like are written as octal escapes.
    const plain = mount.replaceAll(/\\(\d{3})/g, (_, digits: string) =>
      String.fromCharCode(Number.parseInt(digits, 8)),
    );
    mounts.push({ device, mount: plain, type });
  }
  return mounts;
}
