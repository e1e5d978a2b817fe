/**
 * The guest's system: Debian 12 with systemd and an engine, its kernel, and an initrd that needs no tool of the guest. Made
 * once from packages (about two minutes) and kept in the temporary directory under the hash of this file and of Node.
 */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import {
  access,
  chmod,
  cp,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

const packages = [
  'systemd',
  'systemd-sysv',
  'dbus',
  'docker.io',
  'busybox-static',
  'kmod',
  'libstdc++6',
];
const kernelPackage = 'linux-image-cloud-amd64';
/** What lies between the kernel and its first disk. */
const bootModules = [
  'virtio_ring',
  'virtio',
  'virtio_pci_modern_dev',
  'virtio_pci_legacy_dev',
  'virtio_pci',
  'virtio_blk',
  'overlay',
];
const diskMb = 1_200;

export interface GuestSystem {
  readonly kernel: string;
  readonly initrd: string;
  readonly disk: string;
}

export async function guestSystem(): Promise<GuestSystem> {
  const recipe = await readFile(import.meta.filename);
  const key = createHash('sha256')
    .update(recipe)
    .update(process.version)
    .digest('hex')
    .slice(0, 12);
  const dir = path.join(os.tmpdir(), `trellis-guest-${key}`);
  const system = {
    kernel: path.join(dir, 'vmlinuz'),
    initrd: path.join(dir, 'initrd'),
    disk: path.join(dir, 'disk.img'),
  };
  if (await isThere(system.disk)) return system;
  const building = await mkdtemp(`${dir}-`);
  try {
    await buildSystem(building);
    await rename(building, dir).catch(async (error: unknown) => {
      // Somebody else was faster: theirs is as good.
      if (!(await isThere(system.disk))) throw error;
    });
  } finally {
    await rm(building, { recursive: true, force: true });
  }
  return system;
}

async function buildSystem(dir: string): Promise<void> {
  const tree = path.join(dir, 'root');
  const fetchKernel =
    `chroot "$1" sh -c 'cd /var/tmp && apt-get download ` +
    `$(apt-cache depends ${kernelPackage} | sed -n "s/^ *Depends: linux-image/linux-image/p")'`;
  await run(
    'nice',
    [
      '-n',
      '10',
      'mmdebstrap',
      '--mode=root',
      '--variant=minbase',
      `--include=${packages.join(',')}`,
      '--aptopt=Apt::Install-Recommends "false"',
      ...['doc', 'man', 'locale', 'info'].map(
        (name) => `--dpkgopt=path-exclude=/usr/share/${name}/*`,
      ),
      `--customize-hook=${fetchKernel}`,
      'bookworm',
      tree,
    ],
    { maxBuffer: 32 << 20 },
  );
  const kernel = await unpackKernel(tree, dir);
  await makeInitrd(tree, kernel, dir);
  await configure(tree);
  await makeDisk(tree, path.join(dir, 'disk.img'), diskMb);
  for (const name of ['root', 'kernel', 'initrd-root']) {
    await rm(path.join(dir, name), { recursive: true, force: true });
  }
}

async function unpackKernel(tree: string, dir: string): Promise<string> {
  const downloads = path.join(tree, 'var/tmp');
  const deb = (await readdir(downloads)).find((name) => name.endsWith('.deb'));
  if (deb === undefined) throw new Error('the kernel package was not downloaded');
  const kernel = path.join(dir, 'kernel');
  await run('dpkg-deb', ['-x', path.join(downloads, deb), kernel]);
  await rm(path.join(downloads, deb));
  const image = (await readdir(path.join(kernel, 'boot'))).find((name) =>
    name.startsWith('vmlinuz'),
  );
  if (image === undefined) throw new Error('the kernel package holds no kernel');
  await cp(path.join(kernel, 'boot', image), path.join(dir, 'vmlinuz'));
  return kernel;
}

/** Loads the modules, mounts both disks and hands over to systemd. */
async function makeInitrd(tree: string, kernel: string, dir: string): Promise<void> {
  const initrd = path.join(dir, 'initrd-root');
  for (const name of ['bin', 'modules', 'proc', 'sys', 'dev', 'root']) {
    await mkdir(path.join(initrd, name), { recursive: true });
  }
  const busybox = path.join(initrd, 'bin/busybox');
  await cp(path.join(tree, 'bin/busybox'), busybox);
  await symlink('busybox', path.join(initrd, 'bin/sh'));
  for (const name of bootModules) {
    const { stdout } = await run('find', [kernel, '-name', `${name}.ko`]);
    await cp(stdout.trim(), path.join(initrd, 'modules', `${name}.ko`));
  }
  const lines = [
    '#!/bin/sh',
    'B=/bin/busybox',
    '$B mount -t devtmpfs dev /dev',
    ...bootModules.map((name) => `$B insmod /modules/${name}.ko`),
    'while [ ! -b /dev/vdb ]; do $B usleep 10000; done',
    '$B mount -t ext4 -o noatime /dev/vda /root',
    '$B mount -t ext4 -o ro /dev/vdb /root/opt/trellis',
    '$B mount -o move /dev /root/dev',
    'exec $B switch_root /root /sbin/init',
  ];
  await writeFile(path.join(initrd, 'init'), `${lines.join('\n')}\n`);
  await chmod(path.join(initrd, 'init'), 0o755);
  await run('sh', ['-c', 'find . | busybox cpio -o -H newc | gzip -1 > ../initrd'], {
    cwd: initrd,
  });
}

async function configure(tree: string): Promise<void> {
  const put = async (name: string, text: string) => {
    await mkdir(path.dirname(path.join(tree, name)), { recursive: true });
    await writeFile(path.join(tree, name), text);
  };
  await mkdir(path.join(tree, 'opt/trellis'), { recursive: true });
  await cp(process.execPath, path.join(tree, 'usr/local/bin/node'));
  // Neither network nor packets: what is shown here is about processes.
  await put('etc/docker/daemon.json', '{"bridge":"none","iptables":false,"ip-forward":false}\n');
  await put('etc/hostname', 'guest\n');
  await put('etc/fstab', '');
  await put(
    'etc/systemd/system/proof.service',
    [
      '[Unit]',
      'After=docker.service',
      'Requires=docker.service',
      '[Service]',
      'Type=oneshot',
      'ExecStart=/usr/local/bin/node /opt/trellis/test/testbed/v2-guest-proof.mjs',
      'ExecStopPost=/bin/systemctl poweroff --force --force',
      'StandardOutput=file:/dev/ttyS0',
      'StandardError=file:/dev/ttyS0',
      '',
    ].join('\n'),
  );
  const wants = path.join(tree, 'etc/systemd/system/basic.target.wants');
  await mkdir(wants, { recursive: true });
  // Started as early as may be: the guest has nothing else to do.
  await put(
    'etc/systemd/system/proof.target',
    '[Unit]\nRequires=basic.target proof.service\nAfter=basic.target\n',
  );
  await symlink(
    '/etc/systemd/system/proof.target',
    path.join(tree, 'etc/systemd/system/default.target'),
  );
  for (const unit of [
    'systemd-update-utmp',
    'systemd-random-seed',
    'systemd-journal-flush',
    'systemd-logind',
  ]) {
    await symlink('/dev/null', path.join(tree, `etc/systemd/system/${unit}.service`)).catch(
      ignoreExisting,
    );
  }
}

function ignoreExisting(error: unknown): void {
  if (!(error instanceof Error && 'code' in error && error.code === 'EEXIST')) throw error;
}

/** An ext4 image of a directory, made without mounting anything. */
export async function makeDisk(tree: string, file: string, megabytes: number): Promise<void> {
  await run('mke2fs', [
    '-q',
    '-t',
    'ext4',
    '-O',
    '^has_journal',
    '-d',
    tree,
    file,
    `${megabytes}M`,
  ]);
}

async function isThere(file: string): Promise<boolean> {
  return access(file, constants.R_OK).then(
    () => true,
    () => false,
  );
}
