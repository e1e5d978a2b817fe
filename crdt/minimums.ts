/**
 * What a host must have at least, in one place: the installer prints these numbers into its script, `trellis doctor`
 * compares an inventory with them. Pure, so that both say the same.
 */
import type { InventoryFact } from './model.ts';

export interface Minimums {
  readonly cpuCount: number;
  readonly memoryBytes: number;
  /** Free, where the state directory is. */
  readonly diskFreeBytes: number;
  /** 'major.minor'. */
  readonly kernel: string;
  /** 'major.minor' of the container engine. */
  readonly engine: string;
}

export const hostMinimums: Minimums = Object.freeze({
  cpuCount: 1,
  // What a machine sold as 512 MB shows after the kernel took its share.
  memoryBytes: 440 << 20,
  diskFreeBytes: 2 ** 30,
  // The oldest kernel of a still maintained distribution with overlayfs and the packet filter matches we use.
  kernel: '4.19',
  // API 1.41: platform-aware create and one-shot statistics.
  engine: '20.10',
});

export interface Shortfall {
  readonly what: 'cpu' | 'memory' | 'disk' | 'kernel' | 'engine';
  readonly have: string;
  readonly need: string;
  /** One line for people: 'memory: have 256 MiB, need at least 440 MiB'. */
  readonly text: string;
}

/** Every shortfall at once, in a fixed order; [] when the host will do. */
export function shortfalls(
  inventory: InventoryFact,
  minimums: Minimums = hostMinimums,
): readonly Shortfall[] {
  const { cpu, memory, stateDisk, kernel, engine } = inventory;
  const found: (Shortfall | null)[] = [
    cpu.count < minimums.cpuCount
      ? lacking('cpu', String(cpu.count), String(minimums.cpuCount))
      : null,
    memory.totalBytes < minimums.memoryBytes
      ? lacking('memory', mebibytes(memory.totalBytes), mebibytes(minimums.memoryBytes))
      : null,
    stateDisk !== null && stateDisk.freeBytes < minimums.diskFreeBytes
      ? lacking(
          'disk',
          `${mebibytes(stateDisk.freeBytes)} free at ${stateDisk.mount}`,
          mebibytes(minimums.diskFreeBytes),
        )
      : null,
    isOlder(kernel.release, minimums.kernel)
      ? lacking('kernel', kernel.release, minimums.kernel)
      : null,
    engineShortfall(engine, minimums.engine),
  ];
  return found.filter((shortfall) => shortfall !== null);
}

function engineShortfall(engine: InventoryFact['engine'], minimum: string): Shortfall | null {
  if (engine.state === 'absent') return lacking('engine', `none at ${engine.endpoint}`, minimum);
  if (engine.state === 'hung')
    return lacking('engine', `one that does not answer at ${engine.endpoint}`, minimum);
  if (engine.version !== null && isOlder(engine.version, minimum))
    return lacking('engine', engine.version, minimum);
  return null;
}

function lacking(what: Shortfall['what'], have: string, need: string): Shortfall {
  return { what, have, need, text: `${what}: have ${have}, need at least ${need}` };
}

/** Compares 'major.minor' and ignores what follows; a version that cannot be read is not called older. */
export function isOlder(version: string, minimum: string): boolean {
  const have = /^(\d+)\.(\d+)/.exec(version);
  const need = /^(\d+)\.(\d+)/.exec(minimum);
  if (have === null || need === null) return false;
  const [haveMajor, haveMinor] = [Number(have[1]), Number(have[2])];
  const [needMajor, needMinor] = [Number(need[1]), Number(need[2])];
  return haveMajor < needMajor || (haveMajor === needMajor && haveMinor < needMinor);
}

function mebibytes(bytes: number): string {
  return `${Math.floor(bytes / 2 ** 20)} MiB`;
}
