/** Which directories of a host storage may be: the contents are copied, mounted and removed, so mistakes are dear. */

const charsMax = 512;
/** What comes with the system or with us: neither these nor anything below them. */
const reserved = [
  '/bin',
  '/boot',
  '/dev',
  '/etc',
  '/lib',
  '/lib32',
  '/lib64',
  '/libx32',
  '/proc',
  '/run',
  '/sbin',
  '/sys',
  '/usr',
  '/var/lib/containerd',
  '/var/lib/docker',
  '/var/lib/trellis',
  '/var/run',
];
/** Others keep theirs in these; a directory of its own below is fine. */
const shared = [
  '/',
  '/home',
  '/media',
  '/mnt',
  '/opt',
  '/root',
  '/srv',
  '/tmp',
  '/var',
  '/var/cache',
  '/var/lib',
  '/var/log',
  '/var/spool',
];

/** Why it may not be; completes 'path ...'. Null: it may. `more`: directories that are reserved besides. */
export function storagePathProblem(path: string, more: readonly string[] = []): string | null {
  if (!path.startsWith('/')) return 'must be absolute, such as /srv/db';
  if (path.length > charsMax) return `is longer than ${charsMax} characters`;
  if (path !== '/' && !/^(\/[A-Za-z0-9._@+-]+)+$/.test(path))
    return 'must be made of letters, digits and . _ @ + - between single slashes';
  if (path.split('/').some((part) => part === '..' || part === '.'))
    return 'must not hold . or .. as a part';
  if (shared.includes(path)) return `is shared by others: use a directory of its own below ${path}`;
  const holder = [...reserved, ...more].find((one) => isInside(path, one));
  if (holder !== undefined) return `is in ${holder}, which belongs to the system or to us`;
  const held = [...reserved, ...more].find((one) => isInside(one, path));
  return held === undefined ? null : `holds ${held}, which belongs to the system or to us`;
}

/** Is one of them the other, or inside it? */
export function pathsOverlap(a: string, b: string): boolean {
  return isInside(a, b) || isInside(b, a);
}

function isInside(path: string, directory: string): boolean {
  return path === directory || path.startsWith(`${directory}/`);
}
