/** Kernel, operating system, identity of boot and installation, privileges, load. */
import { constants } from 'node:fs';
import { access } from 'node:fs/promises';
import os from 'node:os';
import type { InventoryFact } from '../../crdt/model.ts';
import { textOf, type Source } from './source.ts';

export async function readKernel(source: Source): Promise<InventoryFact['kernel']> {
  const release = (await textOf(source, 'proc/sys/kernel/osrelease')) ?? os.release();
  const mounts = (await textOf(source, 'proc/self/mounts')) ?? '';
  // A machine may show an empty v2 hierarchy beside v1 controllers; what carries the memory controller is what counts.
  const hasV1 = /^\S+ \S+ cgroup \S*\bmemory\b/m.test(mounts);
  const hasV2 = /^\S+ \S+ cgroup2 /m.test(mounts);
  return { release: release.trim(), cgroup: hasV1 ? 'v1' : hasV2 ? 'v2' : 'none' };
}

export async function readOs(source: Source): Promise<InventoryFact['os']> {
  const text =
    (await textOf(source, 'etc/os-release')) ??
    (await textOf(source, 'usr/lib/os-release', true)) ??
    '';
  const value = (key: string): string | undefined =>
    new RegExp(`^${key}=(?:"([^"]*)"|'([^']*)'|(.*))$`, 'm')
      .exec(text)
      ?.slice(1)
      .find((part) => part !== undefined);
  const id = value('ID') ?? os.platform();
  const version = value('VERSION_ID') ?? '';
  return { id, version, name: value('PRETTY_NAME') ?? `${id} ${version}`.trim() };
}

export async function readHostname(source: Source): Promise<string> {
  if (source.root === '/') return os.hostname();
  return ((await textOf(source, 'etc/hostname')) ?? '').trim() || 'unknown';
}

/**
 * `bootIdPath` replaces the kernel's own file: hosts that share a kernel, as in a testbed, would otherwise never seem to
 * reboot.
 */
export async function readBootId(source: Source, bootIdPath: string | null): Promise<string> {
  const text =
    bootIdPath === null
      ? await textOf(source, 'proc/sys/kernel/random/boot_id', true)
      : await textOf({ root: '/', gaps: source.gaps }, bootIdPath, true);
  return (text ?? '').trim() || 'unknown';
}

export async function readMachineId(source: Source): Promise<string | null> {
  return ((await textOf(source, 'etc/machine-id')) ?? '').trim() || null;
}

const capNetAdminBit = 12n;

export async function readPrivileges(
  source: Source,
  engineSocket: string | null,
): Promise<InventoryFact['privileges']> {
  const uid = process.getuid?.() ?? -1;
  const status = (await textOf(source, 'proc/self/status')) ?? '';
  const effective = BigInt(`0x${/^CapEff:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0'}`);
  return {
    uid,
    isRoot: uid === 0,
    isNetAdmin: ((effective >> capNetAdminBit) & 1n) === 1n,
    mayUseEngine: uid === 0 || (engineSocket !== null && (await isWritable(engineSocket))),
  };
}

async function isWritable(file: string): Promise<boolean> {
  return access(file, constants.R_OK | constants.W_OK).then(
    () => true,
    () => false,
  );
}

export async function readLoad(source: Source): Promise<InventoryFact['load']> {
  const [one = 0, five = 0, fifteen = 0] = ((await textOf(source, 'proc/loadavg')) ?? '')
    .split(' ')
    .map(Number);
  return [one || 0, five || 0, fifteen || 0];
}
