// What tests and engines need from the system: the one list, and how it is installed on Debian.
import { spawnSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import path from 'node:path';
import { fail, say } from './setup.mjs';

/** Debian package, and how to see that it (or an equal of another vendor) is there. */
export const testPackages = [
  { name: 'docker.io', has: () => onPath('dockerd') && onPath('docker') },
  { name: 'iptables', has: () => onPath('iptables') },
  { name: 'iproute2', has: () => onPath('ip') },
  // The tests' images are made of it, so it must need no shared library.
  { name: 'busybox-static', has: () => isStatic(which('busybox')) },
  { name: 'conntrack', has: () => onPath('conntrack') },
  { name: 'curl', has: () => onPath('curl') },
  { name: 'rsync', has: () => onPath('rsync') },
  // A real database for tests of storage, which run it in containers of their own.
  { name: 'postgresql', has: () => hasPostgres('/usr/lib/postgresql') },
  // The line for machines without curl.
  { name: 'openssl', has: () => onPath('openssl') },
  { name: 'ca-certificates', has: () => existsSync('/etc/ssl/certs/ca-certificates.crt') },
  { name: 'nftables', has: () => onPath('nft') },
  { name: 'ebtables', has: () => onPath('ebtables') },
  { name: 'procps', has: () => onPath('ps') },
  { name: 'util-linux', has: () => onPath('nsenter') && onPath('unshare') },
  // The lease protocol's models are searched by a program that Spin writes in C.
  { name: 'spin', has: () => onPath('spin') },
  { name: 'gcc', has: () => onPath('gcc') },
  { name: 'libc6-dev', has: () => existsSync('/usr/include/stdio.h') },
];

/** Besides those: what the emulated guest of the full end-to-end tests is made and run with. */
export const guestPackages = [
  { name: 'qemu-system-x86', has: () => onPath('qemu-system-x86_64') },
  { name: 'mmdebstrap', has: () => onPath('mmdebstrap') },
  { name: 'e2fsprogs', has: () => onPath('mke2fs') },
];

export const enginePackages = testPackages.filter(({ name }) =>
  ['docker.io', 'iptables'].includes(name),
);

/** Names of the packages of `list` that are not there. */
export function missingPackages(list) {
  return list.filter(({ has }) => !has()).map(({ name }) => name);
}

/** Installs what is missing when this is root on Debian; otherwise ends with a message that names it. */
export function needPackages(list, purpose) {
  const missing = missingPackages(list);
  if (missing.length === 0) return;
  const names = missing.join(' ');
  if (!onPath('apt-get')) {
    fail(
      `${purpose} need what the Debian packages ${names} provide; install them and run it again`,
    );
  }
  if (process.getuid?.() !== 0) {
    fail(
      `${purpose} need the Debian packages ${names}; install them with: sudo apt-get install ${names}`,
    );
  }
  say(`installing Debian packages for ${purpose}: ${names}`);
  installPackages(missing);
  const still = missingPackages(list);
  if (still.length > 0)
    fail(`still missing after the installation: ${still.join(' ')}; install them and run it again`);
}

/** Root on Debian only. Ends with a message when apt-get fails. */
export function installPackages(names) {
  apt(['update', '-qq'], 'refresh the package lists');
  withoutCluster(names, () =>
    apt(
      ['install', '-y', '-qq', '--no-install-recommends', ...names],
      `install ${names.join(' ')}`,
    ),
  );
}

/**
 * Debian's postgresql makes a database of the machine's own and starts it, unless a setting says otherwise. It does for as
 * long as `install` runs; what the machine decides for itself before and after stays as it is.
 */
export function withoutCluster(names, install, dir = '/etc/postgresql-common/createcluster.d') {
  const file = path.join(dir, 'trellis-tests.conf');
  if (!names.includes('postgresql')) return install();
  mkdirSync(dir, { recursive: true });
  writeFileSync(
    file,
    '# While tests of Trellis install what they need.\ncreate_main_cluster = false\n',
  );
  const remove = () => rmSync(file, { force: true });
  // An installation that fails ends the process.
  process.once('exit', remove);
  try {
    return install();
  } finally {
    remove();
    process.off('exit', remove);
  }
}

function apt(options, what) {
  // A service that a package starts by itself would be the machine's, not ours; policy-rc.d is left alone all the same:
  // what the administrator decided there holds.
  const done = spawnSync('apt-get', ['-o', 'DPkg::Lock::Timeout=120', ...options], {
    stdio: ['ignore', 2, 2],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  });
  if (done.status !== 0)
    fail(
      `apt-get could not ${what} (${done.status ?? done.error?.message}); the lines above say why`,
    );
}

/** Full path of a command, looking in the system directories too, which a user's PATH may lack; null if absent. */
function which(command) {
  const dirs = [
    ...(process.env['PATH'] ?? '').split(path.delimiter),
    '/usr/local/sbin',
    '/usr/sbin',
    '/sbin',
  ];
  for (const dir of dirs) {
    const file = path.join(dir, command);
    if (dir !== '' && existsSync(file)) return file;
  }
  return null;
}

export function onPath(command) {
  return which(command) !== null;
}

/** The server, not only a client. */
function hasPostgres(dir) {
  return (
    existsSync(dir) &&
    readdirSync(dir).some((version) => existsSync(path.join(dir, version, 'bin', 'postgres')))
  );
}

/** An ELF file without an interpreter: the name of the dynamic loader stands in the first page. */
function isStatic(file) {
  if (file === null) return false;
  const page = Buffer.alloc(4096);
  const handle = openSync(file, 'r');
  try {
    readSync(handle, page, 0, page.length, 0);
  } finally {
    closeSync(handle);
  }
  return !page.includes('/ld-');
}
